"""End the tree that a restore takes the place of."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from jupyter_cr.engine.descriptors import pipe
from jupyter_cr.engine.descriptors.base import Rebuilding
from jupyter_cr.engine.identity import SEED_NAME
from jupyter_cr.errors import CheckpointRestoreError, RestoreError
from jupyter_cr.tracer import libc
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.tasks import list_children, list_pids

__all__ = ["end_tree", "keep_outer_pipes"]

_LIMIT = 10.0


def end_tree(root: int) -> None:
    """Kill process `root` and all that belongs to it, and wait until it is gone (its
    parent may still have to ask how it ended).

    Raises:
        RestoreError: one does not end.
    """
    pidfds: dict[int, int] = {}
    try:
        while fresh := [pid for pid in _members(root) if pid not in pidfds]:
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError):
                    pidfds[pid] = os.pidfd_open(pid)
                    signal.pidfd_send_signal(pidfds[pid], signal.SIGKILL)
        _wait_for_all(pidfds)
    finally:
        for pidfd in pidfds.values():
            os.close(pidfd)


def _members(root: int) -> list[int]:
    """The tree, its sessions, and, if we had rebuilt it, the processes that keep it."""
    members = {root}
    pending = [root]
    while pending:
        with contextlib.suppress(CheckpointRestoreError):
            children = [c for c in list_children(pending.pop()) if c not in members]
            members.update(children)
            pending += children
    sessions = set()
    for pid in members:
        with contextlib.suppress(CheckpointRestoreError):
            sessions.add(read_stat(pid).session)
    for pid in list_pids():
        with contextlib.suppress(CheckpointRestoreError):
            if read_stat(pid).session in sessions & members:
                members.add(pid)
    return [*_keepers(root), *sorted(members)]


def _keepers(root: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(CheckpointRestoreError, OSError):
        pid = read_stat(root).ppid
        while pid > 1:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if not command.startswith(SEED_NAME.encode() + b"\0"):
                break
            found.append(pid)
            pid = read_stat(pid).ppid
    return found


def _wait_for_all(pidfds: dict[int, int]) -> None:
    deadline = time.monotonic() + _LIMIT
    for pid, pidfd in pidfds.items():
        left = max(0.0, deadline - time.monotonic())
        if not select.select([pidfd], [], [], left)[0]:
            raise RestoreError(
                f"process {pid} of the tree to be replaced does not end",
                "It waits in Linux for a device or a network file system: try again "
                "when that has answered.",
            )


def keep_outer_pipes(root: int, rebuilding: Rebuilding) -> None:
    """Take duplicates of the pipes that lead out of the tree from the one that is
    running, so that they can be handed to the one that takes its place."""
    wanted = {
        f"pipe:[{record.ino}]": record.ino
        for _, record in rebuilding.records(pipe.Record)
        if record.outer
    }
    outer = dict(rebuilding.outer)
    pending = [root] if wanted else []
    while pending:
        pid = pending.pop()
        with contextlib.suppress(CheckpointRestoreError, OSError):
            _keep_of(pid, wanted, outer, rebuilding)
            pending += list_children(pid)
    rebuilding.outer = outer


def _keep_of(
    pid: int, wanted: dict[str, int], outer: dict[int, int], rebuilding: Rebuilding
) -> None:
    pidfd = os.pidfd_open(pid)
    rebuilding.stack.callback(os.close, pidfd)
    for name in os.listdir(f"/proc/{pid}/fd"):
        inode = wanted.get(os.readlink(f"/proc/{pid}/fd/{name}"))
        if inode is not None and inode not in outer:
            outer[inode] = libc.pidfd_getfd(pidfd, int(name))
            rebuilding.stack.callback(os.close, outer[inode])
