"""`jupyter cr` beside a server: what that looks after, it does itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import User
from tests.engine.kernels import CommandError, CommandLine, Frontend
from tests.server.harness import Server, jupyter_server


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


def test_checkpoint_and_restore(server: Server) -> None:
    """The notebook is in the snapshot, the websocket lives, nobody takes the restore for
    a crash, and what ran before is kept."""
    cr = CommandLine(server.user)
    model = {"type": "notebook", "content": {"cells": [], "metadata": {}, "nbformat": 4}}
    model["content"]["nbformat_minor"] = 5  # type: ignore[index]
    server.fetch("PUT", "api/contents/a.ipynb", model)
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("x = 1")
    taken = cr("checkpoint", kernel_id[:8], "--name", "one")
    assert (taken["name"], taken["state"]) == ("one", "durable")
    (snapshot,) = server.get("jupyter-cr/snapshots")["snapshots"]
    assert (snapshot["path"], snapshot["has_document"]) == ("a.ipynb", True)
    front_end.run("x = 2")
    restored = cr("restore", "one")
    assert restored["connection_file"].endswith(f"kernel-{kernel_id}.json")
    assert front_end.run("print(x)") == "1"
    assert not {"dead", "restarting"} & set(front_end.states())
    assert server.get("jupyter-cr/snapshots")["total"] == 2
    with pytest.raises(CommandError, match="without --wait"):
        cr("restore", "one", "--wait")


def test_fork_stands_alone(server: Server) -> None:
    cr = CommandLine(server.user)
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    cr("checkpoint", kernel_id, "--name", "one")
    forked = cr("fork", "one")
    front_end = Frontend.of(forked["connection_file"])
    try:
        assert front_end.run("x += 1; print(x)") == "2"
    finally:
        front_end.close()
    assert list(server.kernels()) == [kernel_id]


def test_errors_are_the_servers(server: Server) -> None:
    cr = CommandLine(server.user)
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    cr("checkpoint", kernel_id, "--name", "one")
    with pytest.raises(CommandError) as caught:
        cr("checkpoint", kernel_id, "--name", "one")
    assert caught.value.code == 10
    assert "named one already" in caught.value.text
