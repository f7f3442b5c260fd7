"""The content of private memory: which pages, and the way into the snapshot.

A twin writes its own memory: one copy, from its pages into the file's, without this
process in between.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence

import msgspec

from jupyter_cr.engine.state.address_space import Region
from jupyter_cr.engine.twin import Twin
from jupyter_cr.errors import CheckpointRestoreError, EngineError, StorageError
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.proc.pagemap import (
    iter_anonymous_ranges,
    iter_guard_ranges,
    open_pagemap,
)
from jupyter_cr.tracer.remote import RemoteThread, Result

__all__ = ["Record", "Run", "find_runs", "groups", "guard_ranges", "save_pages"]

_PIECE = 32 << 20
_PROT_READ, _PROT_WRITE = 1, 2
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


def find_runs(twin: Twin, regions: Sequence[Region], offset: int) -> list[Run]:
    """What of the regions has to be stored, laid out in the pages from `offset` on."""
    runs: list[Run] = []
    pagemap = open_pagemap(twin.pid)
    try:
        for start, end in _iter_stored(pagemap, regions):
            runs.append((start, end - start, offset))
            offset += end - start
    finally:
        os.close(pagemap)
    return runs


def _iter_stored(pagemap: int, regions: Sequence[Region]) -> Iterator[tuple[int, int]]:
    for region in regions:
        if not region.has_own_pages or "dp" in region.flags:
            continue
        if region.content == "copied":
            yield region.start, region.end
        else:
            yield from iter_anonymous_ranges(pagemap, region.start, region.end)


def guard_ranges(twin: Twin, regions: Sequence[Region]) -> list[tuple[int, int]]:
    """(start, end) of the guard pages (MADV_GUARD_INSTALL) in the regions."""
    pagemap = open_pagemap(twin.pid)
    try:
        return [
            found
            for region in regions
            if region.has_own_pages
            for found in iter_guard_ranges(pagemap, region.start, region.end)
        ]
    finally:
        os.close(pagemap)


def save_pages(
    twin: Twin,
    regions: Sequence[Region],
    runs: Sequence[Run],
    pages_fd: int,
    handover: Handover,
    advance: Callable[[int], None],
) -> None:
    """Have the twin write the runs to the file behind `pages_fd`.

    Args:
        advance: told the offset up to which all is written, again and again.

    Raises:
        StorageError: the disk is full.
    """
    (fd,) = handover.give(twin.thread, [pages_fd])
    twin.thread.run(
        [
            Call("mprotect", (region.start, region.size, _PROT_READ), optional=True)
            for region in regions
            if region.has_own_pages and not region.protection & _PROT_READ
        ]
    )
    copied = [r for r in regions if r.content == "copied"]
    for group in groups(runs):
        _write(twin.thread, fd, group, copied)
        _, length, offset = group[-1]
        advance(offset + length)
    twin.thread.call("close", fd)


def groups(runs: Sequence[Run], most: int = _PIECE) -> Iterator[list[Run]]:
    """Pieces of the runs, each group with `most` bytes at most, and no more than a
    process should write or read at once."""
    most = min(most, _PIECE)
    group: list[Run] = []
    total = 0
    for address, length, offset in runs:
        while length:
            piece = min(length, most - total)
            group.append((address, piece, offset))
            address, length, offset = address + piece, length - piece, offset + piece
            total += piece
            if total == most or len(group) == _MOST_CALLS:
                yield group
                group, total = [], 0
    if group:
        yield group


_MOST_CALLS = 400


def _write(
    thread: RemoteThread, fd: int, group: Sequence[Run], copied: Sequence[Region]
) -> None:
    """One after the other: Linux lets nobody else write to a file meanwhile.

    Args:
        copied: regions that may end before they do: of files that are shorter.
    """
    rest = list(group)
    while rest:
        calls = [Call("pwrite64", (fd, *run), optional=True) for run in rest]
        rest = list(_iter_unwritten(thread.pid, rest, thread.run(calls), copied))


def _iter_unwritten(
    pid: int, runs: Sequence[Run], results: Sequence[Result], copied: Sequence[Region]
) -> Iterator[Run]:
    for (address, length, offset), result in zip(runs, results, strict=True):
        done = result.value
        if done < 0:
            may_end = any(region.start <= address < region.end for region in copied)
            if -done == errno.EFAULT and may_end:
                continue
            raise _failure(pid, address, -done)
        if done < length:
            yield address + done, length - done, offset + done


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _failure(pid: int, address: int, code: int) -> CheckpointRestoreError:
    if code in _FULL:
        return StorageError(
            f"cannot write the snapshot's pages: {os.strerror(code)}",
            "Make room (`jupyter cr rm NAME`), or put the store elsewhere "
            "(JUPYTER_CR_HOME).",
        )
    return EngineError(
        f"process {pid}: pages at {address:#x} cannot be saved: {os.strerror(code)}"
    )
