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
    saving = _Saving(content, writer, advance)
    for found in content.ranges:
        saving.add(found)
    saving.flush()
    return Record.of(content.of, _joined(saving.runs), content.guards)


class _Saving:
    """Hands the writer many pages at once, however far apart they lie: a kernel dirties
    thousands that have no neighbour, and each call would cost more than its page."""

    def __init__(
        self, content: Content, writer: SnapshotWriter, advance: Callable[[int], None]
    ) -> None:
        self._content = content
        self._writer = writer
        self._advance = advance
        self._buffer = memoryview(bytearray(min(content.size, _PIECE)))
        self._read: list[tuple[int, int]] = []
        """(address, length) of what is in the buffer."""
        self._filled = 0
        self._done = 0
        self.runs: list[Run] = []

    def add(self, found: _Range) -> None:
        if found.unchanged is not None:
            length = found.end - found.start
            offset = self._writer.append_unchanged(found.unchanged, length)
            self.runs.append((found.start, length, offset))
            self._tell(length)
            return
        address = found.start
        while address < found.end:
            view = self._buffer[self._filled :][: found.end - address]
            _read(self._content, view, address, may_end=found.may_end)
            self._read.append((address, len(view)))
            self._filled += len(view)
            address += len(view)
            if self._filled == len(self._buffer):
                self.flush()

    def flush(self) -> None:
        offset = self._writer.append(self._buffer[: self._filled]) if self._filled else 0
        for address, length in self._read:
            self.runs.append((address, length, offset))
            offset += length
        self._tell(self._filled, at_once=True)
        self._read.clear()
        self._filled = 0

    def _tell(self, more: int, *, at_once: bool = False) -> None:
        self._done += more
        if self._done and (at_once or self._done >= _PIECE):
            self._advance(self._done)
            self._done = 0


def _joined(runs: list[Run]) -> list[Run]:
    """By address, neighbours together."""
    joined: list[Run] = []
    for address, length, offset in sorted(runs):
        if joined:
            start, before, at = joined[-1]
            if start + before == address and at + before == offset:
                joined[-1] = (start, before + length, at)
                continue
        joined.append((address, length, offset))
    return joined


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
