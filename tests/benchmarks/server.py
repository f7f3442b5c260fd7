"""What a person waits for in front of a notebook: a real server, REST and websockets.

``python -m tests.benchmarks.server [--runs N]`` prints, in milliseconds, medians from the
call to the first answer of the kernel that it is about; beside each what the same kernel
takes to answer without it; and how long the server's event loop was held up at most.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from tests.conftest import User, _environment
from tests.server import harness
from tests.server.harness import Server, jupyter_server

MONITOR = """
import asyncio, atexit, os, sys, time
run = asyncio.events.Handle._run
longest = [0.0, ""]
def timed(handle):
    began = time.perf_counter()
    run(handle)
    took = time.perf_counter() - began
    if took > longest[0]:
        longest[:] = took, repr(handle)
        with open(os.environ["LONGEST"], "w") as file:
            print(took * 1e3, longest[1][:300], file=file)
asyncio.events.Handle._run = timed
def forget(*_):
    longest[:] = 0.0, ""
import signal; signal.signal(signal.SIGUSR2, forget)
from jupyter_server.serverapp import main
sys.exit(main())
"""
"""A server that notes how long a callback has held up its event loop at most; SIGUSR2
makes it begin anew."""

T = TypeVar("T")

SIZES = {"idle": 0, "256 MiB": 256, "1 GiB": 1024}


def fork_and_ask(server: Server, name: str) -> str:
    """The id of a fork that has answered."""
    forked: dict[str, str] = server.do(f"snapshots/{name}/fork", document=False)
    server.front_end(forked["kernel_id"]).run("x")
    return forked["kernel_id"]


def measure(server: Server, longest: Path, mib: int, runs: int) -> dict[str, list[float]]:
    """Figure -> one value for each run."""
    found: dict[str, list[float]] = {}

    def note(figure: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = work()
        took = (time.perf_counter() - began) * 1e3
        found.setdefault(figure, []).append(took)
        return result

    kernel_id = server.open_notebook(f"{mib}.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run(f"import os; data = bytearray(os.urandom(1 << 20) * {mib}); x = 1")
    longest.unlink(missing_ok=True)
    server.process.send_signal(signal.SIGUSR2)
    for number in range(runs):
        name = f"s{mib}-{number}"
        note("answer", lambda: front_end.run("x"))
        note(
            "checkpoint",
            partial(server.do, f"kernels/{kernel_id}/checkpoint", name=name, warm=True),
        )
        fork = note("warm fork, to answer", partial(fork_and_ask, server, name))
        server.fetch("DELETE", f"api/kernels/{fork}")
        server.fetch("DELETE", f"jupyter-cr/snapshots/{name}")
    server.do(f"kernels/{kernel_id}/checkpoint", name=f"s{mib}")
    for keep in (False, True):

        def restore(keep: bool = keep) -> None:
            server.do(f"kernels/{kernel_id}/restore", snapshot=f"s{mib}", keep=keep)
            front_end.run("x")

        label = ", old one kept" if keep else ""
        for _ in range(runs):
            note(f"restore{label}, to answer", restore)
    found["longest callback"] = [float(longest.read_text().split()[0])]
    server.fetch("DELETE", f"api/kernels/{kernel_id}")
    return found


def main() -> None:
    """Run all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-", dir=shared) as directory:
        home = Path(directory)
        longest = home / "longest"
        environment = {**_environment(home), "LONGEST": str(longest)}
        user = User("me", os.geteuid(), (), sys.executable, home, environment)
        harness.SERVE = ("-c", MONITOR)
        columns = {}
        for label, mib in SIZES.items():
            with jupyter_server(user) as server:
                columns[label] = measure(server, longest, mib, runs)
    table = Table("", *columns)
    for figure in next(iter(columns.values())):
        medians = (statistics.median(column[figure]) for column in columns.values())
        table.add_row(figure, *(f"{value:.0f}" for value in medians))
    Console().print(table)


if __name__ == "__main__":
    main()
