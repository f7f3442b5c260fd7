"""Building a tree on a site, from memory to registers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from jupyter_cr.engine import rebuild_memory, rebuild_state
from jupyter_cr.engine.descriptors.base import Rebuilding
from jupyter_cr.engine.descriptors.tcp_socket import listening_ports
from jupyter_cr.engine.fill_memory import fill_memory
from jupyter_cr.engine.front_ends import Connected, FrontEnds
from jupyter_cr.engine.lazy import Pager, split_lazy
from jupyter_cr.engine.pages import Content, Run, copy_content
from jupyter_cr.engine.rebuild_files import place_files, rebuild_files
from jupyter_cr.engine.rebuild_shared import fill_shared_memory, rebuild_shared_memory
from jupyter_cr.engine.seed import Seed, clone_threads
from jupyter_cr.engine.site import Site
from jupyter_cr.engine.snapshot import Snapshot
from jupyter_cr.engine.state import process
from jupyter_cr.engine.state.address_space import Layout, Region
from jupyter_cr.tracer.handover import Handover

__all__ = ["Building"]


@dataclass
class Building:
    """One tree being built; the methods in the order they are to be called.

    Attributes:
        pager: brings large regions later; None: everything is read now.
        parked: by pid, what has to be copied from twins, as it is not on disk.
        report: told the share of the pages that has been read.
        meanwhile: called, maybe several times, while a process reads its pages.
    """

    snapshot: Snapshot
    site: Site
    rebuilding: Rebuilding
    handover: Handover
    pager: Pager | None
    parked: Mapping[int, Content]
    report: Callable[[float], None]
    meanwhile: Callable[[], None]
    shared: dict[object, int] = field(default_factory=dict)
    later: list[tuple[int, int, list[Region], list[Run]]] = field(default_factory=list)
    filled: int = 0

    def build_memory(self) -> None:
        """Layout and content of all private memory. Shared memory is there, but empty.

        Raises:
            RestoreError: a file cannot be mapped.
            CorruptImage: the pages end too early.
        """
        self.shared = rebuild_shared_memory(self.snapshot.shared, self.rebuilding)
        for shared in self.snapshot.shared:
            # It is read when there is no way back any more.
            for _, length, offset in shared.runs:
                self.snapshot.reader.check(offset, length)
        warm = self.site.warm
        cold = {record.pid for record in self.snapshot.living} - warm
        mapped = rebuild_memory.MappedFiles.open_paths(
            [
                *rebuild_memory.file_keys(self.snapshot.layouts(cold)),
                *rebuild_memory.shared_keys(self.snapshot.layouts(warm)),
            ],
            self.shared,
        )
        for (kind, _, _), fd in mapped.fds.items():
            if kind == "path":
                self.rebuilding.stack.callback(os.close, fd)
        for record in self.snapshot.living:
            if record.pid in warm:
                self._finish_warm(record, mapped)
            else:
                self._build_cold(record, mapped)

    def _finish_warm(
        self, record: process.Record, mapped: rebuild_memory.MappedFiles
    ) -> None:
        assert record.layout is not None
        seed = self.site.seeds[record.pid]
        rebuild_memory.map_shared(seed, record.layout, mapped, self.handover)
        rebuild_memory.finish_clone(
            seed, record.layout, wipe=self.rebuilding.mode == "fork"
        )
        clone_threads(seed, [thread.tid for thread in record.threads])

    def _build_cold(
        self, record: process.Record, mapped: rebuild_memory.MappedFiles
    ) -> None:
        assert record.layout is not None
        seed, layout = self.site.seeds[record.pid], record.layout
        rebuild_memory.lay_out(seed, layout, mapped, self.handover)
        clone_threads(seed, [thread.tid for thread in record.threads])
        if (content := self.parked.get(record.pid)) is not None:
            copy_content(content, seed.memory, self._advance)
            guards = [(start, end - start) for start, end in content.guards]
        else:
            stored = self.snapshot.pages[record.pid]
            self._read_stored(seed, stored.runs, layout)
            guards = stored.guard_ranges
        rebuild_memory.finish_memory(
            seed,
            layout,
            guards,
            mapped.fds.get(("path", layout.executable, False)),
            self.handover,
            wipe=self.rebuilding.mode == "fork",
        )

    def _read_stored(self, seed: Seed, runs: Sequence[Run], layout: Layout) -> None:
        if self.pager is not None:
            runs, later, regions = split_lazy(layout.regions, runs)
            for _, length, offset in runs:
                self.snapshot.reader.check(offset, length)
            if regions:
                fd = self.pager.open(seed)
                self.later.append((fd, seed.outer_pid, regions, later))
        fill_memory(
            seed,
            runs,
            layout.regions,
            self.snapshot.reader,
            self.handover,
            self._advance,
            self.meanwhile,
        )

    def _advance(self, more: int) -> None:
        self.filled += more
        self.report(self.filled / self._total)

    @cached_property
    def _total(self) -> int:
        """Bytes of private memory in the snapshot."""
        pages = self.snapshot.pages.values()
        stored = sum(length for record in pages for _, length, _ in record.runs)
        return stored + sum(content.size for content in self.parked.values())

    def build_rest(self, connected: Connected) -> FrontEnds:
        """Shared memory's content, open files, and all other state: from here on the
        tree that ran before must be out of the way.

        Args:
            connected: who was connected to that one.

        Raises:
            RestoreError, AddressTaken: an open file cannot be made again.
        """
        snapshot, seeds = self.snapshot, self.site.seeds
        fill_shared_memory(snapshot.shared, self.shared, snapshot.reader)
        self.rebuilding.pids = {
            tid: thread.tracee.tid
            for seed in seeds.values()
            for tid, thread in seed.threads.items()
        }
        made = rebuild_files(snapshot.files, self.rebuilding)
        for record in snapshot.living:
            place_files(
                seeds[record.pid], snapshot.files, made, self.rebuilding, self.handover
            )
        for record in snapshot.processes:
            if record.layout is None:
                rebuild_state.end_as_zombie(seeds[record.pid], record)
        for record in snapshot.living:
            rebuild_state.rebuild_process(seeds[record.pid], record, self.handover)
        now = self.rebuilding.ports
        listeners = {
            now.get(port.address.port, port.address.port): made[port.id]
            for port in listening_ports(snapshot.files)
        }
        return FrontEnds.expect(listeners, connected)

    def ready(self) -> None:
        """Registers; and from here on pages that are not there are waited for."""
        if self.pager is not None:
            self.pager.bind(self.handover)
            for fd, pid, regions, runs in self.later:
                self.pager.register(fd, pid, regions, runs)
        for record in self.snapshot.living:
            rebuild_state.ready(self.site.seeds[record.pid], record)

    def let_go(self, front_ends: FrontEnds) -> None:
        """The point of no return, children first."""
        root = self.snapshot.root
        self.site.container.release(
            self.site.parent_of(self.snapshot), root.pid, tied=self.pager is not None
        )
        seeds = [self.site.seeds[record.pid] for record in reversed(self.snapshot.living)]
        for seed in seeds:
            rebuild_state.detach_others(seed)
        front_ends.await_greeting(
            [(s.outer_pid, t.tracee.tid) for s in seeds for t in s.threads.values()]
        )
        for seed in seeds:
            rebuild_state.detach_first(seed)
