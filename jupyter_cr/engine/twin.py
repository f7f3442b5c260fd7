"""Twins: copy-on-write clones that keep the memory of a process as it was.

The frozen process makes a helper that shares its memory (so that nothing is copied),
the helper drops the descriptors, clones the twin from the shared memory, and ends: the
twin is nobody's child that could be noticed, and init reaps it. The process itself
waits for the helper, as for vfork(2), and reaps it, all in one batch that runs to its
end without us: Linux writes the helper's pid where the call that reaps it has it from.

A twin never runs code of the process. It stays stopped under our hand, with
PTRACE_O_EXITKILL; a *warm* twin is left parked when we go.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Container, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from jupyter_cr.engine.remote_process import RemoteProcess
from jupyter_cr.engine.state import signal_actions
from jupyter_cr.errors import (
    AlreadyTraced,
    CheckpointRestoreError,
    EngineError,
    TargetError,
    Unsupported,
)
from jupyter_cr.tracer.arch import x86_64 as arch
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.ptrace import EXITKILL, Ended, Stop, Tracee, seize, wait_any
from jupyter_cr.tracer.remote import ALL_SIGNALS, Batch, RemoteThread, Workspace

__all__ = [
    "TWINS_FILE",
    "ParkedTwin",
    "Twin",
    "make_twin",
    "park_twins",
    "read_twins",
    "release_twins",
]

TWINS_FILE = "twins"
"""Beside a snapshot: which processes hold it in memory."""

_CLONE_VM, _CLONE_VFORK, _CLONE_PTRACE = 0x100, 0x4000, 0x2000
_CLONE_PARENT_SETTID = 0x100000
_WALL = 0x40000000
_NOBODY = -(1 << 31) + 1
_MADV_DONTFORK, _MADV_DOFORK = 10, 11
_MADV_WIPEONFORK, _MADV_KEEPONFORK = 18, 19
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36
_ALL_FDS = 0xFFFFFFFF


@dataclass
class Twin:
    """Of the process with the innermost pid `of`; `thread` runs batches in it."""

    of: int
    thread: RemoteThread

    @property
    def pid(self) -> int:
        """As we see it."""
        return self.thread.tracee.tid

    @property
    def memory(self) -> Memory:
        """What the process's memory was."""
        return self.thread.workspace.memory

    def settle(self) -> None:
        """What can wait until the tree goes on: its own session, a name, and to be the
        first to go when memory runs out."""
        name = b"jupyter-cr twin\0"
        self.thread.run(
            [
                Call("setsid"),
                Call("prctl", (_PR_SET_NAME, name)),
                Call("chdir", (b"/\0",)),
                *signal_actions.rebuild_calls(signal_actions.Record({})),
            ]
        )
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/oom_score_adj").write_text("1000")

    def end(self) -> None:
        """Kill and reap it. May be called again."""
        _kill(self.pid)
        self.memory.close()

    def park(self) -> ParkedTwin:
        """Leave it, waiting for whoever needs it next. Should that one die, it comes
        back to where it is parked, by the frame that is written here."""
        tracee = self.thread.tracee
        workspace = self.thread.workspace
        parked_at = arch.park_registers(tracee.registers, workspace.address)
        frame = arch.signal_frame(parked_at, tracee.xstate, ALL_SIGNALS, self.thread.frame)
        self.memory.write(self.thread.frame, frame)
        tracee.registers = parked_at
        tracee.signal_mask = ALL_SIGNALS
        parked = ParkedTwin(
            self.of,
            self.pid,
            read_stat(self.pid).starttime,
            workspace.address,
            workspace.size,
            workspace.slot_size,
            workspace.frame_size,
        )
        tracee.detach()
        self.memory.close()
        return parked


@dataclass(frozen=True, slots=True)
class ParkedTwin:
    """A twin that nobody traces. `starttime` tells it from a later process with the
    same pid; the rest describes its workspace, in bytes."""

    of: int
    pid: int
    starttime: int
    address: int
    size: int
    slot_size: int
    frame_size: int

    @property
    def is_alive(self) -> bool:
        """Whether it is still there."""
        try:
            stat = read_stat(self.pid)
        except CheckpointRestoreError:
            return False
        return stat.starttime == self.starttime and stat.state != "Z"

    def take(self) -> Twin:
        """Have it run batches again.

        Raises:
            TargetError: it is gone.
        """
        tracee = self._seize()
        tracee.interrupt()
        tracee.wait_for_event_stop(2.0)
        inner = read_status(self.pid).ns_tgid[-1]
        workspace = Workspace(
            Memory(self.pid), self.address, self.size, self.slot_size, self.frame_size
        )
        thread = RemoteThread(
            tracee, workspace, inner, inner, signal.SIGURG, 0, tracee.registers
        )
        tracee.signal_mask = thread.mask
        return Twin(self.of, thread)

    def _seize(self) -> Tracee:
        """Waits for its turn while another fork has it."""
        deadline = time.monotonic() + _TURN_LIMIT
        while True:
            if not self.is_alive:
                raise TargetError(f"the twin of process {self.of} is gone")
            try:
                return seize(self.pid)
            except AlreadyTraced:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.002)


_TURN_LIMIT = 20.0


def make_twin(
    remote: RemoteProcess,
    flags: Mapping[int, tuple[int, frozenset[str]]],
    *,
    is_subreaper: bool = False,
) -> Twin:
    """Clone a frozen process.

    Args:
        flags: start -> (end, VmFlags) of its regions that fork(2) leaves out or wipes;
            they are inherited this once.
        is_subreaper: It adopts orphans (PR_SET_CHILD_SUBREAPER), but not the twin.

    Raises:
        TargetError: no memory, or too many processes.
    """
    before, after = _inheritance(flags)
    if is_subreaper:
        before.append(Call("prctl", (_PR_SET_CHILD_SUBREAPER, 0)))
        after.append(Call("prctl", (_PR_SET_CHILD_SUBREAPER, 1)))
    flagged = _CLONE_VM | _CLONE_VFORK | _CLONE_PTRACE | _CLONE_PARENT_SETTID
    reaped = remote.leader.argument_address(len(before) + 1, 0)
    clone = Call("clone", (flagged, 0, reaped, 0, 0), optional=True)
    reap = Call("wait4", (_NOBODY, 0, _WALL, 0), optional=True)
    batch = Batch(remote.leader, calls := [*before, clone, reap, *after])
    if len(batch.calls) < len(calls):
        raise Unsupported(
            f"process {remote.frozen.pid} keeps {len(before)} regions of memory from its "
            "children (MADV_DONTFORK, MADV_WIPEONFORK)",
            "So many cannot be handled: have the program release some, and try again.",
        )
    batch.start()
    leader = remote.leader.tracee.tid
    helper_tid, stop = _wait_any({leader})
    if helper_tid == leader:
        result = batch.finish(stop)[len(before)]
        raise _clone_failed(remote.frozen.pid, -result.value)
    twin_batch = _start_helper(remote, helper_tid)
    twin_tid, leader_stop = _wait_for_twin(helper_tid, leader, twin_batch)
    with ExitStack() as on_error:
        if twin_tid is not None:
            on_error.callback(_kill, twin_tid)
        batch.finish(leader_stop)
        if twin_tid is None:
            raise _clone_failed(remote.frozen.pid, -twin_batch.read_results()[1].value)
        twin = Twin(remote.frozen.inner_pid, _thread_of_twin(remote, twin_tid))
        on_error.pop_all()
    return twin


def _kill(tid: int) -> None:
    """Kill and reap a tracee."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(tid, signal.SIGKILL)
        os.waitpid(tid, _WALL)


def _start_helper(remote: RemoteProcess, tid: int) -> Batch:
    """Let the helper clone the twin and end."""
    helper = Tracee(tid)
    helper.set_options(EXITKILL)
    inner = read_status(tid).ns_tgid[-1]
    thread = RemoteThread(
        helper,
        remote.workspace,
        inner,
        inner,
        remote.leader.signal,
        remote.spare,
        helper.registers,
    )
    batch = Batch(
        thread,
        [
            Call("close_range", (0, _ALL_FDS, 0)),
            Call("clone", (_CLONE_PTRACE, 0, 0, 0, 0), optional=True),
            Call("exit", (0,)),
        ],
    )
    batch.start()
    return batch


def _wait_any(needed: Container[int]) -> tuple[int, Stop]:
    """The next tracee to stop; raises Ended if one that is needed ends instead."""
    while True:
        tid, status = wait_any()
        if os.WIFSTOPPED(status):
            return tid, Stop(os.WSTOPSIG(status), status >> 16)
        if tid in needed:
            raise Ended(tid, status)


def _thread_of_twin(remote: RemoteProcess, tid: int) -> RemoteThread:
    workspace = Workspace(
        Memory(tid),
        remote.workspace.address,
        remote.workspace.size,
        remote.workspace.slot_size,
        remote.workspace.frame_size,
    )
    tracee = Tracee(tid)
    inner = read_status(tid).ns_tgid[-1]
    return RemoteThread(
        tracee, workspace, inner, inner, remote.leader.signal, 0, tracee.registers
    )


def _wait_for_twin(
    helper: int, leader: int, batch: Batch
) -> tuple[int | None, Stop | None]:
    """Wait until the twin has stopped and the helper has ended, in whatever order.

    Returns:
        The twin's tid, None if the helper could not clone it; and a stop of the leader,
        which goes on when the helper has ended, if one has been seen meanwhile.

    Raises:
        Ended: the twin ended: somebody kills it.
    """
    twin: int | None = None
    leader_stop: Stop | None = None
    ended = False
    while not ended or twin is None:
        try:
            tid, stop = _wait_any({helper, twin or 0})
        except Ended as end:
            if end.tid != helper:
                raise
            ended = True
            if batch.read_results()[1].value < 0:
                return None, leader_stop
            continue
        if tid == leader:
            leader_stop = stop
        elif tid != helper:
            twin = tid
        else:
            raise EngineError(f"thread {tid}: unexpected {stop}")
    return twin, leader_stop


def _inheritance(
    flags: Mapping[int, tuple[int, frozenset[str]]],
) -> tuple[list[Call], list[Call]]:
    """Calls that let the twin inherit everything, and that put it back."""
    before: list[Call] = []
    after: list[Call] = []
    for start, (end, codes) in flags.items():
        for code, inherit, undo in (
            ("dc", _MADV_DOFORK, _MADV_DONTFORK),
            ("wf", _MADV_KEEPONFORK, _MADV_WIPEONFORK),
        ):
            if code in codes and "dp" not in codes:
                before.append(Call("madvise", (start, end - start, inherit)))
                after.append(Call("madvise", (start, end - start, undo)))
    return before, after


def _clone_failed(pid: int, code: int) -> TargetError:
    return TargetError(
        f"process {pid} could not be cloned: {os.strerror(code)}",
        "Free some memory or raise the limit on processes (ulimit -u), and try again.",
    )


def park_twins(directory: Path, twins: Iterable[Twin]) -> None:
    """Leave the twins parked, noted beside the snapshot in `directory`."""
    parked = [twin.park() for twin in twins]
    document = {"boot": _boot_id(), "twins": [asdict(twin) for twin in parked]}
    (directory / TWINS_FILE).write_text(json.dumps(document))


def read_twins(directory: Path) -> list[ParkedTwin]:
    """The parked twins of a snapshot, if all are still alive; else none."""
    try:
        document = json.loads((directory / TWINS_FILE).read_text())
    except FileNotFoundError:
        return []
    twins = [ParkedTwin(**entry) for entry in document["twins"]]
    if document["boot"] != _boot_id() or not all(twin.is_alive for twin in twins):
        return []
    return twins


def release_twins(directory: Path) -> None:
    """End the parked twins of a snapshot; init reaps them."""
    try:
        document = json.loads((directory / TWINS_FILE).read_text())
    except FileNotFoundError:
        return
    if document["boot"] == _boot_id():
        for entry in document["twins"]:
            twin = ParkedTwin(**entry)
            if twin.is_alive:
                os.kill(twin.pid, signal.SIGKILL)
    (directory / TWINS_FILE).unlink(missing_ok=True)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
