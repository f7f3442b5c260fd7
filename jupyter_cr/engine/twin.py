"""Twins: copy-on-write clones that keep the memory of a process as it was.

A twin never runs code of the process (see `jupyter_cr.engine.cloning` for how it is
made without the process noticing). It stays stopped under our hand, with
PTRACE_O_EXITKILL; a *warm* twin is left parked when we go.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jupyter_cr.engine.cloning import Cloning, clone_apart
from jupyter_cr.engine.remote_process import RemoteProcess
from jupyter_cr.engine.state import signal_actions
from jupyter_cr.errors import (
    AlreadyTraced,
    CheckpointRestoreError,
    TargetError,
)
from jupyter_cr.tracer.arch import x86_64 as arch
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.ptrace import Tracee, seize
from jupyter_cr.tracer.remote import ALL_SIGNALS, RemoteThread, Workspace

__all__ = [
    "TWINS_FILE",
    "TWIN_NAME",
    "BegunTwin",
    "ParkedTwin",
    "Twin",
    "begin_twin",
    "park_twins",
    "read_twins",
    "release_twins",
]

TWINS_FILE = "twins"
"""Beside a snapshot: which processes hold it in memory."""

TWIN_NAME = "jupyter-cr twin"
"""As ps(1) shows it."""

_MADV_DONTFORK, _MADV_DOFORK = 10, 11
_MADV_WIPEONFORK, _MADV_KEEPONFORK = 18, 19
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36


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
        name = TWIN_NAME.encode() + b"\0"
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
        self.thread.tracee.kill()
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


@dataclass(frozen=True)
class BegunTwin:
    """A twin that Linux is still making."""

    of: int
    cloning: Cloning

    def finish(self) -> Twin:
        """The twin. Has to be called, whatever happens. Raises as `Cloning.finish`."""
        return Twin(self.of, self.cloning.finish())


def begin_twin(
    remote: RemoteProcess,
    flags: Mapping[int, tuple[int, frozenset[str]]],
    *,
    is_subreaper: bool = False,
) -> BegunTwin:
    """Begin to clone a frozen process.

    Args:
        flags: start -> (end, VmFlags) of its regions that fork(2) leaves out or wipes;
            they are inherited this once.
        is_subreaper: It adopts orphans (PR_SET_CHILD_SUBREAPER), but not the twin.

    Raises:
        TargetError: too many processes.
    """
    before, after = _inheritance(flags)
    if is_subreaper:
        before.append(Call("prctl", (_PR_SET_CHILD_SUBREAPER, 0)))
        after.append(Call("prctl", (_PR_SET_CHILD_SUBREAPER, 1)))
    cloning = clone_apart(remote.leader, remote.spare, before=before, after=after)
    return BegunTwin(remote.frozen.inner_pid, cloning)


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


def park_twins(twins: Iterable[Twin]) -> bytes:
    """Leave the twins parked; what `TWINS_FILE` beside the snapshot has to say of them."""
    parked = [twin.park() for twin in twins]
    document = {"boot": _boot_id(), "twins": [asdict(twin) for twin in parked]}
    return json.dumps(document).encode()


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
