"""Seeds: processes that are nothing yet, and do what we tell them.

The first is a tiny program of ours (no C library), executed from memory; the others
are its clones. A seed's one segment is a `Workspace`, at an address that no process of
the snapshot uses, so it can stay until the last moment. Seeds die with us
(PTRACE_O_EXITKILL): a half-built tree never stays behind.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jupyter_cr.engine.cloning import THREAD_FLAGS, clone_tracees
from jupyter_cr.errors import EngineError, PidTaken, RestoreError
from jupyter_cr.tracer.arch import x86_64 as arch
from jupyter_cr.tracer.calls import Call, Words
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.ptrace import EXITKILL, Tracee, seize
from jupyter_cr.tracer.remote import ALL_SIGNALS, CallFailed, RemoteThread, Workspace

__all__ = [
    "Seed",
    "adopt_seed",
    "clone_seed",
    "clone_threads",
    "plant",
    "spare_workspace_size",
]

_CLONE_PTRACE = 0x2000
_SIGNAL = int(signal.SIGURG)
_MASK = ALL_SIGNALS & ~(1 << (_SIGNAL - 1))
_STOP_LIMIT = 5.0


@dataclass
class Seed:
    """A process under construction. `thread` is its first; `threads` all of them, by
    tid as the process itself sees it."""

    thread: RemoteThread
    threads: dict[int, RemoteThread]

    @property
    def pid(self) -> int:
        """As it sees it itself."""
        return self.thread.pid

    @property
    def outer_pid(self) -> int:
        """As we see it."""
        return self.thread.tracee.tid

    @property
    def workspace(self) -> Workspace:
        """Where its batches live."""
        return self.thread.workspace

    @property
    def memory(self) -> Memory:
        """Its memory."""
        return self.thread.workspace.memory

    def kill(self) -> None:
        """End it, if it is still there, and reap it."""
        self.thread.tracee.kill()
        self.memory.close()


def spare_workspace_size(threads: int) -> int:
    """Bytes that a seed for up to that many threads occupies, its program included."""
    return sum(Workspace.layout(count, _XSTATE_MOST)[0] for count in (threads, 1))


_XSTATE_MOST = 12288


def plant(address: int, threads: int, argv: Sequence[str]) -> Seed:
    """Execute the seed program, its segment at `address`; it is our child, in a
    session of its own, with nothing open but /dev/null.

    Raises:
        RestoreError: programs cannot be executed from memory here.
    """
    size, slot, frame = Workspace.layout(threads, _XSTATE_MOST)
    elf_size = Workspace.layout(1, _XSTATE_MOST)[0]
    program = os.memfd_create("jupyter-cr seed", os.MFD_CLOEXEC)
    try:
        os.write(program, arch.seed_program(address + size, elf_size, os.getpid()))
        pid = os.posix_spawn(
            f"/proc/self/fd/{program}",
            list(argv),
            {},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[n for n in signal.valid_signals() if n not in (9, 19)],
        )
    except OSError as error:
        raise RestoreError(
            f"no program can be executed from memory here: {error.strerror}",
            "Set the sysctl vm.memfd_noexec to 0 or 1, or mount /proc.",
        ) from error
    finally:
        os.close(program)
    tracee = seize(pid, EXITKILL)
    tracee.interrupt()
    tracee.wait_for_event_stop(_STOP_LIMIT)
    first = Workspace(Memory(pid), address + size, *Workspace.layout(1, _XSTATE_MOST))
    first.install()
    return _move_out(
        _seed_of(tracee, first), Workspace(first.memory, address, size, slot, frame)
    )


def _move_out(seed: Seed, workspace: Workspace) -> Seed:
    """Into a workspace of anonymous memory: while the seed program's own file is still
    mapped, Linux does not let the process become another one (PR_SET_MM_EXE_FILE)."""
    seed.thread.call(
        "mmap",
        workspace.address,
        workspace.size,
        _PROT_RWX,
        _MAP_PRIVATE | _MAP_FIXED | _MAP_ANONYMOUS,
        ALL_SIGNALS,
        0,
    )
    workspace.install()
    moved = _seed_of(seed.thread.tracee, workspace)
    moved.thread.call("munmap", seed.workspace.address, seed.workspace.size)
    return moved


_PROT_RWX = 7
_MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x02, 0x10, 0x20


def _seed_of(tracee: Tracee, workspace: Workspace) -> Seed:
    pid = read_status(tracee.tid).ns_tgid[-1]
    thread = RemoteThread(tracee, workspace, pid, pid, _SIGNAL, 0, tracee.registers)
    tracee.signal_mask = _MASK
    return Seed(thread, {pid: thread})


def adopt_seed(thread: RemoteThread) -> Seed:
    """A seed of a clone that was made otherwise, and has a workspace already."""
    return _seed_of(thread.tracee, thread.workspace)


def clone_seed(
    parent: Seed,
    pid: int | None = None,
    exit_signal: int = signal.SIGCHLD,
    flags: int = 0,
) -> Seed:
    """A child of `parent`, with that pid in its own namespace if one is given.

    Args:
        flags: more of them, for clone3(2).

    Raises:
        PidTaken: somebody has the pid.
        RestoreError: clone3 is forbidden here.
    """
    arguments = _clone_arguments(_CLONE_PTRACE | flags, exit_signal, pid)
    call = Call("clone3", (arguments, _ARGUMENTS_SIZE))
    try:
        (tid,) = clone_tracees(parent.thread, [call])
    except CallFailed as error:
        if error.errno == errno.EEXIST and pid is not None:
            raise PidTaken(
                f"pid {pid} is in use",
                "End the process that has it, or fork the snapshot instead.",
            ) from error
        if error.errno in (errno.ENOSYS, errno.EPERM):
            raise RestoreError(
                f"processes cannot be made with the pids that they had: clone3: "
                f"{error.strerror}",
                "A security policy forbids it here, as the seccomp profiles of containers "
                "do: run `jupyter cr check`, which says what to allow.",
            ) from error
        raise
    tracee = Tracee(tid)
    return _seed_of(tracee, parent.workspace.seen_in(Memory(tid)))


def clone_threads(seed: Seed, tids: Iterable[int]) -> None:
    """Give the seed threads with those tids, where it has not got them yet."""
    wanted = [tid for tid in tids if tid not in seed.threads]
    calls = [
        Call(
            "clone3",
            (_clone_arguments(THREAD_FLAGS, 0, tid), _ARGUMENTS_SIZE),
        )
        for tid in wanted
    ]
    for tid in clone_tracees(seed.thread, calls):
        inner = read_status(seed.outer_pid, tid).ns_pid[-1]
        tracee = Tracee(tid)
        seed.threads[inner] = RemoteThread(
            tracee,
            seed.workspace,
            seed.pid,
            inner,
            _SIGNAL,
            len(seed.threads),
            tracee.registers,
        )
    if set(wanted) - set(seed.threads):
        raise EngineError(f"process {seed.pid} did not get all its threads")


_ARGUMENTS_SIZE = 88


def _clone_arguments(flags: int, exit_signal: int, pid: int | None) -> Words:
    """struct clone_args (clone(2))."""
    set_tid: bytes | int = pid.to_bytes(4, "little") if pid is not None else 0
    count = int(pid is not None)
    return Words((flags, 0, 0, 0, exit_signal, 0, 0, 0, set_tid, count, 0))
