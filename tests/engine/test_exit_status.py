"""Whoever has brought a tree back learns how its root has ended: the command with
``--wait``, and whoever has started the engine's process with ``stay``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import User, a_user
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import CommandLine, command_line, end_tree, running

EXITS = """
import os, pathlib, signal, time
signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
signal.signal(signal.SIGTERM, lambda *_: os._exit(8))
pathlib.Path("ready").touch()
while True: time.sleep(0.01)
"""
WAYS = ["restore", "fork", "warm fork", "lazy restore"]


@pytest.fixture(params=[pytest.param("root", marks=pytest.mark.long), "ordinary"])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    """`test_survival_programs` has the same of the command line, for both."""
    yield from a_user(request.param)


@pytest.fixture
def cr(user: User) -> Iterator[CommandLine]:
    with command_line(user) as cr:
        yield cr


@contextmanager
def program(cr: CommandLine) -> Iterator[int]:
    """Its pid, when it is ready."""
    ready = cr.user.home / "ready"
    ready.unlink(missing_ok=True)
    with running(cr.user, cr.user.python, "-c", EXITS) as process:
        wait_until(ready.exists, "the program")
        yield process.pid


@contextmanager
def staying(cr: CommandLine, way: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The engine's process with a tree that it has brought back, and the root's pid."""
    user = cr.user
    with program(cr) as original:
        name = f"{cr.prefix}-{way.replace(' ', '-')}"
        warm = ["--warm"] if way.startswith("warm") else []
        cr("checkpoint", str(original), "--name", name, *warm)
        request = {"op": way.split()[-1], "name": name, "stay": True}
        request["lazy"] = way.startswith("lazy")
        process = subprocess.Popen(
            user.command(user.python, "-m", "jupyter_cr.engine"),
            cwd=user.home,
            env=dict(user.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.close()
            lines = [json.loads(line) for line in process.stdout]
            assert lines[-1]["type"] == "result", lines[-1]
            yield process, lines[-1]["result"]["pid"]
        finally:
            end_tree(process)
            process.stdout.close()
            remove(cr, name)


def remove(cr: CommandLine, name: str) -> None:
    code = "import sys; from jupyter_cr.cli import main; sys.exit(main())"
    cr.user.run(cr.user.python, "-c", code, "rm", name)


ENDS = [
    *((way, signal.SIGUSR1, 7) for way in WAYS),
    *((way, signal.SIGKILL, -signal.SIGKILL) for way in WAYS),
    # What the original's own handlers, or Python's, would get hold of.
    ("warm fork", signal.SIGTERM, 8),
    ("warm fork", signal.SIGINT, -signal.SIGINT),
    ("warm fork", signal.SIGSEGV, -signal.SIGSEGV),
]


@pytest.mark.parametrize(("way", "number", "status"), ENDS)
def test_engine_process_ends_as_the_root(
    cr: CommandLine, way: str, number: int, status: int
) -> None:
    with staying(cr, way) as (process, pid):
        os.kill(pid, number)
        assert process.wait(LIMIT) == status


def resident_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss = next(line for line in rollup.splitlines() if line.startswith("Rss:"))
    return int(rss.split()[1])


def test_waiter_is_tiny(cr: CommandLine) -> None:
    with staying(cr, "restore") as (process, pid):
        wait_until(lambda: resident_kib(process.pid) < 64, "the waiter")
        os.kill(pid, signal.SIGKILL)
        assert process.wait(LIMIT) == -signal.SIGKILL


def test_waiter_killed(cr: CommandLine) -> None:
    """The tree does not depend on it."""
    with staying(cr, "restore") as (process, pid):
        process.kill()
        process.wait(LIMIT)
        assert Path(f"/proc/{pid}").exists()
        os.kill(pid, signal.SIGKILL)


def test_command_that_waits(cr: CommandLine) -> None:
    with program(cr) as original:
        name = cr.checkpoint(original)
    command = subprocess.Popen(
        cr.argv("fork", name, "--wait"),
        cwd=cr.user.home,
        env=dict(cr.user.environment),
        stdout=subprocess.PIPE,
    )
    assert command.stdout is not None
    try:
        text = ""
        while not text.endswith("}\n"):
            text += command.stdout.readline().decode()
        os.kill(json.loads(text)["pid"], signal.SIGUSR1)
        assert command.wait(LIMIT) == 7
    finally:
        end_tree(command)
        command.stdout.close()
