"""From the pages of a snapshot to a pack of those that no other pack has.

A page is the unit: two heaps that have grown apart still share whole pages, at the same
offset in a page and hardly ever at another; of 256-byte chunks they would share little
more, for 16 times the index. To know all hashes of a large store would take gigabytes;
so, as in Lillibridge et al., "Sparse Indexing" (FAST '09), one in 64 hashes is a sample,
and the samples of the pages at hand say which packs are worth looking into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import xxhash

from jupyter_cr.engine.streams import PAGE
from jupyter_cr.errors import ImageError
from jupyter_cr.image.pack import Pack, PackWriter, is_sample
from jupyter_cr.image.page_map import ZEROS, Extent, PageMap, PageMapBuilder

__all__ = ["KnownPages", "PageWriter"]

_SEGMENT = 1024
"""Pages that are looked at together: 16 samples on average."""


class KnownPages(Protocol):
    """Which packs a store has."""

    def candidates(self, samples: Sequence[bytes]) -> Sequence[str]:
        """Names of a few packs that have most of the pages with these hashes, the best
        first. They have to stay as they are until the snapshot has been committed."""


class NoPages:
    """`KnownPages` of somebody who has none."""

    def candidates(self, samples: Sequence[bytes]) -> Sequence[str]:
        """None."""
        return ()


class PageWriter:
    """Puts each page where it is already, or into a new pack.

    Args:
        directory: of all packs.
        pack: the new one.
        seed: the store's, for hashes: nobody else can make two pages that get one.
    """

    def __init__(
        self, directory: Path, pack: PackWriter, seed: int, known: KnownPages
    ) -> None:
        self._directory = directory
        self._pack = pack
        self._seed = seed
        self._known = known
        self._map = PageMapBuilder()
        self._pages = 0
        self._buffer = bytearray(_SEGMENT * PAGE)
        self._held: list[int] = []
        self._packs = [ZEROS, pack.name]
        self._found = {self._hash(bytes(PAGE)): 0}
        self._others: list[tuple[int, Pack]] = []
        """Their indexes, with their numbers here."""
        self._looked_into: set[str] = set()

    def _hash(self, page: bytes | memoryview) -> bytes:
        return xxhash.xxh3_128_digest(page, self._seed)

    @property
    def count(self) -> int:
        """Pages so far."""
        return self._pages

    def append(self, data: bytes | memoryview) -> int:
        """Append bytes, and zeros up to the end of a page; the number of the first page.

        Raises:
            StorageError: disk full, or not writable any more.
        """
        first = self._pages
        view = memoryview(data)
        while view:
            at = len(self._held) * PAGE
            part = view[: len(self._buffer) - at]
            end = at + len(part)
            self._buffer[at:end] = part
            padding = -len(part) % PAGE
            self._buffer[end : end + padding] = bytes(padding)
            count = (len(part) + padding) // PAGE
            self._held += range(self._pages, self._pages + count)
            self._pages += count
            if len(self._held) == _SEGMENT:
                self._place()
            view = view[len(part) :]
        return first

    def refer(self, extent: Extent) -> None:
        """Append pages that are in a pack already; the extent's own number is ignored."""
        self._map.add(extent._replace(page=self._pages))
        self._pages += extent.length

    def finish(self) -> PageMap:
        """Where all of them are.

        Raises:
            StorageError: disk full, or not writable any more.
        """
        self._place()
        return self._map.build()

    def _place(self) -> None:
        view = memoryview(self._buffer)
        ends = range(PAGE, (len(self._held) + 1) * PAGE, PAGE)
        digests = [self._hash(view[end - PAGE : end]) for end in ends]
        self._look_around(digests)
        fresh: list[int] = []
        places = [self._place_of(at, digest, fresh) for at, digest in enumerate(digests)]
        for first, end in _runs(fresh):
            self._pack.extend(view[first * PAGE : end * PAGE], digests[first:end])
        for extent in self._extents(places):
            self._map.add(extent)
        self._held.clear()

    def _place_of(self, at: int, digest: bytes, fresh: list[int]) -> int:
        place = self._found.get(digest)
        if place is None:
            place = self._place_in_others(digest)
            if place is None:
                place = _place(_NEW, self._pack.pages + len(fresh))
                fresh.append(at)
            self._found[digest] = place
        return place

    def _place_in_others(self, digest: bytes) -> int | None:
        for number, pack in self._others:
            if (page := pack.find(digest)) is not None:
                return _place(number, page)
        return None

    def _extents(self, places: Sequence[int]) -> Iterator[Extent]:
        """Where the pages held are, neighbours together."""
        first = 0
        for at in range(1, len(places) + 1):
            if (
                at == len(places)
                or self._held[at] != self._held[at - 1] + 1
                or places[at] != (places[at - 1] and places[at - 1] + 1)
            ):
                pack, page = divmod(places[first], _PLACES)
                yield Extent(self._held[first], at - first, self._packs[pack], page)
                first = at

    def _look_around(self, digests: Sequence[bytes]) -> None:
        samples = [d for d in digests if is_sample(d) and d not in self._found]
        if not samples:
            return
        cipher = self._pack.cipher
        for name in self._known.candidates(samples):
            if name not in self._looked_into:
                self._looked_into.add(name)
                # What cannot be read is stored again.
                with suppress(ImageError), Pack(self._directory, name, cipher) as pack:
                    if pack.is_encrypted == (cipher is not None):
                        self._others.append((len(self._packs), pack))
                        self._packs.append(name)


_PLACES = 1 << 32
_NEW = 1


def _place(pack: int, page: int) -> int:
    """A page of a pack, which has a number here; neighbours have neighbouring places. The
    place of zeros is 0."""
    return pack * _PLACES + page


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges [first, end) of ascending numbers."""
    first = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[first], numbers[at - 1] + 1
            first = at
