"""Restore and fork: from a snapshot to a running tree.

`restore` puts it in the place of the tree that runs now; `fork` beside it. Nothing is
ended before the snapshot has been found sound and the new tree has its memory.
"""

from __future__ import annotations

import os
import resource
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from jupyter_cr.engine import pages, rebuild_memory, rebuild_state, shared_memory
from jupyter_cr.engine.container import Container, make_container
from jupyter_cr.engine.descriptors.base import Mode, Rebuilding
from jupyter_cr.engine.family import INIT, Family, grow_family
from jupyter_cr.engine.identity import SEED_NAME, Identity, find_tree
from jupyter_cr.engine.machine import FileIdentities, Machine
from jupyter_cr.engine.open_file_table import FileTable
from jupyter_cr.engine.rebuild_files import place_files, rebuild_files
from jupyter_cr.engine.rebuild_shared import rebuild_shared_memory
from jupyter_cr.engine.replace import end_tree, keep_outer_pipes
from jupyter_cr.engine.seed import Seed, spare_workspace_size
from jupyter_cr.engine.state import process
from jupyter_cr.engine.streams import SnapshotReader
from jupyter_cr.errors import CorruptImage
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.proc.maps import find_gap

__all__ = ["RestoreOutcome", "restore_tree"]

Progress = Callable[[str, float], None]
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class RestoreOutcome:
    """`pid` of the root as we see it, `inner_pid` as it sees itself; `supervisor_pid`
    of our child that ends as the root ends; `ports`: recorded -> now."""

    pid: int
    inner_pid: int
    supervisor_pid: int
    elapsed_ms: float
    ports: dict[int, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Snapshot:
    """All records of an image."""

    reader: SnapshotReader
    machine: Machine
    identity: Identity
    processes: tuple[process.Record, ...]
    files: FileTable
    needed: FileIdentities
    pages: dict[int, pages.Record]
    shared: tuple[shared_memory.Record, ...]

    @classmethod
    def read(cls, reader: SnapshotReader) -> _Snapshot:
        return cls(
            reader,
            _only(reader, Machine),
            _only(reader, Identity),
            tuple(reader.records(process.Record)),
            _only(reader, FileTable),
            _only(reader, FileIdentities),
            {record.pid: record for record in reader.records(pages.Record)},
            tuple(reader.records(shared_memory.Record)),
        )

    @property
    def living(self) -> list[process.Record]:
        """All but the zombies."""
        return [record for record in self.processes if record.layout is not None]


def _only(reader: SnapshotReader, cls: type[S]) -> S:
    found = list(reader.records(cls))
    if len(found) != 1:
        raise CorruptImage(
            f"the snapshot has {len(found)} records {cls.__module__}.{cls.__name__}",
            "It was not written by a complete checkpoint: use another one.",
        )
    return found[0]


@dataclass
class _Check:
    """Checks the pages in a thread of its own, beside the building."""

    reader: SnapshotReader
    error: BaseException | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="verify pages", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.reader.verify_pages()
        except BaseException as error:
            self.error = error

    def result(self) -> None:
        """Wait for it. Raises CorruptImage if a page is not what it was."""
        self.thread.join()
        if self.error is not None:
            raise self.error


def restore_tree(
    reader: SnapshotReader,
    *,
    mode: Mode,
    directory: Path,
    ports: dict[int, int] | None = None,
    lazy: bool = False,
    progress: Progress | None = None,
) -> RestoreOutcome:
    """Bring the tree of a snapshot back.

    Args:
        directory: the snapshot's, which names it.
        ports: for a fork, ports that listeners are to have: recorded -> wanted.

    Raises:
        CorruptImage: the snapshot is not sound. Nothing has been changed.
        FileChanged, RestoreError: the machine lacks something. The same.
        AddressTaken: somebody else has a port that the tree listens on.
    """
    began = time.perf_counter()
    report = progress or _silent
    snapshot = _Snapshot.read(reader)
    snapshot.machine.require()
    snapshot.needed.require()
    _raise_file_limit()
    with ExitStack() as stack:
        rebuilding = Rebuilding(
            mode, snapshot.files.files, ports=dict(ports or {}), stack=stack
        )
        check = _Check(reader)
        handover = stack.enter_context(Handover())
        site = _break_ground(snapshot, rebuilding, directory.name)
        try:
            _build(snapshot, site, rebuilding, check, handover, report)
        except BaseException:
            site.container.supervisor.kill()
            raise
        root = site.family.seeds[snapshot.identity.root]
        outcome = RestoreOutcome(
            root.outer_pid,
            root.pid,
            site.container.supervisor.outer_pid,
            (time.perf_counter() - began) * 1000,
            dict(rebuilding.ports),
            tuple(rebuilding.warnings),
        )
    _let_go(snapshot, site)
    report("restore", 1.0)
    return outcome


def _silent(phase: str, share: float) -> None:
    """Nobody is watching."""


@dataclass(frozen=True)
class _Site:
    """Where it is built: seeds for all processes, in their namespace."""

    container: Container
    family: Family


def _break_ground(snapshot: _Snapshot, rebuilding: Rebuilding, name: str) -> _Site:
    threads = max(len(record.threads) for record in snapshot.living)
    occupied = [
        bounds
        for record in snapshot.living
        if record.layout is not None
        for bounds in record.layout.occupied
    ]
    address = find_gap(occupied, spare_workspace_size(threads))
    identity = snapshot.identity.text if rebuilding.mode == "restore" else str(uuid.uuid4())
    container = make_container(
        address, threads, [SEED_NAME, identity, name], rebuilding.warnings.append
    )
    try:
        return _Site(container, grow_family(container.init, snapshot.processes))
    except BaseException:
        container.supervisor.kill()
        raise


def _build(
    snapshot: _Snapshot,
    site: _Site,
    rebuilding: Rebuilding,
    check: _Check,
    handover: Handover,
    report: Progress,
) -> None:
    seeds = site.family.seeds
    pages_fd = snapshot.reader.pages_fd
    total = sum(length for p in snapshot.pages.values() for _, length, _ in p.runs) or 1
    filled = 0

    def advance(more: int) -> None:
        nonlocal filled
        filled += more
        report("restore", filled / total)

    if rebuilding.mode == "restore":
        check.result()
        _replace_running(snapshot, rebuilding)
    shared = rebuild_shared_memory(snapshot.shared, pages_fd, rebuilding)
    keys = rebuild_memory.file_keys([r.layout for r in snapshot.living if r.layout])
    mapped = rebuild_memory.MappedFiles.open_paths(keys, shared)
    for (kind, _, _), fd in mapped.fds.items():
        if kind == "path":
            rebuilding.stack.callback(os.close, fd)
    for record in snapshot.living:
        assert record.layout is not None
        seed, stored = seeds[record.pid], snapshot.pages[record.pid]
        rebuild_memory.lay_out(seed, record.layout, mapped, handover)
        rebuild_memory.fill_memory(seed, stored.runs, pages_fd, handover, advance)
        executable = mapped.fds.get(("path", record.layout.executable, False))
        rebuild_memory.finish_memory(
            seed,
            record.layout,
            stored.guard_ranges,
            executable,
            handover,
            wipe=rebuilding.mode == "fork",
        )
    check.result()
    made = rebuild_files(snapshot.files.files, rebuilding)
    for record in snapshot.living:
        place_files(seeds[record.pid], snapshot.files.files, made, rebuilding, handover)
    for record in snapshot.processes:
        if record.layout is None:
            rebuild_state.end_as_zombie(seeds[record.pid], record)
    for record in snapshot.living:
        rebuild_state.rebuild_process(seeds[record.pid], record, handover)


def _replace_running(snapshot: _Snapshot, rebuilding: Rebuilding) -> None:
    running = find_tree(snapshot.identity)
    if running is not None:
        keep_outer_pipes(running, rebuilding)
        end_tree(running)


def _let_go(snapshot: _Snapshot, site: _Site) -> None:
    """The point of no return: registers, and off they go, children first."""
    seeds = site.family.seeds
    for record in snapshot.living:
        rebuild_state.wake(seeds[record.pid], record)
    root = snapshot.processes[0]
    parent = _parent_of_root(site, root)
    site.container.release(parent, root.pid)
    for record in reversed(snapshot.living):
        rebuild_state.detach(seeds[record.pid])


def _parent_of_root(site: _Site, root: process.Record) -> Seed:
    return site.family.seeds.get(root.ids.ppid, site.family.seeds[INIT])


def _raise_file_limit() -> None:
    """All open files of the tree are ours for a moment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

