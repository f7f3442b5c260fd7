"""Real kernels and programs, and our command line, as any user; and what has to be
cleared up after them: rebuilt trees are nobody's children."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from jupyter_cr.engine.identity import SEED_NAME
from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until

COMMAND = ("-c", "import sys; from jupyter_cr.cli import main; sys.exit(main())")


class CommandError(AssertionError):
    """Our command said no."""

    def __init__(self, words: Sequence[str], code: int, text: str) -> None:
        super().__init__(f"{' '.join(words)}: {code}: {text}")
        self.code = code
        self.text = text


@dataclass
class CommandLine:
    """`jupyter-cr` as a user. Snapshots get names that nobody else has, so that what
    their restores leave behind can be told by it; `prefix` of all of them."""

    user: User
    prefix: str = field(default_factory=lambda: "t" + secrets.token_hex(6))
    _count: int = 0

    def argv(self, *words: str) -> list[str]:
        return self.user.command(self.user.python, *COMMAND, *words, "--json")

    def __call__(self, *words: str) -> Any:
        done = subprocess.run(
            self.argv(*words),
            cwd=self.user.home,
            env=dict(self.user.environment),
            capture_output=True,
            text=True,
            timeout=55,
        )
        if done.returncode:
            raise CommandError(words, done.returncode, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def checkpoint(self, target: int | str) -> str:
        """The name of the new snapshot."""
        self._count += 1
        name = f"{self.prefix}-{self._count}"
        self("checkpoint", str(target), "--name", name)
        return name

    def restore(self, name: str) -> int:
        """The root's pid as we see it."""
        return int(self("restore", name)["pid"])

    def fork(self, name: str, *words: str) -> tuple[int, str | None]:
        """The root's pid as we see it, and the connection file."""
        answer = self("fork", name, *words)
        return int(answer["pid"]), answer["connection_file"]

    def path(self, name: str) -> Path:
        """Where the snapshot is."""
        home = Path(self.user.environment["JUPYTER_CR_HOME"])
        (id_,) = [found["id"] for found in self("list") if found["name"] == name]
        return home / "snapshots" / id_

    def pack(self, name: str) -> Path:
        """What of its memory is stored for this snapshot first."""
        path = self.path(name)
        return path.parent.parent / "packs" / f"{path.name}.pack"

    def keepers(self) -> list[int]:
        """Who still holds a tree that was rebuilt from one of our snapshots."""
        found = []
        for pid in psutil.pids():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                ours = words[0] == SEED_NAME.encode() and len(words) > 2
                if ours and words[2].startswith(self.prefix.encode()):
                    found.append(pid)
        return found

    def end_all(self) -> None:
        """End every tree that was rebuilt from our snapshots."""

        def ended() -> bool:
            left = self.keepers()
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        wait_until(ended, "end of rebuilt trees")


@contextmanager
def command_line(user: User) -> Iterator[CommandLine]:
    """Ends at its end whatever was rebuilt by it."""
    cr = CommandLine(user)
    try:
        yield cr
    finally:
        cr.end_all()


class CellError(AssertionError):
    """A cell raised."""


@dataclass
class Frontend:
    """A jupyter_client client: what a notebook would have."""

    client: BlockingKernelClient

    @classmethod
    def of(cls, connection_file: str | Path) -> Frontend:
        client = BlockingKernelClient(connection_file=str(connection_file))
        client.load_connection_file()
        client.start_channels()
        frontend = cls(client)
        try:
            frontend._wait_for_ready()
        except BaseException:
            frontend.close()
            raise
        return frontend

    def _wait_for_ready(self) -> None:
        """jupyter_client takes a kernel for dead whose heart does not beat within
        a second, as on a busy machine when it has just been started."""
        deadline = time.monotonic() + LIMIT * 2
        while True:
            try:
                self.client.wait_for_ready(timeout=LIMIT * 2)
                return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise

    def run(self, code: str, limit: float = LIMIT) -> str:
        """What the cell prints."""
        printed: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self.client.execute_interactive(code, output_hook=hook, timeout=limit)
        if reply["content"]["status"] != "ok":
            raise CellError("\n".join(reply["content"]["traceback"])[-3000:])
        return "".join(printed).strip()

    def settle(self) -> None:
        """Wait until outputs arrive: a kernel that has just been restored waits for its
        front ends, but not for long, and what it prints then, nobody hears."""

        def heard() -> bool:
            with suppress(TimeoutError):
                return self.run("print('heard')", 2.0) == "heard"
            return False

        wait_until(heard, "outputs arrive")

    def do(self, code: str, limit: float = LIMIT) -> None:
        """Run a cell; only its reply is waited for.

        Raises:
            CellError: it raised.
        """
        content = self.client.execute(code, reply=True, timeout=limit)["content"]
        if content["status"] != "ok":
            raise CellError("\n".join(content["traceback"])[-3000:])

    def value(self, expression: str, limit: float = LIMIT) -> str:
        """repr() of an expression; it comes in the reply itself, not as an output."""
        reply = self.client.execute(
            "", user_expressions={"value": expression}, reply=True, timeout=limit
        )
        result = reply["content"]["user_expressions"]["value"]
        if result["status"] != "ok":
            raise CellError(f"{result['ename']}: {result['evalue']} ({expression})")
        return str(result["data"]["text/plain"])

    def close(self) -> None:
        self.client.stop_channels()
        self.client.context.destroy()


@dataclass
class Kernel(Frontend):
    """A kernel that we started, as its parent, like a Jupyter server does."""

    process: subprocess.Popen[bytes]
    connection_file: str

    @property
    def pid(self) -> int:
        return self.process.pid


# A fork shares its original's history file, where IPython then complains, in the
# output of either, that a line's number is not unique.
_WITHOUT_HISTORY = ("--HistoryManager.enabled=False",)


@contextmanager
def kernel(user: User, arguments: Sequence[str] = _WITHOUT_HISTORY) -> Iterator[Kernel]:
    """An ipykernel as `user`, with a client; killed at the end with all descendants."""
    runtime = Path(user.environment["JUPYTER_RUNTIME_DIR"])
    runtime.mkdir(mode=0o700, exist_ok=True)
    path, _ = write_connection_file(str(runtime / f"kernel-{secrets.token_hex(8)}.json"))
    for owned in (runtime, path):
        os.chown(owned, user.uid, user.uid)
    process = subprocess.Popen(
        user.command(
            user.python,
            "-m",
            "ipykernel_launcher",
            "-f",
            path,
            *arguments,
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=user.home,
        start_new_session=True,
        env={**user.environment, "JPY_PARENT_PID": str(os.getpid())},
    )
    try:
        frontend = Frontend.of(path)
        try:
            yield Kernel(frontend.client, process, path)
        finally:
            frontend.close()
    finally:
        end_tree(process)
        # Shared memory that cells have made, named after the user's directory.
        for path in Path("/dev/shm").glob(f"{user.home.name}*"):
            path.unlink(missing_ok=True)


@contextmanager
def forked(cr: CommandLine, name: str) -> Iterator[tuple[Frontend, int]]:
    """A fork of a kernel's snapshot: its client, and the pid of its root."""
    pid, path = cr.fork(name)
    assert path is not None
    frontend = Frontend.of(path)
    try:
        yield frontend, pid
    finally:
        frontend.close()


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill our child with all its descendants, and reap it."""
    family = []
    if process.poll() is None:
        with suppress(psutil.Error):
            family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    for member in family:
        with suppress(psutil.Error):
            member.kill()
    process.wait(LIMIT)


SERVE = r"""
import os, socket, threading, traceback
def answer(connection):
    with connection, connection.makefile("rw") as stream:
        for line in stream:
            try:
                if line.startswith("!"):
                    exec(eval(line[1:]), globals())
                    said = None
                else:
                    said = eval(line, globals())
            except BaseException:
                said = traceback.format_exc()
            print(repr(repr(said)), file=stream, flush=True)
def serve():
    '''Answer expressions, for ever, one client after the other.'''
    listener = socket.create_server(("127.0.0.1", 0))
    while True:
        connection = listener.accept()[0]
        answer(connection)
        del connection
"""
"""Goes before a program that ends in ``serve()``."""


def port_of(pid: int) -> int:
    """The one port of 127.0.0.1 at which a process listens."""

    def listening() -> list[int]:
        found = psutil.Process(pid).net_connections("tcp")
        listening = (c.laddr for c in found if c.status == psutil.CONN_LISTEN)
        return [address.port for address in listening if address.ip == "127.0.0.1"]

    wait_until(listening, f"process {pid} listens")
    return listening()[0]


def ask(pid: int, question: str) -> Any:
    """The value of an expression in a program that serves; what can be written as a
    literal comes back as what it is."""
    address = ("127.0.0.1", port_of(pid))
    with (
        socket.create_connection(address, timeout=LIMIT) as connection,
        connection.makefile("rw") as stream,
    ):
        print(question, file=stream, flush=True)
        said = stream.readline()
    assert said, f"no answer to {question}"
    text = eval(said)
    try:
        return eval(text, {})
    except (SyntaxError, NameError):
        return text


def tell(pid: int, code: str) -> None:
    """Run statements there."""
    said = ask(pid, "!" + repr(code))
    assert said is None, said


@contextmanager
def served(
    user: User, code: str, *, output: int = subprocess.DEVNULL, wrap: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that ends in ``serve()``; killed at the end."""
    with running(
        user, user.python, "-c", SERVE + code, output=output, wrap=wrap
    ) as process:
        port_of(process.pid)
        yield process


@contextmanager
def running(
    user: User,
    *argv: str,
    output: int = subprocess.DEVNULL,
    wrap: Sequence[str] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Any program of the user's, in its home and a session of its own."""
    process = subprocess.Popen(
        [*wrap, *user.command(*argv)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL if output == subprocess.DEVNULL else output,
        cwd=user.home,
        start_new_session=True,
        env={**user.environment, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        end_tree(process)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def settle(seconds: float) -> None:
    """Let programs run for a while: where there is nothing to wait for."""
    time.sleep(seconds)
