from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from jupyter_server.services.sessions.sessionmanager import SessionManager

from jupyter_cr.errors import StorageError
from jupyter_cr.kernels.records import private_dir
from jupyter_cr.server.documents import Documents
from jupyter_cr.server.front_end_requests import FrontEndRequests
from jupyter_cr.server.housekeeping import Housekeeping
from jupyter_cr.server.kernel_socket import KernelSocket
from jupyter_cr.server.service import SnapshotService
from jupyter_cr.server.tasks import Tasks
from jupyter_cr.server.timelines import Timelines

KERNEL_ID = "5f0c2b1e-6f0a-4c8a-9b5e-0f8f2f9b7a11"

# Sends its standard input to the socket once a line has come on it, and prints what it
# gets. With a second argument, a child does it.
PEER = """
import os, socket, subprocess, sys
if len(sys.argv) > 2:
    command, python = sys.orig_argv[:-1], "/proc/self/exe"
    sys.exit(subprocess.run(command, executable=python).returncode)
line = sys.stdin.buffer.readline()
channel = socket.socket(socket.AF_UNIX)
# The whole path may be longer than an address can be.
directory, name = os.path.split(sys.argv[1])
os.chdir(directory)
channel.connect(name)
channel.sendall(line)
print("sent", flush=True)
if sys.stdin.buffer.readline():
    channel.close()
    print("closed", flush=True)
    sys.stdin.buffer.readline()
else:
    for answer in channel.makefile():
        print(answer, end="", flush=True)
"""


class Server:
    """What of a server the socket needs, and `kernels`: pid -> kernel id."""

    def __init__(self, directory: Path | None = None) -> None:
        self.kernels: dict[int, str] = {}
        self.events: list[str] = []
        self.tasks = Tasks()
        kernels = AsyncMappingKernelManager()
        sessions = SessionManager(kernel_manager=kernels)
        housekeeping = Housekeeping(lambda *a, **k: None, logging.getLogger())
        self.service = SnapshotService(
            kernels, Documents(None, sessions), None, lambda *a, **k: None, housekeeping
        )
        documents = Documents(None, sessions)
        timelines = Timelines(
            self.service,
            FrontEndRequests(kernels),
            kernels,
            documents,
            lambda *a, **k: None,
            logging.getLogger(),
        )
        self.socket = KernelSocket(
            self.service, self.tasks, self.kernels.get, timelines, directory=directory
        )


@contextlib.asynccontextmanager
async def serving(directory: Path | None = None) -> AsyncIterator[tuple[Server, Path]]:
    server = Server(directory)
    path = await server.socket.start()
    try:
        yield server, path
    finally:
        await server.tasks.stop()
        await server.socket.stop()


class Peer:
    """A process that talks to the socket."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    async def send(self, line: bytes) -> None:
        self._stdin.write(line + b"\n")
        assert await self._stdout.readline() == b"sent\n"

    async def hang_up(self) -> None:
        self._stdin.write(b"close\n")
        assert await self._stdout.readline() == b"closed\n"

    async def answers(self) -> list[dict[str, Any]]:
        self._stdin.close()
        return [json.loads(line) async for line in self._stdout]

    async def ask(self, **request: Any) -> dict[str, Any]:
        await self.send(json.dumps(request).encode())
        (answer,) = await self.answers()
        return answer


@contextlib.asynccontextmanager
async def peer_of(
    path: Path, *more: str, name: str = sys.executable
) -> AsyncIterator[Peer]:
    process = await asyncio.create_subprocess_exec(
        name,
        "-c",
        PEER,
        str(path),
        *more,
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    peer = Peer(process)
    try:
        yield peer
    finally:
        peer._stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 40))


def test_only_this_user_gets_near() -> None:
    async def test() -> None:
        async with serving() as (_, path):
            assert path == private_dir() / f"server-{os.getpid()}.sock"
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(private_dir().iterdir()) == []

    run(test)


def test_a_directory_that_is_too_open_is_closed() -> None:
    async def test() -> None:
        private_dir().mkdir(parents=True)
        private_dir().chmod(0o755)
        async with serving():
            assert stat.S_IMODE(private_dir().stat().st_mode) == 0o700

    run(test)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_directory_that_is_not_ours_is_refused(kind: str, tmp_path: Path) -> None:
    async def test() -> None:
        private_dir().parent.mkdir(parents=True)
        if kind == "file":
            private_dir().touch()
        else:
            private_dir().symlink_to(tmp_path)
        with pytest.raises(StorageError, match="No socket for kernels"):
            await Server().socket.start()

    run(test)


def test_a_kernel_is_known_by_its_pid() -> None:
    async def test() -> None:
        async with serving() as (server, path), peer_of(path) as peer:
            server.kernels[peer.pid] = KERNEL_ID
            assert await peer.ask(op="whoami") == {
                "type": "result",
                "result": {"kernel_id": KERNEL_ID, "role": "original", "snapshot": ""},
            }

    run(test)


def test_a_child_of_a_kernel_speaks_for_it() -> None:
    async def test() -> None:
        async with serving() as (server, path), peer_of(path, "by a child") as peer:
            server.kernels[peer.pid] = KERNEL_ID
            answer = await peer.ask(op="whoami")
            assert answer["result"]["kernel_id"] == KERNEL_ID

    run(test)


def test_a_rebuilt_tree_may_ask_before_it_is_known() -> None:
    async def test() -> None:
        async with (
            serving() as (server, path),
            peer_of(path, "by a child", name="jupyter-cr") as peer,
        ):
            await peer.send(b'{"op": "whoami"}')
            answers = asyncio.ensure_future(peer.answers())
            await asyncio.sleep(0.3)
            assert not answers.done()
            (child,) = psutil.Process(peer.pid).children()
            server.kernels[child.pid] = KERNEL_ID
            (answer,) = await answers
            assert answer["result"]["kernel_id"] == KERNEL_ID
            assert answer["result"]["role"] == "restored"

    run(test)


def test_a_stranger_is_told_so() -> None:
    async def test() -> None:
        async with serving() as (server, path), peer_of(path) as peer:
            server.kernels[os.getpid() + 1] = KERNEL_ID
            answer = await peer.ask(op="checkpoint")
            assert (answer["type"], answer["error"]) == ("error", "NoSuchProcess")
            assert (answer["http_status"], answer["exit_code"]) == (404, 3)
            assert str(peer.pid) in answer["message"]
            assert server.tasks.list() == []

    run(test)


def test_a_kernel_lists_snapshots() -> None:
    async def test() -> None:
        async with serving() as (server, path), peer_of(path) as peer:
            server.kernels[peer.pid] = KERNEL_ID
            answer = await peer.ask(op="list", q="x", limit=5)
            nothing = {"snapshots": [], "total": 0, "positions": {}}
            assert answer == {"type": "result", "result": nothing}

    run(test)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"what?", "JSON"),
        (b'{"op": "\xff"}', "utf-8"),
        (b"[]", "Expected `object`"),
        (b"{}", "There is no operation ''"),
        (b'{"op": "dance"}', "There is no operation 'dance'"),
        (b'{"op": "whoami", "name": "x"}', "unknown field `name`"),
        (b'{"op": "list", "limit": -1}', "$.limit"),
        (b'{"op": "checkpoint", "nam": "x"}', "unknown field `nam`"),
        (b'{"op": "restore"}', "missing required field `snapshot`"),
        (b'{"op": "undo", "steps": 0}', "$.steps"),
    ],
)
def test_what_is_not_understood(line: bytes, said: str) -> None:
    async def test() -> None:
        async with serving() as (server, path), peer_of(path) as peer:
            server.kernels[peer.pid] = KERNEL_ID
            await peer.send(line)
            (answer,) = await peer.answers()
            assert (answer["type"], answer["error"]) == ("error", "UsageError")
            assert said in answer["message"]
            assert answer["hint"]

    run(test)


def test_an_operation_is_a_task() -> None:
    async def test() -> None:
        async with serving() as (server, path), peer_of(path) as peer:
            server.kernels[peer.pid] = KERNEL_ID
            answer = await peer.ask(op="checkpoint", name="a")
            # There is no such kernel: its manager knows none at all.
            assert (answer["error"], answer["http_status"]) == ("NoSuchProcess", 404)
            (task,) = server.tasks.list()
            assert (task.operation, task.state) == ("checkpoint", "failed")
            assert (task.kernel_id, task.snapshot) == (KERNEL_ID, "a")

    run(test)


def test_who_hangs_up_calls_off() -> None:
    async def test() -> None:
        async with serving() as (server, path), peer_of(path) as peer:
            server.kernels[peer.pid] = KERNEL_ID
            async with server.service._alone(KERNEL_ID):  # So that it has to wait.
                await peer.send(b'{"op": "checkpoint"}')
                (task,) = await until(lambda: server.tasks.list())
                await peer.hang_up()
                await until(lambda: server.tasks.get(task.id).state == "cancelled")

    run(test)


def test_who_dies_does_not() -> None:
    async def test() -> None:
        async with serving() as (server, path), peer_of(path) as peer:
            server.kernels[peer.pid] = KERNEL_ID
            async with server.service._alone(KERNEL_ID):
                await peer.send(b'{"op": "checkpoint"}')
                (task,) = await until(lambda: server.tasks.list())
                peer.process.kill()
                await peer.process.wait()
                await asyncio.sleep(1.5)
                assert server.tasks.get(task.id).state == "running"
            ended = await server.tasks.wait(task.id)
            assert ended.state == "failed"

    run(test)


def test_whose_task_is_called_off_is_told() -> None:
    async def test() -> None:
        async with serving() as (server, path), peer_of(path) as peer:
            server.kernels[peer.pid] = KERNEL_ID
            async with server.service._alone(KERNEL_ID):
                await peer.send(b'{"op": "checkpoint"}')
                (task,) = await until(lambda: server.tasks.list())
                await server.tasks.cancel(task.id)
                (answer,) = await peer.answers()
            assert answer["error"] == "Cancelled"

    run(test)


def test_nobody_is_left_waiting_when_the_server_stops() -> None:
    async def test() -> None:
        async with serving() as (server, path), peer_of(path) as peer:
            server.kernels[peer.pid] = KERNEL_ID
            async with server.service._alone(KERNEL_ID):
                await peer.send(b'{"op": "checkpoint"}')
                await until(lambda: server.tasks.list())
                await server.socket.stop()
                assert await peer.answers() == []

    run(test)


async def until(condition: Callable[[], Any]) -> Any:
    while not (found := condition()):
        await asyncio.sleep(0.01)
    return found


def listening_process(path: Path) -> subprocess.Popen[bytes]:
    """Another server, as far as can be seen."""
    code = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]);"
        "s.listen(); print(flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_sockets_of_dead_servers_are_removed() -> None:
    async def test() -> None:
        directory = private_dir()
        directory.mkdir(parents=True)
        dead, living = directory / "server-1.sock", directory / "server-2.sock"
        end(listening_process(dead))
        process = listening_process(living)
        try:
            async with serving() as (_, path):
                assert sorted(directory.iterdir()) == sorted([living, path])
        finally:
            end(process)

    run(test)


def test_another_server_may_have_the_same_pid() -> None:
    async def test() -> None:
        async with serving() as (_, one), serving() as (_, other):
            assert other.name == f"server-{os.getpid()}-2.sock"
            assert one.exists()

    run(test)


def test_the_socket_of_another_is_not_removed() -> None:
    async def test() -> None:
        async with serving() as (_, path):
            path.unlink()
            path.touch()
        assert path.exists()

    run(test)


def test_a_path_may_be_longer_than_that_of_a_socket(tmp_path: Path) -> None:
    async def test() -> None:
        directory = tmp_path / ("x" * 120)
        async with serving(directory) as (_, path):
            fd = os.open(directory, os.O_PATH)
            with socket.socket(socket.AF_UNIX) as channel:
                channel.connect(f"/proc/self/fd/{fd}/{path.name}")
            os.close(fd)
            async with serving(directory) as (_, other):
                assert path.exists()
                assert other.exists()
        assert list(directory.iterdir()) == []

    run(test)
