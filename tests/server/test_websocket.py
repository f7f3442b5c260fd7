"""What front ends see of a restore: each request is answered once, whatever comes of it."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import websocket
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)

from jupyter_cr.server.front_end_requests import _KERNELS, kernel_requests
from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.server.harness import TOKEN, FrontEnd, Server, jupyter_server

V1 = "v1.kernel.websocket.jupyter.org"
FOREVER = "import time\nwhile True: time.sleep(0.05)"

Connect = Callable[..., FrontEnd]
Messages = Sequence[dict[str, Any]]


class V1FrontEnd(FrontEnd):
    """With the subprotocol that JupyterLab, Notebook and VS Code speak."""

    def __init__(self, url: str, session: str | None = None) -> None:
        self.session = Session(session=session) if session else Session()
        self._socket = websocket.create_connection(
            f"{url}&session_id={self.session.session}", timeout=LIMIT, subprotocols=[V1]
        )
        assert self._socket.subprotocol == V1
        self._socket.settimeout(None)
        self.messages: list[dict[str, Any]] = []
        self._arrived = threading.Condition()
        self.closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := self._socket.recv():
                channel, frames = deserialize_msg_from_ws_v1(data)
                header, parent, metadata, content = map(json.loads, frames[:4])
                with self._arrived:
                    self.messages.append(
                        {
                            "channel": channel,
                            "header": header,
                            "msg_type": header["msg_type"],
                            "parent_header": parent,
                            "metadata": metadata,
                            "content": content,
                        }
                    )
                    self._arrived.notify_all()
        except (websocket.WebSocketException, OSError):
            pass
        with self._arrived:
            self.closed = True
            self._arrived.notify_all()

    def send(
        self, kind: str, content: dict[str, Any], channel: str = "shell", **more: Any
    ) -> str:
        message = self.session.msg(kind, content, **more)
        packed = serialize_msg_to_ws_v1(message, channel, self.session.pack)
        self._socket.send_binary(packed)
        return str(message["header"]["msg_id"])


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


@pytest.fixture(params=[pytest.param("legacy", marks=pytest.mark.long), "v1"])
def connect(request: pytest.FixtureRequest, server: Server) -> Connect:
    """Open a websocket to a kernel, in one of the two subprotocols. In the short run, in
    the one that is spoken by front ends of today."""
    kind = V1FrontEnd if request.param == "v1" else FrontEnd

    def open_one(kernel_id: str, session: str | None = None) -> FrontEnd:
        url = f"ws://127.0.0.1:{server.port}/api/kernels/{kernel_id}/channels"
        front_end = kind(f"{url}?token={TOKEN}", session)
        front_end.session.message_count = 1000 * len(server._front_ends)
        server._front_ends.append(front_end)
        return front_end

    return open_one


def restore(server: Server, kernel_id: str, name: str) -> Any:
    return server.do(f"kernels/{kernel_id}/restore", snapshot=name, keep=False)


def checkpoint(server: Server, kernel_id: str, name: str = "one") -> None:
    server.do(f"kernels/{kernel_id}/checkpoint", name=name)


def of_kind(messages: Messages, kind: str) -> list[dict[str, Any]]:
    return [m for m in messages if m["msg_type"] == kind]


def begun(front_end: FrontEnd, request: str) -> None:
    """Wait until a cell runs."""
    front_end.wait_for(
        lambda _: of_kind(front_end.of(request), "execute_input"), "the cell", LIMIT
    )


def prompt(front_end: FrontEnd, count: int = 1) -> dict[str, Any]:
    """Wait until the kernel has asked for input as often as that; the last question."""

    def asked(messages: Messages) -> Messages | None:
        found = of_kind(messages, "input_request")
        return found if len(found) >= count else None

    found: dict[str, Any] = front_end.wait_for(asked, "a prompt", LIMIT)[-1]
    return found


def answer(front_end: FrontEnd, question: dict[str, Any], value: str) -> None:
    front_end.send("input_reply", {"value": value}, "stdin", parent=question)


def aborted(front_end: FrontEnd, request: str) -> None:
    """Wait until that has come of it."""
    front_end.wait_for(
        lambda _: (
            answers(front_end, request)[0] == ["aborted"]
            and answers(front_end, request)[1][-1:] == ["idle"]
        ),
        "the end of a request",
        LIMIT,
    )


def answers(front_end: FrontEnd, request: str) -> tuple[list[str], list[str]]:
    """Of all replies to it the status, and all states with it as the parent."""
    mine = front_end.of(request)
    replies = [m["content"]["status"] for m in mine if m["channel"] in ("shell", "control")]
    states = [m["content"]["execution_state"] for m in of_kind(mine, "status")]
    return replies, states


def test_what_will_not_be_answered_is_aborted(server: Server, connect: Connect) -> None:
    """A running cell, one behind it, and a completion; in the order they were sent. What
    asks for the kernel itself is answered by it."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    front_end.run("x = 1")
    checkpoint(server, kernel_id)
    first = front_end.execute("x = 2\n" + FOREVER)
    begun(front_end, first)
    second = front_end.execute("x = 3")
    completion = front_end.send("complete_request", {"code": "x.", "cursor_pos": 2})
    info = front_end.send("kernel_info_request", {})

    restore(server, kernel_id, "one")

    assert front_end.reply(info).status == "ok"
    for request in (first, second, completion):
        reply = front_end.reply(request)
        assert reply.status == "aborted"
    assert front_end.run("print(x)") == "1"
    order = [
        m["parent_header"]["msg_id"]
        for m in front_end.messages
        if m["content"].get("status") == "aborted"
    ]
    assert order == [first, second, completion]
    assert answers(front_end, first) == (["aborted"], ["busy", "idle"])
    assert answers(front_end, second) == (["aborted"], ["idle"])
    assert answers(front_end, completion) == (["aborted"], ["idle"])
    assert answers(front_end, info)[0] == ["ok"]
    assert front_end.states()[-1] == "idle"
    assert not {"dead", "restarting"} & set(front_end.states())
    wait_until(lambda: set(server.kernels().values()) == {"idle"})
    # JupyterLab drops what it has not handled when there is a message of another session.
    replies = of_kind(front_end.messages, "execute_reply")
    assert len({m["header"]["session"] for m in replies[:3]}) == 1


def test_a_cell_that_goes_on_is_answered_by_the_kernel(
    server: Server, connect: Connect
) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    front_end.run("import os, time")
    go = server.root / "go"
    cell = front_end.execute(
        f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\nprint('through')",
        cell_id="the-cell",
    )
    begun(front_end, cell)
    behind = front_end.execute("print('behind')")
    checkpoint(server, kernel_id)
    later = front_end.execute("print('later')")

    result = restore(server, kernel_id, "one")

    assert [(r["msg_id"], r["cell_id"], r["begun"]) for r in result["running"]] == [
        (cell, "the-cell", True),
        (behind, "cell", False),
    ]
    assert front_end.reply(later).status == "aborted"
    wait_until(lambda: front_end.states()[-1] == "busy")
    assert set(server.kernels().values()) == {"busy"}
    go.touch()
    assert front_end.reply(cell).text == "through\n"
    assert front_end.reply(behind).text == "behind\n"
    assert front_end.run("print(1)") == "1"
    assert answers(front_end, cell)[0] == ["ok"]
    assert answers(front_end, behind)[0] == ["ok"]
    assert answers(front_end, later)[0] == ["aborted"]
    assert front_end.states()[-1] == "idle"


def test_what_was_answered_before_the_kernel_was_frozen(
    server: Server, connect: Connect
) -> None:
    """It was pending when the snapshot was begun. After the restore, the kernel is idle,
    and all see that."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    front_end.run("import os, time")
    go = server.root / "go"
    cell = front_end.execute(f"while not os.path.exists({str(go)!r}): time.sleep(0.01)")
    begun(front_end, cell)
    task = server.begin(f"kernels/{kernel_id}/checkpoint", name="one")
    # An engine needs some tenths of a second until it freezes.
    time.sleep(0.05)
    go.touch()
    front_end.reply(cell)
    assert server.wait(task)["state"] == "done"

    result = restore(server, kernel_id, "one")

    assert [r["msg_id"] for r in result["running"]] == [cell]
    wait_until(lambda: set(server.kernels().values()) == {"idle"})
    wait_until(lambda: front_end.states()[-1] == "idle")
    checkpoint(server, kernel_id, "two")
    assert restore(server, kernel_id, "two")["running"] == []


def test_what_is_sent_meanwhile_is_for_the_restored_kernel(
    server: Server, connect: Connect
) -> None:
    """All the time, from the call until it has returned."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    front_end.run("x = 0; seen = []")
    checkpoint(server, kernel_id)
    front_end.run("x = -1000")
    task = server.begin(f"kernels/{kernel_id}/restore", snapshot="one")
    sent = []
    while server.get(f"jupyter-cr/tasks/{task['id']}")["state"] == "running":
        sent.append(front_end.execute(f"x += 1; seen.append({len(sent)}); print(x)"))
        time.sleep(0.02)
    assert server.wait(task)["state"] == "done"

    assert len(sent) > 3
    replies = [front_end.reply(request) for request in sent]
    # One that came before the call was looked at may have been the former kernel's.
    new = [int(r.text) for r in replies if r.text and int(r.text) > 0]
    assert len(new) >= len(sent) - 1
    # Nothing was run twice, or in another order.
    assert new == [*range(1, len(new) + 1)]
    assert front_end.run("print(len(seen), x)") == f"{len(new)} {len(new)}"
    for request in sent:
        assert len(answers(front_end, request)[0]) == 1


def test_a_restore_that_fails_loses_nothing(server: Server, connect: Connect) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    front_end.run("x = 1")
    checkpoint(server, kernel_id)
    front_end.run("x = 2")
    (path,) = (server.user.home / "store").glob("packs/*.pack")
    path.write_bytes(bytes(path.stat().st_size))
    task = server.begin(f"kernels/{kernel_id}/restore", snapshot="one", keep=False)
    request = front_end.execute("print(x)")
    assert server.wait(task)["state"] == "failed"
    assert front_end.reply(request).text == "2\n"
    assert front_end.run("print(x)") == "2"


def test_a_prompt_of_a_cell_that_is_gone_is_closed(
    server: Server, connect: Connect
) -> None:
    """JupyterLab may run cells again, and what is typed into the old prompt does not
    answer the next one."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    front_end.run("x = 1")
    checkpoint(server, kernel_id)
    asking = front_end.execute("input('old? ')", stdin=True)
    old = prompt(front_end)

    restore(server, kernel_id, "one")

    aborted(front_end, asking)
    closed = front_end.wait_for(
        lambda _: of_kind(front_end.of(asking), "shutdown_reply"), "the end", LIMIT
    )
    assert [m["channel"] for m in closed] == ["iopub"]
    answer(front_end, old, "stray")
    again = front_end.execute("print(input('new? '))", stdin=True)
    answer(front_end, prompt(front_end, 2), "meant")
    assert front_end.reply(again).text == "meant\n"


@pytest.mark.parametrize("since", ["nothing", "answered", "finished"])
def test_a_prompt_survives(server: Server, connect: Connect, since: str) -> None:
    """If it has been answered since the snapshot, the front end is asked again."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    front_end.run("import os, time")
    go = server.root / "go"
    cell = front_end.execute(
        "said = input('first? ')\nprint('thanks', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.02)",
        stdin=True,
    )
    question = prompt(front_end)
    checkpoint(server, kernel_id)
    if since != "nothing":
        answer(front_end, question, "before")
        front_end.wait_for(lambda _: of_kind(front_end.of(cell), "stream"), "it", LIMIT)
    if since == "finished":
        go.touch()
        front_end.reply(cell)

    result = restore(server, kernel_id, "one")

    (running,) = result["running"]
    assert running["prompt"] == {"text": "first? ", "is_password": False}
    if since != "nothing":
        question = prompt(front_end, 2)
        assert question["parent_header"]["msg_id"] == cell
        assert question["content"] == {"prompt": "first? ", "password": False}
    wait_until(lambda: front_end.states()[-1] == "busy")
    answer(front_end, question, "after")
    go.touch()
    assert front_end.run("print(said)") == "after"
    assert len(of_kind(front_end.messages, "input_request")) == 1 + (since != "nothing")


def test_cells_sent_while_a_snapshot_is_taken(server: Server, connect: Connect) -> None:
    """What is told to be aborted is not run."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    front_end.run("import os, time; done = []")
    go = server.root / "go"
    running = front_end.execute(f"while not os.path.exists({str(go)!r}): time.sleep(0.02)")
    begun(front_end, running)
    task = server.begin(f"kernels/{kernel_id}/checkpoint", name="one")
    cells: list[str] = []
    while server.get(f"jupyter-cr/tasks/{task['id']}")["state"] == "running":
        cells.append(front_end.execute(f"done.append({len(cells)})"))
        time.sleep(0.005)
    assert cells

    restore(server, kernel_id, "one")

    go.touch()
    assert front_end.reply(running).status == "ok"
    done = json.loads(front_end.run("print(done)"))
    told = [front_end.reply(cell).status for cell in cells]
    assert done == [i for i, status in enumerate(told) if status == "ok"], told


def test_each_front_end_is_told_its_own(server: Server, connect: Connect) -> None:
    """Replies go to who asked, the kernel's state to all."""
    kernel_id = server.open_notebook("a.ipynb")
    one, other = connect(kernel_id), connect(kernel_id)
    one.run("x = 1")
    checkpoint(server, kernel_id)
    running = one.execute(FOREVER)
    begun(one, running)
    behind = other.execute("x = 2")

    restore(server, kernel_id, "one")

    assert one.reply(running).status == "aborted"
    assert other.reply(behind).status == "aborted"
    assert one.run("print(x)") == other.run("print(x)") == "1"
    assert answers(other, running) == ([], ["busy", "idle"])
    assert answers(one, behind) == ([], ["idle"])
    wait_until(lambda: one.states()[-1] == other.states()[-1] == "idle")


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside-another"])
def test_who_comes_back_is_told_then(server: Server, connect: Connect, alone: bool) -> None:
    """A page whose connection was lost during a restore, and is there again."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    if not alone:
        connect(kernel_id).run("pass")
    front_end.run("x = 1")
    checkpoint(server, kernel_id)
    request = front_end.execute(FOREVER)
    begun(front_end, request)
    front_end.close()
    connections = 0 if alone else 1
    wait_until(lambda: server.get(f"api/kernels/{kernel_id}")["connections"] == connections)

    restore(server, kernel_id, "one")

    back = connect(kernel_id, front_end.session.session)
    assert back.reply(request).status == "aborted"
    assert answers(back, request)[0] == ["aborted"]
    assert back.run("print(x)") == "1"
    assert back.states()[-1] == "idle"


def test_who_comes_back_gets_the_reply_of_a_cell_that_goes_on(
    server: Server, connect: Connect
) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    front_end, other = connect(kernel_id), connect(kernel_id)
    front_end.run("import os, time")
    go = server.root / "go"
    cell = front_end.execute(
        f"while not os.path.exists({str(go)!r}): time.sleep(0.02); print('.')\n"
        "print('through')"
    )
    begun(front_end, cell)
    checkpoint(server, kernel_id)
    front_end.close()
    wait_until(lambda: server.get(f"api/kernels/{kernel_id}")["connections"] == 1)

    restore(server, kernel_id, "one")

    back = connect(kernel_id, front_end.session.session)
    # A server opens the websocket before ZeroMQ has subscribed to a busy kernel's outputs.
    back.wait_for(lambda _: of_kind(back.of(cell), "stream"), "outputs", LIMIT)
    go.touch()
    assert back.reply(cell).text.endswith("through\n")
    wait_until(lambda: "through" in str(of_kind(other.of(cell), "stream")))
    assert answers(back, cell)[0] == ["ok"]


def subshell(front_end: FrontEnd) -> str:
    """A new one's id."""
    info = front_end.reply(front_end.send("kernel_info_request", {}, "control"))
    if "kernel subshells" not in info.content.get("supported_features", ()):
        pytest.skip("the kernel has no subshells")
    request = front_end.send("create_subshell_request", {}, "control")
    return str(front_end.reply(request).content["subshell_id"])


def thread_of(front_end: FrontEnd, subshell_id: str) -> str:
    """Which thread runs a cell that is sent to a subshell."""
    header = front_end.session.msg_header("execute_request") | {"subshell_id": subshell_id}
    content = {"code": "import threading; print(threading.current_thread().name)"}
    request = front_end.send("execute_request", content, header=header)
    reply = front_end.reply(request)
    assert reply.status == "ok", reply.content
    return reply.text.strip()


def test_subshells_that_are_gone_are_not_used(server: Server, connect: Connect) -> None:
    """Comms of JupyterLab live in them."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    kept = subshell(front_end)
    assert thread_of(front_end, kept) == f"subshell-{kept}"
    checkpoint(server, kernel_id)
    lost = subshell(front_end)
    assert thread_of(front_end, lost) == f"subshell-{lost}"

    restore(server, kernel_id, "one")

    assert thread_of(front_end, lost) == "MainThread"
    wait_until(lambda: thread_of(front_end, kept) == f"subshell-{kept}")
    new = subshell(front_end)
    assert thread_of(front_end, new) == f"subshell-{new}"


def test_a_restart_forgets_what_was_asked(server: Server, connect: Connect) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    front_end = connect(kernel_id)
    begun(front_end, front_end.execute(FOREVER))
    status, _, _ = server.fetch("POST", f"api/kernels/{kernel_id}/restart")
    assert status == 200
    assert front_end.value("1") == "1"
    checkpoint(server, kernel_id)
    assert restore(server, kernel_id, "one")["running"] == []


def test_requests_go_with_their_kernel() -> None:
    manager = AsyncKernelManager()
    requests = kernel_requests(manager)
    requests.send("s", "shell", b'{"msg_id": "a", "msg_type": "execute_request"}', b"{}")
    assert kernel_requests(manager) is requests
    assert [request.msg_id for request in requests.pending()] == ["a"]
    before = len(_KERNELS)
    del manager
    gc.collect()
    assert len(_KERNELS) < before
