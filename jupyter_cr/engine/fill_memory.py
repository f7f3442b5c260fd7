"""Fill a rebuilt process's memory with what a snapshot has for it.

What is stored as it is, the process reads itself, by as many of its threads as there are
processors; what is packed is unpacked here, beside it, and written through
/proc/PID/mem.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

from jupyter_cr.engine.pages import Run
from jupyter_cr.engine.seed import Seed
from jupyter_cr.engine.state.address_space import Region
from jupyter_cr.engine.streams import PAGE, Piece, SnapshotReader
from jupyter_cr.errors import CorruptImage
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.remote import Batch, Result

__all__ = ["fill_memory"]

_MOST_AT_ONCE = 32 << 20
_MOST_CALLS = 400


class _Read(NamedTuple):
    """A read that the process is to make: from the file that is `fd` here."""

    address: int
    length: int
    fd: int
    at: int


class _Write(NamedTuple):
    """Something that is to be written by us."""

    address: int
    piece: Piece


def fill_memory(
    seed: Seed,
    runs: Sequence[Run],
    regions: Sequence[Region],
    reader: SnapshotReader,
    handover: Handover,
    advance: Callable[[int], None],
    meanwhile: Callable[[], None],
) -> None:
    """Fill the runs.

    Args:
        regions: of the process; already there.
        advance: told how many bytes more have come.
        meanwhile: called again and again while the process reads.

    Raises:
        CorruptImage: the pages end too early, or are not as written.
    """
    reads, writes = _sort(runs, regions, reader)
    with _Writers(seed.outer_pid, advance) as writers:
        writers.begin(writes)
        _have_read(seed, reads, handover, advance, meanwhile)
        while writers.advance():
            meanwhile()


def _sort(
    runs: Sequence[Run], regions: Sequence[Region], reader: SnapshotReader
) -> tuple[list[_Read], list[_Write]]:
    of_files = [(r.start, r.end) for r in regions if r.content == "file" and not r.shared]
    reads: list[_Read] = []
    writes: list[_Write] = []
    for start, length, offset in runs:
        # Fresh memory is zeros; that of a file is the file.
        zeros = any(low < start + length and start < high for low, high in of_files)
        for piece in reader.pieces(offset, length):
            address = start + piece.offset - offset
            if piece.fd >= 0:
                reads.append(_Read(address, piece.length, piece.fd, piece.at))
            elif not piece.is_zeros or zeros:
                writes.append(_Write(address, piece))
    return reads, writes


class _Writers:
    """Threads that unpack, and write into the process. A context manager."""

    def __init__(self, pid: int, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._memory = Memory(pid)
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, "unpack")
        self._pending: deque[tuple[int, Future[None]]] = deque()

    def begin(self, writes: Sequence[_Write]) -> None:
        """Have all of that done; pieces of one group go together."""
        for _, group in groupby(writes, lambda write: write.piece.group):
            together = list(group)
            size = sum(write.piece.length for write in together)
            self._pending.append((size, self._threads.submit(self._write, together)))

    def advance(self) -> bool:
        """Wait for some of it; whether there was any.

        Raises:
            CorruptImage: what was read is not as written.
        """
        if not self._pending:
            return False
        size, future = self._pending.popleft()
        future.result()
        self._advance(size)
        return True

    def _write(self, writes: Sequence[_Write]) -> None:
        for address, piece in writes:
            if piece.unpack is None:
                for start in range(0, piece.length, _ZEROS):
                    self._memory.write(
                        address + start, bytes(min(_ZEROS, piece.length - start))
                    )
            else:
                self._memory.write(address, piece.unpack())

    def __enter__(self) -> _Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._memory.close()


_ZEROS = 1 << 20


def _have_read(
    seed: Seed,
    reads: Sequence[_Read],
    handover: Handover,
    advance: Callable[[int], None],
    meanwhile: Callable[[], None],
) -> None:
    if not reads:
        return
    files = list({read.fd: None for read in reads})
    theirs = dict(zip(files, handover.give(seed.thread, files), strict=True))
    workers = list(seed.threads.values())[: os.cpu_count() or 1]
    total = sum(read.length for read in reads)
    todo = list(_groups(reads, -(-total // len(workers) // PAGE) * PAGE))
    todo.reverse()
    while todo:
        batches = []
        for worker in workers[: len(todo)]:
            group = todo.pop()
            calls = [
                Call("pread64", (theirs[read.fd], read.address, read.length, read.at))
                for read in group
            ]
            batches.append((group, Batch(worker, calls)))
            batches[-1][1].start()
        meanwhile()
        for group, batch in batches:
            rest = _unread(group, batch.finish())
            advance(sum(r.length for r in group) - sum(r.length for r in rest))
            if rest:
                todo.append(rest)
    seed.thread.run([Call("close", (fd,)) for fd in theirs.values()])


def _groups(reads: Sequence[_Read], most: int) -> Iterator[list[_Read]]:
    """Each with `most` bytes at most, and no more than a process should read at once."""
    most = min(most, _MOST_AT_ONCE)
    group: list[_Read] = []
    total = 0
    for address, length, fd, at in reads:
        while length:
            part = min(length, most - total)
            group.append(_Read(address, part, fd, at))
            address, length, at = address + part, length - part, at + part
            total += part
            if total == most or len(group) == _MOST_CALLS:
                yield group
                group, total = [], 0
    if group:
        yield group


def _unread(group: Sequence[_Read], results: Sequence[Result]) -> list[_Read]:
    rest = []
    for (address, length, fd, at), result in zip(group, results, strict=True):
        done = result.value
        if not done:
            raise CorruptImage(
                f"the snapshot's pages end at {at}, {length} bytes are missing",
                "The snapshot cannot be used: remove it (`jupyter cr rm`).",
            )
        if done < length:
            rest.append(_Read(address + done, length - done, fd, at + done))
    return rest
