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
from collections.abc import Callable, Collection
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from jupyter_cr.engine import pages, rebuild_memory, rebuild_state, shared_memory
from jupyter_cr.engine.container import Container, make_container
from jupyter_cr.engine.descriptors import pipe
from jupyter_cr.engine.descriptors.base import Mode, Rebuilding
from jupyter_cr.engine.descriptors.tcp_socket import listening_ports
from jupyter_cr.engine.family import INIT, Family, grow_family
from jupyter_cr.engine.front_ends import FrontEnds, count_front_ends
from jupyter_cr.engine.identity import SEED_NAME, Identity, find_tree
from jupyter_cr.engine.machine import FileIdentities, Machine
from jupyter_cr.engine.open_file_table import FileTable
from jupyter_cr.engine.rebuild_files import place_files, rebuild_files
from jupyter_cr.engine.rebuild_shared import fill_shared_memory, rebuild_shared_memory
from jupyter_cr.engine.replace import RunningTree
from jupyter_cr.engine.seed import Seed, spare_workspace_size
from jupyter_cr.engine.state import process
from jupyter_cr.engine.state.address_space import Layout
from jupyter_cr.engine.streams import SnapshotReader
from jupyter_cr.engine.twin import ParkedTwin, read_twins
from jupyter_cr.engine.warm import can_start_warm, start_warm
from jupyter_cr.errors import CorruptImage
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.proc.maps import find_gap
from jupyter_cr.tracer.sock_diag import tcp_sockets

__all__ = ["RestoreOutcome", "restore_tree"]

Progress = Callable[[str, float], None]
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class RestoreOutcome:
    """`pid` of the root as we see it, `inner_pid` as it sees itself; `supervisor_pid`
    of our child that ends as the root ends; `ports`: recorded -> now;
    `waited_ms` for front ends to come back, not part of `elapsed_ms`."""

    pid: int
    inner_pid: int
    supervisor_pid: int
    elapsed_ms: float
    waited_ms: float
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
        site = _break_ground(snapshot, rebuilding, directory, handover)
        try:
            front_ends = _build(snapshot, site, rebuilding, check, handover, report)
            for record in snapshot.living:
                rebuild_state.ready(site.family.seeds[record.pid], record)
        except BaseException:
            site.container.supervisor.kill()
            raise
    with closing(front_ends):
        elapsed = time.perf_counter() - began
        waited = front_ends.await_return()
        root = site.family.seeds[snapshot.identity.root]
        outcome = RestoreOutcome(
            root.outer_pid,
            root.pid,
            site.container.supervisor.outer_pid,
            elapsed * 1000,
            waited * 1000,
            dict(rebuilding.ports),
            tuple(rebuilding.warnings),
        )
        _let_go(snapshot, site, front_ends)
    report("restore", 1.0)
    return outcome


def _silent(phase: str, share: float) -> None:
    """Nobody is watching."""


@dataclass(frozen=True)
class _Site:
    """Where it is built: seeds for all processes, in their namespace; those that are
    `warm` have their memory already."""

    container: Container
    family: Family
    warm: frozenset[int]


def _break_ground(
    snapshot: _Snapshot, rebuilding: Rebuilding, directory: Path, handover: Handover
) -> _Site:
    twin = _find_twin(snapshot, directory) if rebuilding.mode == "fork" else None
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
        address, threads, [SEED_NAME, identity, directory.name], rebuilding.warnings.append
    )
    try:
        given: dict[int, Seed] = {}
        if twin is not None:
            given = start_warm(twin, container, snapshot.processes, handover)
        family = grow_family(container.init, snapshot.processes, given)
        warm = frozenset({record.pid for record in snapshot.living} & set(given))
        return _Site(container, family, warm)
    except BaseException:
        container.supervisor.kill()
        raise


def _find_twin(snapshot: _Snapshot, directory: Path) -> ParkedTwin | None:
    """The root's twin, if a fork can begin with it."""
    for twin in read_twins(directory):
        if twin.of == snapshot.identity.root and can_start_warm(snapshot.living, twin):
            return twin
    return None


def _build(
    snapshot: _Snapshot,
    site: _Site,
    rebuilding: Rebuilding,
    check: _Check,
    handover: Handover,
    report: Progress,
) -> FrontEnds:
    """Everything but letting go; who will come back then."""
    seeds = site.family.seeds
    pages_fd = snapshot.reader.pages_fd
    total = sum(length for p in snapshot.pages.values() for _, length, _ in p.runs) or 1
    filled = 0

    def advance(more: int) -> None:
        nonlocal filled
        filled += more
        report("restore", filled / total)

    shared = rebuild_shared_memory(snapshot.shared, rebuilding)
    keys = [
        *rebuild_memory.file_keys(snapshot.layouts(set(seeds) - site.warm)),
        *rebuild_memory.shared_keys(snapshot.layouts(site.warm)),
    ]
    mapped = rebuild_memory.MappedFiles.open_paths(keys, shared)
    for (kind, _, _), fd in mapped.fds.items():
        if kind == "path":
            rebuilding.stack.callback(os.close, fd)
    for record in snapshot.living:
        assert record.layout is not None
        seed, stored = seeds[record.pid], snapshot.pages[record.pid]
        if record.pid in site.warm:
            rebuild_memory.map_shared(seed, record.layout, mapped, handover)
            rebuild_memory.finish_clone(seed, record.layout)
            continue
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
    if set(seeds) - site.warm:
        check.result()
    expected: dict[int, int] = {}
    if rebuilding.mode == "restore":
        expected = _end_running(snapshot, rebuilding, site.container.supervisor.outer_pid)
    fill_shared_memory(snapshot.shared, shared, pages_fd)
    made = rebuild_files(snapshot.files.files, rebuilding)
    for record in snapshot.living:
        place_files(seeds[record.pid], snapshot.files.files, made, rebuilding, handover)
    for record in snapshot.processes:
        if record.layout is None:
            rebuild_state.end_as_zombie(seeds[record.pid], record)
    for record in snapshot.living:
        rebuild_state.rebuild_process(seeds[record.pid], record, handover)
    listeners = {
        port.address.port: made[port.id] for port in listening_ports(snapshot.files.files)
    }
    return FrontEnds.expect(listeners, expected)


def _end_running(
    snapshot: _Snapshot, rebuilding: Rebuilding, supervisor: int
) -> dict[int, int]:
    """End the tree that runs now, if any; how many front ends each port had."""
    root = find_tree(snapshot.identity, apart_from=supervisor)
    if root is None:
        return {}
    running = RunningTree(root)
    outer = {
        f"pipe:[{record.ino}]": record.ino
        for _, record in rebuilding.records(pipe.Record)
        if record.outer
    }
    running.look_at_files(outer, rebuilding.stack)
    rebuilding.outer = running.pipes
    ports = {port.address.port for port in listening_ports(snapshot.files.files)}
    counts = count_front_ends(tcp_sockets(), ports, running.sockets) if ports else {}
    running.end()
    return counts


def _let_go(snapshot: _Snapshot, site: _Site, front_ends: FrontEnds) -> None:
    """The point of no return, children first."""
    root = snapshot.processes[0]
    site.container.release(_parent_of_root(site, root), root.pid)
    seeds = [site.family.seeds[record.pid] for record in reversed(snapshot.living)]
    for seed in seeds:
        rebuild_state.detach_others(seed)
    front_ends.await_greeting()
    for seed in seeds:
        rebuild_state.detach_first(seed)


def _parent_of_root(site: _Site, root: process.Record) -> Seed:
    return site.family.seeds.get(root.ids.ppid, site.family.seeds[INIT])


def _raise_file_limit() -> None:
    """All open files of the tree are ours for a moment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

