"""The timelines of a server's kernels: which are on, what can be asked of them, and which
of their points go, so that they do not take more memory than they may."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

import msgspec

from jupyter_cr import operations
from jupyter_cr.errors import (
    CheckpointRestoreError,
    ImageError,
    NoSuchProcess,
    NoSuchSnapshot,
    StorageError,
    UsageError,
)
from jupyter_cr.image.record_file import write_whole
from jupyter_cr.server.documents import Documents
from jupyter_cr.server.events import Emit
from jupyter_cr.server.front_end_requests import FrontEndRequests
from jupyter_cr.server.points import Way
from jupyter_cr.server.service import SnapshotService
from jupyter_cr.server.timeline import Timeline, TimelineAnswer, TravelAnswer
from jupyter_cr.server.timeline_documents import TimelineDocuments, unpacked
from jupyter_cr.store import Snapshot, Store, store_root
from jupyter_cr.store.retention import parse_policy
from jupyter_cr.store.root import prepare_root

__all__ = ["RETENTION", "Timelines"]

RETENTION = "last 100, one per minute for an hour, one per hour for a day"
"""Which points are kept, if nobody has said otherwise."""

_CHOICES = "timelines.json"
"""Beside the snapshots: path of a notebook -> whether it has a timeline."""
_MEASURE_S = 5.0
"""How long a measurement holds: one reads the page tables of all twins."""
_INTERVAL_S = 30.0
_GONE_S = 600.0
"""How long points are kept of a kernel that is gone."""


class Timelines:
    """Of one server; told by its service what becomes of kernels and snapshots.

    Args:
        retention: which points are kept, a policy of `jupyter_cr.store.retention`.
        budget: bytes of memory that all points may take; 0: no limit.
        patience_s: how long a cell waits for the point before it.
    """

    def __init__(
        self,
        service: SnapshotService,
        requests: FrontEndRequests,
        kernels: Any,
        documents: Documents,
        emit: Emit,
        log: logging.Logger,
        *,
        retention: str = RETENTION,
        budget: int = 0,
        patience_s: float = 5.0,
    ) -> None:
        self._service = service
        self._requests = requests
        self._kernels = kernels
        self._documents = documents
        self._emit = emit
        self._log = log
        self._policy = self._understood(retention)
        self._budget = budget
        self._patience_s = patience_s
        self._store = Store()
        self._kept_documents = TimelineDocuments(self._store)
        self._timelines: dict[str, Timeline] = {}
        self._chosen: dict[str, bool] = {}
        """Kernel id -> whether it is to have one."""
        self._announced: set[str] = set()
        self._gone: dict[str, float] = {}
        self._unneeded: set[str] = set()
        """Points that belong to no timeline any more."""
        self._thinning: asyncio.Task[None] | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._falling_asleep: asyncio.Task[None] | None = None
        self._measured = 0.0
        service.watch = self
        service.snapshots.watches.append(self)

    def _understood(self, retention: str) -> str:
        try:
            parse_policy(retention)
        except UsageError as error:
            self._log.error("SnapshotExtension.timeline_retention: %s", error)
            return RETENTION
        return retention

    # What can be asked

    async def timeline(self, kernel_id: str) -> TimelineAnswer:
        """What there is.

        Raises:
            NoSuchProcess: there is no such kernel, and there was none.
        """
        timeline = self._timelines.get(kernel_id)
        if timeline is None:
            self._require(kernel_id)
            if await self._remembered(kernel_id):
                timeline = await self._switched_on(kernel_id)
        is_chosen = kernel_id in self._chosen
        if timeline is None:
            return TimelineAnswer(
                kernel_id=kernel_id, is_on=False, is_chosen=is_chosen, limit=self._budget
            )
        return timeline.answer(is_chosen=is_chosen, limit=self._budget)

    async def switch(self, kernel_id: str, is_on: bool) -> TimelineAnswer:
        """Have a point before each cell of a kernel, or not; that is remembered for its
        notebook.

        Raises:
            NoSuchProcess: there is no such kernel.
            TargetError: it runs elsewhere.
        """
        self._require(kernel_id)
        self._service.require_local(kernel_id)
        await self._remember(kernel_id, is_on)
        if is_on:
            await self._switched_on(kernel_id)
        else:
            await self._switch_off(kernel_id)
        return await self.timeline(kernel_id)

    async def travel(
        self,
        kernel_id: str,
        *,
        steps: int = 0,
        point: str = "",
        keep: bool = True,
        document: Any = None,
    ) -> TravelAnswer:
        """Bring a kernel to another point of its timeline.

        Args:
            steps: how many points back (negative) or forward.
            point: or to which.
            keep: make a point of what runs now, if it is none, so that one can come back.
            document: the notebook as it is now, which belongs to that.

        Raises:
            UsageError: there is no such point.
            CheckpointRestoreError: it cannot be brought back, or what runs now not be kept;
                it goes on as it was.
        """
        timeline = self._timelines.get(kernel_id)
        if timeline is None:
            raise UsageError(
                f"Kernel {kernel_id} has no timeline.",
                "Switch it on first: PUT jupyter-cr/kernels/ID/timeline, "
                "%checkpoint --auto on, or Snapshot Before Each Run in the Kernel menu.",
            )
        points = timeline.points

        def find() -> Way | None:
            if point:
                return points.to(point)
            return points.forward(steps) if steps > 0 else points.back(-steps)

        content = b""
        if document is not None:
            content = await asyncio.to_thread(msgspec.json.encode, document)
        answer = await timeline.travel(find, keep=keep, document=content)
        self._emit(
            "travelled",
            kernel_id=kernel_id,
            snapshot=answer.point,
            document=answer.document,
        )
        return answer

    async def keep(self, kernel_id: str, point: str, name: str, note: str = "") -> Snapshot:
        """Make a point a snapshot like others, which stays, with its notebook.

        Raises:
            UsageError: there is no such point.
            NameTaken, NoSuchSnapshot, StorageError: as the store does.
        """
        timeline = self._timelines.get(kernel_id)
        way = timeline.points.to(point) if timeline is not None else None
        if timeline is None or way is None:
            raise NoSuchSnapshot(
                f"There is no point {point} in the timeline of kernel {kernel_id}.",
                "It may have gone, as the oldest do.",
            )
        document = b""
        if way.document:
            document = await self._kept_documents.read(way.document)
        elif point == timeline.points.base and timeline.points.is_at_base:
            path, _ = await self._documents.of_kernel(kernel_id)
            document = await self._documents.read(path) if path else b""
        return await self._service.snapshots.keep(
            kernel_id, point, name, note, document=document
        )

    async def note_document(self, kernel_id: str, msg_id: str, content: bytes) -> None:
        """Keep a notebook as it was just before a cell.

        Args:
            content: JSON, or that compressed by gzip.

        Raises:
            UsageError: it is no notebook, or the kernel has no timeline.
            NoSuchSnapshot: the point before that cell is gone.
            StorageError: it cannot be written.
        """
        await asyncio.to_thread(_require_object, content)
        timeline = self._timelines.get(kernel_id)
        if timeline is None:
            raise UsageError(
                f"Kernel {kernel_id} has no timeline.", "There is nothing to keep it for."
            )
        await timeline.note_document(msg_id, content)

    async def document(self, kernel_id: str, id_: str) -> bytes:
        """A notebook as it was, JSON.

        Raises:
            NoSuchSnapshot: it is gone.
        """
        return await self._kept_documents.read(id_)

    # What the service tells

    def went(self, kernel_id: str) -> None:
        """See `jupyter_cr.server.service.Watch`."""
        if (timeline := self._timelines.get(kernel_id)) is not None:
            timeline.went()

    def slept(self, kernel_id: str) -> None:
        """It needs no memory then, and neither do its points."""
        self._falling_asleep = asyncio.ensure_future(self._switch_off(kernel_id))

    def renamed(self, name: str, new_name: str) -> None:
        """See `jupyter_cr.server.snapshots.SnapshotWatch`."""
        for timeline in self._timelines.values():
            if name in timeline.points:
                timeline.points.rename(name, new_name)
                self._changed(timeline.kernel_id)

    def removed(self, name: str) -> None:
        """See `jupyter_cr.server.snapshots.SnapshotWatch`."""
        for timeline in self._timelines.values():
            if name in timeline.points:
                timeline.points.remove(name)
                self._changed(timeline.kernel_id)

    # Begin and end

    async def start(self, left: Collection[str]) -> None:
        """The server runs.

        Args:
            left: ids of snapshots of a server that was killed. Those of them that are
                points go, and so do others of kernels that were taken over from it: nobody
                knows what has led to them.
        """
        with suppress(StorageError, ImageError):
            if left or len(self._kernels):
                await asyncio.to_thread(lambda: self._remove(self._points_of(left)))
        self._watch = asyncio.ensure_future(self._look_now_and_then())

    def _points_of(self, ids: Collection[str]) -> list[str]:
        return [
            snapshot.name
            for snapshot in self._store.list()
            if snapshot.is_point
            and (snapshot.id in ids or snapshot.kernel_id in self._kernels)
        ]

    async def _look_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            if self._timelines or self._unneeded:
                self._thin_soon()

    async def stop(self) -> None:
        """The server stops; so do its kernels, and there is nothing to go back to."""
        if self._next_look is not None:
            self._next_look.cancel()
        for task in (self._watch, self._thinning):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        for kernel_id in list(self._timelines):
            await self._switch_off(kernel_id)
        await asyncio.to_thread(self._store.close)

    # Helpers

    def _require(self, kernel_id: str) -> None:
        if kernel_id not in self._kernels and kernel_id not in self._timelines:
            raise NoSuchProcess(
                f"There is no kernel {kernel_id}.", "It has been shut down, or never was."
            )

    async def _switched_on(self, kernel_id: str) -> Timeline:
        timeline = self._timelines.get(kernel_id)
        if timeline is None:
            timeline = self._timelines[kernel_id] = Timeline(
                kernel_id,
                self._service,
                self._requests,
                self._kernels,
                self._kept_documents,
                self._log,
                patience_s=self._patience_s,
                changed=lambda: self._changed(kernel_id),
                taken=self._thin_soon,
                lost=self._lost,
            )
            self._service.spare.prepare()
            timeline.switch_on()
            self._changed(kernel_id)
        return timeline

    async def _switch_off(self, kernel_id: str) -> None:
        timeline = self._timelines.pop(kernel_id, None)
        if timeline is None:
            return
        self._unneeded.update(await timeline.switch_off())
        await self._remove_unneeded()
        self._changed(kernel_id)

    def _lost(self, name: str) -> None:
        self._unneeded.add(name)
        self._thin_soon()

    async def _remove_unneeded(self) -> None:
        """What is still being saved, or read, goes the next time."""
        if names := tuple(self._unneeded):
            self._unneeded.difference_update(await asyncio.to_thread(self._remove, names))

    def _changed(self, kernel_id: str) -> None:
        """Tell, once for all that changes in one turn of the event loop."""
        if kernel_id in self._announced:
            return
        self._announced.add(kernel_id)

        def tell() -> None:
            self._announced.discard(kernel_id)
            self._emit("timeline", kernel_id=kernel_id)

        asyncio.get_running_loop().call_soon(tell)

    def _remove(self, names: Iterable[str]) -> list[str]:
        """Points that nobody needs; those that are gone."""
        gone = []
        for name in names:
            try:
                operations.remove_snapshots([name], store=self._store)
                gone.append(name)
            except NoSuchSnapshot:
                gone.append(name)
            except (ImageError, StorageError):
                # Still being saved, or read: the next time.
                continue
        return gone

    # What is remembered

    async def _remembered(self, kernel_id: str) -> bool:
        if (chosen := self._chosen.get(kernel_id)) is None:
            path = await self._path(kernel_id)
            choices = await asyncio.to_thread(_read_choices) if path else {}
            chosen = choices.get(path)
            if chosen is None:
                return False
            self._chosen[kernel_id] = chosen
        return chosen

    async def _remember(self, kernel_id: str, is_on: bool) -> None:
        self._chosen[kernel_id] = is_on
        if path := await self._path(kernel_id):
            # That it cannot be remembered, is no reason not to do it.
            with suppress(StorageError):
                await asyncio.to_thread(_write_choice, path, is_on)

    async def _path(self, kernel_id: str) -> str:
        """Of the kernel's notebook, on this machine."""
        path, kind = await self._documents.of_kernel(kernel_id)
        return self._documents.session_name(path) if kind == "notebook" else ""

    # What goes

    def _thin_soon(self) -> None:
        if self._thinning is None or self._thinning.done():
            self._thinning = asyncio.ensure_future(self._thin())

    async def _thin(self) -> None:
        await self._remove_unneeded()
        for kernel_id in [k for k in self._timelines if k not in self._kernels]:
            await self._forget_gone(kernel_id)
        for timeline in list(self._timelines.values()):
            await self._drop(timeline, self._not_kept(timeline))
        loop = asyncio.get_running_loop()
        due = self._measured + _MEASURE_S
        if self._budget and loop.time() >= due:
            await self._keep_to_budget()
            self._measured = loop.time()
        elif self._budget and self._next_look is None:
            # Many quick cells take memory, and nothing may come after them for long.
            self._next_look = loop.call_at(due, self._look_again)

    def _look_again(self) -> None:
        self._next_look = None
        self._thin_soon()

    async def _forget_gone(self, kernel_id: str) -> None:
        """A kernel that has ended may be brought back, for a while."""
        now = asyncio.get_running_loop().time()
        if now - self._gone.setdefault(kernel_id, now) > _GONE_S:
            del self._gone[kernel_id]
            await self._switch_off(kernel_id)

    def _not_kept(self, timeline: Timeline) -> list[str]:
        """What the policy does not keep."""
        snapshots = [
            Snapshot(
                name=point.name,
                id=point.name,
                state="warm",
                created=point.created,
                bytes=0,
                named=False,
                kernel_id=timeline.kernel_id,
            )
            for point in timeline.points
        ]
        kept = parse_policy(self._policy).kept(snapshots)
        return [snapshot.name for snapshot in snapshots if snapshot.id not in kept]

    async def _keep_to_budget(self) -> None:
        """The oldest go first, a quarter of them at a time."""
        timelines = list(self._timelines.values())
        for timeline in timelines:
            names = {point.name for point in timeline.points}
            timeline.bytes = await asyncio.to_thread(self._store.twins_cost, names)
        while sum(timeline.bytes for timeline in timelines) > self._budget:
            largest = max(timelines, key=lambda timeline: timeline.bytes)
            names_now = [point.name for point in largest.points]
            if not await self._drop(largest, names_now[: max(1, len(names_now) // 4)]):
                return
            left = {point.name for point in largest.points}
            largest.bytes = await asyncio.to_thread(self._store.twins_cost, left)

    async def _drop(self, timeline: Timeline, names: Collection[str]) -> int:
        """Let points go, but for those that are needed; how many have gone."""
        needed = timeline.points.needed()
        with suppress(CheckpointRestoreError):
            gone = await asyncio.to_thread(
                self._remove, [name for name in names if name not in needed]
            )
            for name in gone:
                if name in timeline.points and name not in timeline.points.needed():
                    timeline.points.remove(name)
            if gone:
                self._kept_documents.forget_but(
                    {id_ for t in self._timelines.values() for id_ in t.points.documents()}
                )
                self._changed(timeline.kernel_id)
            return len(gone)
        return 0


def _require_object(content: bytes) -> None:
    try:
        msgspec.json.decode(unpacked(content), type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(
            f"That is no notebook: {error}.",
            "The body is a notebook as JSON, or that compressed by gzip.",
        ) from error


def _read_choices() -> dict[str, bool]:
    with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        content = (store_root() / _CHOICES).read_bytes()
        return msgspec.json.decode(content, type=dict[str, bool])
    return {}


def _write_choice(path: str, is_on: bool) -> None:
    choices = _read_choices()
    choices.pop(path, None)
    choices[path] = is_on
    # The oldest are forgotten.
    latest = dict(list(choices.items())[-1000:])
    prepare_root(store_root())
    write_whole(store_root() / _CHOICES, msgspec.json.encode(latest), durable=False)
