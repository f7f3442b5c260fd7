"""Open directories, with the position of a listing half-way."""

from __future__ import annotations

__all__ = ["Record", "calls", "collect", "matches", "rebuild"]

import os
import stat
from collections.abc import Iterator

import msgspec

from jupyter_cr.engine.descriptors import lock, path
from jupyter_cr.engine.descriptors.base import Descriptor, Place, Rebuilding, Tree
from jupyter_cr.tracer.calls import Call


class Record(msgspec.Struct, frozen=True, tag="directory"):
    path: bytes
    flags: int
    offset: int
    """Where getdents(2) goes on: a number that the file system gave out."""
    locks: tuple[lock.Lock, ...] = ()


def matches(descriptor: Descriptor) -> bool:
    return stat.S_ISDIR(descriptor.stat.st_mode)


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Its path and position.

    Raises:
        Unsupported: It was removed or replaced, or would not be readable again.
    """
    name = path.checked_path(descriptor)
    path.check_access(descriptor, name)
    return Record(
        path=name,
        flags=descriptor.flags & path.REOPEN | os.O_DIRECTORY,
        offset=int(descriptor.field("pos") or 0),
        locks=lock.collect_locks(descriptor, tree),
    )


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Opens it at the recorded position.

    Raises:
        RestoreError: It is gone, no directory, not permitted, or locked.
    """
    with path.close_on_error(path.open_path(record.path, record.flags)) as fd:
        os.lseek(fd, record.offset, os.SEEK_SET)
        lock.rebuild_locks(fd, record.locks, rebuilding)
        return fd


def calls(record: Record, place: Place, rebuilding: Rebuilding) -> Iterator[Call]:
    """POSIX record locks."""
    return lock.calls(record.locks, place, rebuilding)
