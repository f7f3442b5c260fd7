"""What notebooks hold on to, over restores and forks: widgets, prompts, subprocesses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.server.harness import FrontEnd, Server, jupyter_server

SLIDER = """
import ipywidgets
from IPython.display import display
seen = []
slider = ipywidgets.IntSlider(value=3, max=50)
slider.observe(lambda change: seen.append(change["new"]), "value")
display(slider)
print(slider.comm.comm_id)
"""


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


def move(front_end: FrontEnd, comm: str, value: int) -> None:
    """As somebody moves a slider; until the kernel is done with it."""
    content = {"comm_id": comm, "data": {"method": "update", "state": {"value": value}}}
    request = front_end.send("comm_msg", content)

    def is_idle(_: object) -> bool:
        states = [m["content"].get("execution_state") for m in front_end.of(request)]
        return "idle" in states

    front_end.wait_for(is_idle, "a comm message", LIMIT)


def shown(front_end: FrontEnd, comm: str) -> list[int]:
    """The values that the kernel has told the page."""
    values = []
    for message in front_end.messages:
        content: dict[str, Any] = message["content"]
        if message["msg_type"] == "comm_msg" and content["comm_id"] == comm:
            values.append(content["data"].get("state", {}).get("value"))
    return values


def check_slider(front_end: FrontEnd, comm: str) -> None:
    """It is as it was in the snapshot, and moves from both sides."""
    assert front_end.run("print(slider.value, seen)") == "3 []"
    move(front_end, comm, 20)
    assert front_end.run("print(slider.value, seen)") == "20 [20]"
    front_end.run("slider.value = 7")
    wait_until(lambda: shown(front_end, comm)[-1:] == [7])


def test_a_slider(server: Server) -> None:
    """A page that has been open all the time, and one that is opened for a fork."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    comm = front_end.run(SLIDER).splitlines()[-1]
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    move(front_end, comm, 11)
    assert front_end.run("print(slider.value)") == "11"

    server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    check_slider(front_end, comm)

    fork = server.do("snapshots/one/fork")["kernel_id"]
    page = server.front_end(fork)
    request = page.send("comm_info_request", {"target_name": "jupyter.widget"})
    assert comm in page.reply(request).content["comms"]
    check_slider(page, comm)
    assert front_end.run("print(slider.value, seen)") == "7 [20, 7]"


def connect_as(server: Server, kernel_id: str, other: FrontEnd) -> FrontEnd:
    """A page with another's session. Its messages have numbers of their own."""
    page = server.front_end(kernel_id, other.session.session)
    page.session.message_count = 1000
    return page


def debug(server: Server) -> tuple[str, FrontEnd, str]:
    """A kernel that waits for what to do after an exception: its id, its front end, and
    the request that it is at."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("pass")
    failed = front_end.execute("def f(number):\n    return number / 0\nf(42)")
    assert front_end.reply(failed).status == "error"
    request = front_end.execute("%debug", stdin=True)
    prompt(front_end, 1)
    return kernel_id, front_end, request


def prompt(front_end: FrontEnd, count: int) -> None:
    """Wait until the kernel has asked as often as that."""
    front_end.wait_for(
        lambda messages: sum(m["msg_type"] == "input_request" for m in messages) >= count,
        "a prompt",
        LIMIT,
    )


def answer(front_end: FrontEnd, value: str) -> None:
    front_end.send("input_reply", {"value": value}, "stdin")


def printed(front_end: FrontEnd, request: str) -> str:
    messages = front_end.of(request)
    return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")


def test_a_debugger(server: Server) -> None:
    """It goes on at the prompt at which it was, twice if need be."""
    kernel_id, front_end, request = debug(server)
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    answer(front_end, "p number * 10")
    prompt(front_end, 2)
    wait_until(lambda: "420\n" in printed(front_end, request))

    server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    answer(front_end, "p number + 1")
    wait_until(lambda: "43\n" in printed(front_end, request))
    prompt(front_end, 3)
    answer(front_end, "q")
    assert front_end.reply(request).status == "ok"
    assert front_end.run("print(1)") == "1"

    server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    prompt(front_end, 4)
    answer(front_end, "p number + 2")
    wait_until(lambda: "44\n" in printed(front_end, request))
    prompt(front_end, 5)
    answer(front_end, "q")
    assert front_end.run("print(2)") == "2"


def test_a_debugger_in_a_fork(server: Server) -> None:
    """A page that connects with the session of the one that was open is asked what that
    was asked."""
    kernel_id, front_end, request = debug(server)
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    answer(front_end, "q")
    front_end.reply(request)

    answered = server.do("snapshots/one/fork")
    (running,) = answered["running"]
    assert running["prompt"]["text"] == "ipdb> "
    assert running["session"] == front_end.session.session
    page = connect_as(server, answered["kernel_id"], front_end)
    prompt(page, 1)
    answer(page, "p number + 1")
    wait_until(lambda: "43\n" in printed(page, request))
    prompt(page, 2)
    answer(page, "q")
    assert page.reply(request).status == "ok"
    assert page.run("print(1)") == "1"


def test_a_subprocess(server: Server) -> None:
    """Of a cell that starts with ``!``, in the middle of it."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    go = server.root / "go"
    request = front_end.execute(
        f"!echo one; while [ ! -e {go} ]; do sleep 0.05; done; echo two"
    )
    wait_until(lambda: "one" in printed(front_end, request))
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    fork = server.do("snapshots/one/fork")["kernel_id"]
    page = connect_as(server, fork, front_end)
    go.touch()
    assert front_end.reply(request).text.split() == ["one", "two"]
    assert page.reply(request).text.split() == ["two"]
    assert front_end.run("print(1)") == page.run("print(1)") == "1"
