"""Collect: all that Linux holds of a frozen tree, as records."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from jupyter_cr.engine.descriptors import File
from jupyter_cr.engine.freeze import FrozenProcess, FrozenTree
from jupyter_cr.engine.open_files import collect_open_files, hold_open_files
from jupyter_cr.engine.remote_process import RemoteProcess, remote_process
from jupyter_cr.engine.shared_memory import Copy, copy_shared_memory, tmpfs_paths
from jupyter_cr.engine.sharing import is_shared
from jupyter_cr.engine.state import (
    address_space,
    credentials,
    process,
    signal_actions,
    thread,
    timers,
)
from jupyter_cr.engine.survey import Survey
from jupyter_cr.errors import EngineError, Unsupported
from jupyter_cr.tracer import libc
from jupyter_cr.tracer.proc.maps import Mapping as MemoryMapping
from jupyter_cr.tracer.proc.maps import read_maps
from jupyter_cr.tracer.proc.stat import Stat
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.proc.tasks import auxv, exe_path, namespaces
from jupyter_cr.tracer.proc.timers import read_posix_timers
from jupyter_cr.tracer.remote import Result

__all__ = ["Collected", "collect_files", "collect_tree"]

_DELETED = " (deleted)"


@dataclass(frozen=True)
class Collected:
    """Sketches of the processes, parents first, and the living ones, ready to be cloned,
    by pid as we see it."""

    sketches: tuple[_Sketch, ...]
    remotes: Mapping[int, RemoteProcess]

    @property
    def sketched(self) -> list[process.Record]:
        """The records of the processes, without layouts."""
        return [sketch.record for sketch in self.sketches]

    def processes(self, survey: Survey) -> tuple[process.Record, ...]:
        """The records of the processes. When the tree goes on is early enough.

        Raises:
            Unsupported: a region of memory cannot be restored.
        """
        return tuple(sketch.finish(survey) for sketch in self.sketches)


@contextmanager
def collect_tree(tree: FrozenTree, survey: Survey) -> Iterator[Collected]:
    """Collect a frozen tree; it is kept ready for calls during the block.

    Raises:
        Unsupported: something in it cannot be restored. Nothing has been changed.
    """
    _refuse_foreign(tree)
    with ExitStack() as stack:
        remotes = {}
        for frozen in tree.living:
            assert frozen.memory is not None
            maps = read_maps(frozen.pid)
            known = survey.of(frozen.pid, frozen.memory, maps)
            remotes[frozen.pid] = stack.enter_context(
                remote_process(frozen, maps, known.gadgets)
            )
        sketches = [_collect_process(frozen, tree, remotes) for frozen in tree]
        yield Collected(tuple(sketches), remotes)


def collect_files(
    tree: FrozenTree, collected: Collected
) -> tuple[tuple[File, ...], tuple[Copy, ...]]:
    """The open files of a frozen tree, and copies of its shared memory.

    Raises:
        Unsupported: one cannot be restored.
    """
    with hold_open_files(tree) as descriptors:
        files = collect_open_files(descriptors)
        shared = copy_shared_memory(_iter_shared(collected.remotes), descriptors)
    return tuple(files), tuple(shared)


def _iter_shared(
    remotes: Mapping[int, RemoteProcess],
) -> Iterator[tuple[FrozenProcess, address_space.Region]]:
    for pid, remote in remotes.items():
        maps = [mapping for mapping in remote.maps if mapping.shared]
        for region in address_space.classify(pid, maps, {}, _on_tmpfs(maps)):
            yield remote.frozen, region


def _collect_process(
    frozen: FrozenProcess,
    tree: FrozenTree,
    remotes: Mapping[int, RemoteProcess],
) -> _Sketch:
    ids = _identify(frozen, tree)
    if frozen.is_zombie:
        ended = process.Record(
            ids=ids,
            comm=os.fsencode(frozen.status.name),
            command=(),
            zombie_status=frozen.stat.exit_code,
        )
        return _Sketch(ended)
    remote = remotes[frozen.pid]
    answers = _ask(remote)
    brk, attributes = process.collect_attributes(
        frozen.pid, frozen.status.umask, answers.general
    )
    record = process.Record(
        ids=ids,
        comm=os.fsencode(frozen.status.name),
        command=process.read_command(frozen.pid),
        is_stopped=frozen.is_stopped,
        cwd=_directory(frozen, "cwd"),
        root=_directory(frozen, "root"),
        attributes=attributes,
        credentials=credentials.collect(frozen.status, answers.credentials),
        actions=signal_actions.collect(answers.actions),
        timers=answers.timers,
        pending=tuple(frozen.leader.pending_signals(shared=True)),
        threads=tuple(
            thread.collect(
                frozen.threads[tid],
                remote.threads[tid].tid,
                remote.found[tid],
                remote.masks[tid],
                remote.memory,
                results,
            )
            for tid, results in answers.threads.items()
        ),
    )
    space = _AddressSpace(
        frozen.pid,
        remote.maps,
        frozen.stat,
        brk,
        auxv(frozen.pid),
        exe_path(frozen.pid),
    )
    return _Sketch(record, space)


@dataclass(frozen=True, slots=True)
class _AddressSpace:
    """What a layout is made of."""

    pid: int
    maps: Sequence[MemoryMapping]
    stat: Stat
    brk: int
    auxv: bytes
    executable: str

    def layout(self, flags: dict[int, frozenset[str]]) -> address_space.Layout:
        """Raises Unsupported if a region cannot be restored."""
        regions = address_space.classify(self.pid, self.maps, flags, _on_tmpfs(self.maps))
        return address_space.Layout.of(
            regions, self.stat, self.brk, self.auxv, self.executable
        )


@dataclass(frozen=True, slots=True)
class _Sketch:
    """A record that still lacks its layout, and what that is made of: sorting hundreds
    of mappings takes a while, and can wait until the tree goes on."""

    record: process.Record
    space: _AddressSpace | None = None

    def finish(self, survey: Survey) -> process.Record:
        """The whole record."""
        if self.space is None:
            return self.record
        layout = self.space.layout(survey.processes[self.space.pid].flags)
        return msgspec.structs.replace(self.record, layout=layout)


@dataclass(frozen=True, slots=True)
class _Answers:
    general: Sequence[Result]
    credentials: Sequence[Result]
    actions: Sequence[Result]
    timers: timers.Record
    threads: Mapping[int, Sequence[Result]]


def _ask(remote: RemoteProcess) -> _Answers:
    """One batch in every thread; the first thread also speaks for the process."""
    posix = read_posix_timers(remote.frozen.pid)
    general, who = process.collect_calls(), credentials.collect_calls()
    actions, clocks = signal_actions.collect_calls(), timers.collect_calls(posix)
    for_thread = thread.collect_calls()
    calls = dict.fromkeys(remote.threads, for_thread)
    leader = remote.frozen.pid
    calls[leader] = [*for_thread, *general, *who, *actions, *clocks]
    answers = remote.run(calls)
    rest = answers[leader][len(for_thread) :]
    threads = {tid: results[: len(for_thread)] for tid, results in answers.items()}
    inner = {tid: thread.tid for tid, thread in remote.threads.items()}
    ends = (
        len(general),
        len(general) + len(who),
        len(general) + len(who) + len(actions),
    )
    return _Answers(
        rest[: ends[0]],
        rest[ends[0] : ends[1]],
        rest[ends[1] : ends[2]],
        timers.collect(posix, inner, rest[ends[2] :]),
        threads,
    )


def _identify(frozen: FrozenProcess, tree: FrozenTree) -> process.Ids:
    parent = tree.processes.get(frozen.stat.ppid)
    return process.Ids(
        frozen.inner_pid,
        parent.inner_pid if parent is not None else _outer_parent(frozen),
        frozen.status.ns_pgid[-1],
        frozen.status.ns_sid[-1],
        frozen.stat.exit_signal,
    )


def _outer_parent(frozen: FrozenProcess) -> int:
    """The pid that getppid() gives in the process, whose parent is not of the tree."""
    if not frozen.stat.ppid:
        return 0
    parent = read_status(frozen.stat.ppid).ns_tgid
    return parent[-1] if len(parent) == len(frozen.status.ns_tgid) else 0


def _on_tmpfs(maps: Sequence[MemoryMapping]) -> set[str]:
    return tmpfs_paths(m.path for m in maps if m.shared and m.is_file and not m.deleted)


def _directory(frozen: FrozenProcess, which: str) -> bytes:
    path = os.readlink(f"/proc/{frozen.pid}/{which}")
    if path.endswith(_DELETED):
        raise Unsupported(
            f"process {frozen.inner_pid}: its {which} {path} no longer exists",
            "Let it change to a directory that does (os.chdir), and try again.",
        )
    return os.fsencode(path)


def _refuse_foreign(tree: FrozenTree) -> None:
    """Only trees in one set of namespaces, whose processes share nothing by clone(2)
    but what threads share, and that no more filters than our own are laid upon."""
    root = namespaces(tree.root)
    own = namespaces("self")
    if root.net != own.net or root.ipc != own.ipc or root.uts != own.uts:
        raise Unsupported(
            f"process {tree.root} is in another network, IPC or UTS namespace",
            "Run the command inside the same container or namespace as the kernel.",
        )
    filters = _seccomp_filters("self")
    for frozen in tree.living:
        if namespaces(frozen.pid) != root:
            raise Unsupported(
                f"process {frozen.pid} ({frozen.status.name}) is in other namespaces than "
                f"process {tree.root}",
                "End the container or sandbox that it runs in, and try again.",
            )
        if frozen.status.seccomp and frozen.status.seccomp_filters != filters:
            raise Unsupported(
                f"process {frozen.pid} ({frozen.status.name}) has laid a system call "
                "filter (seccomp) upon itself",
                "End that process, and try again.",
            )
        _refuse_sharing(frozen, tree)


def _refuse_sharing(frozen: FrozenProcess, tree: FrozenTree) -> None:
    parent = tree.processes.get(frozen.stat.ppid)
    if parent is None or parent.is_zombie:
        return
    kinds = {
        libc.KCMP_VM: "memory",
        libc.KCMP_FILES: "descriptors",
        libc.KCMP_FS: "directory",
    }
    for kind, what in kinds.items():
        if is_shared(frozen.pid, parent.pid, kind):
            raise Unsupported(
                f"processes {parent.pid} and {frozen.pid} share their {what} without being "
                "threads of one process",
                "Such processes exist for a moment while a program is being started: "
                "try again.",
            )


def _seccomp_filters(pid: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^Seccomp_filters:\s*(\d+)", text, re.MULTILINE)
    if found is None:
        raise EngineError("/proc/self/status lacks Seccomp_filters")
    return int(found[1])
