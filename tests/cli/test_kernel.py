"""The whole way, through the command line, on a real kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

PROGRAM = "import sys; from jupyter_cr.cli import main; sys.exit(main())"


def cr(*words: str) -> Any:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, "--json"],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def run_code(client: BlockingKernelClient, code: str) -> str:
    """What the code prints."""
    printed: list[str] = []

    def hook(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=hook, timeout=30)
    assert reply["content"]["status"] == "ok", reply
    return "".join(printed).strip()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[KernelManager]:
    path = tmp_path / "runtime" / "kernel-original.json"
    path.parent.mkdir()
    manager = KernelManager(connection_file=str(path))
    # A fork shares its original's history file, where IPython then complains, in the
    # output of either, that a line's number is not unique.
    manager.start_kernel(
        extra_arguments=["--HistoryManager.enabled=False"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield manager
    finally:
        manager.shutdown_kernel(now=True)
        manager.context.destroy()


@contextmanager
def connected(client: Any) -> Iterator[BlockingKernelClient]:
    assert isinstance(client, BlockingKernelClient)
    client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        yield client
    finally:
        client.stop_channels()


def end(pid: int) -> None:
    """End a rebuilt tree that this test has started, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_checkpoint_and_fork(kernel: KernelManager, tmp_path: Path) -> None:
    with connected(kernel.client()) as client:
        run_code(client, "x = [1, 2, 3]")
        taken = cr("checkpoint", "original", "--name", "one", "--note", "a note")
        assert taken.keys() == {
            "name",
            "state",
            "downtime_ms",
            "elapsed_ms",
            "bytes",
            "processes",
            "parent",
        }
        assert (taken["name"], taken["state"], taken["parent"]) == ("one", "durable", "")
        (process,) = taken["processes"]
        assert process["pid"] == getattr(kernel.provisioner, "pid", None)
        assert process["bytes"] > 1 << 20

        forked = cr("fork", "one")
        try:
            path = Path(forked["connection_file"])
            assert cr("checkpoint", str(path), "--name", "fork's")["parent"] == "one"
            assert cr("checkpoint", "original", "--name", "two")["parent"] == "one"
            assert cr("checkpoint", "original", "--name", "three")["parent"] == "two"
            assert path.parent == tmp_path / "runtime"
            assert path.stat().st_mode & 0o777 == 0o600
            other = BlockingKernelClient(connection_file=str(path))
            other.load_connection_file()
            with connected(other):
                run_code(other, "x.append('fork')")
                run_code(client, "x.append('original')")
                assert run_code(other, "print(x)") == "[1, 2, 3, 'fork']"
                assert run_code(client, "print(x)") == "[1, 2, 3, 'original']"
        finally:
            end(forked["pid"])
    assert cr("verify", "one")["name"] == "one"
    shown = cr("show", "one")
    assert shown["header"]["kernel"]["kernel_name"] == "python3"
    assert shown["snapshot"]["note"] == "a note"
