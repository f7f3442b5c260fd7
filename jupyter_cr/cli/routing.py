"""Who does it: the server that looks after the kernel, or else we ourselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from jupyter_cr.errors import (
    CheckpointRestoreError,
    ImageError,
    StorageError,
    TargetError,
    UsageError,
)
from jupyter_cr.glue.channel import ask_server
from jupyter_cr.glue.whereabouts import find_out
from jupyter_cr.kernels.records import find_guardian
from jupyter_cr.kernels.server_client import ask_guardian
from jupyter_cr.kernels.target import resolve_target
from jupyter_cr.operations import (
    HIBERNATED,
    CheckpointResult,
    Progress,
    RestoreResult,
    checkpoint,
    push_snapshot,
    restore,
)
from jupyter_cr.store import Store
from jupyter_cr.store.keeping import within_policy
from jupyter_cr.store.snapshot import FOR_A_COMPARISON
from jupyter_cr.tracer.proc.stat import read_stat

if TYPE_CHECKING:
    from jupyter_cr.comparing import Comparison
    from jupyter_cr.store.transfer import Transferred

__all__ = [
    "checkpoint_target",
    "compare",
    "hibernate_target",
    "is_asked_within",
    "push_taken",
    "restore_snapshot",
    "switch_timeline",
]


class _Restored(msgspec.Struct):
    """What a server says of a restore."""

    snapshot: str
    pid: int
    connection_file: str
    elapsed_ms: float
    warnings: tuple[str, ...]


def checkpoint_target(
    target: str,
    *,
    name: str | None,
    note: str,
    warm: bool,
    memory_only: bool = False,
    progress: Progress | None,
) -> CheckpointResult:
    """`jupyter_cr.operations.checkpoint`, by whoever can do it best: a server adds the
    notebook, and runs the kernel's hooks."""
    if name is not None:
        Store().check_free(name)
    arguments = {"name": name, "note": note, "warm": warm, "memory_only": memory_only}
    return _take(target, "checkpoint", arguments, progress)


def hibernate_target(
    target: str, *, note: str, progress: Progress | None
) -> CheckpointResult:
    """Save a tree, and end it until it is restored; by the server that looks after it, if
    one does, which resumes a kernel also when its notebook is opened."""
    return _take(
        target, "hibernate", {"note": note}, progress, end=True, automatic=HIBERNATED
    )


class _Switched(msgspec.Struct):
    """What a server says of a timeline."""

    kernel_id: str
    is_on: bool


def switch_timeline(target: str, is_on: bool) -> _Switched:
    """Have a point before each cell of a kernel, or not.

    Raises:
        TargetError: there is no such kernel, or no server that looks after it.
    """
    answer, problem = None, None
    try:
        kernel_id = resolve_target(target).kernel_id
        answer = ask_guardian(kernel_id, "timeline", is_on=is_on)
    except (TargetError, UsageError) as error:
        problem = error
    if answer is None:
        # In one of its own cells it is no target; and after a restore, pids are others
        # there, so that no guardian can be recognized.
        answer = ask_server("timeline", kernel_id=target, is_on=is_on)
    if answer is None:
        raise problem or TargetError(
            f"No server looks after {target}.",
            "A timeline is for kernels that a server with jupyter-cr has started.",
        )
    return msgspec.json.decode(answer, type=_Switched)


def _take(
    target: str,
    op: str,
    arguments: dict[str, Any],
    progress: Progress | None,
    **ours: Any,
) -> CheckpointResult:
    """Have a server do `op`, or else take a checkpoint, with `ours` in addition."""
    found = resolve_target(target)
    answer = ask_guardian(found.kernel_id, op, progress, **arguments)
    if answer is not None:
        return msgspec.json.decode(answer, type=CheckpointResult)
    with within_policy():
        return checkpoint(
            str(found.pid),
            connection_file=found.connection_file,
            progress=progress,
            **arguments,
            **ours,
        )


def compare(before: str, after: str | None, *, variables: bool) -> Comparison:
    """`jupyter_cr.comparing.compare_snapshots`, with what runs now if there is no second
    snapshot.

    Raises:
        NoSuchProcess: what the snapshot is of does not run.
    """
    # Imported where needed: the engine.
    from jupyter_cr.comparing import compare_snapshots

    if after is not None:
        return compare_snapshots(before, after, variables=variables)
    with Store() as store:
        with store.open(before) as reader:
            header = reader.header
        target = header.kernel.kernel_id or header.kernel.connection_file
        name = store.suggest_name(f"now-{before}")
    taken = _take(
        target or str(header.pid),
        "checkpoint",
        {"name": name, "note": "", "warm": True},
        None,
        automatic=FOR_A_COMPARISON,
    )
    try:
        return msgspec.structs.replace(
            compare_snapshots(before, taken.name, variables=variables), after=""
        )
    finally:
        with suppress(ImageError, StorageError), Store() as store:
            store.remove([taken.name])


def is_asked_within(name: str) -> bool:
    """Whether this command runs in the tree that a snapshot is of, or in a copy of one:
    what waits in the kernel's queue may ask for it again, for ever."""
    # Imported where needed: 20 ms.
    from jupyter_cr.engine.identity import Identity

    here = find_out()
    with Store() as store, store.open(name) as reader:
        texts = {identity.text for identity in reader.records(Identity)}
    if here.keeper:
        return True
    return any(f"{here.boot}:{own}" in texts for own in _iter_lineage())


def _iter_lineage() -> Iterator[str]:
    """Start time and pid of all processes above this one."""
    pid = os.getppid()
    with suppress(CheckpointRestoreError):
        while pid > 1:
            stat = read_stat(pid)
            yield f"{stat.starttime}:{pid}"
            pid = stat.ppid


def push_taken(name: str, where: str, progress: Progress | None) -> Transferred:
    """Copy a snapshot that has just been taken into a store elsewhere.

    Raises:
        StorageError: it could not be; the snapshot is here, and the hint says so.
    """
    try:
        return push_snapshot(name, where, progress=progress)
    except (ImageError, StorageError) as error:
        raise type(error)(
            f"Snapshot {name} was taken, and is here only: {error.message}",
            f"{error.hint} Then: jupyter cr push {name} URL",
        ) from error


def restore_snapshot(
    name: str, *, lazy: bool, wait: bool, progress: Progress | None
) -> RestoreResult:
    """`jupyter_cr.operations.restore`, by the server that looks after the kernel, if one
    does.

    Raises:
        TargetError: this is a process of a rebuilt tree, and no server can be asked.
        UsageError: with `wait`, and a server waits for the kernel already.
    """
    with Store().open(name) as reader:
        kernel_id = reader.header.kernel.kernel_id
    if wait and (guardian := find_guardian(kernel_id)) is not None:
        raise UsageError(
            f"The kernel is looked after by a server, process {guardian}, which waits for "
            "it already.",
            "Restore it without --wait.",
        )
    answer = ask_guardian(kernel_id, "restore", progress, snapshot=name, lazy=lazy)
    if answer is None and kernel_id and find_out().keeper:
        # Pids are others here, so that no guardian can be recognized; and whoever is in
        # the tree that is replaced cannot do it.
        answer = ask_server("restore", kernel_id=kernel_id, snapshot=name, lazy=lazy)
        if answer is None:
            raise TargetError(
                "This command runs in a kernel that was itself restored or forked, and "
                "finds no server that looks after it.",
                f"In a terminal outside: jupyter cr restore {name}",
            )
    if answer is None:
        return restore(name, lazy=lazy, progress=progress)
    restored = msgspec.json.decode(answer, type=_Restored)
    return RestoreResult(
        name=restored.snapshot,
        pid=restored.pid,
        connection_file=restored.connection_file,
        elapsed_ms=restored.elapsed_ms,
        warnings=restored.warnings,
        supervisor=restored.pid,
    )
