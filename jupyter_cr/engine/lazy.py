"""Lazy restore: the tree goes on at once, and its pages come as they are asked for.

We stay and serve page faults, and in between bring all other pages, in order, each
checked when it is brought. When the last one is there nothing of this is left but
speed. Should we die before, the tree must not go on with zeros where its data was: the
supervisor of its namespace dies with us (PR_SET_PDEATHSIG) and takes the tree with it;
and as it holds the descriptors too, no page is answered for in between.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jupyter_cr.engine.pages import Run
from jupyter_cr.engine.seed import Seed
from jupyter_cr.engine.state.address_space import Region
from jupyter_cr.engine.streams import SnapshotReader
from jupyter_cr.errors import NoSuchProcess, RestoreError
from jupyter_cr.tracer import libc
from jupyter_cr.tracer.arch.x86_64 import PAGE
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.huge_pages import collapse
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.ptrace import EXITKILL, Ended, Tracee, seize
from jupyter_cr.tracer.remote import RemoteThread, Workspace
from jupyter_cr.tracer.userfaultfd import (
    OPEN_FLAGS,
    Event,
    Fault,
    Fork,
    Gone,
    Moved,
    Userfaultfd,
)

__all__ = ["Pager", "split_lazy"]

_LAZY_FROM = 16 << 20
"""Bytes stored of a region from which on it is worth while to bring them later."""
_AT_A_FAULT, _AT_LEISURE = 256 << 10, 1 << 20
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_STOP_LIMIT = 10.0


def split_lazy(
    regions: Sequence[Region], runs: Sequence[Run]
) -> tuple[list[Run], list[Run], list[Region]]:
    """(runs to fill at once, runs to bring later, the regions that those are in)."""
    now: list[Run] = []
    later: list[Run] = []
    lazy: list[Region] = []
    for region in regions:
        # One may go on in the next region: that is mapped by itself, maybe not lazily.
        inside = [part for run in runs if (part := _cut(run, region.start, region.end))]
        stored = sum(length for _, length, _ in inside)
        served = region.content == "anonymous" and not {"gd", "lo"} & set(region.flags)
        if served and stored >= _LAZY_FROM:
            later += inside
            lazy.append(region)
        else:
            now += inside
    return now, later, lazy


def _cut(run: Run, start: int, end: int) -> Run | None:
    """What of a run is in [start, end)."""
    address, length, offset = run
    low, high = max(address, start), min(address + length, end)
    return (low, high - low, offset + low - address) if low < high else None


@dataclass
class _Served:
    """One process: what has not come yet, as (start, end, offset in the pages) by
    address."""

    uffd: Userfaultfd
    missing: list[tuple[int, int, int]]

    def find(self, address: int) -> int | None:
        """Index of the run that has the address."""
        at = bisect_right(self.missing, (address, 1 << 64, 0)) - 1
        return at if at >= 0 and address < self.missing[at][1] else None

    def cut(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """Take [start, end) out of what is missing; what was taken."""
        kept: list[tuple[int, int, int]] = []
        taken: list[tuple[int, int, int]] = []
        for low, high, offset in self.missing:
            if high <= start or low >= end:
                kept.append((low, high, offset))
                continue
            if low < start:
                kept.append((low, start, offset))
            first, last = max(low, start), min(high, end)
            taken.append((first, last, offset + first - low))
            if high > end:
                kept.append((end, high, offset + end - low))
        self.missing = kept
        return taken


@dataclass
class Pager:
    """Serves all processes of one restore. `open` and `register` while they are seeds,
    then `run`, which closes `reader`."""

    reader: SnapshotReader
    supervisor: Seed
    served: dict[int, _Served] = field(default_factory=dict)
    """By descriptor."""

    tied: list[int] = field(default_factory=list)
    """The supervisor's descriptors of them."""

    huge: list[tuple[int, int, int]] = field(default_factory=list)
    """(pid as we see it, start, length) of regions that had asked for huge pages."""

    def open(self, seed: Seed) -> int:
        """Have the seed make a descriptor; the number of our duplicate. While it still
        has the rights to.

        Raises:
            RestoreError: this user may not serve page faults.
        """
        try:
            theirs = seed.thread.call("userfaultfd", OPEN_FLAGS)
        except OSError as error:
            raise RestoreError(
                f"page faults cannot be served here: {error.strerror}",
                "Restore without --lazy, or set the sysctl vm.unprivileged_userfaultfd.",
            ) from error
        pidfd = os.pidfd_open(seed.outer_pid)
        try:
            uffd = Userfaultfd(libc.pidfd_getfd(pidfd, theirs))
        finally:
            os.close(pidfd)
        seed.thread.call("close", theirs)
        uffd.begin()
        self.served[uffd.fd] = _Served(uffd, [])
        return uffd.fd

    def register(
        self, fd: int, pid: int, regions: Iterable[Region], runs: Sequence[Run]
    ) -> None:
        """From now on, pages of the regions are waited for: nothing may touch them
        before `run`."""
        served = self.served[fd]
        for region in regions:
            served.uffd.register(region.start, region.size)
            if "hg" in region.flags:
                self.huge.append((pid, region.start, region.size))
        served.missing = sorted(
            (address, address + length, at) for address, length, at in runs
        )

    def bind(self, handover: Handover) -> None:
        """Tie the tree's life to ours, until all is there."""
        thread = self.supervisor.thread
        self.tied = handover.give(thread, list(self.served))
        thread.call("prctl", _PR_SET_PDEATHSIG, _SIGKILL)

    def run(self) -> int | None:
        """Bring everything, close the reader, untie the tree, and let huge pages be huge
        again: they had to come in small ones. Returns early if the tree ends.

        Returns:
            How the supervisor has ended (wait(2)), if that was seen here: nobody else can
            wait for it then.

        Raises:
            CorruptImage: a page is not what it was. The caller has to end, and the
                tree ends with it.
        """
        while any(served.missing for served in self.served.values()):
            self._serve(0)
            self._bring_next()
        self.reader.close()
        try:
            self._unbind()
        except (NoSuchProcess, ProcessLookupError):
            return None
        except Ended as ended:
            return ended.status
        for pid, start, length in self.huge:
            with contextlib.suppress(OSError):
                collapse(pid, start, length)
        return None

    def _serve(self, timeout: float) -> None:
        """Handle events until there are none for `timeout` seconds."""
        while ready := select.select(list(self.served), [], [], timeout)[0]:
            for fd in ready:
                served = self.served[fd]
                for event in served.uffd.events():
                    self._handle(served, event)

    def _handle(self, served: _Served, event: Event) -> None:
        if isinstance(event, Fault):
            self._answer(served, event.address & -PAGE)
        elif isinstance(event, Fork):
            child = Userfaultfd(event.fd)
            self.served[child.fd] = _Served(child, list(served.missing))
        elif isinstance(event, Moved):
            delta = event.to - event.start
            taken = served.cut(event.start, event.start + event.length)
            moved = [(low + delta, high + delta, at) for low, high, at in taken]
            served.missing = sorted(served.missing + moved)
        elif isinstance(event, Gone):
            served.cut(event.start, event.end)

    def _answer(self, served: _Served, address: int) -> None:
        at = served.find(address)
        if at is not None:
            self._bring(served, at, address, _AT_A_FAULT)
            return
        with contextlib.suppress(FileExistsError, FileNotFoundError, ProcessLookupError):
            served.uffd.zero(address, PAGE)

    def _bring_next(self) -> None:
        for served in self.served.values():
            if served.missing:
                self._bring(served, 0, served.missing[0][0], _AT_LEISURE)
                return

    def _bring(self, served: _Served, at: int, address: int, most: int) -> None:
        """Up to `most` bytes from `address`, which is in the missing run number `at`."""
        low, high, offset = served.missing[at]
        length = min(most, high - address)
        data = bytearray(self.reader.read(offset + address - low, length))
        anchor = (ctypes.c_char * length).from_buffer(data)
        try:
            done = served.uffd.copy(address, ctypes.addressof(anchor), length)
        except FileExistsError:
            done = PAGE
        except FileNotFoundError:
            # It has been moved or unmapped: the event that says so comes next, and only
            # that tells whether the bytes are still wanted, and where.
            done = 0
        except ProcessLookupError:
            served.missing = []
            return
        if done:
            served.cut(address, address + done)

    def _unbind(self) -> None:
        pid = self.supervisor.outer_pid
        tracee = seize(pid, EXITKILL)
        tracee.interrupt()
        tracee.wait_for_event_stop(_STOP_LIMIT)
        before, mask = tracee.registers, tracee.signal_mask
        old = self.supervisor.workspace
        with Memory(pid) as memory:
            self._run_unbinding(tracee, old.seen_in(memory))
        tracee.registers = before
        tracee.signal_mask = mask
        tracee.detach()
        for served in self.served.values():
            served.uffd.close()

    def _run_unbinding(self, tracee: Tracee, workspace: Workspace) -> None:
        keeper = self.supervisor.thread
        thread = RemoteThread(
            tracee, workspace, keeper.pid, keeper.tid, keeper.signal, 0, tracee.registers
        )
        tracee.signal_mask = thread.mask
        thread.run(
            [
                Call("prctl", (_PR_SET_PDEATHSIG, 0)),
                *(Call("close", (fd,)) for fd in self.tied),
            ]
        )
