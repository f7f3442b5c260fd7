"""The timeline: a point before each cell, and going back and forth between them, with real
kernels."""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.server.harness import FrontEnd, Server, jupyter_server, notebook, sources_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


class Kernel:
    """A kernel with a timeline, and a front end of it."""

    def __init__(self, server: Server, path: str = "a.ipynb", is_on: bool = True) -> None:
        self.server = server
        self.id = server.open_notebook(path)
        self.front_end: FrontEnd = server.front_end(self.id)
        self.front_end.run("pass")
        if is_on:
            self.switch(True)
            self.wait_for_point()

    def switch(self, is_on: bool) -> dict[str, Any]:
        status, timeline, _ = self.server.fetch(
            "PUT", f"jupyter-cr/kernels/{self.id}/timeline", {"is_on": is_on}
        )
        assert status == 200, timeline
        return dict(timeline)

    @property
    def timeline(self) -> dict[str, Any]:
        return dict(self.server.get(f"jupyter-cr/kernels/{self.id}/timeline"))

    @property
    def points(self) -> list[str]:
        return [point["name"] for point in self.timeline["points"]]

    def wait_for_point(self) -> str:
        """That the kernel, as it is, is one."""

        def at_base() -> bool:
            now = self.timeline
            assert not now["problem"], now
            return bool(now["base"]) and not now["since"]

        wait_until(at_base, "a point")
        return str(self.timeline["base"])

    def run(self, code: str, cell_id: str = "cell") -> str:
        """What a cell prints, once there is a point after it."""
        printed = self.front_end.run(code, cell_id=cell_id)
        self.wait_for_point()
        return printed

    def travel(self, **where: object) -> dict[str, Any]:
        return dict(self.server.do(f"kernels/{self.id}/timeline/travel", **where))

    def value(self, name: str = "x") -> str | None:
        """str() of a variable, without touching it; None if there is none."""
        content = {"code": name, "cursor_pos": len(name), "detail_level": 0}
        reply = self.front_end.reply(self.front_end.send("inspect_request", content))
        if not reply.content["found"]:
            return None
        text = re.sub(r"\x1b\[[0-9;]*m", "", reply.content["data"]["text/plain"])
        found = re.search(r"String form: *(.*)", text)
        assert found, text
        return found[1]


def statuses(front_end: FrontEnd, requests: Sequence[str]) -> list[str]:
    return [front_end.reply(request).status for request in requests]


def test_back_and_forth(server: Server) -> None:
    kernel = Kernel(server)
    for number in range(4):
        kernel.run(f"x = {number}", f"cell-{number}")
    timeline = kernel.timeline
    assert len(timeline["points"]) == 5
    assert [run["cell_id"] for point in timeline["points"] for run in point["runs"]] == [
        f"cell-{number}" for number in range(4)
    ]
    assert not timeline["forward"]
    # One at a time, and several.
    answer = kernel.travel(steps=-1)
    assert answer["run"]["cell_id"] == "cell-3"
    assert kernel.value() == "2"
    assert kernel.travel(steps=-2)["run"]["code"] == "x = 1"
    assert kernel.value() == "0"
    assert kernel.travel(steps=1)["run"] is None
    assert kernel.value() == "1"
    kernel.travel(steps=2)
    assert kernel.value() == "3"
    assert not kernel.timeline["forward"]
    problem = server.fail(f"kernels/{kernel.id}/timeline/travel", steps=1)
    assert "no such point" in problem["detail"]
    # It cost no snapshots, and the list does not show the points.
    assert len(kernel.points) == 5
    assert server.get("jupyter-cr/snapshots")["snapshots"] == []
    shown = server.get("jupyter-cr/snapshots?points=true")["snapshots"]
    assert {snapshot["name"] for snapshot in shown} == set(kernel.points)


def test_it_branches_off(server: Server) -> None:
    kernel = Kernel(server)
    kernel.run("x = 'a'")
    left = kernel.wait_for_point()
    kernel.travel(steps=-1)
    kernel.run("x = 'b'")
    assert not kernel.timeline["forward"]
    assert kernel.travel(steps=-1)["left"]
    assert kernel.timeline["forward"] != left
    kernel.travel(steps=1)
    assert kernel.value() == "b"
    # The other branch is still there.
    kernel.travel(point=left)
    assert kernel.value() == "a"
    kernel.travel(steps=-1)
    kernel.travel(steps=1)
    assert kernel.value() == "a"


def test_run_all(server: Server) -> None:
    """All are sent at once; there is a point before each all the same."""
    kernel = Kernel(server)
    requests = [kernel.front_end.execute(f"x = {n}; y = [{n}]", f"c{n}") for n in range(6)]
    assert statuses(kernel.front_end, requests) == ["ok"] * 6
    kernel.wait_for_point()
    assert len(kernel.points) == 7
    runs = [point["runs"] for point in kernel.timeline["points"]]
    assert [len(of_one) for of_one in runs] == [0] + [1] * 6
    for number in (4, 3, 2):
        kernel.travel(steps=-1)
        assert kernel.value() == str(number)


def test_run_all_stops_at_an_error(server: Server) -> None:
    """As the kernel's own queue does: the cells behind it are aborted, what comes later is
    run."""
    kernel = Kernel(server)
    codes = ["x = 1", "1/0", "x = 2", "x = 3"]
    requests = [kernel.front_end.execute(code) for code in codes]
    assert statuses(kernel.front_end, requests) == ["ok", "error", "aborted", "aborted"]
    assert kernel.value() == "1"
    assert kernel.run("print(x)") == "1"
    assert [len(kernel.front_end.of(each)) for each in requests[2:]] == [2, 2]


@pytest.mark.long
def test_two_front_ends(server: Server) -> None:
    """Cells of both wait at one gate, in the order in which they came."""
    kernel = Kernel(server)
    other = server.front_end(kernel.id)
    kernel.run("x = []")
    requests = []
    for number in range(3):
        requests.append(kernel.front_end.execute(f"x.append({number})"))
        requests.append(other.execute(f"x.append({number + 10})"))
    statuses(kernel.front_end, requests[::2])
    statuses(other, requests[1::2])
    assert sorted(json.loads(str(kernel.value()))) == [0, 1, 2, 10, 11, 12]
    kernel.wait_for_point()
    assert len(kernel.points) == 8


@pytest.mark.long
def test_a_page_that_is_closed(server: Server) -> None:
    """Its cells are run, as they are without a timeline."""
    kernel = Kernel(server)
    for number in range(5):
        kernel.front_end.execute(f"x = {number}; import time; time.sleep(0.1)")
    time.sleep(0.2)
    kernel.front_end.close()
    kernel.front_end = server.front_end(kernel.id)
    wait_until(lambda: kernel.value() == "4", "all cells are run")
    assert kernel.run("print(x)") == "4"
    kernel.travel(steps=-1)
    assert kernel.value() == "4"


@pytest.mark.long
def test_silent_code_counts(server: Server) -> None:
    """Widgets and inspectors change a kernel without a cell."""
    kernel = Kernel(server)
    kernel.run("x = 1")
    first = kernel.timeline["base"]
    kernel.front_end.value("globals().update(x=2)")
    assert kernel.run("y = 1") == ""
    assert first not in kernel.points
    kernel.travel(steps=-1)
    assert kernel.value() == "2"


THREAD = """
import threading, time
x = 0
def count():
    global x
    while go.is_set():
        x += sum(range(20000)) > 0
go = threading.Event(); go.set()
thread = threading.Thread(target=count); thread.start()
"""


@pytest.mark.long
def test_a_thread_counts(server: Server) -> None:
    """A kernel that computes between two cells goes back to what it was before the second,
    and not to what it was after the first."""
    kernel = Kernel(server)
    kernel.run(THREAD)
    time.sleep(0.5)
    before = int(str(kernel.value()))
    kernel.front_end.run("go.clear(); thread.join(); y = x")
    kernel.wait_for_point()
    kernel.travel(steps=-1)
    assert int(str(kernel.value())) >= before


LONG = """
import pathlib, time
x = "begun"
while not pathlib.Path("go").exists():
    time.sleep(0.02)
x = "ended"
"""


@pytest.mark.long
def test_in_the_middle_of_a_cell(server: Server) -> None:
    """It is undone, what waits behind it is not run, and forward it goes on."""
    kernel = Kernel(server)
    kernel.run("x = 'before'")
    running, waiting = kernel.front_end.execute(LONG), kernel.front_end.execute("x = 'no'")
    wait_until(lambda: bool(kernel.timeline["since"]), "the cell runs")
    time.sleep(0.3)
    answer = kernel.travel(steps=-1)
    assert answer["left"]
    assert statuses(kernel.front_end, [running, waiting]) == ["aborted", "aborted"]
    assert kernel.value() == "before"
    (server.root / "go").touch()
    kernel.travel(steps=1)
    wait_until(lambda: kernel.value() == "ended", "it goes on")
    kernel.wait_for_point()
    # Not into the middle of it.
    kernel.travel(steps=-1)
    assert kernel.value() == "before"


def died(kernel: Kernel) -> list[str]:
    """Cells that have ended the kernel."""
    timeline = kernel.timeline
    runs = [run for point in timeline["points"] for run in point["runs"]]
    return [r["cell_id"] for r in runs + timeline["since"] if r["outcome"] == "died"]


@pytest.mark.long
@pytest.mark.parametrize(
    "end",
    ["import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "import os; os._exit(3)"],
    ids=["signal", "exit"],
)
def test_a_cell_that_ends_the_kernel(server: Server, end: str) -> None:
    kernel = Kernel(server)
    kernel.run("x = 1")
    kernel.front_end.execute(end, "fatal")
    wait_until(lambda: "restarting" in kernel.front_end.states(), "it is restarted")
    wait_until(lambda: bool(died(kernel)), "that is noticed")
    assert died(kernel) == ["fatal"]
    assert kernel.travel(steps=-1)["run"]["cell_id"] == "fatal"
    assert kernel.value() == "1"
    assert kernel.run("print(x)") == "1"
    kernel.travel(steps=-1)
    assert kernel.value() == "1"


@pytest.mark.long
def test_a_restart_is_undone(server: Server) -> None:
    kernel = Kernel(server)
    kernel.run("x = 1")
    status, _, _ = server.fetch("POST", f"api/kernels/{kernel.id}/restart")
    assert status == 200
    kernel.front_end = server.front_end(kernel.id)
    assert kernel.value() is None
    wait_until(
        lambda: kernel.timeline["points"][-1]["runs"][0]["outcome"] == "restarted",
        "that is noticed",
    )
    kernel.wait_for_point()
    kernel.travel(steps=-1)
    assert kernel.value() == "1"
    kernel.travel(steps=1)
    assert kernel.value() is None


@pytest.mark.long
def test_a_restore_is_undone(server: Server) -> None:
    """By other means: a magic, the panel."""
    kernel = Kernel(server)
    kernel.run("x = 1")
    server.do(f"kernels/{kernel.id}/checkpoint", name="one")
    kernel.run("x = 2")
    server.do(f"kernels/{kernel.id}/restore", snapshot="one")
    assert kernel.value() == "1"
    kernel.wait_for_point()
    kernel.travel(steps=-1)
    assert kernel.value() == "2"


def put_document(kernel: Kernel, msg_id: str, *sources: str, packed: bool = True) -> None:
    content = json.dumps(notebook(*sources)).encode()
    status, answer, _ = kernel.server.fetch(
        "PUT",
        f"jupyter-cr/kernels/{kernel.id}/timeline/runs/{msg_id}/document",
        gzip.compress(content) if packed else content,
    )
    assert status == 204, answer


def first_source(kernel: Kernel, document: str) -> str:
    found = kernel.server.get(
        f"jupyter-cr/kernels/{kernel.id}/timeline/documents/{document}"
    )
    return str(found["cells"][0]["source"])


@pytest.mark.parametrize("is_early", [False, True])
def test_notebooks(server: Server, is_early: bool) -> None:
    """Each cell's is the one that the page says there was before it, and forward there is
    the one that was left, with all that had been changed."""
    kernel = Kernel(server)
    for number in range(2):
        if is_early:
            message = kernel.front_end.session.msg("execute_request")
            kernel.front_end.session.msg = lambda *a, m=message, **k: {  # type: ignore[method-assign]
                **m,
                "content": a[1],
                "metadata": k.get("metadata") or {},
            }
            put_document(kernel, message["header"]["msg_id"], f"before {number}")
        msg_id = kernel.front_end.execute(f"x = {number}")
        if is_early:
            del kernel.front_end.session.msg
        else:
            put_document(kernel, msg_id, f"before {number}", packed=bool(number))
        assert kernel.front_end.reply(msg_id).status == "ok"
        kernel.wait_for_point()
    answer = kernel.travel(steps=-1, document=notebook("edited"))
    assert first_source(kernel, answer["document"]) == "before 1"
    answer = kernel.travel(steps=-1, document=notebook("before 1"))
    assert first_source(kernel, answer["document"]) == "before 0"
    answer = kernel.travel(steps=2, document=notebook("before 0"))
    assert first_source(kernel, answer["document"]) == "edited"
    assert kernel.value() == "1"


@pytest.mark.long
def test_what_is_no_notebook(server: Server) -> None:
    kernel = Kernel(server)
    path = f"jupyter-cr/kernels/{kernel.id}/timeline/runs/abc/document"
    for body in (b"[]", b"", b"\x1f\x8bno", gzip.compress(b"no")):
        status, problem, _ = server.fetch("PUT", path, body)
        assert status == 400, (body, problem)
    status, _, _ = server.fetch("PUT", path, b"{}")
    assert status == 204
    base = f"jupyter-cr/kernels/{kernel.id}/timeline/documents/abc"
    assert server.fetch("GET", base)[0] == 404


@pytest.mark.long
def test_it_is_remembered(server: Server) -> None:
    kernel = Kernel(server)
    kernel.run("x = 1")
    server.fetch("DELETE", f"api/kernels/{kernel.id}")
    again = Kernel(server, is_on=False)
    assert again.timeline["is_on"]
    assert again.timeline["is_chosen"]
    again.wait_for_point()
    again.switch(False)
    timeline = again.timeline
    assert not timeline["is_on"]
    assert timeline["points"] == []
    assert again.front_end.run("print(1)") == "1"
    other = Kernel(server, "b.ipynb", is_on=False)
    assert not other.timeline["is_chosen"]


def test_a_point_is_kept(server: Server) -> None:
    """With its notebook, as a front end has sent it; or as it is in its file."""
    server.write("a.ipynb", "in its file")
    kernel = Kernel(server)
    kernel.run("x = 1")
    point = kernel.timeline["base"]
    request = kernel.front_end.execute("x = 2")
    put_document(kernel, request, "as it was", packed=False)
    assert statuses(kernel.front_end, [request]) == ["ok"]
    kernel.wait_for_point()
    kept = server.do(
        f"kernels/{kernel.id}/timeline/points/{point}/keep", name="good", note="so far"
    )
    assert (kept["name"], kept["note"], kept["named"]) == ("good", "so far", True)
    assert point in kernel.points
    assert server.get("jupyter-cr/snapshots")["total"] == 1
    assert sources_of(server.get("jupyter-cr/snapshots/good/document")) == ["as it was"]
    last = kernel.timeline["base"]
    server.do(f"kernels/{kernel.id}/timeline/points/{last}/keep", name="last")
    assert sources_of(server.get("jupyter-cr/snapshots/last/document")) == ["in its file"]
    kernel.travel(steps=-1)
    assert kernel.value() == "1"
    kernel.switch(False)
    kernel.front_end.run("x = 3")
    server.do(f"kernels/{kernel.id}/restore", snapshot="good")
    assert kernel.value() == "1"


def test_it_is_refused(server: Server) -> None:
    """The cell is run all the same, and the timeline says why; when it can be, it is
    again."""
    kernel = Kernel(server)
    kernel.front_end.run("import ctypes, os; fd = ctypes.CDLL(None).inotify_init(); x = 1")
    wait_until(lambda: bool(kernel.timeline["problem"]), "that is told")
    assert "inotify" in kernel.timeline["problem"]
    assert kernel.timeline["hint"]
    requests = [kernel.front_end.execute(f"x = {n}") for n in range(3)]
    assert statuses(kernel.front_end, requests) == ["ok"] * 3
    kernel.front_end.run("os.close(fd)")
    wait_until(lambda: not kernel.timeline["problem"], "it is well again")
    kernel.wait_for_point()
    assert kernel.run("print(x)") == "2"
    kernel.travel(steps=-2)
    assert kernel.value() is None


def test_what_cannot_be_kept_is_not_lost(server: Server) -> None:
    kernel = Kernel(server)
    kernel.run("x = 1")
    kernel.front_end.run("import ctypes; ctypes.CDLL(None).inotify_init(); x = 2")
    wait_until(lambda: bool(kernel.timeline["problem"]), "that is told")
    problem = server.fail(f"kernels/{kernel.id}/timeline/travel", steps=-1)
    assert problem["not_kept"]
    assert kernel.value() == "2"
    answer = kernel.travel(steps=-1, keep=False)
    assert answer["left"] == ""
    assert kernel.value() == "1"
    assert not kernel.timeline["problem"]


COMMAND = '{} -c "import sys; from jupyter_cr.cli import main; sys.exit(main())"'


@pytest.mark.parametrize("place", ["cell", "command"])
def test_the_switch_from_within(server: Server, place: str) -> None:
    kernel = Kernel(server, is_on=False)
    command = (
        "%checkpoint --auto {}"
        if place == "cell"
        else f"!{COMMAND.format(server.user.python)} timeline {kernel.id} {{}}"
    )
    printed = kernel.front_end.run(command.format("on"))
    assert kernel.timeline["is_on"], printed
    kernel.wait_for_point()
    kernel.run("x = 1")
    kernel.travel(steps=-1)
    assert kernel.value() is None
    printed = kernel.front_end.run(command.format("off"))
    assert not kernel.timeline["is_on"], printed


@pytest.mark.long
def test_points_are_thinned(user: User) -> None:
    """What the policy does not keep goes, but for where the kernel is, and the one before;
    what is left can be gone back to."""
    with jupyter_server(user, "--SnapshotExtension.timeline_retention=last 3") as server:
        kernel = Kernel(server)
        for number in range(6):
            kernel.run(f"x = {number}")
        wait_until(lambda: len(kernel.points) == 3, "thinned")
        kernel.travel(steps=-2)
        assert kernel.value() == "3"
        problem = server.fail(f"kernels/{kernel.id}/timeline/travel", steps=-1)
        assert "no such point" in problem["detail"]
        kernel.travel(steps=2)
        assert kernel.value() == "5"
        left = server.get("jupyter-cr/snapshots?points=true")["snapshots"]
        assert {snapshot["name"] for snapshot in left} == set(kernel.points)


@pytest.mark.long
def test_memory_is_limited(user: User) -> None:
    with jupyter_server(user, "--SnapshotExtension.timeline_mib=100") as server:
        kernel = Kernel(server)
        for _ in range(8):
            kernel.run("x = bytearray(b'x') * (40 << 20)")
        # Also where nothing comes after them.
        wait_until(lambda: len(kernel.points) < 8, "the oldest go")
        wait_until(lambda: 0 < kernel.timeline["bytes"] < 100 << 20, "within the limit")
        kernel.run("y = 1")
        assert kernel.timeline["limit"] == 100 << 20
        kernel.travel(steps=-1)
        assert kernel.value("y") is None


@pytest.mark.long
def test_nothing_is_left(user: User) -> None:
    """Neither of a server that stops nor of one that was killed."""
    store = user.environment["JUPYTER_CR_HOME"]
    with jupyter_server(user) as killed:
        kernel = Kernel(killed)
        kernel.run("x = 1")
        assert len(os.listdir(f"{store}/snapshots")) == 2
        killed.kill()
        with jupyter_server(user) as server:
            wait_until(lambda: not os.listdir(f"{store}/snapshots"), "nothing is left")
            assert kernel.id in server.kernels()
            again = Kernel(server)
            assert again.id == kernel.id
            again.run("x = 2")
            assert len(os.listdir(f"{store}/snapshots")) >= 2
        assert not os.listdir(f"{store}/snapshots")


@pytest.mark.long
def test_a_kernel_that_hibernates_needs_no_memory(server: Server) -> None:
    kernel = Kernel(server)
    kernel.run("x = 1")
    server.do(f"kernels/{kernel.id}/hibernate")
    wait_until(
        lambda: (
            not [
                snapshot
                for snapshot in server.get("jupyter-cr/snapshots?points=true")["snapshots"]
                if snapshot["automatic"] == "timeline"
            ]
        ),
        "no points",
    )
