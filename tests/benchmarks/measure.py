"""What is measured of one kernel, one function for each kind of figure."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jupyter_cr.store import Store
from tests.benchmarks import criu
from tests.benchmarks.figures import Figure, Figures, Limit, median
from tests.benchmarks.kernel import (
    CommandError,
    Kernel,
    anon_huge,
    cr,
    end,
    pss,
    rss,
    running,
)
from tests.benchmarks.limits import fork_code, plain_pread_ms, plain_write_ms, warm_memory
from tests.benchmarks.workloads import Workload

__all__ = ["Bench", "measure_command", "measure_criu", "measure_workload"]

_LEAST = 64 << 20
"""Bytes: an idle kernel's."""


@dataclass
class Bench:
    """One run: where the snapshots are, how often all is measured, what was found."""

    home: Path
    repeat: int
    figures: Figures
    say: Callable[[str], None]

    def snapshot(self, name: str) -> Path:
        """Its directory."""
        with Store(self.home / "store") as store:
            return store.path(name)

    def raw(self, size: int) -> Path:
        """A file of that many bytes, as the memory would be if nothing were packed."""
        path = self.home / "raw"
        with path.open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(bytes(min(1 << 20, size - start)))
        return path

    def new_connection_file(self) -> Path:
        """A path for a fork's."""
        return self.home / f"kernel-{uuid.uuid4()}.json"

    def warm(self, workload: Workload) -> None:
        """Memory for a copy of all that the kernel holds, and then some."""
        warm_memory(2 * max(workload.size, _LEAST))


def measure_command(bench: Bench) -> None:
    """What the shortest command takes: Python's start is part of every figure that says
    "from the command"."""
    samples = []
    for _ in range(bench.repeat):
        began = time.perf_counter()
        cr("list")
        samples.append((time.perf_counter() - began) * 1e3)
    figure = Figure(
        name="shortest command (list)", workload="", unit="ms", samples=tuple(samples)
    )
    bench.figures.add(figure)


def measure_workload(bench: Bench, workload: Workload) -> None:
    """All figures of one kernel; the restores come last, as they put another in its
    place."""
    directory = bench.home / "kernel"
    directory.mkdir(exist_ok=True)
    with running(directory, workload.preparation) as kernel:
        for measure in (
            _measure_checkpoint,
            _measure_stops,
            _measure_cost,
            _measure_dill,
            _measure_cold_fork,
            _measure_warm_fork,
            _measure_restore,
            _measure_lazy_restore,
        ):
            name = measure.__name__.removeprefix("_measure_").replace("_", " ")
            bench.say(f"{workload.name}: {name}")
            with bench.figures.unless_it_fails(name, workload.name):
                measure(bench, workload, kernel)
            with bench.figures.unless_it_fails("clearing up", workload.name):
                for snapshot in cr("list"):
                    _remove(snapshot["name"])


def _remove(name: str) -> None:
    """``rm`` prints nothing, so it has no ``--json``."""
    with suppress(ValueError):
        cr("rm", name, code=_RM)


_RM = (
    "import sys; from jupyter_cr.operations import remove_snapshots; "
    "remove_snapshots([sys.argv[2]])"
)


def _measure_checkpoint(bench: Bench, workload: Workload, kernel: Kernel) -> None:
    downtimes, durable, writes, forks, commands = [], [], [], [], []
    for number in range(bench.repeat):
        bench.warm(workload)
        began = time.perf_counter()
        taken = cr("checkpoint", str(kernel.connection_file), "--name", f"c{number}")
        commands.append((time.perf_counter() - began) * 1e3)
        downtimes.append(taken["downtime_ms"])
        durable.append(taken["elapsed_ms"])
        _remove(f"c{number}")
        writes.append(plain_write_ms(bench.home, taken["bytes"]))
        forks.append(float(kernel.client.run(fork_code())))
    fork, write = median(forks), median(writes)
    target = workload.downtime_target
    bench.figures.add(
        Figure(
            name="downtime",
            workload=workload.name,
            unit="ms",
            samples=tuple(downtimes),
            target=15 + 2 * fork if target is None else min(target, 15 + 2 * fork),
            limit=Limit("os.fork() of it", fork),
            note=f"15 ms + 2 x fork = {15 + 2 * fork:.0f} ms",
        )
    )
    bench.figures.add(
        Figure(
            name="checkpoint, durable",
            workload=workload.name,
            unit="ms",
            samples=tuple(durable),
            target=1.3 * write,
            limit=Limit("plain write to new tmpfs pages", write),
            note=f"{_mebibytes(taken['bytes'])}; whole command {median(commands):.0f} ms",
        )
    )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


_STOPS = """
import json, sys
from jupyter_cr import operations
from jupyter_cr.tracer import ptrace
taken = operations.checkpoint(sys.argv[1], name="stops")
threads = sum(process.threads for process in taken.processes)
print(json.dumps({"stops": ptrace.waits, "threads": threads}))
"""


def _measure_stops(bench: Bench, workload: Workload, kernel: Kernel) -> None:
    counted = cr(str(kernel.connection_file), code=_STOPS)
    bench.figures.add(
        Figure(
            name="stops of a checkpoint",
            workload=workload.name,
            unit="per thread",
            samples=(counted["stops"] / counted["threads"],),
            target=60,
            note=f"{counted['stops']} stops, {counted['threads']} threads, twins' included",
        )
    )


_LOOP = """
def _bench_loop():
    import time
    best = float("inf")
    for _ in range(7):
        began = time.perf_counter()
        total = 0
        for n in range(1_000_000):
            total += n * n
        best = min(best, time.perf_counter() - began)
    return best * 1e3
print(_bench_loop())
"""
_WRITE_ALL = """
def _bench_write():
    import time
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        np.add(array, 1, out=array)
        best = min(best, time.perf_counter() - began)
    return best * 1e3
print(_bench_write())
"""
_GATHER = """
def _bench_gather():
    import time
    indices = np.random.default_rng(0).integers(0, len(array), 2_000_000)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        array[indices].sum()
        best = min(best, time.perf_counter() - began)
    return best * 1e3
print(_bench_gather())
"""


def _ask(kernel: Kernel, code: str, times: int) -> tuple[float, ...]:
    return tuple(float(kernel.client.run(code)) for _ in range(times))


def _measure_cost(bench: Bench, workload: Workload, kernel: Kernel) -> None:
    """A loop, and writing all of the array, before and after a checkpoint."""
    for name, code in (("a loop", _LOOP), ("writing all memory", _WRITE_ALL)):
        if code is _WRITE_ALL and not workload.size:
            continue
        before = median(_ask(kernel, code, bench.repeat))
        snapshot = f"cost-{name.split()[0]}"
        cr("checkpoint", str(kernel.connection_file), "--name", snapshot)
        bench.figures.add(
            Figure(
                name=f"{name}, after a checkpoint",
                workload=workload.name,
                unit="ms",
                samples=_ask(kernel, code, bench.repeat),
                target=before,
                limit=Limit("before it", before),
            )
        )


_DILL = """
def _bench_dill():
    import dill, time
    own = ("In", "Out", "get_ipython", "exit", "quit", "open")
    kept = {k: v for k, v in globals().items() if not k.startswith("_") and k not in own}
    began = time.perf_counter()
    data = dill.dumps(kept)
    return (time.perf_counter() - began) * 1e3, len(data)
print(*_bench_dill())
"""


def _measure_dill(bench: Bench, workload: Workload, kernel: Kernel) -> None:
    """dill.dumps() of the namespace, in the kernel: not on disk yet, and no threads, no
    children, no open files."""
    name = "dill.dumps() of the variables"
    samples, size = [], "0"
    for _ in range(min(3, bench.repeat)):
        try:
            took, size = kernel.client.run(_DILL).split()
        except CommandError as error:
            bench.figures.add(
                Figure(
                    name=name, workload=workload.name, unit="ms", note=f"refuses: {error}"
                )
            )
            return
        samples.append(float(took))
    bench.figures.add(
        Figure(
            name=name,
            workload=workload.name,
            unit="ms",
            samples=tuple(samples),
            note=_mebibytes(int(size)),
        )
    )


def _fork_samples(
    bench: Bench, workload: Workload, kernel: Kernel, name: str
) -> tuple[list[float], bool]:
    """Milliseconds until the answer, and whether the forks share memory."""
    samples, shares = [], False
    for _ in range(bench.repeat):
        bench.warm(workload)
        pid, took = kernel.fork(name, bench.new_connection_file())
        try:
            samples.append(took)
            shares = pss(pid) < 0.9 * rss(pid)
        finally:
            end(pid)
    return samples, shares


def _measure_cold_fork(bench: Bench, workload: Workload, kernel: Kernel) -> None:
    taken = cr("checkpoint", str(kernel.connection_file), "--name", "cold")
    samples, _ = _fork_samples(bench, workload, kernel, "cold")
    path = bench.raw(taken["bytes"])
    pages = median([plain_pread_ms(path) for _ in range(3)])
    path.unlink()
    bench.figures.add(
        Figure(
            name="cold fork, command to first answer",
            workload=workload.name,
            unit="ms",
            samples=tuple(samples),
            limit=Limit("plain pread of the pages", pages),
            note=_mebibytes(taken["bytes"]),
        )
    )


def _measure_warm_fork(bench: Bench, workload: Workload, kernel: Kernel) -> None:
    name = "warm fork, command to first answer"
    taken = cr("checkpoint", str(kernel.connection_file), "--name", "warm", "--warm")
    if taken["state"] != "warm":
        note = "not available: no twins are left alive"
        bench.figures.add(Figure(name=name, workload=workload.name, unit="ms", note=note))
        return
    samples, shares = _fork_samples(bench, workload, kernel, "warm")
    if not shares and workload.size:
        note = "not available: forks do not share the twins' pages"
        bench.figures.add(Figure(name=name, workload=workload.name, unit="ms", note=note))
        return
    idle = [f for f in bench.figures.found if f.name == name and f.workload == "idle"]
    limit = Limit("the idle kernel's", idle[0].value) if idle and idle[0].value else None
    bench.figures.add(
        Figure(
            name=name,
            workload=workload.name,
            unit="ms",
            samples=tuple(samples),
            target=min(250, 1.3 * limit.value) if limit else 250,
            limit=limit,
        )
    )
    if workload.size == 1 << 30:
        _measure_ten_forks(bench, workload, kernel)


def _measure_ten_forks(bench: Bench, workload: Workload, kernel: Kernel) -> None:
    forks: list[int] = []
    try:
        for _ in range(10):
            pid, _ = kernel.fork("warm", bench.new_connection_file())
            forks.append(pid)
        total = sum(map(pss, forks))
        everything = total + pss(kernel.pid) + sum(map(pss, _twins(bench.snapshot("warm"))))
    finally:
        for pid in forks:
            end(pid)
    bench.figures.add(
        Figure(
            name="10 warm forks, sum of Pss",
            workload=workload.name,
            unit="GiB",
            samples=(everything / 2**30,),
            target=1.5,
            note=f"with original and twins; the forks alone {total / 2**30:.2f} GiB",
        )
    )


def _twins(directory: Path) -> list[int]:
    from jupyter_cr.engine.twin import read_twins

    return [twin.pid for twin in read_twins(directory)]


def _measure_restore(bench: Bench, workload: Workload, kernel: Kernel) -> None:
    taken = cr("checkpoint", str(kernel.connection_file), "--name", "restore")
    path = bench.raw(taken["bytes"])
    huge = anon_huge(kernel.pid)
    gather = median(_ask(kernel, _GATHER, bench.repeat)) if workload.size else 0.0
    engine, answers, reads = [], [], []
    for _ in range(bench.repeat):
        bench.warm(workload)
        took, answer = kernel.restore("restore")
        engine.append(took)
        answers.append(answer)
        reads.append(plain_pread_ms(path))
    path.unlink()
    read = median(reads)
    limit = Limit("plain pread into fresh memory", read)
    bench.figures.add(
        Figure(
            name="restore, engine",
            workload=workload.name,
            unit="ms",
            samples=tuple(engine),
            target=workload.restore_target or 1.2 * read + 100,
            limit=limit,
        )
    )
    bench.figures.add(
        Figure(
            name="restore, command to next answer",
            workload=workload.name,
            unit="ms",
            samples=tuple(answers),
            limit=limit,
        )
    )
    if workload.size:
        _measure_huge_pages(bench, workload, kernel, huge, gather)


def _measure_huge_pages(
    bench: Bench, workload: Workload, kernel: Kernel, huge: int, gather: float
) -> None:
    bench.figures.add(
        Figure(
            name="huge pages after a restore",
            workload=workload.name,
            unit="MiB",
            samples=(anon_huge(kernel.pid) / 2**20,),
            target=huge / 2**20,
            limit=Limit("before it", huge / 2**20),
        )
    )
    bench.figures.add(
        Figure(
            name="random gather after a restore",
            workload=workload.name,
            unit="ms",
            samples=_ask(kernel, _GATHER, bench.repeat),
            target=gather,
            limit=Limit("before it", gather),
        )
    )


def _measure_lazy_restore(bench: Bench, workload: Workload, kernel: Kernel) -> None:
    if not workload.size:
        return
    name = "lazy restore, command to first answer"
    cr("checkpoint", str(kernel.connection_file), "--name", "lazy")
    whole = rss(kernel.pid)
    engine, samples = [], []
    for _ in range(bench.repeat):
        bench.warm(workload)
        took, answer = kernel.restore("lazy", "--lazy")
        is_lazy = rss(kernel.pid) < 0.9 * whole
        if not is_lazy:
            note = "not available: all memory was there at once"
            bench.figures.add(
                Figure(name=name, workload=workload.name, unit="ms", note=note)
            )
            return
        engine.append(took)
        samples.append(answer)
        _await_resident(kernel.pid, whole)
    bench.figures.add(
        Figure(
            name="lazy restore, engine",
            workload=workload.name,
            unit="ms",
            samples=tuple(engine),
        )
    )
    bench.figures.add(
        Figure(
            name=name, workload=workload.name, unit="ms", samples=tuple(samples), target=200
        )
    )


def _await_resident(pid: int, size: int) -> None:
    deadline = time.monotonic() + 30
    while rss(pid) < 0.9 * size and time.monotonic() < deadline:
        time.sleep(0.05)


def measure_criu(bench: Bench, workload: Workload) -> None:
    """CRIU's dump and restore of a kernel of the same kind."""
    if not criu.is_there():
        return
    bench.say(f"{workload.name}: criu")
    directory = bench.home / "criu"
    directory.mkdir()
    dumps, restores, answers = [], [], []
    with (
        bench.figures.unless_it_fails("criu", workload.name),
        running(directory, workload.preparation) as kernel,
    ):
        for number in range(bench.repeat):
            bench.warm(workload)
            images = directory / f"images-{number}"
            dumps.append(criu.dump_ms(kernel.pid, images, goes_on=False))
            kernel.await_end()
            took, answer = criu.restore_ms(images, kernel.client)
            restores.append(took)
            answers.append(answer)
            for path in images.iterdir():
                path.unlink()
    for name, samples in (
        ("criu dump (the kernel stands still)", dumps),
        ("criu restore", restores),
        ("criu restore, command to next answer", answers),
    ):
        if samples:
            figure = Figure(
                name=name, workload=workload.name, unit="ms", samples=tuple(samples)
            )
            bench.figures.add(figure)
