"""Where the pages of a snapshot are: extents of pages in packs.

To its writer and its reader the pages of a snapshot are one array, numbered from 0. A
page map says of each of them which page of which pack it is, or that it is zeros.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import msgspec

__all__ = ["ZEROS", "Extent", "Interval", "PageExtents", "PageMap", "PageMapBuilder"]

ZEROS = ""
"""In place of a pack's name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
"""Of a pack: it never leads out of its directory."""

_ZEROS_NUMBER = 0xFFFFFFFF
_EXTENT = struct.Struct("<III")


class Extent(NamedTuple):
    """`length` pages of the snapshot from number `page` on: those of a pack from `first`
    on."""

    page: int
    length: int
    pack: str
    first: int

    @property
    def end(self) -> int:
        """Number of the page behind the last one."""
        return self.page + self.length

    def cut(self, page: int, end: int) -> Extent:
        """What of it is in [page, end)."""
        start, stop = max(self.page, page), min(self.end, end)
        first = self.first + start - self.page if self.pack else 0
        return Extent(start, stop - start, self.pack, first)


Interval = tuple[int, int]
"""Pages [first, end) of a pack."""


class PageExtents(msgspec.Struct, frozen=True, kw_only=True):
    """The page map of a snapshot.

    `packed` has three little-endian u32 for each extent, in the order of the pages:
    count of pages, number of the pack in `packs` (FFFFFFFF: the pages are zeros), and
    the first page there.
    """

    packs: tuple[str, ...]
    packed: bytes


@dataclass(frozen=True)
class PageMap:
    """Extents by page, without gaps."""

    extents: Sequence[Extent]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", [extent.page for extent in self.extents])

    _starts: Sequence[int] = ()

    @property
    def pages(self) -> int:
        """How many there are."""
        return self.extents[-1].end if self.extents else 0

    @classmethod
    def of(cls, record: PageExtents) -> PageMap:
        """From the record.

        Raises:
            ValueError: it makes no sense.
        """
        for name in record.packs:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no pack's name")
        if len(record.packed) % _EXTENT.size:
            raise ValueError(f"{len(record.packed)} bytes are no extents")
        extents = []
        page = 0
        for count, number, first in _EXTENT.iter_unpack(record.packed):
            if not count:
                raise ValueError("an extent is empty")
            if number == _ZEROS_NUMBER:
                extents.append(Extent(page, count, ZEROS, 0))
            elif number < len(record.packs):
                extents.append(Extent(page, count, record.packs[number], first))
            else:
                raise ValueError(f"pack {number} is not listed")
            page += count
        return cls(extents)

    def record(self) -> PageExtents:
        """What is kept of it."""
        packs = sorted({extent.pack for extent in self.extents} - {ZEROS})
        numbers = {name: number for number, name in enumerate(packs)}
        numbers[ZEROS] = _ZEROS_NUMBER
        packed = b"".join(
            _EXTENT.pack(extent.length, numbers[extent.pack], extent.first)
            for extent in self.extents
        )
        return PageExtents(packs=tuple(packs), packed=packed)

    def find(self, page: int, end: int) -> Iterator[Extent]:
        """The extents of pages [page, end), cut to fit.

        Raises:
            IndexError: there are not so many pages.
        """
        if end > self.pages:
            raise IndexError(f"there are {self.pages} pages, and no page {end - 1}")
        at = bisect_right(self._starts, page) - 1
        while page < end:
            extent = self.extents[at].cut(page, end)
            yield extent
            page = extent.end
            at += 1

    def usage(self) -> Mapping[str, Sequence[Interval]]:
        """Which pages of which pack it refers to, by pack, in order."""
        found: dict[str, list[Interval]] = {}
        for extent in self.extents:
            if extent.pack:
                interval = (extent.first, extent.first + extent.length)
                found.setdefault(extent.pack, []).append(interval)
        return {pack: merge_intervals(intervals) for pack, intervals in found.items()}


def merge_intervals(intervals: Iterable[Interval]) -> list[Interval]:
    """The same pages in as few intervals as can be, in order."""
    merged: list[Interval] = []
    for first, end in sorted(intervals):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((first, end))
    return merged


class PageMapBuilder:
    """Collects extents, in any order."""

    def __init__(self) -> None:
        self._extents: list[Extent] = []

    def add(self, extent: Extent) -> None:
        """Of pages that no extent has been added for."""
        if self._extents and _continues(self._extents[-1], extent):
            last = self._extents[-1]
            self._extents[-1] = last._replace(length=last.length + extent.length)
        else:
            self._extents.append(extent)

    def build(self) -> PageMap:
        """The map, with neighbours joined."""
        joined = PageMapBuilder()
        for extent in sorted(self._extents):
            joined.add(extent)
        for before, after in pairwise(joined._extents):
            assert before.end == after.page, f"no page {before.end}"
        return PageMap(joined._extents)


def _continues(last: Extent, extent: Extent) -> bool:
    return (
        last.end == extent.page
        and last.pack == extent.pack
        and (not last.pack or last.first + last.length == extent.first)
    )
