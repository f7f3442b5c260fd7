"""What an earlier snapshot spares us: pages that its twins still have in common with ours.

A page frame that a twin of then and a twin of now both map has not been written to in
between: whoever writes to a page that others map, too, gets a copy. So nothing is
tracked while the tree runs; what has changed is found afterwards, without reading it.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from jupyter_cr.engine.pages import Record, Run
from jupyter_cr.engine.streams import SnapshotReader
from jupyter_cr.engine.twin import read_twins
from jupyter_cr.errors import CheckpointRestoreError
from jupyter_cr.tracer.proc.pagemap import iter_common_ranges, open_pagemap

__all__ = ["Base", "Stored"]

Stored = tuple[int, int, int]
"""Addresses [start, end), and the offset in the earlier snapshot's pages."""


@dataclass(frozen=True)
class _Process:
    """One process of the earlier snapshot: its twin's pagemap, and its runs by address."""

    pagemap: int
    runs: Sequence[Run]

    def find(self, start: int, end: int) -> Iterator[Stored]:
        """Where the earlier snapshot has [start, end), as far as it does."""
        at = max(bisect_right(self.runs, (start, 1 << 64, 0)) - 1, 0)
        for address, length, offset in self.runs[at:]:
            if address >= end:
                return
            low, high = max(start, address), min(end, address + length)
            if low < high:
                yield low, high, offset + low - address


class Base:
    """The processes of an earlier snapshot, as far as their twins live. A context manager.

    Args:
        reader: None, or of a snapshot that has not got its pages yet: there is nothing.
    """

    def __init__(self, reader: SnapshotReader | None) -> None:
        self._processes: dict[int, _Process] = {}
        self._open = ExitStack()
        if reader is not None and reader.is_complete:
            self._look_up(reader)

    def _look_up(self, reader: SnapshotReader) -> None:
        runs = {record.pid: record.runs for record in reader.records(Record)}
        for twin in read_twins(reader.directory):
            try:
                pagemap = open_pagemap(twin.pid)
            except CheckpointRestoreError:
                continue
            self._open.callback(os.close, pagemap)
            # Alive still: so the pagemap is the twin's.
            if twin.is_alive:
                self._processes[twin.of] = _Process(pagemap, runs.get(twin.of, ()))

    def __enter__(self) -> Base:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def find(self, of: int, pagemap: int, start: int, end: int) -> list[Stored]:
        """Of [start, end) of process `of`, what the earlier snapshot holds unchanged, by
        address.

        Args:
            pagemap: of its twin.
        """
        process = self._processes.get(of)
        if process is None:
            return []
        try:
            return [
                stored
                for common in iter_common_ranges(pagemap, process.pagemap, start, end)
                for stored in process.find(*common)
            ]
        except CheckpointRestoreError:
            # The earlier twin has been ended.
            return []
