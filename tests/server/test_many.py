"""Many forks of one snapshot, and a server that has other things to do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import User
from tests.engine.harness import LIMIT
from tests.server.harness import Server, jupyter_server

FORKS = 20


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


@pytest.mark.long
def test_forks_side_by_side(server: Server) -> None:
    """Each with its own variables, ports and key; interrupt, restart and shutdown work
    on each; after the shutdown nothing remains."""
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one", warm=True)
    tasks = [server.begin("snapshots/one/fork", document=False) for _ in range(FORKS)]
    forks = [server.wait(task) for task in tasks]
    assert [task["state"] for task in forks] == ["done"] * FORKS, forks
    ids = [task["result"]["kernel_id"] for task in forks]
    front_ends = [server.front_end(fork) for fork in ids]
    for number, front_end in enumerate(front_ends):
        front_end.run(f"x += {number}")
    assert [f.run("print(x)") for f in front_ends] == [str(1 + n) for n in range(FORKS)]
    connections = [
        json.loads(Path(task["result"]["connection_file"]).read_text()) for task in forks
    ]
    assert len({connection["key"] for connection in connections}) == FORKS
    ports = {c[name] for c in connections for name in c if name.endswith("_port")}
    assert len(ports) == FORKS * 5
    requests = [front_end.begin("while True: pass") for front_end in front_ends]
    for fork in ids:
        server.fetch("POST", f"api/kernels/{fork}/interrupt")
    for front_end, request in zip(front_ends, requests, strict=True):
        assert front_end.reply(request).content["ename"] == "KeyboardInterrupt"
    assert server.fetch("POST", f"api/kernels/{ids[0]}/restart")[0] == 200
    assert server.front_end(ids[0]).run("print('x' in globals())") == "False"
    for fork in ids:
        assert server.fetch("DELETE", f"api/kernels/{fork}")[0] == 204
    assert list(server.kernels()) == [kernel_id]
    runtime = Path(server.user.environment["JUPYTER_RUNTIME_DIR"])
    assert len(list(runtime.glob("kernel-*.json"))) == 1
    status, _, _ = server.fetch("DELETE", "jupyter-cr/snapshots/one")
    assert status == 204


@pytest.mark.long
@pytest.mark.timeout(300)
def test_snapshot_every_second(server: Server) -> None:
    """A kernel that computes is snapshotted every second for a minute, while another
    front end works with another kernel: no message is lost or answered twice."""
    check_every_second(server, 60)


def test_snapshots_of_a_kernel_that_computes(server: Server) -> None:
    check_every_second(server, 4)


def check_every_second(server: Server, seconds: int) -> None:
    computing = server.open_notebook("a.ipynb")
    front_end = server.front_end(computing)
    other = server.front_end(server.open_notebook("b.ipynb"))
    front_end.run("import os; total = 0")
    request = front_end.execute(
        "while not os.path.exists('stop'):\n"
        "    total += sum(range(1000)) == 499500; count = total\n"
        "print(total == count)"
    )
    began = time.monotonic()
    task = None
    sent = answered = snapshots = 0
    while time.monotonic() - began < seconds or snapshots < 3:
        assert time.monotonic() - began < seconds + LIMIT
        if task is None or task["state"] != "running":
            task = server.begin(f"kernels/{computing}/checkpoint")
            snapshots += 1
        sent += 1
        assert other.run(f"print({sent})") == str(sent)
        answered += 1
        time.sleep(max(0.0, began + 0.1 * sent - time.monotonic()))
        task = server.get(f"jupyter-cr/tasks/{task['id']}")
    (server.root / "stop").touch()
    reply = front_end.reply(request)
    assert reply.text.strip() == "True"
    assert server.wait(task)["state"] == "done"
    replies = [m for m in other.messages if m["msg_type"] == "execute_reply"]
    assert len(replies) == sent == answered
    assert len({m["parent_header"]["msg_id"] for m in replies}) == sent
