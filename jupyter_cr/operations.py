"""What the fronts (command line, magics, server) do: each operation, whole, with its
typed result. Fronts parse, call, and show.

The engine is imported by the operations that need it, so that the others start fast.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from jupyter_cr import __version__
from jupyter_cr.background import leave_pager
from jupyter_cr.errors import (
    CorruptImage,
    ImageError,
    NameTaken,
    StorageError,
    Untrusted,
    UsageError,
    printable,
)
from jupyter_cr.image import Document, Header, KernelFacts, NotebookFacts, Outcome
from jupyter_cr.image.records import ProcessOutcome
from jupyter_cr.kernels.connection import (
    PORTS,
    encode_connection,
    fork_connection,
    kernel_id_of,
    needed_ports,
    new_connection_file,
    parse_connection,
    read_connection,
    write_connection,
)
from jupyter_cr.kernels.target import Target, resolve_target
from jupyter_cr.store import Freed, Pruned, Snapshot, State, Store, TwinLimits
from jupyter_cr.store.places import AnyStore, open_store
from jupyter_cr.store.snapshot import HIBERNATED, TIMELINE

if TYPE_CHECKING:
    from jupyter_cr.engine.checkpoint import CheckpointOutcome
    from jupyter_cr.engine.describe import SnapshotDescription
    from jupyter_cr.engine.lazy import Pager
    from jupyter_cr.engine.restore import RestoreOutcome
    from jupyter_cr.image import ImageWriter
    from jupyter_cr.store.reader import StoredReader
    from jupyter_cr.store.transfer import Transferred
    from jupyter_cr.store.writer import StoredWriter
    from jupyter_cr.tracer.capabilities import Capability

__all__ = [
    "HIBERNATED",
    "TIMELINE",
    "Brought",
    "CapabilitiesResult",
    "CheckpointResult",
    "Progress",
    "RestoreResult",
    "SnapshotDetails",
    "VerifyResult",
    "annotate_snapshot",
    "bring_fork",
    "bring_restored",
    "check_capabilities",
    "checkpoint",
    "collect_garbage",
    "fork",
    "keep_snapshot",
    "list_snapshots",
    "obtain_snapshot",
    "prune_snapshots",
    "pull_snapshot",
    "push_snapshot",
    "read_document",
    "remove_snapshots",
    "rename_snapshot",
    "restore",
    "show_snapshot",
    "tag_snapshot",
    "trust_snapshot",
    "twins_cost",
    "verify_snapshot",
    "verify_snapshots",
]

Progress = Callable[[str, float], None]
"""Called with the phase's name and how much of it is done, from 0 to 1. Called while
the tree is frozen, too: it must return at once."""


class CapabilitiesResult(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine and user permit."""

    can_checkpoint: bool
    can_restore: bool
    """And fork: with the same pids inside."""
    missing: tuple[str, ...]
    """Names of the items that stand in the way of either."""
    items: tuple[Capability, ...]


class CheckpointResult(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot was taken."""

    name: str
    state: State
    downtime_ms: float
    """From the first thread stopped to the last let go."""
    elapsed_ms: float
    """Until the snapshot was in that state."""
    bytes: int
    processes: tuple[ProcessOutcome, ...]
    parent: str = ""
    """The snapshot that the kernel was at before; empty if at none."""


class RestoreResult(msgspec.Struct, frozen=True, kw_only=True):
    """A tree runs again: in place, or as a fork."""

    name: str
    """Of the snapshot."""
    pid: int
    """As seen from here."""
    connection_file: str | None
    elapsed_ms: float
    warnings: tuple[str, ...] = ()
    """Sentences: ties that could not be made again as they were."""
    supervisor: int
    """Pid of the process that ends when the tree's root ends, with the same status."""
    key_renewed: bool = False
    """Whether a fork has a session key that is not its original's."""


class SnapshotDetails(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one snapshot."""

    snapshot: Snapshot
    header: Header
    outcome: Outcome | None
    content: SnapshotDescription
    """Processes, their descriptors, and memory by kind."""


class VerifyResult(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot is as it was written: every record, every page."""

    name: str
    bytes: int
    elapsed_ms: float
    problem: str = ""
    """Or it is not: what is wrong with it."""


def checkpoint(
    target: str,
    *,
    connection_file: Path | None = None,
    name: str | None = None,
    note: str = "",
    warm: bool = False,
    memory_only: bool = False,
    end: bool = False,
    notebook: NotebookFacts | None = None,
    document: bytes = b"",
    automatic: str = "",
    store: Store | None = None,
    progress: Progress | None = None,
    live: Callable[[CheckpointResult], None] | None = None,
) -> CheckpointResult:
    """Take a snapshot of a running tree, which goes on, unless it is to `end`.

    Args:
        target: a pid, a connection file, a kernel's id or the beginning of one.
        connection_file: of the target, a pid, where that is known.
        name: of the snapshot; None to have one made up.
        note: any text.
        warm: leave the twins alive, for forks without reading pages.
        memory_only: write no pages to disk: the snapshot ends with its twins.
        end: kill it, at the very instant that the snapshot is of, as it were: it does
            nothing more. If there will be no snapshot, it goes on.
        notebook: which document the kernel works for.
        document: that document as it is, JSON; empty if there is none.
        automatic: why the snapshot is taken without being asked for.
        live: told of the snapshot as soon as the tree goes on, and it can be restored and
            forked, while it is being written to disk.

    Raises:
        UsageError, TargetError: wrong target or name; nothing was stopped.
        Unsupported: the tree holds something that could not be restored.
        NameTaken: there is a snapshot of that name.
        StorageError: disk full, or the store is not writable.
    """
    started = time.perf_counter()
    store = store or Store()
    if name is not None:
        store.check_free(name)
    found = resolve_target(target, connection_file)
    from jupyter_cr.engine.checkpoint import checkpoint_tree

    parent = store.position(found.kernel_id) if found.kernel_id else ""
    with (
        _warm(store, parent) as base,
        _create(store, name, found, parent, base, automatic) as writer,
    ):
        header = _header(writer.name, note, found)
        writer.add(
            msgspec.structs.replace(
                header, notebook=notebook or NotebookFacts(), automatic=automatic
            )
        )
        if document:
            writer.add(Document(content=document))
        with ExitStack() as held:
            outcome = checkpoint_tree(
                found.pid,
                writer,
                warm=warm or live is not None,
                memory_only=memory_only,
                held=held if end else None,
                listens_on=needed_ports(parse_connection(header.kernel.connection)),
                progress=_shown_by(writer, progress),
                live=None
                if live is None
                else partial(_tell_live, live, writer, parent, started),
            )
            processes = _add_outcome(writer, outcome, memory_only=memory_only)
            with _phase(progress, "swap" if end else "sync"):
                # What no power cut would leave anything of need not be waited for.
                writer.commit(durable=not memory_only)
                if end:
                    outcome.end()
        name, id_ = writer.name, writer.id
    if live is not None and not (warm or memory_only):
        store.evict_twins(TwinLimits(count=0), only={id_})
    taken = store.summary(name)
    return CheckpointResult(
        name=name,
        state=taken.state,
        downtime_ms=outcome.downtime_ms,
        elapsed_ms=_milliseconds_since(started),
        bytes=outcome.bytes,
        processes=processes,
        parent=taken.parent,
    )


def _tell_live(
    tell: Callable[[CheckpointResult], None],
    writer: StoredWriter,
    parent: str,
    started: float,
    outcome: CheckpointOutcome,
) -> None:
    tell(
        CheckpointResult(
            name=writer.name,
            state="live",
            downtime_ms=outcome.downtime_ms,
            elapsed_ms=_milliseconds_since(started),
            bytes=outcome.bytes,
            processes=_process_outcomes(outcome),
            parent=parent,
        )
    )


@contextmanager
def _warm(store: Store, name: str) -> Iterator[StoredReader | None]:
    """A snapshot, or the one before it and so on, whichever is the first that is on disk
    and whose twins live: what they have in common with the next one's need not be read."""
    with ExitStack() as stack:
        reader = None
        with suppress(ImageError, StorageError):
            while name and (found := store.summary(name)).state == "memory":
                name = found.parent
            if name and store.state(name) == "warm":
                reader = stack.enter_context(store.open(name))
        yield reader


def _create(
    store: Store,
    name: str | None,
    target: Target,
    parent: str,
    base: StoredReader | None,
    automatic: str,
) -> StoredWriter:
    """Begin a snapshot, at the one that its kernel is at."""
    if name is not None:
        return store.create(
            name, parent=parent, named=not automatic, base=base, automatic=automatic
        )
    while True:
        made_up = store.suggest_name(target.kernel_name or target.comm)
        # Another process may have had the same idea in the same second.
        with suppress(NameTaken):
            return store.create(
                made_up, parent=parent, named=False, base=base, automatic=automatic
            )


def _shown_by(writer: StoredWriter, progress: Progress | None) -> Progress:
    """Have the catalogue say how far it is, too. While the tree stands still, there is no
    time for that."""

    def report(phase: str, fraction: float) -> None:
        if phase == "save":
            writer.show_saved(fraction)
        if progress is not None:
            progress(phase, fraction)

    return report


def _header(name: str, note: str, target: Target) -> Header:
    host = os.uname()
    kernel = KernelFacts(kernel_id=target.kernel_id, kernel_name=target.kernel_name)
    if target.connection_file is not None:
        kernel = msgspec.structs.replace(
            kernel,
            connection_file=_text(str(target.connection_file)),
            connection=target.connection_file.read_bytes(),
        )
    return Header(
        name=name,
        note=_text(note),
        created=datetime.now(timezone.utc).isoformat(timespec="microseconds"),
        pid=target.pid,
        comm=target.comm,
        kernel=kernel,
        release=host.release,
        machine=host.machine,
        tool=__version__,
    )


def _text(argument: str) -> str:
    """Without the lone surrogates that stand for bytes of the command line that are no
    UTF-8 (PEP 383): no image can hold them."""
    return os.fsencode(argument).decode(errors="replace")


def _add_outcome(
    writer: ImageWriter, outcome: CheckpointOutcome, *, memory_only: bool
) -> tuple[ProcessOutcome, ...]:
    processes = _process_outcomes(outcome)
    writer.add(
        Outcome(
            downtime_ms=outcome.downtime_ms,
            elapsed_ms=outcome.elapsed_ms,
            bytes=outcome.bytes,
            processes=processes,
            memory_only=memory_only,
        )
    )
    return processes


def _process_outcomes(outcome: CheckpointOutcome) -> tuple[ProcessOutcome, ...]:
    return tuple(
        ProcessOutcome(p.pid, p.comm, p.threads, p.descriptors, p.bytes)
        for p in outcome.processes
    )


def keep_snapshot(
    name: str,
    new_name: str,
    *,
    document: bytes = b"",
    store: Store | None = None,
    progress: Progress | None = None,
) -> Snapshot:
    """Write a snapshot that is in memory only to disk, under another name. It stays what it
    is.

    Args:
        document: the notebook that belongs to it, JSON; empty if it has its own, or none.

    Raises:
        NoSuchSnapshot: there is none, or not any more.
        UsageError: it is on disk, or the new name is none.
        NameTaken: there is one of the new name.
        StorageError: disk full, or the store is not writable.
    """
    from jupyter_cr.engine.parked import keep_pages

    store = store or Store()
    store.check_free(new_name)
    with store.open(name) as reader:
        outcome = reader.outcome
        if outcome is None or not reader.is_memory_only:
            raise UsageError(
                f"Snapshot {name} is not in memory only: it is on disk already.",
                f"If it is to be called that: jupyter cr rename {name} {new_name}",
            )
        _require_trust(reader)
        found = store.summary(name)
        with (
            _warm(store, found.parent) as base,
            store.create(new_name, parent=found.parent, base=base) as writer,
        ):
            writer.add(
                msgspec.structs.replace(
                    reader.header, name=writer.name, note=found.note, automatic=""
                )
            )
            own = [Document(content=document)] if document else reader.records(Document)
            for record in own:
                writer.add(record)
            kept = keep_pages(reader, writer, _of_phase(_shown_by(writer, progress)))
            writer.add(
                msgspec.structs.replace(
                    outcome,
                    bytes=kept.total,
                    processes=tuple(
                        msgspec.structs.replace(each, bytes=kept.of.get(each.pid, 0))
                        for each in outcome.processes
                    ),
                    memory_only=False,
                )
            )
            with _phase(progress, "sync"):
                writer.commit()
    return store.summary(writer.name)


def _of_phase(progress: Progress) -> Callable[[float], None]:
    return lambda share: progress("save", share)


def restore(
    name: str,
    *,
    lazy: bool = False,
    asked_within: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> RestoreResult:
    """Bring a snapshot back in place of the tree that is running now. If it was taken to
    end that until now (`HIBERNATED`), it has served its purpose and is removed.

    Args:
        name: of the snapshot.
        lazy: let the tree run before its pages are all there.
        asked_within: a process of that tree has asked for it. What waits in the kernel's
            queue is not run then.

    Raises:
        ImageError: no such snapshot, or it is damaged; nothing was ended.
        RestoreError: this machine cannot take it now.
    """
    store = store or Store()
    if lazy:
        result = leave_pager(
            lambda: bring_restored(name, lazy=True, asked_within=asked_within, store=store)
        )
    else:
        result = bring_restored(
            name, asked_within=asked_within, store=store, progress=progress
        ).result
    if store.summary(name).automatic == HIBERNATED:
        store.remove([name])
    if result.connection_file is None:
        return result
    warnings = _tell_restored(result, Path(result.connection_file))
    return msgspec.structs.replace(result, warnings=(*result.warnings, *warnings))


def _tell_restored(result: RestoreResult, path: Path) -> tuple[str, ...]:
    """Let a kernel's hooks run; what went wrong."""
    import asyncio

    from jupyter_cr.kernels.glue_client import tell_kernel

    connection = parse_connection(path.read_bytes()) if path.exists() else None
    if connection is None:
        return ()
    return asyncio.run(tell_kernel(result.pid, connection, "restored", result.name))


class Brought(NamedTuple):
    """A tree that has been brought back by this process, its supervisor's parent."""

    result: RestoreResult
    pager: Pager | None
    """Of a lazy restore: has to be run, by this process."""


def bring_restored(
    name: str,
    *,
    replacing: int | None = None,
    lazy: bool = False,
    asked_within: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Brought:
    """What `restore` does, in this process, whose child the supervisor becomes also
    where it is lazy.

    Args:
        replacing: pid of the root of the tree that makes room, where it is not the one
            that the snapshot is of: the kernel was started afresh since.
    """
    store = store or Store()
    with ExitStack() as held:
        reader = held.enter_context(store.open(name))
        _require_trust(reader)
        from jupyter_cr.engine.restore import restore_tree

        outcome = restore_tree(
            reader,
            mode="restore",
            name=name,
            ports={},
            replacing=replacing,
            lazy=lazy,
            asked_within=asked_within,
            progress=progress,
        )
        kernel = reader.header.kernel
        _move(store, kernel.kernel_id, name)
        _leave_to_pager(held, outcome)
    path = Path(kernel.connection_file) if kernel.connection_file else None
    warnings = tuple(_put_back(path, kernel.connection)) if path else ()
    return Brought(_restore_result(name, outcome, path, warnings), outcome.pager)


def _put_back(path: Path, recorded: bytes) -> Iterator[str]:
    """Write the connection file again where it is gone. The kernel runs by now, so what
    cannot be done is told, not raised."""
    try:
        if not path.exists():
            write_connection(path, recorded)
        elif parse_connection(path.read_bytes()) != parse_connection(recorded):
            yield f"{path} is not what it was; the kernel listens where it did before."
    except (StorageError, OSError) as error:
        reason = error.message if isinstance(error, StorageError) else str(error)
        yield f"The connection file is not there as it was: {reason}"


def fork(
    name: str,
    *,
    connection_file: Path | None = None,
    lazy: bool = False,
    keep_key: bool = False,
    asked_within: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> RestoreResult:
    """Bring a snapshot back beside whatever runs, on ports of its own.

    Args:
        name: of the snapshot.
        connection_file: to be written; default: a new kernel's in Jupyter's directory.
        lazy: let the tree run before its pages are all there.
        keep_key: leave it the session key of its original.
        asked_within: as `restore`.

    Raises:
        UsageError: `connection_file` exists, or the snapshot is not of a kernel.
        ImageError: no such snapshot, or it is damaged.
        RestoreError: this machine cannot take it now.
    """
    if lazy:
        result = leave_pager(
            lambda: bring_fork(
                name, connection_file, lazy=True, asked_within=asked_within, store=store
            )
        )
    else:
        result = bring_fork(
            name,
            connection_file,
            asked_within=asked_within,
            store=store,
            progress=progress,
        ).result
    if keep_key or result.connection_file is None:
        return result
    return _renew_key(result, Path(result.connection_file), asked_within)


def _renew_key(result: RestoreResult, path: Path, asked_within: bool) -> RestoreResult:
    """Give a fork a session key of its own, where it takes one."""
    import asyncio
    import secrets

    from jupyter_cr.kernels.glue_client import renew_key
    from jupyter_cr.kernels.glue_protocol import WHATEVER_WAITS

    connection = read_connection(path)
    key = secrets.token_hex(32)
    renewed = asyncio.run(
        renew_key(
            result.pid,
            connection,
            key,
            snapshot=result.name,
            connection_file=str(path),
            abandoned=(WHATEVER_WAITS,) if asked_within else (),
        )
    )
    if renewed:
        write_connection(path, encode_connection(connection | {"key": key}), replace=True)
    return msgspec.structs.replace(result, key_renewed=renewed)


def bring_fork(
    name: str,
    connection_file: Path | None = None,
    *,
    replacing: int | None = None,
    lazy: bool = False,
    asked_within: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Brought:
    """What `fork` does, in this process, whose child the supervisor becomes also where
    it is lazy.

    Args:
        replacing: pid of the root of a fork that makes room: the new one has its ports,
            and its `connection_file` stays as it is.
    """
    store = store or Store()
    with ExitStack() as held:
        reader = held.enter_context(store.open(name))
        _require_trust(reader)
        kernel = reader.header.kernel
        original = parse_connection(kernel.connection) if kernel.connection else None
        if original is None and connection_file is not None:
            raise UsageError(
                f"Snapshot {name} is not of a Jupyter kernel.",
                "Fork it without a connection file.",
            )
        path = None
        if original is not None:
            path = (connection_file or new_connection_file()).absolute()
        ports = {}
        if replacing is not None and path is not None and original is not None:
            there = read_connection(path)
            ports = {original[port]: there[port] for port in PORTS}
        is_new = replacing is None
        with _reserved(path if is_new else None, len(kernel.connection)):
            from jupyter_cr.engine.restore import restore_tree

            outcome = restore_tree(
                reader,
                mode="fork",
                name=name,
                ports=ports,
                replacing=replacing,
                listens_on=needed_ports(original),
                lazy=lazy,
                asked_within=asked_within,
                progress=progress,
            )
        if path is not None and original is not None:
            if is_new:
                content = encode_connection(fork_connection(original, outcome.ports))
                write_connection(path, content, replace=True)
            _move(store, kernel_id_of(path), name)
        _leave_to_pager(held, outcome)
    return Brought(_restore_result(name, outcome, path), outcome.pager)


def _require_trust(reader: StoredReader) -> None:
    if not reader.is_trusted:
        raise Untrusted(
            f"Snapshot {reader.name} was not taken here, and to restore it is to run its "
            "code.",
            "If you know where it comes from, and trust them as you would trust a program "
            f"of theirs: jupyter cr trust {reader.name}",
        )


def _leave_to_pager(held: ExitStack, outcome: RestoreOutcome) -> None:
    """A pager reads on, and closes the reader when it has come to the end."""
    if outcome.pager is not None:
        held.pop_all()


def _move(store: Store, kernel_id: str, name: str) -> None:
    """A kernel is at a snapshot now. It runs, so that what cannot be written is no reason
    to stop."""
    if kernel_id:
        with suppress(ImageError, StorageError):
            store.set_position(kernel_id, name)


@contextmanager
def _reserved(path: Path | None, size: int) -> Iterator[None]:
    """See that a file can be written before there is a fork that depends on it, and
    take it away again if there will be none."""
    if path is None:
        yield
        return
    write_connection(path, b" " * size)
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _restore_result(
    name: str, outcome: RestoreOutcome, path: Path | None, more: tuple[str, ...] = ()
) -> RestoreResult:
    return RestoreResult(
        name=name,
        pid=outcome.pid,
        connection_file=str(path) if path else None,
        elapsed_ms=outcome.elapsed_ms,
        warnings=tuple(map(printable, (*outcome.warnings, *more))),
        supervisor=outcome.supervisor_pid,
    )


def wait_for_end(result: RestoreResult) -> int:
    """Wait until the root of a tree that this process has brought back (not lazily) has
    ended.

    Returns:
        Its exit code; 128 and the signal's number more if a signal ended it.

    Raises:
        ChildProcessError: the supervisor is not our child.
    """
    _, status = os.waitpid(result.supervisor, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def list_snapshots(
    *, limit: int | None = None, store: AnyStore | None = None
) -> list[Snapshot]:
    """All snapshots, or the newest `limit`, oldest first; damaged ones too, and those that
    are being saved.

    Raises:
        StorageError: the store is not a directory, or another user's.
    """
    store = store or Store()
    if limit is None:
        return store.list()
    return store.list(limit=limit, newest_first=True)[::-1]


def show_snapshot(name: str, *, store: AnyStore | None = None) -> SnapshotDetails:
    """All that is known of one snapshot.

    Raises:
        ImageError: no such snapshot, or it is damaged.
    """
    store = store or Store()
    with store.open(name) as reader:
        from jupyter_cr.engine.describe import describe_snapshot

        return SnapshotDetails(
            snapshot=store.summary(name),
            header=reader.header,
            outcome=reader.outcome,
            content=describe_snapshot(reader),
        )


def remove_snapshots(names: Sequence[str], *, store: AnyStore | None = None) -> Freed:
    """Remove snapshots: all, or none if one of the names is wrong. What that gave back.

    Raises:
        NoSuchSnapshot: there is none; the hint has names like it.
        StoreBusy: one is still being saved.
        StorageError: the store is not writable.
    """
    return (store or Store()).remove(names)


def prune_snapshots(
    policy: str, *, dry_run: bool = False, store: AnyStore | None = None
) -> Pruned:
    """Remove the snapshots that a policy does not keep, or only say which those are.

    Args:
        policy: in words, see `jupyter_cr.store.retention`.

    Raises:
        UsageError: it is not understood.
        StorageError: the store is not writable.
    """
    return (store or Store()).prune(policy, dry_run=dry_run)


def twins_cost(*, store: Store | None = None) -> int:
    """Bytes of memory that would be free if no snapshot were warm.

    Raises:
        StorageError: the store is not a directory, or another user's.
    """
    return (store or Store()).twins_cost()


def collect_garbage(
    *, older_than_s: float | None = None, store: AnyStore | None = None
) -> Freed:
    """Find and delete what nobody needs, and put the catalogue right.

    Args:
        older_than_s: of a store elsewhere: leave alone what was written since, in seconds;
            default: a day. Nobody can tell whether who wrote it is dead.

    Raises:
        StorageError: the store is not writable.
    """
    store = store or Store()
    if older_than_s is None or isinstance(store, Store):
        return store.gc()
    return store.gc(older_than_s)


def push_snapshot(
    name: str,
    where: str,
    as_name: str | None = None,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Transferred:
    """Copy a snapshot into a store elsewhere.

    Args:
        where: its URL or path.
        as_name: what it is to be called there; default: as here.

    Raises:
        NoSuchSnapshot, CorruptImage: there is none here, or it is damaged.
        NameTaken: there is one of that name there.
        StorageError: it cannot be reached, or not be written.
    """
    from jupyter_cr.store.transfer import copy_between

    store, there = store or Store(), open_store(where)
    if isinstance(there, Store):
        return copy_between(store, name, there, as_name or name, progress)
    return there.push(store, name, as_name, progress)


def pull_snapshot(
    name: str,
    where: str,
    as_name: str | None = None,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Transferred:
    """Copy a snapshot from a store elsewhere into the user's own.

    Args:
        where: its URL or path.
        as_name: what it is to be called here; default: as there, or something like it if
            there is another one of that name.

    Raises:
        NoSuchSnapshot, CorruptImage: there is none there, or it is damaged.
        NameTaken: there is one of that name here.
        StorageError: it cannot be reached, or there is no room here.
    """
    from jupyter_cr.store.transfer import copy_between

    store, there = store or Store(), open_store(where)
    if isinstance(there, Store):
        return copy_between(there, name, store, as_name, progress)
    return there.pull(name, store, as_name, progress)


def obtain_snapshot(
    name: str,
    where: str,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> str:
    """Have a snapshot of a store elsewhere in the user's own, to be restored or forked: it
    is pulled unless it is here already.

    Returns:
        Its name here.

    Raises:
        As `pull_snapshot`.
    """
    from jupyter_cr.store.transfer import find_same

    store = store or Store()
    if here := find_same(open_store(where).summary(name), store.list()):
        return here
    return pull_snapshot(name, where, store=store, progress=progress).name


def tag_snapshot(
    name: str,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    *,
    store: AnyStore | None = None,
) -> tuple[str, ...]:
    """Give a snapshot tags, and take some away; those that it has now.

    Raises:
        UsageError: not a tag.
        NoSuchSnapshot: there is none.
        StorageError: the store is not writable.
    """
    return (store or Store()).tag(name, [_text(tag) for tag in add], remove)


def trust_snapshot(
    name: str, *, with_signer: str | None = None, store: Store | None = None
) -> Snapshot:
    """Say that a snapshot from elsewhere may be restored.

    Args:
        with_signer: and so may all that comes from whoever has exported it, who is called
            that.

    Raises:
        NoSuchSnapshot: there is none.
        UsageError: nobody has exported it.
        StorageError: the store is not writable.
    """
    store = store or Store()
    if with_signer is not None:
        from jupyter_cr.store.signers import Signers

        signer = store.summary(name).signer
        if not signer:
            raise UsageError(
                f"Snapshot {name} has no signer: it did not come in a bundle.",
                f"Trust it alone: jupyter cr trust {name}",
            )
        Signers().trust(signer, with_signer)
    store.trust(name)
    return store.summary(name)


def rename_snapshot(name: str, new_name: str, *, store: AnyStore | None = None) -> None:
    """Give a snapshot another name.

    Raises:
        UsageError: not a name.
        NoSuchSnapshot, NameTaken: there is none, or one of the new name.
        StorageError: the store is not writable.
    """
    (store or Store()).rename(name, new_name)


def annotate_snapshot(name: str, note: str, *, store: Store | None = None) -> None:
    """Give a snapshot another note.

    Raises:
        NoSuchSnapshot: there is none.
        StorageError: the store is not writable.
    """
    (store or Store()).annotate(name, _text(note))


def read_document(name: str, *, store: Store | None = None) -> bytes:
    """The notebook that was saved with a snapshot, as JSON; empty if there is none.

    Raises:
        ImageError: no such snapshot, or it is damaged.
    """
    with (store or Store()).open(name) as reader:
        return next((record.content for record in reader.records(Document)), b"")


def check_capabilities() -> CapabilitiesResult:
    """Try out what this machine and user permit. Starts processes, so that it is not for
    one that has children of its own."""
    from jupyter_cr.tracer.capabilities import probe_capabilities

    found = probe_capabilities()
    return CapabilitiesResult(
        can_checkpoint=found.can_checkpoint,
        can_restore=found.can_restore,
        missing=found.missing,
        items=tuple(found.items),
    )


def verify_snapshot(
    name: str, *, store: AnyStore | None = None, progress: Progress | None = None
) -> VerifyResult:
    """Check every record and every page of a snapshot; the catalogue is told.

    Raises:
        ImageError: no such snapshot, or what is damaged in it.
        StoreBusy: it is still being saved.
    """
    started = time.perf_counter()
    store = store or Store()
    try:
        with store.open(name) as reader, _phase(progress, "verify"):
            reader.verify_pages()
            size = reader.page_bytes
    except CorruptImage as error:
        _note_check(store, name, error.message)
        raise
    _note_check(store, name, "")
    return VerifyResult(name=name, bytes=size, elapsed_ms=_milliseconds_since(started))


def _note_check(store: AnyStore, name: str, problem: str) -> None:
    # A store that cannot be written can be verified.
    with suppress(StorageError, ImageError):
        store.note_check(name, problem)


def verify_snapshots(
    names: Sequence[str] | None = None,
    *,
    store: AnyStore | None = None,
    progress: Progress | None = None,
) -> tuple[VerifyResult, ...]:
    """`verify_snapshot` for several, each with its `problem`, if it has one.

    Args:
        names: None for all that are on disk.

    Raises:
        NoSuchSnapshot: there is none of one of the names; nothing was read.
    """
    store = store or Store()
    if names is None:
        names = [
            s.name for s in store.list() if s.state not in ("saving", "live", "memory")
        ]
    for name in names:
        store.summary(name)
    return tuple(_verified(store, name, progress) for name in dict.fromkeys(names))


def _verified(store: AnyStore, name: str, progress: Progress | None) -> VerifyResult:
    try:
        return verify_snapshot(name, store=store, progress=progress)
    except (ImageError, StorageError) as error:
        return VerifyResult(name=name, bytes=0, elapsed_ms=0.0, problem=error.message)


@contextmanager
def _phase(progress: Progress | None, name: str) -> Iterator[None]:
    if progress is None:
        yield
        return
    progress(name, 0.0)
    yield
    progress(name, 1.0)


def _milliseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
