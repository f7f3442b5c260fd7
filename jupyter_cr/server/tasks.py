"""Operations that take longer than a request may: begun by one, followed by others."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from jupyter_cr.errors import Cancelled, CheckpointRestoreError, NoSuchTask
from jupyter_cr.operations import Progress
from jupyter_cr.server.problems import Problem, problem_of

__all__ = ["Task", "TaskProgress", "TaskState", "Tasks", "Work", "current_task"]

Work = Callable[[Progress], Coroutine[Any, Any, object]]
"""The operation: is called with what it reports its progress to, in the event loop."""

TaskState = Literal["running", "done", "failed", "cancelled"]

_CURRENT: contextvars.ContextVar[str] = contextvars.ContextVar(
    "jupyter_cr_task", default=""
)


class TaskProgress(msgspec.Struct, frozen=True):
    """How far it is."""

    phase: str = ""
    fraction: float = 0.0
    """Of the phase, from 0 to 1."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """An operation, as it is now."""

    id: str
    operation: str
    kernel_id: str | None = None
    snapshot: str | None = None
    """As asked for; the result may name another."""
    state: TaskState = "running"
    progress: TaskProgress = TaskProgress()
    result: Any = None
    """What the operation returned, once it is done."""
    error: Problem | None = None
    """Why it failed, or that it was cancelled."""


@dataclass
class _Entry:
    task: Task
    job: asyncio.Task[object]
    cancelling: bool = False
    ended: float = 0.0

    def report(self, phase: str, fraction: float) -> None:
        self.change(progress=TaskProgress(phase, fraction))

    def change(self, **fields: object) -> None:
        self.task = msgspec.structs.replace(self.task, **fields)

    def cancel(self) -> None:
        # Once: a second one would hit the operation in the middle of its clearing up.
        if not self.cancelling:
            self.cancelling = self.job.cancel()


def current_task() -> str:
    """The id of the task that the caller runs in; empty if in none."""
    return _CURRENT.get()


class Tasks:
    """All tasks of a server: those that run, and those that have ended lately.

    Args:
        emit: is told, by an event, which have failed.
        keep: how many ended ones are remembered.
        keep_s: for how many seconds.
        log: gets the tracebacks of what should not have happened.
    """

    def __init__(
        self,
        emit: Callable[..., None] | None = None,
        *,
        keep: int = 100,
        keep_s: float = 600.0,
        log: logging.Logger | None = None,
    ) -> None:
        self._emit = emit
        self._keep = keep
        self._keep_s = keep_s
        self._log = log or logging.getLogger(__name__)
        self._entries: dict[str, _Entry] = {}

    def start(
        self,
        operation: str,
        work: Work,
        *,
        kernel_id: str | None = None,
        snapshot: str | None = None,
    ) -> Task:
        """Begin an operation. It goes on whether or not anybody asks for it."""
        task = Task(
            id=uuid.uuid4().hex, operation=operation, kernel_id=kernel_id, snapshot=snapshot
        )
        # The context that the job copies is its own, so that all it calls see its id.
        entry = contextvars.copy_context().run(self._begin, task, work)
        self._entries[task.id] = entry
        return task

    def _begin(self, task: Task, work: Work) -> _Entry:
        _CURRENT.set(task.id)

        def report(phase: str, fraction: float) -> None:
            entry.report(phase, fraction)

        entry = _Entry(task, asyncio.ensure_future(work(report)))
        entry.job.add_done_callback(lambda job: self._settle(entry))
        return entry

    def _settle(self, entry: _Entry) -> None:
        entry.ended = time.monotonic()
        job = entry.job
        error = _called_off() if job.cancelled() else job.exception()
        if error is None:
            entry.change(state="done", result=job.result())
            return
        if not isinstance(error, CheckpointRestoreError):
            self._log.error("%s failed", entry.task.operation, exc_info=error)
        state = "cancelled" if isinstance(error, Cancelled) else "failed"
        problem = problem_of(error)
        entry.change(state=state, error=problem)
        if self._emit is not None:
            self._emit(
                "failed",
                operation=entry.task.operation,
                kernel_id=entry.task.kernel_id,
                snapshot=entry.task.snapshot,
                message=problem.detail,
                hint=problem.hint,
            )

    def list(self) -> list[Task]:
        """All that are known, oldest first."""
        self._forget_old()
        return [entry.task for entry in self._entries.values()]

    def get(self, task_id: str) -> Task:
        """A task as it is now.

        Raises:
            NoSuchTask: there is none, or none any more.
        """
        return self._entry(task_id).task

    async def wait(self, task_id: str, limit_s: float | None = None) -> Task:
        """A task as it is when it has ended, or after `limit_s`.

        Raises:
            NoSuchTask: there is none, or none any more.
        """
        entry = self._entry(task_id)
        await asyncio.wait({entry.job}, timeout=limit_s)
        return entry.task

    async def cancel(self, task_id: str, limit_s: float = 10.0) -> Task:
        """Call a task off and wait for its end, `limit_s` at most; it may end well, if it
        was too late for that. One that has ended before is forgotten.

        Raises:
            NoSuchTask: there is none, or none any more.
        """
        entry = self._entry(task_id)
        if entry.job.done():
            del self._entries[task_id]
            return entry.task
        self.call_off(task_id)
        return await self.wait(task_id, limit_s)

    def call_off(self, task_id: str) -> None:
        """As `cancel`, without waiting.

        Raises:
            NoSuchTask: there is none, or none any more.
        """
        self._entry(task_id).cancel()

    async def stop(self, limit_s: float = 30.0) -> None:
        """Call all off, since the server stops, and wait for their end, `limit_s` at
        most."""
        running = [entry for entry in self._entries.values() if not entry.job.done()]
        for entry in running:
            entry.cancel()
        if running:
            await asyncio.wait({entry.job for entry in running}, timeout=limit_s)

    def _entry(self, task_id: str) -> _Entry:
        self._forget_old()
        try:
            return self._entries[task_id]
        except KeyError:
            raise NoSuchTask(
                f"There is no task {task_id}.",
                f"It may have ended more than {self._keep_s / 60:.0f} minutes ago, or "
                "before this server was started.",
            ) from None

    def _forget_old(self) -> None:
        ended = [entry for entry in self._entries.values() if entry.job.done()]
        ended.sort(key=lambda entry: entry.ended, reverse=True)
        oldest = time.monotonic() - self._keep_s
        for place, entry in enumerate(ended):
            # What ended in this turn of the event loop is not settled yet.
            if entry.ended and (place >= self._keep or entry.ended < oldest):
                del self._entries[entry.task.id]


def _called_off() -> Cancelled:
    return Cancelled("The operation was called off.", "Nothing has been changed.")
