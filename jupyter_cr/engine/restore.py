"""Restore and fork: from a snapshot to a running tree.

`restore` puts it in the place of the tree that runs now; `fork` beside it, or in the place
of another fork. Nothing is
ended before the snapshot has been found sound and the new tree has its memory.
"""

from __future__ import annotations

import resource
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from jupyter_cr.engine.build import Building
from jupyter_cr.engine.controlling_terminals import ControllingTerminals
from jupyter_cr.engine.descriptors.base import Mode, Rebuilding
from jupyter_cr.engine.front_ends import Connected
from jupyter_cr.engine.identity import Identity, hold, identity_text
from jupyter_cr.engine.lazy import Pager
from jupyter_cr.engine.parked import parked_contents
from jupyter_cr.engine.predecessor import Predecessor
from jupyter_cr.engine.preflight import require_listeners, require_machine
from jupyter_cr.engine.site import break_ground
from jupyter_cr.engine.snapshot import PagesCheck, Snapshot
from jupyter_cr.engine.streams import SnapshotReader
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.ptrace import dead_threads_reaped

__all__ = ["RestoreOutcome", "restore_tree"]

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class RestoreOutcome:
    """How it went.

    Attributes:
        pid: of the root as we see it; `inner_pid` as it sees itself.
        supervisor_pid: our child that ends as the root ends.
        elapsed_ms: until it could go on; `waited_ms` more for front ends to come back.
        ports: recorded -> now.
        warnings: sentences for the user.
        pager: of a lazy restore: the caller has to `run` it.
    """

    pid: int
    inner_pid: int
    supervisor_pid: int
    elapsed_ms: float
    waited_ms: float
    ports: dict[int, int]
    warnings: tuple[str, ...]
    pager: Pager | None = None


def restore_tree(
    reader: SnapshotReader,
    *,
    mode: Mode,
    name: str,
    ports: dict[int, int] | None = None,
    replacing: int | None = None,
    listens_on: frozenset[int] = frozenset(),
    lazy: bool = False,
    asked_within: bool = False,
    progress: Progress | None = None,
) -> RestoreOutcome:
    """Bring the tree of a snapshot back.

    Args:
        name: the snapshot's.
        ports: for a fork, ports that listeners are to have: recorded -> wanted.
        replacing: the root, as we see it, of the tree in whose place it is to be. Default
            for a restore: the one that the snapshot is of, if it runs. A fork in the place
            of another one has its identity, and may have its ports.
        listens_on: TCP ports without which it would be of no use.
        lazy: let it go on before all its pages are there, if they are on disk; see
            `RestoreOutcome.pager`.
        asked_within: a process of the tree has asked for it, and its copy may want to know
            (`jupyter_cr.engine.identity`).
        progress: told of phase ``swap`` when it is too late to be called off.

    Raises:
        CorruptImage: the snapshot is not sound. Nothing has been changed.
        FileChanged, RestoreError: the machine lacks something. The same.
        RestoreError: it does not listen where it should.
        AddressTaken: somebody else has a port that the tree listens on.
    """
    began = time.perf_counter()
    report = progress or _silent
    snapshot = Snapshot.read(reader)
    require_listeners(snapshot.files, listens_on)
    require_machine(reader)
    _raise_file_limit()
    with ExitStack() as stack:
        check = None if lazy else stack.enter_context(PagesCheck(reader))
        in_place = mode == "restore" or replacing is not None
        identity = snapshot.identity
        if mode == "fork":
            text = str(uuid.uuid4()) if replacing is None else identity_text(replacing)
            identity = Identity(text, identity.root)
        if in_place:
            stack.enter_context(hold(identity))
        rebuilding = Rebuilding(mode, snapshot.files, ports=dict(ports or {}), stack=stack)
        warn = rebuilding.warnings.append
        handover = stack.enter_context(Handover())
        stack.enter_context(dead_threads_reaped())
        terminals = ControllingTerminals(rebuilding, handover)
        site = break_ground(
            snapshot,
            mode,
            name,
            handover,
            warn,
            terminals,
            identity=identity.text,
            asked_within=asked_within,
        )
        try:
            cold = {r.pid: r.layout for r in snapshot.living if r.layout}
            for pid in site.warm:
                del cold[pid]
            parked = {}
            if cold and not reader.is_complete:
                parked = stack.enter_context(parked_contents(reader, cold))
            supervisor = site.container.supervisor
            is_lazy = lazy and reader.is_complete
            pager = Pager(reader, supervisor) if is_lazy else None
            old = Predecessor(snapshot, rebuilding, supervisor.outer_pid, replacing)
            building = Building(
                snapshot,
                site,
                rebuilding,
                handover,
                pager,
                parked,
                lambda share: report("restore", share),
                old.look if in_place else _nothing,
            )
            building.build_memory()
            if check is not None and cold and not parked:
                check.result()
            stack.enter_context(_not_to_be_interrupted())
            report("swap", 0.0)
            connected = old.end() if in_place else Connected()
            front_ends = building.build_rest(connected)
            building.ready()
        except BaseException:
            site.clear()
            raise
        with closing(front_ends):
            elapsed = time.perf_counter() - began
            waited = front_ends.await_return()
            building.let_go(front_ends)
    report("restore", 1.0)
    root = site.seeds[snapshot.root.pid]
    return RestoreOutcome(
        root.outer_pid,
        root.pid,
        supervisor.outer_pid,
        elapsed * 1000,
        waited * 1000,
        dict(rebuilding.ports),
        tuple(rebuilding.warnings),
        pager,
    )


@contextmanager
def _not_to_be_interrupted() -> Iterator[None]:
    """From when the old tree is ended until the new one goes: whoever loses patience
    here would have neither."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _silent(phase: str, share: float) -> None:
    """Nobody is watching."""


def _nothing() -> None:
    """Nothing has to be looked at."""


def _raise_file_limit() -> None:
    """All open files of the tree are ours for a moment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
