"""Which cell was run last, and which one ran: as snapshots tell it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import CommandLine
from tests.server.harness import FrontEnd, Server, jupyter_server

WAIT = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


def taken(server: Server, kernel_id: str, name: str) -> tuple[str, Any, Any]:
    """What a new snapshot says in a list, and in its details of the last cell and of the
    one that runs."""
    server.do(f"kernels/{kernel_id}/checkpoint", name=name)
    return told(server, name)


def told(server: Server, name: str) -> tuple[str, Any, Any]:
    line = server.get(f"jupyter-cr/snapshots/{name}/summary")
    notebook = server.get(f"jupyter-cr/snapshots/{name}")["header"]["notebook"]
    return line["cell"], notebook["last_cell"], notebook["running_cell"]


def begun(front_end: FrontEnd, code: str, cell_id: str) -> str:
    """A cell that runs; its request."""
    request = front_end.execute(code, cell_id)
    front_end.wait_for(
        lambda _: any(m["msg_type"] == "execute_input" for m in front_end.of(request)),
        "the cell begins",
        LIMIT,
    )
    return request


def let_go(server: Server) -> None:
    (server.root / "go").touch()


def test_the_last_cell(server: Server) -> None:
    kernel = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel)
    assert taken(server, kernel, "none") == ("", None, None)
    front_end.run("\n   \n  # first\nx = 1")
    first = {"number": 1, "source": "# first"}
    assert taken(server, kernel, "one") == ("[1] # first", first, None)
    front_end.run("x = " + "1 + " * 100 + "1")
    line, last, _ = taken(server, kernel, "two")
    assert last["number"] == 2
    assert len(last["source"]) == 120
    assert last["source"].endswith("1 +…")
    assert line == f"[2] {last['source']}"
    # What no cell has asked for, none is told of.
    front_end.value("x")
    front_end.reply(front_end.execute("y = 2", cell_id=""))
    assert taken(server, kernel, "three")[1] == last

    # One that fails was run, too; and one that is found by what it says.
    front_end.reply(front_end.execute("1 / 0"))
    assert taken(server, kernel, "four")[0] == "[4] 1 / 0"
    found = server.get("jupyter-cr/snapshots?q=1+%2F+0")["snapshots"]
    assert [snapshot["name"] for snapshot in found] == ["four"]

    # A kernel that was brought back is where it was then, and so is a fork.
    server.do(f"kernels/{kernel}/restore", snapshot="one", keep=False)
    assert taken(server, kernel, "again") == ("[1] # first", first, None)
    fork = server.do("snapshots/two/fork", document=False)["kernel_id"]
    assert taken(server, fork, "forked")[0] == line
    fork_end = server.front_end(fork)
    fork_end.run("x = 3")
    assert taken(server, fork, "grown")[0] == "[3] x = 3"

    assert server.fetch("POST", f"api/kernels/{kernel}/restart")[0] == 200
    assert taken(server, kernel, "restarted")[0] == ""


def test_the_one_that_runs(server: Server) -> None:
    kernel = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel)
    front_end.run("x = 1")
    request = begun(front_end, WAIT, "waits")
    waiting = front_end.execute("x = 3", "after")
    last = {"number": 1, "source": "x = 1"}
    running = {"number": 2, "source": "import os, time"}
    expected = ("[*] import os, time", last, running)
    assert taken(server, kernel, "running") == expected
    details = server.get("jupyter-cr/snapshots/running")
    assert len(details["header"]["notebook"]["running"]) == 2
    let_go(server)
    front_end.reply(request)
    front_end.reply(waiting)
    assert taken(server, kernel, "ended") == (
        "[3] x = 3",
        {"number": 3, "source": "x = 3"},
        None,
    )

    (server.root / "go").unlink()
    server.do(f"kernels/{kernel}/restore", snapshot="running", keep=False)
    assert taken(server, kernel, "back") == expected
    let_go(server)
    wait_until(lambda: server.kernels()[kernel] == "idle", "the cells end")
    front_end.run("x")
    assert taken(server, kernel, "done") == (
        "[4] x",
        {"number": 4, "source": "x"},
        None,
    )


def test_in_a_terminal(server: Server, user: User) -> None:
    kernel = server.open_notebook("a.ipynb")
    server.front_end(kernel).run("x = [1, 2]")
    taken(server, kernel, "one")
    details = CommandLine(user)("show", "one")
    assert details["header"]["notebook"]["last_cell"] == {
        "number": 1,
        "source": "x = [1, 2]",
    }
