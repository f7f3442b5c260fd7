from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_cr.server import handlers
from tests.engine.harness import wait_until
from tests.server.checked import OPENAPI, CheckedServer, checked_server
from tests.server.harness import notebook

NOBODY = "00000000-0000-0000-0000-000000000000"


def every_verb() -> Iterator[tuple[str, str]]:
    for path, item in OPENAPI["paths"].items():
        address = path[1:].format(
            name="a",
            title="a",
            kernel_id=NOBODY,
            task_id="0",
            msg_id="0",
            document_id="0",
        )
        for verb in ("get", "post", "put", "patch", "delete"):
            if verb in item:
                yield verb.upper(), address


def body_for(verb: str) -> object:
    return {} if verb in ("POST", "PUT", "PATCH") else None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckedServer]:
    with checked_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(shared: CheckedServer) -> Iterator[CheckedServer]:
    yield shared
    shared.clear()


@pytest.fixture
def kernel(server: CheckedServer) -> str:
    return server.start_kernel()


# Who may


@pytest.mark.parametrize("token", ["", "another"])
def test_nobody_without_the_token(server: CheckedServer, token: str) -> None:
    for verb, address in every_verb():
        status, problem, headers = server.fetch(verb, address, body_for(verb), token)
        assert (status, problem["title"]) == (403, "Forbidden"), (verb, address)
        assert headers["Content-Type"] == "application/problem+json"
        assert "token" in problem["hint"]


def test_an_authorizer_decides(tmp_path: Path) -> None:
    (tmp_path / "onlookers.py").write_text(
        "from jupyter_server.auth import Authorizer\n"
        "class Onlookers(Authorizer):\n"
        "    def is_authorized(self, handler, user, action, resource):\n"
        "        return resource != 'jupyter_cr' or action == 'read'\n"
    )
    option = "--ServerApp.authorizer_class=onlookers.Onlookers"
    with checked_server(tmp_path, option) as server:
        for verb, address in every_verb():
            status, answer, _ = server.fetch(verb, address, body_for(verb))
            if verb == "GET":
                # 400: no place is set for lessons.
                assert status in (200, 400, 404), address
            else:
                assert status == 403, (verb, address)
                assert "not authorized to write" in answer["detail"]


def test_no_handler_is_open_to_strangers(tmp_path: Path) -> None:
    """The server itself looks for verbs without authentication, and warns of them."""
    with checked_server(
        tmp_path, "--ServerApp.allow_unauthenticated_access=False"
    ) as server:
        assert server.get("jupyter-cr/snapshots")["total"] == 0
    log = server.log.read_text()
    assert "jupyter_cr.server" not in log or "AuthWarning" not in log


# What is not there, or not understood


def test_what_there_is_not(server: CheckedServer) -> None:
    for verb, address, expected in (
        ("GET", "jupyter-cr/nonsense", 404),
        ("POST", "jupyter-cr/kernels/short/checkpoint", 404),
        ("PATCH", f"jupyter-cr/kernels/{NOBODY}/dance", 404),
        ("PUT", "jupyter-cr/snapshots", 405),
    ):
        status, problem, headers = server.fetch(verb, address, body_for("POST"))
        assert (status, problem["status"]) == (expected, expected)
        assert headers["Content-Type"] == "application/problem+json"
        assert "openapi" in problem["hint"]
    assert headers["Allow"] == "GET, OPTIONS"


@pytest.mark.parametrize(
    ("address", "body", "said"),
    [
        (f"kernels/{NOBODY}/checkpoint", b"{", "truncated"),
        (f"kernels/{NOBODY}/checkpoint", b'{"name": "\xff"}', "utf-8"),
        (f"kernels/{NOBODY}/checkpoint", [], "Expected `object`"),
        (f"kernels/{NOBODY}/checkpoint", {"nam": "a"}, "unknown field `nam`"),
        (f"kernels/{NOBODY}/checkpoint", {"warm": 1}, "`$.warm`"),
        (f"kernels/{NOBODY}/restore", {}, "required field `snapshot`"),
        (f"kernels/{NOBODY}/undo", {"steps": 0}, "`$.steps`"),
        ("snapshots/a/fork", {"snapshot": "b"}, "unknown field `snapshot`"),
    ],
)
def test_what_is_not_understood(
    server: CheckedServer, address: str, body: object, said: str
) -> None:
    status, problem, _ = server.fetch("POST", f"jupyter-cr/{address}", body)
    assert (status, problem["error"]) == (400, "UsageError")
    assert said in problem["detail"]


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=1.5", "state=lost"])
def test_a_query_that_is_not_understood(server: CheckedServer, query: str) -> None:
    status, problem, _ = server.fetch("GET", f"jupyter-cr/snapshots?{query}")
    assert status == 400
    assert query.partition("=")[0] in problem["detail"]


def test_other_parameters_of_an_address_do_not_matter(server: CheckedServer) -> None:
    # JupyterLab adds the time, to get by caches.
    page = server.get("jupyter-cr/snapshots?1795557843123&no_track_activity=1")
    assert page["total"] == 0


# About


def test_the_description_is_served(server: CheckedServer) -> None:
    status, text, headers = server.fetch("GET", "jupyter-cr/openapi.yaml")
    assert (status, headers["Content-Type"]) == (200, "application/yaml")
    assert text == handlers.openapi().decode()


def test_capabilities(server: CheckedServer) -> None:
    capabilities = server.get("jupyter-cr/capabilities")
    assert capabilities["can_checkpoint"]
    assert "ptrace_child" in {item["name"] for item in capabilities["items"]}


# Snapshots


def test_a_snapshot_from_first_to_last(server: CheckedServer, kernel: str) -> None:
    result = server.do(f"kernels/{kernel}/checkpoint", name="a b-ü", note="first")
    assert (result["name"], result["kernel_id"]) == ("a b-ü", kernel)

    details = server.get("jupyter-cr/snapshots/a%20b-%C3%BC")
    assert details["snapshot"]["note"] == "first"
    assert details["content"]["processes"]
    assert details["header"]["kernel"]["connection"] == ""

    _, changed, _ = server.fetch(
        "PATCH", "jupyter-cr/snapshots/a%20b-%C3%BC", {"name": "c"}
    )
    assert (changed["name"], changed["note"]) == ("c", "first")
    _, changed, _ = server.fetch("PATCH", "jupyter-cr/snapshots/c", {"note": "second"})
    assert (changed["name"], changed["note"]) == ("c", "second")

    assert server.fetch("DELETE", "jupyter-cr/snapshots/c")[0] == 204
    page = server.get("jupyter-cr/snapshots")
    assert page == {"snapshots": [], "total": 0, "positions": {}}


def test_a_change_that_is_none_or_cannot_be(server: CheckedServer, kernel: str) -> None:
    for name in ("a", "b"):
        server.do(f"kernels/{kernel}/checkpoint", name=name)
    for body, expected in (
        ({}, 400),
        ({"name": None}, 400),
        ({"name": ""}, 400),
        ({"name": ".hidden"}, 400),
        ({"name": "b", "note": "not that"}, 409),
    ):
        status, _, _ = server.fetch("PATCH", "jupyter-cr/snapshots/a", body)
        assert status == expected, body
    assert server.fetch("PATCH", "jupyter-cr/snapshots/c", {"note": ""})[0] == 404
    page = server.get("jupyter-cr/snapshots")
    assert [(s["name"], s["note"]) for s in page["snapshots"]] == [("b", ""), ("a", "")]


def test_a_list_is_filtered_and_paged(server: CheckedServer, kernel: str) -> None:
    for name, note in (("a", "cleaned"), ("b", ""), ("c", "Cleaned twice")):
        server.do(f"kernels/{kernel}/checkpoint", name=name, note=note)

    def names(query: str) -> tuple[list[str], int]:
        page = server.get(f"jupyter-cr/snapshots?{query}")
        return [s["name"] for s in page["snapshots"]], page["total"]

    assert names("") == (["c", "b", "a"], 3)
    assert names("offset=1&limit=1") == (["b"], 3)
    assert names("limit=0") == (["c", "b", "a"], 3)
    assert names("q=cleaned") == (["c", "a"], 2)
    assert names(f"kernel_id={kernel}&state=durable&limit=2") == (["c", "b"], 3)
    assert names(f"kernel_id={NOBODY}") == ([], 0)
    assert names("path=there.ipynb") == ([], 0)


def test_one_line_of_the_list(server: CheckedServer, kernel: str) -> None:
    for name in ("a", "b"):
        server.do(f"kernels/{kernel}/checkpoint", name=name, note=f"as {name}")
    _, line = server.get("jupyter-cr/snapshots")["snapshots"]
    assert server.get("jupyter-cr/snapshots/a/summary") == line
    assert (line["name"], line["note"]) == ("a", "as a")


def test_there_is_no_such_snapshot(server: CheckedServer) -> None:
    for verb, address in (
        ("GET", "a"),
        ("DELETE", "a"),
        ("GET", "a/summary"),
        ("GET", "a/document"),
        ("GET", "..%2Fetc"),
    ):
        status, problem, _ = server.fetch(verb, f"jupyter-cr/snapshots/{address}")
        assert (status, problem["error"]) == (404, "NoSuchSnapshot")
    assert server.fail("snapshots/a/fork")["error"] == "NoSuchSnapshot"


# Kernels


def test_restore_undo_and_fork(server: CheckedServer, kernel: str) -> None:
    server.run(kernel, "x = 1")
    server.do(f"kernels/{kernel}/checkpoint", name="one")
    server.run(kernel, "x = 2")

    restored = server.do(f"kernels/{kernel}/restore", snapshot="one")
    assert server.run(kernel, "print(x)") == "1"
    server.do(f"kernels/{kernel}/restore", snapshot=restored["kept"])
    assert server.run(kernel, "print(x)") == "2"

    server.do(f"kernels/{kernel}/checkpoint", name="two")
    server.run(kernel, "x = 3")
    server.do(f"kernels/{kernel}/undo")
    assert server.run(kernel, "print(x)") == "2"

    for address, body in (
        ("snapshots/two/fork", {}),
        (f"kernels/{kernel}/fork", {"snapshot": "one"}),
        (f"kernels/{kernel}/fork", {}),
    ):
        fork = server.do(address, **body)
        assert fork["kernel_id"] != kernel
        expected = "1" if body else "2"
        assert server.run(fork["kernel_id"], "print(x)") == expected


def test_a_kernel_that_has_been_shut_down(server: CheckedServer, kernel: str) -> None:
    server.run(kernel, "x = 'kept'")
    server.do(f"kernels/{kernel}/checkpoint", name="one")
    server.shut_down(kernel)
    assert server.fail(f"kernels/{kernel}/checkpoint")["error"] == "NoSuchProcess"
    result = server.do(f"kernels/{kernel}/restore", snapshot="one")
    assert (result["kernel_id"], result["kept"]) == (kernel, None)
    assert server.run(kernel, "print(x)") == "kept"


def test_the_notebook_of_a_snapshot(server: CheckedServer) -> None:
    document = notebook("x = 1")
    (server.root / "a.ipynb").write_text(json.dumps(document))
    kernel = server.open_notebook("a.ipynb")
    result = server.do(f"kernels/{kernel}/checkpoint", name="one")
    assert result["path"] == "a.ipynb"
    (snapshot,) = server.get("jupyter-cr/snapshots?path=a.ipynb")["snapshots"]
    assert snapshot["has_document"]
    found = server.get("jupyter-cr/snapshots/one/document")
    assert [cell["source"] for cell in found["cells"]] == ["x = 1"]

    server.do(f"kernels/{kernel}/checkpoint", name="two", document=False)
    status, problem, _ = server.fetch("GET", "jupyter-cr/snapshots/two/document")
    assert (status, problem["error"]) == (404, "NoSuchSnapshot")


def test_problems_of_operations(server: CheckedServer, kernel: str) -> None:
    server.do(f"kernels/{kernel}/checkpoint", name="one")
    for address, body, error in (
        (f"kernels/{NOBODY}/checkpoint", {}, "NoSuchProcess"),
        (f"kernels/{kernel}/checkpoint", {"name": "one"}, "NameTaken"),
        (f"kernels/{kernel}/checkpoint", {"name": "a/b"}, "UsageError"),
        (f"kernels/{kernel}/restore", {"snapshot": "two"}, "NoSuchSnapshot"),
        (f"kernels/{NOBODY}/restore", {"snapshot": "one"}, "UsageError"),
        (f"kernels/{kernel}/fork", {"snapshot": "two"}, "NoSuchSnapshot"),
        (f"kernels/{kernel}/undo", {"steps": 5}, "NoSuchSnapshot"),
    ):
        problem = server.fail(address, **body)
        assert problem["error"] == error
        assert problem["hint"]
    assert server.run(kernel, "print('here')") == "here"


# Tasks


def test_a_task_can_be_called_off(server: CheckedServer, kernel: str) -> None:
    server.run(kernel, "x = bytearray(b'x' * (256 << 20))")
    task = server.begin(f"kernels/{kernel}/checkpoint", name="one")
    assert task["id"] in {t["id"] for t in server.get("jupyter-cr/tasks")["tasks"]}
    address = f"jupyter-cr/tasks/{task['id']}"
    _, ended, _ = server.fetch("DELETE", address)
    # It may have been quicker.
    assert ended["state"] in ("cancelled", "done"), ended
    assert server.snapshot_names() == ({"one"} if ended["state"] == "done" else set())
    assert server.run(kernel, "print(len(x))") == f"{256 << 20}"

    status, forgotten, _ = server.fetch("DELETE", address)
    if ended["state"] == "cancelled":
        assert (status, forgotten) == (200, ended)
    status, problem, _ = server.fetch("GET", address)
    assert (status, problem["error"]) == (404, "NoSuchTask")


def test_a_task_goes_on_while_nobody_asks(server: CheckedServer, kernel: str) -> None:
    server.begin(f"kernels/{kernel}/checkpoint", name="one")
    wait_until(lambda: server.snapshot_names() == {"one"}, "the snapshot is there")


# Events


def test_every_page_is_told(server: CheckedServer, kernel: str) -> None:
    with server.events() as events:
        task = server.begin(f"kernels/{kernel}/checkpoint", name="one")
        told = events.until("durable")
        assert {event["action"] for event in told} == {"saving", "created", "durable"}
        assert {event["task"] for event in told} == {task["id"]}
        assert {event["kernel_id"] for event in told} == {kernel}
        assert all(0 <= e["fraction"] <= 1 for e in told if e["action"] == "saving")

        server.do(f"kernels/{kernel}/restore", snapshot="one", keep=False)
        restored = events.until("restored")[-1]
        assert (restored["snapshot"], restored["kernel_id"]) == ("one", kernel)

        fork = server.do("snapshots/one/fork")
        forked = events.until("forked")[-1]
        assert (forked["kernel_id"], forked["new_kernel_id"]) == (
            kernel,
            fork["kernel_id"],
        )

        server.fetch("PATCH", "jupyter-cr/snapshots/one", {"name": "two"})
        updated = events.until("updated")[-1]
        assert (updated["snapshot"], updated["former_name"]) == ("two", "one")

        server.fetch("DELETE", "jupyter-cr/snapshots/two")
        assert events.until("deleted")[-1]["snapshot"] == "two"

        task = server.begin("snapshots/two/fork")
        failed = events.until("failed")[-1]
        assert (failed["task"], failed["operation"]) == (task["id"], "fork")
        assert "two" in failed["message"]
        assert failed["hint"]


# The kernels' own socket

ASK = """
import json, pathlib, socket
def ask(**request):
    path, = pathlib.Path({directory!r}).glob("server-*.sock")
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(path))
        channel.sendall(json.dumps(request).encode() + b"\\n")
        lines = [json.loads(line) for line in channel.makefile()]
    return lines[-1] if lines else None
x = 1
"""


@pytest.fixture
def asking(server: CheckedServer, kernel: str) -> str:
    """A kernel that knows how to ask."""
    directory = Path(server.user.environment["JUPYTER_RUNTIME_DIR"]) / "jupyter-cr"
    server.run(kernel, ASK.format(directory=str(directory)))
    return kernel


def test_a_kernel_asks_who_it_is(server: CheckedServer, asking: str) -> None:
    def who_is(kernel_id: str) -> tuple[str, str]:
        printed = server.run(kernel_id, "print(json.dumps(ask(op='whoami')['result']))")
        who = json.loads(printed)
        assert who["kernel_id"] == kernel_id
        return who["role"], who["snapshot"]

    assert who_is(asking) == ("original", "")
    server.do(f"kernels/{asking}/checkpoint", name="one")
    fork = server.do("snapshots/one/fork")["kernel_id"]
    server.do(f"kernels/{asking}/restore", snapshot="one")
    assert who_is(asking) == ("restored", "one")
    assert who_is(fork) == ("forked", "one")
    server.do(f"kernels/{fork}/checkpoint", name="two")
    assert who_is(server.do("snapshots/two/fork")["kernel_id"]) == ("forked", "two")


def test_a_kernel_asks_for_its_own_snapshot(server: CheckedServer, asking: str) -> None:
    code = "answer = ask(op='checkpoint', name='mine'); print(answer and answer['type'])"
    assert server.run(asking, code) == "result"
    (snapshot,) = server.get("jupyter-cr/snapshots")["snapshots"]
    assert (snapshot["name"], snapshot["kernel_id"]) == ("mine", asking)
    task = server.get("jupyter-cr/tasks")["tasks"][-1]
    assert (task["operation"], task["snapshot"]) == ("checkpoint", "mine")


def test_the_copy_reads_the_end_of_the_file(server: CheckedServer, asking: str) -> None:
    front_end = server.front_end(asking)
    front_end.run("answer = ask(op='checkpoint', name='mine')")
    fork = server.do("snapshots/mine/fork")["kernel_id"]
    # It goes on in the middle of that cell, and no answer ever comes.
    assert server.run(fork, "print(answer and answer['type'])") in ("None", "progress")


def test_a_kernel_restores_itself(server: CheckedServer, asking: str) -> None:
    server.do(f"kernels/{asking}/checkpoint", name="one")
    with server.events() as events:
        server.front_end(asking).execute("x = 2; ask(op='restore', snapshot='one')")
        events.until("restored")
    assert server.run(asking, "print(x)") == "1"
    task = server.get("jupyter-cr/tasks")["tasks"][-1]
    assert (task["operation"], server.wait(task)["state"]) == ("restore", "done")


def test_a_kernel_forks_itself(server: CheckedServer, asking: str) -> None:
    # In the fork this cell goes on without an answer. If it raised there, what comes
    # next would be aborted (stop_on_error).
    code = "answer = ask(op='fork') or {}; print(answer.get('result', {}).get('kernel_id'))"
    fork = server.run(asking, code)
    assert server.run(fork, "print(x)") == "1"


def test_a_server_stops_after_a_kernel_that_did_not_start(tmp_path: Path) -> None:
    with checked_server(tmp_path) as server:
        kernel = server.start_kernel()
        server.do(f"kernels/{kernel}/checkpoint", name="one")
        store = Path(server.user.environment["JUPYTER_CR_HOME"])
        (path,) = store.glob("packs/*.pack")
        with path.open("r+b") as pages:
            pages.write(b"damaged")
        problem = server.fail("snapshots/one/fork")
        assert (problem["error"], problem["status"]) == ("CorruptImage", 500)
        assert list(server.kernels()) == [kernel]
        server.stop()


def test_no_socket_is_left(tmp_path: Path) -> None:
    with checked_server(tmp_path) as server:
        directory = Path(server.user.environment["JUPYTER_RUNTIME_DIR"]) / "jupyter-cr"
        wait_until(lambda: bool(list(directory.glob("server-*.sock"))), "a socket")
    assert list(directory.iterdir()) == []


def test_a_server_whose_directory_has_a_long_name(tmp_path: Path) -> None:
    """Longer than the address of a Unix socket may be."""
    home = tmp_path / ("x" * 120)
    home.mkdir()
    with checked_server(home) as server:
        server.run(server.start_kernel(), "%checkpoint mine")
        (task,) = server.get("jupyter-cr/tasks")["tasks"]
        assert (task["operation"], task["snapshot"]) == ("checkpoint", "mine")
