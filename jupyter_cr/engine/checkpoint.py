"""Checkpoint: from a running tree to a snapshot, and the tree goes on.

survey, freeze, collect, twin, thaw, save: the order is the point. Everything a user
can feel lies between freeze and thaw; nothing is written before it is known that all
can be restored.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count

from jupyter_cr.engine.collect import Collected, collect_files, collect_tree
from jupyter_cr.engine.descriptors import File, regular_file
from jupyter_cr.engine.descriptors.tcp_socket import port_numbers
from jupyter_cr.engine.family import plan_family
from jupyter_cr.engine.freeze import Freezing, Interrupted, freeze
from jupyter_cr.engine.identity import Identity, identity_of
from jupyter_cr.engine.machine import Machine, file_identities
from jupyter_cr.engine.open_file_table import FileTable
from jupyter_cr.engine.rehearsal import rehearse_once
from jupyter_cr.engine.remote_process import RemoteProcess
from jupyter_cr.engine.save import Saved, find_contents, find_sizes, save
from jupyter_cr.engine.shared_memory import Copy
from jupyter_cr.engine.state import process
from jupyter_cr.engine.state.address_space import Layout, Region
from jupyter_cr.engine.streams import SnapshotWriter
from jupyter_cr.engine.survey import Survey, survey_tree
from jupyter_cr.engine.twin import TWINS_FILE, BegunTwin, Twin, begin_twin, park_twins
from jupyter_cr.errors import TargetError, Unsupported
from jupyter_cr.tracer.proc.maps import Mapping as MemoryMapping
from jupyter_cr.tracer.proc.maps import read_maps, vm_flags
from jupyter_cr.tracer.ptrace import dead_threads_reaped

__all__ = ["CheckpointOutcome", "ProcessSummary", "Progress", "checkpoint_tree"]

Progress = Callable[[str, float], None]
"""Told the name of the phase, and how much of it is done (0 to 1)."""

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ProcessSummary:
    """What was taken of one process; `bytes` of private memory stored."""

    pid: int
    comm: str
    threads: int
    descriptors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CheckpointOutcome:
    """How it went; `bytes` stored in all."""

    downtime_ms: float
    elapsed_ms: float
    bytes: int
    processes: tuple[ProcessSummary, ...]
    end: Callable[[], None]
    """Kill the tree, if it is held."""


@dataclass(frozen=True)
class _Frozen:
    """What was taken of the tree while it stood still; twins by pid as we see it."""

    freezing: Freezing
    collected: Collected
    files: tuple[File, ...]
    shared: tuple[Copy, ...]
    twins: dict[int, Twin]
    downtime_ms: float
    identity: Identity


@dataclass(frozen=True)
class _Taken:
    """What the tree was, now that it goes on."""

    frozen: _Frozen
    processes: tuple[process.Record, ...]

    @property
    def twins(self) -> list[tuple[Twin, Layout]]:
        """Each with the layout of the process that it is of."""
        layouts = {record.pid: record.layout for record in self.processes}
        found = ((twin, layouts[twin.of]) for twin in self.frozen.twins.values())
        return [(twin, layout) for twin, layout in found if layout is not None]


def checkpoint_tree(
    pid: int,
    writer: SnapshotWriter,
    *,
    warm: bool = False,
    memory_only: bool = False,
    held: ExitStack | None = None,
    listens_on: frozenset[int] = frozenset(),
    progress: Progress | None = None,
    live: Callable[[CheckpointOutcome], None] | None = None,
) -> CheckpointOutcome:
    """Checkpoint process `pid` and all its descendants into `writer`.

    Args:
        warm: leave the twins alive, noted beside the snapshot, so that forks need not
            read it.
        memory_only: leave the pages with the twins, and save nothing but what these have
            not got; `jupyter_cr.engine.parked` has what can be done with it.
        held: the tree stands still until this is closed, if it is given. Should we be
            killed, it goes on.
        listens_on: TCP ports without which it would be of no use: a tree that has just
            been started is given time until it listens there.
        progress: ``freeze`` while the tree may stand still, ``save`` from when it goes on.
        live: told how it went as soon as the snapshot can be restored from its twins.

    Raises:
        NoSuchProcess, PermissionDenied, AlreadyTraced, TargetError: as `freeze`.
        TargetError: it does not listen there.
        Unsupported: something could not be restored; nothing has been written.
        StorageError: the disk is full.
    """
    began = time.perf_counter()
    report = progress or _silent
    report("freeze", 0.0)
    survey = survey_tree(pid)
    rehearse_once(_play)
    taken = _take(pid, survey, held, listens_on)
    frozen = taken.frozen
    twins = list(frozen.twins.values())
    try:
        report("save", 0.0)
        for twin in twins:
            twin.settle()
        _add_records(taken, writer)
        with find_contents([] if memory_only else taken.twins, writer.base) as contents:
            if warm or memory_only:
                parked, twins = twins, []
                writer.attach(TWINS_FILE, park_twins(parked))
            if warm and not memory_only:
                writer.publish()
                if live is not None:
                    live(_outcome(taken, began, find_sizes(contents, frozen.shared)))
            stored = save(contents, frozen.shared, writer, partial(report, "save"))
    finally:
        for twin in twins:
            twin.end()
    return _outcome(taken, began, stored)


def _outcome(taken: _Taken, began: float, saved: Saved) -> CheckpointOutcome:
    return CheckpointOutcome(
        taken.frozen.downtime_ms,
        (time.perf_counter() - began) * 1000,
        saved.total,
        _summarize(taken, saved.of),
        taken.frozen.freezing.end,
    )


def _silent(phase: str, share: float) -> None:
    """Nobody is watching."""


def _take(
    pid: int, survey: Survey, held: ExitStack | None, listens_on: frozenset[int]
) -> _Taken:
    listens_until = time.monotonic() + _START
    patient_until = time.monotonic() + _PATIENCE
    surveys = chain([survey], (survey_tree(pid) for _ in count()))
    pauses = iter(_PAUSES)
    attempts = 0
    while attempts < _ATTEMPTS:
        survey = next(surveys)
        patient = time.monotonic() < patient_until
        try:
            frozen = _freeze_and_clone(
                pid, survey, held, listens_on=listens_on, patient=patient
            )
        except _InTransaction:
            time.sleep(_TRANSACTION)
            continue
        except _Starting as starting:
            if time.monotonic() > listens_until:
                raise TargetError(
                    f"process {pid} does not listen on {starting.ports}, where its kernel "
                    "is to be reached",
                    "It may be starting, or have failed to. Try again when it has started.",
                ) from None
            time.sleep(_START_PAUSE)
            continue
        except Unsupported:
            if (pause := next(pauses, None)) is None:
                raise
            time.sleep(pause)
            continue
        except Interrupted:
            attempts += 1
            if attempts == _ATTEMPTS:
                raise
            continue
        with ExitStack() as on_failure:
            for twin in frozen.twins.values():
                on_failure.callback(twin.end)
            if (processes := _describe(frozen, survey)) is not None:
                on_failure.pop_all()
                return _Taken(frozen, processes)
        if held is not None:
            held.close()
        attempts += 1
    raise TargetError(
        f"process {pid} keeps changing memory that fork(2) does not hand on",
        "Try again when it has finished setting up.",
    )


def _play(pid: int) -> None:
    """All that happens while a tree stands still, to no purpose."""
    for twin in _freeze_and_clone(pid, survey_tree(pid)).twins.values():
        twin.end()


class _InTransaction(Exception):
    """A process is about to delete a file that it has open."""


class _Starting(Exception):
    """A process does not listen on `ports` yet."""

    def __init__(self, ports: Iterable[int]) -> None:
        word, *others = map(str, sorted(ports))
        self.ports = f"ports {word}, {', '.join(others)}" if others else f"port {word}"


_START, _START_PAUSE = 30.0, 0.2
"""Seconds that a kernel has for its start, and between two looks at it."""

_PAUSES = (0.02, 0.1, 0.3)
"""Seconds until what cannot be restored is looked at again: some of it lasts an instant,
like files of /proc that psutil reads."""

_TRANSACTION, _PATIENCE = 0.02, 0.5
"""Seconds after which most short transactions are over, and for which they are waited
for: a long one is part of what is to be saved."""


def _freeze_and_clone(
    pid: int,
    survey: Survey,
    held: ExitStack | None = None,
    *,
    listens_on: frozenset[int] = frozenset(),
    patient: bool = False,
) -> _Frozen:
    """All that happens while the tree stands still.

    Args:
        held: gets to let it go on, where that is not to be done here.
        patient: rather come back than take an instant that may not last.

    Raises:
        _InTransaction: such an instant.
        _Starting: it does not listen where it is to.
    """
    with dead_threads_reaped(), ExitStack() as on_error:
        with ExitStack() as frozen:
            freezing = frozen.enter_context(freeze(pid))
            twins: dict[int, Twin] = {}
            with collect_tree(freezing.tree, survey) as collected:
                plan_family(collected.sketched)
                first, *others = _iter_begun(collected, survey)
                outer, begun = first()
                with _finishing(begun, outer, twins, on_error):
                    files, shared = collect_files(freezing.tree, collected)
                    if patient and any(map(_is_journal, files)):
                        raise _InTransaction
                    if missing := listens_on - port_numbers(files):
                        raise _Starting(missing)
                for begin in others:
                    outer, begun = begin()
                    with _finishing(begun, outer, twins, on_error):
                        pass
            if held is not None:
                held.push(frozen.pop_all())
        identity = identity_of(freezing.tree)
        on_error.pop_all()
        downtime = freezing.downtime_ms
        return _Frozen(freezing, collected, files, shared, twins, downtime, identity)


def _is_journal(file: File) -> bool:
    """SQLite deletes a rollback journal with its transaction (sqlite.org/tempfiles.html,
    2.1); a snapshot that needs it could be restored only until then. IPython writes its
    history so."""
    record = file.record
    return isinstance(record, regular_file.Record) and record.path.endswith(b"-journal")


@contextmanager
def _finishing(
    begun: BegunTwin, outer: int, twins: dict[int, Twin], on_error: ExitStack
) -> Iterator[None]:
    """Whatever is done meanwhile: the clone has to be seen to its end."""
    try:
        yield
    finally:
        twins[outer] = begun.finish()
        on_error.callback(twins[outer].end)


def _iter_begun(
    collected: Collected, survey: Survey
) -> Iterator[Callable[[], tuple[int, BegunTwin]]]:
    """For each living process, what begins its twin; the root comes first."""
    subreapers = {
        record.pid
        for record in collected.sketched
        if record.attributes is not None and record.attributes.child_subreaper
    }

    def begin(outer: int) -> tuple[int, BegunTwin]:
        remote = collected.remotes[outer]
        return outer, begin_twin(
            remote,
            _special_inheritance(remote, survey),
            is_subreaper=remote.frozen.inner_pid in subreapers,
        )

    for outer in collected.remotes:
        yield partial(begin, outer)


def _special_inheritance(
    remote: RemoteProcess, survey: Survey
) -> dict[int, tuple[int, frozenset[str]]]:
    flags = survey.processes[remote.frozen.pid].flags
    special = {start: codes for start, codes in flags.items() if codes & {"dc", "wf"}}
    return {
        mapping.start: (mapping.end, special[mapping.start])
        for mapping in remote.maps
        if mapping.start in special
    }


def _describe(frozen: _Frozen, survey: Survey) -> tuple[process.Record, ...] | None:
    """The records of the processes, with the VmFlags that their twins have; None if a
    twin lacks memory, or has been given zeros, because its process asked for that after
    the survey.

    Raises:
        Unsupported: a region of memory cannot be restored.
    """
    for outer, twin in frozen.twins.items():
        flags, before = vm_flags(twin.pid), survey.processes[outer].flags
        if any("wf" in codes and "dp" not in codes for codes in flags.values()):
            return None
        before.update(
            {
                start: codes | before.get(start, codes) & _LOST
                for start, codes in flags.items()
            }
        )
    processes = frozen.collected.processes(survey)
    for twin, layout in _Taken(frozen, processes).twins:
        if not _covers(read_maps(twin.pid), layout.regions):
            return None
    return processes


_LOST = frozenset({"lo", "lf", "dc", "wf"})
"""VmFlags that a twin has not got although its process has."""


def _covers(maps: Sequence[MemoryMapping], regions: Sequence[Region]) -> bool:
    """Whether there is memory wherever there was a region."""
    ends = {}
    for mapping in maps:
        ends[mapping.start] = mapping.end
    starts = sorted(ends)
    for region in regions:
        at = region.start
        while at < region.end:
            index = bisect_right(starts, at) - 1
            if index < 0 or ends[starts[index]] <= at:
                return False
            at = ends[starts[index]]
    return True


def _add_records(taken: _Taken, writer: SnapshotWriter) -> None:
    writer.add(Machine.here())
    writer.add(taken.frozen.identity)
    for record in taken.processes:
        writer.add(record)
    writer.add(FileTable(taken.frozen.files))
    writer.add(file_identities(taken.processes))


def _summarize(taken: _Taken, stored: Mapping[int, int]) -> tuple[ProcessSummary, ...]:
    files = taken.frozen.files
    return tuple(
        ProcessSummary(
            record.pid,
            record.name,
            len(record.threads),
            sum(place.pid == record.pid for file in files for place in file.places),
            stored.get(record.pid, 0),
        )
        for record in taken.processes
    )
