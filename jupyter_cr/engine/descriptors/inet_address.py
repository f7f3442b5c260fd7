"""Addresses of TCP and UDP sockets, and binding to a recorded one again."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from functools import partial

import msgspec

from jupyter_cr.errors import AddressTaken, RestoreError
from jupyter_cr.tracer.sock_diag import tcp_sockets

__all__ = [
    "Address",
    "bind_recorded",
    "listen_recorded",
    "loopback",
    "read_local",
    "read_remote",
]

_MAPPED = "::ffff:"
_RETRY_SECONDS = 2.0
_RETRY_STEP = 0.02


class Address(msgspec.Struct, frozen=True, array_like=True):
    """An IPv4 or IPv6 address and port, as getsockname(2) gives them."""

    host: str
    port: int
    flow: int = 0
    scope: int = 0

    @property
    def plain(self) -> tuple[str, int]:
        """(host, port) with IPv4 addresses of IPv6 sockets in their IPv4 form, so that
        the two ends of a connection agree."""
        return self.host.removeprefix(_MAPPED) if self.is_mapped else self.host, self.port

    @property
    def is_mapped(self) -> bool:
        return self.host.startswith(_MAPPED) and "." in self.host

    @property
    def is_wildcard(self) -> bool:
        return self.plain[0] in ("0.0.0.0", "::")

    def with_port(self, port: int) -> Address:
        return Address(self.host, port, self.flow, self.scope)

    def sockaddr(self, family: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """What bind() and connect() of a socket of this family take."""
        if family == socket.AF_INET:
            return self.plain
        return self.host, self.port, self.flow, self.scope

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def read_local(borrowed: socket.SocketType) -> Address | None:
    """The address that a socket is bound to; None when Linux has not given it a port."""
    address = Address(*borrowed.getsockname())
    return address if address.port else None


def read_remote(borrowed: socket.SocketType) -> Address | None:
    """The address that a socket is connected to; None when it is not."""
    try:
        return Address(*borrowed.getpeername())
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.EINVAL):
            return None
        raise


def loopback(family: int, port: int = 0) -> Address:
    """The loopback address for sockets of a family."""
    return Address("127.0.0.1" if family == socket.AF_INET else "::1", port)


def bind_recorded(rebuilt: socket.socket, address: Address, what: str) -> Address:
    """Binds to an address of the snapshot.

    Waits up to two seconds for an address that is still in use: that of a tree that
    has just ended may not be free yet.

    Returns:
        The address bound, with the port that Linux chose if `address` has none.

    Raises:
        AddressTaken: somebody else has the address.
        RestoreError: this machine does not have the address, or does not permit it.
    """
    _wait_while_used(partial(rebuilt.bind, address.sockaddr(rebuilt.family)), address, what)
    return Address(*rebuilt.getsockname())


def listen_recorded(rebuilt: socket.socket, backlog: int, what: str) -> None:
    """Listens at the address that a socket is bound to; the rest as `bind_recorded`."""
    address = Address(*rebuilt.getsockname())
    _wait_while_used(partial(rebuilt.listen, backlog), address, what)


def _wait_while_used(take: Callable[[], None], address: Address, what: str) -> None:
    deadline = time.monotonic() + _RETRY_SECONDS
    while True:
        try:
            take()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise RestoreError(
                    f"The {what} {address} could not be bound: {error.strerror}",
                    _hint(error),
                ) from error
            if time.monotonic() > deadline:
                raise AddressTaken(
                    f"The address {address} of a {what} is used by {_holder(address)}",
                    "End that program and restore again, or fork the snapshot: a fork "
                    "gets new ports.",
                ) from error
        else:
            return
        time.sleep(_RETRY_STEP)


def _hint(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "Give this machine the address (ip address add), or take a new snapshot."
    return "Restore as the user that the snapshot was taken of."


def _holder(address: Address) -> str:
    for other in tcp_sockets():
        if other.local[1] == address.port and other.inode:
            return f"another socket (inode {other.inode}) of the user with id {other.uid}"
    return "another program"
