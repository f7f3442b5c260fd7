"""All cells of a notebook sent at once, as "Run All Cells" does, with one among them that
goes back to a snapshot which an earlier one has taken."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.server.harness import FrontEnd, Server, jupyter_server
from tests.server.test_kinds_of_kernels import require, write_kernel_spec

COUNT = "with open('count', 'a') as file: file.write('{}')"


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


def command(server: Server) -> str:
    """``jupyter cr``, in a cell."""
    code = "import sys; from jupyter_cr.cli import main; sys.exit(main())"
    return f'{server.user.python} -c "{code}"'


def counted(server: Server) -> str:
    """What cells have written: files are not rolled back."""
    path = server.root / "count"
    return path.read_text() if path.exists() else ""


def own_snapshots(server: Server) -> list[str]:
    return [each["name"] for each in server.get("jupyter-cr/snapshots")["snapshots"]]


def statuses(front_end: FrontEnd, requests: Sequence[str]) -> list[str]:
    """Of the first replies."""

    def all_replied(messages: Sequence[dict[str, Any]]) -> list[str] | None:
        first: dict[str, str] = {}
        for message in messages:
            if message["msg_type"] == "execute_reply":
                parent = message["parent_header"]["msg_id"]
                first.setdefault(parent, message["content"]["status"])
        found = [first.get(request, "") for request in requests]
        return found if all(found) else None

    found: list[str] = front_end.wait_for(all_replied, "replies to all cells", 30)
    return found


def settled(server: Server) -> str:
    """What is counted when that has not changed for a while: nothing goes round."""
    before = None
    while (now := (counted(server), own_snapshots(server))) != before:
        before = now
        time.sleep(1.5)
    return counted(server)


@pytest.mark.parametrize(
    "back",
    [
        "%restore before",
        pytest.param("%undo", marks=pytest.mark.long),
        pytest.param(
            "import jupyter_cr; jupyter_cr.restore('before')", marks=pytest.mark.long
        ),
        pytest.param("!{command} restore before", marks=pytest.mark.long),
        pytest.param("%%checkpoint inner --rollback\n1/0", marks=pytest.mark.long),
    ],
    ids=["restore", "undo", "api", "command", "rollback"],
)
def test_it_goes_back_once(server: Server, back: str) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    back = back.replace("{command}", command(server))
    cells = ["x = 1", "%checkpoint before", "x = 2", COUNT.format("a"), back]
    cells.append(COUNT.format("b"))
    requests = [front_end.execute(code) for code in cells]
    found = statuses(front_end, requests)
    assert found == ["ok"] * 4 + (
        # The cell that had begun with a snapshot goes on in it: it raises what it had.
        ["error" if "inner" in back else "aborted", "aborted"]
    )
    assert settled(server) == "a"
    assert front_end.run("print(x)") == ("2" if "inner" in back else "1")
    assert len(own_snapshots(server)) == 2, own_snapshots(server)
    assert not {"dead", "restarting"} & set(front_end.states())
    # Once more, by hand, and again all at once.
    requests = [front_end.execute(code) for code in cells[3:]]
    found = statuses(front_end, requests)
    assert found[0] == "ok"
    assert found[2] == "aborted"
    assert settled(server) == "aa"


def test_from_outside_it_goes_on(server: Server) -> None:
    """As if nothing had happened."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    cells = ["%checkpoint before", COUNT.format("a"), COUNT.format("b")]
    assert statuses(front_end, [front_end.execute(code) for code in cells]) == ["ok"] * 3
    server.do(f"kernels/{kernel_id}/restore", snapshot="before")
    assert settled(server) == "abab"
    assert front_end.run("print(1)") == "1"


@pytest.mark.long
def test_what_is_asked_afterwards_is_run(server: Server) -> None:
    """While the cell still runs that had taken the snapshot."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    take = (
        "import time, jupyter_cr\n"
        "if jupyter_cr.checkpoint('before').is_restore: time.sleep(5)"
    )
    requests = [
        front_end.execute(code)
        for code in (take, COUNT.format("a"), "%restore before", COUNT.format("b"))
    ]
    front_end.wait_for(
        lambda _: any(
            each["kernel_id"] == kernel_id and each["state"] == "done"
            for each in server.get("jupyter-cr/tasks")["tasks"]
            if each["operation"] == "restore"
        ),
        "the restore",
        30,
    )
    later = front_end.execute(COUNT.format("c"))
    assert statuses(front_end, [*requests, later]) == [
        "ok",
        "ok",
        "aborted",
        "aborted",
        "ok",
    ]
    assert settled(server) == "ac"


def test_what_is_asked_meanwhile_is_not_run(server: Server) -> None:
    """It waits behind the cell that goes back, wherever that is; with a slow connection
    or a busy server, the rest of Run All comes then."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("x = 1")
    front_end.reply(front_end.execute("%checkpoint before"))
    restore = front_end.execute("x = 2\n%restore before")
    wait_until(
        lambda: any(
            each["operation"] == "restore" and each["state"] == "running"
            for each in server.get("jupyter-cr/tasks")["tasks"]
        ),
        "the restore has begun",
    )
    later = [front_end.execute(COUNT.format(name)) for name in "ab"]
    assert statuses(front_end, [restore, *later]) == ["aborted"] * 3
    assert settled(server) == ""
    assert front_end.run("print(x)") == "1"
    assert [len(front_end.of(each)) for each in later] == [2, 2]


@pytest.mark.long
def test_a_fork_stops_there(server: Server) -> None:
    """Else each fork would make another."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    cells = ["x = 1", "%checkpoint before", COUNT.format("a"), "%fork before"]
    requests = [front_end.execute(code) for code in [*cells, COUNT.format("b")]]
    assert statuses(front_end, requests) == ["ok"] * 5
    assert settled(server) == "ab"
    (forked,) = set(server.kernels()) - {kernel_id}
    other = server.front_end(forked)
    assert other.run("print(x)") == "1"

    # And what holds of an original holds of a fork.
    cells = ["x = 3", "%checkpoint second", "x = 4", "%restore second", "x = 5"]
    requests = [other.execute(code) for code in cells]
    assert statuses(other, requests) == ["ok"] * 3 + ["aborted"] * 2
    assert settled(server) == "ab"
    assert other.run("print(x)") == "3"
    assert len(server.kernels()) == 2


@pytest.mark.long
def test_a_kernel_that_cannot_leave_it_out_is_refused(user: User) -> None:
    """Nothing of ours is loaded into it."""
    require("bash_kernel")
    write_kernel_spec(
        user, "bash", ["python", "-m", "bash_kernel", "-f", "{connection_file}"]
    )
    with jupyter_server(user) as server:
        kernel_id = server.open_notebook("a.ipynb", "bash")
        front_end = server.front_end(kernel_id)
        cells = [
            "sleep 4",
            "printf a >> count",
            f"{command(server)} restore before",
            "printf b >> count",
        ]
        requests = [front_end.execute(code) for code in cells]
        wait_until(lambda: "busy" in front_end.states(), "the first cell runs")
        server.do(f"kernels/{kernel_id}/checkpoint", name="before")
        # The command fails, and bash_kernel says so.
        assert statuses(front_end, requests) == ["ok", "ok", "error", "aborted"]
        said = " ".join(front_end.reply(requests[2]).text.split())
        assert "ask again, and so on for ever" in said, said
        assert settled(server) == "a"
        assert own_snapshots(server) == ["before"]
        # By itself it may: what waited is run again, as nothing could keep it from that,
        # and refused again.
        front_end.execute(f"{command(server)} restore before")
        wait_until(lambda: counted(server) == "aa", "what waited is run again")
        assert settled(server) == "aa"
        assert front_end.run("echo $((6 * 7))") == "42"
