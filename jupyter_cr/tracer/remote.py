"""System calls made by a stopped thread of another process, many at a time.

A `Workspace` is some memory mapped into that process: machine code, and for each
thread a slot with a signal frame and a table of calls. A stopped thread is pointed
at the code, makes its calls natively, and stops again: two switches for a batch of
any length, where single-stepping costs two for each call.

**If the tracer dies** at any moment, Linux lets the thread run on with whatever
registers it has (ptrace(2)). So registers are only ever changed to ones that end in
rt_sigreturn(2) from a frame that holds the state before. The worst that can stay
behind is the workspace itself, which the next checkpoint finds by `MAGIC` and uses.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from jupyter_cr.errors import EngineError
from jupyter_cr.tracer.arch import x86_64 as arch
from jupyter_cr.tracer.calls import Argument, Call, Out, Words
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.ptrace import Stop, Tracee, wait_for

__all__ = [
    "MAGIC",
    "Batch",
    "CallFailed",
    "RemoteThread",
    "Result",
    "Workspace",
    "choose_signal",
]

MAGIC = b"jupyter-cr workspace\n"
"""Found right behind the machine code, at the start of a workspace."""

_CAPACITY = 500
_IGNORED_BY_DEFAULT: tuple[int, ...] = (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD)
ALL_SIGNALS = (1 << 64) - 1


def choose_signal(caught: int, ignored: int = 0) -> int:
    """A signal that a process which catches and ignores these sets would ignore."""
    for number in _IGNORED_BY_DEFAULT:
        if not caught >> (number - 1) & 1:
            return int(number)
    for number in range(1, 32):
        if ignored >> (number - 1) & 1:
            return number
    return int(signal.SIGURG)


class CallFailed(OSError):
    """A call that another process was made to make has failed there."""

    def __init__(self, pid: int, call: Call, code: int) -> None:
        super().__init__(code, os.strerror(code), f"{call.name} in process {pid}")
        self.call = call


@dataclass(frozen=True, slots=True)
class Result:
    """What a call returned (-errno on failure), and its `Out` arguments."""

    value: int
    outs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Workspace:
    """Memory at `address` of the process behind `memory`, ready for batches."""

    memory: Memory
    address: int
    size: int
    slot_size: int
    frame_size: int

    @classmethod
    def layout(cls, threads: int, xstate_size: int) -> tuple[int, int, int]:
        """(size, slot_size, frame_size) in bytes for that many threads at once."""
        frame_size = -(-(xstate_size + 1024) // 64) * 64
        slot_size = frame_size + _CAPACITY * arch.ENTRY_SIZE + _DATA_SIZE
        slot_size = -(-slot_size // arch.PAGE) * arch.PAGE
        return arch.PAGE + threads * slot_size, slot_size, frame_size

    def seen_in(self, memory: Memory) -> Workspace:
        """The same place in the memory of a clone."""
        return dataclasses.replace(self, memory=memory)

    def install(self) -> None:
        """Write the machine code."""
        self.memory.write(self.address, arch.CODE + MAGIC)

    def slot(self, index: int) -> int:
        """Address of the slot of the thread with that index."""
        address = self.address + arch.PAGE + index * self.slot_size
        if address + self.slot_size > self.address + self.size:
            raise EngineError(f"workspace has no slot {index}")
        return address


_DATA_SIZE = 24 * 1024


@dataclass(slots=True)
class RemoteThread:
    """A stopped thread that can be made to run batches.

    Attributes:
        pid, tid: As the thread itself sees them (its innermost pid namespace).
        signal: With which a batch says that it has ended.
        index: Which slot of the workspace is its own.
    """

    tracee: Tracee
    workspace: Workspace
    pid: int
    tid: int
    signal: int
    index: int
    base: arch.Registers = field(default_factory=arch.Registers)

    @property
    def frame(self) -> int:
        """Where the frame is that brings the thread back."""
        return self.workspace.slot(self.index)

    @property
    def mask(self) -> int:
        """The signal mask to run batches with."""
        return ALL_SIGNALS & ~(1 << (self.signal - 1))

    @property
    def table(self) -> int:
        """Where the entries of a batch are."""
        return self.frame + self.workspace.frame_size

    def argument_address(self, index: int, argument: int) -> int:
        """Where a batch has an argument of its call number `index`: one call can fill in
        what a later one is given."""
        return self.table + index * arch.ENTRY_SIZE + 8 * (1 + argument)

    def run(self, calls: Sequence[Call]) -> list[Result]:
        """Have the calls made, in order.

        Raises:
            CallFailed: one that is not `optional` failed. All were made all the same.
            Ended: the thread ended meanwhile.
        """
        results: list[Result] = []
        rest = list(calls)
        while rest:
            batch = Batch(self, rest)
            batch.start()
            results += batch.finish()
            rest = rest[len(batch.calls) :]
        return results

    def call(self, name: str, *args: Argument) -> int:
        """One call, its result."""
        return self.run([Call(name, args)])[0].value


class Batch:
    """As many of `calls` as fit, `start`ed in one thread and `finish`ed later."""

    def __init__(self, thread: RemoteThread, calls: Sequence[Call]) -> None:
        self.thread = thread
        self.calls: list[Call] = []
        self._outs: list[list[tuple[int, int]]] = []
        table_address = thread.table
        limit = thread.workspace.slot_size - thread.workspace.frame_size
        self._table = bytearray()
        self._data = bytearray()
        count = self._count_fitting(calls, limit)
        self._data_offset = count * arch.ENTRY_SIZE
        for call in calls[:count]:
            self._append(call, table_address)

    @staticmethod
    def _count_fitting(calls: Sequence[Call], limit: int) -> int:
        used = 0
        for count, call in enumerate(calls[:_CAPACITY]):
            used += arch.ENTRY_SIZE + sum(_space_of(argument) for argument in call.args)
            if used > limit:
                if not count:
                    raise EngineError(f"{call.name}: arguments too large for a batch")
                return count
        return min(len(calls), _CAPACITY)

    def _append(self, call: Call, table_address: int) -> None:
        outs: list[tuple[int, int]] = []
        words = [arch.SYSCALLS[call.name]]
        words += [self._place(argument, table_address, outs) for argument in call.args]
        words += [0] * (8 - len(words))
        self._table += struct.pack("<8Q", *words)
        self._outs.append(outs)
        self.calls.append(call)

    def _place(
        self, argument: Argument, table_address: int, outs: list[tuple[int, int]]
    ) -> int:
        """The word for an argument, what it points at being put behind the table."""
        if isinstance(argument, int):
            return argument & ALL_SIGNALS
        if isinstance(argument, Words):
            words = [self._place(word, table_address, outs) for word in argument.words]
            argument = struct.pack(f"<{len(words)}Q", *words)
        offset = self._data_offset + len(self._data)
        if isinstance(argument, Out):
            outs.append((offset, argument.size))
            self._data += bytes(_space_of(argument))
        else:
            self._data += argument.ljust(_space_of(argument), b"\0")
        return table_address + offset

    def start(self) -> None:
        """Let the thread go and make the calls."""
        thread = self.thread
        table = thread.table
        thread.workspace.memory.write(table, self._table + self._data)
        thread.tracee.registers = arch.batch_registers(
            thread.base,
            code=thread.workspace.address,
            table=table,
            count=len(self.calls),
            pid=thread.pid,
            tid=thread.tid,
            signal=thread.signal,
            frame=thread.frame,
        )
        thread.tracee.resume()

    def finish(self, first: Stop | None = None, *, stopped: bool = False) -> list[Result]:
        """Wait for the thread to have made them all; what they returned.

        Args:
            first: a stop of it that has already been seen.
            stopped: it has already been seen to stop at the end.

        Raises: as `RemoteThread.run`.
        """
        thread = self.thread
        ended = thread.workspace.address + arch.BATCH_END
        while not stopped:
            stop = first or wait_for(thread.tracee.tid)
            first = None
            if _is_end(stop, thread) and (
                thread.tracee.registers.instruction_pointer == ended
            ):
                break
            self._refuse_fault(stop)
            self._pass_by(stop)
        return self.check_results()

    def _refuse_fault(self, stop: Stop) -> None:
        faults = (signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGTRAP)
        if stop.signal in faults and not stop.event:
            raise EngineError(
                f"process {self.thread.pid}: batch stopped by signal {stop.signal} at "
                f"{self.thread.tracee.registers.instruction_pointer:#x}"
            )

    def _pass_by(self, stop: Stop) -> None:
        """Go on after a signal that cannot be blocked, or is ours but sent by others."""
        tracee = self.thread.tracee
        if stop.event:
            tracee.resume()
        elif stop.signal == self.thread.signal:
            tracee.hold_back()
            tracee.resume()
        else:
            tracee.deliver(stop.signal)

    def check_results(self) -> list[Result]:
        """What the calls made so far returned; raises CallFailed as `finish`."""
        results = self.read_results()
        for call, result in zip(self.calls, results, strict=True):
            if -4096 < result.value < 0 and not call.optional:
                raise CallFailed(self.thread.pid, call, -result.value)
        return results

    def read_results(self) -> list[Result]:
        """What the calls made so far returned; 0 for the others."""
        thread = self.thread
        size = len(self._table) + len(self._data) if any(self._outs) else len(self._table)
        content = thread.workspace.memory.read(thread.table, size)
        values = (
            int.from_bytes(content[at + 56 : at + 64], "little", signed=True)
            for at in range(0, len(self._table), arch.ENTRY_SIZE)
        )
        return [
            Result(
                value,
                tuple(content[start : start + length] for start, length in outs),
            )
            for value, outs in zip(values, self._outs, strict=True)
        ]


def _is_end(stop: Stop, thread: RemoteThread) -> bool:
    return stop.signal == thread.signal and not stop.event


def _space_of(argument: Argument) -> int:
    if isinstance(argument, int):
        return 0
    if isinstance(argument, Words):
        inner = sum(_space_of(word) for word in argument.words)
        return inner + -(-8 * len(argument.words) // 16) * 16
    size = argument.size if isinstance(argument, Out) else len(argument)
    return -(-size // 16) * 16
