"""The content of private memory: which pages, and the way into the snapshot."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from jupyter_cr.engine.state.address_space import Region
from jupyter_cr.engine.streams import PAGE, SnapshotWriter
from jupyter_cr.errors import EngineError
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.pagemap import iter_anonymous_ranges, iter_guard_ranges

if TYPE_CHECKING:
    from jupyter_cr.engine.base import Base

__all__ = ["Content", "Record", "Run", "copy_content", "find_content", "save_content"]

_PIECE = 1 << 20
_RUN = struct.Struct("<QQQ")

Run = tuple[int, int, int]
"""(address, length, offset in the pages), bytes."""


class Record(msgspec.Struct, frozen=True):
    """Where the pages of process `pid` are: packed triples of 64-bit little-endian
    address, length and offset in the pages, bytes, by address. `guards`: packed pairs
    of address and length where MADV_GUARD_INSTALL has put guard pages."""

    pid: int
    packed: bytes
    guards: bytes

    @classmethod
    def of(cls, pid: int, runs: Sequence[Run], guards: Sequence[tuple[int, int]]) -> Record:
        """From the runs, and guard ranges (start, end)."""
        return cls(
            pid,
            b"".join(_RUN.pack(*run) for run in runs),
            b"".join(struct.pack("<QQ", start, end - start) for start, end in guards),
        )

    @property
    def runs(self) -> list[Run]:
        """All of them, by address."""
        return [_RUN.unpack_from(self.packed, at) for at in range(0, len(self.packed), 24)]

    @property
    def guard_ranges(self) -> list[tuple[int, int]]:
        """(address, length) of guard pages, bytes."""
        return list(struct.iter_unpack("<QQ", self.guards))


@dataclass(frozen=True)
class _Range:
    """Addresses [start, end) to be stored.

    Attributes:
        unchanged: where the earlier snapshot has them; None: they have to be read.
        may_end: the memory may end before, as it is of a file.
    """

    start: int
    end: int
    unchanged: int | None = None
    may_end: bool = False


@dataclass(frozen=True)
class Content:
    """What is to be stored of process `of`: `memory` is a descriptor of its twin's
    (proc_pid_mem(5)), `ranges` by address, `guards` (start, end) of guard pages."""

    of: int
    memory: int
    ranges: Sequence[_Range]
    guards: Sequence[tuple[int, int]]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(found.end - found.start for found in self.ranges)


def find_content(
    of: int, memory: int, pagemap: int, regions: Sequence[Region], base: Base
) -> Content:
    """What of the regions has to be stored.

    Args:
        memory, pagemap: of the twin, descriptors.
        base: an earlier snapshot.

    Raises:
        NoSuchProcess: the twin is gone.
    """
    own = [region for region in regions if region.has_own_pages]
    guards = [
        found
        for region in own
        for found in iter_guard_ranges(pagemap, region.start, region.end)
    ]
    ranges = [found for region in own for found in _iter_stored(of, pagemap, region, base)]
    return Content(of, memory, ranges, guards)


def _iter_stored(of: int, pagemap: int, region: Region, base: Base) -> Iterator[_Range]:
    if "dp" in region.flags:
        return
    if region.content == "copied":
        yield _Range(region.start, region.end, may_end=True)
        return
    for start, end in iter_anonymous_ranges(pagemap, region.start, region.end):
        for low, high, offset in base.find(of, pagemap, start, end):
            if start < low:
                yield _Range(start, low)
            yield _Range(low, high, offset)
            start = high
        if start < end:
            yield _Range(start, end)


def save_content(
    content: Content, writer: SnapshotWriter, advance: Callable[[int], None]
) -> Record:
    """Store it.

    Args:
        advance: told how many bytes more have been stored, again and again.

    Raises:
        EngineError: the twin is gone.
        StorageError: the disk is full.
    """
    runs: list[Run] = []
    buffer = memoryview(bytearray(min(content.size, _PIECE)))
    for found in content.ranges:
        address = found.start
        while address < found.end:
            length = found.end - address
            if found.unchanged is not None:
                offset = found.unchanged + address - found.start
                _add(runs, address, length, writer.append_unchanged(offset, length))
            else:
                length = min(length, _PIECE)
                view = buffer[:length]
                _read(content, view, address, may_end=found.may_end)
                _add(runs, address, length, writer.append(view))
            address += length
            advance(length)
    return Record.of(content.of, runs, content.guards)


def copy_content(content: Content, memory: Memory, advance: Callable[[int], None]) -> None:
    """Write it into a process's memory.

    Args:
        advance: told how many bytes more have been written.

    Raises:
        EngineError: the twin is gone.
    """
    buffer = memoryview(bytearray(min(content.size, _PIECE)))
    for found in content.ranges:
        for address in range(found.start, found.end, _PIECE):
            view = buffer[: min(found.end - address, _PIECE)]
            _read(content, view, address, may_end=found.may_end)
            memory.write(address, view)
            advance(len(view))


def _add(runs: list[Run], address: int, length: int, offset: int) -> None:
    if runs:
        start, before, at = runs[-1]
        if start + before == address and at + before == offset:
            runs[-1] = (start, before + length, at)
            return
    runs.append((address, length, offset))


def _read(content: Content, view: memoryview, address: int, *, may_end: bool) -> None:
    got = 0
    while got < len(view):
        try:
            step = os.preadv(content.memory, [view[got:]], address + got)
        except OSError as error:
            if may_end:
                view[got:] = bytes(len(view) - got)
                return
            raise EngineError(
                f"process {content.of}: pages at {address + got:#x} cannot be saved: "
                f"{error.strerror}"
            ) from error
        if step == 0:
            raise EngineError(
                f"the twin of process {content.of} has ended before it was saved",
                "Take another snapshot.",
            )
        got += step


assert _PIECE % PAGE == 0
