"""Regular files that have a name: opened again by their path."""

from __future__ import annotations

__all__ = ["Record", "calls", "collect", "matches", "rebuild"]

import os
import re
import stat
from collections.abc import Iterator

import msgspec

from jupyter_cr.engine.descriptors import lock, path
from jupyter_cr.engine.descriptors.base import Descriptor, Place, Rebuilding, Tree
from jupyter_cr.errors import RestoreError
from jupyter_cr.tracer.calls import Call

_OF_A_PROCESS = re.compile(rb"/proc/\d+/")


class Record(msgspec.Struct, frozen=True, tag="regular_file"):
    path: bytes
    flags: int
    """The flags that open(2) gets again."""
    offset: int
    """Bytes."""
    dev: int
    ino: int
    size: int
    """Bytes, at the checkpoint."""
    mtime_ns: int
    locks: tuple[lock.Lock, ...] = ()


def matches(descriptor: Descriptor) -> bool:
    """A regular file under some path, whether or not the path still names it."""
    return (
        stat.S_ISREG(descriptor.stat.st_mode)
        and descriptor.stat.st_nlink > 0
        and descriptor.link.startswith("/")
    )


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Its path, access mode, offset and locks.

    Raises:
        Unsupported: The path does not lead to this file any more, would not be
            readable or writable again, or is one of /proc's about a process.
    """
    name = path.checked_path(descriptor)
    if _OF_A_PROCESS.match(name):
        raise descriptor.unsupported(
            "tells of a process under its present pid, which a restore may change",
            "Try again when the program has read and closed it.",
        )
    path.check_access(descriptor, name)
    return Record(
        path=name,
        flags=descriptor.flags & path.REOPEN & ~os.O_DIRECTORY,
        offset=int(descriptor.field("pos") or 0),
        dev=descriptor.stat.st_dev,
        ino=descriptor.stat.st_ino,
        size=descriptor.stat.st_size,
        mtime_ns=descriptor.stat.st_mtime_ns,
        locks=lock.collect_locks(descriptor, tree),
    )


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Opens it at the recorded offset; never creates or truncates.

    Warns where the file was replaced or cut short since.

    Raises:
        RestoreError: It is gone, no regular file, not permitted, or locked.
    """
    # O_NONBLOCK, as the path may lead to a FIFO by now; the recorded one is set later.
    flags = record.flags | os.O_NONBLOCK
    with path.close_on_error(path.open_path(record.path, flags)) as fd:
        _compare(record, os.fstat(fd), rebuilding)
        os.lseek(fd, record.offset, os.SEEK_SET)
        lock.rebuild_locks(fd, record.locks, rebuilding)
        return fd


def calls(record: Record, place: Place, rebuilding: Rebuilding) -> Iterator[Call]:
    """POSIX record locks."""
    return lock.calls(record.locks, place, rebuilding)


def _compare(record: Record, now: os.stat_result, rebuilding: Rebuilding) -> None:
    name = os.fsdecode(record.path)
    if not stat.S_ISREG(now.st_mode):
        raise RestoreError(
            f"{name} was a regular file at the checkpoint and is none now",
            "Put the file back under this path and try again.",
        )
    if now.st_dev == record.dev and now.st_ino != record.ino:
        rebuilding.warnings.append(
            f"{name} is another file than at the checkpoint; the program goes on "
            "with the one that has this name now."
        )
    if now.st_size < min(record.offset, record.size):
        rebuilding.warnings.append(
            f"{name} is shorter now ({now.st_size} bytes) than the position at which "
            f"the program goes on ({record.offset})."
        )
