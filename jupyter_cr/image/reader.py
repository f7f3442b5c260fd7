"""Reading a snapshot back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import msgspec

from jupyter_cr.errors import CorruptImage, FutureImage, NoSuchSnapshot
from jupyter_cr.image.checksums import BlockCheck, find_damaged_block
from jupyter_cr.image.frame import DAMAGED, Frame, iter_frames
from jupyter_cr.image.records import (
    RECORDS,
    Header,
    Outcome,
    PageBlocks,
    class_of,
    number_of,
)
from jupyter_cr.image.writer import MANIFEST, PAGES

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ImageReader"]

R = TypeVar("R", bound=msgspec.Struct)


class ImageReader:
    """One snapshot, opened; a `jupyter_cr.engine.streams.SnapshotReader`.

    Opening it checks the whole manifest, and that the pages are as long as they
    should be; `verify_pages` checks the pages themselves. A context manager.

    Args:
        directory: the snapshot.

    Raises:
        NoSuchSnapshot: there is none.
        CorruptImage: names the file, the record and its offset.
        FutureImage: written by a later release.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._pages_path = directory / PAGES
        with ExitStack() as undo:
            self._manifest = self._read_manifest()
            self._pages = self._open_pages()
            undo.callback(self.close)
            self.verify_manifest()
            undo.pop_all()

    def _read_manifest(self) -> memoryview:
        path = self.directory / MANIFEST
        try:
            return memoryview(path.read_bytes())
        except FileNotFoundError as error:
            if self.directory.is_dir():
                raise CorruptImage(f"{path} is missing.", DAMAGED) from error
            raise NoSuchSnapshot(
                f"There is no snapshot at {self.directory}.", "jupyter cr list shows all."
            ) from error
        except OSError as error:
            raise _unreadable(path, error) from error

    def _open_pages(self) -> int:
        try:
            return os.open(self._pages_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(self._pages_path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the pages; safe to call twice."""
        if self._pages >= 0:
            os.close(self._pages)
            self._pages = -1

    @property
    def pages_fd(self) -> int:
        return self._pages

    @property
    def files(self) -> tuple[Path, Path]:
        """The manifest and the pages."""
        return self.directory / MANIFEST, self._pages_path

    @property
    def header(self) -> Header:
        """What the snapshot is."""
        return self._header

    @property
    def outcome(self) -> Outcome | None:
        """How the checkpoint went, where that was recorded."""
        return next(self.records(Outcome), None)

    def has(self, cls: type[msgspec.Struct]) -> bool:
        """Whether there is a record of that class."""
        number = number_of(cls)
        return any(frame.type == number for frame in self._frames)

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
                f"{self.directory / MANIFEST}: record {frame.index} at offset "
                f"{frame.offset} is no {class_of(frame.type).__name__}: {error}.",
                DAMAGED,
            ) from error

    def verify_manifest(self) -> None:
        """Check every record, and the length of the pages; done when opened.

        Raises:
            CorruptImage: names the file, the record and its offset.
            FutureImage: written by a later release.
        """
        path = self.directory / MANIFEST
        self._frames = tuple(iter_frames(self._manifest, path))
        for frame in self._frames:
            if frame.type not in RECORDS:
                raise FutureImage(
                    f"{path}: record {frame.index} at offset {frame.offset} is of type "
                    f"{frame.type}, which this release does not know.",
                    "Use the release of jupyter-cr that wrote it, or a later one.",
                )
        if not self._frames or self._frames[0].type != number_of(Header):
            raise CorruptImage(f"{path}: the first record is no Header.", DAMAGED)
        if self._frames[-1].type != number_of(PageBlocks):
            raise CorruptImage(f"{path}: the last record is no PageBlocks.", DAMAGED)
        self._header = next(self.records(Header))
        *_, self._blocks = self.records(PageBlocks)
        self._check_length()

    def _check_length(self) -> None:
        blocks = self._blocks
        if blocks.block < 1 or len(blocks.checksums) != 8 * -(
            -blocks.length // blocks.block
        ):
            raise CorruptImage(
                f"{self.directory / MANIFEST}: {len(blocks.checksums)} bytes of checksums "
                f"do not fit {blocks.length} bytes of pages.",
                DAMAGED,
            )
        length = os.fstat(self._pages).st_size
        if length != blocks.length:
            raise CorruptImage(
                f"{self._pages_path} has {length} bytes; it should have {blocks.length}.",
                DAMAGED,
            )

    def verify_pages(self) -> None:
        """Check all pages against their checksums, with two threads.

        Raises:
            CorruptImage: names the first block that is not as written.
        """
        blocks = self._blocks
        try:
            number = find_damaged_block(
                self._pages, blocks.length, blocks.block, blocks.checksums
            )
        except OSError as error:
            raise _unreadable(self._pages_path, error) from error
        if number is not None:
            raise _damaged(self._pages_path, number, blocks.block)

    def check_as_needed(self) -> RangeCheck:
        """What checks ranges of the pages when they are asked for; it does not need this
        reader any more."""
        blocks = self._blocks
        check = BlockCheck(self._pages, blocks.length, blocks.block, blocks.checksums)
        return RangeCheck(check, self._pages_path, blocks.block)


@dataclass(frozen=True)
class RangeCheck:
    """Checks ranges of the pages against their checksums."""

    blocks: BlockCheck
    path: Path
    block: int

    def check(self, start: int, end: int) -> None:
        """Check the bytes [start, end) of the pages.

        Raises:
            CorruptImage: names the first block that is not as written.
        """
        try:
            number = self.blocks.find_damaged(start, end)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if number is not None:
            raise _damaged(self.path, number, self.block)

    def close(self) -> None:
        """Give back what it holds."""
        self.blocks.close()


def _damaged(path: Path, number: int, block: int) -> CorruptImage:
    return CorruptImage(
        f"{path}: block {number} at offset {number * block} does not match its checksum.",
        DAMAGED,
    )


def _unreadable(path: Path, error: OSError) -> CorruptImage:
    return CorruptImage(f"{path} cannot be read: {error.strerror}.", DAMAGED)
