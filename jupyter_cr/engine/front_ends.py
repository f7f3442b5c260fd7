"""Programs outside that are connected to the tree: a kernel's front ends.

Their connections do not survive a restore, and ZeroMQ connects again by itself, each
socket after 100 to 200 ms of its own. A kernel that goes on when only some are back
answers into the void: the outputs of a request are published before anybody listens.

So the tree is let go when all have come back to its listeners, or after a limit; and
the first thread of each process, which executes what a front end asks for, a moment
after the others, which shake hands with it.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from jupyter_cr.tracer.sock_diag import State, TcpSocket, tcp_sockets

__all__ = ["FrontEnds", "count_front_ends"]

_RETURN_LIMIT, _ACCEPT_LIMIT, _GREETING_LIMIT = 0.5, 0.2, 0.3
_QUIET, _PAUSE = 0.015, 0.004
_TCPI_UNACKED = struct.Struct("<24xI")
_LOOPBACK = ("127.", "::1")


def count_front_ends(
    sockets: Iterable[TcpSocket], ports: Collection[int], tree: Collection[int]
) -> dict[int, int]:
    """How many connections from outside each of the ports has.

    Args:
        sockets: All of the network namespace.
        ports: At which the tree listens.
        tree: Inodes of the tree's own sockets.
    """
    established = [s for s in sockets if s.state == State.ESTABLISHED and s.inode]
    ends = {(s.local, s.remote): s.inode for s in established}
    counts = dict.fromkeys(ports, 0)
    for end in established:
        if end.local[1] not in counts or end.inode not in tree:
            continue
        other = ends.get((end.remote, end.local))
        is_elsewhere = other is None and not end.remote[0].startswith(_LOOPBACK)
        if is_elsewhere or (other is not None and other not in tree):
            counts[end.local[1]] += 1
    return counts


@dataclass
class FrontEnds:
    """Those that are expected back.

    `listeners`: our own duplicates of the tree's listeners -> how many should connect.
    """

    listeners: dict[int, int]

    @classmethod
    def expect(cls, listeners: Mapping[int, int], counts: Mapping[int, int]) -> FrontEnds:
        """`listeners`: port -> descriptor; `counts`: port -> connections it had."""
        return cls({os.dup(listeners[p]): n for p, n in counts.items() if n and p in listeners})

    def close(self) -> None:
        """Give the duplicates back."""
        for listener in self.listeners:
            os.close(listener)
        self.listeners = {}

    def await_return(self) -> float:
        """Wait until all have connected, nobody accepting yet; seconds waited."""
        return _wait(self.listeners, lambda fd, n: _count_waiting(fd) < n, _RETURN_LIMIT)

    def await_greeting(self) -> None:
        """Wait until all have been accepted, what they had to say first has been read,
        and no more comes."""
        if not self.listeners:
            return
        _wait(self.listeners, lambda fd, _: _count_waiting(fd) > 0, _ACCEPT_LIMIT)
        expected = {_port(listener): n for listener, n in self.listeners.items()}
        began = quiet_since = time.perf_counter()
        before: list[int] = []
        while (now := time.perf_counter()) - began < _GREETING_LIMIT:
            ends = [s for s in tcp_sockets() if _has_been_read(s, expected)]
            received = [end.received for end in ends]
            if received != before or len(ends) < sum(expected.values()):
                quiet_since, before = now, received
            if now - quiet_since > _QUIET:
                return
            time.sleep(_PAUSE)


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
