"""Snapshots whose pages are in memory only: their parked twins have them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from jupyter_cr.engine.base import Base
from jupyter_cr.engine.identity import Identity
from jupyter_cr.engine.machine import FileIdentities, Machine
from jupyter_cr.engine.open_file_table import FileTable
from jupyter_cr.engine.pages import Content, find_content
from jupyter_cr.engine.save import Saved, save
from jupyter_cr.engine.shared_memory import Record, save_stored_memory
from jupyter_cr.engine.state import process
from jupyter_cr.engine.state.address_space import Layout
from jupyter_cr.engine.streams import SnapshotReader, SnapshotWriter
from jupyter_cr.engine.twin import read_twins
from jupyter_cr.errors import RestoreError
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.pagemap import open_pagemap

__all__ = ["keep_pages", "parked_contents"]


@contextmanager
def parked_contents(
    reader: SnapshotReader,
    layouts: Mapping[int, Layout],
    base: SnapshotReader | None = None,
) -> Iterator[dict[int, Content]]:
    """What the processes had in private memory, to be read from their twins.

    Args:
        layouts: of the processes that are wanted, by pid.
        base: an earlier snapshot, for what need not be read.

    Raises:
        RestoreError: the twins have ended.
        PermissionDenied: this user may not look at them.
    """
    twins = {twin.of: twin for twin in read_twins(reader.directory)}
    if not layouts.keys() <= twins.keys():
        raise RestoreError(
            "the snapshot was in memory only, and is gone: its twins have ended",
            "Use another one: `jupyter cr list` shows all.",
        )
    with Base(base) as earlier, ExitStack() as stack:
        contents = {}
        for of, layout in layouts.items():
            memory = Memory(twins[of].pid)
            stack.callback(memory.close)
            pagemap = open_pagemap(twins[of].pid)
            try:
                contents[of] = find_content(of, memory.fd, pagemap, layout.regions, earlier)
            finally:
                os.close(pagemap)
        yield contents


def keep_pages(
    reader: SnapshotReader, writer: SnapshotWriter, report: Callable[[float], None]
) -> Saved:
    """Write all of a snapshot, which is in memory only, and its pages.

    Args:
        report: told the share that has been stored.

    Raises:
        RestoreError: the twins have ended.
        EngineError: they do so meanwhile.
        StorageError: the disk is full.
    """
    processes = list(reader.records(process.Record))
    layouts = {record.pid: record.layout for record in processes if record.layout}
    with parked_contents(reader, layouts, writer.base) as contents:
        for cls in (Machine, Identity, process.Record, FileTable, FileIdentities):
            for record in reader.records(cls):
                writer.add(record)
        stored = save(list(contents.values()), (), writer, report)
    for shared in reader.records(Record):
        writer.add(save_stored_memory(shared, reader, writer))
    return stored
