"""Lessons: published by one user, started by another, each with a server of their own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from tests.conftest import User, a_user
from tests.engine.kernels import CommandError, CommandLine
from tests.server.harness import Server, jupyter_server, notebook, sources_of
from tests.store.remotes import lead_to, new_bucket, s3_server

TITLE = "Lesson 3"
AT = f"lessons/{quote(TITLE)}"
PATH = "weather.ipynb"
DOCUMENT = notebook("import random", "len(data)")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may read, and its owner write."""
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-lessons-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def with_lessons(user: User, place: Path | str, signers: str = "") -> User:
    """A user of a machine whose administrator has set a place for lessons."""
    own = {"JUPYTER_CR_LESSONS": str(place), "JUPYTER_CR_LESSON_SIGNERS": signers}
    return replace(user, environment={**user.environment, **own})


@pytest.fixture
def people(place: Path) -> Iterator[tuple[User, User]]:
    """A teacher, and a student, who may do less."""
    if os.geteuid() != 0:
        pytest.skip("not run by root, who can become two users")
    ordinary = contextmanager(a_user)
    with ordinary("ordinary") as first, ordinary("ordinary") as second:
        teacher = another_user(first)
        os.chown(place, teacher.uid, teacher.uid)
        yield with_lessons(teacher, place), with_lessons(second, place)


def another_user(user: User) -> User:
    """Who is not that one."""
    uid = user.uid + 1
    os.chown(user.home, uid, uid)
    prefix = tuple(word.replace(str(user.uid), str(uid)) for word in user.prefix)
    return replace(user, uid=uid, prefix=prefix)


def prepare(server: Server) -> str:
    """A kernel with what a lesson needs, and its notebook; the id."""
    (server.root / PATH).write_text(json.dumps(DOCUMENT))
    os.chown(server.root / PATH, server.user.uid, server.user.uid)
    kernel_id = server.open_notebook(PATH)
    server.front_end(kernel_id).run("data = list(range(1000)); table = bytearray(32 << 20)")
    return kernel_id


def publish(server: Server, **more: object) -> None:
    kernel_id = prepare(server)
    server.do(f"kernels/{kernel_id}/checkpoint", name="prepared", note="the weather")
    result = server.do("lessons", snapshot="prepared", title=TITLE, **more)
    assert (result["title"], result["snapshot"]) == (TITLE, "prepared")
    assert result["warnings"] == []
    assert server.fetch("DELETE", f"api/kernels/{kernel_id}")[0] == 204


def sources(path: Path) -> list[str]:
    """Of a notebook's cells."""
    return sources_of(json.loads(path.read_text()))


def lessons(server: Server) -> list[dict[str, object]]:
    return list(server.get("jupyter-cr/lessons")["lessons"])


@pytest.fixture
def servers(people: tuple[User, User]) -> Iterator[tuple[Server, Server]]:
    with jupyter_server(people[0]) as teacher, jupyter_server(people[1]) as student:
        yield teacher, student


def test_published_by_one_user_and_started_by_another(
    servers: tuple[Server, Server], place: Path
) -> None:
    teacher, student = servers
    publish(teacher, publisher="Ada")
    (seen,) = lessons(teacher)
    assert (seen["own"], seen["trusted"], seen["starts"]) == (True, True, 0)
    (seen,) = lessons(student)
    assert (seen["title"], seen["note"], seen["publisher"]) == (TITLE, "the weather", "Ada")
    # How often others have started it is not theirs to know.
    assert (seen["own"], seen["trusted"], seen["starts"]) == (False, False, None)

    details = student.get(f"jupyter-cr/{AT}")
    assert (details["lesson"]["title"], details["missing"]) == (TITLE, [])
    problem = student.fail(f"{AT}/start")
    assert (problem["error"], problem["status"]) == ("Untrusted", 403)
    assert "Ada" in problem["detail"]
    assert student.fail(f"{AT}/start", trust="0" * 64)["error"] == "Untrusted"
    assert student.get("jupyter-cr/snapshots")["snapshots"] == []

    first = student.do(f"{AT}/start", trust=seen["signer"])
    assert first["path"] == f"{TITLE}.ipynb"
    assert first["key_renewed"]
    front_end = student.front_end(first["kernel_id"])
    assert front_end.run("print(len(data))") == "1000"
    # It is the student's: where it is, and who it is.
    assert front_end.run("import os; print(os.getcwd(), os.getuid())") == (
        f"{student.root} {student.user.uid}"
    )
    assert front_end.run("print(os.environ['HOME'])") == str(student.user.home)
    assert sources(student.root / first["path"]) == [
        "import random",
        "len(data)",
    ]

    # From now on, nobody has to be asked; and nothing is fetched again.
    (seen,) = lessons(student)
    assert seen["trusted"]
    second = student.do(f"{AT}/start", directory="")
    assert second["path"] == f"{TITLE}-1.ipynb"
    other = student.front_end(second["kernel_id"])
    assert other.run("data.append(1); print(len(data))") == "1001"
    assert front_end.run("print(len(data))") == "1000"
    durable = [s for s in student.get("jupyter-cr/snapshots")["snapshots"] if s["own"]]
    assert [s["name"] for s in durable if s["state"] == "durable"] == [TITLE]
    assert [lesson["starts"] for lesson in lessons(teacher)] == [2]

    for started in (first, second):
        at = student.get(f"jupyter-cr/kernels/{started['kernel_id']}/lesson")
        assert at["snapshot"] == started["position"] == TITLE
    # Its own snapshots, and forks, come from it, too.
    student.do(f"kernels/{first['kernel_id']}/checkpoint", name="mine")
    fork = student.do("snapshots/mine/fork")
    for kernel_id in (first["kernel_id"], fork["kernel_id"]):
        assert student.get(f"jupyter-cr/kernels/{kernel_id}/lesson")["snapshot"] == TITLE
    plain = student.open_notebook("plain.ipynb")
    assert student.get(f"jupyter-cr/kernels/{plain}/lesson")["snapshot"] == ""


def test_back_to_the_beginning(servers: tuple[Server, Server]) -> None:
    teacher, student = servers
    publish(teacher)
    signer = lessons(student)[0]["signer"]
    started = student.do(f"{AT}/start", trust=signer)
    kernel_id, path = started["kernel_id"], student.root / started["path"]
    front_end = student.front_end(kernel_id)
    front_end.run("data.clear(); mine = 1")
    path.write_text(json.dumps(notebook("mine = 1")))

    answer = student.do(f"kernels/{kernel_id}/reset", document=True)
    assert answer["warnings"] == []
    assert front_end.run("print(len(data), 'mine' in globals())") == "1000 False"
    assert front_end.run("import os; print(os.getcwd())") == str(student.root)
    assert sources(path) == [
        "import random",
        "len(data)",
    ]
    # The student's own work is there, kernel and notebook.
    student.do(f"kernels/{kernel_id}/restore", snapshot=answer["kept"], document=True)
    assert front_end.run("print(len(data), mine)") == "0 1"
    assert sources(path) == ["mine = 1"]

    # From a cell, and after snapshots of one's own.
    front_end.run("%checkpoint between")
    reply = front_end.reply(front_end.execute("%reset_to"))
    assert reply.status == "aborted"
    assert front_end.run("print(len(data), 'mine' in globals())") == "1000 False"
    assert len(json.loads(path.read_text())["cells"]) == 2
    at = student.get(f"jupyter-cr/kernels/{kernel_id}/lesson")
    assert at["snapshot"] == TITLE

    # Withdrawn, and what was in memory is gone: it is still on the student's disk.
    assert teacher.fetch("DELETE", f"jupyter-cr/{AT}")[0] == 204
    for snapshot in student.get("jupyter-cr/snapshots?limit=0")["snapshots"]:
        if snapshot["automatic"] == "for lessons":
            student.fetch("DELETE", f"jupyter-cr/snapshots/{quote(snapshot['name'])}")
    front_end.run("data.clear()")
    student.do(f"kernels/{kernel_id}/reset")
    assert front_end.run("print(len(data))") == "1000"


@pytest.mark.long
def test_kernels_of_a_lesson_share_its_memory(servers: tuple[Server, Server]) -> None:
    teacher, student = servers
    publish(teacher)
    signer = lessons(student)[0]["signer"]
    started = [student.do(f"{AT}/start", trust=signer) for _ in range(3)]
    for each in started:
        full = psutil.Process(each["pid"]).memory_full_info()
        # The table of 32 MiB is in all of them, and once in memory.
        assert full.rss > 32 << 20
        assert full.uss < 24 << 20, full


@pytest.mark.long
def test_withdrawn_by_the_publisher_only(servers: tuple[Server, Server]) -> None:
    teacher, student = servers
    publish(teacher)
    signer = lessons(student)[0]["signer"]
    started = student.do(f"{AT}/start", trust=signer)

    status, problem, _ = student.fetch("DELETE", f"jupyter-cr/{AT}")
    assert (status, problem["error"]) == (403, "PermissionDenied")
    assert TITLE in problem["detail"]
    assert len(lessons(student)) == 1
    assert student.do(f"{AT}/start")["path"] == f"{TITLE}-1.ipynb"

    assert teacher.fetch("DELETE", f"jupyter-cr/{AT}")[0] == 204
    assert lessons(student) == []
    problem = student.fail(f"{AT}/start")
    assert problem["error"] == "NoSuchSnapshot"
    assert "withdrawn" in problem["detail"]
    front_end = student.front_end(started["kernel_id"])
    assert front_end.run("print(len(data))") == "1000"
    # It can be published again.
    teacher.do("lessons", snapshot="prepared", title=TITLE)
    assert [lesson["title"] for lesson in lessons(student)] == [TITLE]


@pytest.mark.long
def test_whom_the_administrator_trusts(people: tuple[User, User], place: Path) -> None:
    teacher_user, student_user = people
    signers = place.parent / f"{place.name}.json"
    student_user = with_lessons(student_user, place, str(signers))
    try:
        with jupyter_server(teacher_user) as teacher:
            publish(teacher)
            own = CommandLine(teacher_user)("signers")["own"]
        signers.write_text(json.dumps({own: "Prof. Lovelace"}))
        signers.chmod(0o646)
        with jupyter_server(student_user) as student:
            # Whoever likes could have written that.
            status, problem, _ = student.fetch("GET", "jupyter-cr/lessons")
            assert (status, problem["error"]) == (507, "StorageError")
            assert str(signers) in problem["detail"]
            signers.chmod(0o644)
            (seen,) = lessons(student)
            assert (seen["publisher"], seen["trusted"]) == ("Prof. Lovelace", True)
            started = student.do(f"{AT}/start")
            assert student.front_end(started["kernel_id"]).run("print(len(data))") == "1000"
    finally:
        signers.unlink(missing_ok=True)


@pytest.mark.long
def test_on_the_command_line(people: tuple[User, User], place: Path) -> None:
    teacher_user, student_user = people
    teacher, student = CommandLine(teacher_user), CommandLine(student_user)
    with jupyter_server(teacher_user) as server:
        kernel_id = prepare(server)
        teacher("checkpoint", kernel_id, "--name", "prepared")
    with pytest.raises(CommandError, match="NoSuchSnapshot"):
        student("publish", "prepared", "--as", TITLE)
    published = teacher("publish", "prepared", "--as", TITLE, "--by", "Ada", "--note", "n")
    assert (published["title"], published["warnings"]) == (TITLE, [])
    with pytest.raises(CommandError, match="NameTaken"):
        teacher("publish", "prepared", "--as", TITLE)
    (seen,) = student("lessons")
    assert (seen["publisher"], seen["note"], seen["trusted"]) == ("Ada", "n", False)
    with pytest.raises(CommandError, match="Untrusted"):
        student("start", TITLE)
    started = student("start", TITLE, "--trust", seen["signer"])
    try:
        assert started["snapshot"] == TITLE
        assert started["fork"]["key_renewed"]
    finally:
        psutil.Process(started["fork"]["pid"]).kill()
    assert [lesson["starts"] for lesson in teacher("lessons")] == [1]
    with pytest.raises(CommandError, match="PermissionDenied"):
        student("withdraw", TITLE)
    assert teacher("withdraw", TITLE)["bytes"] > 0
    assert student("lessons") == []


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place on an S3 API server, which the environment leads to."""
    with s3_server(tmp_path) as address:
        lead_to(address, monkeypatch)
        yield new_bucket()


@pytest.mark.long
def test_in_a_bucket(people: tuple[User, User], bucket: str) -> None:
    """As where machines share nothing else: students fetch a lesson once, and start it as
    often as they like."""
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    teacher_user, student_user = (
        with_lessons(replace(each, environment={**each.environment, **aws}), bucket)
        for each in people
    )
    with jupyter_server(teacher_user) as teacher:
        publish(teacher)
        with jupyter_server(student_user) as student:
            (seen,) = lessons(student)
            assert not seen["trusted"]
            problem = student.fail(f"{AT}/start")
            assert problem["error"] == "Untrusted"
            kernels = [
                student.do(f"{AT}/start", trust=seen["signer"])["kernel_id"],
                student.do(f"{AT}/start")["kernel_id"],
            ]
            for kernel_id in kernels:
                front_end = student.front_end(kernel_id)
                assert front_end.run("data.append(1); print(len(data))") == "1001"
            student.do(f"kernels/{kernels[0]}/reset")
            assert student.front_end(kernels[0]).run("print(len(data))") == "1000"
            status, _, _ = teacher.fetch("DELETE", f"jupyter-cr/{AT}")
            assert status in (200, 204)
            assert lessons(student) == []
            # Whoever has started it goes on.
            student.do(f"kernels/{kernels[1]}/reset")
            assert student.front_end(kernels[1]).run("print(len(data))") == "1000"
