"""What a server does with snapshots of its kernels: the one thing that its REST handlers
and the kernels' socket call."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
)
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_core.utils import ensure_async

from jupyter_cr import operations
from jupyter_cr.comparing import Comparison
from jupyter_cr.errors import (
    CheckpointRestoreError,
    NoSuchProcess,
    NoSuchSnapshot,
    RestoreError,
    StorageError,
    TargetError,
    UsageError,
)
from jupyter_cr.image import Header, NotebookFacts, RunningRequest
from jupyter_cr.kernels.connection import Connection, parse_connection
from jupyter_cr.kernels.engine_process import EngineProcess, Progress
from jupyter_cr.kernels.glue_client import find_card, tell_kernel
from jupyter_cr.kernels.provisioner import Revival, Running, SnapshotProvisioner
from jupyter_cr.kernels.records import find_guardian
from jupyter_cr.kernels.spare_engine import SpareEngine
from jupyter_cr.server.answers import (
    CheckpointAnswer,
    ForkAnswer,
    Query,
    RestoreAnswer,
)
from jupyter_cr.server.documents import Documents
from jupyter_cr.server.events import Emit
from jupyter_cr.server.foreign import replace_foreign, require_provisioner
from jupyter_cr.server.housekeeping import Housekeeping
from jupyter_cr.server.origin import find_origin
from jupyter_cr.server.saving import Saving
from jupyter_cr.server.snapshots import Snapshots
from jupyter_cr.server.starting import ask_for_status, start_kernel
from jupyter_cr.store import Store
from jupyter_cr.store.snapshot import FOR_A_COMPARISON, FOR_A_FORK, FOR_LESSONS

__all__ = [
    "Basis",
    "Requests",
    "SnapshotService",
    "Watch",
]

BEFORE_RESTORE = "before restore"


Settle = Callable[[str, str, str], Awaitable[tuple[str, ...]]]
"""What is done with a kernel that was forked from a snapshot, or reset to it, before
anybody else talks to it: given the snapshot, the connection file, and the path of its
notebook. What went wrong."""

Until = Literal["durable", "live"]
"""The state of a snapshot in which it has been taken."""


class Watch(Protocol):
    """Is told what becomes of kernels."""

    def went(self, kernel_id: str) -> None:
        """A kernel has been brought back to a snapshot, or resumed."""

    def slept(self, kernel_id: str) -> None:
        """A kernel hibernates."""


class Requests(Protocol):
    """What is known of the requests that front ends have sent to kernels."""

    def pending(self, kernel_id: str) -> tuple[RunningRequest, ...]:
        """Those that have not been answered."""

    def describe(self, kernel_id: str, facts: NotebookFacts) -> NotebookFacts:
        """Facts of a kernel's notebook, with these requests, and which cells have been
        run."""

    def cells_run(self, kernel_id: str) -> int:
        """How many cells have been run since the last `settle`."""

    def mark(self, kernel_id: str) -> None:
        """The kernel's processes are about to be exchanged."""

    def settle(
        self,
        kernel_id: str,
        notebook: NotebookFacts,
        *,
        abort_held: bool = False,
    ) -> bool:
        """They have been. Requests that were sent before will not be answered by the
        kernel, but for those that it goes on with; nor, with `abort_held`, cells that are
        held. Whether it is busy with one."""

    def held(self, kernel_id: str) -> AbstractContextManager[None]:
        """What is sent meanwhile waits until the end."""


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot of a kernel says of it, as of now."""

    pid: int
    connection_file: str
    notebook: NotebookFacts
    document: bytes
    """Empty if there is none."""
    go_on: Callable[[], None]
    """To be called when the kernel has been let go: what is sent to it waits until
    then."""


class _Wanted(NamedTuple):
    """A restore, as it was asked for."""

    kernel_id: str
    snapshot: str
    header: Header
    keep: bool
    document: bool
    lazy: bool
    engine: EngineProcess
    progress: Progress | None
    abandoned: tuple[str, ...] | None = None
    """If the kernel has asked for it itself: requests that it is not to go on with."""
    is_reset: bool = False
    """The snapshot is another kernel's, whose fork this is."""

    @property
    def connection(self) -> Connection:
        """That the snapshot's kernel had.

        Raises:
            RestoreError: it had none that can be read.
        """
        found = parse_connection(self.header.kernel.connection)
        if found is None:
            raise RestoreError(
                f"The connection file in snapshot {self.snapshot} cannot be read.",
                "Use another snapshot.",
            )
        return found

    @property
    def going_on(self) -> tuple[RunningRequest, ...]:
        """Of the kernel's own front ends."""
        if self.is_reset:
            return ()
        return _going_on(self.header, self.abandoned)


class SnapshotService:
    """Snapshots of one server's kernels.

    Args:
        kernels: the server's kernel manager.
        documents: notebooks.
        requests: what front ends wait for.
        emit: tells what has happened.
        housekeeping: what goes when another snapshot has been taken.
    """

    def __init__(
        self,
        kernels: Any,
        documents: Documents,
        requests: Requests,
        emit: Emit,
        housekeeping: Housekeeping,
    ) -> None:
        self._kernels = kernels
        self._documents = documents
        self._requests = requests
        self._emit = emit
        self._housekeeping = housekeeping
        self._saving = Saving()
        self.snapshots = Snapshots(self._saving, emit)
        self.snapshots.watches.append(self)
        self.spare = SpareEngine()
        self._store = Store()
        self._locks: dict[str, asyncio.Lock] = {}
        self._positions: dict[str, str] = {}
        """Kernel id -> the snapshot that it was last brought back to, as long as no new
        one has been taken."""
        self.settle: Settle = _leave_alone
        self._resumed: dict[str, RestoreAnswer] = {}
        """Kernel id -> how it was resumed, if it had hibernated."""
        self.watch: Watch | None = None

    # What becomes of snapshots

    def renamed(self, name: str, new_name: str) -> None:
        """See `jupyter_cr.server.snapshots.SnapshotWatch`."""
        for kernel_id, position in self._positions.items():
            if position == name:
                self._positions[kernel_id] = new_name

    def removed(self, name: str) -> None:
        """See `jupyter_cr.server.snapshots.SnapshotWatch`."""
        for kernel_id in [k for k, at in self._positions.items() if at == name]:
            del self._positions[kernel_id]

    # Of kernels

    async def checkpoint(
        self,
        kernel_id: str,
        *,
        name: str | None = None,
        note: str = "",
        warm: bool = False,
        memory_only: bool = False,
        document: bool = True,
        until: Until = "durable",
        progress: Progress | None = None,
    ) -> CheckpointAnswer:
        """Take a snapshot of a kernel, which goes on.

        Args:
            until: the state in which that is done: on disk, or ``live``, when it can be
                restored and forked, and is still being written to disk.
            memory_only: write no pages to disk: it ends with its twins.
            document: with its notebook, as that is in the server's files now.

        Raises:
            NoSuchProcess: there is no such kernel.
            TargetError: it runs elsewhere.
            CheckpointRestoreError: as `jupyter_cr.operations.checkpoint`.
        """
        async with self._alone(kernel_id):
            answer = await self._checkpoint(
                kernel_id,
                name,
                note,
                warm=warm,
                memory_only=memory_only,
                document=document,
                until=until,
                progress=progress,
            )
        self._positions.pop(kernel_id, None)
        if answer.state != "live":
            await self._housekeeping.after(answer.name, has_twins=warm or memory_only)
        return answer

    async def take_point(
        self, kernel_id: str, name: str, frozen: Callable[[], None]
    ) -> CheckpointAnswer:
        """Make a kernel, as it is now, a point of its timeline: a snapshot in memory, which
        is not in the list, and of which nobody is told but `frozen`.

        Args:
            frozen: called as soon as the kernel goes on: the snapshot is what it was then.

        Raises:
            As `checkpoint`.
        """

        told = ExitStack()
        told.callback(frozen)

        def report(phase: str, fraction: float) -> None:
            if phase != "freeze":
                told.close()

        async with self._alone(kernel_id):
            answer = await self._checkpoint(
                kernel_id,
                name,
                memory_only=True,
                document=False,
                automatic=operations.TIMELINE,
                progress=report,
            )
        await self._housekeeping.own(name)
        return answer

    async def _checkpoint(
        self,
        kernel_id: str,
        name: str | None,
        note: str = "",
        *,
        warm: bool = False,
        memory_only: bool = False,
        document: bool = True,
        end: bool = False,
        automatic: str = "",
        until: Until = "durable",
        progress: Progress | None = None,
    ) -> CheckpointAnswer:
        if not memory_only:
            # One at a time: the next takes over what this one has.
            await self._saving.wait_for(kernel_id)
        provisioner = self._provisioner(kernel_id)
        manager = self._kernels.get_kernel(kernel_id)
        is_point = automatic == operations.TIMELINE
        async with self.spare.process() as engine:
            path, kind = await self._documents.of_kernel(kernel_id)
            content = await self._documents.read(path) if document and path else b""
            warnings = await tell_kernel(
                _pid(provisioner), manager.get_connection_info(), "checkpoint", name or ""
            )
            with ExitStack() as until_frozen:
                until_frozen.enter_context(self._requests.held(kernel_id))
                facts = NotebookFacts(
                    path=path,
                    type=kind,
                    session_name=self._documents.session_name(path),
                )
                request = {
                    "op": "checkpoint",
                    "target": str(provisioner.pid),
                    "connection_file": os.path.abspath(manager.connection_file),
                    "name": name,
                    "note": note,
                    "warm": warm,
                    "memory_only": memory_only,
                    "live": until == "live" and not memory_only,
                    "end": end,
                    "notebook": self._requests.describe(kernel_id, facts),
                    "document": msgspec.Raw(content or b"null"),
                    "automatic": automatic,
                }

                def report(phase: str, fraction: float) -> None:
                    if phase != "freeze":
                        until_frozen.close()
                    if not is_point:
                        self._emit(
                            "saving",
                            snapshot=name or "",
                            kernel_id=kernel_id,
                            fraction=fraction,
                        )
                    if progress is not None:
                        progress(phase, fraction)

                result, rest = await self._until_live(engine, request, report)
        answer = CheckpointAnswer(
            **msgspec.structs.asdict(result),
            kernel_id=kernel_id,
            path=path if content else "",
            warnings=warnings,
        )
        if is_point:
            return answer
        if rest is None:
            self._tell_taken(answer, path, "created", "durable")
        else:
            self._saving.begin(
                kernel_id, answer.name, self._finish(answer, path, rest, has_twins=warm)
            )
            self._tell_taken(answer, path, "created")
        return answer

    async def _until_live(
        self, engine: EngineProcess, request: Mapping[str, Any], progress: Progress
    ) -> tuple[
        operations.CheckpointResult, asyncio.Future[operations.CheckpointResult] | None
    ]:
        """What came of a checkpoint, or what there is already, and then the rest. Where the
        disk may be too small for it, that is waited for.

        Raises:
            CheckpointRestoreError: as the engine did.
        """
        live: asyncio.Future[operations.CheckpointResult] = asyncio.Future()
        running = asyncio.ensure_future(
            engine.run(request, operations.CheckpointResult, progress, live.set_result)
        )
        try:
            await asyncio.wait({running, live}, return_when=asyncio.FIRST_COMPLETED)
            if live.done() and not await asyncio.to_thread(
                _has_room, self._store.root, live.result().bytes
            ):
                await asyncio.wait({running})
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait({running})
            if running.cancelled() or running.exception() is not None:
                raise
        if running.done():
            return running.result(), None
        return live.result(), running

    def _tell_taken(self, answer: CheckpointAnswer, path: str, *actions: str) -> None:
        for action in actions:
            self._emit(
                action,
                snapshot=answer.name,
                kernel_id=answer.kernel_id,
                path=path,
                state=answer.state,
                parent=answer.parent,
                position=answer.name,
            )

    async def _finish(
        self,
        answer: CheckpointAnswer,
        path: str,
        rest: asyncio.Future[operations.CheckpointResult],
        *,
        has_twins: bool,
    ) -> None:
        """A live snapshot is written to disk, and there; or it is not, and gone."""
        try:
            result = await rest
        except CheckpointRestoreError as error:
            name = self._saving.name()
            self._emit(
                "failed",
                operation="save",
                snapshot=name,
                kernel_id=answer.kernel_id,
                message=f"Snapshot {name} could not be saved, and is lost: {error.message}",
                hint=error.hint,
            )
            self._emit("deleted", snapshot=name)
            return
        answer = msgspec.structs.replace(answer, **msgspec.structs.asdict(result))
        self._tell_taken(answer, path, "durable")
        await self._housekeeping.after(answer.name, has_twins=has_twins)

    @asynccontextmanager
    async def basis(self, kernel_id: str) -> AsyncIterator[Basis]:
        """For a snapshot that somebody else takes of a kernel: nobody does anything else
        with it meanwhile.

        Raises:
            NoSuchProcess: there is no such kernel.
            TargetError: it runs elsewhere.
        """
        async with self._alone(kernel_id):
            provisioner = self._provisioner(kernel_id)
            manager = self._kernels.get_kernel(kernel_id)
            path, kind = await self._documents.of_kernel(kernel_id)
            content = await self._documents.read(path) if path else b""
            with ExitStack() as until_frozen:
                until_frozen.enter_context(self._requests.held(kernel_id))
                yield Basis(
                    pid=_pid(provisioner),
                    connection_file=os.path.abspath(manager.connection_file),
                    notebook=NotebookFacts(
                        path=path,
                        type=kind,
                        running=self._requests.pending(kernel_id),
                        session_name=self._documents.session_name(path),
                    ),
                    document=content or b"",
                    go_on=until_frozen.close,
                )

    async def hibernate(
        self, kernel_id: str, *, note: str = "", progress: Progress | None = None
    ) -> CheckpointAnswer:
        """Save a kernel, and end it at the very instant that was saved: it needs neither
        memory nor processor. `restore` resumes it, and so does opening its notebook
        (`resume`).

        Raises:
            NoSuchProcess: there is no such kernel.
            TargetError: it runs elsewhere.
            CheckpointRestoreError: it cannot be saved, or could not be resumed here; it
                goes on.
        """
        self._provisioner(kernel_id)
        manager = self._kernels.get_kernel(kernel_id)
        require_provisioner(self._kernels, manager.kernel_name)
        async with self._alone(kernel_id):
            await _ready(manager)
            path, _ = await self._documents.of_kernel(kernel_id)
            base = PurePosixPath(path).stem or manager.kernel_name
            name = await asyncio.to_thread(self._store.suggest_name, base)
            # It would start afresh what ends.
            manager.stop_restarter()
            try:
                with self._requests.held(kernel_id):
                    answer = await self._checkpoint(
                        kernel_id,
                        name,
                        note,
                        end=True,
                        automatic=operations.HIBERNATED,
                        progress=progress,
                    )
            except BaseException:
                manager.start_restarter()
                raise
            await ensure_async(self._kernels.shutdown_kernel(kernel_id, now=True))
        self._positions.pop(kernel_id, None)
        self._emit("hibernated", snapshot=name, kernel_id=kernel_id, path=path)
        if self.watch is not None:
            self.watch.slept(kernel_id)
        await self._housekeeping.after(name, has_twins=False)
        return answer

    async def hibernated(self, path: str, kernel_name: str | None) -> Header | None:
        """What `resume` can bring back for a notebook; None if there is nothing.

        Args:
            kernel_name: that is wanted; None for any.
        """
        session_name = self._documents.session_name(path)
        async for header in self._hibernated(Query(path=path, limit=0)):
            # Another server's notebook may have that path, too.
            if (
                kernel_name in (None, header.kernel.kernel_name)
                and header.notebook.session_name == session_name
            ):
                return header
        return None

    async def hibernated_kernel(self, kernel_id: str) -> Header | None:
        """What `resume` can bring back of a kernel; None if it does not hibernate."""
        async for header in self._hibernated(Query(kernel_id=kernel_id, limit=0)):
            return header
        return None

    async def _hibernated(self, query: Query) -> AsyncIterator[Header]:
        for snapshot in (await self.snapshots.find(query)).snapshots:
            if (
                snapshot.automatic == operations.HIBERNATED
                and snapshot.kernel_id not in self._kernels
            ):
                yield await self._header(snapshot.name)

    async def resume(
        self, header: Header, *, progress: Progress | None = None
    ) -> RestoreAnswer:
        """Bring back a kernel that hibernates, without a session.

        Args:
            header: as `hibernated` or `hibernated_kernel` found it.

        Raises:
            CheckpointRestoreError: it cannot be brought back; its snapshot is kept.
        """
        kernel_id = header.kernel.kernel_id
        async with self._alone(kernel_id), self.spare.process() as engine:
            if (found := self._resumed.get(kernel_id)) and kernel_id in self._kernels:
                # Somebody else has opened the same notebook meanwhile.
                return found
            wanted = _Wanted(
                kernel_id,
                header.name,
                header,
                keep=False,
                document=False,
                lazy=False,
                engine=engine,
                progress=progress,
            )
            answer = await self._resume(wanted)
            answer = await self._conclude(answer, header)
        return answer

    async def restore(
        self,
        kernel_id: str,
        snapshot: str,
        *,
        keep: bool = True,
        document: bool = False,
        lazy: bool = False,
        asked_within: bool = False,
        progress: Progress | None = None,
    ) -> RestoreAnswer:
        """Bring a kernel back to a snapshot of it: in place where it runs, under its old
        id where it does not.

        Args:
            keep: take a snapshot of what runs now, before it is replaced.
            document: bring its notebook back, too. The present one is in the snapshot
                that is kept.
            lazy: let it go on before its memory is all there.
            asked_within: a cell of the kernel has asked for it. Cells that wait in the
                snapshot are answered with "aborted" then: that one may be among them.

        Raises:
            UsageError: the snapshot is another kernel's; or it would bring back the cell
                that asks for it, for ever.
            NoSuchSnapshot: there is none of that name.
            CheckpointRestoreError: what runs now cannot be kept, or the snapshot not be
                brought back; the kernel goes on as it was.
        """
        header = await self._header(snapshot)
        _require_same_kernel(header, kernel_id)
        # Where something is kept first, this one has time to start.
        is_first = not keep or kernel_id not in self._kernels
        process = self.spare.process(is_urgent=is_first)
        async with self._alone(kernel_id), process as engine:
            abandoned = await self._abandoned(kernel_id, header) if asked_within else None
            wanted = _Wanted(
                kernel_id,
                snapshot,
                header,
                keep,
                document,
                lazy,
                engine,
                progress,
                abandoned,
            )
            if kernel_id in self._kernels:
                with self._requests.held(kernel_id):
                    answer = await self._restore(wanted)
            else:
                answer = await self._resume(wanted)
                if header.notebook.path:
                    await self._documents.attach(
                        header.notebook.path, kernel_id, header.notebook.type
                    )
            answer = await self._conclude(answer, header)
        return answer

    async def reset(
        self,
        kernel_id: str,
        snapshot: str = "",
        *,
        keep: bool = True,
        document: bool = False,
        asked_within: bool = False,
        progress: Progress | None = None,
    ) -> RestoreAnswer:
        """Bring a fork back to the snapshot that it was forked from, or to another
        kernel's: in place, on its ports, with its key.

        Args:
            snapshot: which; empty for the one that it was forked from.
            keep, document, asked_within: as `restore`. The snapshot's notebook goes where
                the fork's is.

        Raises:
            NoSuchSnapshot: there is none, or the kernel was not forked.
            UsageError: the snapshot is of no kernel.
            CheckpointRestoreError: as `restore`.
        """
        self._provisioner(kernel_id)
        if not snapshot:
            snapshot = await asyncio.to_thread(find_origin, self._store, kernel_id)
        if not snapshot:
            raise NoSuchSnapshot(
                f"Kernel {kernel_id} was not forked from a snapshot that there still is.",
                "Name the snapshot that it is to go back to.",
            )
        header = await self._header(snapshot)
        if header.kernel.kernel_id == kernel_id:
            return await self.restore(
                kernel_id,
                snapshot,
                keep=keep,
                document=document,
                asked_within=asked_within,
                progress=progress,
            )
        if not header.kernel.connection:
            raise UsageError(
                f"Snapshot {snapshot} is not of a Jupyter kernel.",
                "Name one that is: jupyter cr list shows all.",
            )
        require_provisioner(self._kernels, self._kernels.get_kernel(kernel_id).kernel_name)
        process = self.spare.process(is_urgent=not keep)
        async with self._alone(kernel_id), process as engine:
            abandoned = await self._abandoned(kernel_id, header) if asked_within else None
            wanted = _Wanted(
                kernel_id,
                snapshot,
                header,
                keep,
                document,
                lazy=False,
                engine=engine,
                progress=progress,
                abandoned=abandoned,
                is_reset=True,
            )
            with self._requests.held(kernel_id):
                answer = await self._restore(wanted)
                path, _ = await self._documents.of_kernel(kernel_id)
                warnings = await self.settle(snapshot, answer.connection_file, path)
            answer = msgspec.structs.replace(answer, warnings=(*answer.warnings, *warnings))
            answer = await self._conclude(answer, header)
        return answer

    async def _conclude(self, answer: RestoreAnswer, header: Header) -> RestoreAnswer:
        """A kernel is what it was: take note, and tell."""
        position = await self._lasting(answer.snapshot, header)
        answer = msgspec.structs.replace(answer, position=position)
        self._emit(
            "restored",
            snapshot=answer.snapshot,
            kernel_id=answer.kernel_id,
            path=header.notebook.path,
            position=position,
            running=[
                {"msg_id": request.msg_id, "cell_id": request.cell_id}
                for request in answer.running
            ],
        )
        if header.automatic == operations.HIBERNATED:
            running = {k: a for k, a in self._resumed.items() if k in self._kernels}
            self._resumed = {**running, answer.kernel_id: answer}
            # Opened again, the kernel is not to fall back.
            with suppress(NoSuchSnapshot, StorageError):
                await self.snapshots.delete([answer.snapshot])
        else:
            self._positions[answer.kernel_id] = answer.snapshot
        if self.watch is not None:
            self.watch.went(answer.kernel_id)
        return answer

    async def _restore(self, wanted: _Wanted) -> RestoreAnswer:
        kernel_id = wanted.kernel_id
        manager = self._kernels.get_kernel(kernel_id)
        # It may be about to start afresh what has crashed.
        await _ready(manager)
        manager.stop_restarter()
        try:
            provisioner = self._provisioner(kernel_id)
            kept = await self._keep(provisioner, wanted) if wanted.keep else None
            try:
                running = await self._exchange(provisioner, wanted)
            except (CheckpointRestoreError, asyncio.CancelledError):
                if kept is not None and await provisioner.poll() is None:
                    await self._saving.wait_for(kept)
                    with suppress(NoSuchSnapshot):
                        await self.snapshots.delete([kept])
                raise
        finally:
            manager.start_restarter()
        notebook = wanted.header.notebook
        if wanted.is_reset:
            notebook = msgspec.structs.replace(notebook, running=())
        self._settle(kernel_id, notebook, asked_within=wanted.abandoned is not None)
        return await self._restored(wanted, running, kept)

    def _settle(
        self, kernel_id: str, notebook: NotebookFacts, *, asked_within: bool = False
    ) -> bool:
        """A kernel goes on from a snapshot. Whether in the middle of a request."""
        is_busy = self._requests.settle(kernel_id, notebook, abort_held=asked_within)
        self._kernels.get_kernel(kernel_id).execution_state = "busy" if is_busy else "idle"
        return is_busy

    async def _restored(
        self, wanted: _Wanted, running: Running, kept: str | None
    ) -> RestoreAnswer:
        """The kernel is back: its hooks, and its notebook."""
        manager = self._kernels.get_kernel(wanted.kernel_id)
        warnings: tuple[str, ...] = ()
        path = wanted.header.notebook.path
        if wanted.is_reset:
            # It has been told with its key.
            path, _ = await self._documents.of_kernel(wanted.kernel_id)
        else:
            warnings = await tell_kernel(
                running.pid,
                manager.get_connection_info(),
                "restored",
                wanted.snapshot,
                kernel_id=wanted.kernel_id,
                abandoned=wanted.abandoned or (),
            )
        if wanted.document:
            path = await self._bring_document(wanted.snapshot, path)
        else:
            path = ""
        return RestoreAnswer(
            kernel_id=wanted.kernel_id,
            snapshot=wanted.snapshot,
            pid=running.pid,
            connection_file=os.path.abspath(manager.connection_file),
            kept=kept,
            path=path,
            elapsed_ms=running.elapsed_ms,
            warnings=(*running.warnings, *warnings),
            running=wanted.going_on,
        )

    async def _keep(self, provisioner: LocalProvisioner, wanted: _Wanted) -> str | None:
        """The name of a snapshot of what runs now; None if it has ended: that cannot be
        kept, and need not be."""
        base = f"before-{wanted.snapshot}"
        name = await asyncio.to_thread(self._store.suggest_name, base)
        try:
            answer = await self._checkpoint(
                wanted.kernel_id, name, automatic=BEFORE_RESTORE, until="live"
            )
        except CheckpointRestoreError as error:
            if await provisioner.poll() is not None:
                return None
            error.hint = (
                f"{error.hint} It has not been replaced, since what runs now could not "
                "be kept; restore without keeping it (keep=false) if it may be lost."
            ).strip()
            error.not_kept = True
            raise
        return answer.name

    async def _exchange(self, provisioner: LocalProvisioner, wanted: _Wanted) -> Running:
        def before() -> None:
            self._requests.mark(wanted.kernel_id)

        if wanted.is_reset:
            assert isinstance(provisioner, SnapshotProvisioner)
            return await provisioner.reset(
                wanted.engine,
                wanted.snapshot,
                wanted.connection,
                abandoned=wanted.abandoned,
                progress=wanted.progress,
                before=before,
            )
        if isinstance(provisioner, SnapshotProvisioner):
            return await provisioner.replace(
                wanted.engine,
                wanted.snapshot,
                lazy=wanted.lazy,
                asked_within=wanted.abandoned is not None,
                progress=wanted.progress,
                before=before,
            )
        manager = self._kernels.get_kernel(wanted.kernel_id)
        return await replace_foreign(
            manager,
            wanted.engine,
            wanted.snapshot,
            wanted.progress,
            before,
            asked_within=wanted.abandoned is not None,
        )

    async def _resume(self, wanted: _Wanted) -> RestoreAnswer:
        kernel_id = wanted.kernel_id
        if (guardian := find_guardian(kernel_id)) is not None:
            raise TargetError(
                f"Kernel {kernel_id} is looked after by another server, process "
                f"{guardian}.",
                "Restore it there, or fork the snapshot here.",
            )
        revival = Revival(
            wanted.engine,
            wanted.snapshot,
            "restore",
            lazy=wanted.lazy,
            progress=wanted.progress,
        )
        await self._start(kernel_id, wanted.header, wanted.header.notebook.path, revival)
        assert revival.running is not None
        return await self._restored(wanted, revival.running, None)

    async def _start(
        self, kernel_id: str, header: Header, path: str, revival: Revival
    ) -> None:
        """Have the kernel manager start a kernel from a snapshot.

        Raises:
            RestoreError: the kernel spec is gone, or names a provisioner that cannot do
                that.
        """
        name = header.kernel.kernel_name or self._kernels.default_kernel_name
        require_provisioner(self._kernels, name)
        await start_kernel(
            self._kernels,
            kernel_id,
            kernel_name=name,
            path=self._documents.directory(path) if path else None,
            env=self._documents.environment(path),
            revival=revival,
        )
        manager = self._kernels.get_kernel(kernel_id)
        # Where the server has pending kernels, errors are there.
        await _ready(manager)
        if self._settle(kernel_id, header.notebook):
            ask_for_status(manager)

    async def fork(
        self,
        snapshot: str,
        *,
        path: str | None = None,
        document: bool = True,
        asked_by: str | None = None,
        progress: Progress | None = None,
    ) -> ForkAnswer:
        """Start a new kernel from a snapshot, beside whatever runs.

        Args:
            path: of its notebook, in the server's files; made up from the original's if
                None.
            document: give it a copy of the notebook that was saved with the snapshot,
                where there is one, and a session with it.
            asked_by: the kernel that has asked for it, if one has. Cells that wait in the
                snapshot are answered with "aborted" then, as in `restore`.

        Raises:
            NoSuchSnapshot: there is none of that name.
            UsageError: `path` is taken, or the snapshot is not of a kernel; or the fork
                would ask for another one, for ever.
            CheckpointRestoreError: it cannot be brought back here.
        """
        async with self.spare.process() as engine:
            abandoned = None
            if asked_by is not None:
                header = await self._header(snapshot)
                abandoned = await self._abandoned(asked_by, header)
            return await self._fork(engine, snapshot, path, document, progress, abandoned)

    async def _fork(
        self,
        engine: EngineProcess,
        snapshot: str,
        path: str | None,
        document: bool,
        progress: Progress | None,
        abandoned: tuple[str, ...] | None = None,
    ) -> ForkAnswer:
        header = await self._header(snapshot)
        if not header.kernel.connection:
            raise UsageError(
                f"Snapshot {snapshot} is not of a Jupyter kernel.",
                f"Fork it from a terminal: jupyter cr fork {snapshot}",
            )
        kernel_id = str(uuid.uuid4())
        revival = Revival(engine, snapshot, "fork", abandoned=abandoned, progress=progress)
        content = b""
        if document and (found := await self.snapshots.read_document(snapshot)):
            content = found
            path = await self._documents.free_path(path or header.notebook.path, snapshot)
        await self._start(kernel_id, header, path or header.notebook.path, revival)
        assert revival.running is not None
        session_id = ""
        if content and path:
            await self._documents.write(path, content)
        if path:
            session_id = await self._documents.attach(path, kernel_id, header.notebook.type)
        answer = ForkAnswer(
            snapshot=snapshot,
            kernel_id=kernel_id,
            pid=revival.running.pid,
            connection_file=revival.running.connection_file or "",
            path=path or "",
            session_id=session_id,
            key_renewed=revival.key_renewed,
            elapsed_ms=revival.running.elapsed_ms,
            warnings=tuple(_fork_warnings(revival)),
            running=_going_on(header, abandoned),
            position=await self._lasting(snapshot, header),
        )
        if warnings := await self.settle(snapshot, answer.connection_file, answer.path):
            answer = msgspec.structs.replace(answer, warnings=(*answer.warnings, *warnings))
        self._emit(
            "forked",
            snapshot=snapshot,
            kernel_id=header.kernel.kernel_id,
            new_kernel_id=kernel_id,
            path=answer.path,
            position=answer.position,
        )
        return answer

    async def fork_kernel(
        self,
        kernel_id: str,
        *,
        path: str | None = None,
        document: bool = True,
        hold: bool = False,
        progress: Progress | None = None,
    ) -> ForkAnswer:
        """Start a new kernel that goes on from where this one is now.

        Args:
            hold: leave the snapshot that it is made from, so that it can be compared with
                it. It is in memory only, and whoever asks removes it.
        """
        async with self.spare.process(is_urgent=False) as engine:
            async with self._alone(kernel_id):
                taken = await self._checkpoint(
                    kernel_id,
                    None,
                    memory_only=True,
                    automatic=FOR_A_FORK,
                    progress=progress,
                )
            is_held = False
            try:
                await self._housekeeping.own(taken.name)
                answer = await self._fork(engine, taken.name, path, document, progress)
                is_held = hold
            finally:
                if not is_held:
                    await self.snapshots.delete([taken.name])
        return answer

    async def adopt(
        self,
        kernel_id: str,
        fork_id: str,
        *,
        keep: bool = True,
        progress: Progress | None = None,
    ) -> RestoreAnswer:
        """Put a fork in the place of a kernel, on its ports, under its id; the fork's own
        id is gone then.

        Args:
            keep: take a snapshot of what runs now, before it is replaced.

        Raises:
            NoSuchProcess: there is no kernel of one of these ids.
            CheckpointRestoreError: as `reset`; both go on as they were.
        """
        if fork_id == kernel_id:
            raise UsageError(
                f"Kernel {kernel_id} cannot take its own place.",
                "Name a fork of it.",
            )
        self._provisioner(kernel_id)
        self._provisioner(fork_id)
        name = await asyncio.to_thread(self._store.suggest_name, "adopted")
        async with self._alone(fork_id):
            taken = await self._checkpoint(
                fork_id, name, memory_only=True, document=False, automatic=FOR_A_FORK
            )
        try:
            await self._housekeeping.own(taken.name)
            answer = await self.reset(kernel_id, taken.name, keep=keep, progress=progress)
        finally:
            await self.snapshots.delete([taken.name])
        await self._kernels.shutdown_kernel(fork_id)
        return answer

    async def compare(
        self, before: str, after: str, *, variables: bool = True
    ) -> Comparison:
        """How one snapshot differs from another.

        Args:
            variables: look at them, in forks that are thrown away.

        Raises:
            NoSuchSnapshot: there is none of one of the names.
            CorruptImage: one is damaged.
        """
        request = {"before": before, "after": after, "variables": variables}
        async with EngineProcess() as engine:
            return await engine.run({"op": "compare", **request}, Comparison)

    async def compare_now(
        self,
        kernel_id: str,
        before: str,
        *,
        variables: bool = True,
        progress: Progress | None = None,
    ) -> Comparison:
        """How a kernel differs, as it is now, from a snapshot. `Comparison.after` is
        empty."""
        await self.snapshots.summary(before)
        async with self._alone(kernel_id):
            taken = await self._checkpoint(
                kernel_id,
                None,
                warm=True,
                automatic=FOR_A_COMPARISON,
                progress=progress,
            )
        try:
            found = await self.compare(before, taken.name, variables=variables)
        finally:
            await self.snapshots.delete([taken.name])
        return msgspec.structs.replace(found, after="")

    async def undo(
        self,
        kernel_id: str,
        steps: int = 1,
        *,
        asked_within: bool = False,
        progress: Progress | None = None,
    ) -> RestoreAnswer:
        """Bring a kernel back to its last snapshot; done again at once, to the one
        before it, and so on, until a cell is run or a new one is taken.

        Raises:
            NoSuchSnapshot: it has not that many.
        """
        if steps < 1:
            raise UsageError(f"{steps} steps cannot be undone.", "Undo 1 or more.")
        page = await self.snapshots.find(Query(kernel_id=kernel_id, limit=0))
        names = [snapshot.name for snapshot in page.snapshots if not snapshot.automatic]
        if (position := self._positions.get(kernel_id)) in names:
            runs = kernel_id in self._kernels
            is_still_there = runs and not self._requests.cells_run(kernel_id)
            names = names[names.index(position) + is_still_there :]
        if len(names) < steps:
            raise NoSuchSnapshot(
                f"Kernel {kernel_id} has {len(names)} snapshots to go back to, not "
                f"{steps}.",
                "Take one first, or name the one to restore.",
            )
        return await self.restore(
            kernel_id, names[steps - 1], asked_within=asked_within, progress=progress
        )

    # Of the machine

    async def capabilities(self) -> dict[str, Any]:
        """What this machine and user permit: an
        `jupyter_cr.operations.CapabilitiesResult`, as a dict."""
        async with self.spare.process() as engine:
            return await engine.run({"op": "check"}, dict[str, Any])

    async def stop(self) -> None:
        """The server stops: what is being written to disk is brought to its end."""
        await self._saving.stop()
        await self.spare.stop()

    # Helpers

    def _alone(self, kernel_id: str) -> asyncio.Lock:
        """One operation at a time on a kernel; others wait."""
        return self._locks.setdefault(kernel_id, asyncio.Lock())

    def _provisioner(self, kernel_id: str) -> LocalProvisioner:
        if kernel_id not in self._kernels:
            raise NoSuchProcess(
                f"There is no kernel {kernel_id}.",
                "It has been shut down; a snapshot of it can be restored or forked.",
            )
        provisioner = self._kernels.get_kernel(kernel_id).provisioner
        if not isinstance(provisioner, LocalProvisioner) or provisioner.pid is None:
            raise TargetError(
                f"Kernel {kernel_id} does not run on this machine.",
                "Only processes of this machine can be checkpointed: install jupyter-cr "
                "where the kernel runs.",
            )
        return provisioner

    def require_local(self, kernel_id: str) -> None:
        """See that a kernel is there, and runs on this machine.

        Raises:
            NoSuchProcess, TargetError: it is not, or does not.
        """
        self._provisioner(kernel_id)

    async def _abandoned(self, kernel_id: str, header: Header) -> tuple[str, ...] | None:
        """What a kernel that asks for a snapshot itself is not to go on with: whatever
        waits there. None if nothing in it could leave that out.

        Raises:
            UsageError: it could not, and the cell that asks waits there, too.
        """
        pid = _pid(self._provisioner(kernel_id))
        card = await asyncio.to_thread(find_card, pid)
        if card is not None and card.aborts:
            return tuple(request.msg_id for request in header.notebook.running)
        asking = {r.msg_id for r in self._requests.pending(kernel_id) if r.begun}
        if asking & {r.msg_id for r in header.notebook.running if not r.begun}:
            raise UsageError(
                f"Snapshot {header.name} was taken while the cell that asks for it was "
                "already waiting to be run: brought back, it would ask again, and so on "
                "for ever.",
                f"Run that cell by itself, or bring {header.name} back from outside: in "
                f"the panel, or in a terminal: jupyter cr restore {header.name}. (In "
                "Python kernels %load_ext jupyter_cr lets such cells be left out.)",
            )
        return None

    async def _lasting(self, name: str, header: Header) -> str:
        """The snapshot, or the one before it where it has served its purpose and goes."""
        if header.automatic not in (operations.HIBERNATED, FOR_A_FORK, FOR_LESSONS):
            return name
        with suppress(NoSuchSnapshot):
            return (await asyncio.to_thread(self._store.summary, name)).parent
        return ""

    async def _header(self, name: str) -> Header:
        """With the name that the snapshot has now."""

        def read() -> Header:
            with self._store.open(name) as reader:
                return msgspec.structs.replace(reader.header, name=reader.name)

        return await asyncio.to_thread(read)

    async def _bring_document(self, snapshot: str, path: str) -> str:
        """Write the notebook of a snapshot; its path, empty if there is none."""
        content = await self.snapshots.read_document(snapshot)
        if not content or not path:
            return ""
        await self._documents.write(path, content)
        return path


async def _leave_alone(snapshot: str, connection_file: str, path: str) -> tuple[str, ...]:
    return ()


async def _ready(manager: Any) -> None:
    """Wait until a kernel is started, or restarted, or shut down."""
    ready = manager.ready
    await (ready if isinstance(ready, asyncio.Future) else asyncio.wrap_future(ready))


def _pid(provisioner: LocalProvisioner) -> int:
    pid = provisioner.pid
    assert pid is not None
    return pid


def _going_on(
    header: Header, abandoned: tuple[str, ...] | None
) -> tuple[RunningRequest, ...]:
    """The requests of a snapshot that the kernel goes on with."""
    return tuple(r for r in header.notebook.running if r.begun or abandoned is None)


def _fork_warnings(revival: Revival) -> Iterator[str]:
    assert revival.running is not None
    yield from revival.running.warnings
    if not revival.key_renewed:
        yield (
            "The fork has its original's session key, since it could not be told of one "
            "of its own: whoever may connect to the one may connect to the other."
        )


def _has_room(directory: Path, size: int) -> bool:
    return shutil.disk_usage(directory).free > size + _ROOM


_ROOM = 64 << 20
"""Bytes: for all that is not memory, and others who write meanwhile."""


def _require_same_kernel(header: Header, kernel_id: str) -> None:
    if header.kernel.kernel_id != kernel_id:
        of = header.kernel.kernel_id or f"process {header.pid}"
        raise UsageError(
            f"Snapshot {header.name} is of {of}, not of kernel {kernel_id}.",
            f"Restore it there, or fork it: jupyter cr fork {header.name}",
        )
