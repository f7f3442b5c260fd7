"""Rebuild descriptors: every open file once in this process, then its duplicates into
each process that held it, under the numbers that it had there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from jupyter_cr.engine.descriptors import File, calls_for_place, rebuild_open_file
from jupyter_cr.engine.descriptors.base import Rebuilding
from jupyter_cr.engine.seed import Seed
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.handover import Handover

__all__ = ["assign_calls", "place_files", "rebuild_files"]

_ALL_FDS = 0xFFFFFFFF


def rebuild_files(files: Iterable[File], rebuilding: Rebuilding) -> dict[int, int]:
    """File number -> our own descriptor of it, closed with `rebuilding.stack`.

    Raises:
        RestoreError, AddressTaken: one cannot be made again; names it.
    """
    made: dict[int, int] = {}
    for file in files:
        fd = rebuild_open_file(file, rebuilding)
        rebuilding.stack.callback(os.close, fd)
        made[file.id] = fd
    return made


def place_files(
    seed: Seed,
    files: Sequence[File],
    made: Mapping[int, int],
    rebuilding: Rebuilding,
    handover: Handover,
) -> None:
    """Give the process its descriptors and nothing else, then let it do what only it
    can (epoll registrations, record locks, owners)."""
    held = [
        (file, place) for file in files for place in file.places if place.pid == seed.pid
    ]
    seed.thread.call("close_range", 0, _ALL_FDS, 0)
    numbers = list(dict.fromkeys(file.id for file, _ in held))
    given = dict(
        zip(numbers, handover.give(seed.thread, [made[n] for n in numbers]), strict=True)
    )
    wanted = {place.fd: (given[file.id], place.cloexec) for file, place in held}
    seed.thread.run(list(assign_calls(wanted)))
    calls = [
        call for file, place in held for call in calls_for_place(file, place, rebuilding)
    ]
    seed.thread.run(calls)


def assign_calls(wanted: Mapping[int, tuple[int, bool]]) -> Iterator[Call]:
    """Calls that bring descriptors to their numbers.

    Args:
        wanted: number -> (number that it has now, FD_CLOEXEC). Several may have the
            same source; sources that are not wanted where they are get closed.
    """
    spare = max([*wanted, *(source for source, _ in wanted.values())], default=0) + 1
    where: dict[int, int] = {}
    for source in {source for source, _ in wanted.values()}:
        if source in wanted:
            yield Call("dup3", (source, spare, os.O_CLOEXEC))
            yield Call("close", (source,))
            where[source] = spare
            spare += 1
        else:
            where[source] = source
    for number, (source, cloexec) in wanted.items():
        yield Call("dup3", (where[source], number, os.O_CLOEXEC if cloexec else 0))
    for number in where.values():
        yield Call("close", (number,))
