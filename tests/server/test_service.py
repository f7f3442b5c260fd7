"""Snapshot, restore and fork over real HTTP and websockets, with a real server."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.server.harness import Server, jupyter_server, sources_of


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


def processes_of(server: Server) -> list[str]:
    """Command lines of living processes that have to do with the server's user."""
    home = str(server.user.home)
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if process.pid != server.process.pid and any(home in word for word in words):
            found.append(" ".join(words))
    return found


def test_round_trip(server: Server) -> None:
    """Variables are back, the websocket lives, and nobody says that the kernel died."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("x = [1]")
    taken = server.do(f"kernels/{kernel_id}/checkpoint", name="one", note="first")
    assert (taken["name"], taken["kernel_id"], taken["state"]) == (
        "one",
        kernel_id,
        "durable",
    )
    front_end.run("x.append(2); y = 3")
    restored = server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    assert front_end.run("print(x, 'y' in globals())") == "[1] False"
    assert not {"dead", "restarting", "autorestarting"} & set(front_end.states())
    assert server.kernels() == {kernel_id: "idle"}
    server.do(f"kernels/{kernel_id}/restore", snapshot=restored["kept"])
    assert front_end.run("print(x, y)") == "[1, 2] 3"


def test_kernel_goes_on_being_looked_after(server: Server) -> None:
    """After a restore: interrupt, restart, and nothing left after a shutdown."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    server.do(f"kernels/{kernel_id}/restore", snapshot="one", keep=False)
    request = front_end.begin("while True: pass")
    assert server.fetch("POST", f"api/kernels/{kernel_id}/interrupt")[0] == 204
    assert front_end.reply(request).content["ename"] == "KeyboardInterrupt"
    assert server.fetch("POST", f"api/kernels/{kernel_id}/restart")[0] == 200
    # As front ends do: outputs of the first moment reach nobody who has not come back.
    front_end = server.front_end(kernel_id)
    assert front_end.run("print('x' in globals())") == "False"
    server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    assert front_end.run("print(x)") == "1"
    assert server.fetch("DELETE", f"api/kernels/{kernel_id}")[0] == 204
    wait_until(lambda: not processes_of(server), "end of all processes")


def test_crash_after_restore_is_told(server: Server) -> None:
    """A kernel that dies by itself is started afresh, as Jupyter does."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    front_end.execute("import os; os.kill(os.getpid(), 9)")
    wait_until(lambda: "restarting" in front_end.states(), "news of the end")
    assert server.front_end(kernel_id).value("'x' in globals()") == "False"


def test_fork(server: Server) -> None:
    """Its own variables, ports, key and notebook; gone without a trace in the end."""
    server.write("a.ipynb", "x = 1")
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    forked = server.do("snapshots/one/fork")
    assert forked["path"] == "a-one.ipynb"
    assert server.sources("a-one.ipynb") == ["x = 1"]
    assert server.open_notebook("a-one.ipynb") == forked["kernel_id"]
    other = server.front_end(forked["kernel_id"])
    assert other.run("x += 1; print(x)") == "2"
    assert front_end.run("print(x)") == "1"
    runtime = Path(server.user.environment["JUPYTER_RUNTIME_DIR"])
    original = json.loads((runtime / f"kernel-{kernel_id}.json").read_text())
    own = json.loads(Path(forked["connection_file"]).read_text())
    assert forked["key_renewed"]
    assert own["key"] != original["key"]
    assert own["shell_port"] != original["shell_port"]
    assert server.fetch("POST", f"api/kernels/{forked['kernel_id']}/restart")[0] == 200
    other = server.front_end(forked["kernel_id"])
    assert other.run("print('x' in globals())") == "False"
    assert server.fetch("DELETE", f"api/kernels/{forked['kernel_id']}")[0] == 204
    assert not Path(forked["connection_file"]).exists()
    assert front_end.run("print(x)") == "1"


def test_fork_of_what_runs(server: Server) -> None:
    server.write("a.ipynb", "x = 1")
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    forked = server.do(f"kernels/{kernel_id}/fork")
    assert server.front_end(forked["kernel_id"]).run("print(x)") == "1"
    # The snapshot behind it was a means to an end.
    assert server.get("jupyter-cr/snapshots")["total"] == 0


def test_a_kernel_that_is_starting(server: Server) -> None:
    """The snapshot waits until forks of it can be told from it. What was sent to one that
    did not listen yet would reach the original, such as its new key."""
    kernel_id = server.fetch("POST", "api/kernels", {"name": "python3"})[1]["id"]
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    forks = [server.do("snapshots/one/fork")["kernel_id"] for _ in range(2)]
    for each in (kernel_id, *forks):
        # IPython may have more to say: they began the same session of its history.
        assert "here" in server.front_end(each).run("print('here')").splitlines()


def test_resume_after_shutdown(server: Server) -> None:
    """Under its old id, at its old notebook."""
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    server.fetch("DELETE", f"api/kernels/{kernel_id}")
    assert server.kernels() == {}
    server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    assert server.open_notebook("a.ipynb") == kernel_id
    assert server.front_end(kernel_id).run("print(x)") == "1"


def test_notebook_is_brought_back(server: Server) -> None:
    server.write("a.ipynb", "x = 1", "x")
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    server.write("a.ipynb", "something else")
    restored = server.do(f"kernels/{kernel_id}/restore", snapshot="one", document=True)
    assert server.sources("a.ipynb") == ["x = 1", "x"]
    kept = server.get(f"jupyter-cr/snapshots/{restored['kept']}/document")
    assert sources_of(kept) == ["something else"]


def test_busy_kernel(server: Server) -> None:
    """Snapshotted in the middle of a cell, it goes on in the middle of that cell, whose
    reply and outputs reach who asked for them."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    request = front_end.execute(
        "import time\nfor i in range(30): print(i, flush=True); time.sleep(0.1)", "busy"
    )
    front_end.wait_for(
        lambda messages: any(
            m["msg_type"] == "stream" and "5" in m["content"]["text"] for m in messages
        ),
        "the loop runs",
        20,
    )
    server.do(f"kernels/{kernel_id}/checkpoint", name="busy")
    time.sleep(0.5)
    restored = server.do(f"kernels/{kernel_id}/restore", snapshot="busy", keep=False)
    assert [r["msg_id"] for r in restored["running"]] == [request]
    assert restored["running"][0]["cell_id"] == "busy"
    assert server.kernels() == {kernel_id: "busy"}
    reply = front_end.reply(request)
    assert reply.status == "ok"
    # Some were printed twice: before the restore, and again after it.
    assert {int(line) for line in reply.text.split()} == set(range(30))
    assert front_end.run("print(i)") == "29"


def test_another_kernels_snapshot(server: Server) -> None:
    first, second = server.open_notebook("a.ipynb"), server.open_notebook("b.ipynb")
    server.front_end(first).run("x = 1")
    front_end = server.front_end(second)
    front_end.run("x = 2")
    server.do(f"kernels/{first}/checkpoint", name="one")
    problem = server.fail(f"kernels/{second}/restore", snapshot="one")
    assert problem["status"] == 400
    assert first in problem["detail"]
    assert problem["hint"]
    assert front_end.run("print(x)") == "2"


def test_undo(server: Server) -> None:
    """Back to the last snapshot; at once again, to the one before it; and to the last one
    again, when a cell has been run since."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    for number in range(3):
        front_end.run(f"x = {number}")
        server.do(f"kernels/{kernel_id}/checkpoint", name=f"s{number}")
    front_end.run("x = 'broken'")
    assert server.do(f"kernels/{kernel_id}/undo")["snapshot"] == "s2"
    assert server.do(f"kernels/{kernel_id}/undo")["snapshot"] == "s1"
    assert front_end.run("print(x)") == "1"
    assert server.do(f"kernels/{kernel_id}/undo")["snapshot"] == "s1"
    assert server.do(f"kernels/{kernel_id}/undo")["snapshot"] == "s0"
    assert front_end.run("print(x); x = 'broken'") == "0"
    # The same from a cell, which is run itself.
    front_end.reply(front_end.execute("%undo"))
    assert front_end.run("print(x)") == "0"
    problem = server.fail(f"kernels/{kernel_id}/undo", steps=2)
    assert (problem["status"], bool(problem["hint"])) == (404, True)


def test_a_kernel_that_has_just_died(server: Server) -> None:
    """There is nothing to keep of it, and its snapshot is all the more wanted."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    pid = int(front_end.run("import os; x = 1; print(os.getpid())"))
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "its end")
    restored = server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    assert restored["kept"] is None
    assert front_end.run("print(x)") == "1"


def test_the_tree_of_a_kernels_snapshots(server: Server) -> None:
    """Each has the one below which it was taken, also by the command line, and a fork's
    begin where it was forked."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)

    def take(name: str) -> str:
        taken = server.do(f"kernels/{kernel_id}/checkpoint", name=name)
        return str(taken["parent"])

    assert [take(name) for name in ("a", "b", "c")] == ["", "a", "b"]
    restored = server.do(f"kernels/{kernel_id}/restore", snapshot="a", keep=False)
    assert restored["position"] == "a"
    assert take("d") == "a"
    page = server.get("jupyter-cr/snapshots")
    assert page["positions"] == {kernel_id: "d"}
    parents = {s["name"]: s["parent"] for s in page["snapshots"]}
    assert parents == {"a": "", "b": "a", "c": "b", "d": "a"}
    forked = server.do("snapshots/b/fork", document=False)
    assert forked["position"] == "b"
    fork = forked["kernel_id"]
    assert server.get("jupyter-cr/snapshots")["positions"] == {kernel_id: "d", fork: "b"}
    assert server.do(f"kernels/{fork}/checkpoint", name="e")["parent"] == "b"
    # What is kept before a restore is part of the tree.
    kept = server.do(f"kernels/{kernel_id}/restore", snapshot="c")["kept"]
    details = server.get(f"jupyter-cr/snapshots/{kept}")["snapshot"]
    assert (details["parent"], details["named"], details["state"]) == (
        "d",
        False,
        "durable",
    )
    # A fork of the kernel as it is goes on from where that is.
    now = server.do(f"kernels/{kernel_id}/fork", document=False)
    assert now["position"] == "c"
    server.fetch("PATCH", "jupyter-cr/snapshots/b", {"name": "renamed", "tags": ["x", "y"]})
    server.fetch("DELETE", "jupyter-cr/snapshots/a")
    snapshots = server.get("jupyter-cr/snapshots")["snapshots"]
    parents = {s["name"]: s["parent"] for s in snapshots}
    assert parents.pop(kept) == "d"
    assert parents == {"renamed": "", "c": "renamed", "d": "", "e": "renamed"}
    assert [s["tags"] for s in snapshots if s["name"] == "renamed"] == [["x", "y"]]
    assert front_end.run("print(1)") == "1"


def test_a_kernel_that_hibernated_is_where_it_was(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    name = server.do(f"kernels/{kernel_id}/hibernate")["name"]
    server.fetch("PATCH", f"jupyter-cr/snapshots/{name}", {"name": "asleep"})
    restored = server.do(f"kernels/{kernel_id}/restore", snapshot="asleep")
    assert restored["position"] == "one"
    assert server.get("jupyter-cr/snapshots")["positions"] == {kernel_id: "one"}
    assert server.front_end(kernel_id).run("print(x)") == "1"
