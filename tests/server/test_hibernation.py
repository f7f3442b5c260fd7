"""Kernels that are saved and ended, and go on when their notebooks are opened."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.engine.kernels import CommandLine, is_alive
from tests.server.harness import Server, jupyter_server

TICKS = """
import os, subprocess, sys, threading, time
out = open({path!r}, "a")
def tick():
    number = 0
    while True:
        number += 1
        out.write(f"{{number}}\\n"); out.flush()
        time.sleep(0.002)
threading.Thread(target=tick, daemon=True).start()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
x = 41
print(os.getpid(), child.pid)
"""
"""What must not happen twice, nor be left out."""


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


def numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


def names(server: Server) -> list[str]:
    return [s["name"] for s in server.get("jupyter-cr/snapshots")["snapshots"]]


def hibernate(server: Server, kernel_id: str) -> str:
    """The name of the snapshot."""
    return str(server.do(f"kernels/{kernel_id}/hibernate")["name"])


def test_nothing_happens_twice(server: Server) -> None:
    ticks = server.root / "ticks"
    kernel_id = server.open_notebook("a.ipynb")
    pids = server.front_end(kernel_id).run(TICKS.format(path=str(ticks))).split()
    wait_until(lambda: len(numbers(ticks)) > 20)

    name = hibernate(server, kernel_id)

    assert not any(is_alive(int(pid)) for pid in pids)
    assert server.kernels() == {}
    assert server.get("api/sessions") == []
    (snapshot,) = server.get("jupyter-cr/snapshots")["snapshots"]
    assert (snapshot["name"], snapshot["automatic"]) == (name, "hibernated")
    before = numbers(ticks)
    assert before == list(range(1, len(before) + 1))

    assert server.open_notebook("a.ipynb") == kernel_id

    (session,) = server.get("api/sessions")
    assert (session["path"], session["kernel"]["id"]) == ("a.ipynb", kernel_id)
    assert server.front_end(kernel_id).run("x += 1; print(x, child.poll())") == "42 None"
    wait_until(lambda: len(numbers(ticks)) > len(before) + 20)
    after = numbers(ticks)
    assert after == list(range(1, len(after) + 1))
    assert names(server) == []
    operations = [task["operation"] for task in server.get("jupyter-cr/tasks")["tasks"]]
    assert operations == ["hibernate", "resume"]
    # Shut down by the user, it is to start afresh.
    server.fetch("DELETE", f"api/sessions/{session['id']}")
    assert server.open_notebook("a.ipynb") != kernel_id


def test_a_later_server(user: User) -> None:
    """The snapshot is all that there is."""
    with jupyter_server(user) as server:
        kernel_id = server.open_notebook("a.ipynb")
        server.front_end(kernel_id).run("x = 41")
        hibernate(server, kernel_id)
    for path in Path(user.environment["JUPYTER_RUNTIME_DIR"]).glob("kernel-*.json"):
        path.unlink()
    with jupyter_server(user) as server:
        assert server.open_notebook("a.ipynb") == kernel_id
        assert server.front_end(kernel_id).run("print(x + 1)") == "42"


def test_a_cell_that_runs(server: Server) -> None:
    """It goes on in the middle; the page that had sent it gets the rest."""
    go = server.root / "go"
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    request = front_end.execute(
        f"import os, time\nprint('first')\nwhile not os.path.exists({str(go)!r}): "
        "time.sleep(0.02)\nprint('last')"
    )
    front_end.wait_for(
        lambda _: any(m["msg_type"] == "stream" for m in front_end.of(request)), "it", 20
    )
    hibernate(server, kernel_id)
    assert server.open_notebook("a.ipynb") == kernel_id
    back = server.front_end(kernel_id, front_end.session.session)
    go.touch()
    reply = back.reply(request)
    assert (reply.status, reply.text.split()[-1]) == ("ok", "last")


def test_restored_by_name(server: Server) -> None:
    """From the list of snapshots, and from a terminal."""
    cr = CommandLine(server.user)
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 41")
    name = hibernate(server, kernel_id)
    server.do(f"kernels/{kernel_id}/restore", snapshot=name)
    (session,) = server.get("api/sessions")
    assert (session["path"], session["kernel"]["id"]) == ("a.ipynb", kernel_id)
    assert server.front_end(kernel_id).run("x += 1; print(x)") == "42"
    assert names(server) == []
    assert cr("hibernate", kernel_id[:8], "--note", "for now")["state"] == "durable"
    (snapshot,) = server.get("jupyter-cr/snapshots")["snapshots"]
    assert (snapshot["automatic"], snapshot["note"]) == ("hibernated", "for now")
    assert server.open_notebook("a.ipynb") == kernel_id
    assert server.front_end(kernel_id).run("print(x)") == "42"


def test_two_open_it_at_once(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 41")
    hibernate(server, kernel_id)
    with ThreadPoolExecutor() as pool:
        opened = list(pool.map(server.open_notebook, ["a.ipynb"] * 2))
    assert opened == [kernel_id] * 2
    assert server.front_end(kernel_id).run("print(x + 1)") == "42"


def start_session(server: Server, path: str, **kernel: str) -> tuple[int, Any]:
    """As JupyterLab does it: under a path that it makes up, which it changes later."""
    directory, _, name = path.rpartition("/")
    made_up = f"{directory}/{uuid.uuid4()}".lstrip("/")
    body = {"path": made_up, "name": name, "type": "notebook", "kernel": kernel}
    status, session, _ = server.fetch("POST", "api/sessions", body)
    if status == 201:
        url = f"api/sessions/{session['id']}"
        status, session, _ = server.fetch("PATCH", url, {"path": path})
    return status, session


def test_opened_by_jupyterlab(server: Server) -> None:
    (server.root / "in").mkdir()
    for path in ("a.ipynb", "in/a.ipynb"):
        kernel_id = server.open_notebook(path)
        server.front_end(kernel_id).run(f"x = {path!r}")
        hibernate(server, kernel_id)
    for path in ("a.ipynb", "in/a.ipynb"):
        status, session = start_session(server, path, name="python3")
        assert (status, session["path"]) == (200, path)
        front_end = server.front_end(session["kernel"]["id"])
        assert front_end.run("print(x)") == path
    assert names(server) == []


def test_asked_for_by_id(server: Server) -> None:
    """Whatever it works for: a page knows which kernel it had."""
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 41")
    hibernate(server, kernel_id)
    with ThreadPoolExecutor() as pool:
        opened = pool.map(
            lambda path: start_session(server, path, id=kernel_id),
            ["renamed.ipynb", "beside.ipynb"],
        )
        for status, session in opened:
            assert (status, session["kernel"]["id"]) == (200, kernel_id)
    assert server.front_end(kernel_id).run("print(x + 1)") == "42"


def test_another_kernel_is_wanted(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 41")
    name = hibernate(server, kernel_id)
    spec = server.user.home / "data" / "kernels" / "other" / "kernel.json"
    command = [server.user.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.parent.mkdir(parents=True)
    spec.write_text(
        json.dumps({"argv": command, "display_name": "Other", "language": "python"})
    )
    other = server.open_notebook("a.ipynb", "other")
    assert other != kernel_id
    assert server.get(f"api/kernels/{other}")["name"] == "other"
    assert server.open_notebook("b.ipynb") != kernel_id
    assert names(server) == [name]


def test_it_cannot_be_saved(server: Server) -> None:
    """The kernel goes on, and would be started afresh if it crashed now."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("import ctypes, os; fd = ctypes.CDLL(None).inotify_init1(0); x = 41")
    problem = server.fail(f"kernels/{kernel_id}/hibernate")
    assert "inotify" in problem["detail"]
    assert problem["hint"]
    assert names(server) == []
    assert front_end.run("print(x + 1)") == "42"
    front_end.execute("os._exit(1)")
    front_end.wait_for(lambda _: "restarting" in front_end.states(), "a new one", 20)
    assert server.front_end(kernel_id).value("'x' in globals()") == "False"


def test_it_cannot_be_resumed(server: Server) -> None:
    """A fresh kernel is started, the log says why, and nothing is lost."""
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 41")
    name = hibernate(server, kernel_id)
    home = Path(server.user.environment["JUPYTER_CR_HOME"])
    (stored,) = home.glob("packs/*.pack")
    with stored.open("r+b") as pages:
        was = pages.read(7)
        pages.seek(0)
        pages.write(b"damaged")
    status, problem = start_session(server, "a.ipynb", id=kernel_id)
    assert status == 500
    assert "does not match its checksum" in problem["message"]
    assert server.kernels() == {}
    fresh = server.open_notebook("a.ipynb")
    assert fresh != kernel_id
    assert server.front_end(fresh).run("print('x' in globals())") == "False"
    assert "cannot be resumed" in server.log.read_text()
    assert names(server) == [name]
    server.fetch("DELETE", f"api/kernels/{fresh}")
    with stored.open("r+b") as pages:
        pages.write(was)
    assert server.open_notebook("a.ipynb") == kernel_id
    assert server.front_end(kernel_id).run("print(x + 1)") == "42"


def test_culled(user: User) -> None:
    options = (
        "--MappingKernelManager.cull_idle_timeout=2",
        "--MappingKernelManager.cull_interval=1",
        "--SnapshotExtension.hibernate_culled=True",
    )
    with jupyter_server(user, *options) as server:
        kernel_id = server.open_notebook("a.ipynb")
        other_id = server.open_notebook("b.ipynb")
        front_end, other = server.front_end(kernel_id), server.front_end(other_id)
        front_end.run("x = 41")
        other.run("import ctypes; fd = ctypes.CDLL(None).inotify_init1(0)")
        front_end.close()
        other.close()
        wait_until(lambda: server.kernels() == {}, "all are culled")
        (snapshot,) = server.get("jupyter-cr/snapshots")["snapshots"]
        assert snapshot["kernel_id"] == kernel_id
        assert f"Kernel {other_id} cannot hibernate" in server.log.read_text()
        assert server.open_notebook("a.ipynb") == kernel_id
        assert server.front_end(kernel_id).run("print(x + 1)") == "42"


def test_the_server_stops(user: User) -> None:
    option = "--SnapshotExtension.hibernate_on_stop=True"
    kernels = {}
    with jupyter_server(user, option) as server:
        for number in range(3):
            path = f"{number}.ipynb"
            kernels[path] = server.open_notebook(path)
            server.front_end(kernels[path]).run(f"x = {number}")
    with jupyter_server(user, option) as server:
        assert server.kernels() == {}
        for number, (path, kernel_id) in enumerate(kernels.items()):
            assert server.open_notebook(path) == kernel_id
            assert server.front_end(kernel_id).run("print(x)") == str(number)


def test_memory_is_short(user: User) -> None:
    """Who is connected to a page, or computes, is left alone."""
    option = f"--SnapshotExtension.hibernate_below_mib={1 << 30}"
    with jupyter_server(user, option) as server:
        looked_at = server.open_notebook("a.ipynb")
        unseen = server.open_notebook("b.ipynb")
        server.front_end(looked_at).run("x = 1")
        front_end = server.front_end(unseen)
        front_end.run("x = 2")
        front_end.close()
        wait_until(lambda: list(server.kernels()) == [looked_at], "the other is saved")
        assert server.open_notebook("b.ipynb") == unseen
        assert server.front_end(unseen).run("print(x)") == "2"
