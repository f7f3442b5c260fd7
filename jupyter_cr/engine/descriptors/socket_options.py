"""Socket options: one table of all that are read at a checkpoint and put back.

An option is recorded as the bytes that getsockopt(2) gives, and only where they
differ from those of a new socket of the same family, type and protocol. Buffer sizes
are recorded only where the program has set them (SO_BUF_LOCK, Linux 5.14), because
setting them ends Linux's own tuning.

What no option tells, and so is lost: TCP_MD5SIG keys, and programs attached with
SO_ATTACH_REUSEPORT_CBPF or _EBPF.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from socket import SocketType
from typing import NamedTuple

import msgspec

from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding

__all__ = [
    "SocketKind",
    "SocketOption",
    "borrow",
    "claim",
    "collect_options",
    "getsockopt_in_place",
    "keep",
    "rebuild_options",
    "rebuild_options_before_bind",
    "socket_kind",
]

SO_ATTACH_FILTER = 26
SO_PASSSEC = 34
SO_BUF_LOCK = 72
TCP_ULP = 31
_LOCKS = {socket.SO_SNDBUF: 1, socket.SO_RCVBUF: 2}
_FORCED = {socket.SO_SNDBUF: 32, socket.SO_RCVBUF: 33}


@dataclass(frozen=True, slots=True)
class _Option:
    name: str
    level: int
    number: int
    size: int = 4
    before_bind: bool = False


_SOCKET = socket.SOL_SOCKET
_IP, _IPV6, _TCP, _UDP = (
    socket.IPPROTO_IP,
    socket.IPPROTO_IPV6,
    socket.IPPROTO_TCP,
    socket.IPPROTO_UDP,
)

# The order is the order of setting: IP_TOS also sets SO_PRIORITY, for example.
# Numbers that Python's socket module lacks are those of asm-generic/socket.h,
# linux/in.h, linux/in6.h and linux/tcp.h.
OPTIONS = (
    _Option("SO_REUSEADDR", _SOCKET, socket.SO_REUSEADDR, before_bind=True),
    _Option("SO_REUSEPORT", _SOCKET, socket.SO_REUSEPORT, before_bind=True),
    _Option("SO_BINDTODEVICE", _SOCKET, socket.SO_BINDTODEVICE, 16, before_bind=True),
    _Option("SO_SNDBUF", _SOCKET, socket.SO_SNDBUF, before_bind=True),
    _Option("SO_RCVBUF", _SOCKET, socket.SO_RCVBUF, before_bind=True),
    _Option("IP_FREEBIND", _IP, 15, before_bind=True),
    _Option("IP_TRANSPARENT", _IP, socket.IP_TRANSPARENT, before_bind=True),
    _Option("IP_BIND_ADDRESS_NO_PORT", _IP, 24, before_bind=True),
    _Option("IPV6_V6ONLY", _IPV6, socket.IPV6_V6ONLY, before_bind=True),
    _Option("SO_KEEPALIVE", _SOCKET, socket.SO_KEEPALIVE),
    _Option("SO_DONTROUTE", _SOCKET, socket.SO_DONTROUTE),
    _Option("SO_BROADCAST", _SOCKET, socket.SO_BROADCAST),
    _Option("SO_OOBINLINE", _SOCKET, socket.SO_OOBINLINE),
    _Option("SO_NO_CHECK", _SOCKET, 11),
    _Option("SO_LINGER", _SOCKET, socket.SO_LINGER, 8),
    _Option("SO_PASSCRED", _SOCKET, socket.SO_PASSCRED),
    _Option("SO_PASSSEC", _SOCKET, SO_PASSSEC),
    _Option("SO_PASSPIDFD", _SOCKET, 76),
    _Option("SO_PASSRIGHTS", _SOCKET, 83),
    _Option("SO_RCVLOWAT", _SOCKET, socket.SO_RCVLOWAT),
    _Option("SO_RCVTIMEO", _SOCKET, socket.SO_RCVTIMEO, 16),
    _Option("SO_SNDTIMEO", _SOCKET, socket.SO_SNDTIMEO, 16),
    _Option("SO_TIMESTAMP", _SOCKET, 29),
    _Option("SO_TIMESTAMPNS", _SOCKET, 35),
    _Option("SO_TIMESTAMPING", _SOCKET, 37),
    _Option("SO_RXQ_OVFL", _SOCKET, 40),
    _Option("SO_PEEK_OFF", _SOCKET, 42),
    _Option("SO_SELECT_ERR_QUEUE", _SOCKET, 45),
    _Option("SO_ZEROCOPY", _SOCKET, 60),
    _Option("SO_MARK", _SOCKET, socket.SO_MARK),
    _Option("IP_TOS", _IP, socket.IP_TOS),
    _Option("IP_TTL", _IP, socket.IP_TTL),
    _Option("IP_PKTINFO", _IP, 8),
    _Option("IP_MTU_DISCOVER", _IP, 10),
    _Option("IP_RECVERR", _IP, 11),
    _Option("IP_RECVTTL", _IP, 12),
    _Option("IP_RECVTOS", _IP, socket.IP_RECVTOS),
    _Option("IP_MINTTL", _IP, 21),
    _Option("IP_MULTICAST_IF", _IP, socket.IP_MULTICAST_IF),
    _Option("IP_MULTICAST_TTL", _IP, socket.IP_MULTICAST_TTL),
    _Option("IP_MULTICAST_LOOP", _IP, socket.IP_MULTICAST_LOOP),
    _Option("IP_MULTICAST_ALL", _IP, 49),
    _Option("IPV6_UNICAST_HOPS", _IPV6, socket.IPV6_UNICAST_HOPS),
    _Option("IPV6_MULTICAST_IF", _IPV6, socket.IPV6_MULTICAST_IF),
    _Option("IPV6_MULTICAST_HOPS", _IPV6, socket.IPV6_MULTICAST_HOPS),
    _Option("IPV6_MULTICAST_LOOP", _IPV6, socket.IPV6_MULTICAST_LOOP),
    _Option("IPV6_MTU_DISCOVER", _IPV6, 23),
    _Option("IPV6_RECVERR", _IPV6, 25),
    _Option("IPV6_RECVPKTINFO", _IPV6, socket.IPV6_RECVPKTINFO),
    _Option("IPV6_RECVHOPLIMIT", _IPV6, socket.IPV6_RECVHOPLIMIT),
    _Option("IPV6_RECVTCLASS", _IPV6, socket.IPV6_RECVTCLASS),
    _Option("IPV6_TCLASS", _IPV6, socket.IPV6_TCLASS),
    _Option("SO_PRIORITY", _SOCKET, socket.SO_PRIORITY),
    _Option("TCP_NODELAY", _TCP, socket.TCP_NODELAY),
    _Option("TCP_CORK", _TCP, socket.TCP_CORK),
    _Option("TCP_KEEPIDLE", _TCP, socket.TCP_KEEPIDLE),
    _Option("TCP_KEEPINTVL", _TCP, socket.TCP_KEEPINTVL),
    _Option("TCP_KEEPCNT", _TCP, socket.TCP_KEEPCNT),
    _Option("TCP_SYNCNT", _TCP, socket.TCP_SYNCNT),
    _Option("TCP_LINGER2", _TCP, socket.TCP_LINGER2),
    _Option("TCP_DEFER_ACCEPT", _TCP, socket.TCP_DEFER_ACCEPT),
    _Option("TCP_CONGESTION", _TCP, socket.TCP_CONGESTION, 16),
    _Option("TCP_USER_TIMEOUT", _TCP, socket.TCP_USER_TIMEOUT),
    _Option("TCP_FASTOPEN", _TCP, socket.TCP_FASTOPEN),
    _Option("TCP_NOTSENT_LOWAT", _TCP, socket.TCP_NOTSENT_LOWAT),
    _Option("TCP_SAVE_SYN", _TCP, 27),
    _Option("TCP_FASTOPEN_CONNECT", _TCP, 30),
    _Option("TCP_INQ", _TCP, 36),
    _Option("UDP_CORK", _UDP, 1),
    _Option("UDP_SEGMENT", _UDP, 103),
    _Option("UDP_GRO", _UDP, 104),
)
_BY_NAME = {option.name: option for option in OPTIONS}


class SocketKind(NamedTuple):
    """What socket(2) was called with."""

    family: int
    type: int
    protocol: int


class SocketOption(msgspec.Struct, frozen=True, array_like=True):
    """One option that differs from a new socket's: its name and value as read."""

    name: str
    value: bytes


_getsockopt = ctypes.CDLL(None, use_errno=True).getsockopt


class borrow:  # noqa: N801 - used as a function
    """The socket behind a descriptor's local duplicate, which stays open afterwards.

    A context manager. Not `socket.socket`, whose attributes are made into enumerations
    at each access: this runs while the tree is frozen.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        self._borrowed = SocketType(fileno=descriptor.local)

    def __enter__(self) -> SocketType:
        return self._borrowed

    def __exit__(self, *_: object) -> None:
        self._borrowed.detach()


def socket_kind(descriptor: Descriptor) -> SocketKind | None:
    """Family, type and protocol; None when the descriptor is no socket."""
    if not descriptor.link.startswith("socket:["):
        return None
    with borrow(descriptor) as borrowed:
        return SocketKind(borrowed.family, borrowed.type, borrowed.proto)


def collect_options(
    descriptor: Descriptor, borrowed: SocketType
) -> tuple[SocketOption, ...]:
    """The options of a socket that differ from a new socket's.

    Raises:
        Unsupported: a filter or an upper layer (kernel TLS) is attached, which cannot
            be read back.
    """
    if _has_filter(borrowed):
        raise descriptor.unsupported(
            "is a socket with a BPF filter attached",
            "Detach the filter (SO_DETACH_FILTER) or close the socket first.",
        )
    if borrowed.proto == socket.IPPROTO_TCP and _read(borrowed, _TCP, TCP_ULP, 16):
        raise descriptor.unsupported(
            "is a TCP socket with an upper layer in Linux (kernel TLS)",
            "Close the connection first, or turn kernel TLS off.",
        )
    defaults = _defaults(borrowed.family, borrowed.type, borrowed.proto)
    return tuple(_iter_changed(borrowed, defaults))


def getsockopt_in_place(
    borrowed: SocketType, level: int, number: int, query: bytes
) -> bytes:
    """getsockopt(2) for options that read their buffer before they fill it.

    Raises:
        OSError: as of getsockopt(2).
    """
    buffer = ctypes.create_string_buffer(query, len(query))
    length = ctypes.c_uint32(len(query))
    if _getsockopt(borrowed.fileno(), level, number, buffer, ctypes.byref(length)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw[: length.value]


def rebuild_options_before_bind(
    rebuilt: socket.socket, options: Iterable[SocketOption], warnings: list[str]
) -> None:
    """Sets those options that act when a socket is bound, connected or filled."""
    _rebuild(rebuilt, options, warnings, before_bind=True)


def rebuild_options(
    rebuilt: socket.socket, options: Iterable[SocketOption], warnings: list[str]
) -> None:
    """Sets the other options; call it last, when all queues have been filled."""
    _rebuild(rebuilt, options, warnings, before_bind=False)


def _iter_changed(
    borrowed: SocketType, defaults: Iterable[tuple[_Option, bytes]]
) -> Iterator[SocketOption]:
    for option, default in defaults:
        value = _read(borrowed, option.level, option.number, option.size)
        if value is None or value == default:
            continue
        is_buffer = option.level == _SOCKET and option.number in _LOCKS
        if is_buffer and not _is_fixed(borrowed, option):
            continue
        yield SocketOption(option.name, value)


def _is_fixed(borrowed: SocketType, option: _Option) -> bool:
    """Whether the program has set this buffer's size, so that Linux leaves it alone."""
    locks = _read(borrowed, _SOCKET, SO_BUF_LOCK, 4)
    if locks is None:
        return borrowed.proto != socket.IPPROTO_TCP
    return bool(locks[0] & _LOCKS[option.number])


@lru_cache(maxsize=32)
def _defaults(family: int, type_: int, protocol: int) -> tuple[tuple[_Option, bytes], ...]:
    """The options that a new socket of this kind has, with their values."""
    with socket.socket(family, type_, protocol) as fresh:
        return tuple(_iter_defaults(fresh))


def _iter_defaults(fresh: SocketType) -> Iterator[tuple[_Option, bytes]]:
    levels = {int(_SOCKET)}
    if fresh.family in (socket.AF_INET, socket.AF_INET6):
        levels |= {_IP, fresh.proto}
    if fresh.family == socket.AF_INET6:
        levels.add(_IPV6)
    for option in OPTIONS:
        if "MULTICAST" in option.name and fresh.type != socket.SOCK_DGRAM:
            # TCP keeps facts about its peer in the same fields.
            continue
        if option.level in levels:
            value = _read(fresh, option.level, option.number, option.size)
            if value is not None:
                yield option, value


def _read(sock: SocketType, level: int, number: int, size: int) -> bytes | None:
    """None where this Linux, or this kind of socket, does not know the option."""
    try:
        return sock.getsockopt(level, number, size)
    except OSError as error:
        if error.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM):
            return None
        raise


def _rebuild(
    rebuilt: socket.socket,
    options: Iterable[SocketOption],
    warnings: list[str],
    *,
    before_bind: bool,
) -> None:
    for recorded in options:
        option = _BY_NAME[recorded.name]
        if option.before_bind == before_bind:
            try:
                _write(rebuilt, option, recorded.value)
            except OSError as error:
                warnings.append(f"Socket option {option.name} was not set: {error}.")


def _write(rebuilt: socket.socket, option: _Option, value: bytes) -> None:
    if option.level != _SOCKET or option.number not in _FORCED:
        rebuilt.setsockopt(option.level, option.number, value)
        return
    # Linux doubles what it is given (socket(7)); beyond the limit of
    # net.core.[rw]mem_max only the privileged call gets through.
    size = int.from_bytes(value, "little") // 2
    try:
        rebuilt.setsockopt(_SOCKET, _FORCED[option.number], size)
    except PermissionError:
        rebuilt.setsockopt(_SOCKET, option.number, size)


def _has_filter(borrowed: SocketType) -> bool:
    # SO_GET_FILTER counts in instructions, so Python's getsockopt() would let Linux
    # write past its buffer; a length of 0 only asks for their number. EACCES is a
    # program attached with SO_ATTACH_BPF, which Linux does not give back.
    length = ctypes.c_uint32(0)
    failed = _getsockopt(
        borrowed.fileno(), _SOCKET, SO_ATTACH_FILTER, None, ctypes.byref(length)
    )
    return ctypes.get_errno() == errno.EACCES if failed else length.value > 0


def keep(rebuilding: Rebuilding, key: tuple[str, int], rebuilt: socket.socket) -> None:
    """Holds a rebuilt socket until its own turn comes: sockets with relations are made
    together, at the first of them. Closed at the end if nobody claims it."""
    rebuilding.memo[key] = rebuilt
    rebuilding.stack.callback(rebuilt.close)


def claim(rebuilding: Rebuilding, key: tuple[str, int]) -> int:
    """The descriptor of a kept socket, which the caller owns from now on."""
    rebuilt: socket.socket = rebuilding.memo[key]
    return rebuilt.detach()
