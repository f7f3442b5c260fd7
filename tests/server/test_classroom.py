"""Thirty students who start from one prepared state, on one server."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from jupyter_cr.engine.twin import read_twins
from tests.conftest import User
from tests.server.harness import Server, jupyter_server, notebook
from tests.server.test_lessons import AT, TITLE, lessons, with_lessons

STUDENTS = 30
PREPARE = """
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
table = pd.DataFrame(np.random.default_rng(1).random((400_000, 128)))
figure = plt.figure()
print(table.memory_usage().sum() >> 20)
"""
ANSWER = "print(len(table))"

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    place = user.home / "lessons"
    place.mkdir(mode=0o755)
    os.chown(place, user.uid, user.uid)
    with jupyter_server(with_lessons(user, place)) as running:
        yield running


def pss(pids: list[int]) -> float:
    """MiB of processes, what they share in proportion."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(text.split("Pss:")[1].split()[0]) for text in rollups) / 1024


def family(pid: int) -> list[int]:
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def test_thirty_students(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    path = server.root / "prepared.ipynb"
    path.write_text(json.dumps(notebook("table.mean()")))
    kernel_id = server.open_notebook("prepared.ipynb")
    loaded = server.front_end(kernel_id).run(PREPARE, limit=120)
    assert int(loaded) > 380
    server.do(f"kernels/{kernel_id}/checkpoint", name="prepared")
    server.fetch("DELETE", f"api/kernels/{kernel_id}")
    server.do("lessons", snapshot="prepared", title=TITLE)
    assert lessons(server)[0]["trusted"]

    def start(_: int) -> dict[str, object]:
        begun = time.perf_counter()
        started = server.wait(server.begin(f"{AT}/start"), limit=200)
        assert started["state"] == "done", started
        result: dict[str, object] = started["result"]
        front_end = server.front_end(str(result["kernel_id"]))
        assert front_end.run(ANSWER, limit=60) == "400000"
        return {**result, "after": time.perf_counter() - begun}

    # The first one has it fetched; that can be done before the lesson.
    first = start(0)
    begun = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        others = list(pool.map(start, range(STUDENTS - 1)))
    elapsed = time.perf_counter() - begun
    started = [first, *others]
    assert len({each["path"] for each in started}) == STUDENTS

    kernels = [pid for each in started for pid in family(int(str(each["pid"])))]
    total = pss([*kernels, *twins_of(server)])

    resets = []
    for each in started[:5]:
        front_end = server.front_end(str(each["kernel_id"]))
        front_end.run("table = None")
        begun = time.perf_counter()
        server.do(f"kernels/{each['kernel_id']}/reset", document=True, keep=False)
        assert front_end.run(ANSWER) == "400000"
        resets.append(time.perf_counter() - begun)

    with capsys.disabled():
        print(
            f"\n{STUDENTS} students: the first answers after {first['after']:.1f} s, the "
            f"{STUDENTS - 1} others after {elapsed:.1f} s in all; {total:.0f} MiB (Pss) in "
            f"all; reset {statistics.median(resets):.2f} s"
        )
    assert total < 2048, total


def twins_of(server: Server) -> set[int]:
    """Pids of what keeps the lesson in memory."""
    snapshots = server.user.home / "store" / "snapshots"
    return {
        twin.pid for path in snapshots.glob("*/twins") for twin in read_twins(path.parent)
    }
