"""Hooks, without any snapshot: order, failures, entry points."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_cr.glue import hooks
from jupyter_cr.glue.whereabouts import find_out


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Hooks that a test has registered are forgotten behind it."""
    before = {kind: list(registered) for kind, registered in hooks._hooks.items()}
    yield []
    for kind, registered in before.items():
        hooks._hooks[kind][:] = registered


def test_checkpoint_hooks_run_in_reverse_order(log: list[str]) -> None:
    hooks.on_checkpoint(lambda: log.append("first"))
    hooks.on_checkpoint(lambda: log.append("second"))
    assert hooks.run_checkpoint_hooks() == ()
    assert log == ["second", "first"]


def test_one_that_fails_is_reported_and_the_others_run(log: list[str]) -> None:
    hooks.on_checkpoint(lambda: log.append("ran"))

    @hooks.on_checkpoint
    def broken() -> None:
        raise ValueError("no")

    (problem,) = hooks.run_checkpoint_hooks()
    assert "broken" in problem
    assert problem.endswith("failed: ValueError: no")
    assert log == ["ran"]


def test_decorators_give_the_function_back(log: list[str]) -> None:
    def hook() -> None:
        log.append("ran")

    for register in (hooks.on_checkpoint, hooks.on_restore, hooks.on_fork):
        assert register(hook) is hook
    hooks.on_checkpoint(hook)
    hooks.run_checkpoint_hooks()
    assert log == ["ran"]
    hooks.unregister(hook)
    hooks.run_checkpoint_hooks()
    assert log == ["ran"]


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="on_fork"):
        hooks.on_fork(3)  # type: ignore[type-var]


def test_a_snapshot_of_our_own_runs_them_once(log: list[str]) -> None:
    hooks.on_checkpoint(lambda: log.append("ran"))
    with hooks.now_checkpointing() as problems:
        assert problems == ()
        hooks.run_checkpoint_hooks()
    assert log == ["ran"]


def test_who_was_neither_restored_nor_forked_runs_none(log: list[str]) -> None:
    hooks.on_restore(lambda: log.append("restored"))
    hooks.on_fork(lambda: log.append("forked"))
    assert hooks.catch_up("forked") == ()
    assert log == []


def test_a_child_is_no_fork_of_ours(log: list[str]) -> None:
    hooks.on_restore(lambda: log.append("restored"))
    hooks.on_fork(lambda: log.append("forked"))
    reading, writing = os.pipe()
    if not (child := os.fork()):
        hooks.catch_up("forked")
        os.write(writing, repr(log).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        assert file.read() == "[]"
    os.waitpid(child, 0)


def test_we_are_where_we_are() -> None:
    here = find_out()
    assert here == find_out()
    assert (here.role, here.snapshot) == ("original", "")
    assert here.start
    assert here.boot


PROGRAM = """
from jupyter_cr.glue import hooks
print(hooks.load_entry_points())
print(hooks.load_entry_points())
print(hooks.run_checkpoint_hooks())
"""


def test_libraries_register_by_entry_points(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(
        "from jupyter_cr import on_checkpoint\n"
        "def register():\n"
        "    on_checkpoint(lambda: print('the library ran'))\n"
    )
    metadata = tmp_path / "library-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: library\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[jupyter_cr.hooks]\nlibrary = library:register\nbroken = library:missing\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert not done.stderr
    first, second, ran, nothing = done.stdout.splitlines()
    assert "broken = library:missing" in first
    assert "AttributeError" in first
    assert first.count("failed") == 1
    assert (second, ran, nothing) == ("()", "the library ran", "()")


def test_importing_it_imports_little() -> None:
    program = (
        "import sys, jupyter_cr; first = [m for m in sys.modules if 'jupyter_cr.' in m]; "
        "import jupyter_cr.glue.ipython; jupyter_cr.checkpoint; "
        "heavy = {'IPython', 'zmq', 'jupyter_client', 'jupyter_core', 'psutil', 'ptrace', "
        "'rich', 'traitlets', 'asyncio', 'jupyter_cr.engine', 'jupyter_cr.store'}; "
        "print(first, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "[] []\n", done.stderr
