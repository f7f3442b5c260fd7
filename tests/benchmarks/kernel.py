"""Kernels to measure, clients that ask them, and the commands to be measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

__all__ = [
    "COMMAND",
    "ROOT",
    "Client",
    "CommandError",
    "Kernel",
    "anon_huge",
    "cr",
    "end",
    "pss",
    "rss",
    "running",
]

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120.0
COMMAND = "import sys; from jupyter_cr.cli import main; sys.exit(main())"


class CommandError(Exception):
    """A command ended with an error; its message."""


def cr(*words: str, code: str = COMMAND) -> Any:
    """Run ``jupyter-cr`` and give its JSON."""
    result = subprocess.run(
        [sys.executable, "-c", code, *words, "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=ROOT,
    )
    if result.returncode:
        raise CommandError(_message(result.stderr))
    return json.loads(result.stdout)


def _message(text: str) -> str:
    last = (text.strip().splitlines() or ["no output"])[-1]
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(last)["message"])
    return last


class Client:
    """Asks a kernel, as a front end does."""

    def __init__(self, connection_file: str | Path) -> None:
        self._client = BlockingKernelClient(connection_file=str(connection_file))
        self._client.load_connection_file()
        self._client.start_channels()

    def first_reply(self) -> None:
        """Return as soon as an execute request has been answered."""
        sent = self._client.execute("pass", store_history=False)
        while True:
            reply = self._client.get_shell_msg(timeout=LIMIT)
            if reply["parent_header"].get("msg_id") == sent:
                return

    def ready(self) -> None:
        """Wait for all channels: without it, output may be lost.

        jupyter_client takes a kernel for dead whose heart does not beat within a second,
        as on a busy machine when it has just been started.
        """
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                self._client.wait_for_ready(timeout=LIMIT)
                return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise

    def run(self, code: str) -> str:
        """Execute code and give what it prints."""
        printed: list[str] = []

        def hook(message: Mapping[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self._client.execute_interactive(
            code, output_hook=hook, timeout=LIMIT, store_history=False
        )
        content = reply["content"]
        if content["status"] != "ok":
            raise CommandError(f"{content['ename']}: {content['evalue']}")
        return "".join(printed).strip()

    def close(self) -> None:
        self._client.stop_channels()


class Kernel:
    """A stock kernel, prepared by some code."""

    def __init__(self, directory: Path, preparation: str) -> None:
        self._manager = KernelManager(connection_file=str(directory / "kernel-bench.json"))
        self._manager.start_kernel(
            extra_arguments=["--HistoryManager.enabled=False"],
            cwd=str(directory),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.connection_file = Path(self._manager.connection_file)
        self.pid: int = getattr(self._manager.provisioner, "pid", 0)
        self.client = Client(self.connection_file)
        self.client.ready()
        self.client.run(preparation)

    def fork(self, name: str, connection_file: Path) -> tuple[int, float]:
        """The fork's pid, and milliseconds from the command to its first answer."""
        began = time.perf_counter()
        forked = cr("fork", name, "--keep-key", "--connection-file", str(connection_file))
        client = Client(connection_file)
        try:
            client.first_reply()
            return int(forked["pid"]), (time.perf_counter() - began) * 1e3
        finally:
            client.close()

    def restore(self, name: str, *options: str) -> tuple[float, float]:
        """Milliseconds of the engine, and from the command to the next answer."""
        began = time.perf_counter()
        restored = cr("restore", name, *options)
        self.pid = int(restored["pid"])
        self.client.first_reply()
        return float(restored["elapsed_ms"]), (time.perf_counter() - began) * 1e3

    def await_end(self) -> None:
        """Wait until its pid is free; whoever restores it with that pid needs it."""
        process = getattr(self._manager.provisioner, "process", None)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{self.pid}").exists() and time.monotonic() < deadline:
            if process is not None:
                process.poll()
            time.sleep(0.005)

    def end(self) -> None:
        self.client.close()
        end(self.pid)
        self._manager.shutdown_kernel(now=True)
        self._manager.context.destroy()


def end(pid: int) -> None:
    """End a tree that was started here, and wait until its memory is free again."""
    try:
        family = [p.pid for p in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return
    for member in [pid, *family]:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{member}/exe").exists() for member in [pid, *family]):
            return
        time.sleep(0.01)


@contextmanager
def running(directory: Path, preparation: str) -> Iterator[Kernel]:
    kernel = Kernel(directory, preparation)
    try:
        yield kernel
    finally:
        kernel.end()


def _rollup(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def rss(pid: int) -> int:
    """Bytes (proc_pid_smaps(5))."""
    return _rollup(pid, "Rss")


def pss(pid: int) -> int:
    """Bytes: shared pages count by their share."""
    return _rollup(pid, "Pss")


def anon_huge(pid: int) -> int:
    """Bytes in huge pages."""
    return _rollup(pid, "AnonHugePages")
