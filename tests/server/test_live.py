"""Snapshots that are of use before they are on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.server.checked import checked_server
from tests.server.harness import Server, jupyter_server

MUCH = "import os; x = 1; data = bytearray(os.urandom(64 << 20)) * 3"


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as server:
        yield server


def state(server: Server, name: str) -> str:
    return str(server.get(f"jupyter-cr/snapshots/{name}/summary")["state"])


def test_restored_while_it_is_being_saved(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run(MUCH)
    content = front_end.value("hash(bytes(data))")
    taken = server.do(f"kernels/{kernel_id}/checkpoint", name="one", until="live")
    assert taken["state"] == "live"
    assert taken["bytes"] > 192 << 20
    assert taken["downtime_ms"] > 0
    front_end.run("x = 2; data[:] = bytes(len(data))")
    kept = server.do(f"kernels/{kernel_id}/restore", snapshot="one")["kept"]
    assert front_end.value("x, hash(bytes(data))") == f"(1, {content})"
    for name in ("one", kept):
        wait_until(lambda name=name: state(server, name) == "durable", "it is on disk")
    server.do(f"kernels/{kernel_id}/restore", snapshot=kept, keep=False)
    assert front_end.value("x, any(data)") == "(2, False)"


def test_removed_while_it_is_being_saved(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run(MUCH)
    server.do(f"kernels/{kernel_id}/checkpoint", name="one", until="live")
    assert server.fetch("DELETE", "jupyter-cr/snapshots/one")[0] == 204
    assert server.get("jupyter-cr/snapshots")["total"] == 0


def test_renamed_while_it_is_being_saved(tmp_path: Path) -> None:
    with checked_server(tmp_path) as server, server.events() as events:
        kernel_id = server.start_kernel()
        server.run(kernel_id, MUCH)
        server.do(f"kernels/{kernel_id}/checkpoint", name="one", until="live")
        change = {"name": "two", "note": "a note"}
        assert server.fetch("PATCH", "jupyter-cr/snapshots/one", change)[0] == 200
        assert state(server, "two") == "live"
        *before, told = events.until("durable")
        assert "failed" not in [event["action"] for event in before]
        assert told["snapshot"] == "two"
        seen = server.get("jupyter-cr/snapshots/two/summary")
        assert (seen["state"], seen["note"]) == ("durable", "a note")
        assert server.get(f"jupyter-cr/snapshots?kernel_id={kernel_id}")["positions"] == {
            kernel_id: "two"
        }


def test_the_next_one_waits_for_it(server: Server) -> None:
    """And takes over what that one has."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run(MUCH)
    for name in ("one", "two"):
        server.do(f"kernels/{kernel_id}/checkpoint", name=name, warm=True, until="live")
    wait_until(lambda: state(server, "two") == "warm", "it is on disk")
    assert state(server, "one") == "warm"
    two = server.get("jupyter-cr/snapshots/two/summary")
    assert two["own"] < 16 << 20
    assert two["parent"] == "one"


def test_a_server_that_stops_brings_it_to_its_end(user: User) -> None:
    with jupyter_server(user) as server:
        kernel_id = server.open_notebook("a.ipynb")
        server.front_end(kernel_id).run(MUCH)
        server.do(f"kernels/{kernel_id}/checkpoint", name="one", until="live")
    with jupyter_server(user) as server:
        assert state(server, "one") == "durable"
