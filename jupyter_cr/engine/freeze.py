"""Freeze and thaw: stop every thread of every process of a tree.

Threads and children may appear while we stop them, so both are looked for until
nothing new is found: a frozen process makes none. A parent is stopped before its
children, since one in vfork(2) cannot stop until its child has moved on.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from jupyter_cr.errors import (
    CheckpointRestoreError,
    EngineError,
    NoSuchProcess,
    TargetError,
    Unsupported,
)
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.stat import Stat, read_stat
from jupyter_cr.tracer.proc.status import Status, read_status
from jupyter_cr.tracer.proc.tasks import list_children, list_pids, list_threads
from jupyter_cr.tracer.ptrace import Ended, Stop, Tracee, reap_ended, seize

__all__ = ["Freezing", "FrozenProcess", "FrozenTree", "Interrupted", "freeze"]

_STOP_LIMIT = 2.0
_STUCK = 0.05
_LONGEST_PAUSE = 0.005
_REAP_INTERVAL = 0.001
_PF_EXITING, _PF_SIGNALED = 0x4, 0x400


class Interrupted(TargetError):
    """A process of the tree was killed while it was frozen."""


@dataclass
class FrozenProcess:
    """One process of the tree, all its threads stopped. All pids as we see them.

    A zombie has no threads, no memory, and keeps only its `stat` and `status`.
    """

    pid: int
    threads: dict[int, Tracee] = field(default_factory=dict)
    stops: dict[int, Stop] = field(default_factory=dict)
    memory: Memory | None = None

    def look(self) -> None:
        """Read what /proc tells of it; again, if need be."""
        self.status: Status = read_status(self.pid)
        self.stat: Stat = read_stat(self.pid)

    @property
    def is_zombie(self) -> bool:
        """It has ended, with all its threads, and its parent has not asked how."""
        return self.status.state == "Z" and self.status.threads <= 1

    @property
    def has_ended(self) -> bool:
        """It is ending, or has ended, although frozen: somebody has killed it."""
        try:
            killed = read_status(self.pid).sig_pending >> (signal.SIGKILL - 1) & 1
            stat = read_stat(self.pid)
        except NoSuchProcess:
            return True
        return bool(
            killed or stat.state in "ZX" or stat.flags & (_PF_EXITING | _PF_SIGNALED)
        )

    @property
    def inner_pid(self) -> int:
        """Its pid as it knows it itself."""
        return self.status.ns_tgid[-1]

    @property
    def leader(self) -> Tracee:
        """The thread that the process began with."""
        return self.threads[self.pid]

    @property
    def is_stopped(self) -> bool:
        """Job control had stopped it before we came."""
        return any(stop.is_group_stop for stop in self.stops.values())


@dataclass
class FrozenTree:
    """Parents come before their children."""

    root: int
    processes: dict[int, FrozenProcess] = field(default_factory=dict)
    seizing_since: float | None = None
    """When the request began that is under way (seconds, time.monotonic)."""

    def __iter__(self) -> Iterator[FrozenProcess]:
        return iter(self.processes.values())

    def find_ended(self) -> int | None:
        """The pid of one that is ending or has ended since it was frozen."""
        return next((p.pid for p in self.living if p.has_ended), None)

    @property
    def living(self) -> list[FrozenProcess]:
        """All but the zombies."""
        return [process for process in self if not process.is_zombie]


@dataclass
class Freezing:
    """Outcome of `freeze`: the tree and when the first thread was asked to stop
    (seconds, time.perf_counter)."""

    tree: FrozenTree
    began: float
    thawed: float = 0.0

    def thaw(self) -> None:
        """Let all threads go on. May be called again."""
        if not self.thawed:
            killed = _thaw(self.tree)
            self.thawed = time.perf_counter()
            _reap(killed)

    def end(self) -> None:
        """Kill all of it, rather than let it go on: none lives to see another's end."""
        for process in self.tree.living:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self.thaw()

    @property
    def downtime_ms(self) -> float:
        """From the first thread stopped to the last let go, or to now."""
        return ((self.thawed or time.perf_counter()) - self.began) * 1000


@contextmanager
def freeze(root: int) -> Iterator[Freezing]:
    """Freeze the tree of process `root`; thaw it at the end, whatever happens.

    Raises:
        NoSuchProcess, PermissionDenied, AlreadyTraced: as `seize`.
        TargetError: a thread does not stop.
    """
    known = _sessions()
    with _no_garbage_collection():
        yield from _freeze(root, known)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Looking for cycles would cost the tree a millisecond or two."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _freeze(root: int, known: dict[int, int]) -> Iterator[Freezing]:
    freezing = Freezing(FrozenTree(root), time.perf_counter())
    try:
        with _reaping_when_stuck(freezing.tree):
            _freeze_tree(freezing.tree, known)
        yield freezing
    except (Ended, OSError, EngineError, NoSuchProcess) as error:
        ended = freezing.tree.find_ended()
        if ended is None:
            raise
        raise Interrupted(
            f"process {ended} ended while it was being looked at", "Try again."
        ) from error
    finally:
        freezing.thaw()


@contextmanager
def _reaping_when_stuck(tree: FrozenTree) -> Iterator[None]:
    """Keep PTRACE_SEIZE from waiting for ever.

    A thread that executes a program ends its siblings and holds a lock of Linux's until
    they have been reaped (cred_guard_mutex, de_thread in fs/exec.c). Those that we trace
    we have to reap, but seizing the next one waits for that very lock: so another thread
    of ours does it, should it come to that.
    """
    done = threading.Event()
    watch = threading.Thread(target=_reap_when_stuck, args=(tree, done), daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()


def _reap_when_stuck(tree: FrozenTree, done: threading.Event) -> None:
    while not done.wait(_STUCK):
        since = tree.seizing_since
        if since is None or time.monotonic() - since < _STUCK:
            continue
        for process in list(tree.processes.values()):
            for tid in list(process.threads):
                with suppress(ChildProcessError):
                    reap_ended(tid)


def _sessions(known: Container[int] = ()) -> dict[int, int]:
    """Of each process that is not yet known, the session."""
    sessions = {}
    for pid in list_pids():
        if pid not in known:
            with suppress(CheckpointRestoreError):
                sessions[pid] = _session_of(pid)
    return sessions


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError as error:
        raise NoSuchProcess(f"process {pid} does not exist (any more)") from error
    except OSError:
        # A security module may hide what /proc shows.
        return read_stat(pid).session


def _freeze_tree(tree: FrozenTree, known: dict[int, int]) -> None:
    _freeze_process(tree, tree.root)
    if tree.processes[tree.root].is_zombie:
        raise NoSuchProcess(f"process {tree.root} has ended")
    looked_at: set[int] = set()
    candidates = known
    while True:
        fresh = [pid for pid in tree.processes if pid not in looked_at]
        looked_at.update(fresh)
        for pid in fresh:
            for child in list_children(pid):
                _freeze_process(tree, child)
        if len(tree.processes) == len(looked_at):
            for pid in _find_orphans(tree, candidates):
                _freeze_process(tree, pid)
            candidates = _sessions(known)
            if len(tree.processes) == len(looked_at) and not candidates:
                return
            known |= candidates


def _find_orphans(tree: FrozenTree, candidates: dict[int, int]) -> list[int]:
    """Processes whose parent, one of the tree's, has ended: they were given to another
    one, but are still in a session that the tree's root or one of it leads. (Nobody
    joins a session later: what was found before the freeze holds.)"""
    led = {process.stat.session for process in tree} & set(tree.processes)
    return [
        pid
        for pid, session in candidates.items()
        if session in led and pid not in tree.processes
    ]


def _freeze_process(tree: FrozenTree, pid: int) -> None:
    if pid in tree.processes:
        return
    process = FrozenProcess(pid)
    try:
        process.look()
        if not process.is_zombie:
            _stop_threads(tree, process)
            process.memory = Memory(pid)
            process.look()
    except NoSuchProcess:
        if pid == tree.root:
            raise
        tree.processes.pop(pid, None)
        if not _has_become_zombie(process):
            return
    tree.processes[pid] = process
    if not process.is_zombie and pid not in process.threads:
        raise Unsupported(
            f"process {pid}: its first thread has ended while others run",
            "Such a process cannot be restored: end it, and try again.",
        )


def _has_become_zombie(process: FrozenProcess) -> bool:
    """Whether one that ended when it was to be stopped still has something to say."""
    with suppress(NoSuchProcess):
        process.look()
        return process.is_zombie
    return False


def _stop_threads(tree: FrozenTree, process: FrozenProcess) -> None:
    tree.processes[process.pid] = process
    looked_again = False
    while True:
        fresh = [tid for tid in list_threads(process.pid) if tid not in process.stops]
        if not fresh:
            if process.pid in process.threads or looked_again:
                return
            looked_again = True
            process.stops.pop(process.pid, None)
            continue
        for tid in fresh:
            _seize_thread(tree, process, tid)
        _wait_for_threads(process, fresh)
        if not process.threads:
            raise NoSuchProcess(f"process {process.pid} has ended")


def _seize_thread(tree: FrozenTree, process: FrozenProcess, tid: int) -> None:
    tree.seizing_since = time.monotonic()
    try:
        tracee = process.threads[tid] = seize(tid)
        tracee.interrupt()
    except (NoSuchProcess, ProcessLookupError):
        process.threads.pop(tid, None)
        process.stops[tid] = Stop(0, 0)
    finally:
        tree.seizing_since = None


def _wait_for_threads(process: FrozenProcess, tids: Iterable[int]) -> None:
    """All at once: one that executes a program does not stop until we have seen the
    others end."""
    pending = [tid for tid in tids if tid in process.threads]
    deadline = time.monotonic() + _STOP_LIMIT
    pause = 0.00002
    while pending := [tid for tid in pending if not _has_stopped(process, tid)]:
        if time.monotonic() > deadline:
            raise TargetError(
                f"thread {pending[0]} of process {process.pid} ({process.status.name}) "
                "does not stop",
                "It waits in Linux for a device or a network file system: try again when "
                "that has answered.",
            )
        for tid in set(process.threads) - set(pending):
            _has_stopped(process, tid)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _has_stopped(process: FrozenProcess, tid: int) -> bool:
    if tid not in process.threads:
        return True
    try:
        stop = process.threads[tid].poll_event_stop()
    except (Ended, ProcessLookupError) as error:
        del process.threads[tid]
        stop = Stop(0, 0)
        if isinstance(error, Ended) and error.status is None:
            # It executes a program: the first thread, whose number it gets, is another.
            process.stops.pop(process.pid, None)
    if stop is not None:
        process.stops[tid] = stop
    return stop is not None


def _thaw(tree: FrozenTree) -> set[int]:
    """The tids of those that do not go on: they have been killed."""
    killed = set()
    for process in tree:
        killed |= {tid for tid, tracee in process.threads.items() if not tracee.detach()}
        if process.memory is not None:
            process.memory.close()
    return killed


def _reap(pending: set[int]) -> None:
    """Of those that were killed while we traced them, nobody else is told before us."""
    deadline = time.monotonic() + _STOP_LIMIT
    while pending and time.monotonic() < deadline:
        for tid in list(pending):
            try:
                reap_ended(tid)
            except ChildProcessError:
                pending.remove(tid)
        time.sleep(_REAP_INTERVAL)
