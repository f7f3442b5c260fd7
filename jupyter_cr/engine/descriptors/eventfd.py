"""eventfd(2): a counter."""

from __future__ import annotations

__all__ = ["Record", "collect", "matches", "rebuild"]

import os

import msgspec

from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.engine.descriptors.path import close_on_error


class Record(msgspec.Struct, frozen=True, tag="eventfd"):
    count: int
    semaphore: bool


def matches(descriptor: Descriptor) -> bool:
    return descriptor.link == "anon_inode:[eventfd]"


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Its counter, and whether read(2) takes one or all.

    Linux before 6.5 does not tell the latter; no semaphore is assumed there, as in
    practice event loops and ZeroMQ are whom eventfds belong to.
    """
    return Record(
        count=int(descriptor.field("eventfd-count") or "0", 16),
        semaphore=descriptor.field("eventfd-semaphore") == "1",
    )


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    flags = os.EFD_CLOEXEC | (os.EFD_SEMAPHORE if record.semaphore else 0)
    with close_on_error(os.eventfd(0, flags)) as fd:
        if record.count:
            # eventfd(2)'s own initial value has only 32 bits.
            os.eventfd_write(fd, record.count)
        return fd
