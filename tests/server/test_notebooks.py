"""Every notebook that people learn from, run cell by cell in a real server as a front end
runs it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import ROOT, User
from tests.engine.harness import wait_until
from tests.server.harness import FrontEnd, Reply, Server, jupyter_server

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KILLS = re.compile(r"signal\.SIG(KILL|SEGV)")
RESTART_LIMIT = 30.0
"""Seconds until the server has noticed that a kernel was killed, and started another."""


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


@dataclass(frozen=True)
class Cell:
    """What was run, and what came of it."""

    source: str
    request: str
    text: str
    """All that it has printed, and what it has returned."""


@dataclass
class Reading:
    """A notebook that somebody has read to its end."""

    server: Server
    front_end: FrontEnd
    cells: Sequence[Cell]

    def printed(self, beginning: str) -> list[str]:
        """What came of each of the cells that begin so."""
        found = [cell.text for cell in self.cells if cell.source.startswith(beginning)]
        assert found, beginning
        return found

    def cell(self, beginning: str) -> Cell:
        """The only one that begins so."""
        (found,) = [cell for cell in self.cells if cell.source.startswith(beginning)]
        return found

    def fork(self, path: str) -> FrontEnd:
        """A front end for a fork, which has that notebook."""
        sessions = self.server.get("api/sessions")
        kernels = {session["path"]: session["kernel"]["id"] for session in sessions}
        assert path in kernels
        return self.server.front_end(kernels[path])


def sources(path: Path) -> list[str]:
    document: dict[str, Any] = json.loads(path.read_text())
    return [
        "".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"
    ]


def read(server: Server, name: str, undone: Sequence[str] = ()) -> Reading:
    """Run its cells one after the other. Each succeeds, but for those that end the kernel
    that was asked: one that restores is called off, one that kills has no reply.

    Args:
        undone: beginnings of cells that are undone as soon as they have ended.
    """
    path = ROOT / "notebooks" / name
    model = {"type": "notebook", "content": json.loads(path.read_text())}
    server.fetch("PUT", f"api/contents/{name}", model)
    kernel_id = server.open_notebook(name)
    front_end = server.front_end(kernel_id)
    cells = []
    for number, source in enumerate(sources(path)):
        request = front_end.execute(source, f"cell-{number}")
        text = ""
        if KILLS.search(source):
            wait_for_another(front_end)
        else:
            reply = front_end.reply(request)
            expected = "aborted" if source.startswith("%restore") else "ok"
            if "--rollback" in source:
                expected = "error"
            assert reply.status == expected, (source, reply.content)
            text = outputs(reply)
            if expected == "error":
                # For an instant, what comes behind a cell that raises is not run.
                front_end.reply(front_end.send("kernel_info_request", {}))
        cells.append(Cell(source, request, text))
        if source.startswith(tuple(undone)):
            went = server.do(f"kernels/{kernel_id}/timeline/travel", steps=-1)
            assert went["run"]["cell_id"] == f"cell-{number}"
    has_died = {"dead", "restarting"} & set(front_end.states())
    assert bool(has_died) == any(KILLS.search(cell.source) for cell in cells)
    return Reading(server, front_end, cells)


def outputs(reply: Reply) -> str:
    results = [
        message["content"]["data"]["text/plain"]
        for message in reply.messages
        if message["msg_type"] == "execute_result"
    ]
    return "".join([reply.text, *results]).strip()


def wait_for_another(front_end: FrontEnd) -> None:
    """Wait until the kernel was started afresh, and its outputs are heard."""
    front_end.wait_for(
        lambda _: "restarting" in front_end.states(), "a new kernel", RESTART_LIMIT
    )
    for _ in range(int(RESTART_LIMIT)):
        with suppress(AssertionError):
            front_end.reply(front_end.send("kernel_info_request", {}), limit=1)
            return
    pytest.fail("the new kernel is not heard")


def test_tutorial(server: Server) -> None:
    reading = read(server, "tutorial.ipynb")
    texts = [cell.text for cell in reading.cells]
    assert "[0, 1, 4, 9, 16] 41" in texts
    assert "gone: True" in texts
    assert "[0, 1, 4, 9, 16] 25 42" in texts
    assert reading.printed("print(balance)") == ["100"]
    assert "original" in texts
    assert reading.fork("tutorial-before.ipynb").value("next(squares)") == "25"


def test_children_and_files(server: Server) -> None:
    reading = read(server, "children-and-files.ipynb")
    factorials = "[1, 1, 2, 6, 24, 120]"
    assert reading.printed("shell.kill()") == ["not read yet\nworkers: []"]
    assert reading.printed("print(ask(") == [
        f"42\n{factorials} True\nnot read yet\na draft"
    ]
    assert reading.printed("print(Path(") == ["['one', 'two', 'three']"]
    assert reading.printed('print("THREE"') == ["['one', 'two', 'THREE']"]
    assert "AF_NETLINK" in reading.cell("import socket").text
    fork = reading.fork("children-and-files-family.ipynb")
    assert fork.run("print(ask('echo $n'), pool.map(abs, [-3]), workers() == hired)") == (
        "41 [3] True"
    )


@pytest.mark.long
def test_long_computation(server: Server) -> None:
    reading = read(server, "long-computation.ipynb")
    loop = reading.cell("for step in")
    assert loop.text.count("step ") == 20
    assert reading.printed('print("still') == ["still there: False"]
    assert reading.printed('print("steps:"')[0].startswith("steps: 20 darts: 1000000\n")
    assert reading.printed('print("steps:"')[0].endswith("as before: True")

    # What the cell has printed in all: each step of the second half came again, as it was.
    messages = reading.front_end.of(loop.request)
    streams = [m["content"]["text"] for m in messages if m["msg_type"] == "stream"]
    lines = "".join(streams).splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert steps[20:] == steps[10:20]
    assert any(line.endswith("restored.") for line in lines)

    fork = reading.fork("long-computation-half-way.ipynb")
    first = "float(open('first-result.txt').read())"
    assert fork.value(f"step, 4 * inside / thrown == {first}") == "(20, True)"


def test_hooks(server: Server) -> None:
    reading = read(server, "hooks.ipynb")
    events = [ast.literal_eval(text) for text in reading.printed("print(events)")]
    assert events == [["about to be saved"], ["about to be saved"] * 2 + ["restored"]]
    assert reading.cell("import socket").text == "request 1 request 2"
    (lost,) = reading.printed("try:")
    assert lost.startswith("lost:") or lost == "answer:"
    assert reading.printed("print(ask())") == ["request 1"]
    before, after = map(ast.literal_eval, reading.printed("print([dice"))
    assert before == after
    assert reading.printed('print("wiped:"') == ["wiped: True\nsame signature: True"]
    assert "failed: RuntimeError: out of paper" in reading.cell("%checkpoint reported").text

    fork = reading.fork("hooks-dice.ipynb")
    assert fork.value("events[-1]") == "'forked'"
    assert ast.literal_eval(fork.value("[dice.randrange(1000) for _ in range(4)]")) != after
    rows = fork.value("database.execute('select * from results').fetchall()")
    assert rows == "[(3.14,)]"


def test_timeline(server: Server) -> None:
    reading = read(server, "timeline.ipynb", undone=["rows.clear()", "import os"])
    assert reading.printed("rows.clear()") == ["0 rows are left"]
    assert reading.cell("print(len(rows), next").text.startswith("3000 {'day'")
    wet = reading.cell("rows = [").text
    assert reading.printed("print(len(rows), wet)") == [wet]
    wait_until(
        lambda: server.get("jupyter-cr/snapshots?points=true")["snapshots"] == [],
        "the points of the timeline that is off are gone",
    )


@pytest.mark.long
@pytest.mark.timeout(180)
def test_forks(server: Server) -> None:
    reading = read(server, "forks.ipynb")
    assert reading.printed("degrees = ") == ["best: True loss below 0.2: True"]
    assert reading.printed("print(tried") == [
        "[] False\ndegree 3 in the fork that has tried [3]"
    ]
    assert reading.printed("grid = ") == ["6 False"]
    assert reading.printed("import os") == [
        "4 0.25 NoneType\n0 None ZeroDivisionError\nslow None TimeoutError\n"
        "crash None ForkFailed"
    ]
    assert reading.printed("%%fork\n") == ["left in the fork: 6"]
    assert (
        reading.printed("ideas = ")[0]
        .splitlines()[1]
        .startswith("(4, ['12', '7.5', '11', '8'])")
    )
    assert reading.printed("%%fork --adopt") == ["left: 4"]
    here = reading.printed('print("here:"')
    assert here == ["here: 8", "here: 4 True", "here: 4"]
    told = " ".join(reading.cell("%diff").text.split())
    assert "~ prices list (8) -> list (9)" in told
    assert "+ extra ndarray (1000)" in told
    assert reading.front_end.value("rows()") == "4"


def test_classroom(server: Server) -> None:
    reading = read(server, "classroom.ipynb")
    assert reading.cell("import random").text.startswith("20000 ")
    (published,) = reading.printed("import subprocess")
    assert published.startswith("Lesson Lesson 3 is at file:///"), published
    assert published.count("Lesson 3") == 2
    (paths,) = reading.printed("import jupyter_cr\n")
    assert len(set(paths.splitlines())) == 3
    assert reading.printed("from jupyter_client") == ["0 20000 20000"]
    assert reading.printed("from contextlib") == ["20000 20000 20000"]
    assert "before-lesson-3" in reading.cell("%snapshots").text
    withdrawn = reading.cell('print(cr("withdraw"').text
    assert "No lessons are published." in withdrawn


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_for_the_reader_to_run(path: Path) -> None:
    """Valid, and without outputs."""
    document = nbformat.read(path, as_version=4)
    nbformat.validate(document)
    assert not any(cell.get("outputs") for cell in document.cells)


def test_all_are_tested() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem.replace("-", "_") for path in NOTEBOOKS} <= tested


def test_readers_find_all() -> None:
    """From the README, and from the tutorial's end."""
    for page in (ROOT / "README.md", ROOT / "notebooks" / "tutorial.ipynb"):
        text = page.read_text()
        for path in NOTEBOOKS:
            assert path == page or re.search(rf"\]\((notebooks/)?{path.name}\)", text)
