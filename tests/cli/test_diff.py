"""``jupyter cr diff``, of real kernels."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest

from jupyter_cr.engine.identity import SEED_NAME
from jupyter_cr.kernels.glue_protocol import LOOKED_AT
from tests.conftest import User, a_user
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import (
    COMMAND,
    CommandError,
    CommandLine,
    Kernel,
    command_line,
    kernel,
    running,
)


@pytest.fixture(params=[pytest.param("root", marks=pytest.mark.long), "ordinary"])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    """What it stands upon is tested as both."""
    yield from a_user(request.param)


def end_of_forks(user: User) -> None:
    """What was looked at is gone."""

    def looked_at() -> list[int]:
        found = []
        homes = {str(user.home)}
        for process in psutil.process_iter(["cmdline"]):
            with suppress(psutil.Error):
                words = process.info["cmdline"] or []
                if words[:1] == [SEED_NAME] and words[2].startswith(LOOKED_AT):
                    found += [p.pid for p in process.children() if p.cwd() in homes]
        return found

    wait_until(lambda: not looked_at(), "end of the forks that were looked at")


@contextmanager
def compared_kernel(user: User, *arguments: str) -> Iterator[tuple[CommandLine, Kernel]]:
    options = ("--HistoryManager.enabled=False", *arguments)
    with command_line(user) as cr, kernel(user, options) as started:
        yield cr, started
        end_of_forks(user)


def changes(found: dict[str, Any]) -> dict[str, str]:
    assert not found["variables"]["problem"], found
    return {each["name"]: each["change"] for each in found["variables"]["differences"]}


BEFORE = """
import numpy as np, pandas as pd
x = 1; same = [1, 2]; a = np.zeros(100_000); df = pd.DataFrame({'a': range(1000)})
g = (n for n in range(3)); gone = 1; _hidden = 1
def f(a): return a
"""
AFTER = """
import subprocess
x = 2; same = [1, 2]; a[5] = 1; df['b'] = 2; del gone; new = 'hello'; _hidden = 2
file = open('lines', 'w'); child = subprocess.Popen(['sleep', '1000'])
def f(a): return a + 1
"""
EXPECTED = {
    "x": "changed",
    "a": "changed",
    "df": "changed",
    "f": "changed",
    "g": "unknown",
    "gone": "removed",
    "new": "added",
    "file": "added",
    "child": "added",
}


@pytest.mark.parametrize("arguments", [(), ("--ext=jupyter_cr",)], ids=["bare", "glue"])
def test_two_snapshots(arguments: tuple[str, ...], user: User) -> None:
    with compared_kernel(user, *arguments) as (cr, original):
        original.do(BEFORE)
        one = cr.checkpoint(original.pid)
        original.do(AFTER)
        two = cr.checkpoint(original.pid)
        original.do("x = 3")
        found = cr("diff", one, two)
        assert (found["before"], found["after"]) == (one, two)
        assert changes(found) == EXPECTED
        of_x = next(v for v in found["variables"]["differences"] if v["name"] == "x")
        assert (of_x["before"]["value"], of_x["after"]["value"]) == ("1", "2")
        assert found["variables"]["same"] == 1
        opened, added = found["processes"]
        assert opened["pid"] == original.pid
        whats = [each["what"] for each in opened["opened"]]
        assert f"{user.home}/lines at 0 of 0" in whats
        assert (added["name"], added["change"]) == ("sleep", "added")
        memory = found["memory"]
        assert 100_000 < memory["changed"] < memory["same"]
        assert not found["document"]["cells"]
        assert {"x": "changed"}.items() <= changes(cr("diff", two)).items()
        assert [each["name"] for each in cr("list")] == [one, two]
        assert original.value("x") == "3"
        original.do("child.kill(); child.wait()")


@pytest.mark.long
def test_a_snapshot_and_itself(user: User) -> None:
    with compared_kernel(user) as (cr, original):
        original.do(BEFORE)
        one = cr.checkpoint(original.pid)
        found = cr("diff", one, one)
        assert changes(found) == {"g": "unknown"}
        assert found["processes"] == []
        assert found["memory"]["changed"] == found["memory"]["added"] == 0
        assert found["memory"]["same"] > 1_000_000
        found = cr("diff", one, one, "--no-variables")
        assert found["variables"]["problem"]


@pytest.mark.long
def test_a_snapshot_in_the_middle_of_its_cell(user: User) -> None:
    """The rest of the cell is not run in the forks."""
    with compared_kernel(user, "--ext=jupyter_cr") as (cr, original):
        one, two = f"{cr.prefix}-one", f"{cr.prefix}-two"
        log = user.home / "log"
        write = f"open({str(log)!r}, 'a').write('.')"
        original.do(f"x = 1\n%checkpoint {one}\nx = 2\n{write}")
        original.do(f"%checkpoint {two}\nx = 3\n{write}")
        found = cr("diff", one, two)
        (of_x,) = [v for v in found["variables"]["differences"] if v["name"] == "x"]
        assert (of_x["before"]["value"], of_x["after"]["value"]) == ("1", "2")
        assert log.read_text() == ".."


@pytest.mark.long
def test_a_kernel_that_is_busy(user: User) -> None:
    with compared_kernel(user) as (cr, original):
        one = cr.checkpoint(original.pid)
        original.client.execute("open('begun', 'w'); import time; time.sleep(1000)")
        wait_until((user.home / "begun").exists, "the cell begins")
        found = cr("diff", one)
        assert "cell was running" in found["variables"]["problem"]
        assert found["memory"]["changed"]


def test_what_is_no_kernel(user: User) -> None:
    with command_line(user) as cr, running(user, "sleep", "1000") as program:
        one = cr.checkpoint(program.pid)
        found = cr("diff", one)
        assert "no kernel" in found["variables"]["problem"]
        assert [each["name"] for each in cr("list")] == [one]
        program.kill()
        program.wait(LIMIT)
        with pytest.raises(CommandError, match="NoSuchProcess"):
            cr("diff", one)
        with pytest.raises(CommandError, match="NoSuchSnapshot"):
            cr("diff", one, "none")


def test_for_people(user: User) -> None:
    with compared_kernel(user) as (cr, original):
        original.do(BEFORE)
        one = cr.checkpoint(original.pid)
        original.do(AFTER)
        done = subprocess.run(
            user.command(user.python, *COMMAND, "diff", one),
            cwd=user.home,
            env=dict(user.environment),
            capture_output=True,
            text=True,
            timeout=LIMIT * 2,
        )
        assert done.returncode == 0, done.stderr
        lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
        assert f"{one} -> what runs now" in lines
        assert "~ x int 1 -> 2" in lines
        assert "~ df DataFrame (1000 x 1) -> DataFrame (1000 x 2) a -> a, b" in lines
        assert "+ new str (5) 'hello'" in lines
        assert "? g generator" in " ".join(lines)
        assert any(line.endswith("lines at 0 of 0") for line in lines)
        original.do("child.kill(); child.wait()")
