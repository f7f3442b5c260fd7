"""Logs that this user may write to, but not open: a file of root's, say, to which a hub
has all of its servers' output go. They are inherited, and nobody but an heir can give
a descriptor of one to a rebuilt tree."""

from __future__ import annotations

__all__ = ["Record", "collect", "matches", "rebuild"]

import errno
import fcntl
import os
import stat

import msgspec

from jupyter_cr.engine.descriptors import lock, path
from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree

_OURS = (1, 2)
"""Where an engine has what the server has that has started it, and so the kernel."""


class Record(msgspec.Struct, frozen=True, tag="inherited_log"):
    path: bytes
    flags: int
    dev: int
    ino: int


def matches(descriptor: Descriptor) -> bool:
    """A regular file that is only appended to, and may not be opened for that."""
    appending = os.O_WRONLY | os.O_APPEND
    return (
        stat.S_ISREG(descriptor.stat.st_mode)
        and descriptor.stat.st_nlink > 0
        and descriptor.link.startswith("/")
        and descriptor.flags & (path.ACCESS | os.O_APPEND) == appending
        and _is_closed_to_us(descriptor)
    )


def _is_closed_to_us(descriptor: Descriptor) -> bool:
    name = os.fsencode(descriptor.link)
    try:
        found = os.stat(name, follow_symlinks=False)
    except OSError as error:
        return error.errno == errno.EACCES
    is_it = (found.st_dev, found.st_ino) == (descriptor.stat.st_dev, descriptor.stat.st_ino)
    return is_it and not os.access(name, os.W_OK, effective_ids=True)


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Which file it is.

    Raises:
        Unsupported: it is locked; whoever inherits it has it with its lock, or cannot have
            the lock.
    """
    if lock.collect_locks(descriptor, tree):
        raise descriptor.unsupported(
            "is locked, and its permissions would not let this user open it again and "
            "lock it",
            "Have the program unlock it, or change the file's mode (chmod).",
        )
    return Record(
        os.fsencode(descriptor.link),
        descriptor.flags & path.REOPEN,
        descriptor.stat.st_dev,
        descriptor.stat.st_ino,
    )


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """From the tree that is replaced, or else from the engine's own output; where nobody
    has it, and it may still not be opened, /dev/null, with a warning."""
    held = rebuilding.held.get(os.fsdecode(record.path))
    for fd in (*(() if held is None else (held,)), *_OURS):
        if _is_it(record, fd):
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        return os.open(record.path, record.flags | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        rebuilding.warnings.append(
            f"The log {os.fsdecode(record.path)} may not be opened by this user, and "
            "nobody here has it open; /dev/null stands in for it."
        )
        return path.open_path(b"/dev/null", record.flags & path.ACCESS)


def _is_it(record: Record, fd: int) -> bool:
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    return (found.st_dev, found.st_ino) == (record.dev, record.ino) and (
        flags & (path.ACCESS | os.O_APPEND) == record.flags & (path.ACCESS | os.O_APPEND)
    )
