from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jupyter_cr.errors import Cancelled, NoSuchTask, StorageError
from jupyter_cr.operations import Progress
from jupyter_cr.server.tasks import Task, TaskProgress, Tasks, current_task


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def at_once(progress: Progress) -> str:
    return "result"


async def forever(progress: Progress) -> None:
    await asyncio.Event().wait()


async def disk_is_full(progress: Progress) -> None:
    raise StorageError("The disk is full.", "Make room.")


def test_one_that_ends_well() -> None:
    async def test() -> None:
        tasks = Tasks()
        begun = tasks.start("fork", at_once, kernel_id="k", snapshot="s")
        assert begun.state == "running"
        assert tasks.get(begun.id) == begun
        ended = await tasks.wait(begun.id)
        assert ended == Task(
            id=begun.id,
            operation="fork",
            kernel_id="k",
            snapshot="s",
            state="done",
            result="result",
        )
        assert tasks.get(begun.id) == ended

    run(test)


def test_progress_is_seen_while_it_runs() -> None:
    async def test() -> None:
        reported, go_on = asyncio.Event(), asyncio.Event()

        async def work(progress: Progress) -> None:
            progress("save", 0.25)
            reported.set()
            await go_on.wait()
            progress("save", 1.0)

        tasks = Tasks()
        task = tasks.start("checkpoint", work)
        await reported.wait()
        assert tasks.get(task.id).progress == TaskProgress("save", 0.25)
        assert (await tasks.wait(task.id, limit_s=0.01)).state == "running"
        go_on.set()
        assert (await tasks.wait(task.id)).progress == TaskProgress("save", 1.0)

    run(test)


def test_one_that_fails() -> None:
    async def test() -> None:
        told: list[tuple[str, dict[str, Any]]] = []
        tasks = Tasks(lambda action, **data: told.append((action, data)))
        task = await tasks.wait(tasks.start("fork", disk_is_full, snapshot="s").id)
        assert (task.state, task.result) == ("failed", None)
        assert task.error is not None
        assert task.error.status == 507
        assert told == [
            (
                "failed",
                {
                    "operation": "fork",
                    "kernel_id": None,
                    "snapshot": "s",
                    "message": "The disk is full.",
                    "hint": "Make room.",
                },
            )
        ]

    run(test)


def test_a_bug_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def bug(progress: Progress) -> None:
        raise KeyError("a bug")

    async def test() -> None:
        tasks = Tasks(log=logging.getLogger("server"))
        task = await tasks.wait(tasks.start("fork", bug).id)
        assert task.error is not None
        assert task.error.error == "EngineError"

    run(test)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_one_that_is_called_off() -> None:
    async def test() -> None:
        tasks = Tasks()
        begun = tasks.start("restore", forever)
        task = await tasks.cancel(begun.id)
        assert task.state == "cancelled"
        assert task.error is not None
        assert task.error.error == "Cancelled"
        assert tasks.get(begun.id) == task

    run(test)


def test_it_may_be_too_late_to_call_off() -> None:
    async def test() -> None:
        async def work(progress: Progress) -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "restored"
            return ""

        tasks = Tasks()
        task = tasks.start("restore", work)
        await asyncio.sleep(0)
        task = await tasks.cancel(task.id)
        assert (task.state, task.result) == ("done", "restored")

    run(test)


def test_what_calls_itself_off_is_cancelled() -> None:
    async def test() -> None:
        async def work(progress: Progress) -> None:
            raise Cancelled("Called off.")

        tasks = Tasks()
        task = await tasks.wait(tasks.start("restore", work).id)
        assert task.state == "cancelled"

    run(test)


def test_clearing_up_is_not_disturbed() -> None:
    async def test() -> None:
        cleared = asyncio.Event()

        async def work(progress: Progress) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await cleared.wait()

        tasks = Tasks()
        task = tasks.start("checkpoint", work)
        await asyncio.sleep(0)
        for _ in range(3):
            assert (await tasks.cancel(task.id, limit_s=0.01)).state == "running"
        cleared.set()
        assert (await tasks.wait(task.id)).state == "cancelled"

    run(test)


def test_an_ended_one_is_forgotten_on_request() -> None:
    async def test() -> None:
        tasks = Tasks()
        task = await tasks.wait(tasks.start("fork", at_once).id)
        assert await tasks.cancel(task.id) == task
        with pytest.raises(NoSuchTask, match=task.id):
            tasks.get(task.id)
        assert tasks.list() == []

    run(test)


def test_ended_ones_are_kept_in_bounds() -> None:
    async def test() -> None:
        tasks = Tasks(keep=3)
        running = tasks.start("fork", forever)
        ids = [tasks.start("fork", at_once).id for _ in range(5)]
        await asyncio.sleep(0.05)
        assert [task.id for task in tasks.list()] == [running.id, *ids[2:]]
        await tasks.stop()

    run(test)


def test_ended_ones_are_kept_for_a_while() -> None:
    async def test() -> None:
        tasks = Tasks(keep_s=0.05)
        running = tasks.start("fork", forever)
        ended = tasks.start("fork", at_once)
        assert (await tasks.wait(ended.id)).state == "done"
        await asyncio.sleep(0.1)
        with pytest.raises(NoSuchTask):
            tasks.get(ended.id)
        assert [task.id for task in tasks.list()] == [running.id]
        await tasks.stop()

    run(test)


def test_none_is_left_when_the_server_stops() -> None:
    async def test() -> None:
        tasks = Tasks()
        begun = [tasks.start("fork", forever) for _ in range(3)]
        await tasks.stop()
        assert {tasks.get(task.id).state for task in begun} == {"cancelled"}

    run(test)


def test_what_a_task_calls_knows_it() -> None:
    async def test() -> None:
        async def work(progress: Progress) -> str:
            return await asyncio.ensure_future(deeper())

        async def deeper() -> str:
            return current_task()

        tasks = Tasks()
        one, other = tasks.start("fork", work), tasks.start("fork", work)
        assert (await tasks.wait(one.id)).result == one.id
        assert (await tasks.wait(other.id)).result == other.id
        assert current_task() == ""

    run(test)
