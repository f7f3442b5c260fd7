"""Reading a snapshot back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import msgspec

from jupyter_cr.engine.streams import PAGE, Piece
from jupyter_cr.errors import CorruptImage, NoSuchSnapshot
from jupyter_cr.image import codecs
from jupyter_cr.image.cipher import Cipher, is_wrapped, unwrap
from jupyter_cr.image.frame import DAMAGED
from jupyter_cr.image.pack import BLOCK_PAGES, Block, Pack, unreadable
from jupyter_cr.image.page_map import Extent, Interval, PageExtents, PageMap
from jupyter_cr.image.record_file import RecordFile
from jupyter_cr.image.records import Header, Outcome
from jupyter_cr.image.veil import Veil

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LIVE", "MANIFEST", "ImageReader"]

MANIFEST = "manifest"
LIVE = "live"
"""In its place, the records of a snapshot whose pages are still to come."""

R = TypeVar("R", bound=msgspec.Struct)


class ImageReader:
    """One snapshot, opened; a `jupyter_cr.engine.streams.SnapshotReader`.

    Opening it checks the whole manifest; a pack's index is checked when it is first
    needed, and its blocks when they are read. Threads can share it. A context manager.

    Args:
        directory: the snapshot.
        packs: the directory of all packs.
        cipher: decrypts it, if it is encrypted.
        veil: that is over its manifest and its packs.

    Raises:
        NoSuchSnapshot: there is none.
        CorruptImage: names the file, the record and its offset.
        FutureImage: written by a later release.
        LockedImage: encrypted, and not with this cipher.
    """

    def __init__(
        self,
        directory: Path,
        packs: Path,
        cipher: Cipher | None = None,
        veil: Veil | None = None,
    ) -> None:
        self._directory = directory
        self._cipher = cipher
        self._veil = veil
        self._packs = packs
        self._opened: dict[str, Pack] = {}
        self._open = ExitStack()
        self._lock = Lock()
        self._file, self._complete = self._read_manifest()
        self._header = self._file.first(Header)
        self._map = PageMap(())
        if self._complete:
            record = self._file.only(PageExtents)
            try:
                self._map = PageMap.of(record)
            except ValueError as error:
                raise CorruptImage(f"{self._file.path}: {error}.", DAMAGED) from error

    def _read_manifest(self) -> tuple[RecordFile, bool]:
        for name in (MANIFEST, LIVE, MANIFEST):
            path = self._directory / name
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                # One that is being completed has first the one, then the other.
                continue
            except OSError as error:
                raise unreadable(path, error) from error
            if self._veil is not None:
                data = self._veil.over(data, name)
            self._is_encrypted = is_wrapped(data)
            data = unwrap(data, self._cipher, f"{self._directory.name}/{name}", path)
            return RecordFile(data, path), name == MANIFEST
        if self._directory.is_dir():
            raise CorruptImage(f"{self._directory / MANIFEST} is missing.", DAMAGED)
        raise NoSuchSnapshot(
            f"There is no snapshot at {self._directory}.", "jupyter cr list shows all."
        )

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
        """Close the packs; safe to call twice."""
        self._open.close()
        self._opened.clear()

    @property
    def directory(self) -> Path:
        return self._directory

    @property
    def is_complete(self) -> bool:
        return self.is_final and not self.is_memory_only

    @property
    def is_final(self) -> bool:
        """Whether nothing will be added to it any more."""
        return self._complete

    @property
    def is_memory_only(self) -> bool:
        """Whether its twins alone have its pages."""
        return self.outcome is not None and self.outcome.memory_only

    @property
    def is_encrypted(self) -> bool:
        """Whether it can be read by its key only."""
        return self._is_encrypted

    @property
    def manifest(self) -> bytes | memoryview:
        """The bytes of the manifest."""
        return self._file.data

    @property
    def header(self) -> Header:
        """What the snapshot is."""
        return self._header

    @cached_property
    def outcome(self) -> Outcome | None:
        """How the checkpoint went, where that was recorded."""
        return next(self.records(Outcome), None)

    @property
    def page_map(self) -> PageMap:
        """Where the pages are."""
        return self._map

    @property
    def usage(self) -> Mapping[str, Sequence[Interval]]:
        """Which pages of which pack it refers to."""
        return self._map.usage()

    @cached_property
    def page_bytes(self) -> int:
        """Bytes of memory in it."""
        return self._map.pages * PAGE

    @cached_property
    def zero_bytes(self) -> int:
        """How many of them are of pages full of zeros."""
        return sum(e.length for e in self._map.extents if not e.pack) * PAGE

    def has(self, cls: type[msgspec.Struct]) -> bool:
        """Whether there is a record of that class."""
        return self._file.has(cls)

    def records(self, cls: type[R]) -> Iterator[R]:
        return self._file.records(cls)

    def __iter__(self) -> Iterator[msgspec.Struct]:
        """All records, in the order they were added.

        Raises:
            CorruptImage: a sound record that is not what its class says.
        """
        return iter(self._file)

    def check_packs(self) -> None:
        """See that all packs that it needs are there, and of the right length.

        Raises:
            CorruptImage: one is not.
            FutureImage: written by a later release.
        """
        for name in self.usage:
            self._pack(name)

    def _pack(self, name: str) -> Pack:
        with self._lock:
            if name not in self._opened:
                self._opened[name] = self._open.enter_context(
                    Pack(self._packs, name, self._cipher, self._veil)
                )
            return self._opened[name]

    def _iter_blocks(self, extent: Extent) -> Iterator[tuple[Pack, Block, int, int, int]]:
        """(pack, block, first page wanted of it, count, number of that page here)."""
        pack = self._pack(extent.pack)
        end = extent.first + extent.length
        if end > pack.pages:
            raise CorruptImage(
                f"{self._file.path} needs page {end - 1} of {pack.path}, which has "
                f"{pack.pages}.",
                DAMAGED,
            )
        first = extent.first
        while first < end:
            block = pack.blocks[first // BLOCK_PAGES]
            inside = first % BLOCK_PAGES
            count = min(block.pages - inside, end - first)
            yield pack, block, inside, count, extent.page + first - extent.first
            first += count

    def _find(self, offset: int, length: int) -> Iterator[Extent]:
        try:
            yield from self._map.find(offset // PAGE, -(-(offset + length) // PAGE))
        except IndexError as error:
            raise CorruptImage(f"{self._file.path}: {error}.", DAMAGED) from error

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        pending: Piece | None = None
        for piece in self._iter_pieces(offset, length):
            if pending is not None and _follows(pending, piece):
                total = pending.length + piece.length
                pending = Piece(pending.offset, total, pending.fd, pending.at)
                continue
            if pending is not None:
                yield _cut(pending, offset, offset + length)
            pending = piece
        if pending is not None:
            yield _cut(pending, offset, offset + length)

    def _iter_pieces(self, offset: int, length: int) -> Iterator[Piece]:
        for extent in self._find(offset, length):
            if not extent.pack:
                yield Piece(extent.page * PAGE, extent.length * PAGE)
                continue
            for pack, block, inside, count, page in self._iter_blocks(extent):
                start, size = page * PAGE, count * PAGE
                if block.codec == codecs.RAW and pack.veil is None:
                    yield Piece(start, size, pack.fd, block.offset + inside * PAGE)
                else:
                    give = partial(_unpack, pack, block, inside * PAGE, size)
                    yield Piece(start, size, unpack=give, group=(pack.name, block.number))

    def read(self, offset: int, length: int) -> bytes:
        found = bytearray()
        first = offset // PAGE * PAGE
        for extent in self._find(offset, length):
            if not extent.pack:
                found += bytes(extent.length * PAGE)
                continue
            for pack, block, inside, count, _ in self._iter_blocks(extent):
                found += _unpack(pack, block, inside * PAGE, count * PAGE)
        return bytes(memoryview(found)[offset - first : offset - first + length])

    def check(self, offset: int, length: int) -> None:
        for extent in self._find(offset, length):
            if extent.pack:
                for pack, block, *_ in self._iter_blocks(extent):
                    pack.check_once(block)

    def verify_raw(self) -> None:
        raw = (found for found in self._iter_used() if found[1].codec == codecs.RAW)
        _by_several(Pack.check, list(raw))

    def verify_pages(self) -> None:
        """Read, check and unpack all that it needs.

        Raises:
            CorruptImage: names the first block that is not as written.
        """
        _by_several(Pack.unpack, list(self._iter_used()))

    def _iter_used(self) -> Iterator[tuple[Pack, Block]]:
        """Each block that it needs pages of, once."""
        for name, intervals in self.usage.items():
            last = -1
            for first, end in intervals:
                extent = Extent(0, end - first, name, first)
                for pack, block, *_ in self._iter_blocks(extent):
                    if block.number != last:
                        yield pack, block
                    last = block.number


def _by_several(
    check: Callable[[Pack, Block], object], blocks: Sequence[tuple[Pack, Block]]
) -> None:
    """Check all of them, by two threads: hashing lets go of the interpreter lock."""

    def check_some(part: int) -> None:
        for pack, block in blocks[part::_THREADS]:
            check(pack, block)

    with ThreadPoolExecutor(_THREADS, "verify") as threads:
        for done in [threads.submit(check_some, part) for part in range(_THREADS)]:
            done.result()


_THREADS = 2


def _unpack(pack: Pack, block: Block, start: int, size: int) -> memoryview:
    return memoryview(pack.unpack(block))[start : start + size]


def _follows(before: Piece, piece: Piece) -> bool:
    if before.unpack is not None or piece.unpack is not None:
        return False
    if before.fd < 0 or piece.fd < 0:
        return before.fd == piece.fd
    return before.fd == piece.fd and before.at + before.length == piece.at


def _cut(piece: Piece, start: int, end: int) -> Piece:
    """What of it is in [start, end): ranges need not begin and end with a page."""
    if piece.offset >= start and piece.offset + piece.length <= end:
        return piece
    skipped = max(start - piece.offset, 0)
    length = min(piece.offset + piece.length, end) - piece.offset - skipped
    unpack = piece.unpack
    if unpack is not None:
        unpack = partial(_part, unpack, skipped, length)
    at = piece.at + skipped if piece.fd >= 0 else 0
    return Piece(piece.offset + skipped, length, piece.fd, at, unpack, piece.group)


def _part(
    unpack: Callable[[], bytes | memoryview], start: int, length: int
) -> bytes | memoryview:
    return unpack()[start : start + length]
