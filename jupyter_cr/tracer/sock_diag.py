"""What Linux tells about sockets that no call on the socket itself tells: sock_diag(7).

A netlink client of its own, because two dumps are all that is needed and a library
for the rest of netlink would be imported while the tree is frozen. A dump of a
hundred sockets takes well under a millisecond and needs no privilege. Only sockets
of this process's network namespace are seen.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum

import msgspec

from jupyter_cr.errors import Unsupported

__all__ = ["State", "TcpSocket", "UnixSocket", "tcp_sockets", "unix_sockets"]

NETLINK_SOCK_DIAG = 4
"""linux/netlink.h; named NETLINK_INET_DIAG before Linux 3.3."""
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_DUMP_REQUEST = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_ALL_STATES = 0xFFFFFFFF
_RECEIVE_SIZE = 1 << 16

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")

_UNIX_REQUEST = struct.Struct("=BBHIII8s")
_UNIX_MESSAGE = struct.Struct("=BBBxI8x")
_UNIX_SHOW = 0x01 | 0x02 | 0x04 | 0x08 | 0x10
_UNIX_NAME, _UNIX_VFS, _UNIX_PEER, _UNIX_ICONS, _UNIX_RQLEN, _, _UNIX_SHUTDOWN = range(7)

_INET_REQUEST = struct.Struct("=BBBxI48s")
_INET_MESSAGE = struct.Struct("=BBBB2s2s16s16sI8xIIIII")
_INET_INFO = 2
_INET_SHOW_INFO = 1 << (_INET_INFO - 1)
_BYTES_RECEIVED = struct.Struct("=128xQ")
"""Of struct tcp_info (linux/tcp.h)."""


class State(IntEnum):
    """Socket states of include/net/tcp_states.h; unix sockets use three of them."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12
    BOUND_INACTIVE = 13


class UnixSocket(msgspec.Struct, frozen=True):
    """One unix socket (linux/unix_diag.h)."""

    inode: int
    type: int
    """SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET."""
    state: int
    """A `State`: ESTABLISHED, CLOSE (not connected) or LISTEN. A datagram socket is
    ESTABLISHED as soon as anybody has connected to it."""
    peer: int = 0
    """Inode of the other end; 0 when there is none, when it has been closed, and when
    the connection waits to be accepted (see `pending` of its listener)."""
    name: bytes | None = None
    """Bound address, abstract ones with their leading NUL; None when not bound."""
    receive_queue: int = 0
    """Bytes unread; of a listener, connections not yet accepted."""
    send_queue: int = 0
    """Memory in flight, not a count of bytes; of a listener, its backlog."""
    vfs: tuple[int, int] | None = None
    """(st_dev, st_ino) of the socket's file when it is bound to a path."""
    pending: tuple[int, ...] = ()
    """Of a listener: inodes of the connecting ends that are not accepted yet; 0 for
    one that has been closed meanwhile."""
    shutdown: int = 0
    """Bit 1: no more receiving; bit 2: no more sending."""
    connected: bool = False
    """Whether it has another end, be that closed or not accepted yet."""


class TcpSocket(msgspec.Struct, frozen=True):
    """One TCP socket (linux/inet_diag.h)."""

    inode: int
    """0 when no process holds it any more, or it is not accepted yet."""
    family: int
    state: int
    local: tuple[str, int]
    remote: tuple[str, int]
    receive_queue: int
    """Bytes unread; of a listener, connections not yet accepted."""
    send_queue: int
    """Bytes not acknowledged by the other end; of a listener, its backlog."""
    uid: int
    received: int
    """Bytes received so far (tcpi_bytes_received, Linux 4.2)."""


def unix_sockets() -> list[UnixSocket]:
    """All unix sockets of this network namespace.

    Raises:
        Unsupported: this Linux was built without CONFIG_UNIX_DIAG.
    """
    request = _UNIX_REQUEST.pack(
        socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _UNIX_SHOW, b"\xff" * 8
    )
    return [_parse_unix(message) for message in _iter_messages(request)]


def tcp_sockets(*families: int, states: Iterable[State] = tuple(State)) -> list[TcpSocket]:
    """All TCP sockets of this network namespace that are bound, listening or connected.

    Args:
        families: AF_INET, AF_INET6; both when none is given.
        states: only those. After many connections, most sockets are in TIME_WAIT.

    Raises:
        Unsupported: this Linux was built without CONFIG_INET_DIAG.
    """
    wanted = sum(1 << state for state in set(states))
    return [
        _parse_inet(message)
        for family in families or (socket.AF_INET, socket.AF_INET6)
        for message in _iter_messages(
            _INET_REQUEST.pack(
                family, socket.IPPROTO_TCP, _INET_SHOW_INFO, wanted, bytes(48)
            )
        )
    ]


def _iter_messages(request: bytes) -> Iterator[memoryview]:
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
    ) as netlink:
        netlink.send(
            _HEADER.pack(
                _HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP_REQUEST, 1, 0
            )
            + request
        )
        while True:
            datagram = memoryview(netlink.recv(_RECEIVE_SIZE))
            while datagram:
                length, kind, _flags, _sequence, _pid = _HEADER.unpack_from(datagram)
                body = datagram[_HEADER.size : length]
                if kind == _NLMSG_DONE:
                    _check(int.from_bytes(body[:4], "little", signed=True))
                    return
                if kind == _NLMSG_ERROR:
                    _check(int.from_bytes(body[:4], "little", signed=True))
                else:
                    yield body
                datagram = datagram[(length + 3) & ~3 :]


def _check(code: int) -> None:
    if code == -errno.ENOENT:
        raise Unsupported(
            "Linux does not tell about sockets here (no sock_diag for this family)",
            "Load the modules unix_diag and tcp_diag (modprobe), or ask for them.",
        )
    if code < 0:
        raise OSError(-code, os.strerror(-code), "sock_diag")


def _iter_attributes(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    while len(body) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(body)
        yield kind, body[_ATTRIBUTE.size : length]
        body = body[(length + 3) & ~3 :]


def _parse_unix(body: memoryview) -> UnixSocket:
    _family, type_, state, inode = _UNIX_MESSAGE.unpack_from(body)
    peer = receive = send = shutdown = 0
    name: bytes | None = None
    vfs: tuple[int, int] | None = None
    pending: tuple[int, ...] = ()
    connected = False
    for kind, value in _iter_attributes(body[_UNIX_MESSAGE.size :]):
        if kind == _UNIX_NAME:
            name = bytes(value)
        elif kind == _UNIX_VFS:
            vfs_inode, device = struct.unpack("=II", value)
            vfs = (os.makedev(device >> 20, device & 0xFFFFF), vfs_inode)
        elif kind == _UNIX_PEER:
            (peer,) = struct.unpack("=I", value)
            connected = True
        elif kind == _UNIX_ICONS:
            pending = struct.unpack(f"={len(value) // 4}I", value)
        elif kind == _UNIX_RQLEN:
            receive, send = struct.unpack("=II", value)
        elif kind == _UNIX_SHUTDOWN:
            shutdown = value[0]
    if name is not None and not name.startswith(b"\0"):
        name = name.rstrip(b"\0")
    return UnixSocket(
        inode, type_, state, peer, name, receive, send, vfs, pending, shutdown, connected
    )


def _parse_inet(body: memoryview) -> TcpSocket:
    (
        family, state, _timer, _retrans, local_port, remote_port, local, remote,
        _interface, _expires, receive, send, uid, inode,
    ) = _INET_MESSAGE.unpack_from(body)  # fmt: skip
    width = 4 if family == socket.AF_INET else 16
    return TcpSocket(
        inode,
        family,
        state,
        (socket.inet_ntop(family, local[:width]), int.from_bytes(local_port, "big")),
        (socket.inet_ntop(family, remote[:width]), int.from_bytes(remote_port, "big")),
        receive,
        send,
        uid,
        _parse_received(body),
    )


def _parse_received(body: memoryview) -> int:
    for kind, value in _iter_attributes(body[_INET_MESSAGE.size :]):
        if kind == _INET_INFO and len(value) >= _BYTES_RECEIVED.size:
            return int(_BYTES_RECEIVED.unpack_from(value)[0])
    return 0
