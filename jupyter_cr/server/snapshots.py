"""The snapshots that there are, whoever has taken them: to be looked at, named, kept,
handed on and removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

import msgspec

from jupyter_cr import operations
from jupyter_cr.bundles import ImportResult
from jupyter_cr.errors import NoSuchSnapshot
from jupyter_cr.kernels.engine_process import EngineProcess, Progress
from jupyter_cr.server.answers import Page, Query, TwinsAnswer
from jupyter_cr.server.carriage import Upload, iter_bundle
from jupyter_cr.server.events import Emit
from jupyter_cr.server.listing import find_page, find_summary
from jupyter_cr.server.saving import Saving
from jupyter_cr.store import Snapshot, Store

__all__ = ["SnapshotWatch", "Snapshots"]


class SnapshotWatch(Protocol):
    """Is told what becomes of snapshots."""

    def renamed(self, name: str, new_name: str) -> None:
        """A snapshot has another name."""

    def removed(self, name: str) -> None:
        """A snapshot is gone."""


class Snapshots:
    """Those of one server's store.

    Args:
        saving: which are being written to disk.
        emit: tells what has happened.
    """

    def __init__(self, saving: Saving, emit: Emit) -> None:
        self._saving = saving
        self._emit = emit
        self._store = Store()
        self.watches: list[SnapshotWatch] = []

    async def find(self, query: Query) -> Page:
        """Those that are wanted, newest first; all of them if the limit is 0.

        Raises:
            StorageError: the store is not readable.
        """
        return await asyncio.to_thread(find_page, self._store, query)

    async def details(self, name: str) -> operations.SnapshotDetails:
        """All that is known of one snapshot.

        Raises:
            ImageError: there is none, or it is damaged.
        """
        return await asyncio.to_thread(operations.show_snapshot, name)

    async def summary(self, name: str) -> Snapshot:
        """One line of the list, as that has it without points.

        Raises:
            NoSuchSnapshot: there is none.
        """
        return await asyncio.to_thread(find_summary, self._store, name)

    async def update(
        self,
        name: str,
        *,
        new_name: str | None = None,
        note: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> Snapshot:
        """Give a snapshot another name, or note, or tags in place of those that it has.

        Raises:
            NoSuchSnapshot, NameTaken, UsageError, StorageError: as the store does.
        """
        former_name = ""
        # First what may be refused.
        if tags is not None:
            has = (await asyncio.to_thread(self._store.summary, name)).tags
            await asyncio.to_thread(
                operations.tag_snapshot, name, tags, sorted({*has} - {*tags})
            )
        if new_name is not None and new_name != name:
            await asyncio.to_thread(operations.rename_snapshot, name, new_name)
            self._saving.rename(name, new_name)
            for watch in self.watches:
                watch.renamed(name, new_name)
            former_name, name = name, new_name
        if note is not None:
            await asyncio.to_thread(operations.annotate_snapshot, name, note)
        self._emit("updated", snapshot=name, former_name=former_name)
        return await asyncio.to_thread(self._store.summary, name)

    async def keep(
        self,
        kernel_id: str,
        name: str,
        new_name: str,
        note: str = "",
        *,
        document: bytes = b"",
    ) -> Snapshot:
        """Write a snapshot that is in memory only to disk, under another name; it stays
        what it is.

        Args:
            document: the notebook that belongs to it, JSON; empty if there is none.

        Raises:
            As `jupyter_cr.operations.keep_snapshot`.
        """
        async with EngineProcess() as engine:
            request = {
                "op": "keep",
                "name": name,
                "new_name": new_name,
                "document": msgspec.Raw(document or b"null"),
            }
            await engine.run(request, Snapshot)
        if note:
            await asyncio.to_thread(operations.annotate_snapshot, new_name, note)
        kept = await asyncio.to_thread(self._store.summary, new_name)
        for action in ("created", "durable"):
            self._emit(action, snapshot=new_name, kernel_id=kernel_id, state=kept.state)
        return kept

    async def trust(self, name: str) -> Snapshot:
        """Say that a snapshot from elsewhere may be restored, which is to run its code.

        Raises:
            NoSuchSnapshot, StorageError: as the store does.
        """
        snapshot = await asyncio.to_thread(operations.trust_snapshot, name)
        self._emit("updated", snapshot=name)
        return snapshot

    def bundle(self, name: str) -> AsyncGenerator[bytes, None]:
        """A snapshot in one file, as `jupyter_cr.server.carriage.iter_bundle`."""
        return iter_bundle(name)

    async def take_in(self, upload: Upload, progress: Progress) -> ImportResult:
        """Take a snapshot out of a bundle.

        Raises:
            CheckpointRestoreError: as `jupyter_cr.bundles.import_snapshot`.
        """
        result = await upload.take(progress)
        self.tell_of(result.name)
        return result

    async def saved(self, name: str) -> None:
        """Wait until a snapshot is not being written to disk."""
        await self._saving.wait_for(name)

    def tell_of(self, name: str) -> None:
        """A snapshot is there, which this server has not taken."""
        for action in ("created", "durable"):
            self._emit(action, snapshot=name, state="durable")

    async def delete(self, names: Sequence[str]) -> None:
        """Remove snapshots, all or none; what is being written to disk, when it is there.

        Raises:
            NoSuchSnapshot, StorageError: as the store does.
        """
        for name in names:
            await self._saving.wait_for(name)
        await asyncio.to_thread(operations.remove_snapshots, names)
        for name in names:
            self._emit("deleted", snapshot=name)
            for watch in self.watches:
                watch.removed(name)

    async def twins(self) -> TwinsAnswer:
        """What is kept in memory, and what that costs.

        Raises:
            StorageError: the store is not readable.
        """
        page = await self.find(Query(state="warm", limit=0))
        cost = await asyncio.to_thread(self._store.twins_cost)
        names = tuple(snapshot.name for snapshot in page.snapshots)
        return TwinsAnswer(snapshots=names, bytes=cost)

    async def document(self, name: str) -> bytes:
        """The notebook that was saved with a snapshot, as JSON.

        Raises:
            NoSuchSnapshot: there is no snapshot, or no notebook with it.
        """
        content = await self.read_document(name)
        if not content:
            raise NoSuchSnapshot(
                f"There is no notebook in snapshot {name}.",
                "It was taken of a kernel without one.",
            )
        return content

    async def read_document(self, name: str) -> bytes:
        """The same; empty if there is none with it."""
        return await asyncio.to_thread(operations.read_document, name)
