"""Cloning a process so that it never notices (clone(2)).

The process makes a helper that shares its memory, so that nothing is copied for it;
the helper prepares itself, clones the copy from the shared memory, and ends. The copy
is nobody's child that could be seen: init adopts it. The process itself waits for the
helper, as for vfork(2), and reaps it, all in one batch that would run to its end
without us.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from jupyter_cr.errors import EngineError, TargetError, Unsupported
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.ptrace import EXITKILL, Ended, Stop, Tracee, wait_any
from jupyter_cr.tracer.remote import Batch, RemoteThread

__all__ = ["THREAD_FLAGS", "Cloning", "clone_apart", "clone_tracees"]

_CLONE_VM, _CLONE_VFORK, _CLONE_PTRACE = 0x100, 0x4000, 0x2000
_CLONE_PARENT_SETTID = 0x100000
_WALL = 0x40000000
_NOBODY = -(1 << 31) + 1
_ALL_FDS = 0xFFFFFFFF

THREAD_FLAGS = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | _CLONE_PTRACE
"""CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD, _SYSVSEM: what makes a thread; of ours."""


@dataclass
class _Helper:
    """`batch` is what it was given to do; its last three calls drop the descriptors,
    clone, and end."""

    tid: int
    batch: Batch

    def has_cloned(self) -> bool:
        """Whether the copy was made."""
        return self.batch.read_results()[-2].value > 0


@dataclass
class Cloning:
    """A clone that Linux is making; `finish` has to be called, whatever happens."""

    process: RemoteThread
    batch: Batch
    helper: _Helper

    def finish(self) -> RemoteThread:
        """The clone, stopped before its first instruction.

        Raises:
            TargetError: no memory, or too many processes.
            CallFailed: a call of `before`, `prepare` or `after` failed.
        """
        copy, leader_stop = _wait_for_copy(self.helper, self.process.tracee.tid)
        with ExitStack() as on_error:
            if copy is not None:
                on_error.callback(Tracee(copy).kill)
            self.batch.finish(leader_stop)
            # What came after a failed preparation was done all the same.
            self.helper.batch.check_results()
            if copy is None:
                code = -self.helper.batch.read_results()[-2].value
                raise _clone_failed(self.process.pid, code)
            thread = _thread_of_copy(self.process, copy)
            on_error.pop_all()
        return thread


def clone_apart(
    process: RemoteThread,
    spare: int,
    *,
    before: Sequence[Call] = (),
    prepare: Sequence[Call] = (),
    after: Sequence[Call] = (),
) -> Cloning:
    """Begin a copy-on-write clone of the process of a stopped thread, without
    descriptors, killed with us.

    Args:
        spare: index of a slot of the workspace that nobody uses: the helper's.
        before, after: calls that the process makes around it.
        prepare: calls that the helper makes, say to enter namespaces.

    Raises:
        TargetError: too many processes.
        Unsupported: more calls than fit one batch.
    """
    flags = _CLONE_VM | _CLONE_VFORK | _CLONE_PTRACE | _CLONE_PARENT_SETTID
    reaped = process.argument_address(len(before) + 1, 0)
    clone = Call("clone", (flags, 0, reaped, 0, 0), optional=True)
    reap = Call("wait4", (_NOBODY, 0, _WALL, 0), optional=True)
    calls = [*before, clone, reap, *after]
    batch = Batch(process, calls)
    if len(batch.calls) < len(calls):
        raise Unsupported(
            f"process {process.pid} keeps {len(before)} regions of memory from its "
            "children (MADV_DONTFORK, MADV_WIPEONFORK)",
            "So many cannot be handled: have the program release some, and try again.",
        )
    batch.start()
    leader = process.tracee.tid
    tid, stop = _wait_any({leader})
    if tid == leader:
        raise _clone_failed(process.pid, -batch.finish(stop)[len(before)].value)
    return Cloning(process, batch, _start_helper(process, spare, tid, prepare))


def _start_helper(
    process: RemoteThread, spare: int, tid: int, prepare: Sequence[Call]
) -> _Helper:
    tracee = Tracee(tid)
    tracee.set_options(EXITKILL)
    inner = read_status(tid).ns_tgid[-1]
    thread = RemoteThread(
        tracee, process.workspace, inner, inner, process.signal, spare, tracee.registers
    )
    batch = Batch(
        thread,
        [
            *prepare,
            Call("close_range", (0, _ALL_FDS, 0)),
            Call("clone", (_CLONE_PTRACE, 0, 0, 0, 0), optional=True),
            Call("exit", (0,)),
        ],
    )
    batch.start()
    return _Helper(tid, batch)


def _wait_any(needed: Container[int]) -> tuple[int, Stop]:
    """The next tracee to stop; raises Ended if one that is needed ends instead."""
    while True:
        tid, status = wait_any()
        if os.WIFSTOPPED(status):
            return tid, Stop(os.WSTOPSIG(status), status >> 16)
        if tid in needed:
            raise Ended(tid, status)


def _wait_for_copy(helper: _Helper, leader: int) -> tuple[int | None, Stop | None]:
    """Wait until the copy has stopped and the helper has ended, in whatever order.

    Returns:
        The copy's tid, None if the helper could not clone it; and a stop of the leader,
        which goes on when the helper has ended, if one has been seen meanwhile.

    Raises:
        Ended: the copy ended: somebody kills it.
    """
    copy = 0
    leader_stop: Stop | None = None
    ended = False
    while not (ended and copy):
        try:
            tid, stop = _wait_any({helper.tid, copy})
        except Ended as end:
            if end.tid != helper.tid:
                raise
            ended = True
            if not helper.has_cloned():
                return None, leader_stop
            continue
        if tid == leader:
            leader_stop = stop
        elif tid != helper.tid:
            copy = tid
        else:
            raise EngineError(f"thread {tid}: unexpected {stop}")
    return copy, leader_stop


def _thread_of_copy(process: RemoteThread, tid: int) -> RemoteThread:
    workspace = process.workspace.seen_in(Memory(tid))
    tracee = Tracee(tid)
    inner = read_status(tid).ns_tgid[-1]
    return RemoteThread(
        tracee, workspace, inner, inner, process.signal, 0, tracee.registers
    )


def _clone_failed(pid: int, code: int) -> TargetError:
    return TargetError(
        f"process {pid} could not be cloned: {os.strerror(code)}",
        "Free some memory or raise the limit on processes (ulimit -u), and try again.",
    )


def clone_tracees(thread: RemoteThread, calls: Sequence[Call]) -> list[int]:
    """Make the clone calls, all with CLONE_PTRACE.

    Returns:
        The tids, as we see them, of the new tracees, all stopped before their first
        instruction.

    Raises:
        CallFailed: the first that failed; what was made is killed when we end.
    """
    found: list[int] = []
    rest = list(calls)
    while rest:
        batch = Batch(thread, rest)
        batch.start()
        stopped = False
        made: list[int] = []
        while not stopped or len(made) < len(_made(batch)):
            # Others may end meanwhile: children of whoever has called us.
            tid, _ = _wait_any({thread.tracee.tid, *made})
            if tid == thread.tracee.tid:
                stopped = True
            else:
                made.append(tid)
        batch.finish(stopped=True)
        _require_same(made, _made(batch))
        found += made
        rest = rest[len(batch.calls) :]
    return found


def _made(batch: Batch) -> list[int]:
    """What the calls that have been made have returned: pids, as the caller sees them."""
    return [result.value for result in batch.read_results() if result.value > 0]


def _require_same(tids: Sequence[int], made: Sequence[int]) -> None:
    """See that those that have stopped are those that were made: what is done with a clone
    must not be done with anybody else."""
    wanted = set(made)
    for tid in tids:
        known_as = wanted & set(read_status(tid).ns_pid)
        if not known_as:
            raise EngineError(f"thread {tid} has stopped, and was not to be cloned")
        wanted -= known_as
