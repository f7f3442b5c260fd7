"""Programs outside that are connected to the tree: a kernel's front ends.

Their connections do not survive a restore, and ZeroMQ connects again by itself, each
socket after 100 to 200 ms of its own. A kernel that goes on when only some are back
answers into the void: the outputs of a request are published before anybody listens.

So the tree is let go when all have come back to its listeners, or after a limit; and
the first thread of each process, which executes what a front end asks for, a moment
after the others, which shake hands with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from jupyter_cr.engine.descriptors.base import OpenFile
from jupyter_cr.engine.descriptors.tcp_socket import Record, port_numbers
from jupyter_cr.errors import NoSuchProcess, PermissionDenied
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.tasks import list_pids, list_threads
from jupyter_cr.tracer.sock_diag import State, TcpSocket, tcp_sockets

__all__ = ["Connected", "FrontEnds", "connected_then", "count_front_ends"]

_RETURN_LIMIT, _ACCEPT_LIMIT, _GREETING_LIMIT = 0.5, 0.2, 0.5
_QUIET, _PAUSE = 0.015, 0.004
_TCPI_UNACKED = struct.Struct("<24xI")
_LOOPBACK = ("127.", "::1")


@dataclass(frozen=True, slots=True)
class Connected:
    """Connections from outside before the tree is ended: `counts` by port of the tree,
    and the inodes of the `sockets` at the other ends, as far as those are here."""

    counts: dict[int, int] = field(default_factory=dict)
    sockets: frozenset[int] = frozenset()


def count_front_ends(
    sockets: Iterable[TcpSocket], ports: Collection[int], tree: Collection[int]
) -> Connected:
    """Who is connected to the tree.

    Args:
        sockets: All of the network namespace.
        ports: At which the tree listens.
        tree: Inodes of the tree's own sockets.
    """
    established = [s for s in sockets if s.state == State.ESTABLISHED and s.inode]
    ends = {(s.local, s.remote): s.inode for s in established}
    counts = dict.fromkeys(ports, 0)
    others = set()
    for end in established:
        if end.local[1] not in counts or end.inode not in tree:
            continue
        other = ends.get((end.remote, end.local))
        is_elsewhere = other is None and not end.remote[0].startswith(_LOOPBACK)
        if is_elsewhere or (other is not None and other not in tree):
            counts[end.local[1]] += 1
        if other is not None and other not in tree:
            others.add(other)
    return Connected(counts, frozenset(others))


def connected_then(files: Iterable[OpenFile]) -> Connected:
    """Who was connected when the snapshot was taken: the best guess when the tree has
    ended since. They may have gone for good, which nobody waits for long to learn."""
    files = list(files)
    ports = port_numbers(files)
    counts = Counter(
        file.record.local.port
        for file in files
        if isinstance(file.record, Record)
        and file.record.role == "reset"
        and file.record.local is not None
        and file.record.local.port in ports
    )
    return Connected(dict(counts))


@dataclass
class FrontEnds:
    """Those that are expected back.

    `listeners`: our own duplicates of the tree's listeners -> how many should connect.
    `processes`: that they are, as far as they are here and we may look at them.
    """

    listeners: dict[int, int]
    processes: frozenset[int]

    @classmethod
    def expect(cls, listeners: Mapping[int, int], connected: Connected) -> FrontEnds:
        """`listeners`: port -> descriptor."""
        wanted = {
            os.dup(listeners[port]): count
            for port, count in connected.counts.items()
            if count and port in listeners
        }
        holders = _find_holders(connected.sockets) if wanted else frozenset()
        return cls(wanted, holders)

    def close(self) -> None:
        """Give the duplicates back."""
        for listener in self.listeners:
            os.close(listener)
        self.listeners = {}

    def await_return(self) -> float:
        """Wait until all have connected, nobody accepting yet; seconds waited."""
        return _wait(self.listeners, lambda fd, n: _count_waiting(fd) < n, _RETURN_LIMIT)

    def await_greeting(self, threads: Collection[tuple[int, int]]) -> None:
        """Wait until all have been accepted, what they had to say first has been read,
        nobody on either side is busy with it, and no more comes.

        Args:
            threads: (pid, tid), as we see them, of those that have been let go.
        """
        if not self.listeners:
            return
        _wait(self.listeners, lambda fd, _: _count_waiting(fd) > 0, _ACCEPT_LIMIT)
        expected = {_port(listener): n for listener, n in self.listeners.items()}
        began = quiet_since = time.perf_counter()
        before: list[int] = []
        others = [(pid, tid) for pid in self.processes for tid in _threads_of(pid)]
        while (now := time.perf_counter()) - began < _GREETING_LIMIT:
            ends = [s for s in _established() if _has_been_read(s, expected)]
            received = [end.received for end in ends]
            all_here = len(ends) >= sum(expected.values())
            if received != before or not all_here or _are_busy([*threads, *others]):
                quiet_since, before = now, received
            if now - quiet_since > _QUIET:
                return
            time.sleep(_PAUSE)


def _established() -> list[TcpSocket]:
    """All TCP connections of the network namespace."""
    return tcp_sockets(states=(State.ESTABLISHED,))


def _are_busy(threads: Iterable[tuple[int, int]]) -> bool:
    """Whether one of them runs, or would if it got a processor."""
    with contextlib.suppress(NoSuchProcess):
        return any(read_stat(pid, tid).state == "R" for pid, tid in threads)
    return False


def _threads_of(pid: int) -> list[int]:
    with contextlib.suppress(NoSuchProcess, PermissionDenied):
        return list_threads(pid)
    return []


def _find_holders(sockets: Collection[int]) -> frozenset[int]:
    """The processes that hold one of the sockets with those inodes."""
    links = {f"socket:[{inode}]" for inode in sockets}
    found = set()
    for pid in list_pids():
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
            if any(os.readlink(entry) in links for entry in entries):
                found.add(pid)
    return frozenset(found)


def _port(listener: int) -> int:
    with socket.socket(fileno=os.dup(listener)) as duplicate:
        return int(duplicate.getsockname()[1])


def _has_been_read(end: TcpSocket, ports: Collection[int]) -> bool:
    """Whether it has been accepted at one of the ports, has sent, and been heard."""
    accepted = end.state == State.ESTABLISHED and end.inode and end.local[1] in ports
    return bool(accepted and end.received and not end.receive_queue)


def _wait(
    listeners: Mapping[int, int], pending: Callable[[int, int], bool], limit: float
) -> float:
    began = time.perf_counter()
    waiting = dict(listeners)
    while waiting and time.perf_counter() - began < limit:
        waiting = {fd: n for fd, n in waiting.items() if pending(fd, n)}
        if waiting:
            time.sleep(_PAUSE)
    return time.perf_counter() - began


def _count_waiting(listener: int) -> int:
    """Connections not yet accepted: what tcpi_unacked means of a listener (tcp(7),
    Linux net/ipv4/tcp.c tcp_get_info)."""
    with socket.socket(fileno=os.dup(listener)) as duplicate:
        info = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (count,) = _TCPI_UNACKED.unpack_from(info)
    return int(count)
