"""An engine's process that is there before it is needed, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest

from jupyter_cr.errors import NoSuchSnapshot
from jupyter_cr.kernels.spare_engine import SpareEngine
from tests.engine.harness import LIMIT

NEVER = 3600.0


def engines() -> set[int]:
    """Pids of our children that are engines."""
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE
        and child.cmdline()[-2:] == ["-m", "jupyter_cr.engine"]
    }


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def ask(spare: SpareEngine) -> int:
    """The pid of the process that has listed the snapshots."""
    async with spare.process() as engine:
        assert await engine.run({"op": "list"}, list[Any]) == []
        return engine.process.pid


def run(
    main: Callable[[SpareEngine], Awaitable[None]],
    rest_s: float = 0.0,
    keep_s: float = NEVER,
) -> None:
    async def limited() -> None:
        spare = SpareEngine(rest_s=rest_s, keep_s=keep_s)
        try:
            await asyncio.wait_for(main(spare), LIMIT)
        finally:
            await spare.stop()

    before = engines()
    asyncio.run(limited())
    assert engines() == before


def test_one_is_there_for_the_next_operation() -> None:
    async def main(spare: SpareEngine) -> None:
        assert engines() == set()
        first = await ask(spare)
        assert engines() == {first}
        assert await ask(spare) == first
        async with spare.process():
            """Not asked for anything, after all."""
        assert engines() == {first}
        await spare.stop()
        await ask(spare)
        await asyncio.sleep(0.05)
        assert engines() == set()

    run(main)


def test_two_at_once() -> None:
    async def main(spare: SpareEngine) -> None:
        pids = await asyncio.gather(*(ask(spare) for _ in range(3)))
        assert len(set(pids)) == 3
        await until(lambda: len(engines()) == 2)
        there = engines()
        again = await asyncio.gather(*(ask(spare) for _ in range(2)))
        assert set(again) == there

    run(main)


def test_the_last_one_is_for_who_needs_it_sooner() -> None:
    async def main(spare: SpareEngine) -> None:
        first = await ask(spare)
        async with spare.process(is_urgent=False) as later:
            assert later.process.pid != first
            assert await ask(spare) == first
        # It may not be the program that it is to be yet.
        await until(lambda: engines() == {first, later.process.pid})
        async with spare.process(is_urgent=False) as again:
            assert again.process.pid in {first, later.process.pid}

    run(main, rest_s=NEVER)


def test_it_is_prepared_for_what_is_to_come() -> None:
    async def main(spare: SpareEngine) -> None:
        spare.prepare()
        await until(lambda: len(engines()) == 1)
        async with spare.process() as engine:
            spare.prepare()
            assert await engine.run({"op": "list"}, list[Any]) == []
        assert engines() == {engine.process.pid}
        assert await ask(spare) == engine.process.pid

    run(main, rest_s=NEVER)


def test_it_is_not_kept_for_ever() -> None:
    async def main(spare: SpareEngine) -> None:
        await ask(spare)
        await until(lambda: len(engines()) == 1)
        await until(lambda: engines() == set())
        await ask(spare)
        await until(lambda: len(engines()) == 1)

    run(main, keep_s=0.3)


def test_one_that_was_killed_meanwhile() -> None:
    async def main(spare: SpareEngine) -> None:
        await ask(spare)
        await until(lambda: len(engines()) == 1)
        (pid,) = engines()
        process = psutil.Process(pid)
        process.kill()
        # Without a command line it is before that.
        await until(lambda: process.status() == psutil.STATUS_ZOMBIE)
        assert await ask(spare) != pid

    run(main)


def test_one_that_becomes_a_waiter() -> None:
    """It is asked for something to stay with, and for nothing else."""

    async def main(spare: SpareEngine) -> None:
        async with spare.process() as engine:
            request = {"op": "restore", "name": "none", "stay": True}
            with pytest.raises(NoSuchSnapshot):
                await engine.run(request, dict[str, Any])
        assert not engine.is_ready
        await until(lambda: len(engines()) == 1)

    run(main)


def test_after_an_operation_that_fails() -> None:
    async def main(spare: SpareEngine) -> None:
        with pytest.raises(NoSuchSnapshot):
            async with spare.process() as engine:
                await engine.run({"op": "show", "name": "none"}, dict[str, Any])
        await until(lambda: len(engines()) == 1)

    run(main)
