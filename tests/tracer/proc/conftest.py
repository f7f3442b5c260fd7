"""Real programs to read about, and ways to be somebody who may not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest

ORDINARY = 20001


@dataclass(frozen=True)
class Program:
    """A Python program that has told what there is to know and waits for its end."""

    pid: int
    told: Any
    process: subprocess.Popen[bytes]

    def end(self) -> None:
        """Ends it and waits until it is a zombie, still to be reaped."""
        self.process.kill()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def reap(self) -> None:
        self.process.kill()
        self.process.wait()


Start = Callable[..., Program]

PRELUDE = """
import json, sys
def tell(value):
    print(json.dumps(value), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the program of that source, which ends in ``tell(VALUE)``."""
    with ExitStack() as stack:

        def start_program(source: str = "tell(None)", *args: str) -> Program:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", PRELUDE + source, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            return Program(process.pid, json.loads(process.stdout.readline()), process)

        yield start_program


@pytest.fixture
def stranger() -> Callable[[Callable[[], object]], str]:
    """Calls a function as an ordinary user without capabilities, in a child; returns
    the name of the exception, a line break, and its text."""

    def call(function: Callable[[], object]) -> str:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setresgid(ORDINARY, ORDINARY, ORDINARY)
                    os.setresuid(ORDINARY, ORDINARY, ORDINARY)
                function()
            except Exception as error:  # noqa: BLE001
                os.write(writer, f"{type(error).__name__}\n{error}".encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file, suppress(ChildProcessError):
            said = file.read().decode()
            os.waitpid(pid, 0)
        return said

    return call
