"""Nothing on Linux need be UTF-8: names of processes, arguments, files, directories."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jupyter_cr.errors import RestoreError, printable
from tests.engine.harness import LIMIT, ROOT, SERVE, Program, wait_until

PROGRAM = "import sys; from jupyter_cr.cli import main; sys.exit(main())"

CODE = (
    SERVE
    + r"""
import ctypes, mmap, os, socket

here = os.path.dirname(os.fsencode(sys.argv[1]))
os.chdir(here + b"/directory \xff")
ctypes.CDLL(None).prctl(15, b"comm \xfe")
for name in (b"/private \xfd", b"/shared \xfc"):
    with open(here + name, "wb") as made:
        made.write(b"content".ljust(4096))
private_file = open(here + b"/private \xfd", "r+b")
private = mmap.mmap(private_file.fileno(), 4096, mmap.MAP_PRIVATE)
shared_file = open(here + b"/shared \xfc", "r+b")
shared = mmap.mmap(shared_file.fileno(), 4096)
memfd = os.memfd_create(os.fsdecode(b"memfd \xfb"))
os.ftruncate(memfd, 4096)
memory = mmap.mmap(memfd, 4096)
memory[:5] = b"memfd"
os.close(memfd)
segment_path = b"/dev/shm/jupyter-cr test \xfa %d" % os.getpid()
segment_fd = os.open(segment_path, os.O_RDWR | os.O_CREAT)
os.ftruncate(segment_fd, 4096)
segment = mmap.mmap(segment_fd, 4096)
segment[:7] = b"segment"
listener = socket.socket(socket.AF_UNIX)
listener.bind(b"socket \xf9")
listener.listen()

def state():
    proc = "/proc/self/"
    comm, command = (open(proc + name, "rb").read() for name in ("comm", "cmdline"))
    link = os.readlink(b"/proc/self/fd/%d" % private_file.fileno())
    return ascii((comm, command, os.getcwdb(), link, private[:7],
                  shared[:7], memory[:5], segment[:7]))
serve(globals())
"""
)


def cr(*words: str, as_json: Sequence[str] = ("--json",)) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, *as_json],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}/exe").exists(), "its end")


def test_checkpoint_show_restore_and_fork(tmp_path: Path) -> None:
    here = os.fsencode(tmp_path)
    os.mkdir(here + b"/directory \xff")
    running = Program([sys.executable, "-c", CODE, os.fsdecode(here + b"/argument \xf8")])
    segment = b"/dev/shm/jupyter-cr test \xfa %d" % running.pid
    try:
        running.expect("ready")
        before = running.ask("state()")
        assert "\\xfe" in before
        cr("checkpoint", str(running.pid), "--name", "bytes")
        shown: dict[str, Any] = json.loads(cr("show", "bytes"))
        (process,) = shown["content"]["processes"]
        assert process["name"] == "comm \\xfe"
        assert process["command"][-1].endswith("argument \\xf8")
        assert process["cwd"].endswith("directory \\xff")
        assert "\\xfe" in cr("show", "bytes", as_json=())
        # The fork finds the end of file where the original reads, and ends.
        forked = json.loads(cr("fork", "bytes"))
        assert any("jupyter-cr test \\xfa" in warning for warning in forked["warnings"])
        wait_until(lambda: not Path(f"/proc/{forked['pid']}/exe").exists(), "its end")
        restored = json.loads(cr("restore", "bytes"))
        try:
            assert running.ask("state()") == before
            with socket.socket(socket.AF_UNIX) as visitor:
                visitor.connect(here + b"/directory \xff/socket \xf9")
        finally:
            end(restored["pid"])
    finally:
        running.end()
        os.unlink(segment)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e9", "plain \u00e9"),
        (os.fsdecode(b"byte \xff"), "byte \\xff"),
        ("lone \ud800", "lone \\ud800"),
    ],
)
def test_messages_can_be_printed_and_sent(text: str, shown: str) -> None:
    assert printable(text) == shown
    error = RestoreError(f"{text} is gone", text)
    assert (error.message, error.hint) == (f"{shown} is gone", shown)
    json.dumps(error.message).encode()
    str(error).encode()
