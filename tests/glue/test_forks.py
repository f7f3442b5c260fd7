"""Forks to run something in, of kernels and programs that no server works for."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from jupyter_cr.engine.identity import SEED_NAME
from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import CommandLine, Frontend, Kernel, command_line, kernel, settle
from tests.glue.test_magics import ORDINARILY, answer_after, messages, terminal


def left(user: User) -> list[int]:
    """Forks, their keepers and twins, of this user's processes."""
    found = []
    for process in psutil.process_iter(["cmdline", "name"]):
        with suppress(psutil.Error):
            words = process.info["cmdline"] or []
            is_twin = process.info["name"] == "jupyter-cr twin"
            is_helper = "jupyter_cr.glue.helper_process" in words
            is_fork = words[:1] == [SEED_NAME] and words[2].startswith("for-forks-")
            family = [process, *process.children(recursive=True)]
            if (is_twin or is_helper or is_fork) and any(_is_of(p, user) for p in family):
                found.append(process.pid)
    return found


def _is_of(process: psutil.Process, user: User) -> bool:
    with suppress(psutil.Error):
        return process.environ().get("HOME") == str(user.home)
    return False


@contextmanager
def forking_kernel(user: User) -> Iterator[tuple[CommandLine, Kernel]]:
    with (
        command_line(user) as cr,
        kernel(user, ("--ext=jupyter_cr", "--HistoryManager.enabled=False")) as started,
    ):
        started.do("import jupyter_cr, time; x = 40")
        yield cr, started
        wait_until(lambda: not left(user), "end of all that forks need")
        assert not [s for s in cr("list") if s["automatic"] == "for a fork"]


def adopted_end(user: User) -> None:
    """Kill what has taken a kernel's place: its test did not start it."""
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            words = process.info["cmdline"] or []
            family = process.children(recursive=True)
            if words[:1] == [SEED_NAME] and any(_is_of(below, user) for below in family):
                process.kill()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def refusal(original: Kernel, code: str) -> str:
    """What a cell raises. Those behind it are run nevertheless."""
    reply = original.client.execute(code, reply=True, stop_on_error=False, timeout=LIMIT)
    return plain("\n".join(reply["content"]["traceback"]))


def test_a_sweep(user: User) -> None:
    """Neither the function nor what it is given can be pickled."""
    with forking_kernel(user) as (_, original):
        original.do(
            "def shifted(by):\n"
            "    global x\n"
            "    print('by', by)\n"
            "    x += next(by)\n"
            "    return x\n"
            "with jupyter_cr.fork(2) as forks:\n"
            "    results = forks.map(shifted, [iter([1]), iter([2]), iter([3])])\n"
        )
        assert original.value("(results, x)") == "([41, 42, 43], 40)"
        assert original.value("results.outcomes[2].stdout").startswith("'by <list_iter")


def test_code_with_variables(user: User) -> None:
    with forking_kernel(user) as (_, original):
        code = "jupyter_cr.fork().map('x += by\\nx', [{'by': 1}, {'by': 2}])"
        assert original.value(code) == "[41, 42]"
        assert (
            original.value("jupyter_cr.fork().map('parameter * x', [1, 2])") == "[40, 80]"
        )


def test_what_a_fork_changes_is_its_own(user: User) -> None:
    with forking_kernel(user) as (_, original):
        original.do(
            "import os, subprocess\n"
            "child = subprocess.Popen(['sleep', '1000'])\n"
            "file = open('lines', 'w+')\n"
            "seen = []\n"
            "for fork in jupyter_cr.fork(2):\n"
            "    fork.run('child.kill(); file.close(); x += n', n=fork.index)\n"
            "    seen.append(fork.run('x, child.wait(), file.closed, os.getpid()').value)\n"
        )
        pid = original.value("os.getpid()")
        assert original.value("seen") == f"[(40, -9, True, {pid}), (41, -9, True, {pid})]"
        assert original.value("(x, child.poll(), file.closed)") == "(40, None, False)"
        original.do("child.kill(); child.wait()")


def test_errors_come_back_with_their_traceback(user: User) -> None:
    with forking_kernel(user) as (_, original):
        original.do(
            "class Odd(Exception):\n"
            "    def __init__(self, one, two): super().__init__('odd')\n"
            "def fails(how):\n"
            "    if how == 'odd': raise Odd(1, 2)\n"
            "    if how == 'killed': os.kill(os.getpid(), 9)\n"
            "    if how == 'late': time.sleep(60)\n"
            "    return 1 / how\n"
            "import os\n"
            "forks = jupyter_cr.fork(timeout=5)\n"
            "r = forks.map(fails, [0, 'odd', 'killed', 'late', 2], errors='return')\n"
        )
        kinds = original.value("[type(each).__name__ for each in r]")
        assert (
            kinds == "['ZeroDivisionError', 'Odd', 'ForkFailed', 'TimeoutError', 'float']"
        )
        assert "1 / how" in plain(original.run("print(r[0].__cause__)"))
        assert original.value("isinstance(r[1], type(r[2])), str(r[1])") == "(True, 'odd')"
        assert "signal 9" in original.value("str(r[2])")
        assert "1 / how" in refusal(original, "forks.map(fails, [1, 0, 'late'])")


def test_values_that_stay_there(user: User) -> None:
    with forking_kernel(user) as (_, original):
        original.do(
            "class Shown:\n"
            "    def __init__(self): self.step = iter(lambda: 0, 1)\n"
            "    def __repr__(self): return 'shown'\n"
            "    def _repr_html_(self): return '<b>shown</b>'\n"
            "    def __reduce__(self): raise TypeError\n"
            "(one,) = jupyter_cr.fork(1).map('Shown()', [{}])\n"
            "(two,) = jupyter_cr.fork(1).map('class Its: pass\\nIts()', [{}])\n"
            "(three,) = jupyter_cr.fork(1).map('import matplotlib', [{}])\n"
        )
        assert original.value("one") == "shown"
        assert original.value("one._repr_mimebundle_()['text/html']") == "'<b>shown</b>'"
        assert "cannot be unpickled here" in original.value("two")
        assert original.value("three") == "None"


@ORDINARILY
def test_wrong_uses_are_told(user: User) -> None:
    with forking_kernel(user) as (_, original):
        for code, says in (
            ("jupyter_cr.fork(0)", "One is the least"),
            ("jupyter_cr.fork(1).map(str, [1], errors='no')", "neither"),
            ("for f in jupyter_cr.fork(1): f.run(lambda: 1)", "Give it code"),
            ("for f in jupyter_cr.fork(1): f.run('1', 2)", "have names"),
            ("for f in jupyter_cr.fork(1): f.end(); f.run('1')", "has ended"),
            ("%%fork name\n1", "this very kernel"),
            ("%fork --adopt", "are for a cell"),
            ("%fork", "of which snapshot"),
        ):
            assert says in refusal(original, code), code


@ORDINARILY
def test_forks_of_forks_are_refused(user: User) -> None:
    with forking_kernel(user) as (_, original):
        original.do(
            "code = 'jupyter_cr.fork(1).map(str, [1])'\n"
            "(error,) = jupyter_cr.fork(1).map(code, [{}], errors='return')"
        )
        assert original.value("type(error).__name__") == "'TargetError'"


@pytest.mark.long
def test_a_cell(user: User) -> None:
    with forking_kernel(user) as (_, original):
        code = (
            "%%fork\nx += 1\nprint('now', x)\nimport sys\nprint('no', file=sys.stderr)\nx"
        )
        reply, outputs = messages(original, code)
        assert reply["status"] == "ok"
        texts = [(o["name"], o["text"]) for o in outputs if "text" in o]
        assert texts == [("stdout", "now 41\n"), ("stderr", "no\n")]
        assert outputs[-1]["data"]["text/plain"] == "41"
        assert original.value("x") == "40"
        reply, (error,) = messages(original, "%%fork\nx = 1\nnone.such")
        assert reply["ename"] == "NameError"
        assert "none.such" in plain("".join(error["traceback"]))
        assert "jupyter_cr" not in "".join(error["traceback"])
        reply, _ = messages(original, "%%fork --timeout 0.5\ntime.sleep(60)")
        assert reply["ename"] == "TimeoutError"
        assert original.value("x") == "40"


def test_a_cell_is_kept(user: User) -> None:
    with forking_kernel(user) as (cr, original):
        name = f"{cr.prefix}-kept"
        original.do(f"%%fork --keep {name}\nx += 1")
        assert original.value("x") == "40"
        (listed,) = cr("list")
        assert (listed["name"], listed["state"]) == (name, "durable")
        assert answer_after(original, f"%restore {name}", "x") == "41"


@pytest.mark.long
def test_a_fork_takes_the_place(user: User) -> None:
    with forking_kernel(user) as (cr, original):
        try:
            original.client.execute("%%fork --adopt\nx += 1")
            original.client.execute("x += 100")
            assert answer_after(original, "", "x") == "141"
            original.settle()
            assert original.run("print(x)") == "141"
            assert cr("list") == []
            original.do("x += 1")
            name = f"{cr.prefix}-one"
            cr("checkpoint", original.connection_file, "--name", name)
            original.do("x = 0")
            cr.restore(name)
            assert original.value("x") == "142"
        finally:
            adopted_end(user)


def test_the_end_of_the_kernel_ends_all(user: User) -> None:
    with forking_kernel(user) as (_, original):
        original.client.execute("%%fork\nopen('begun', 'w')\ntime.sleep(60)")
        wait_until((user.home / "begun").exists, "the fork begins")
        assert left(user)
        os.kill(original.pid, signal.SIGKILL)


def test_an_interrupt_ends_all(user: User) -> None:
    with forking_kernel(user) as (_, original):
        code = "jupyter_cr.fork().map(lambda n: open('begun', 'w') and time.sleep(60), [1])"
        request = original.client.execute(code)
        wait_until((user.home / "begun").exists, "the fork begins")
        os.kill(original.pid, signal.SIGINT)
        while True:
            reply = original.client.get_shell_msg(timeout=LIMIT)
            if reply["parent_header"]["msg_id"] == request:
                break
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        # For an instant, what comes behind a cell that raises is not run.
        original.client.kernel_info(reply=True, timeout=LIMIT)
        assert original.value("x") == "40"


def test_in_a_terminal(user: User) -> None:
    with command_line(user), terminal(user, "--simple-prompt") as ipython:
        ipython.enter(1, "import jupyter_cr; x = 1")
        ipython.enter(2, "print('all', jupyter_cr.fork(2).map('x + parameter', [1, 2]))")
        ipython.expect("all [2, 3]")
        code = "x += 5; print('there', x)"
        ipython.enter(3, f"get_ipython().run_cell_magic('fork', '', {code!r})")
        ipython.expect("there 6")
        ipython.enter(4, "print('here', x)")
        ipython.expect("here 1")
        wait_until(lambda: not left(user), "end of all that forks need")


def test_in_a_program(user: User) -> None:
    done = user.run(
        user.python,
        "-c",
        "import jupyter_cr, sys\n"
        "x = 40\n"
        "with jupyter_cr.fork(2) as forks:\n"
        "    print(forks.map(lambda by: x + by, [1, 2]), flush=True)\n"
        "    print(forks.map('print(x); x + by', [{'by': 3}]).outcomes)\n"
        "    for fork in forks:\n"
        "        print(fork.run(divmod, x, 0).error, file=sys.stderr)\n",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "[41, 42]"
    assert second.startswith("(<outcome of {'by': 3}")
    assert done.stderr.count("division") + done.stderr.count("modulo") >= 2
    wait_until(lambda: not left(user), "end of all that forks need")


def test_the_command_in_a_queue_forks_once(user: User) -> None:
    """All cells sent at once, and the snapshot is taken by one before it: the fork is not
    to ask for a fork, and so on for ever."""
    with forking_kernel(user) as (cr, original):
        log = user.home / "count"
        name = f"{cr.prefix}-one"
        code = "import sys; from jupyter_cr.cli import main; sys.exit(main())"
        command = f'!{user.python} -c "{code}"'
        count = f"with open({str(log)!r}, 'a') as file: file.write('{{}}')"
        for cell in (
            f"%checkpoint {name}",
            count.format("a"),
            f"{command} fork {name}",
            count.format("b"),
        ):
            original.client.execute(cell)
        wait_until(lambda: log.exists() and log.read_text() == "ab", "all cells")
        connections = set((user.home / "runtime").glob("kernel-*.json"))
        (path,) = connections - {Path(original.connection_file)}
        fork = Frontend.of(path)
        try:
            # What comes later is run.
            assert fork.value("x") == "40"
            fork.do(count.format("c"))
        finally:
            fork.close()
        settle(2)
        assert log.read_text() == "abc"
        assert len(cr.keepers()) == 3
