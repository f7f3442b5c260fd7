"""Writing a snapshot: under a temporary name, then renamed, whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import msgspec
import xxhash

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import NameTaken
from jupyter_cr.image.checksums import BLOCK, PageChecksums
from jupyter_cr.image.frame import (
    TRAILER_TYPE,
    Trailer,
    encode_frame,
    encode_preamble,
    link_checksums,
)
from jupyter_cr.image.records import PageBlocks, number_of

__all__ = ["MANIFEST", "PAGES", "TEMPORARY", "ImageWriter"]

MANIFEST = "manifest"
PAGES = "pages"
TEMPORARY = ".tmp-"
"""Directories that begin with it are snapshots in the making: ``.tmp-NAME-PID``."""

_MANIFEST_BUFFER = 256 << 10


class ImageWriter:
    """One snapshot being written; a `jupyter_cr.engine.streams.SnapshotWriter`.

    A context manager: what has not been committed at its end is removed. While it
    lives, its temporary directory is locked with flock(2), so that a later run can
    tell it from one that was left behind.

    Args:
        directory: the snapshot's final place; its parent must exist.

    Raises:
        NameTaken: `directory` exists.
        StorageError: the parent cannot be written to.
    """

    def __init__(self, directory: Path) -> None:
        if os.path.lexists(directory):
            raise _name_taken(directory)
        self.directory = directory
        self._temporary = directory.parent / f"{TEMPORARY}{directory.name}-{os.getpid()}"
        self._committed = False
        self._records = 0
        self._chain = xxhash.xxh3_64()
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray(encode_preamble())
        self._offset = len(self._buffer)
        self._fds = ExitStack()
        with storage_errors(self._temporary), ExitStack() as undo:
            self._make_directory()
            undo.callback(self._discard)
            self._root = self._open(self._temporary, os.O_RDONLY | os.O_DIRECTORY)
            _lock(self._root)
            create = os.O_CREAT | os.O_EXCL | os.O_RDWR
            self._manifest = self._open(self._temporary / MANIFEST, create)
            self._pages = self._open(self._temporary / PAGES, create)
            undo.pop_all()
        self._checksums = PageChecksums(self._pages)
        # Closed first, as it reads from the descriptors.
        self._fds.callback(self._checksums.close)

    def _make_directory(self) -> None:
        try:
            self._temporary.mkdir(mode=0o700)
        except FileExistsError:
            # Left by a process that had our pid before us: no other can have this name.
            shutil.rmtree(self._temporary)
            self._temporary.mkdir(mode=0o700)

    def _open(self, path: Path, flags: int) -> int:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        self._fds.callback(os.close, fd)
        return fd

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard()

    @property
    def pages_fd(self) -> int:
        return self._pages

    @property
    def committed(self) -> bool:
        """Whether the snapshot has its name."""
        return self._committed

    @property
    def path(self) -> Path:
        """Where the files are now: the temporary directory, or the final one."""
        return self.directory if self._committed else self._temporary

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
        with storage_errors(self._temporary / MANIFEST):
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
        write_beside(self.path, name, content)

    def commit(self, durable: bool = True) -> None:
        """Checksum the pages, write the trailer, and give the snapshot its name.

        Args:
            durable: wait until it would survive a power cut (fsync(2)).

        Raises:
            NameTaken: somebody else was faster.
            StorageError: disk full, or not writable any more.
        """
        with storage_errors(self._temporary / PAGES):
            length = os.fstat(self._pages).st_size
            checksums = self._checksums.finish(length)
        self.add(PageBlocks(length=length, block=BLOCK, checksums=checksums))
        self._add(
            TRAILER_TYPE, Trailer(self._records, self._offset, self._chain.intdigest())
        )
        self._flush()
        if durable:
            with storage_errors(self._temporary):
                for fd in (self._pages, self._manifest, self._root):
                    os.fsync(fd)
        self._rename()
        if durable:
            with storage_errors(self.directory.parent):
                _sync_directory(self.directory.parent)

    def _rename(self) -> None:
        give_name(self._temporary, self.directory)
        self._committed = True

    def _discard(self) -> None:
        """Close everything, and remove what has not been committed."""
        self._fds.close()
        if not self._committed:
            shutil.rmtree(self._temporary, ignore_errors=True)


def give_name(directory: Path, named: Path) -> None:
    """Give a snapshot's directory its name, or another one.

    Raises:
        NameTaken: there is one of that name.
        StorageError: the store is not writable.
    """
    with storage_errors(named):
        try:
            directory.rename(named)
        except OSError as error:
            # A snapshot is never an empty directory, so rename(2) cannot replace one.
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _name_taken(named) from error
            raise


def write_beside(directory: Path, name: str, content: bytes) -> None:
    """Put a small file beside a snapshot's image, replacing the one of that name.

    Raises:
        StorageError: disk full, or not writable any more.
    """
    target = directory / name
    partial = directory / f"{TEMPORARY}{name}-{os.getpid()}"
    with storage_errors(target):
        fd = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
        partial.rename(target)


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems have no locks.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            raise


def _name_taken(directory: Path) -> NameTaken:
    return NameTaken(
        f"There is a snapshot named {directory.name} already.",
        f"Choose another name, or remove it first: jupyter cr rm {directory.name}",
    )


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
