"""Forks that go back to the snapshot that they came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.server.harness import Server, jupyter_server, sources_of


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as server:
        yield server


@pytest.mark.parametrize("warm", [True, False])
def test_there_and_back(server: Server, warm: bool) -> None:
    lesson = server.open_notebook("lesson.ipynb")
    server.write("lesson.ipynb", "x = 1")
    teacher = server.front_end(lesson)
    teacher.run("import os, subprocess; x = 1; data = bytearray(os.urandom(1 << 20))")
    teacher.run("child = subprocess.Popen(['cat'], stdin=-1, stdout=-1)")
    content = teacher.value("hash(bytes(data))")
    server.do(f"kernels/{lesson}/checkpoint", name="lesson", warm=warm)
    teacher.run("x = 'the teacher goes on'")

    forked = server.do("snapshots/lesson/fork", path="mine.ipynb")
    kernel_id, path = forked["kernel_id"], forked["path"]
    connection = Path(forked["connection_file"]).read_text()
    student = server.front_end(kernel_id)
    for attempt in range(3):
        student.run(f"x = {attempt} + 2; data[:] = bytes(len(data)); child.kill()")
        server.write(path, "x = 1", f"mine({attempt})")
        if attempt == 1:
            server.do(f"kernels/{kernel_id}/checkpoint", name="mine")
        answer = server.do(f"kernels/{kernel_id}/reset", document=True)
        assert answer["snapshot"] == "lesson"
        assert answer["kernel_id"] == kernel_id
        assert answer["path"] == path
        assert server.sources(path) == ["x = 1"]
        assert student.value("x, hash(bytes(data))") == f"(1, {content})"
        student.run("child.stdin.write(b'hello'); child.stdin.close()")
        assert student.value("child.stdout.read()") == "b'hello'"
        assert Path(forked["connection_file"]).read_text() == connection
    assert teacher.value("x") == "'the teacher goes on'"
    # What was done is not lost.
    kept = answer["kept"]
    wait_until(
        lambda: server.get(f"jupyter-cr/snapshots/{kept}/summary")["state"] == "durable"
    )
    document = server.get(f"jupyter-cr/snapshots/{kept}/document")
    assert sources_of(document) == ["x = 1", "mine(2)"]
    server.do(f"kernels/{kernel_id}/restore", snapshot="mine", keep=False)
    assert student.value("x, any(data)") == "(3, False)"
    server.do(f"kernels/{kernel_id}/restore", snapshot=kept, keep=False)
    assert student.value("x") == "4"
    keys = {json.loads(Path(forked["connection_file"]).read_text())["key"]}
    assert json.loads(connection)["key"] in keys


def test_one_that_was_not_forked(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("x = 1")
    problem = server.fail(f"kernels/{kernel_id}/reset")
    assert problem["error"] == "NoSuchSnapshot"
    assert "not forked" in problem["detail"]
    assert front_end.value("x") == "1"


def test_what_cannot_be_kept_is_not_replaced(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="lesson")
    forked = server.do("snapshots/lesson/fork")["kernel_id"]
    student = server.front_end(forked)
    # inotify cannot be restored.
    student.run("import ctypes; x = 2; fd = ctypes.CDLL(None).inotify_init()")
    problem = server.fail(f"kernels/{forked}/reset")
    assert problem["error"] == "Unsupported"
    assert student.value("x") == "2"
    server.do(f"kernels/{forked}/reset", keep=False)
    assert student.value("x") == "1"
