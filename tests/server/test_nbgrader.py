"""An assignment of nbgrader whose kernel starts prepared. Only where `nbgrader` is on PATH:
in an environment of its own, lest its extensions be in all servers under test."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import User
from tests.server.harness import Server, jupyter_server
from tests.server.test_lessons import lessons, with_lessons

NBGRADER = shutil.which("nbgrader")
CONFIG = """
c = get_config()
c.CourseDirectory.course_id = "weather"
c.CourseDirectory.root = {course!r}
c.Exchange.root = {exchange!r}
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(NBGRADER is None, reason="nbgrader is not on PATH"),
]


def cell(id_: str, source: str, **nbgrader: Any) -> dict[str, Any]:
    facts = {"schema_version": 3, "grade_id": id_, "locked": False, **nbgrader}
    return {
        "cell_type": "code",
        "id": id_,
        "metadata": {"nbgrader": facts} if nbgrader else {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


ASSIGNMENT = {
    "cells": [
        cell("load", "table = list(range(1000))"),
        cell(
            "answer",
            "def mean(rows):\n    ### BEGIN SOLUTION\n"
            "    return sum(rows) / len(rows)\n    ### END SOLUTION",
            grade=False,
            solution=True,
        ),
        cell(
            "check",
            "assert mean(table) == 499.5",
            grade=True,
            solution=False,
            locked=True,
            points=2,
        ),
    ],
    "metadata": {
        "kernelspec": {"name": "python3", "display_name": "P", "language": "python"}
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    place = user.home / "lessons"
    place.mkdir(mode=0o755)
    os.chown(place, user.uid, user.uid)
    with jupyter_server(with_lessons(user, place)) as running:
        yield running


def test_an_assignment_that_starts_prepared(server: Server) -> None:
    user, root = server.user, server.root
    exchange, course = user.home / "exchange", root / "course"
    for path in (exchange, course / "source" / "ps1"):
        path.mkdir(parents=True)
    exchange.chmod(0o777)
    config = {"course": str(course), "exchange": str(exchange)}
    source = course / "source" / "ps1" / "problem.ipynb"
    source.write_text(json.dumps(ASSIGNMENT))
    for directory in (course, root):
        (directory / "nbgrader_config.py").write_text(CONFIG.format(**config))
    for path in (course, *course.rglob("*"), *root.glob("*.py"), exchange):
        os.chown(path, user.uid, user.uid)

    def nbgrader(*words: str, at: Path = course) -> None:
        shell = f'cd "{at}" && exec "$@"'
        done = user.run("sh", "-c", shell, "sh", str(NBGRADER), *words, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr

    nbgrader("generate_assignment", "ps1", "--create")
    nbgrader("release_assignment", "ps1")
    # The teacher has it prepared in the notebook as it is released, and publishes that.
    released = "course/release/ps1/problem.ipynb"
    kernel_id = server.open_notebook(released)
    server.front_end(kernel_id).run("table = list(range(1000))")
    server.do(f"kernels/{kernel_id}/checkpoint", name="prepared")
    server.do("lessons", snapshot="prepared", title="ps1")
    assert server.fetch("DELETE", f"api/kernels/{kernel_id}")[0] == 204

    # The student fetches it, and has its kernel start prepared.
    nbgrader("fetch_assignment", "ps1", at=root)
    path = "ps1/problem.ipynb"
    problem = server.fail("lessons/ps1/start", path="ps1/another.ipynb")
    assert problem["error"] == "UsageError"
    started = server.do("lessons/ps1/start", path=path)
    assert started["path"] == path
    assert server.fail("lessons/ps1/start", path=path)["error"] == "UsageError"
    front_end = server.front_end(started["kernel_id"])
    assert front_end.run("print(len(table))") == "1000"
    answer = "def mean(rows):\n    return sum(rows) / len(rows)"
    front_end.run(answer)
    front_end.run("table.clear()")
    document = json.loads((root / path).read_text())
    document["cells"][1]["source"] = answer
    model = {"type": "notebook", "content": document}
    assert server.fetch("PUT", f"api/contents/{path}", model)[0] == 200

    # Back to its beginning, and what was written is in the snapshot that is kept.
    answered = server.do(f"kernels/{started['kernel_id']}/reset")
    assert front_end.run("print(len(table), 'mean' in globals())") == "1000 False"
    server.do(f"kernels/{started['kernel_id']}/restore", snapshot=answered["kept"])
    assert front_end.run("print(mean([1, 2]))") == "1.5"

    # What is collected is what nbgrader knows, and grades in a kernel of its own.
    nbgrader("submit", "ps1", at=root)
    nbgrader("collect", "ps1")
    nbgrader("autograde", "ps1", "--create")
    nbgrader("export")
    (line,) = (course / "grades.csv").read_text().splitlines()[1:]
    assert ",2.0," in line, line
    assert lessons(server)[0]["starts"] == 1
