"""The engine's process, as a server has it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from jupyter_cr.errors import Cancelled, EngineError, NameTaken, NoSuchSnapshot
from jupyter_cr.kernels.engine_process import EngineProcess
from jupyter_cr.operations import CheckpointResult, read_document
from jupyter_cr.store import Store
from tests.engine.harness import LIMIT, SERVE, program


def checkpoint(pid: int, **more: Any) -> dict[str, Any]:
    return {"op": "checkpoint", "target": str(pid), "name": "one", **more}


def is_reaped(engine: EngineProcess) -> bool:
    return engine.process.returncode is not None


def test_one_that_was_started_ahead() -> None:
    """With a request that is far larger than a pipe's buffer."""

    async def main(pid: int) -> None:
        document = json.dumps({"text": "x" * (4 << 20)}).encode()
        phases: list[str] = []
        async with EngineProcess() as engine:
            await asyncio.sleep(0.5)
            request = checkpoint(pid, document=msgspec.Raw(document))
            result = await engine.run(
                request, CheckpointResult, lambda phase, _: phases.append(phase)
            )
        assert is_reaped(engine)
        assert result.name == "one"
        assert list(dict.fromkeys(phases)) == ["freeze", "save", "sync"]
        assert read_document("one") == document

    with program(SERVE + "serve(globals())") as running:
        asyncio.run(asyncio.wait_for(main(running.pid), LIMIT))


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.5], ids=["at once", "soon", "later"])
def test_one_that_is_not_asked(delay: float, capfd: pytest.CaptureFixture[str]) -> None:
    """It is gone, and has said nothing, whether it was ready or still starting."""

    async def main() -> None:
        async with EngineProcess() as engine:
            await asyncio.sleep(delay)
        assert is_reaped(engine)

    asyncio.run(asyncio.wait_for(main(), LIMIT))
    assert capfd.readouterr().err == ""


def test_one_that_stands_by() -> None:
    """It is asked again and again, until the end or an error."""

    async def main(pid: int) -> None:
        async with EngineProcess(is_standing=True) as engine:
            for name in ("one", "two", "three"):
                request = {**checkpoint(pid), "name": name, "memory_only": True}
                result = await engine.run(request, CheckpointResult)
                assert (result.name, result.state) == (name, "memory")
                assert engine.is_ready
            with pytest.raises(NameTaken):
                await engine.run(checkpoint(pid), CheckpointResult)
            assert not engine.is_ready
        assert is_reaped(engine)
        async with EngineProcess(is_standing=True) as engine:
            pass
        assert is_reaped(engine)

    with program(SERVE + "serve(globals())") as running:
        asyncio.run(asyncio.wait_for(main(running.pid), LIMIT))
    Store().remove(["one", "two", "three"])


def test_it_ends_with_the_server() -> None:
    """Nobody is at the other end any more."""

    async def main() -> None:
        engine = EngineProcess()
        await asyncio.sleep(0.5)
        assert engine.process.stdin is not None
        engine.process.stdin.close()
        await asyncio.to_thread(engine.process.wait, LIMIT)
        assert engine.process.stdout is not None
        engine.process.stdout.close()

    asyncio.run(main())


def test_an_operation_that_fails() -> None:
    async def main() -> None:
        async with EngineProcess() as engine:
            with pytest.raises(NoSuchSnapshot):
                await engine.run({"op": "show", "name": "none"}, dict[str, Any])
        assert is_reaped(engine)

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_one_that_is_killed() -> None:
    async def main() -> None:
        async with EngineProcess() as engine:
            engine.process.kill()
            with pytest.raises(EngineError, match="died without an answer"):
                await engine.run({"op": "list"}, list[Any])
        assert is_reaped(engine)

    asyncio.run(asyncio.wait_for(main(), LIMIT))


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.2])
def test_called_off(tmp_path: Path, delay: float) -> None:
    """What was begun has left nothing, or has come to its end; the program goes on."""

    async def main(pid: int) -> None:
        async with EngineProcess() as engine:
            running = asyncio.ensure_future(engine.run(checkpoint(pid), CheckpointResult))
            await asyncio.sleep(delay)
            running.cancel()
            try:
                assert (await running).name == "one"
            except (asyncio.CancelledError, Cancelled):
                assert Store().list() == []
                assert list((tmp_path / "store").glob("snapshots/*")) == []
        assert is_reaped(engine)

    with program(SERVE + "serve(globals())") as running:
        asyncio.run(asyncio.wait_for(main(running.pid), LIMIT))
        assert running.ask("1 + 1") == "2"
        assert not psutil.Process(running.pid).children()
