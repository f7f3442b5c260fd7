"""Saving what twins hold, while the tree goes on.

Nobody waits for it, so it gives way to everybody's computation; its reads of other
processes' memory take no part in any of theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event

from jupyter_cr.engine.base import Base
from jupyter_cr.engine.pages import Content, find_content, save_content
from jupyter_cr.engine.shared_memory import Copy, save_shared_memory
from jupyter_cr.engine.state.address_space import Layout
from jupyter_cr.engine.streams import SnapshotReader, SnapshotWriter
from jupyter_cr.engine.twin import Twin
from jupyter_cr.errors import Cancelled
from jupyter_cr.tracer.proc.pagemap import open_pagemap
from jupyter_cr.tracer.scheduling import yield_processor

__all__ = ["Saved", "find_contents", "find_sizes", "save"]


@dataclass(frozen=True)
class Saved:
    """Bytes of memory in the snapshot: `total`, and private ones `of` each process, by
    its innermost pid."""

    total: int
    of: dict[int, int]


@contextmanager
def find_contents(
    twins: Sequence[tuple[Twin, Layout]], reader: SnapshotReader | None
) -> Iterator[list[Content]]:
    """What is to be saved of the twins, each with the layout of its process; good as
    long as they live, whoever else has a hand on them.

    Args:
        reader: of an earlier snapshot.
    """
    with Base(reader) as base, ExitStack() as stack:
        contents = []
        for twin, layout in twins:
            memory = os.dup(twin.memory.fd)
            stack.callback(os.close, memory)
            pagemap = open_pagemap(twin.pid)
            try:
                contents.append(
                    find_content(twin.of, memory, pagemap, layout.regions, base)
                )
            finally:
                os.close(pagemap)
        yield contents


def find_sizes(contents: Sequence[Content], shared: Sequence[Copy]) -> Saved:
    """What will have been saved, about: shared memory may be zeros in part."""
    of = {content.of: content.size for content in contents}
    copied = sum(len(piece) for copy in shared for piece in copy.pieces.values())
    return Saved(sum(of.values()) + copied, of)


def save(
    contents: Sequence[Content],
    shared: Sequence[Copy],
    writer: SnapshotWriter,
    report: Callable[[float], None],
) -> Saved:
    """Store all of it, and add the records that say where it is.

    Args:
        report: told the share that has been stored.

    Raises:
        EngineError: a twin is gone.
        StorageError: the disk is full.
    """
    given_up = Event()
    total = sum(content.size for content in contents)
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        if given_up.is_set():
            raise Cancelled("The snapshot was called off.", "Nothing has been changed.")
        done += more
        report(done / total)

    def work() -> Saved:
        for content in contents:
            writer.add(save_content(content, writer, advance))
        records = save_shared_memory(shared, writer)
        for record in records:
            writer.add(record)
        more = sum(length for record in records for _, length, _ in record.runs)
        return Saved(total + more, {content.of: content.size for content in contents})

    with ThreadPoolExecutor(1, "save", initializer=yield_processor) as thread:
        working = thread.submit(work)
        try:
            return working.result()
        except BaseException:
            given_up.set()
            raise
