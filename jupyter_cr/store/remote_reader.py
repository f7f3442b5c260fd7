"""Reading a snapshot that is elsewhere: its records at once, its pages when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from jupyter_cr.engine.streams import PAGE, storage_errors
from jupyter_cr.errors import CorruptImage, ImageError
from jupyter_cr.image import ImageReader, codecs
from jupyter_cr.image.frame import DAMAGED
from jupyter_cr.image.pack import BLOCK_PAGES, Block, Pack
from jupyter_cr.image.page_map import Interval
from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.image.record_file import write_whole
from jupyter_cr.store.key_file import transfer_veil
from jupyter_cr.store.local_pages import LocalPages
from jupyter_cr.store.mirror import Mirror
from jupyter_cr.store.push_signature import PushSignature
from jupyter_cr.store.remote_files import RemoteFiles
from jupyter_cr.store.survey import Survey, pack_names
from jupyter_cr.store.trust import SIGNATURE

__all__ = ["RemoteReader", "named_by_url"]

_PIECE = 8 << 20
"""Bytes of one request, at most."""

_AT_ONCE = 64 << 20
"""Bytes of those that are under way together: they are in memory."""

_GAP = 64 << 10
"""Bytes that cost less than another request."""


@contextmanager
def named_by_url(place: Path, files: RemoteFiles) -> Iterator[None]:
    """Let errors name the file that is elsewhere, not its copy."""
    try:
        yield
    except ImageError as error:
        message = error.message.replace(str(place), files.url)
        raise type(error)(message, error.hint) from error


@dataclass(frozen=True)
class _Range:
    """Neighbours of one pack, to be fetched together."""

    pack: Pack
    blocks: Sequence[Block]

    @property
    def start(self) -> int:
        return self.blocks[0].offset

    @property
    def end(self) -> int:
        return self.blocks[-1].offset + self.blocks[-1].length


class RemoteReader(ImageReader):
    """One snapshot, opened; an `ImageReader` whose pages have to be fetched before they can
    be read.

    Args:
        mirror: has its manifest.
        id_: of the snapshot.
        name: how it is called there.
        survey: tells of its packs.

    Raises:
        CorruptImage: names the file there, the record and its offset.
        FutureImage: written by a later release.
        StorageError: there is no room for the copy.
    """

    def __init__(
        self, mirror: Mirror, files: RemoteFiles, id_: str, name: str, survey: Survey
    ) -> None:
        self.name = name
        self.fetched_bytes = 0
        """Of pages, so far."""
        self._mirror = mirror
        self._files = files
        self._survey = survey
        self._is_fetched = False
        self._local: LocalPages | None = None
        veil = transfer_veil()
        with ExitStack() as stack:
            staged = stack.enter_context(mirror.work(id_))
            self._staged = staged
            directory = staged.directory
            with storage_errors(directory):
                copies = mirror.snapshot(id_)
                with suppress(FileNotFoundError):
                    os.link(copies / SIGNATURE, directory / SIGNATURE)
                with suppress(FileNotFoundError):
                    manifest = (copies / MANIFEST).read_bytes()
                    if veil is not None:
                        manifest = veil.over(manifest, MANIFEST)
                    write_whole(directory / MANIFEST, manifest, durable=False)
            try:
                with self.named_by_url():
                    super().__init__(directory, staged.packs, mirror.cipher, veil)
            except CorruptImage:
                # Perhaps it is only the copy: the next one fetches it again.
                (mirror.snapshot(id_) / MANIFEST).unlink(missing_ok=True)
                raise
            self._held = stack.pop_all()

    def close(self) -> None:
        """Close it, and delete what was fetched; safe to call twice."""
        super().close()
        self._held.close()

    @property
    def signature(self) -> PushSignature | None:
        """By whom it was pushed, if that one trusted it.

        Raises:
            CorruptImage: names the file there.
        """
        path = self.directory / SIGNATURE
        if not path.exists():
            return None
        with self.named_by_url():
            return PushSignature.decode(path.read_bytes(), str(path))

    def named_by_url(self) -> AbstractContextManager[None]:
        """Let errors name the file that is elsewhere, not its copy."""
        return named_by_url(self._staged.packs.parent, self._files)

    def verify_pages(self) -> None:
        self.fetch()
        with self.named_by_url():
            super().verify_pages()

    def fetch(
        self,
        advance: Callable[[float], None] | None = None,
        local: LocalPages | None = None,
    ) -> None:
        """Fetch the blocks that its pages are in, several at once, and check each.

        Args:
            advance: told the share that is here.
            local: pages that are here already; used as long as this one is open.

        Raises:
            CorruptImage: names the file there that is damaged or missing.
            StorageError: it cannot be reached, or there is no room here.
        """
        if self._is_fetched:
            return
        usage = self.usage
        for pack in usage:
            if pack not in self._survey.packs:
                raise CorruptImage(
                    f"{self._files.where(pack_names(pack)[0])} is missing, or its index.",
                    DAMAGED,
                )
        self._mirror.fetch(self._survey.indexes(usage))
        ranges = [
            part
            for name, intervals in usage.items()
            for part in self._missing(self._lent(name), intervals, local)
        ]
        self._local = local
        total = sum(part.end - part.start for part in ranges)
        for batch in _batches(ranges):
            self._fetch(batch)
            if advance is not None:
                advance(self.fetched_bytes / total)
        self._is_fetched = True

    def _missing(
        self, pack: Pack, needed: Sequence[Interval], local: LocalPages | None
    ) -> Iterator[_Range]:
        if local is not None and all(end <= pack.pages for _, end in needed):
            needed = local.look(pack, needed)
        return _ranges(pack, needed)

    def read(self, offset: int, length: int) -> bytes:
        if self._local is None:
            return super().read(offset, length)
        found = bytearray()
        first = offset // PAGE
        for extent in self.page_map.find(first, -(-(offset + length) // PAGE)):
            for part, reader, page in self._local.split(extent):
                size = part.length * PAGE
                if reader is None:
                    found += super().read(part.page * PAGE, size)
                else:
                    found += reader.read(page * PAGE, size)
        start = offset - first * PAGE
        return bytes(memoryview(found)[start : start + length])

    def _lent(self, name: str) -> Pack:
        try:
            return self._lend(name)
        except CorruptImage:
            # Perhaps it is only the copy.
            self._mirror.path(pack_names(name)[1]).unlink(missing_ok=True)
            self._mirror.fetch(self._survey.indexes([name]))
            return self._lend(name)

    def _lend(self, name: str) -> Pack:
        data, index = pack_names(name)
        if not self._mirror.path(index).exists():
            raise self._files.gone(index)
        self._mirror.lend_pack(self._staged.packs, name, self._survey.sizes[data])
        with self.named_by_url():
            return self._pack(name)

    def _fetch(self, batch: Sequence[_Range]) -> None:
        name = pack_names(batch[0].pack.name)[0]
        found = self._files.read_ranges(name, [(part.start, part.end) for part in batch])
        for part, data in zip(batch, found, strict=True):
            self._check(part, data)
            self.fetched_bytes += len(data)
            with storage_errors(part.pack.path):
                fd = os.open(part.pack.path, os.O_WRONLY | os.O_CLOEXEC)
                if self._veil is not None:
                    data = self._veil.over(data, part.pack.name, part.start)
                try:
                    at, view = part.start, memoryview(data)
                    while view:
                        written = os.pwrite(fd, view, at)
                        at, view = at + written, view[written:]
                finally:
                    os.close(fd)

    def _check(self, part: _Range, data: bytes) -> None:
        view = memoryview(data)
        for block in part.blocks:
            start = block.offset - part.start
            stored = view[start : start + block.length]
            if (
                block.codec != codecs.DROPPED
                and xxhash.xxh3_64_intdigest(stored) != block.checksum
            ):
                raise CorruptImage(
                    f"{self._files.where(pack_names(part.pack.name)[0])}: block "
                    f"{block.number} at offset {block.offset} does not match its checksum.",
                    DAMAGED,
                )


def _ranges(pack: Pack, intervals: Sequence[Interval]) -> Iterator[_Range]:
    """The blocks in which these pages are, neighbours together."""
    held: list[Block] = []
    for block in _blocks(pack, intervals):
        end = held[-1].offset + held[-1].length if held else 0
        if held and (
            block.offset - end > _GAP
            or block.offset + block.length - held[0].offset > _PIECE
        ):
            yield _Range(pack, held)
            held = []
        held.append(block)
    if held:
        yield _Range(pack, held)


def _blocks(pack: Pack, intervals: Sequence[Interval]) -> Iterator[Block]:
    last = -1
    for first, end in intervals:
        if end > pack.pages:
            raise CorruptImage(
                f"Page {end - 1} of pack {pack.name} is needed; it has {pack.pages}.",
                DAMAGED,
            )
        for number in range(first // BLOCK_PAGES, -(-end // BLOCK_PAGES)):
            if number > last:
                yield pack.blocks[number]
                last = number


def _batches(ranges: Sequence[_Range]) -> Iterator[list[_Range]]:
    """Some of one pack, that may be in memory together."""
    batch: list[_Range] = []
    size = 0
    for part in ranges:
        length = part.end - part.start
        if batch and (size + length > _AT_ONCE or part.pack is not batch[0].pack):
            yield batch
            batch, size = [], 0
        batch.append(part)
        size += length
    if batch:
        yield batch
