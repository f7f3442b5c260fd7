"""The tutorial, run cell by cell in a real server as a front end runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, User
from tests.server.harness import Server, jupyter_server

TUTORIAL = ROOT / "notebooks" / "tutorial.ipynb"


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


def cells() -> list[str]:
    document: dict[str, Any] = json.loads(TUTORIAL.read_text())
    return [
        "".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"
    ]


def test_tutorial(server: Server) -> None:
    """Every cell succeeds; that which restores is called off, as the kernel that was
    asked is no more."""
    model = {"type": "notebook", "content": json.loads(TUTORIAL.read_text())}
    server.fetch("PUT", "api/contents/tutorial.ipynb", model)
    front_end = server.front_end(server.open_notebook("tutorial.ipynb"))
    printed = {}
    for number, source in enumerate(cells()):
        reply = front_end.reply(front_end.execute(source, f"cell-{number}"))
        expected = "aborted" if source.startswith("%restore") else "ok"
        assert reply.status == expected, (source, reply.content)
        printed[source] = reply.text.strip()
    texts = list(printed.values())
    assert "[0, 1, 4, 9, 16] 41" in texts
    assert "gone: True" in texts
    assert "[0, 1, 4, 9, 16] 25 42" in texts
    assert printed["print(balance)"] == "100"
    assert "original" in texts
    paths = {session["path"] for session in server.get("api/sessions")}
    assert "tutorial-before.ipynb" in paths
    assert not {"dead", "restarting"} & set(front_end.states())


def test_tutorial_has_no_outputs() -> None:
    """It is for the reader to run."""
    document = json.loads(Path(TUTORIAL).read_text())
    assert not any(cell.get("outputs") for cell in document["cells"])
