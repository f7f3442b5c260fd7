"""A store with many snapshots: how long it takes to open it, and list the newest."""

from __future__ import annotations

import time

from jupyter_cr.store import Store
from tests.benchmarks.figures import Figure
from tests.benchmarks.measure import Bench
from tests.store.many import take_many

__all__ = ["measure_catalogue"]

_COUNT = 10_000
_TARGET_MS = 100


def measure_catalogue(bench: Bench) -> None:
    """Within a process; what a command takes on top is a figure of its own."""
    root = bench.home / "many"
    with bench.figures.unless_it_fails("newest 50 snapshots", ""):
        bench.say(f"{_COUNT:,} snapshots")
        take_many(Store(root), _COUNT)
        samples = []
        for _ in range(bench.repeat):
            began = time.perf_counter()
            with Store(root) as store:
                found = store.list(limit=50, newest_first=True)
            samples.append((time.perf_counter() - began) * 1e3)
            assert len(found) == 50
        figure = Figure(
            name="newest 50 snapshots",
            workload=f"of {_COUNT:,}",
            unit="ms",
            samples=tuple(samples),
            target=_TARGET_MS,
        )
        bench.figures.add(figure)
