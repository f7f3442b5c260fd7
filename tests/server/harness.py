"""A real `jupyter server` with its extension, as any user, and what front ends do with
it: REST and websockets."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import websocket
from jupyter_client.session import Session

from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import CommandError, CommandLine

__all__ = [
    "FrontEnd",
    "Reply",
    "Server",
    "jupyter_server",
    "notebook",
    "sources_of",
    "start_server",
]

SETTLE_LIMIT = 2.0
TOKEN = "t" + secrets.token_hex(8)
SERVE = (
    "-c",
    "import sys; from jupyter_server.serverapp import main; sys.exit(main())",
)
_EXTENSION = {"ServerApp": {"jpserver_extensions": {"jupyter_cr": True}}}


@dataclass(frozen=True)
class Reply:
    """What a cell came to."""

    content: dict[str, Any]
    text: str
    messages: Sequence[dict[str, Any]]

    @property
    def status(self) -> str:
        return str(self.content["status"])


class FrontEnd:
    """A websocket to one kernel, as an open notebook has it. All messages are collected
    as they come."""

    def __init__(self, url: str, session: str | None = None) -> None:
        self.session = Session(session=session) if session else Session()
        self._socket = websocket.create_connection(
            f"{url}&session_id={self.session.session}", timeout=LIMIT
        )
        self._socket.settimeout(None)
        self.messages: list[dict[str, Any]] = []
        self._arrived = threading.Condition()
        self.closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(websocket.WebSocketException, OSError, ValueError):
            while text := self._socket.recv():
                with self._arrived:
                    self.messages.append(json.loads(text))
                    self._arrived.notify_all()
        with self._arrived:
            self.closed = True
            self._arrived.notify_all()

    def send(
        self, kind: str, content: dict[str, Any], channel: str = "shell", **more: Any
    ) -> str:
        """Send a message; its id."""
        message = self.session.msg(kind, content, **more)
        message |= {"channel": channel, "buffers": []}
        self._socket.send(json.dumps(message, default=str))
        return str(message["header"]["msg_id"])

    def execute(self, code: str, cell_id: str = "cell", stdin: bool = False) -> str:
        """Ask for a cell to be run; the request's id."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": stdin,
            "stop_on_error": True,
        }
        return self.send("execute_request", content, metadata={"cellId": cell_id})

    def wait_for(
        self, found: Callable[[Sequence[dict[str, Any]]], Any], what: str, limit: float
    ) -> Any:
        """What `found` finds in all messages, as soon as that is true."""
        deadline = time.monotonic() + limit
        with self._arrived:
            while not (result := found(self.messages)):
                left = deadline - time.monotonic()
                kinds = [(m["channel"], m["msg_type"]) for m in self.messages[-12:]]
                assert left > 0, f"{what}: not within {limit} s; {kinds}"
                assert not self.closed, f"{what}: the websocket was closed"
                self._arrived.wait(left)
        return result

    def of(self, request: str) -> list[dict[str, Any]]:
        """All messages so far that answer a request."""
        with self._arrived:
            messages = list(self.messages)
        return [m for m in messages if m["parent_header"].get("msg_id") == request]

    def reply(self, request: str, limit: float = LIMIT) -> Reply:
        """Wait until a request is answered, and the kernel idle again."""

        def complete(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
            mine = [m for m in messages if m["parent_header"].get("msg_id") == request]
            idle = any(
                m["msg_type"] == "status" and m["content"]["execution_state"] == "idle"
                for m in mine
            )
            replied = any(m["msg_type"].endswith("_reply") for m in mine)
            return mine if idle and replied else None

        mine = self.wait_for(complete, f"reply to {request}", limit)
        (content,) = [m["content"] for m in mine if m["msg_type"].endswith("_reply")]
        text = "".join(m["content"]["text"] for m in mine if m["msg_type"] == "stream")
        return Reply(content, text, mine)

    def begin(self, code: str) -> str:
        """Have a cell run, in Python, until it is in the midst of the code; the request's
        id. Busy a kernel is before, too, where an interrupt hits nobody's cell."""
        request = self.execute(f"print('begun', flush=True)\n{code}")

        def has_begun(_: Sequence[dict[str, Any]]) -> bool:
            return any(message["msg_type"] == "stream" for message in self.of(request))

        self.wait_for(has_begun, "the cell begins", LIMIT)
        return request

    def run(self, code: str, limit: float = LIMIT, cell_id: str = "cell") -> str:
        """What a cell prints; it must not raise."""
        reply = self.reply(self.execute(code, cell_id), limit)
        assert reply.status == "ok", reply.content
        return reply.text.strip()

    def value(self, expression: str, limit: float = LIMIT) -> str:
        """repr() of an expression, as the reply itself says it: outputs may be lost where
        a kernel has just been started afresh, and is still taken for a busy one (the
        server waits for the subscription of those only that are idle)."""
        content = {
            "code": "",
            "silent": True,
            "store_history": False,
            "user_expressions": {"value": expression},
            "allow_stdin": False,
        }
        request = self.send("execute_request", content)
        (reply,) = self.wait_for(
            lambda _: [m for m in self.of(request) if m["channel"] == "shell"],
            f"reply to {request}",
            limit,
        )
        return str(reply["content"]["user_expressions"]["value"]["data"]["text/plain"])

    def states(self) -> list[str]:
        """All kernel states that it has been told."""
        with self._arrived:
            return [
                m["content"]["execution_state"]
                for m in self.messages
                if m["msg_type"] == "status"
            ]

    def close(self) -> None:
        self._socket.close()
        self._reader.join(LIMIT)
        # The other end may have been closed first, which close() takes for enough.
        self._socket.shutdown()


@dataclass
class Server:
    """A running server of a user."""

    user: User
    port: int
    process: subprocess.Popen[bytes]
    root: Path
    log: Path
    _front_ends: list[FrontEnd] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def fetch(
        self, method: str, path: str, body: object = None, token: str = TOKEN
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, decoded JSON (or text), and headers."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=body if isinstance(body, bytes | None) else json.dumps(body).encode(),
            headers={"Authorization": f"token {token}"} if token else {},
        )
        try:
            with urllib.request.urlopen(request, timeout=LIMIT * 2) as answer:
                return answer.status, _decode(answer.read()), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with closing(error):
                return error.code, _decode(error.read()), dict(error.headers)

    def get(self, path: str) -> Any:
        """What is there; it must be."""
        status, body, _ = self.fetch("GET", path)
        assert status in (200, 202), (path, status, body)
        return body

    def begin(self, operation: str, /, **body: object) -> Any:
        """Start an operation under ``jupyter-cr/``; the task."""
        status, task, headers = self.fetch("POST", f"jupyter-cr/{operation}", body)
        assert status in (200, 202), (operation, status, task)
        assert headers["Location"].endswith(task["id"])
        return task

    def wait(self, task: Any, limit: float = LIMIT * 2) -> Any:
        """The task when it has ended."""
        deadline = time.monotonic() + limit
        while task["state"] == "running":
            assert time.monotonic() < deadline, task
            time.sleep(0.01)
            task = self.get(f"jupyter-cr/tasks/{task['id']}")
        return task

    def do(self, operation: str, /, **body: object) -> Any:
        """The result of an operation; it must succeed."""
        task = self.wait(self.begin(operation, **body))
        assert task["state"] == "done", task
        return task["result"]

    def fail(self, operation: str, /, **body: object) -> Any:
        """The problem of an operation; it must fail."""
        status, task, _ = self.fetch("POST", f"jupyter-cr/{operation}", body)
        if status >= 400:
            return task
        task = self.wait(task)
        assert task["state"] == "failed", task
        return task["error"]

    def write(self, path: str, *sources: str) -> None:
        """A document with code cells into the server's files, as a front end saves it."""
        model = {"type": "notebook", "format": "json", "content": notebook(*sources)}
        status, answer, _ = self.fetch("PUT", f"api/contents/{path}", model)
        assert status in (200, 201), answer

    def sources(self, path: str) -> list[str]:
        """Of the cells of a document there."""
        return sources_of(self.get(f"api/contents/{path}")["content"])

    def open_notebook(self, path: str, kernel: str = "python3") -> str:
        """As a front end opens a document: the id of its kernel."""
        body = {
            "path": path,
            "name": Path(path).name,
            "type": "notebook",
            "kernel": {"name": kernel},
        }
        status, session, _ = self.fetch("POST", "api/sessions", body)
        assert status == 201, session
        return str(session["kernel"]["id"])

    def front_end(self, kernel_id: str, session: str | None = None) -> FrontEnd:
        """A websocket, as `FrontEnd`; closed with the server."""
        front_end = FrontEnd(
            f"ws://127.0.0.1:{self.port}/api/kernels/{kernel_id}/channels?token={TOKEN}",
            session,
        )
        self._front_ends.append(front_end)
        return front_end

    def kernels(self) -> dict[str, str]:
        """Kernel id -> execution state."""
        return {k["id"]: k["execution_state"] for k in self.get("api/kernels")}

    def stop(self) -> None:
        """In an orderly way, as by Ctrl-C and yes."""
        for front_end in self._front_ends:
            front_end.close()
        self._front_ends.clear()
        if self.process.poll() is None:
            self._settle()
            self.process.terminate()
        try:
            self.process.wait(LIMIT)
        finally:
            self.process.kill()
            self.process.wait()

    def _settle(self) -> None:
        """Wait until it has taken note that websockets are closed. jupyter_server 2.21
        does not stop at a SIGTERM that comes while it writes a line of its log, since its
        handler writes one, too ("reentrant call")."""
        deadline = time.monotonic() + SETTLE_LIMIT
        with suppress(OSError, AssertionError):
            while any(kernel["connections"] for kernel in self.get("api/kernels")):
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(LIMIT)
        for front_end in self._front_ends:
            front_end.close()
        self._front_ends.clear()


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode(errors="replace")


def sources_of(document: dict[str, Any]) -> list[str]:
    """Of its cells."""
    return ["".join(cell["source"]) for cell in document["cells"]]


def notebook(*sources: str) -> dict[str, Any]:
    """A document with code cells."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate(sources)
    ]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


_PORTS = 100
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TAKEN = ("is not available", "Address already in use")


def _free_port() -> int:
    """None of those that Linux gives to whoever asks for any (ip(7)): a kernel that starts
    at the same moment might get it."""
    least, most = 10_000, int(_EPHEMERAL.read_text().split()[0])
    for _ in range(_PORTS):
        port = least + secrets.randbelow(most - least)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError(f"no port from {least} to {most} is free")


def start_server(
    user: User, *options: str, serve: Sequence[str] = SERVE, port: int = 0
) -> Server:
    """A server that answers. Its kernels' specs are those of the interpreter, and its
    configuration that of a package which has just been installed.

    Args:
        serve: arguments of Python that start it.
        port: that it listens on; any by default.
    """
    root = user.home / "files"
    config = Path(user.environment["JUPYTER_CONFIG_DIR"])
    log = user.home / "server.log"
    log.touch()
    for directory in (root, config):
        directory.mkdir(exist_ok=True)
    for own in (root, config, log):
        os.chown(own, user.uid, user.uid)
    (config / "jupyter_server_config.json").write_text(json.dumps(_EXTENSION))
    arguments = [
        user.python,
        *serve,
        "--ServerApp.port_retries=0",
        "--no-browser",
        "--allow-root",
        f"--ServerApp.root_dir={root}",
        f"--IdentityProvider.token={TOKEN}",
        *options,
    ]
    while True:
        said = log.stat().st_size
        server = _launch(user, arguments, port or _free_port(), root, log)
        try:
            wait_until(lambda: _answers(server), "the server answers")  # noqa: B023
            return server
        except BaseException as error:
            server.process.kill()
            server.process.wait()
            text = log.read_bytes()[said:].decode(errors="replace")
            if port or not isinstance(error, AssertionError) or not _is_taken(text):
                raise


def _launch(
    user: User, arguments: Sequence[str], port: int, root: Path, log: Path
) -> Server:
    with log.open("ab") as output:
        process = subprocess.Popen(
            user.command(*arguments, f"--port={port}"),
            cwd=user.home,
            env=dict(user.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return Server(user, port, process, root, log)


def _answers(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()[-3000:]
    with suppress(OSError):
        return server.fetch("GET", "api/status")[0] == 200
    return False


def _is_taken(text: str) -> bool:
    """Whether a server says that somebody was quicker to take its port."""
    return any(words in text for words in _TAKEN)


@contextmanager
def jupyter_server(
    user: User, *options: str, serve: Sequence[str] = SERVE
) -> Iterator[Server]:
    """A server; at the end it, its kernels, and whatever came of their snapshots are
    gone."""
    server = start_server(user, *options, serve=serve)
    try:
        yield server
    finally:
        server.stop()
        end_all(user)


def end_all(user: User) -> None:
    """Kill what a failed test may have left: processes whose command line names the
    user's own directory, as every kernel's does (the keepers of rebuilt ones end with
    them), and twins."""
    home = str(user.home)

    def left() -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if any(home in word for word in process.info["cmdline"] or [])
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def ended() -> bool:
        with suppress(psutil.NoSuchProcess):
            remaining = left()
            for process in remaining:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            return not remaining
        return False

    cr = CommandLine(user)
    with suppress(CommandError):
        for snapshot in cr("list"):
            if snapshot["state"] == "warm":
                subprocess.run(
                    user.command(
                        user.python,
                        "-c",
                        "import sys; from jupyter_cr.cli import main; sys.exit(main())",
                        "rm",
                        snapshot["name"],
                    ),
                    env=dict(user.environment),
                    timeout=LIMIT,
                    check=False,
                )
    wait_until(ended, "end of what was left")
