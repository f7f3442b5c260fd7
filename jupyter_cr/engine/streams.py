"""The seam between the engine and whatever keeps a snapshot.

The engine writes to a `SnapshotWriter` and reads from a `SnapshotReader`. A snapshot has
two parts: *records* (typed, small, in order) and *pages* (bytes of memory, addressed by
offset from records). How pages are stored is not the engine's business; but those that
are stored as they are can be read by whoever needs them, without us in between.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from jupyter_cr.errors import StorageError
from jupyter_cr.tracer.arch.x86_64 import PAGE

__all__ = ["PAGE", "Piece", "SnapshotReader", "SnapshotWriter", "storage_errors"]

R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of the pages, and how to get them. Exactly one of three:

    Attributes:
        offset: in the pages, in bytes.
        length: in bytes.
        fd, at: they are in the file behind this descriptor (the reader's), from `at` on.
        unpack: gives them (raises CorruptImage); `group` tells which pieces are best
            unpacked one after the other.

    With neither, they are zeros.
    """

    offset: int
    length: int
    fd: int = -1
    at: int = 0
    unpack: Callable[[], bytes | memoryview] | None = None
    group: object = None

    @property
    def is_zeros(self) -> bool:
        """Whether it is zeros, and stored nowhere."""
        return self.fd < 0 and self.unpack is None


class SnapshotWriter(Protocol):
    """Takes one snapshot. Whoever made it commits it, after the engine has returned:
    until then an exception leaves nothing behind."""

    @property
    def base(self) -> SnapshotReader | None:
        """An earlier snapshot, which this one is likely to have much in common with;
        whatever is in its pages can be taken over by `append_unchanged`."""

    def add(self, record: msgspec.Struct) -> None:
        """Append one record, of a class that the image knows."""

    def append(self, data: bytes | memoryview) -> int:
        """Append bytes to the pages, and zeros up to a multiple of `PAGE`; the offset of
        the first.

        Raises:
            StorageError: disk full, or not writable any more.
        """

    def append_unchanged(self, offset: int, length: int) -> int:
        """Append what is in the pages of `base`; multiples of `PAGE`.

        Raises:
            StorageError: disk full, or not writable any more.
        """

    def attach(self, name: str, content: bytes) -> None:
        """Put a small file beside the snapshot that is not part of it: written after
        the fact, not covered by any checksum, replaced if it is there already.

        Raises:
            StorageError: disk full, or not writable any more.
        """

    def publish(self) -> None:
        """Let it be seen although its pages are still to come: twins have them, of
        whom something has been attached.

        Raises:
            StorageError: disk full, or not writable any more.
        """

    def commit(self, durable: bool = True) -> None:
        """Complete the snapshot: it is there, whole, or not at all.

        Args:
            durable: wait until it would survive a power cut (fsync(2)).

        Raises:
            StorageError: disk full, or not writable any more.
        """


class SnapshotReader(Protocol):
    """Gives one snapshot back. Its records have been found sound when it was opened."""

    @property
    def directory(self) -> Path:
        """Where what is attached to it lies."""

    @property
    def is_complete(self) -> bool:
        """Whether it has its pages; else there are only records, and its twins."""

    def records(self, cls: type[R]) -> Iterator[R]:
        """All records of one class, in the order they were added.

        Raises:
            CorruptImage: a sound record that is not what its class says.
        """

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """How to get the bytes [offset, offset + length) of the pages, in order. What
        pieces of files hold has not been checked: see `check`, `verify_raw`.

        Raises:
            CorruptImage: there are not so many pages.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Some bytes of the pages, checked.

        Raises:
            CorruptImage: they are not as written.
        """

    def check(self, offset: int, length: int) -> None:
        """Check what is stored of the bytes [offset, offset + length), however it is.

        Raises:
            CorruptImage: it is not as written.
        """

    def close(self) -> None:
        """Give back what it holds; safe to call twice."""

    def verify_raw(self) -> None:
        """Check all that `pieces` of files have.

        Raises:
            CorruptImage: names the first block of pages that is not as written.
        """


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
