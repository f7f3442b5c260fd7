"""Writing a snapshot: its manifest appears when all is there, or never."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec
import xxhash

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.image.checksums import BLOCK, PageChecksums
from jupyter_cr.image.frame import (
    TRAILER_TYPE,
    Trailer,
    encode_frame,
    encode_preamble,
    link_checksums,
)
from jupyter_cr.image.records import PageBlocks, number_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MANIFEST", "PAGES", "ImageWriter", "write_beside"]

MANIFEST = "manifest"
PAGES = "pages"
_UNFINISHED = ".manifest"
"""The manifest as long as it is being written."""

_MANIFEST_BUFFER = 256 << 10


class ImageWriter:
    """One snapshot being written; a `jupyter_cr.engine.streams.SnapshotWriter`.

    A context manager: what has not been committed at its end is removed, with its
    directory.

    Args:
        directory: an empty one of the snapshot's own. Whose it is, what it is called, and
            that nobody else writes there, is its maker's concern.

    Raises:
        StorageError: it cannot be written to.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._committed = False
        self._records = 0
        self._chain = xxhash.xxh3_64()
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray(encode_preamble())
        self._offset = len(self._buffer)
        self._fds = ExitStack()
        with storage_errors(directory), ExitStack() as undo:
            undo.callback(self._fds.close)
            self._root = self._open(directory, os.O_RDONLY | os.O_DIRECTORY)
            create = os.O_CREAT | os.O_EXCL | os.O_RDWR
            self._manifest = self._open(directory / _UNFINISHED, create)
            self._pages = self._open(directory / PAGES, create)
            undo.pop_all()
        self._checksums = PageChecksums(self._pages)
        # Closed first, as it reads from the descriptors.
        self._fds.callback(self._checksums.close)

    def _open(self, path: Path, flags: int) -> int:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        self._fds.callback(os.close, fd)
        return fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._committed:
            self._fds.close()
        else:
            self.discard()

    @property
    def pages_fd(self) -> int:
        return self._pages

    @property
    def committed(self) -> bool:
        """Whether the snapshot is whole."""
        return self._committed

    def add(self, record: msgspec.Struct) -> None:
        """Append one record, of a class in `jupyter_cr.image.records.RECORDS`.

        Raises:
            StorageError: disk full, or not writable any more.
        """
        self._add(number_of(type(record)), record)

    def _add(self, number: int, record: msgspec.Struct) -> None:
        payload = self._encoder.encode(record)
        head, checksum = encode_frame(number, payload)
        self._buffer += head
        self._buffer += payload
        if len(self._buffer) >= _MANIFEST_BUFFER:
            self._flush()
        link_checksums(self._chain, checksum)
        self._offset += len(head) + len(payload)
        self._records += 1

    def _flush(self) -> None:
        with storage_errors(self.directory / MANIFEST):
            while self._buffer:
                del self._buffer[: os.write(self._manifest, self._buffer)]

    def advance(self, offset: int) -> None:
        """Say that all pages below `offset` (in bytes) are final."""
        self._checksums.advance(offset)

    def attach(self, name: str, content: bytes) -> None:
        """Put a small file beside the image, replacing the one of that name.

        Raises:
            StorageError: disk full, or not writable any more.
        """
        write_beside(self.directory, name, content)

    def commit(self, durable: bool = True) -> None:
        """Checksum the pages, write the trailer, and have the manifest appear.

        Args:
            durable: wait until it would survive a power cut (fsync(2)).

        Raises:
            StorageError: disk full, or not writable any more.
        """
        with storage_errors(self.directory / PAGES):
            length = os.fstat(self._pages).st_size
            checksums = self._checksums.finish(length)
        self.add(PageBlocks(length=length, block=BLOCK, checksums=checksums))
        self._add(
            TRAILER_TYPE, Trailer(self._records, self._offset, self._chain.intdigest())
        )
        self._flush()
        with storage_errors(self.directory):
            if durable:
                os.fsync(self._pages)
                os.fsync(self._manifest)
            (self.directory / _UNFINISHED).rename(self.directory / MANIFEST)
            if durable:
                os.fsync(self._root)
        self._committed = True

    def discard(self) -> None:
        """Close everything, and remove the directory with all that is in it."""
        self._fds.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def write_beside(directory: Path, name: str, content: bytes) -> None:
    """Put a small file beside a snapshot's image, replacing the one of that name.

    Raises:
        StorageError: disk full, or not writable any more.
    """
    target = directory / name
    partial = directory / f".{name}"
    with storage_errors(target):
        fd = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
        partial.rename(target)
