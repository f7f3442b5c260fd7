"""Lessons, as a server has them: its users start from them in notebooks of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec

from jupyter_cr import lessons
from jupyter_cr.errors import CheckpointRestoreError, ImageError, RestoreError
from jupyter_cr.kernels.engine_process import EngineProcess, Progress
from jupyter_cr.server.answers import ForkAnswer
from jupyter_cr.server.documents import Documents
from jupyter_cr.server.housekeeping import Housekeeping
from jupyter_cr.server.service import SnapshotService

__all__ = [
    "KernelLesson",
    "Lessons",
    "LessonsAnswer",
    "PublishRequest",
    "StartRequest",
]


class PublishRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Have others start from a snapshot."""

    snapshot: str
    title: str = ""
    """Empty: the snapshot's name."""
    note: str | None = None
    """None: the snapshot's."""
    publisher: str = ""
    """What the user wants to be called; empty: as the system calls them."""


class StartRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start the lesson that the address names."""

    directory: str = ""
    """In the server's files: where its notebook is to be."""
    path: str = ""
    """Of a notebook that there is already, as one of an assignment, and that is to have the
    kernel; empty for a copy of the lesson's."""
    trust: str = ""
    """Public key of the publisher, if the user has said just now that theirs may be
    started."""


class LessonsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to start from."""

    where: str
    """URL or directory; empty if the administrator has named none."""
    lessons: tuple[lessons.LessonInfo, ...]


class KernelLesson(msgspec.Struct, frozen=True, kw_only=True):
    """Where a kernel comes from."""

    kernel_id: str
    snapshot: str
    """The one of its lesson, to go back to; empty if it was started from none."""


class Lessons:
    """Of one server.

    Args:
        service: starts kernels.
        documents: notebooks.
        housekeeping: sees that what is in memory ends with the server.
        place: where they are.
    """

    def __init__(
        self,
        service: SnapshotService,
        documents: Documents,
        housekeeping: Housekeeping,
        place: lessons.Place,
    ) -> None:
        self._service = service
        self._documents = documents
        self._housekeeping = housekeeping
        self._place = place
        self._starting = asyncio.Lock()
        self._naming = asyncio.Lock()
        self._promised: set[str] = set()
        """Paths of notebooks that are about to be written."""

    async def list(self) -> LessonsAnswer:
        """All there are; none where no place is set.

        Raises:
            StorageError: it cannot be read.
        """
        found: tuple[lessons.LessonInfo, ...] = ()
        if self._place.where:
            found = await asyncio.to_thread(lessons.list_lessons, self._place)
        return LessonsAnswer(where=self._place.where, lessons=found)

    async def examine(self, title: str) -> lessons.LessonDetails:
        """As `jupyter_cr.lessons.examine_lesson`."""
        return await asyncio.to_thread(lessons.examine_lesson, title, self._place)

    async def publish(
        self, request: PublishRequest, progress: Progress | None = None
    ) -> lessons.PublishResult:
        """As `jupyter_cr.lessons.publish_lesson`."""
        await self._service.snapshots.saved(request.snapshot)
        async with EngineProcess() as engine:
            return await engine.run(
                {
                    "op": "publish-lesson",
                    "name": request.snapshot,
                    "place": self._place,
                    "title": request.title,
                    "note": request.note,
                    "publisher": request.publisher,
                },
                lessons.PublishResult,
                progress,
            )

    async def withdraw(self, title: str) -> None:
        """As `jupyter_cr.lessons.withdraw_lesson`."""
        await asyncio.to_thread(lessons.withdraw_lesson, title, self._place)

    async def start(
        self, title: str, request: StartRequest, progress: Progress | None = None
    ) -> ForkAnswer:
        """Start a kernel from a lesson, with a notebook of its own. All of a server's share
        the memory of the lesson.

        Raises:
            CheckpointRestoreError: as `jupyter_cr.lessons.obtain_lesson`, and as
                `jupyter_cr.server.service.SnapshotService.fork`.
        """
        # The second one finds what the first has fetched.
        async with self._starting:
            found = await asyncio.to_thread(lessons.find_ready_lesson, title, self._place)
            if found is None:
                found = await self._obtain(title, request.trust, progress)
        if request.path:
            await self._documents.require_free(request.path)
            answer = await self._fork(found, request.path, progress, document=False)
        else:
            name = f"{title}.ipynb"
            async with self._new_path(request.directory, name) as path:
                answer = await self._fork(found, path, progress)
        await asyncio.to_thread(lessons.note_start, title, self._place)
        return msgspec.structs.replace(answer, snapshot=found.snapshot)

    @asynccontextmanager
    async def _new_path(self, directory: str, name: str) -> AsyncIterator[str]:
        """That nobody else gets who starts one meanwhile."""
        async with self._naming:
            path = await self._documents.next_path(directory, name, self._promised)
            self._promised.add(path)
        try:
            yield path
        finally:
            self._promised.discard(path)

    async def _obtain(
        self, title: str, trust: str, progress: Progress | None
    ) -> lessons.ObtainedLesson:
        async with EngineProcess() as engine:
            found = await engine.run(
                {
                    "op": "obtain-lesson",
                    "title": title,
                    "place": self._place,
                    "trust": trust,
                },
                lessons.ObtainedLesson,
                progress,
            )
        self._service.snapshots.tell_of(found.snapshot)
        warm = await self._warm(found.snapshot)
        return msgspec.structs.replace(found, warm=warm or "")

    async def _warm(self, name: str) -> str | None:
        """The snapshot in memory that is the same; None if there can be none, as where the
        lesson begins in the middle of a cell."""
        try:
            async with EngineProcess() as engine:
                warm = await engine.run({"op": "warm-lesson", "name": name}, str)
        except CheckpointRestoreError:
            return None
        await self._housekeeping.after(warm, has_twins=True)
        return warm

    async def _fork(
        self,
        found: lessons.ObtainedLesson,
        path: str,
        progress: Progress | None,
        *,
        document: bool = True,
    ) -> ForkAnswer:
        fork = partial(self._service.fork, path=path, document=document, progress=progress)
        if found.warm:
            # It may go at any time, as when memory gets short.
            with suppress(ImageError, RestoreError):
                return await fork(found.warm)
        return await fork(found.snapshot)

    async def settle(
        self, snapshot: str, connection_file: str, path: str
    ) -> tuple[str, ...]:
        """A kernel was forked from a snapshot, or reset to it: if that is the beginning of
        a lesson, it is to be its user's. What went wrong."""
        if not await asyncio.to_thread(lessons.is_beginning, snapshot):
            return ()
        directory = Path(self._documents.session_name(path)).parent
        return await asyncio.to_thread(lessons.settle_in, Path(connection_file), directory)

    async def of_kernel(self, kernel_id: str) -> KernelLesson:
        """The lesson that a kernel was started from.

        Raises:
            StorageError: the store is not readable.
        """
        name = await asyncio.to_thread(lessons.lesson_of, kernel_id)
        return KernelLesson(kernel_id=kernel_id, snapshot=name)
