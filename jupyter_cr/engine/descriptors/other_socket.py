"""Sockets that are no kind of their own: refused by name.

Their state is Linux's alone (netlink, packet, vsock), or cannot be read back (raw ICMP
filters, MPTCP subflows), so a checkpoint says which it is instead of losing it.
"""

from __future__ import annotations

import socket

from jupyter_cr.engine.descriptors.base import Descriptor
from jupyter_cr.engine.descriptors.socket_options import SocketKind, socket_kind
from jupyter_cr.errors import Unsupported

__all__ = ["matches", "refusal"]

_CLOSE = "Close it first, or open it after the restore."
_HINTS = {
    "AF_NETLINK": "Close it first: libraries that list network interfaces (psutil, "
    "netifaces, pyroute2) open another one when asked again.",
    "AF_PACKET": "Stop capturing packets first.",
    "AF_VSOCK": "Close the connection between host and virtual machine first.",
    "AF_ALG": "Close it first: use the cryptography of a library instead of Linux's.",
}
_PROTOCOLS = {262: "MPTCP", 132: "SCTP", 136: "UDP-Lite", 1: "ICMP", 58: "ICMPv6"}


def matches(descriptor: Descriptor) -> bool:
    """Every socket: ask the kinds that can be restored first."""
    return descriptor.link.startswith("socket:[")


def refusal(descriptor: Descriptor) -> Unsupported:
    """The error that refuses a socket of a family or protocol without a kind."""
    kind = socket_kind(descriptor)
    if kind is None:
        return descriptor.unsupported("is no socket", _CLOSE)
    family = _family_name(kind.family)
    return descriptor.unsupported(
        f"is a socket of {_describe(family, kind)}, which is not supported",
        _HINTS.get(family, _CLOSE),
    )


def _family_name(family: int) -> str:
    try:
        return socket.AddressFamily(family).name
    except ValueError:
        return f"address family {family}"


def _describe(family: str, kind: SocketKind) -> str:
    words = [family]
    try:
        words.append(socket.SocketKind(kind.type).name)
    except ValueError:
        words.append(f"type {kind.type}")
    if family in ("AF_INET", "AF_INET6"):
        words.append(_PROTOCOLS.get(kind.protocol, f"protocol {kind.protocol}"))
    return " ".join(words)
