"""Forks that a server's kernel asks for to run something in."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from jupyter_cr.engine.identity import SEED_NAME
from tests.conftest import User
from tests.engine.harness import wait_until
from tests.server.harness import FrontEnd, Server, jupyter_server, notebook
from tests.server.test_run_all import own_snapshots, statuses

SWEEP = """
def shifted(by):
    global x
    print('by', by)
    x += by
    return x
print(jupyter_cr.fork(2).map(shifted, [1, 2, 3]), x)
"""


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


@pytest.fixture
def kernel_id(server: Server) -> str:
    return server.open_notebook("forks.ipynb")


@pytest.fixture
def front_end(server: Server, kernel_id: str) -> FrontEnd:
    opened = server.front_end(kernel_id)
    opened.run("import jupyter_cr, time; x = 40")
    return opened


def keepers(server: Server) -> list[int]:
    """Processes that are there for forks of this user's kernels, and twins of theirs."""
    found = []
    for process in psutil.process_iter(["cmdline", "name"]):
        with suppress(psutil.Error):
            words = process.info["cmdline"] or []
            is_fork = words[:1] == [SEED_NAME] and words[2].startswith("for-forks-")
            is_keeper = "jupyter_cr.glue.forking.keeper_process" in words
            is_twin = process.info["name"] == "jupyter-cr twin"
            if (is_fork or is_keeper or is_twin) and _is_of(process, server):
                found.append(process.pid)
    return found


def _is_of(process: psutil.Process, server: Server) -> bool:
    home = str(server.user.home)
    if any(home in word for word in process.cmdline()):
        return True
    for below in process.children(recursive=True):
        with suppress(psutil.Error):
            if any(home in word for word in below.cmdline()):
                return True
    with suppress(psutil.Error):
        return process.environ().get("HOME") == home
    return False


def nothing_is_left(server: Server) -> None:
    wait_until(lambda: not keepers(server), "end of all that forks need")
    assert own_snapshots(server) == []


def waits(server: Server, path: Path) -> None:
    wait_until(path.exists, f"{path} in a fork")


def test_a_sweep(server: Server, kernel_id: str, front_end: FrontEnd) -> None:
    assert front_end.run(SWEEP).endswith("[41, 42, 43] 40")
    nothing_is_left(server)
    assert list(server.kernels()) == [kernel_id]
    # And in a kernel that has been restored, whose forks are read from disk.
    front_end.run("%checkpoint before")
    server.do(f"kernels/{kernel_id}/restore", snapshot="before", keep=False)
    assert front_end.run(SWEEP).endswith("[41, 42, 43] 40")
    assert own_snapshots(server) == ["before"]


def test_a_fork_takes_the_place(
    server: Server, kernel_id: str, front_end: FrontEnd
) -> None:
    """With all cells sent at once: those behind it are run by the fork, once."""
    count = "with open('count', 'a') as file: file.write('{}')"
    cells = [
        count.format("a"),
        "%%fork --adopt\nx += 1\nprint('in the fork')\n" + count.format("b"),
        "x += 100\n" + count.format("c"),
        "print('x is', x)",
    ]
    requests = [front_end.execute(cell, f"cell-{n}") for n, cell in enumerate(cells)]
    assert statuses(front_end, requests) == ["ok"] * 4
    assert "in the fork" in front_end.reply(requests[1]).text
    assert "x is 141" in front_end.reply(requests[3]).text
    assert (server.root / "count").read_text() == "abc"
    assert list(server.kernels()) == [kernel_id]
    nothing_is_left(server)
    # It is a kernel as any other.
    front_end.run("%checkpoint after")
    front_end.run("x = 0")
    server.do(f"kernels/{kernel_id}/restore", snapshot="after", keep=False)
    assert front_end.value("x") == "141"
    assert front_end.run("%%fork --adopt\nx = 7") == ""
    assert front_end.value("x") == "7"
    assert own_snapshots(server) == ["after"]


def test_a_fork_that_fails_takes_no_place(server: Server, front_end: FrontEnd) -> None:
    reply = front_end.reply(front_end.execute("%%fork --adopt --keep it\nx = 1\n1/0"))
    assert (reply.status, reply.content["ename"]) == ("error", "ZeroDivisionError")
    assert "x = 1" in re.sub(r"\x1b\[[\d;]*m", "", "".join(reply.content["traceback"]))
    assert front_end.value("x") == "40"
    nothing_is_left(server)


def test_a_fork_is_kept(server: Server, kernel_id: str, front_end: FrontEnd) -> None:
    front_end.run("%%fork --keep tried\nx += 1")
    assert front_end.value("x") == "40"
    assert own_snapshots(server) == ["tried"]
    forked = server.do("snapshots/tried/fork")
    other = server.front_end(forked["kernel_id"])
    assert other.value("x") == "41"
    server.do(f"kernels/{kernel_id}/restore", snapshot="tried", keep=False)
    assert front_end.value("x") == "41"
    front_end.run("x += 1")
    assert (front_end.value("x"), other.value("x")) == ("42", "41")


def test_an_interrupt_ends_all(server: Server, kernel_id: str, front_end: FrontEnd) -> None:
    begun = server.root / "begun"
    code = "jupyter_cr.fork(2).map(lambda n: open('begun', 'w') and time.sleep(60), [1])"
    request = front_end.execute(code)
    waits(server, begun)
    began = time.monotonic()
    assert server.fetch("POST", f"api/kernels/{kernel_id}/interrupt")[0] == 204
    assert front_end.reply(request).content["ename"] == "KeyboardInterrupt"
    assert time.monotonic() - began < 30
    nothing_is_left(server)
    assert front_end.value("x") == "40"


def test_the_end_of_the_kernel_ends_all(
    server: Server, kernel_id: str, front_end: FrontEnd
) -> None:
    pid = int(front_end.value("__import__('os').getpid()"))
    front_end.execute("%%fork\nopen('begun', 'w')\ntime.sleep(60)")
    waits(server, server.root / "begun")
    assert keepers(server)
    os.kill(pid, signal.SIGKILL)
    nothing_is_left(server)


def test_forks_do_not_fork_for_ever(server: Server, front_end: FrontEnd) -> None:
    """All cells sent at once: what waits is run by the original, once."""
    count = "with open('count', 'a') as file: file.write('{}')"
    cells = [
        count.format("a"),
        "for fork in jupyter_cr.fork(2): fork.run(" + repr(count.format("f")) + ")",
        count.format("b"),
        SWEEP,
        count.format("c"),
    ]
    requests = [front_end.execute(cell, f"cell-{n}") for n, cell in enumerate(cells)]
    assert statuses(front_end, requests) == ["ok"] * 5
    time.sleep(1)
    assert (server.root / "count").read_text() == "affbc"
    nothing_is_left(server)


def test_a_cell_that_raises_is_rolled_back(
    server: Server, kernel_id: str, front_end: FrontEnd
) -> None:
    """With others sent behind it, which are not run."""
    cells = ["%%checkpoint before --rollback\nx = 1\n1/0", "x += 100"]
    requests = [front_end.execute(cell, f"cell-{n}") for n, cell in enumerate(cells)]

    assert statuses(front_end, requests) == ["error", "aborted"]
    reply = front_end.reply(requests[0])
    assert reply.content["ename"] == "ZeroDivisionError"
    shown = [m["content"] for m in reply.messages if m["msg_type"] == "error"]
    assert [each["ename"] for each in shown] == ["ZeroDivisionError"]
    assert "1/0" in re.sub(r"\x1b\[[\d;]*m", "", "".join(shown[0]["traceback"]))
    assert "from before it" in reply.text
    # For an instant, what comes behind a cell that raises is not run.
    front_end.reply(front_end.send("kernel_info_request", {}))
    assert front_end.value("x") == "40"
    assert own_snapshots(server) == ["before"]
    # Brought back from outside, it has not failed, and goes on with what waits.
    server.do(f"kernels/{kernel_id}/restore", snapshot="before", keep=False)
    assert front_end.value("x") == "140"
    assert not list((server.user.home / "runtime").rglob("rollback-*"))


def test_comparisons(server: Server, kernel_id: str, front_end: FrontEnd) -> None:
    """Over HTTP, and in a cell."""
    front_end.run("y = [1]\n%checkpoint one")
    front_end.run("x = 41; z = 'new'")
    front_end.run("%checkpoint two")
    found = server.do("snapshots/one/diff", after="two")
    differences = found["variables"]["differences"]
    assert {d["name"]: d["change"] for d in differences} == {"x": "changed", "z": "added"}
    assert (found["before"], found["after"]) == ("one", "two")
    assert found["document"]["problem"]
    front_end.run("del y")
    found = server.do(f"kernels/{kernel_id}/diff", before="two")
    (difference,) = found["variables"]["differences"]
    assert (difference["name"], difference["change"]) == ("y", "removed")
    assert found["after"] == ""
    found = server.do("snapshots/one/diff", after="two", variables=False)
    assert found["variables"]["problem"]
    reply = front_end.reply(front_end.execute("%diff one"))
    (shown,) = [m["content"] for m in reply.messages if m["msg_type"] == "execute_result"]
    lines = [" ".join(line.split()) for line in shown["data"]["text/plain"].splitlines()]
    assert "~ x int 40 -> 41" in lines
    assert "- y list (1) [1]" in lines
    assert own_snapshots(server) == ["two", "one"]
    assert server.fail("snapshots/one/diff", after="none")["error"] == "NoSuchSnapshot"
    wait_until(lambda: not keepers(server), "end of all that was looked at")


def test_notebooks_are_compared(server: Server, kernel_id: str) -> None:
    front_end = server.front_end(kernel_id)
    for number, sources in enumerate([("x = 1", "y = 1"), ("x = 1", "y = 2", "z = 3")]):
        model = {"type": "notebook", "content": notebook(*sources)}
        assert server.fetch("PUT", "api/contents/forks.ipynb", model)[0] in (200, 201)
        server.do(f"kernels/{kernel_id}/checkpoint", name=f"n{number}")
    front_end.run("")
    document = server.do("snapshots/n0/diff", after="n1")["document"]
    cells = {cell["id"]: (cell["change"], cell["source"]) for cell in document["cells"]}
    assert cells == {"cell-1": ("changed", "y = 2"), "cell-2": ("added", "z = 3")}
    (changed, _) = document["cells"]
    assert changed["diff"] == ["- y = 1", "+ y = 2"]
    assert "y = 2" in document["text"]
