"""Snapshots that are still being written to disk, although whoever wanted them has been
answered: they are live."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["Saving"]


class Saving:
    """What is being written, of all kernels."""

    def __init__(self) -> None:
        self._jobs: dict[asyncio.Task[Any], tuple[str, str]] = {}

    def begin(self, kernel_id: str, name: str, job: Coroutine[Any, Any, Any]) -> None:
        """Have `job` be done, which writes a snapshot and tells what came of it."""
        task = asyncio.ensure_future(job)
        self._jobs[task] = (kernel_id, name)
        task.add_done_callback(lambda task: self._jobs.pop(task, None))

    def rename(self, name: str, new_name: str) -> None:
        """A snapshot, perhaps one of these, has another name."""
        for job, (kernel_id, present) in self._jobs.items():
            if present == name:
                self._jobs[job] = (kernel_id, new_name)

    def name(self) -> str:
        """What the snapshot of the job is called now that asks for it."""
        task = asyncio.current_task()
        assert task is not None
        return self._jobs[task][1]

    async def wait_for(self, word: str) -> None:
        """Until nothing of a kernel, or no snapshot of that name, is being written."""
        jobs = [job for job, words in self._jobs.items() if word in words]
        if jobs:
            await asyncio.wait(jobs)

    async def stop(self, limit_s: float = 60.0) -> None:
        """The server stops: wait until all is written, or call it off after `limit_s`."""
        jobs = list(self._jobs)
        if jobs:
            _, late = await asyncio.wait(jobs, timeout=limit_s)
            for job in late:
                job.cancel()
            if late:
                await asyncio.wait(late, timeout=10.0)
