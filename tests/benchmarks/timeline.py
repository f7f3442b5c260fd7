"""What a timeline costs in front of a notebook: a real server, REST and websockets.

``python -m tests.benchmarks.timeline [--runs N] [--points N]`` prints medians, in
milliseconds: a cell run without and with it, by itself (the point before it is ready) and
behind another (it waits for that); *Undo Run*, from the call until the kernel has answered
a cell; and for a kernel of 500 MB that changes 5 MB in each cell, what its points take.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.conftest import User, _environment
from tests.engine.harness import wait_until
from tests.server.harness import FrontEnd, Server, jupyter_server

SIZES = {"idle": 0, "256 MiB": 256, "1 GiB": 1024}
BEHIND = 10
"""Cells that are sent at once."""


class Subject:
    """A kernel that holds some memory, and a front end of it."""

    def __init__(self, server: Server, path: str, mib: int) -> None:
        self.server = server
        self.id = server.open_notebook(path)
        self.front_end: FrontEnd = server.front_end(self.id)
        self.front_end.run(f"import os; data = bytearray(os.urandom(1 << 20) * {mib})")

    def switch(self, is_on: bool) -> None:
        path = f"jupyter-cr/kernels/{self.id}/timeline"
        assert self.server.fetch("PUT", path, {"is_on": is_on})[0] == 200
        if is_on:
            self.wait_for_point()

    def timeline(self) -> dict[str, object]:
        return dict(self.server.get(f"jupyter-cr/kernels/{self.id}/timeline"))

    def wait_for_point(self) -> None:
        def at_base() -> bool:
            timeline = self.timeline()
            assert not timeline["problem"], timeline
            return bool(timeline["base"]) and not timeline["since"]

        wait_until(at_base, "a point")

    def undo(self) -> None:
        self.server.do(f"kernels/{self.id}/timeline/travel", steps=-1)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def measure(server: Server, mib: int, runs: int) -> dict[str, float]:
    """Figure -> median."""
    subject = Subject(server, f"{mib}.ipynb", mib)
    run = subject.front_end.run
    found: dict[str, list[float]] = {}

    def note(figure: str, value: float) -> None:
        found.setdefault(figure, []).append(value)

    def all_at_once() -> None:
        requests = [subject.front_end.execute("x = 1") for _ in range(BEHIND)]
        for request in requests:
            subject.front_end.reply(request)

    for mode in ("without", "with"):
        subject.switch(mode == "with")
        for _ in range(runs):
            note(f"a cell, {mode} it", timed(lambda: run("x = 1")))
            if mode == "with":
                # A person reads what it has printed.
                subject.wait_for_point()
        for _ in range(max(1, runs // 3)):
            note(f"each of {BEHIND} cells at once, {mode} it", timed(all_at_once) / BEHIND)
            if mode == "with":
                subject.wait_for_point()

    def undo_and_run() -> None:
        subject.undo()
        run("x")

    for _ in range(runs):
        run("x = 2")
        subject.wait_for_point()
        note("Undo Run, to the answer of a cell", timed(undo_and_run))
        subject.wait_for_point()
    server.fetch("DELETE", f"api/kernels/{subject.id}")
    return {figure: statistics.median(values) for figure, values in found.items()}


def measure_memory(server: Server, points: int) -> tuple[int, float, float]:
    """How many points there are in the end, MiB of memory that they take as the timeline
    says, and as the machine does."""
    subject = Subject(server, "memory.ipynb", 500)
    before = _anonymous()
    subject.switch(True)
    for number in range(points):
        start = number * 5 % 495
        # Nothing else: 5 MB from os.urandom() would be in pages of their own before.
        pages = f"range({start} << 20, {start + 5} << 20, 4096)"
        code = f"for at in {pages}: data[at] ^= 255"
        subject.front_end.run(code)
        subject.wait_for_point()
    time.sleep(6)
    subject.front_end.run("x = 1")
    subject.wait_for_point()
    time.sleep(2)
    timeline = subject.timeline()
    taken = _anonymous() - before
    count = len(timeline["points"])  # type: ignore[arg-type]
    return count, float(str(timeline["bytes"])) / (1 << 20), taken / (1 << 20)


def _anonymous() -> int:
    """Bytes of memory of all processes, and of their page tables (proc_meminfo(5)). What
    is available says little in a virtual machine whose host takes back what is free."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":") for line in lines)
    return sum(int(fields[name].split()[0]) << 10 for name in ("AnonPages", "PageTables"))


def main() -> None:
    """Run all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--points", type=int, default=200)
    options = parser.parse_args()
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    limits = (
        "--SnapshotExtension.timeline_retention=all",
        "--SnapshotExtension.timeline_mib=4096",
    )
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-", dir=shared) as directory:
        home = Path(directory)
        user = User("me", os.geteuid(), (), sys.executable, home, _environment(home))
        columns = {}
        for label, mib in SIZES.items():
            with jupyter_server(user, *limits) as server:
                columns[label] = measure(server, mib, options.runs)
        table = Table("ms", *columns)
        for figure in next(iter(columns.values())):
            table.add_row(figure, *(f"{each[figure]:.0f}" for each in columns.values()))
        console = Console()
        console.print(table)
        if options.points:
            with jupyter_server(user, *limits) as server:
                count, said, taken = measure_memory(server, options.points)
            console.print(
                f"{count} points of a kernel of 500 MB that changes 5 MB in each cell: "
                f"{said:.0f} MiB as measured, {taken:.0f} MiB more by /proc/meminfo"
            )


if __name__ == "__main__":
    main()
