"""signalfd(2): a set of signals. Those that wait to be read belong to the process."""

from __future__ import annotations

__all__ = ["Record", "collect", "matches", "rebuild"]

import os

import msgspec

from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.tracer import libc


class Record(msgspec.Struct, frozen=True, tag="signalfd"):
    mask: int
    """Bit ``n - 1`` is signal ``n``."""


def matches(descriptor: Descriptor) -> bool:
    return descriptor.link == "anon_inode:[signalfd]"


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    return Record(int(descriptor.field("sigmask") or "0", 16))


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    return libc.signalfd(record.mask, flags=os.O_CLOEXEC)
