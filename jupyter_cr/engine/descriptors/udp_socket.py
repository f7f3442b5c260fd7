"""UDP sockets, with their multicast groups and unread datagrams.

All UDP sockets of a tree are made together: bound first, then filled, then connected,
because a connected socket takes datagrams from its peer alone. An unread datagram is
sent again from its sender's address: by the sender's own rebuilt socket if that is in
the tree, else from a socket bound there for a moment. Where this machine does not have
that address, the datagram is dropped with a warning, as UDP itself might have.

A bound socket gets a new port in a fork. Datagrams behind an error that the program has
not seen yet (ICMP, IP_RECVERR) are dropped: reading them would take the error away.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec

from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.engine.descriptors.inet_address import (
    Address,
    bind_recorded,
    loopback,
    read_local,
    read_remote,
)
from jupyter_cr.engine.descriptors.socket_options import (
    SocketOption,
    borrow,
    claim,
    collect_options,
    getsockopt_in_place,
    keep,
    rebuild_options,
    rebuild_options_before_bind,
    socket_kind,
)
from jupyter_cr.engine.descriptors.socket_queue import (
    peek_messages,
    poll_events,
    read_queued,
)

__all__ = ["Record", "collect", "matches", "rebuild"]

_NAME = "udp_socket"
_MCAST_JOIN_GROUP = 42
_MCAST_MSFILTER = 48
_MCAST_EXCLUDE = 0
_GROUP_SIZE = 136
_FILTER_SIZE = 144


class Datagram(msgspec.Struct, frozen=True, array_like=True):
    """An unread datagram."""

    data: bytes
    sender: Address


class Membership(msgspec.Struct, frozen=True, array_like=True):
    """A multicast group that the socket has joined, and on which interface."""

    interface: str
    group: str


class Record(msgspec.Struct, frozen=True, kw_only=True, tag=_NAME):
    """A UDP socket."""

    inode: int
    family: int
    """AF_INET or AF_INET6."""
    local: Address | None = None
    remote: Address | None = None
    unread: tuple[Datagram, ...] = ()
    hidden: bool = False
    """Whether datagrams may have been behind an error, and were left out."""
    groups: tuple[Membership, ...] = ()
    shutdown: bool = False
    """Whether reading was shut down."""
    options: tuple[SocketOption, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        return _NAME, self.inode


def matches(descriptor: Descriptor) -> bool:
    kind = socket_kind(descriptor)
    return (
        kind is not None
        and kind.family in (socket.AF_INET, socket.AF_INET6)
        and kind.type == socket.SOCK_DGRAM
        and kind.protocol == socket.IPPROTO_UDP
    )


# Collecting


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Reads a UDP socket through its duplicate.

    Raises:
        Unsupported: a filter is attached, or a multicast group has source filters.
    """
    with borrow(descriptor) as borrowed:
        events = poll_events(borrowed)
        hidden = bool(events & select.POLLERR)
        return Record(
            inode=descriptor.stat.st_ino,
            family=borrowed.family,
            local=read_local(borrowed),
            remote=read_remote(borrowed),
            unread=() if hidden else tuple(_iter_unread(descriptor, borrowed)),
            hidden=hidden and read_queued(borrowed) > 0,
            groups=tuple(_iter_groups(descriptor, borrowed)),
            shutdown=bool(events & select.POLLRDHUP),
            options=collect_options(descriptor, borrowed),
        )


def _iter_unread(descriptor: Descriptor, borrowed: socket.SocketType) -> Iterator[Datagram]:
    for data, sender in peek_messages(descriptor, borrowed):
        if isinstance(sender, tuple):
            yield Datagram(data, Address(*sender))


def _iter_groups(
    descriptor: Descriptor, borrowed: socket.SocketType
) -> Iterator[Membership]:
    """Asks for each group that any socket has joined whether this one has.

    /proc/net/igmp lists them by interface only; MCAST_MSFILTER (ip(7), RFC 3678)
    fails with EADDRNOTAVAIL where the socket is no member.
    """
    if borrowed.family == socket.AF_INET:
        level, groups = socket.IPPROTO_IP, _iter_ipv4_groups()
    else:
        level, groups = socket.IPPROTO_IPV6, _iter_ipv6_groups()
    for interface, group in groups:
        query = _group_request(interface, group) + bytes(_FILTER_SIZE - _GROUP_SIZE)
        try:
            answer = getsockopt_in_place(borrowed, level, _MCAST_MSFILTER, query)
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
                continue
            raise
        mode, sources = struct.unpack_from("=II", answer, _GROUP_SIZE)
        if mode != _MCAST_EXCLUDE or sources:
            raise descriptor.unsupported(
                f"is a UDP socket with a source filter on the multicast group {group}",
                "Leave the group before the checkpoint.",
            )
        yield Membership(interface, group)


def _iter_ipv4_groups() -> Iterator[tuple[str, str]]:
    interface = ""
    for line in _read_lines("/proc/net/igmp")[1:]:
        words = line.split()
        if not line.startswith("\t"):
            interface = words[1]
        else:
            # Printed as a number of this machine, not in the network's order.
            yield interface, socket.inet_ntoa(struct.pack("=I", int(words[0], 16)))


def _iter_ipv6_groups() -> Iterator[tuple[str, str]]:
    for line in _read_lines("/proc/net/igmp6"):
        words = line.split()
        yield words[1], socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[2]))


def _read_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []


def _group_request(interface: str, group: str) -> bytes:
    """struct group_req of linux/in.h: interface index, struct sockaddr_storage."""
    if ":" in group:
        address = struct.pack("=HHI", socket.AF_INET6, 0, 0) + socket.inet_pton(
            socket.AF_INET6, group
        )
    else:
        address = struct.pack("=HH", socket.AF_INET, 0) + socket.inet_aton(group)
    index = struct.pack("=II", socket.if_nametoindex(interface), 0)
    return (index + address).ljust(_GROUP_SIZE, b"\0")


# Rebuilding


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Makes a UDP socket again; the first one makes them all.

    Raises:
        AddressTaken: somebody else has the port.
        RestoreError: this machine cannot take the socket now.
    """
    if record.key not in rebuilding.memo:
        _rebuild_all(rebuilding)
    return claim(rebuilding, record.key)


def _rebuild_all(rebuilding: Rebuilding) -> None:
    pairs: list[tuple[Record, socket.socket]] = []
    for _file, record in rebuilding.records(Record):
        pairs.append((record, _rebuild_bound(record, rebuilding)))
    by_address = {
        record.local.plain: rebuilt for record, rebuilt in pairs if record.local is not None
    }
    for record, rebuilt in pairs:
        _rebuild_unread(record, rebuilt, by_address, rebuilding)
    for record, rebuilt in pairs:
        _connect(record, rebuilt, by_address, rebuilding)
        rebuild_options(rebuilt, record.options, rebuilding.warnings)


def _rebuild_bound(record: Record, rebuilding: Rebuilding) -> socket.socket:
    rebuilt = socket.socket(record.family, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    keep(rebuilding, record.key, rebuilt)
    rebuild_options_before_bind(rebuilt, record.options, rebuilding.warnings)
    if record.local is not None:
        _bind(rebuilt, record.local, rebuilding)
    for membership in record.groups:
        _join(rebuilt, membership, rebuilding)
    return rebuilt


def _bind(rebuilt: socket.socket, local: Address, rebuilding: Rebuilding) -> None:
    if rebuilding.mode == "restore":
        bind_recorded(rebuilt, local, "UDP socket")
        return
    wanted = local.with_port(rebuilding.ports.get(local.port, 0))
    try:
        rebuilt.bind(wanted.sockaddr(rebuilt.family))
    except OSError:
        bind_recorded(rebuilt, local.with_port(0), "UDP socket")
    rebuilding.ports.setdefault(local.port, Address(*rebuilt.getsockname()).port)


def _join(rebuilt: socket.socket, membership: Membership, rebuilding: Rebuilding) -> None:
    level = socket.IPPROTO_IPV6 if rebuilt.family == socket.AF_INET6 else socket.IPPROTO_IP
    try:
        request = _group_request(membership.interface, membership.group)
        rebuilt.setsockopt(level, _MCAST_JOIN_GROUP, request)
    except OSError as error:
        rebuilding.warnings.append(
            f"A UDP socket could not join the multicast group {membership.group} on "
            f"{membership.interface} again: {error.strerror}."
        )


def _rebuild_unread(
    record: Record,
    rebuilt: socket.socket,
    by_address: dict[tuple[str, int], socket.socket],
    rebuilding: Rebuilding,
) -> None:
    dropped = 0
    with ExitStack() as stack:
        senders: dict[Address, socket.socket | None] = {}
        for datagram in record.unread:
            sender = _find_peer(datagram.sender, by_address)
            if sender is None:
                if datagram.sender not in senders:
                    senders[datagram.sender] = _bind_sender(
                        record.family, datagram.sender, stack
                    )
                sender = senders[datagram.sender]
            dropped += sender is None or not _send(sender, rebuilt, datagram.data)
    if dropped:
        rebuilding.warnings.append(
            f"{dropped} unread datagram(s) of the UDP socket at {record.local} were "
            "dropped: this machine cannot send from their senders' addresses."
        )
    if record.hidden:
        rebuilding.warnings.append(
            f"Unread datagrams of the UDP socket at {record.local} were dropped: they "
            "stood behind an error that the program had not seen yet."
        )


def _bind_sender(family: int, sender: Address, stack: ExitStack) -> socket.socket | None:
    temporary = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    temporary.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        temporary.bind(sender.sockaddr(family))
    except OSError:
        return None
    return temporary


def _send(sender: socket.socket, receiver: socket.socket, data: bytes) -> bool:
    target = Address(*receiver.getsockname())
    if target.is_wildcard:
        target = loopback(sender.family, target.port)
    elif sender.family == socket.AF_INET6 and ":" not in target.host:
        target = Address(f"::ffff:{target.host}", target.port)
    try:
        sender.sendto(data, socket.MSG_DONTWAIT, target.sockaddr(sender.family))
    except OSError:
        return False
    return True


def _connect(
    record: Record,
    rebuilt: socket.socket,
    by_address: dict[tuple[str, int], socket.socket],
    rebuilding: Rebuilding,
) -> None:
    if record.remote is None:
        return
    remote = record.remote
    peer = _find_peer(remote, by_address)
    if peer is not None:
        remote = remote.with_port(Address(*peer.getsockname()).port)
    try:
        rebuilt.connect(remote.sockaddr(record.family))
    except OSError as error:
        rebuilding.warnings.append(
            f"A UDP socket could not be connected to {remote} again: {error.strerror}."
        )
        return
    if record.shutdown:
        rebuilt.shutdown(socket.SHUT_RD)


def _find_peer(
    remote: Address, by_address: dict[tuple[str, int], socket.socket]
) -> socket.socket | None:
    host, port = remote.plain
    for candidate in (host, "0.0.0.0", "::"):
        if (candidate, port) in by_address:
            return by_address[candidate, port]
    return None
