"""Magics, in real kernels and in a real terminal, where no server works for them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pexpect.fdpexpect import fdspawn

from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import (
    CommandLine,
    Frontend,
    Kernel,
    command_line,
    end_tree,
    forked,
    kernel,
)

ORDINARILY = pytest.mark.parametrize("user", ["ordinary"], indirect=True)
"""Where root would see the same."""


@contextmanager
def magic_kernel(user: User) -> Iterator[tuple[CommandLine, Kernel]]:
    with (
        command_line(user) as cr,
        kernel(user, ("--ext=jupyter_cr", "--HistoryManager.enabled=False")) as started,
    ):
        started.do("x = 1")
        yield cr, started


def messages(frontend: Frontend, code: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of a cell's reply, and of its outputs."""
    outputs: list[dict[str, Any]] = []

    def hook(message: dict[str, Any]) -> None:
        if message["msg_type"] in ("execute_result", "display_data", "stream", "error"):
            outputs.append(message["content"])

    reply = frontend.client.execute_interactive(code, output_hook=hook, timeout=LIMIT)
    return reply["content"], outputs


def answer_after(frontend: Frontend, code: str, expression: str) -> str:
    """The value of an expression, once a cell that restores the kernel has been run: its
    own reply may come or not."""
    frontend.client.execute(code)
    said: list[str] = []

    def answered() -> bool:
        try:
            said.append(frontend.value(expression, limit=1))
        except (TimeoutError, KeyError):
            # Not yet; or aborted, behind a cell that has failed.
            return False
        return True

    wait_until(answered, f"{expression} after {code}")
    return said[0]


def test_checkpoint_and_fork(user: User) -> None:
    with magic_kernel(user) as (cr, original):
        name = f"{cr.prefix}-one"
        reply, (shown,) = messages(original, f"%checkpoint {name} -m 'some words' here")
        assert reply["status"] == "ok"
        assert shown["data"]["text/plain"] == f"Snapshot {name!r} was taken."
        assert name in shown["data"]["text/html"]
        (listed,) = cr("list")
        assert (listed["name"], listed["note"]) == (name, "'some words' here")
        original.do(f"t = %checkpoint {cr.prefix}-two -m 'quoted words'")
        assert cr("list")[-1]["note"] == "quoted words"
        original.do(f"x = 2\nf = %fork {cr.prefix}-two")
        fork = Frontend.of(original.value("f.connection_file").strip("'"))
        try:
            assert fork.value("x, t.role") == "(1, 'forked')"
        finally:
            fork.close()
        assert original.value("x, t.role") == "(2, 'original')"


def test_snapshots(user: User) -> None:
    with magic_kernel(user) as (cr, original):
        _, (none,) = messages(original, "%snapshots")
        assert "No snapshots yet" in none["data"]["text/plain"]
        original.do(f"%checkpoint {cr.prefix}-one")
        _, (table,) = messages(original, "%snapshots")
        assert f"<td>{cr.prefix}-one</td>" in table["data"]["text/html"]
        assert table["data"]["text/plain"].splitlines()[1].startswith(f"{cr.prefix}-one ")


def test_restore(user: User) -> None:
    with magic_kernel(user) as (cr, original):
        name = f"{cr.prefix}-one"
        original.do(f"t = %checkpoint {name}")
        original.do("x = 2")
        assert answer_after(original, f"%restore {name}", "x") == "1"
        assert original.value("t.role") == "'restored'"
        kept = {snapshot["name"]: snapshot["automatic"] for snapshot in cr("list")}
        assert len(kept) == 2
        assert set(kept.values()) == {"", "before restore"}


def test_undo_and_discard(user: User) -> None:
    with magic_kernel(user) as (cr, original):
        original.do(f"%checkpoint {cr.prefix}-one")
        original.do("x = 2")
        assert answer_after(original, "%undo", "x") == "1"
    with magic_kernel(user) as (cr, original):
        original.do(f"%checkpoint {cr.prefix}-one")
        assert answer_after(original, f"%restore {cr.prefix}-one --discard", "x") == "1"
        names = [snapshot["name"] for snapshot in cr("list")]
        assert not [name for name in names if name.startswith(f"before-{cr.prefix}")]


def test_all_cells_at_once(user: User) -> None:
    """No server knows what waits in the queue, but it comes to an end: a kernel that was
    restored without a server cannot ask for it again."""
    with magic_kernel(user) as (cr, original):
        log = user.home / "count"
        count = f"with open({str(log)!r}, 'a') as file: file.write('{{}}')"
        name = f"{cr.prefix}-one"
        for code in (f"%checkpoint {name}", count.format("a")):
            original.client.execute(code)
        original.client.execute(f"%restore {name}\n{count.format('b')}")
        wait_until(lambda: log.exists() and log.read_text() == "aa", "it goes back")
        assert answer_after(original, "", "x") == "1"
        original.do(count.format("c"))
        assert log.read_text() == "aac"
        assert len(cr("list")) == 2


def test_the_command_in_a_kernel_that_it_has_restored(user: User) -> None:
    """It would end itself, and there is no server to ask."""
    with magic_kernel(user) as (cr, original):
        name = cr.checkpoint(original.pid)
        cr.restore(name)
        original.settle()
        code = "import sys; from jupyter_cr.cli import main; sys.exit(main())"
        said = original.run(f"!{user.python} -c '{code}' restore {name} 2>&1")
        assert "finds no server that looks after it" in " ".join(said.split()), said
        assert original.value("x") == "1"


def test_a_cell_after_its_snapshot(user: User) -> None:
    with magic_kernel(user) as (cr, original):
        name = f"{cr.prefix}-one"
        reply, (result,) = messages(original, f"%%checkpoint {name}\nx = 5\nx + 1")
        assert (reply["status"], result["data"]["text/plain"]) == ("ok", "6")
        with forked(cr, name) as (fork, _pid):
            # The copy is what was before the cell, which is not run again.
            assert fork.value("x") == "1"
        cr.restore(name)
        assert original.value("x") == "1"


def test_a_cell_that_fails(user: User) -> None:
    with magic_kernel(user) as (cr, original):
        name = f"{cr.prefix}-one"
        reply, outputs = messages(original, f"%%checkpoint {name}\nx = 5\n1/0")
        assert (reply["status"], reply["ename"]) == ("error", "ZeroDivisionError")
        first, second = outputs
        assert "1/0" in re.sub(r"\x1b\[[\d;]*m", "", "\n".join(first["traceback"]))
        assert second["traceback"] == [
            f"%restore {name} brings back what was before this cell."
        ]
        assert original.value("x") == "5"


def test_a_cell_that_fails_is_rolled_back(user: User) -> None:
    with magic_kernel(user) as (cr, original):
        name = f"{cr.prefix}-one"
        original.do(f"%%checkpoint {name} --rollback\nx = 4")
        assert original.value("x") == "4"
        cell = f"%%checkpoint {name}-2 --rollback\nx = 5\n1/0"
        assert answer_after(original, cell, "x") == "4"
        # And it goes on from there.
        original.do("x += 1")
        assert original.value("x") == "5"
        assert sorted(s["name"] for s in cr("list")) == [name, f"{name}-2"]


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("%restore nothing", "NoSuchSnapshot", "jupyter cr list"),
        ("%fork nothing", "NoSuchSnapshot", "There is no snapshot named nothing"),
        ("%undo", "NoSuchSnapshot", "not 1"),
        ("%undo 0", "UsageError", "One is the least"),
        ("%undo some", "UsageError", "invalid int value"),
        ("%restore", "UsageError", "required: name"),
        ("%checkpoint ..", "UsageError", "name"),
        ("%checkpoint --rollback", "UsageError", "%%checkpoint --rollback"),
        ("%snapshots all", "UsageError", "no arguments"),
    ],
)
@ORDINARILY
def test_errors_are_sentences(line: str, error: str, says: str, user: User) -> None:
    with magic_kernel(user) as (_, original):
        reply, outputs = messages(original, line)
        assert (reply["status"], reply["ename"]) == ("error", error)
        text = "".join(str(output) for output in outputs)
        assert says in text
        assert "File" not in text


@ORDINARILY
def test_names_are_completed(user: User) -> None:
    with magic_kernel(user) as (cr, original):
        names = [f"{cr.prefix}-one", f"{cr.prefix}-two"]
        for name in names:
            original.do(f"%checkpoint {name}")
        for code in (f"%restore {cr.prefix}", f"x = 1\n%fork {cr.prefix}-", "%restore "):
            reply = original.client.complete(code, reply=True, timeout=LIMIT)["content"]
            assert sorted(reply["matches"]) == names
            assert code[: reply["cursor_start"]].endswith(("restore ", "fork "))
        reply = original.client.complete("%undo ", reply=True, timeout=LIMIT)["content"]
        assert not set(names) & set(reply["matches"])


@ORDINARILY
def test_policy_is_a_configuration(user: User) -> None:
    with magic_kernel(user) as (_, original):
        original.do("import jupyter_cr.api")
        assert original.value("jupyter_cr.api.reseed_policy()") == "'never'"
        original.do("%config CheckpointMagics.reseed = 'fork'")
        assert original.value("jupyter_cr.api.reseed_policy()") == "'fork'"


@ORDINARILY
def test_it_can_be_unloaded_and_loaded_again(user: User) -> None:
    with magic_kernel(user) as (cr, original):
        original.do("%unload_ext jupyter_cr")
        original.do("%load_ext jupyter_cr")
        original.do("%reload_ext jupyter_cr")
        original.do(f"t = %checkpoint {cr.prefix}-one")
        with forked(cr, f"{cr.prefix}-one") as (fork, _pid):
            assert fork.value("t.is_fork") == "True"


class Terminal:
    """IPython in a terminal of its own, which stays open when it is replaced, as it does
    below a shell."""

    def __init__(self, user: User, *arguments: str) -> None:
        self._master, self._slave = os.openpty()
        if user.uid != os.geteuid():
            os.fchown(self._slave, user.uid, user.uid)
        self.process = subprocess.Popen(
            user.command(
                *(user.python, "-m", "IPython", "--no-banner", "--colors=NoColor"),
                *("--ext=jupyter_cr", *arguments),
            ),
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            cwd=user.home,
            env={**user.environment, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
        )
        self._screen = fdspawn(self._master, timeout=LIMIT, encoding="utf-8")
        self.seen = self._screen.logfile_read = StringIO()

    def close(self) -> None:
        end_tree(self.process)
        os.close(self._slave)
        self._screen.close()

    def enter(self, number: int, code: str) -> None:
        """Type a line, when IPython asks for cell `number`."""
        self.expect(f"In [{number}]:")
        self._screen.send(code + "\r")

    def expect(self, text: str) -> None:
        self._screen.expect_exact(text)


@contextmanager
def terminal(user: User, *arguments: str) -> Iterator[Terminal]:
    opened = Terminal(user, *arguments)
    try:
        yield opened
    finally:
        opened.close()


def test_in_a_terminal(user: User) -> None:
    with command_line(user) as cr, terminal(user, "--simple-prompt") as ipython:
        name = f"{cr.prefix}-one"
        ipython.enter(1, "x = 1")
        ipython.enter(2, f"t = %checkpoint {name}")
        ipython.enter(3, "print('value', x, t)")
        ipython.expect(f"value 1 Snapshot {name!r} was taken.")
        ipython.enter(4, "x = 2")
        ipython.enter(5, "%snapshots")
        ipython.expect(f"{name}  durable")
        ipython.enter(6, f"%fork {name}")
        ipython.expect("UsageError: A fork of IPython in a terminal")
        ipython.enter(7, "%restore nothing")
        ipython.expect("NoSuchSnapshot: There is no snapshot named nothing")
        ipython.enter(8, f"%restore {name}")
        ipython.enter(3, "print('value', x, t)")
        ipython.expect(f"value 1 This is what snapshot {name!r} was taken of, restored.")
        ipython.enter(4, "x")
        ipython.expect("Out[4]: 1")


def test_a_policy_is_applied_in_a_terminal(user: User) -> None:
    """No server does it there. And it is found out before, whether it makes sense."""
    with command_line(user) as cr:
        first, second = (f"{cr.prefix}-{number}" for number in (1, 2))
        user.environment["JUPYTER_CR_RETENTION"] = "last 1"  # type: ignore[index]
        with terminal(user, "--simple-prompt") as ipython:
            for cell, name in ((1, first), (2, second)):
                ipython.enter(cell, f"t = %checkpoint {name}")
            ipython.enter(3, "%snapshots")
            ipython.expect(f"{second}  durable")
            assert [snapshot["name"] for snapshot in cr("list")] == [second]
            ipython.enter(4, "import os; os.environ['JUPYTER_CR_RETENTION'] = 'the best'")
            ipython.enter(5, f"%checkpoint {first}")
            ipython.expect("UsageError: This rule of a policy is not understood")
        assert [snapshot["name"] for snapshot in cr("list")] == [second]


@ORDINARILY
def test_in_a_terminal_with_a_line_editor(user: User) -> None:
    with command_line(user) as cr, terminal(user) as ipython:
        name = f"{cr.prefix}-one"
        ipython.enter(1, "x = 1")
        ipython.enter(2, f"t = %checkpoint {name}")
        ipython.enter(3, "x = 2")
        ipython.enter(4, f"%restore {name}")
        ipython.enter(3, "print('value', x, t.role)")
        ipython.expect("value 1 restored")


@ORDINARILY
def test_history_file_has_no_complaints(user: User) -> None:
    with command_line(user) as cr, terminal(user, "--simple-prompt") as ipython:
        name = f"{cr.prefix}-one"
        ipython.enter(1, f"t = %checkpoint {name}")
        ipython.enter(2, "x = 2")
        ipython.enter(3, f"%restore {name}")
        ipython.enter(2, "x = 3")
        ipython.enter(3, "x = 4")
        ipython.enter(4, "get_ipython().history_manager.writeout_cache()")
        ipython.enter(5, "print('value', x)")
        ipython.expect("value 4")
        assert "ERROR" not in ipython.seen.getvalue()
        assert Path(user.environment["IPYTHONDIR"]).is_dir()
