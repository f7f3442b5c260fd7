"""Pages of a snapshot elsewhere that are here already: in local copies of its relatives.

The stores hash pages with seeds of their own, so that a page cannot be looked up. But where
a copy of another snapshot of that store is here, its page map there tells which of its
pages are which pages of the packs there; and these packs' indexes have the hashes by which
that is checked, page by page.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import xxhash

from jupyter_cr.engine.streams import PAGE
from jupyter_cr.errors import ImageError
from jupyter_cr.image import ImageReader
from jupyter_cr.image.pack import Pack
from jupyter_cr.image.page_map import Extent, Interval, PageMap, merge_intervals

__all__ = ["LocalCopy", "LocalPages"]

_AT_ONCE = 1024
"""Pages that are read together."""


class LocalCopy(NamedTuple):
    """A local copy of a snapshot, and where its pages are there."""

    reader: ImageReader
    page_map: PageMap


class _Run(NamedTuple):
    """Pages [first, end) of a pack there are those from `page` on of a snapshot here."""

    first: int
    end: int
    page: int
    reader: ImageReader


class LocalPages:
    """What was found of the packs of one snapshot.

    Args:
        copies: of relatives; stay open as long as this is used.
        seed: of the store there, for hashes of pages.
    """

    def __init__(self, copies: Sequence[LocalCopy] = (), seed: int = 0) -> None:
        self._copies = [c for c in copies if c.page_map.pages == c.reader.page_map.pages]
        self._seed = seed
        self._runs: dict[str, list[_Run]] = {}

    def look(self, pack: Pack, needed: Sequence[Interval]) -> Sequence[Interval]:
        """Look for pages of a pack, and compare what is here with their hashes; those that
        are not here."""
        runs: list[_Run] = []
        missing = needed
        for copy in self._copies:
            # A local copy that is damaged is of no use, and that is all.
            with suppress(ImageError):
                for run in _common(copy, pack.name, missing):
                    runs += self._checked(pack, run)
            missing = _without(needed, [(run.first, run.end) for run in runs])
        self._runs[pack.name] = sorted(runs, key=lambda run: run.first)
        return missing

    def _checked(self, pack: Pack, run: _Run) -> Iterator[_Run]:
        """What of it is as it is there."""
        for start in range(run.first, run.end, _AT_ONCE):
            end = min(run.end, start + _AT_ONCE)
            page = run.page + start - run.first
            view = memoryview(run.reader.read(page * PAGE, (end - start) * PAGE))
            equal = [
                number
                for number in range(start, end)
                if xxhash.xxh3_128_digest(
                    view[(number - start) * PAGE : (number - start + 1) * PAGE], self._seed
                )
                == pack.digest(number)
            ]
            for first, last in merge_intervals((n, n + 1) for n in equal):
                yield _Run(first, last, run.page + first - run.first, run.reader)

    def split(self, extent: Extent) -> Iterator[tuple[Extent, ImageReader | None, int]]:
        """(part of the extent, the local snapshot that it is in, the page there), in order;
        None where it is not here."""
        runs = self._runs.get(extent.pack, [])
        at, end = extent.first, extent.first + extent.length
        number = max(0, bisect_right(runs, at, key=lambda run: run.first) - 1)
        while at < end:
            while number < len(runs) and runs[number].end <= at:
                number += 1
            run = runs[number] if number < len(runs) else None
            if run is None or run.first >= end:
                yield _part(extent, at, end), None, 0
                return
            if run.first > at:
                yield _part(extent, at, run.first), None, 0
                at = run.first
            stop = min(end, run.end)
            yield _part(extent, at, stop), run.reader, run.page + at - run.first
            at = stop


def _part(extent: Extent, first: int, end: int) -> Extent:
    return Extent(extent.page + first - extent.first, end - first, extent.pack, first)


def _common(copy: LocalCopy, pack: str, wanted: Sequence[Interval]) -> Iterator[_Run]:
    """Pages of a pack that are wanted and that the copy says it has; each once."""
    extents = sorted((e for e in copy.page_map.extents if e.pack == pack), key=_first)
    number, at = 0, 0
    for extent in extents:
        end = extent.first + extent.length
        at = max(at, extent.first)
        while number < len(wanted) and at < end:
            first, last = wanted[number]
            start, stop = max(at, first), min(end, last)
            if start < stop:
                yield _Run(start, stop, extent.page + start - extent.first, copy.reader)
            if last > end:
                break
            number += 1
        at = max(at, end)


def _first(extent: Extent) -> int:
    return extent.first


def _without(intervals: Sequence[Interval], taken: Iterable[Interval]) -> list[Interval]:
    """What of the first is not in the second."""
    left = []
    holes = merge_intervals(taken)
    for first, end in intervals:
        at = first
        number = max(0, bisect_right(holes, (at, at)) - 1)
        for hole_first, hole_end in holes[number:]:
            if hole_first >= end:
                break
            if hole_first > at:
                left.append((at, hole_first))
            at = max(at, hole_end)
        if at < end:
            left.append((at, end))
    return left
