"""A server whose every answer is held against the OpenAPI description."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import websocket
import yaml
from jsonschema import Draft202012Validator

from jupyter_cr.server import handlers
from tests.conftest import ROOT, User
from tests.engine.harness import LIMIT
from tests.server.harness import TOKEN, Server, end_all, start_server

__all__ = ["OPENAPI", "CheckedServer", "Events", "checked_server", "present_user"]

OPENAPI: dict[str, Any] = yaml.safe_load(handlers.openapi())


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found: Any = OPENAPI
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def _find_operation(method: str, path: str) -> dict[str, Any] | None:
    for template, item in OPENAPI["paths"].items():
        if method.lower() in item and re.fullmatch(
            re.sub(r"\{\w+\}", "[^/]+", template.replace(".", r"\.")), path
        ):
            return dict(item[method.lower()])
    return None


def check_answer(
    method: str, path: str, status: int, body: Any, headers: dict[str, str]
) -> None:
    """Whether the description foretells it."""
    operation = _find_operation(method, "/" + path.partition("?")[0])
    if operation is None:
        return
    responses = operation["responses"]
    response = _resolved(responses.get(str(status), responses["default"]))
    assert str(status) in responses or status >= 400, (method, path, status)
    for name, header in response.get("headers", {}).items():
        root = {**_resolved(header)["schema"], "components": OPENAPI["components"]}
        Draft202012Validator(root).validate(headers[name])
    if "content" not in response:
        assert body is None
        return
    kind = headers["Content-Type"].partition(";")[0]
    schema = response["content"][kind].get("schema")
    if schema is None:
        return
    if isinstance(body, str):
        body = yaml.safe_load(body)
    Draft202012Validator({**schema, "components": OPENAPI["components"]}).validate(body)


class CheckedServer(Server):
    """Checks what it fetches."""

    def fetch(
        self, method: str, path: str, body: object = None, token: str = TOKEN
    ) -> tuple[int, Any, dict[str, str]]:
        status, answer, headers = super().fetch(method, path, body, token)
        check_answer(method, path, status, answer, headers)
        return status, answer, headers

    def start_kernel(self) -> str:
        """The id of a new kernel that is for no document."""
        status, kernel, _ = self.fetch("POST", "api/kernels", {"name": "python3"})
        assert status == 201, kernel
        return str(kernel["id"])

    def run(self, kernel_id: str, code: str) -> str:
        """What code prints."""
        front_end = self.front_end(kernel_id)
        try:
            return front_end.run(code)
        finally:
            self._front_ends.remove(front_end)
            front_end.close()

    def shut_down(self, kernel_id: str) -> None:
        assert self.fetch("DELETE", f"api/kernels/{kernel_id}")[0] == 204

    def snapshot_names(self) -> set[str]:
        return {s["name"] for s in self.get("jupyter-cr/snapshots?limit=0")["snapshots"]}

    def clear(self) -> None:
        """Without kernels, sessions and snapshots again, and nothing more to be told."""
        for task in self.get("jupyter-cr/tasks")["tasks"]:
            self.wait(task)
        for session in self.get("api/sessions"):
            self.fetch("DELETE", f"api/sessions/{session['id']}")
        for kernel_id in self.kernels():
            self.shut_down(kernel_id)
        for name in self.snapshot_names():
            self.fetch("DELETE", f"jupyter-cr/snapshots/{quote(name)}")

    @contextmanager
    def events(self) -> Iterator[Events]:
        """What is told from now on."""
        connection = websocket.create_connection(
            f"ws://127.0.0.1:{self.port}/api/events/subscribe?token={TOKEN}", timeout=LIMIT
        )
        try:
            yield Events(connection)
        finally:
            connection.close()


class Events:
    """Those of our schema."""

    def __init__(self, connection: websocket.WebSocket) -> None:
        self._connection = connection

    def until(self, action: str) -> list[dict[str, Any]]:
        """All, up to the first of that kind."""
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["action"] != action:
            event = json.loads(self._connection.recv())
            if event["schema_id"].endswith("/jupyter_cr/snapshot/v1"):
                heard.append(event)
        return heard


def present_user(home: Path) -> User:
    """Whoever runs the tests, with directories below `home`."""
    environment = os.environ | {
        "HOME": str(home),
        "JUPYTER_CR_HOME": str(home / "store"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(home)]),
    }
    return User("present", os.geteuid(), (), sys.executable, home, environment)


@contextmanager
def checked_server(home: Path, *options: str) -> Iterator[CheckedServer]:
    """A server of the present user."""
    user = present_user(home)
    plain = start_server(user, *options)
    server = CheckedServer(user, plain.port, plain.process, plain.root, plain.log)
    try:
        yield server
    finally:
        try:
            server.stop()
        finally:
            end_all(user)
