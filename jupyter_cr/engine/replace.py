"""The tree that a restore takes the place of: what it hands on, and its end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_cr.engine.container import namespace
from jupyter_cr.engine.identity import SEED_NAME
from jupyter_cr.engine.twin import TWIN_NAME
from jupyter_cr.errors import CheckpointRestoreError, RestoreError
from jupyter_cr.tracer import libc
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.tasks import list_children, list_pids

__all__ = ["RunningTree"]

_LIMIT = 10.0


@dataclass
class RunningTree:
    """The tree of process `root`. Its members may change until it is ended."""

    root: int
    sockets: set[int] = field(default_factory=set)
    """Inodes of its sockets, after `look_at_files`."""
    held: dict[str, int] = field(default_factory=dict)
    """Link of a file -> our own duplicate of a descriptor on it, after that."""
    sessions: dict[int, int] = field(default_factory=dict)
    """Of all processes that have been looked at."""

    def look_at_files(self, links: Collection[str], stack: ExitStack) -> None:
        """See which sockets it has, and take duplicates of the files whose links are
        given, closed with the stack."""
        for pid in self._members():
            with contextlib.suppress(CheckpointRestoreError, OSError):
                self._look_at_files_of(pid, links, stack)

    def _look_at_files_of(self, pid: int, links: Collection[str], stack: ExitStack) -> None:
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        for name in os.listdir(f"/proc/{pid}/fd"):
            link = os.readlink(f"/proc/{pid}/fd/{name}")
            if link.startswith("socket:["):
                self.sockets.add(int(link[8:-1]))
            if link in links and link not in self.held:
                self.held[link] = libc.pidfd_getfd(pidfd, int(name))
                stack.callback(os.close, self.held[link])

    def end(self) -> None:
        """Kill all of it, and wait until it is gone (its parent may still have to ask
        how it ended). All are stopped before the first is killed: some would do
        something about another's end (multiprocessing's resource tracker removes shared
        memory that the snapshot needs).

        Raises:
            RestoreError: a process does not end.
        """
        pidfds: dict[int, int] = {}
        try:
            while fresh := [p for p in sorted(self._members()) if p not in pidfds]:
                for pid in fresh:
                    with contextlib.suppress(ProcessLookupError):
                        pidfds[pid] = os.pidfd_open(pid)
                        signal.pidfd_send_signal(pidfds[pid], signal.SIGSTOP)
                if set(fresh) - set(pidfds):
                    break
            for pidfd in pidfds.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _wait_for_all(pidfds)
        finally:
            for pidfd in pidfds.values():
                os.close(pidfd)

    def _members(self) -> set[int]:
        """The root, its descendants, the sessions that they lead, and what its descendants
        have left behind in a namespace of its own. Those that keep it are none: they end by
        themselves, when there is nothing that they have to stay for."""
        members = {self.root}
        pending = [self.root]
        while pending:
            with contextlib.suppress(CheckpointRestoreError):
                children = [c for c in list_children(pending.pop()) if c not in members]
                members.update(children)
                pending += children
        space = self._own_namespace()
        for pid in list_pids():
            if self._session_of(pid) in members or (space and self._lives_in(pid, space)):
                members.add(pid)
        return members

    def _session_of(self, pid: int) -> int:
        """0 if it has ended. Looked up once: nobody can enter a session from outside."""
        if pid not in self.sessions:
            with contextlib.suppress(CheckpointRestoreError):
                self.sessions[pid] = read_stat(pid).session
        return self.sessions.get(pid, 0)

    def _own_namespace(self) -> str:
        """The pid namespace of a tree that we had rebuilt, which nobody else lives in;
        empty for another tree."""
        with contextlib.suppress(CheckpointRestoreError, OSError):
            if _is_keeper(read_stat(self.root).ppid):
                return namespace(self.root, "pid")
        return ""

    def _lives_in(self, pid: int, space: str) -> bool:
        """Whether it does; twins and keepers only wait there."""
        with contextlib.suppress(CheckpointRestoreError, OSError):
            return (
                namespace(pid, "pid") == space
                and not _is_keeper(pid)
                and read_stat(pid).comm != TWIN_NAME
            )
        return False


def _is_keeper(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return command.startswith(SEED_NAME.encode() + b"\0")


def _wait_for_all(pidfds: Mapping[int, int]) -> None:
    deadline = time.monotonic() + _LIMIT
    for pid, pidfd in pidfds.items():
        left = max(0.0, deadline - time.monotonic())
        if not select.select([pidfd], [], [], left)[0]:
            raise RestoreError(
                f"process {pid} of the tree to be replaced does not end",
                "It waits in Linux for a device or a network file system: try again "
                "when that has answered.",
            )
