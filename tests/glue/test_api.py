"""Snapshots that a process asks for itself, where no server works for it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from jupyter_cr import api
from jupyter_cr.engine.identity import SEED_NAME
from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import (
    CellError,
    CommandLine,
    Frontend,
    Kernel,
    ask,
    command_line,
    forked,
    is_alive,
    kernel,
    served,
    tell,
)

PROGRAM = """
import threading
import jupyter_cr
x, done = 1, {}
# A copy may find itself answering somebody who is not there any more.
def answer(connection, answer=answer):
    try:
        answer(connection)
    except OSError:
        pass
def start(key, function, *arguments, **options):
    def run():
        try:
            done[key] = function(*arguments, **options)
        except Exception as error:
            done[key] = error
    threading.Thread(target=run).start()
serve()
"""


def checkpoint(pid: int, name: str, note: str = "") -> None:
    """Let a program take its own snapshot, and keep the outcome in ``done[name]``."""
    do(pid, name, f"jupyter_cr.checkpoint, {name!r}, {note!r}")


def wait_for(pid: int, key: str) -> None:
    """Until ``done[key]`` is there."""
    wait_until(lambda: ask(pid, f"{key!r} in done"), f"{key} in process {pid}")


def do(pid: int, key: str, call: str) -> str:
    """Let a program do something in a thread; what ``done[key]`` is then, as text."""
    tell(pid, f"start({key!r}, {call})")
    wait_for(pid, key)
    return str(ask(pid, f"type(done[{key!r}]).__name__ + ': ' + str(done[{key!r}])"))


@contextmanager
def program(user: User) -> Iterator[tuple[CommandLine, subprocess.Popen[bytes]]]:
    """Any Python program, which answers expressions."""
    with (
        command_line(user) as cr,
        served(user, PROGRAM) as process,
    ):
        yield cr, process


@contextmanager
def asking_kernel(user: User) -> Iterator[tuple[CommandLine, Kernel]]:
    with command_line(user) as cr, kernel(user) as started:
        started.do("import jupyter_cr; x = 1")
        yield cr, started


def is_traced(pid: int) -> bool:
    """As a tree is while it is being built."""
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def roots(cr: CommandLine, name: str) -> list[int]:
    """Of the trees that were rebuilt from a snapshot."""
    found = []
    for keeper in cr.keepers():
        with suppress(psutil.Error, OSError, IndexError):
            process = psutil.Process(keeper)
            if process.cmdline()[2] == name:
                found += [
                    child.pid
                    for child in process.children()
                    if child.cmdline()[:1] != [SEED_NAME] and not is_traced(child.pid)
                ]
    return found


def root(cr: CommandLine, name: str) -> int:
    """Waits for the one there is to be."""
    wait_until(lambda: len(roots(cr, name)) == 1, f"a tree of snapshot {name}")
    return roots(cr, name)[0]


def helpers(user: User) -> list[psutil.Process]:
    """The helper processes that work for this user's directories."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            words = process.info["cmdline"] or []
            ours = {"jupyter_cr.glue.helper_process", "jupyter_cr.engine"} & set(words)
            if ours and process.environ().get("HOME") == str(user.home):
                found.append(process)
    return found


def test_a_program_takes_its_own_snapshot(user: User) -> None:
    with program(user) as (cr, process):
        name = f"{cr.prefix}-own"
        checkpoint(process.pid, name, "a note")
        assert ask(process.pid, "[(t.name, t.role, t.is_fork) for t in done.values()]") == [
            (name, "original", False)
        ]
        (listed,) = cr("list")
        assert (listed["name"], listed["note"]) == (name, "a note")
        wait_until(lambda: not helpers(user), "end of the helper")
        assert not psutil.Process(process.pid).children()


def test_it_returns_in_each_fork(user: User) -> None:
    with asking_kernel(user) as (cr, original):
        name = f"{cr.prefix}-own"
        original.do(f"t = jupyter_cr.checkpoint({name!r}); x += 1")
        assert original.value("t.role, x") == "('original', 2)"
        for _ in range(2):
            with forked(cr, name) as (fork, _pid):
                assert fork.value("t.role, t.name, x") == f"('forked', {name!r}, 2)"
                assert fork.value("t.is_fork, t.is_restore") == "(True, False)"


def test_it_returns_in_each_restore(user: User) -> None:
    with program(user) as (cr, process):
        name = f"{cr.prefix}-own"
        checkpoint(process.pid, name)
        tell(process.pid, "x = 2")
        for _ in range(2):
            pid = cr.restore(name)
            wait_for(pid, name)
            tell(pid, f"t = done[{name!r}]")
            assert ask(pid, "x, t.role, t.is_restore") == (1, "restored", True)
            assert ask(pid, "t.name, t.warnings") == (name, ())
            tell(pid, "x = 3")


def test_hooks_have_run_when_it_returns(user: User) -> None:
    with program(user) as (cr, process):
        name = f"{cr.prefix}-own"
        tell(process.pid, "log = []; jupyter_cr.on_checkpoint(lambda: log.append('c'))")
        tell(process.pid, "jupyter_cr.on_restore(lambda: log.append('r'))")
        tell(process.pid, "jupyter_cr.on_fork(lambda: 1/0)")
        checkpoint(process.pid, name)
        assert ask(process.pid, "log") == ["c"]
        pid, _ = cr.fork(name)
        wait_for(pid, name)
        assert "ZeroDivisionError" in ask(pid, f"done[{name!r}].warnings")[0]
        pid = cr.restore(name)
        wait_for(pid, name)
        assert ask(pid, "log") == ["c", "r"]


def test_restore_puts_a_snapshot_in_ones_place(user: User) -> None:
    with program(user) as (cr, process):
        name = f"{cr.prefix}-own"
        checkpoint(process.pid, name)
        tell(process.pid, f"x = 2; start('restore', jupyter_cr.restore, {name!r})")
        pid = root(cr, name)
        wait_until(lambda: not is_alive(process.pid), "end of what ran before")
        wait_for(pid, name)
        assert ask(pid, f"[x, done[{name!r}].role, os.getpid()]") == [
            1,
            "restored",
            process.pid,
        ]
        # What ran before has been kept, and can be brought back.
        (kept,) = (s["name"] for s in cr("list") if s["automatic"])
        before = cr.restore(kept)
        try:
            wait_for(before, "restore")
            assert ask(before, "[x, done['restore'].role]") == [2, "restored"]
        finally:
            psutil.Process(before).kill()


def test_undo(user: User) -> None:
    with program(user) as (cr, process):
        for number in range(3):
            tell(process.pid, f"x = {number}")
            checkpoint(process.pid, f"{cr.prefix}-{number}")
        assert "NoSuchSnapshot" in do(process.pid, "more", "jupyter_cr.undo, 4")
        assert "UsageError" in do(process.pid, "none", "jupyter_cr.undo, 0")
        tell(process.pid, "start('undo', jupyter_cr.undo, 2)")
        pid = root(cr, f"{cr.prefix}-1")
        wait_for(pid, f"{cr.prefix}-1")
        assert ask(pid, f"[x, done['{cr.prefix}-1'].role]") == [1, "restored"]


def test_fork(user: User) -> None:
    with asking_kernel(user) as (cr, original):
        name = f"{cr.prefix}-own"
        original.do(f"jupyter_cr.checkpoint({name!r})")
        original.do(f"x = 2; f = jupyter_cr.fork({name!r})")
        path = Path(original.value("f.connection_file").strip("'"))
        assert path.is_file()
        assert original.value("f.snapshot, f.kernel_id, f.path") == f"({name!r}, '', '')"
        assert "jupyter console --existing" in original.value("f")
        assert original.value("f.warnings") == "()"
        content = path.read_bytes()
        # It has a key of its own, by the line of code: nothing of ours was loaded.
        assert content != Path(original.connection_file).read_bytes()
        fork = Frontend.of(path)
        try:
            assert fork.value("x") == "1"
        finally:
            fork.close()
        assert original.value("x") == "2"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("checkpoint, '..'", "UsageError"),
        ("checkpoint, 'PREFIX-1'", "NameTaken"),
        ("restore, 'nothing'", "NoSuchSnapshot"),
        ("fork, 'nothing'", "NoSuchSnapshot"),
        ("restore, 'PREFIX-1'", "UsageError: Snapshot PREFIX-1 is not of this process."),
    ],
)
def test_errors(user: User, call: str, error: str) -> None:
    with program(user) as (cr, process), served(user, "serve()") as other:
        cr.checkpoint(other.pid)
        said = do(process.pid, "call", "jupyter_cr." + call.replace("PREFIX", cr.prefix))
        assert said.startswith(error.replace("PREFIX", cr.prefix))
        assert ask(process.pid, "x") == 1
        assert len(cr("list")) == 1


def test_a_copy_cannot_replace_itself_without_a_server(user: User) -> None:
    with program(user) as (cr, process):
        name = f"{cr.prefix}-own"
        checkpoint(process.pid, name)
        pid = cr.restore(name)
        for call, command in (
            (f"restore, {name!r}", f"restore {name}"),
            (f"fork, {name!r}", f"fork {name}"),
            ("undo", "restore NAME"),
        ):
            assert f"jupyter cr {command}" in do(pid, call, f"jupyter_cr.{call}")
        # Its own snapshot it can take, and that can be restored from outside.
        tell(pid, "x = 7")
        checkpoint(pid, f"{name}-2")
        assert ask(pid, f"done['{name}-2'].role") == "original"
        again = cr.restore(f"{name}-2")
        wait_for(again, f"{name}-2")
        assert ask(again, f"[x, done['{name}-2'].role]") == [7, "restored"]
        assert not is_alive(pid)


def test_interrupted_while_it_waits(user: User) -> None:
    """Called off, or done before that: nothing in between, and nothing left behind."""
    code = """
import os, signal, threading
def interrupted(name, delay):
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        jupyter_cr.checkpoint(name)
    except KeyboardInterrupt:
        return True
    finally:
        timer.cancel()
        timer.join()
    return False
"""
    with asking_kernel(user) as (cr, original):
        original.do(code)
        names = [f"{cr.prefix}-{number}" for number in range(6)]
        for number, name in enumerate(names):
            with suppress(CellError):
                original.do(f"interrupted({name!r}, {0.1 * number + 0.02})")
            assert original.value("x") == "1"
        wait_until(lambda: not helpers(user), "end of the helpers")
        left = cr("list")
        assert {snapshot["name"] for snapshot in left} <= set(names)
        store = Path(user.environment["JUPYTER_CR_HOME"])
        assert len(list(store.glob("snapshots/*"))) == len(left)
        original.do(f"t = jupyter_cr.checkpoint('{cr.prefix}-last')")
        assert original.value("t.role") == "'original'"


def test_a_helper_that_dies_is_noticed(user: User) -> None:
    with asking_kernel(user) as (cr, original):
        original.do("import os; data = os.urandom(400 << 20)")
        message = original.client.execute(f"jupyter_cr.checkpoint('{cr.prefix}-lost')")

        def killed() -> bool:
            for process in helpers(user):
                with suppress(psutil.Error):
                    process.kill()
                    return True
            return False

        wait_until(killed, "the helper")
        reply = original.client.get_shell_msg(timeout=LIMIT)
        assert reply["parent_header"]["msg_id"] == message
        content = reply["content"]
        if content["status"] == "error":
            assert content["ename"] == "CheckpointRestoreError"
            assert "try again" in content["evalue"]
        assert original.value("x") == "1"


def test_snapshots_are_shown_as_a_table(user: User) -> None:
    with program(user) as (cr, process):
        assert "No snapshots yet" in str(ask(process.pid, "jupyter_cr.snapshots()"))
        for number in range(2):
            checkpoint(process.pid, f"{cr.prefix}-{number}", "<b>")
        tell(process.pid, "s = jupyter_cr.snapshots()")
        assert ask(process.pid, "[len(s), s[0].name, s[-1].name, len(s[:1])]") == [
            2,
            f"{cr.prefix}-1",
            f"{cr.prefix}-0",
            1,
        ]
        heading, first, _second = str(ask(process.pid, "repr(s)")).splitlines()
        assert heading.split() == ["name", "state", "taken", "size", "kernel", "note"]
        assert first.startswith(f"{cr.prefix}-1")
        assert "&lt;b&gt;" in ask(process.pid, "s._repr_html_()")


def test_policy_of_reseeding() -> None:
    assert api.reseed_policy() == "never"
    with pytest.raises(ValueError, match="never, fork, restore"):
        api.reseed_after("sometimes")  # type: ignore[arg-type]


def test_the_package_lists_what_it_has() -> None:
    import jupyter_cr

    assert set(jupyter_cr.__all__) <= set(dir(jupyter_cr))
    for name in jupyter_cr.__all__:
        assert getattr(jupyter_cr, name)
    with pytest.raises(AttributeError, match="nothing"):
        jupyter_cr.nothing  # noqa: B018
