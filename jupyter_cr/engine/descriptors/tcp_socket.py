"""TCP sockets: listeners, connections inside the tree, connections that leave it.

A connection inside the tree comes back with all bytes under way in both directions and
with either half shut down as it was. Its ports are the recorded ones where Linux
permits it (the client's may still be in TIME_WAIT), in a fork they are new. A
connection that leaves the tree comes back reset, without its unread bytes, so that the
program connects again: the other end has gone on since the snapshot, so no byte of the
old connection would make sense to it.

Bytes that were sent inside the tree, but do not fit into the receiver's queue, can be
read with CAP_NET_ADMIN alone (TCP_REPAIR); without it they refuse the checkpoint.
"""

from __future__ import annotations

import select
import socket
import struct
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from jupyter_cr.engine.descriptors.base import Descriptor, OpenFile, Place, Rebuilding, Tree
from jupyter_cr.engine.descriptors.inet_address import (
    Address,
    bind_recorded,
    listen_recorded,
    loopback,
    read_local,
    read_remote,
)
from jupyter_cr.engine.descriptors.socket_options import (
    SocketKind,
    SocketOption,
    borrow,
    claim,
    collect_options,
    keep,
    rebuild_options,
    rebuild_options_before_bind,
    socket_kind,
)
from jupyter_cr.engine.descriptors.socket_queue import (
    fill_stream,
    peek_stream,
    poll_events,
    read_unsent,
    refuse_urgent,
)
from jupyter_cr.errors import EngineError, RestoreError
from jupyter_cr.tracer.sock_diag import State

__all__ = [
    "ListeningPort",
    "Record",
    "collect",
    "listening_ports",
    "matches",
    "port_numbers",
    "rebuild",
]

_NAME = "tcp_socket"
_SOCKET = socket.SOL_SOCKET
_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_SEND_QUEUE = 19, 20, 2
_TCP_REPAIR_OFF_NO_WP = -1
_SETTLE_SECONDS = 0.05
_SETTLE_STEP = 0.002
_CONNECT_SECONDS = 5.0

_RECEIVED_FIN = frozenset({State.CLOSE_WAIT, State.LAST_ACK, State.CLOSING, State.CLOSE})
_SENT_FIN = frozenset(
    {State.FIN_WAIT1, State.FIN_WAIT2, State.CLOSING, State.LAST_ACK, State.CLOSE}
)
_NO_READING, _NO_WRITING = 1, 2

Role = Literal["unconnected", "listener", "connection", "waiting", "ended", "reset"]


class Record(msgspec.Struct, frozen=True, kw_only=True, tag=_NAME):
    """A TCP socket."""

    inode: int
    family: int
    """AF_INET or AF_INET6."""
    role: Role
    """``connection``: both ends are in the tree. ``waiting``: connected to a listener of
    the tree that has not accepted yet. ``ended``: the other end has closed, so after the
    unread bytes comes the end of the stream. ``reset``: an error comes after them."""
    local: Address | None = None
    remote: Address | None = None
    backlog: int = 0
    pending: int = 0
    """Of a listener: connections that nobody has accepted."""
    unread: bytes = b""
    unsent: bytes = b""
    """Sent by this end, and not in the receiver's queue yet."""
    shutdown: int = 0
    """Bit 1: no more reading; bit 2: no more writing."""
    options: tuple[SocketOption, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        return _NAME, self.inode


@dataclass(frozen=True)
class ListeningPort:
    """A TCP port that a snapshot's tree listens at."""

    id: int
    """The `OpenFile.id`."""
    places: tuple[Place, ...]
    address: Address


def listening_ports(files: Iterable[OpenFile]) -> list[ListeningPort]:
    """All TCP listeners of a snapshot, e.g. to choose `Rebuilding.ports` for a fork."""
    return [
        ListeningPort(file.id, file.places, file.record.local)
        for file in files
        if isinstance(file.record, Record)
        and file.record.role == "listener"
        and file.record.local is not None
    ]


def port_numbers(files: Iterable[OpenFile]) -> frozenset[int]:
    """Where they listen."""
    return frozenset(port.address.port for port in listening_ports(files))


def matches(descriptor: Descriptor) -> bool:
    kind = socket_kind(descriptor)
    return kind is not None and _is_tcp(kind)


def _is_tcp(kind: SocketKind) -> bool:
    return (
        kind.family in (socket.AF_INET, socket.AF_INET6)
        and kind.type == socket.SOCK_STREAM
        and kind.protocol == socket.IPPROTO_TCP
    )


# Collecting


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Reads a TCP socket through its duplicate.

    Raises:
        Unsupported: out-of-band data waits, bytes are under way that only
            CAP_NET_ADMIN may read, or a filter or kernel TLS is attached.
    """
    with borrow(descriptor) as borrowed:
        info = _read_info(borrowed)
        common = Record(
            inode=descriptor.stat.st_ino,
            family=borrowed.family,
            role="unconnected",
            local=read_local(borrowed),
            options=collect_options(descriptor, borrowed),
        )
        if info.state == State.LISTEN:
            return msgspec.structs.replace(
                common, role="listener", backlog=info.backlog, pending=info.pending
            )
        refuse_urgent(descriptor, borrowed)
        if info.state == State.SYN_SENT:
            return msgspec.structs.replace(common, role="reset")
        if info.state == State.CLOSE:
            return _collect_closed(descriptor, borrowed, common)
        return _collect_connected(descriptor, borrowed, common, info, tree)


def _collect_closed(
    descriptor: Descriptor, borrowed: socket.SocketType, common: Record
) -> Record:
    # A socket that never was connected has POLLHUP too, but nothing was shut down.
    events = poll_events(borrowed)
    if not events & select.POLLRDHUP:
        return common
    return msgspec.structs.replace(
        common,
        role="reset" if events & select.POLLERR else "ended",
        unread=peek_stream(descriptor, borrowed),
        shutdown=_NO_WRITING,
    )


def _collect_connected(
    descriptor: Descriptor,
    borrowed: socket.SocketType,
    common: Record,
    info: _Info,
    tree: Tree,
) -> Record:
    remote = read_remote(borrowed)
    shutdown = _NO_WRITING if info.state in _SENT_FIN else 0
    if info.state not in _RECEIVED_FIN and poll_events(borrowed) & select.POLLRDHUP:
        shutdown |= _NO_READING
    index = _index(tree)
    peer = index.find_peer(common.local, remote)
    if peer is descriptor:
        raise descriptor.unsupported(
            "is a TCP socket that is connected to itself", "Close it first."
        )
    if peer is not None:
        return msgspec.structs.replace(
            common,
            role="connection",
            remote=remote,
            unread=peek_stream(descriptor, borrowed),
            unsent=_collect_unsent(descriptor, borrowed, peer),
            shutdown=shutdown,
        )
    if info.state in _RECEIVED_FIN:
        return msgspec.structs.replace(
            common,
            role="ended",
            remote=remote,
            unread=peek_stream(descriptor, borrowed),
            shutdown=shutdown,
        )
    waits = index.listens_at(remote) and not info.sent and not info.not_sent
    return msgspec.structs.replace(
        common, role="waiting" if waits else "reset", remote=remote
    )


def _collect_unsent(
    descriptor: Descriptor, borrowed: socket.SocketType, peer: Descriptor
) -> bytes:
    """What this end has sent and the other has not got: the window is closed, or the
    loopback device is still at it."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        missing = _count_missing(borrowed, peer)
        if missing <= 0:
            return b""
        data = _read_send_queue(borrowed)
        if data is not None:
            return data[-missing:]
        if time.monotonic() > deadline:
            raise descriptor.unsupported(
                f"is a TCP connection inside the tree with {missing} bytes under way that "
                f"{peer.where} has no room for",
                "Try again when the receiver has read, or run with CAP_NET_ADMIN.",
            )
        time.sleep(_SETTLE_STEP)


def _count_missing(borrowed: socket.SocketType, peer: Descriptor) -> int:
    # SIOCOUTQ alone also counts what lies in the receiver's queue and is only not
    # acknowledged yet, so both ends' counters of payload are compared.
    if not read_unsent(borrowed):
        return 0
    info = _read_info(borrowed)
    with borrow(peer) as borrowed_peer:
        peer_info = _read_info(borrowed_peer)
    if peer_info.state in _RECEIVED_FIN:
        return 0
    waiting_fin = 1 if info.state in _SENT_FIN and info.not_sent else 0
    return info.sent - peer_info.received + info.not_sent - waiting_fin


def _read_send_queue(borrowed: socket.SocketType) -> bytes | None:
    """The send queue, from the first byte not acknowledged; None without CAP_NET_ADMIN.

    TCP_REPAIR (Linux 3.5) is left without a window probe, and SO_REUSEADDR, which it
    changes, is put back.
    """
    reuse = borrowed.getsockopt(_SOCKET, socket.SO_REUSEADDR)
    try:
        borrowed.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    except PermissionError:
        return None
    try:
        borrowed.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, _TCP_SEND_QUEUE)
        return borrowed.recv(read_unsent(borrowed), socket.MSG_PEEK | socket.MSG_DONTWAIT)
    finally:
        borrowed.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _TCP_REPAIR_OFF_NO_WP)
        borrowed.setsockopt(_SOCKET, socket.SO_REUSEADDR, reuse)


class _Info(NamedTuple):
    """What is needed of struct tcp_info (linux/tcp.h, Linux 4.19)."""

    state: int
    pending: int
    """Of a listener."""
    backlog: int
    """Of a listener."""
    received: int
    """Bytes of payload, ever."""
    sent: int
    """Bytes of payload, ever, each counted once."""
    not_sent: int
    """Bytes that have not been sent a first time; a waiting FIN counts one."""


_INFO = struct.Struct("=B23xII96xQ8xI52xQQ")


def _read_info(borrowed: socket.SocketType) -> _Info:
    raw = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    state, pending, backlog, received, not_sent, sent, again = _INFO.unpack(
        raw.ljust(_INFO.size, b"\0")
    )
    return _Info(state, pending, backlog, received, sent - again, not_sent)


class _Index:
    """The tree's TCP sockets by address."""

    def __init__(self, tree: Tree) -> None:
        self.tree = weakref.ref(tree)
        self.connections: dict[tuple[object, object], Descriptor] = {}
        self.listeners: set[tuple[str, int]] = set()
        self.wildcard_ports: set[int] = set()
        for descriptor in tree.descriptors:
            if matches(descriptor):
                self._add(descriptor)

    def find_peer(self, local: Address | None, remote: Address | None) -> Descriptor | None:
        if local is None or remote is None:
            return None
        return self.connections.get((remote.plain, local.plain))

    def listens_at(self, address: Address | None) -> bool:
        return address is not None and (
            address.plain in self.listeners or address.port in self.wildcard_ports
        )

    def _add(self, descriptor: Descriptor) -> None:
        with borrow(descriptor) as borrowed:
            local, remote = read_local(borrowed), read_remote(borrowed)
            listening = borrowed.getsockopt(_SOCKET, socket.SO_ACCEPTCONN)
        if local is not None and remote is not None:
            self.connections[local.plain, remote.plain] = descriptor
        elif local is not None and listening:
            self.listeners.add(local.plain)
            if local.is_wildcard:
                self.wildcard_ports.add(local.port)


_latest: list[_Index] = []


def _index(tree: Tree) -> _Index:
    """The index of a tree: made at its first TCP socket, found by the others."""
    if not _latest or _latest[0].tree() is not tree:
        _latest[:] = [_Index(tree)]
    return _latest[0]


# Rebuilding


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Makes a TCP socket again; the first one makes them all.

    Raises:
        AddressTaken: somebody else has the port.
        RestoreError: this machine cannot take the socket now.
    """
    if record.key not in rebuilding.memo:
        _rebuild_all([found for _file, found in rebuilding.records(Record)], rebuilding)
    return claim(rebuilding, record.key)


def _rebuild_all(records: list[Record], rebuilding: Rebuilding) -> None:
    """All recorded ports are taken first, so that no socket that gets a port of Linux's
    choice takes one of them. Only then come the connections, each of which needs a
    socket that listens at its port for a moment, and after them the listeners: two
    sockets cannot listen at one port."""
    bound = {}
    for record in records:
        if record.role in ("unconnected", "listener"):
            bound[record.inode] = _rebuild_bound(record, rebuilding)
    for client, server in _iter_connections(records):
        _rebuild_pair(client, server, rebuilding)
    listeners = [record for record in records if record.role == "listener"]
    for record in listeners:
        _start_listening(bound[record.inode], record, records, rebuilding)
    for record in records:
        if record.role == "waiting":
            _rebuild_waiting(record, _find_listener(record, listeners, bound), rebuilding)
        elif record.role == "ended":
            _rebuild_ended(record, rebuilding)
        elif record.role == "reset":
            _rebuild_reset(record, rebuilding)


def _rebuild_bound(record: Record, rebuilding: Rebuilding) -> socket.socket:
    rebuilt = _new_socket(record, rebuilding)
    keep(rebuilding, record.key, rebuilt)
    if record.local is not None:
        what = "TCP listener" if record.role == "listener" else "TCP socket"
        _bind(rebuilt, record.local, what, rebuilding)
    if record.role == "unconnected":
        _set_options(rebuilt, record, rebuilding)
    return rebuilt


def _start_listening(
    rebuilt: socket.socket, record: Record, records: list[Record], rebuilding: Rebuilding
) -> None:
    listen_recorded(rebuilt, record.backlog, "TCP listener")
    _set_options(rebuilt, record, rebuilding)
    waiting = sum(
        other.role == "waiting" and _accepts(record, other.remote) for other in records
    )
    if record.pending > waiting:
        rebuilding.warnings.append(
            f"{record.pending - waiting} connection(s) to {record.local} that the program "
            "had not accepted yet were dropped."
        )


def _find_listener(
    client: Record, listeners: list[Record], bound: dict[int, socket.socket]
) -> Address:
    for listener in listeners:
        if _accepts(listener, client.remote):
            return Address(*bound[listener.inode].getsockname())
    raise EngineError(f"The image lacks the listener at {client.remote}")


def _accepts(listener: Record, address: Address | None) -> bool:
    return (
        listener.local is not None
        and address is not None
        and listener.local.port == address.port
        and (listener.local.is_wildcard or listener.local.plain == address.plain)
    )


def _rebuild_waiting(client: Record, listening: Address, rebuilding: Rebuilding) -> None:
    assert client.remote is not None
    target = client.remote.with_port(listening.port)
    with ExitStack() as stack:
        rebuilt = stack.enter_context(_connect(client, target, rebuilding))
        _shut_down(rebuilt, client)
        _finish(rebuilt, client, rebuilding)
        stack.pop_all()


def _rebuild_ended(record: Record, rebuilding: Rebuilding) -> None:
    with ExitStack() as stack:
        rebuilt, peer = _loopback_pair(record, rebuilding, stack)
        fill_stream(peer, rebuilt, record.unread)
        peer.close()
        _wait_for(rebuilt, select.POLLRDHUP)
        if record.shutdown & _NO_WRITING:
            rebuilt.shutdown(socket.SHUT_WR)
        _finish(rebuilt, record, rebuilding)
        stack.pop_all()


def _rebuild_reset(record: Record, rebuilding: Rebuilding) -> None:
    with ExitStack() as stack:
        rebuilt, peer = _loopback_pair(record, rebuilding, stack)
        fill_stream(peer, rebuilt, record.unread)
        peer.setsockopt(_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        _wait_for(rebuilt, select.POLLERR)
        _finish(rebuilt, record, rebuilding)
        stack.pop_all()


def _iter_connections(records: list[Record]) -> Iterator[tuple[Record, Record]]:
    """The connections with both ends in the tree: (client, server)."""
    ports = _listening_ports(records)
    alone: dict[tuple[object, object], Record] = {}
    for record in records:
        if record.role != "connection" or record.local is None or record.remote is None:
            continue
        peer = alone.pop((record.remote.plain, record.local.plain), None)
        if peer is None:
            alone[record.local.plain, record.remote.plain] = record
        elif record.local.port in ports or record.remote.port not in ports:
            yield peer, record
        else:
            yield record, peer
    for record in alone.values():
        raise EngineError(f"The image lacks the other end of {record.local}'s connection")


def _listening_ports(records: Iterable[Record]) -> set[int]:
    return {
        record.local.port
        for record in records
        if record.role == "listener" and record.local is not None
    }


def _rebuild_pair(client: Record, server: Record, rebuilding: Rebuilding) -> None:
    with ExitStack() as stack:
        with _new_socket(server, rebuilding) as listening:
            target = _bind_server(listening, server, rebuilding)
            client_end = stack.enter_context(_connect(client, target, rebuilding))
            server_end = stack.enter_context(_accept(listening, client_end))
        fill_stream(client_end, server_end, server.unread + client.unsent)
        fill_stream(server_end, client_end, client.unread + server.unsent)
        for rebuilt, record in ((client_end, client), (server_end, server)):
            _shut_down(rebuilt, record)
            _finish(rebuilt, record, rebuilding)
        stack.pop_all()


def _shut_down(rebuilt: socket.socket, record: Record) -> None:
    if record.shutdown & _NO_WRITING:
        rebuilt.shutdown(socket.SHUT_WR)
    if record.shutdown & _NO_READING:
        rebuilt.shutdown(socket.SHUT_RD)


def _bind_server(
    listening: socket.socket, server: Record, rebuilding: Rebuilding
) -> Address:
    """Listens where a connection's serving end was: exactly there if a program of the
    tree still listens at that port, else there if it can be had."""
    assert server.local is not None
    records = (record for _file, record in rebuilding.records(Record))
    if server.local.port in _listening_ports(records):
        bound = _bind(listening, server.local, "TCP connection", rebuilding)
        listen_recorded(listening, 16, "TCP connection")
        return bound
    wanted = server.local if rebuilding.mode == "restore" else server.local.with_port(0)
    for address in (wanted, wanted.with_port(0), loopback(listening.family)):
        try:
            listening.bind(address.sockaddr(listening.family))
            listening.listen(1)
        except OSError:
            continue
        return Address(*listening.getsockname())
    raise RestoreError(
        f"No local TCP port for the connection at {server.local}",
        "Check that the loopback device is up (ip link set lo up).",
    )


def _connect(client: Record, target: Address, rebuilding: Rebuilding) -> socket.socket:
    """Connects from the recorded port in a restore. Linux may still hold the old
    connection in TIME_WAIT; then from another port, and from another address when this
    machine has lost it."""
    assert client.local is not None
    sources: list[Address | None] = [client.local.with_port(0), None]
    if rebuilding.mode == "restore":
        sources.insert(0, client.local)
    failure: OSError | None = None
    for source in sources:
        rebuilt = _new_socket(client, rebuilding)
        try:
            if source is not None:
                rebuilt.bind(source.sockaddr(rebuilt.family))
            rebuilt.connect(_as_seen_by(rebuilt.family, target))
        except OSError as error:
            rebuilt.close()
            failure = error
            continue
        return rebuilt
    raise RestoreError(
        f"The TCP connection to {client.remote} inside the tree could not be made: "
        f"{failure}",
        "Check that the loopback device is up and not filtered.",
    ) from failure


def _as_seen_by(
    family: int, target: Address
) -> tuple[str, int] | tuple[str, int, int, int]:
    host, port = target.plain
    if target.is_wildcard:
        host = loopback(socket.AF_INET if "." in host else socket.AF_INET6).host
    if family == socket.AF_INET6 and "." in host:
        return "::ffff:" + host, port, 0, 0
    return Address(host, port, target.flow, target.scope).sockaddr(family)


def _accept(listening: socket.socket, client: socket.socket) -> socket.socket:
    """The other end of `client`. A stranger who connected meanwhile is turned away, as
    he would have been before this moment."""
    local, remote = Address(*client.getsockname()), Address(*client.getpeername())
    listening.settimeout(_CONNECT_SECONDS)
    while True:
        accepted, address = listening.accept()
        if (
            Address(*address).plain == local.plain
            and Address(*accepted.getsockname()).plain == remote.plain
        ):
            accepted.setblocking(True)
            return accepted
        accepted.close()


def _loopback_pair(
    record: Record, rebuilding: Rebuilding, stack: ExitStack
) -> tuple[socket.socket, socket.socket]:
    """A connection of this process with itself: (the record's end, a peer to close)."""
    listening, target = _loopback_listener(record.family, rebuilding)
    rebuilt = stack.enter_context(_new_socket(record, rebuilding))
    rebuilt.connect(_as_seen_by(record.family, target))
    return rebuilt, stack.enter_context(_accept(listening, rebuilt))


def _loopback_listener(
    family: int, rebuilding: Rebuilding
) -> tuple[socket.socket, Address]:
    key = (_NAME, "loopback listener", family)
    if key not in rebuilding.memo:
        listening = rebuilding.stack.enter_context(_listen_on_loopback(family))
        rebuilding.memo[key] = (listening, Address(*listening.getsockname()))
    kept: tuple[socket.socket, Address] = rebuilding.memo[key]
    return kept


def _listen_on_loopback(family: int) -> socket.socket:
    # Without IPv6 on the loopback device, an IPv6 socket still reaches 127.0.0.1.
    for candidate in dict.fromkeys((family, int(socket.AF_INET))):
        listening = socket.socket(candidate, socket.SOCK_STREAM)
        try:
            listening.bind(loopback(candidate).sockaddr(candidate))
            listening.listen(16)
        except OSError:
            listening.close()
            continue
        return listening
    raise RestoreError(
        "No socket can listen on the loopback device",
        "Bring it up: ip link set lo up.",
    )


def _new_socket(record: Record, rebuilding: Rebuilding) -> socket.socket:
    rebuilt = socket.socket(record.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    rebuild_options_before_bind(rebuilt, record.options, rebuilding.warnings)
    # The tree's old connections may still be in TIME_WAIT. _set_options() sets what was.
    rebuilt.setsockopt(_SOCKET, socket.SO_REUSEADDR, 1)
    return rebuilt


def _finish(rebuilt: socket.socket, record: Record, rebuilding: Rebuilding) -> None:
    _set_options(rebuilt, record, rebuilding)
    keep(rebuilding, record.key, rebuilt)


def _set_options(rebuilt: socket.socket, record: Record, rebuilding: Rebuilding) -> None:
    rebuild_options(rebuilt, record.options, rebuilding.warnings)
    reuse = any(option.name == "SO_REUSEADDR" for option in record.options)
    rebuilt.setsockopt(_SOCKET, socket.SO_REUSEADDR, int(reuse))


def _bind(
    rebuilt: socket.socket, address: Address, what: str, rebuilding: Rebuilding
) -> Address:
    """Binds to the recorded port, in a fork to the port that stands for it there."""
    if rebuilding.mode == "restore":
        return bind_recorded(rebuilt, address, what)
    port = rebuilding.ports.get(address.port, 0)
    bound = bind_recorded(rebuilt, address.with_port(port), what)
    rebuilding.ports[address.port] = bound.port
    return bound


def _wait_for(rebuilt: socket.socket, event: int) -> None:
    deadline = time.monotonic() + _CONNECT_SECONDS
    while not poll_events(rebuilt) & event:
        if time.monotonic() > deadline:
            raise EngineError("The end of a TCP connection did not arrive on loopback")
        time.sleep(_SETTLE_STEP)
