"""ptrace(2): stopping threads, and reading and writing their registers.

The only module that imports python-ptrace, whose licence is GPL-2.0-only.
It brings the binding; the requests that it lacks (PTRACE_SEIZE and later) are
made through the same function.

All of it has to be called from the thread of this process that seized the target.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import ptrace.binding.func as binding

from jupyter_cr.errors import (
    AlreadyTraced,
    CheckpointRestoreError,
    EngineError,
    NoSuchProcess,
    PermissionDenied,
)
from jupyter_cr.tracer.arch.x86_64 import Registers
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.status import Status, read_status
from jupyter_cr.tracer.proc.tasks import list_threads

__all__ = [
    "EXITKILL",
    "Ended",
    "RseqConfiguration",
    "Stop",
    "Tracee",
    "dead_threads_reaped",
    "poll_for",
    "reap_ended",
    "seize",
    "wait_any",
    "wait_for",
]

_CONT, _DETACH, _SYSCALL = 7, 17, 24
_SETOPTIONS, _GETSIGINFO, _SETSIGINFO = 0x4200, 0x4202, 0x4203
_GETREGSET, _SETREGSET = 0x4204, 0x4205
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_PEEKSIGINFO, _GETSIGMASK, _SETSIGMASK = 0x4209, 0x420A, 0x420B
_GET_RSEQ_CONFIGURATION = 0x420F
_NT_PRSTATUS, _NT_X86_XSTATE = 1, 0x202
_PEEKSIGINFO_SHARED = 1
_EVENT_STOP = 128
_WALL = 0x40000000

# If the tracer dies at a system call stop, Linux sends the thread the signal that the
# stop is shown as: SIGTRAP, which kills. With this option it is none that exists.
_TRACESYSGOOD = 1
_SYSCALL_STOP = signal.SIGTRAP | 0x80

EXITKILL = 0x100000
"""PTRACE_O_EXITKILL: the tracee dies with its tracer."""

_ptrace = binding._ptrace


def _request(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    result = ctypes.c_long(_ptrace(request, tid, address, data)).value
    if result == -1 and (code := ctypes.get_errno()):
        raise OSError(code, os.strerror(code), f"ptrace({request:#x}) of thread {tid}")
    return result


class _IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a thread stopped: `signal` about to be delivered, or a ptrace `event`."""

    signal: int
    event: int

    @property
    def is_event_stop(self) -> bool:
        """PTRACE_INTERRUPT took effect, a new tracee began, or a group-stop."""
        return self.event == _EVENT_STOP

    @property
    def is_group_stop(self) -> bool:
        """The thread's process has been stopped by job control."""
        return self.is_event_stop and self.signal in (
            signal.SIGSTOP,
            signal.SIGTSTP,
            signal.SIGTTIN,
            signal.SIGTTOU,
        )


class Ended(Exception):
    """The tracee ended; `status` as wait(2) gives it, None for a thread whose process
    executes another program."""

    def __init__(self, tid: int, status: int | None) -> None:
        super().__init__(f"thread {tid} ended")
        self.tid = tid
        self.status = status


@dataclass(frozen=True, slots=True)
class RseqConfiguration:
    """A thread's restartable-sequences area (PTRACE_GET_RSEQ_CONFIGURATION)."""

    address: int
    size: int
    signature: int
    flags: int


waits = 0
"""How many times this process has waited for a tracee: each is a stop or an end."""


awaited = 0
"""The tid that this process waits for now without a limit, or did last."""


def wait_for(tid: int) -> Stop:
    """Wait until thread `tid` stops.

    Raises:
        Ended: it ended instead, and has been reaped.
    """
    global awaited, waits
    waits += 1
    awaited = tid
    return _as_stop(tid, *_waitpid(tid, _WALL))


@contextlib.contextmanager
def dead_threads_reaped() -> Iterator[None]:
    """Meanwhile, no wait for the first thread of a process that somebody has killed lasts
    for ever: Linux reports its end only when all other threads have been reaped
    (delay_group_leader), which are the tracer's to reap."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_WATCH_INTERVAL):
            _reap_others(awaited)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


_WATCH_INTERVAL, _REAP_INTERVAL = 0.2, 0.0005


def _reap_others(tid: int) -> None:
    """Reap all other threads of a process whose first thread is dead."""
    with contextlib.suppress(CheckpointRestoreError):
        if tid and read_stat(tid).state == "Z":
            for other in list_threads(tid):
                if other != tid:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(other, _WALL | os.WNOHANG)


def _waitpid(tid: int, options: int) -> tuple[int, int]:
    try:
        return os.waitpid(tid, options)
    except ChildProcessError as error:
        # The tid of a thread that calls execve is gone without a word (ptrace(2)).
        raise Ended(tid, None) from error


def _as_stop(tid: int, _: int, status: int) -> Stop:
    if not os.WIFSTOPPED(status):
        raise Ended(tid, status)
    return Stop(os.WSTOPSIG(status), status >> 16)


def wait_any() -> tuple[int, int]:
    """Wait until something happens to any tracee; its tid, and the wait status."""
    global waits
    waits += 1
    return os.waitpid(-1, _WALL)


def poll_for(tid: int, timeout: float) -> Stop | None:
    """Like `wait_for`, but None when nothing has happened after `timeout` seconds."""
    global waits
    deadline = time.monotonic() + timeout
    pause = 0.00005
    while True:
        pid, status = _waitpid(tid, _WALL | os.WNOHANG)
        if pid:
            waits += 1
            return _as_stop(tid, pid, status)
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.005)


@dataclass(slots=True)
class Tracee:
    """A thread that this process traces. Methods need it stopped, unless they say so.

    Attributes:
        tid: As this process sees it.
        held_back: The siginfo_t of a signal that came in the middle of a batch; it is
            delivered when the thread is let go.
    """

    tid: int
    held_back: bytes | None = None

    def interrupt(self) -> None:
        """Make the running thread stop; `wait_for` it then. Needs it running."""
        _request(_INTERRUPT, self.tid)

    def resume(self) -> None:
        """Let it run with the registers it has."""
        _request(_CONT, self.tid)

    def deliver(self, number: int) -> None:
        """Let it run and get the signal that stopped it."""
        _request(_CONT, self.tid, 0, number)

    def make_call(self) -> int:
        """Let it make the system call that its registers stand before; the result.

        Not by single-stepping: the trap after a step would undo the target's own
        disposition of SIGTRAP (force_sig_fault in Linux's kernel/signal.c).
        """
        for _ in ("entry", "exit"):
            _request(_SYSCALL, self.tid)
            self.wait(_SYSCALL_STOP)
        return self.registers.result

    def wait(self, expected: int) -> Stop:
        """Wait for it to stop with signal `expected`, whatever else happens to it.

        All signals that can be blocked have to be.

        Raises:
            Ended: it ended instead.
        """
        while True:
            stop = wait_for(self.tid)
            if stop.signal == expected and not stop.event:
                return stop
            _request(
                _SYSCALL if expected == _SYSCALL_STOP else _CONT,
                self.tid,
                0,
                0 if stop.event else stop.signal,
            )

    def wait_for_event_stop(self, timeout: float) -> Stop:
        """Wait for PTRACE_EVENT_STOP after `interrupt`. Signals on the way are delivered.

        Raises:
            Ended: it ended instead.
            TimeoutError: nothing for `timeout` seconds: it is in a call that Linux
                does not interrupt.
        """
        deadline = time.monotonic() + timeout
        while True:
            stop = poll_for(self.tid, timeout)
            if stop is None or time.monotonic() > deadline:
                raise TimeoutError(f"thread {self.tid} does not stop")
            if stop.is_event_stop:
                return stop
            self._go_on_to_event_stop(stop)

    def poll_event_stop(self) -> Stop | None:
        """Like `wait_for_event_stop`, but None if it has not happened yet."""
        stop = poll_for(self.tid, 0)
        if stop is None or stop.is_event_stop:
            return stop
        self._go_on_to_event_stop(stop)
        return None

    def _go_on_to_event_stop(self, stop: Stop) -> None:
        # Any stop uses up the interruption (ptrace_stop in Linux's kernel/signal.c).
        self.interrupt()
        self.deliver(0 if stop.event else stop.signal)

    def hold_back(self) -> None:
        """Keep the signal of a signal-delivery-stop for later."""
        buffer = ctypes.create_string_buffer(128)
        _request(_GETSIGINFO, self.tid, 0, ctypes.addressof(buffer))
        self.held_back = buffer.raw

    def detach(self) -> bool:
        """Stop tracing it; whether it goes on. One that has been killed stays ours until
        we reap it."""
        number = 0
        try:
            if self.held_back is not None:
                (number,) = struct.unpack_from("<i", self.held_back)
                info = ctypes.create_string_buffer(self.held_back, 128)
                with contextlib.suppress(OSError):
                    _request(_SETSIGINFO, self.tid, 0, ctypes.addressof(info))
                self.held_back = None
            _request(_DETACH, self.tid, 0, number)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """End its process and reap it, if it is still there. May be called again."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.tid, signal.SIGKILL)
            while not os.waitpid(self.tid, _WALL | os.WNOHANG)[0]:
                _reap_others(self.tid)
                time.sleep(_REAP_INTERVAL)

    def set_options(self, options: int) -> None:
        """PTRACE_SETOPTIONS, those of `seize` being the ones to begin with."""
        _request(_SETOPTIONS, self.tid, 0, options | _TRACESYSGOOD)

    @property
    def registers(self) -> Registers:
        """The general registers."""
        registers = Registers()
        self._regset(_GETREGSET, _NT_PRSTATUS, registers, ctypes.sizeof(registers))
        return registers

    @registers.setter
    def registers(self, registers: Registers) -> None:
        self._regset(_SETREGSET, _NT_PRSTATUS, registers, ctypes.sizeof(registers))

    @property
    def xstate(self) -> bytes:
        """Floating point, vector and other extended state, in XSAVE's standard format."""
        buffer = ctypes.create_string_buffer(_XSTATE_LIMIT)
        length = self._regset(_GETREGSET, _NT_X86_XSTATE, buffer, _XSTATE_LIMIT)
        return buffer.raw[:length]

    @xstate.setter
    def xstate(self, state: bytes) -> None:
        buffer = ctypes.create_string_buffer(state, len(state))
        self._regset(_SETREGSET, _NT_X86_XSTATE, buffer, len(state))

    def _regset(
        self,
        request: int,
        kind: int,
        buffer: ctypes.Structure | ctypes.Array[ctypes.c_char],
        size: int,
    ) -> int:
        vector = _IoVector(ctypes.addressof(buffer), size)
        _request(request, self.tid, kind, ctypes.addressof(vector))
        return int(vector.length)

    @property
    def signal_mask(self) -> int:
        """The blocked signals; bit n - 1 is signal n."""
        mask = ctypes.c_uint64()
        _request(_GETSIGMASK, self.tid, 8, ctypes.addressof(mask))
        return mask.value

    @signal_mask.setter
    def signal_mask(self, mask: int) -> None:
        value = ctypes.c_uint64(mask)
        _request(_SETSIGMASK, self.tid, 8, ctypes.addressof(value))

    def pending_signals(self, *, shared: bool) -> list[bytes]:
        """The queued siginfo_t (128 bytes each), of the process or of the thread."""
        found: list[bytes] = []
        while True:
            arguments = struct.pack(
                "<QIi", len(found), _PEEKSIGINFO_SHARED if shared else 0, 32
            )
            request = ctypes.create_string_buffer(arguments, len(arguments))
            buffer = ctypes.create_string_buffer(128 * 32)
            count = _request(
                _PEEKSIGINFO, self.tid, ctypes.addressof(request), ctypes.addressof(buffer)
            )
            found += [buffer.raw[128 * i : 128 * (i + 1)] for i in range(count)]
            if count < 32:
                return found

    @property
    def rseq(self) -> RseqConfiguration | None:
        """The registered restartable-sequences area, None without one."""
        buffer = ctypes.create_string_buffer(24)
        _request(_GET_RSEQ_CONFIGURATION, self.tid, 24, ctypes.addressof(buffer))
        address, size, signature, flags = struct.unpack_from("<QIII", buffer.raw)
        return RseqConfiguration(address, size, signature, flags) if address else None


_XSTATE_LIMIT = 16384


def reap_ended(tid: int) -> None:
    """Reap a tracee if it has ended; leave it be if not. From any thread of ours.

    Raises:
        ChildProcessError: it is not ours (any more).
    """
    os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | _WALL)


def seize(tid: int, options: int = 0) -> Tracee:
    """Begin to trace thread `tid` (of any process), without stopping it.

    Raises:
        NoSuchProcess: it has ended.
        AlreadyTraced: another tracer has it.
        PermissionDenied: Linux does not let this user trace it.
    """
    for _ in range(_SEIZE_ATTEMPTS):
        try:
            _request(_SEIZE, tid, 0, options | _TRACESYSGOOD)
        except ProcessLookupError as error:
            raise NoSuchProcess(f"process {tid} does not exist (any more)") from error
        except PermissionError as error:
            status = read_status(tid)
            if status.tracer_pid == os.getpid():
                break
            failure, cause = _why_not(status), error
            # A first thread that has ended looks like that, until the thread that
            # executes a program has taken its number.
            time.sleep(0.001)
        except OSError as error:
            if error.errno == errno.EIO:
                raise EngineError(f"PTRACE_SEIZE of {tid} failed: {error}") from error
            raise
        else:
            break
    else:
        raise failure from cause
    return Tracee(tid)


_SEIZE_ATTEMPTS = 5


def _why_not(status: Status) -> CheckpointRestoreError:
    """Why the thread with that status cannot be traced."""
    if status.state in "ZX":
        return NoSuchProcess(f"process {status.pid} has ended")
    if status.tracer_pid:
        return AlreadyTraced(
            f"process {status.pid} is traced by process {status.tracer_pid}",
            "Only one tracer can have a process: end the debugger, strace or "
            "checkpoint that works on it, and try again.",
        )
    return PermissionDenied(
        f"this user may not trace process {status.pid}",
        "It belongs to another user, is protected (prctl PR_SET_DUMPABLE), or "
        "ptrace is restricted here: run `jupyter cr check`.",
    )
