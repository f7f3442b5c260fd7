"""Trees that are ended with their snapshot: they do nothing that is not in it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from jupyter_cr.errors import EngineError, StorageError
from jupyter_cr.kernels.engine_process import EngineProcess
from jupyter_cr.operations import CheckpointResult
from jupyter_cr.store import Store
from tests.conftest import User
from tests.engine.harness import SERVE, program, wait_until
from tests.engine.kernels import CommandLine, is_alive, running

TICKS = """
import itertools, os, pathlib, signal, sys, threading, time
class Ticking(threading.Thread):
    def run(self):
        with open(f"ticks-{self.name}", "a") as file:
            for number in itertools.count():
                file.write(f"{number}\\n")
                file.flush()
                time.sleep(0.001)
if child := os.fork():
    # Would tell, if it saw the child end.
    signal.signal(signal.SIGCHLD, lambda *_: pathlib.Path("seen").touch())
who = "parent" if child else "child"
threads = [Ticking(name=f"{who}-{number}") for number in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
FILES = [f"ticks-{who}-{number}" for who in ("parent", "child") for number in range(3)]


def ticks(home: Path) -> dict[str, list[int]]:
    paths = [home / name for name in FILES if (home / name).exists()]
    return {path.name: [int(x) for x in path.read_text().split()] for path in paths}


def all_have(home: Path, count: int) -> bool:
    found = ticks(home)
    return len(found) == len(FILES) and all(len(n) > count for n in found.values())


@contextmanager
def ended_at_last(pid: int) -> Iterator[None]:
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    try:
        yield
    finally:
        for process in family:
            # With its root, a tree that was rebuilt ends.
            with suppress(psutil.NoSuchProcess):
                process.kill()


def test_nothing_is_done_twice(user: User) -> None:
    cr = CommandLine(user)
    with running(user, user.python, "-c", TICKS) as process:
        wait_until(lambda: all_have(user.home, 20))
        children = psutil.Process(process.pid).children(recursive=True)
        name = cr("hibernate", str(process.pid))["name"]
        assert process.wait(5) == -signal.SIGKILL
        assert not any(is_alive(child.pid) for child in children)
    before = ticks(user.home)
    assert all(numbers == list(range(len(numbers))) for numbers in before.values())
    assert not (user.home / "seen").exists()
    with ended_at_last(cr("restore", name)["pid"]):
        wait_until(lambda: all_have(user.home, max(map(len, before.values())) + 20))
    after = ticks(user.home)
    assert all(numbers == list(range(len(numbers))) for numbers in after.values())
    assert not (user.home / "seen").exists()
    assert cr("list") == []


BIG = SERVE + "held = bytearray(os.urandom(1 << 20)) * 300\nserve(globals())"


def checkpoint_and_end(pid: int) -> dict[str, object]:
    return {"op": "checkpoint", "target": str(pid), "name": "one", "end": True}


def test_the_engine_is_killed_while_it_saves(tmp_path: Path) -> None:
    async def main(pid: int) -> None:
        async with EngineProcess() as engine:

            def report(phase: str, fraction: float) -> None:
                if phase == "save":
                    engine.process.kill()

            with pytest.raises(EngineError):
                await engine.run(checkpoint_and_end(pid), CheckpointResult, report)

    with program("import os\n" + BIG) as victim:
        asyncio.run(asyncio.wait_for(main(victim.pid), 20))
        assert victim.ask("len(held)") == str(300 << 20)
    assert Store().list() == []
    assert list((tmp_path / "store" / "snapshots").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk")
def test_there_is_no_room(tmp_path: Path) -> None:
    """The program goes on, and whoever asked is told."""
    store = tmp_path / "store"
    store.mkdir()

    async def main(pid: int) -> None:
        async with EngineProcess() as engine:
            with pytest.raises(StorageError):
                await engine.run(checkpoint_and_end(pid), CheckpointResult)

    with program("import os\n" + BIG) as victim:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(store)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mount is not permitted here")
        try:
            asyncio.run(asyncio.wait_for(main(victim.pid), 20))
            assert victim.ask("len(held)") == str(300 << 20)
            with Store() as opened:
                assert opened.names() == []
            assert list((store / "snapshots").iterdir()) == []
        finally:
            subprocess.run(["umount", str(store)], check=True)
