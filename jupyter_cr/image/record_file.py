"""Files of records: a snapshot's manifest and a pack's index (grammar: see the package)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import xxhash

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import CorruptImage, FutureImage
from jupyter_cr.image.frame import (
    DAMAGED,
    TRAILER_TYPE,
    Frame,
    Trailer,
    encode_frame,
    encode_preamble,
    iter_frames,
    link_checksums,
)
from jupyter_cr.image.records import RECORDS, class_of, number_of

__all__ = ["RecordEncoder", "RecordFile", "sync_directory", "write_whole"]

R = TypeVar("R", bound=msgspec.Struct)


class RecordEncoder:
    """Encodes records, in the order in which they are added."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray(encode_preamble())
        self._chain = xxhash.xxh3_64()
        self._count = 0

    def add(self, record: msgspec.Struct) -> None:
        """Append one record, of a class in `jupyter_cr.image.records.RECORDS`."""
        payload = self._encoder.encode(record)
        head, checksum = encode_frame(number_of(type(record)), payload)
        self._buffer += head
        self._buffer += payload
        link_checksums(self._chain, checksum)
        self._count += 1

    def whole(self) -> bytes:
        """A file of the records so far; more can be added afterwards."""
        trailer = Trailer(self._count, len(self._buffer), self._chain.intdigest())
        payload = self._encoder.encode(trailer)
        head, _ = encode_frame(TRAILER_TYPE, payload)
        return b"".join((self._buffer, head, payload))


class RecordFile:
    """The records of one file, all checked.

    Args:
        data: the whole file.
        path: where it is, for messages.

    Raises:
        CorruptImage: names the file, the record and its offset.
        FutureImage: written by a later release.
    """

    def __init__(self, data: bytes | memoryview, path: Path) -> None:
        self.path = path
        self.data = data
        self._frames = tuple(iter_frames(memoryview(data), path))
        for frame in self._frames:
            if frame.type not in RECORDS:
                raise FutureImage(
                    f"{path}: record {frame.index} at offset {frame.offset} is of type "
                    f"{frame.type}, which this release does not know.",
                    "Use the release of jupyter-cr that wrote it, or a later one.",
                )

    def has(self, cls: type[msgspec.Struct]) -> bool:
        """Whether there is a record of that class."""
        number = number_of(cls)
        return any(frame.type == number for frame in self._frames)

    def first(self, cls: type[R]) -> R:
        """The first record of the file, which has to be of that class.

        Raises:
            CorruptImage: it is not.
        """
        if not self._frames or self._frames[0].type != number_of(cls):
            raise CorruptImage(
                f"{self.path}: the first record is no {cls.__name__}.", DAMAGED
            )
        return next(self.records(cls))

    def only(self, cls: type[R]) -> R:
        """The one record of a class.

        Raises:
            CorruptImage: there is none, or there are several.
        """
        found = list(self.records(cls))
        if len(found) != 1:
            raise CorruptImage(
                f"{self.path}: {len(found)} records are a {cls.__name__}; one should be.",
                DAMAGED,
            )
        return found[0]

    def records(self, cls: type[R]) -> Iterator[R]:
        """All records of one class, in the order they were added.

        Raises:
            CorruptImage: a sound record that is not what its class says.
        """
        number = number_of(cls)
        decoder = msgspec.msgpack.Decoder(cls)
        for frame in self._frames:
            if frame.type == number:
                yield self._decode(frame, decoder)

    def __iter__(self) -> Iterator[msgspec.Struct]:
        """All records, in the order they were added.

        Raises:
            CorruptImage: a sound record that is not what its class says.
        """
        for frame in self._frames:
            yield self._decode(frame, msgspec.msgpack.Decoder(class_of(frame.type)))

    def _decode(self, frame: Frame, decoder: msgspec.msgpack.Decoder[R]) -> R:
        try:
            return decoder.decode(frame.payload)
        except msgspec.MsgspecError as error:
            raise CorruptImage(
                f"{self.path}: record {frame.index} at offset {frame.offset} is no "
                f"{class_of(frame.type).__name__}: {error}.",
                DAMAGED,
            ) from error


def write_whole(path: Path, content: bytes, *, durable: bool) -> None:
    """Make a file, or replace it, whole or not at all.

    Args:
        durable: wait until its content, and then its name, would survive a power cut.

    Raises:
        StorageError: disk full, or not writable.
    """
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    with storage_errors(path):
        try:
            fd = os.open(
                partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600
            )
            with open(fd, "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(fd)
            partial.rename(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory would survive a power cut.

    Raises:
        StorageError: the disk does not take it.
    """
    with storage_errors(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
