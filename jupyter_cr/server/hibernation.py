"""Kernels that are saved and ended instead of killed, and resumed when their notebooks are
opened.

The server's managers are asked by wrapping some of their methods, of the objects that there
are, so that it does not matter of which classes the user wants them to be.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import re
from contextvars import ContextVar
from typing import Any

from jupyter_core.utils import ensure_async

from jupyter_cr.errors import CheckpointRestoreError, RestoreError
from jupyter_cr.image import Header
from jupyter_cr.server.memory import available_memory
from jupyter_cr.server.service import SnapshotService
from jupyter_cr.server.tasks import Task, Tasks

__all__ = ["Hibernation"]

_INTERVAL_S = 10.0
"""Between looks at the memory."""
_AT_ONCE = 2
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CULLED: ContextVar[str] = ContextVar("_CULLED", default="")
"""Id of the kernel that is being culled."""


class Hibernation:
    """Of one server's kernels.

    Args:
        service: what does it.
        tasks: where it is listed while it is done.
        kernels, sessions: the server's managers.
        culled: have kernels hibernate that are culled.
        below: have the one hibernate that has been idle for longest, while fewer bytes of
            memory than that are available; 0 for never.
    """

    def __init__(
        self,
        service: SnapshotService,
        tasks: Tasks,
        kernels: Any,
        sessions: Any,
        log: logging.Logger,
        *,
        culled: bool,
        below: int,
    ) -> None:
        self._service = service
        self._tasks = tasks
        self._kernels = kernels
        self._log = log
        self._below = below
        self._watch: asyncio.Task[None] | None = None
        self._refused: dict[str, Any] = {}
        """Kernels that could not be saved -> when they had been active last."""
        self._resume_when_opened(sessions)
        if culled:
            self._save_culled()

    def start(self) -> None:
        """Begin to watch the memory, if that is wanted. Needs a running event loop."""
        if self._below:
            self._watch = asyncio.ensure_future(self._watch_memory())

    async def stop(self, *, save: bool) -> None:
        """The server stops.

        Args:
            save: have all kernels hibernate that can; the others end as ever.
        """
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        if not save:
            return
        some = asyncio.Semaphore(_AT_ONCE)

        async def hibernate(kernel_id: str) -> None:
            async with some:
                await self._hibernate(kernel_id)

        await asyncio.gather(*map(hibernate, list(self._kernels.list_kernel_ids())))

    async def _hibernate(self, kernel_id: str) -> bool:
        """Whether the kernel has been saved and ended."""
        task = self._tasks.start(
            "hibernate",
            lambda progress: self._service.hibernate(kernel_id, progress=progress),
            kernel_id=kernel_id,
        )
        return await self._has_succeeded(task, f"Kernel {kernel_id} cannot hibernate")

    async def _has_succeeded(self, task: Task, failure: str) -> bool:
        error = (await self._tasks.wait(task.id)).error
        if error is not None:
            self._log.warning("%s: %s %s", failure, error.detail, error.hint)
        return error is None

    def _resume_when_opened(self, sessions: Any) -> None:
        create = sessions.create_session
        start = sessions.start_kernel_for_session
        of_create, of_start = inspect.signature(create), inspect.signature(start)

        @functools.wraps(create)
        async def create_session(*args: Any, **kwargs: Any) -> Any:
            kernel_id = of_create.bind(*args, **kwargs).arguments.get("kernel_id")
            if kernel_id and kernel_id not in self._kernels:
                await self._resume_kernel(kernel_id)
            return await create(*args, **kwargs)

        @functools.wraps(start)
        async def start_kernel_for_session(*args: Any, **kwargs: Any) -> str:
            wanted = of_start.bind(*args, **kwargs).arguments
            path = _document_path(wanted.get("path") or "", wanted.get("name") or "")
            kernel_id = wanted.get("kernel_id")
            resumed = await self._resume_for(path, wanted.get("kernel_name"))
            if resumed is not None and kernel_id in (None, resumed):
                return resumed
            return str(await start(*args, **kwargs))

        sessions.create_session = create_session
        sessions.start_kernel_for_session = start_kernel_for_session

    async def _resume_kernel(self, kernel_id: str) -> None:
        """Resume a kernel that is asked for by its id, if it hibernates.

        Raises:
            RestoreError: it cannot be resumed. Whoever names it wants no other.
        """
        header = await self._service.hibernated_kernel(kernel_id)
        if header is None:
            return
        error = (await self._tasks.wait(self._begin(header).id)).error
        if error is not None:
            raise RestoreError(error.detail, error.hint)

    async def _resume_for(self, path: str, kernel_name: str | None) -> str | None:
        """Id of the kernel that goes on for a notebook; None if one is to be started."""
        if not path:
            return None
        try:
            header = await self._service.hibernated(path, kernel_name)
        except CheckpointRestoreError as error:
            self._log.warning("Whether a kernel hibernates for %s: %s", path, error)
            return None
        if header is None:
            return None
        failure = f"The kernel of {path} cannot be resumed, and is started afresh"
        has_succeeded = await self._has_succeeded(self._begin(header), failure)
        return header.kernel.kernel_id if has_succeeded else None

    def _begin(self, header: Header) -> Task:
        return self._tasks.start(
            "resume",
            lambda progress: self._service.resume(header, progress=progress),
            kernel_id=header.kernel.kernel_id,
            snapshot=header.name,
        )

    def _save_culled(self) -> None:
        cull = self._kernels.cull_kernel_if_idle
        shut_down = self._kernels.shutdown_kernel

        @functools.wraps(cull)
        async def cull_kernel_if_idle(kernel_id: str) -> None:
            token = _CULLED.set(kernel_id)
            try:
                await ensure_async(cull(kernel_id))
            finally:
                _CULLED.reset(token)

        @functools.wraps(shut_down)
        async def shutdown_kernel(kernel_id: str, *args: Any, **kwargs: Any) -> None:
            is_culled = _CULLED.get() == kernel_id
            _CULLED.set("")
            if not is_culled or not await self._hibernate(kernel_id):
                await ensure_async(shut_down(kernel_id, *args, **kwargs))

        self._kernels.cull_kernel_if_idle = cull_kernel_if_idle
        self._kernels.shutdown_kernel = shutdown_kernel

    async def _watch_memory(self) -> None:
        while True:
            if await asyncio.to_thread(available_memory) < self._below:
                await self._make_room()
            await asyncio.sleep(_INTERVAL_S)

    async def _make_room(self) -> None:
        """Have a kernel hibernate that nobody looks at, and that computes nothing."""
        idle = [
            model
            for kernel_id in self._kernels.list_kernel_ids()
            if (model := self._kernels.kernel_model(kernel_id))["execution_state"] == "idle"
            and not model["connections"]
            and self._refused.get(kernel_id) != model["last_activity"]
        ]
        if not idle:
            return
        model = min(idle, key=lambda model: model["last_activity"])
        if not await self._hibernate(model["id"]):
            self._refused[model["id"]] = model["last_activity"]


def _document_path(path: str, name: str) -> str:
    """Of the document that a session is for. JupyterLab makes up another one beside it, and
    gives the session the real one later (`SessionContext._changeKernel`)."""
    directory, separator, base = path.rpartition("/")
    return f"{directory}{separator}{name}" if name and _UUID.fullmatch(base) else path
