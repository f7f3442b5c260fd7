"""epoll(7): which descriptors are watched, for what.

A registration remembers the descriptor number that was used, so the rebuilt process
makes its registrations itself, when all its descriptors are in place. What is ready is
found out anew by that. A registration with EPOLLONESHOT that has fired stays without
events; but Linux adds EPOLLERR and EPOLLHUP to every registration it takes.
"""

from __future__ import annotations

__all__ = ["Record", "Registration", "calls", "collect", "matches", "rebuild"]

import os
import re
import select
import struct
from collections.abc import Iterator

import msgspec

from jupyter_cr.engine.descriptors import pipe, pseudoterminal, terminal
from jupyter_cr.engine.descriptors.base import Descriptor, Place, Rebuilding, Tree
from jupyter_cr.tracer import libc
from jupyter_cr.tracer.calls import Call

_EPOLL_CTL_ADD = 1
# fs/eventpoll.c:ep_show_fdinfo
_LINE = re.compile(
    r"(\d+) events:\s*([0-9a-f]+) data:\s*([0-9a-f]+)"
    r"\s+pos:\S+ ino:([0-9a-f]+) sdev:([0-9a-f]+)"
)


class Registration(msgspec.Struct, frozen=True):
    """One EPOLL_CTL_ADD."""

    holder: Place
    """Who makes it, with which descriptor of the epoll instance."""
    fd: int
    """The holder's descriptor that is watched."""
    events: int
    data: int
    may_fail: bool
    """What is watched may be /dev/null after the restore, which epoll cannot watch."""


class Record(msgspec.Struct, frozen=True, tag="epoll"):
    registrations: tuple[Registration, ...]


def matches(descriptor: Descriptor) -> bool:
    return descriptor.link == "anon_inode:[eventpoll]"


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """All registrations, each with the process that can make it again.

    Raises:
        Unsupported: A file is watched under a number that no longer means it.
    """
    registrations = []
    seen: dict[int, int] = {}
    for fd, events, data, inode in _iter_lines(descriptor):
        nth = seen.get(fd, 0)
        seen[fd] = nth + 1
        holder, target = _find_holder(descriptor, tree, fd, nth, inode)
        may_fail = (
            terminal.matches(target) and not pseudoterminal.is_inside(target, tree)
        ) or (pipe.matches(target) and pipe.leaves_tree(target, tree))
        registrations.append(Registration(holder, fd, events, data, may_fail))
    return Record(tuple(registrations))


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Makes an epoll instance that watches nothing yet."""
    with select.epoll() as instance:
        return os.dup(instance.fileno())


def calls(record: Record, place: Place, rebuilding: Rebuilding) -> Iterator[Call]:
    """The registrations that the process at ``place`` makes."""
    for registration in record.registrations:
        if (registration.holder.pid, registration.holder.fd) == (place.pid, place.fd):
            event = struct.pack("<IQ", registration.events, registration.data)
            yield Call(
                "epoll_ctl",
                (place.fd, _EPOLL_CTL_ADD, registration.fd, event),
                optional=registration.may_fail,
            )


def _iter_lines(
    descriptor: Descriptor,
) -> Iterator[tuple[int, int, int, tuple[int, int]]]:
    """(watched descriptor, events, data, (device, inode) as Linux numbers them)."""
    for line in descriptor.fields("tfd"):
        found = _LINE.match(line)
        if found is None:
            raise descriptor.unsupported(
                f"has a registration that cannot be understood: {line}",
                "Report this, with the version of Linux.",
            )
        fd, events, data, ino, device = found.groups()
        yield (
            int(fd),
            int(events, 16),
            int(data, 16),
            (_decode_device(int(device, 16)), int(ino, 16)),
        )


def _decode_device(number: int) -> int:
    """From the kernel's own dev_t (20 bits of minor) to st_dev's form."""
    return os.makedev(number >> 20, number & 0xF_FFFF)


def _find_holder(
    descriptor: Descriptor, tree: Tree, fd: int, nth: int, inode: tuple[int, int]
) -> tuple[Place, Descriptor]:
    for place in descriptor.places:
        target = tree.by_place.get((place.pid, fd))
        if target is None:
            continue
        pid = tree.pids.get(place.pid, place.pid)
        if _is_watched(pid, place.fd, fd, nth, target, inode):
            return place, target
    raise descriptor.unsupported(
        f"watches a file under descriptor {fd}, which was closed or reused since",
        "Unregister descriptors from epoll before closing them, or close the epoll "
        "instance.",
    )


def _is_watched(
    pid: int, epoll: int, fd: int, nth: int, target: Descriptor, inode: tuple[int, int]
) -> bool:
    try:
        return libc.kcmp_epoll_target(pid, epoll, fd, nth)
    except OSError:
        # Not permitted or not configured. Good enough for all but anonymous inodes
        # (eventfd, timerfd, ...), which are one and the same to Linux.
        return (target.stat.st_dev, target.stat.st_ino) == inode
