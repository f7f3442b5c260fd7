"""A snapshot's records, read and put in order."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from jupyter_cr.engine import pages, shared_memory
from jupyter_cr.engine.descriptors import File
from jupyter_cr.engine.identity import Identity
from jupyter_cr.engine.machine import FileIdentities, Machine
from jupyter_cr.engine.open_file_table import FileTable
from jupyter_cr.engine.state import process
from jupyter_cr.engine.state.address_space import Layout
from jupyter_cr.engine.streams import SnapshotReader
from jupyter_cr.errors import CorruptImage

__all__ = ["PagesCheck", "Snapshot"]

S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True)
class Snapshot:
    """All records of an image; `processes` with parents first, `pages` by pid."""

    reader: SnapshotReader
    machine: Machine
    identity: Identity
    processes: tuple[process.Record, ...]
    files: tuple[File, ...]
    needed: FileIdentities
    pages: dict[int, pages.Record]
    shared: tuple[shared_memory.Record, ...]

    @classmethod
    def read(cls, reader: SnapshotReader) -> Snapshot:
        """All of it but the pages.

        Raises:
            CorruptImage: it was not written by a complete checkpoint.
        """
        return cls(
            reader,
            _only(reader, Machine),
            _only(reader, Identity),
            tuple(reader.records(process.Record)),
            _only(reader, FileTable).files,
            _only(reader, FileIdentities),
            {record.pid: record for record in reader.records(pages.Record)},
            tuple(reader.records(shared_memory.Record)),
        )

    @property
    def root(self) -> process.Record:
        """The process that the others descend from."""
        return self.processes[0]

    @property
    def living(self) -> list[process.Record]:
        """All but the zombies."""
        return [record for record in self.processes if record.layout is not None]

    def layouts(self, pids: Collection[int]) -> list[Layout]:
        """Of those processes, as far as they live."""
        return [r.layout for r in self.processes if r.layout is not None and r.pid in pids]


def _only(reader: SnapshotReader, cls: type[S]) -> S:
    found = list(reader.records(cls))
    if len(found) != 1:
        raise CorruptImage(
            f"the snapshot has {len(found)} records {cls.__module__}.{cls.__name__}",
            "It was not written by a complete checkpoint: use another one.",
        )
    return found[0]


class PagesCheck:
    """Checks, in a thread of its own, from now on, what the processes read themselves.
    A context manager."""

    def __init__(self, reader: SnapshotReader) -> None:
        self._executor = ThreadPoolExecutor(1, "verify pages")
        self._outcome = self._executor.submit(reader.verify_raw)

    def __enter__(self) -> PagesCheck:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def result(self) -> None:
        """Wait for it.

        Raises:
            CorruptImage: a page is not what it was.
        """
        self._outcome.result()
