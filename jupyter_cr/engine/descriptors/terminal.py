"""Terminals: ties that leave the tree, to whoever sits in front of them."""

from __future__ import annotations

__all__ = ["Record", "collect", "matches", "rebuild"]

import os
import stat

import msgspec

from jupyter_cr.engine.descriptors import path
from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree

# devices.txt: 4 virtual consoles and serial lines, 5 /dev/tty and console, 136-143 pts.
_MAJORS = frozenset({4, 5, *range(136, 144)})


class Record(msgspec.Struct, frozen=True, tag="terminal"):
    path: bytes
    rdev: int
    flags: int


def matches(descriptor: Descriptor) -> bool:
    return (
        stat.S_ISCHR(descriptor.stat.st_mode)
        and os.major(descriptor.stat.st_rdev) in _MAJORS
    )


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Which terminal it is."""
    flags = descriptor.flags & path.REOPEN
    return Record(os.fsencode(descriptor.link), descriptor.stat.st_rdev, flags)


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Opens the same terminal where that is possible, else /dev/null, with a warning."""
    fd = _open_terminal(record)
    if fd is not None:
        return fd
    rebuilding.warnings.append(
        f"The terminal {os.fsdecode(record.path)} is gone or not accessible; "
        "/dev/null stands in for it."
    )
    return path.open_path(b"/dev/null", record.flags & path.ACCESS)


def _open_terminal(record: Record) -> int | None:
    try:
        if os.stat(record.path).st_rdev != record.rdev:
            return None
        # A serial line would wait for a carrier; the recorded O_NONBLOCK is set later.
        return os.open(
            record.path, record.flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        )
    except OSError:
        return None
