"""Copies of images: into another store, a bundle, or out of them.

What is copied is the image and nothing of its packs that is not its own: each page is
taken by itself, so that nothing of other snapshots, which may share blocks with it, goes
along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from jupyter_cr.engine.streams import PAGE
from jupyter_cr.image.page_map import ZEROS, Extent, PageExtents
from jupyter_cr.image.reader import ImageReader
from jupyter_cr.image.writer import ImageWriter

__all__ = ["copy_image"]

_PIECE = 4 << 20


def copy_image(
    reader: ImageReader,
    writer: ImageWriter,
    change: Callable[[msgspec.Struct], Iterable[msgspec.Struct]] | None = None,
    advance: Callable[[float], None] | None = None,
    seen: Callable[[bytes], object] | None = None,
) -> None:
    """Put everything that an image holds into another one, which is not committed.

    Args:
        change: what goes in a record's place; default: itself.
        advance: told the share of the pages that have been copied.
        seen: given the pages, in order, some at a time; not those that are zeros.

    Raises:
        CorruptImage: a page is not as it was written.
        StorageError: disk full, or not writable any more.
    """
    for record in reader:
        if isinstance(record, PageExtents):
            continue
        for one in (record,) if change is None else change(record):
            writer.add(one)
    total = reader.page_bytes
    done = 0
    for extent in reader.page_map.extents:
        if extent.pack == ZEROS:
            writer.append_zeros(extent.length)
        else:
            _copy(reader, writer, extent, seen)
        done += extent.length * PAGE
        if advance is not None:
            advance(done / total)


def _copy(
    reader: ImageReader,
    writer: ImageWriter,
    extent: Extent,
    seen: Callable[[bytes], object] | None,
) -> None:
    end = extent.end * PAGE
    for offset in range(extent.page * PAGE, end, _PIECE):
        pages = reader.read(offset, min(_PIECE, end - offset))
        if seen is not None:
            seen(pages)
        writer.append(pages)
