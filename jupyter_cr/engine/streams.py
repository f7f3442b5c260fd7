"""The seam between the engine and whatever keeps a snapshot.

The engine writes to a `SnapshotWriter` and reads from a `SnapshotReader`: a
directory, a pipe, a socket and the store are the same to it. A snapshot has two
parts: *records* (typed, small, in order) and *pages* (bytes of memory, addressed by
offset, written by the twins themselves through a descriptor).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import msgspec

from jupyter_cr.errors import StorageError

__all__ = ["PageRangeCheck", "SnapshotReader", "SnapshotWriter", "storage_errors"]

R = TypeVar("R", bound=msgspec.Struct)


class SnapshotWriter(Protocol):
    """Takes one snapshot. Whoever made it commits it, after the engine has returned:
    until then nobody else can see it, and an exception leaves nothing behind."""

    @property
    def pages_fd(self) -> int:
        """A descriptor, open for reading and writing, on the pages; grows as it is
        written with pwrite(2), from any process."""

    def add(self, record: msgspec.Struct) -> None:
        """Append one record, of a class that the image knows.

        Raises:
            StorageError: disk full, or not writable any more.
        """

    def advance(self, offset: int) -> None:
        """Say that all pages below `offset` (in bytes) are final, so that they can be
        checksummed while the rest is being written. Never has to be called."""

    def attach(self, name: str, content: bytes) -> None:
        """Put a small file beside the snapshot that is not part of it: written after
        the fact, not covered by any checksum, replaced if it is there already.

        Raises:
            StorageError: disk full, or not writable any more.
        """

    def commit(self, durable: bool = True) -> None:
        """Make the snapshot visible under its name, whole or not at all.

        Args:
            durable: wait until it would survive a power cut (fsync(2)).

        Raises:
            NameTaken: somebody else was faster.
            StorageError: disk full, or not writable any more.
        """


class SnapshotReader(Protocol):
    """Gives one snapshot back. Its records have been found sound when it was opened."""

    @property
    def pages_fd(self) -> int:
        """A descriptor, open for reading, on the pages."""

    def records(self, cls: type[R]) -> Iterator[R]:
        """All records of one class, in the order they were added.

        Raises:
            CorruptImage: a sound record that is not what its class says.
        """

    def verify_pages(self) -> None:
        """Check every page against its checksum.

        Raises:
            CorruptImage: names the first block of pages that is not as written.
        """

    def check_as_needed(self) -> PageRangeCheck:
        """What checks parts of the pages when they are asked for, even after the reader
        has been closed."""


class PageRangeCheck(Protocol):
    """Checks parts of the pages of one snapshot."""

    def check(self, start: int, end: int) -> None:
        """Check the bytes [start, end) of the pages.

        Raises:
            CorruptImage: they are not as written.
        """

    def close(self) -> None:
        """Give back what it holds."""


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError of the body into what a person can act on.

    Args:
        path: the file or directory being written, for the message.

    Raises:
        StorageError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        where = os.fspath(path)
        what = error.strerror or str(error)
        if error.errno in _FULL:
            hint = (
                "Make room there (`jupyter cr list`, `jupyter cr rm NAME`), or let "
                "JUPYTER_CR_HOME name a directory on a larger disk."
            )
        elif error.errno in _REFUSED:
            hint = "Make it writable, or let JUPYTER_CR_HOME name a directory that is."
        else:
            hint = "Look at the disk's health (dmesg), or let JUPYTER_CR_HOME name another."
        raise StorageError(f"Cannot write {where}: {what}.", hint) from error
