"""What snapshots cost on disk, and until they are there: beside what has changed, and what
it takes to write as much."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.figures import Figure, Limit, median
from tests.benchmarks.kernel import COMMAND, Kernel, cr, running
from tests.benchmarks.limits import plain_write_ms
from tests.benchmarks.measure import Bench

__all__ = ["measure_stored"]

_SIZE = 1 << 30
_PAGE = 4096
_RANDOM = (
    "import numpy as np; rng = np.random.default_rng(1)\n"
    f"pages = rng.choice({_SIZE // _PAGE}, {_SIZE // _PAGE // 100}, replace=False)\n"
    f"whole = rng.integers(0, 256, {_SIZE + _PAGE}, dtype='u1')\n"
    # From the first page of its own on: else who writes to one page of it writes to two.
    f"data = whole[-whole.ctypes.data % {_PAGE} :][:{_SIZE}]\n"
)
_COMPRESSIBLE = (
    "import numpy as np; rng = np.random.default_rng(1)\n"
    f"data = rng.integers(0, 1000, {_SIZE // 8})\n"
)
_ONE_PERCENT = (
    f"for page in pages: data[page * {_PAGE} : (page + 1) * {_PAGE}] = "
    f"np.frombuffer(rng.bytes({_PAGE}), dtype='u1')\n"
)
_TEN_PERCENT = (
    f"first = {_SIZE // 3 // _PAGE * _PAGE}\n"
    f"data[first : first + {_SIZE // 10}] = "
    f"np.frombuffer(rng.bytes({_SIZE // 10}), dtype='u1')\n"
)
_FRESH = "import pandas, matplotlib.pyplot\n"
_KERNELS, _QUICK_KERNELS = 30, 6


def measure_stored(bench: Bench, *, quick: bool) -> None:
    """On a disk, not on a tmpfs."""
    with _on_disk(bench):
        for measure in (_measure_second, _measure_compressible):
            name = measure.__name__.removeprefix("_measure_")
            bench.say(f"store: {name}")
            with bench.figures.unless_it_fails(f"store: {name}", "1 GiB"):
                measure(bench)
        bench.say("store: fresh kernels")
        with bench.figures.unless_it_fails("store: fresh kernels", ""):
            _measure_fresh(bench, _QUICK_KERNELS if quick else _KERNELS)


@contextmanager
def _on_disk(bench: Bench) -> Iterator[None]:
    before, home = os.environ["JUPYTER_CR_HOME"], bench.home
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-bench-", dir="/var/tmp") as name:
        os.environ["JUPYTER_CR_HOME"] = f"{name}/store"
        bench.home = Path(name)
        try:
            yield
        finally:
            bench.home = home
            os.environ["JUPYTER_CR_HOME"] = before


@contextmanager
def _kernel(bench: Bench, preparation: str) -> Iterator[Kernel]:
    directory = bench.home / "kernel"
    directory.mkdir(exist_ok=True)
    with running(directory, preparation) as kernel:
        try:
            yield kernel
        finally:
            _clear()


def _clear() -> None:
    if names := [snapshot["name"] for snapshot in cr("list")]:
        cr("rm", *names)


def _take(kernel: Kernel, name: str) -> tuple[float, int]:
    """Milliseconds until it is durable, and bytes that it takes."""
    taken = cr("checkpoint", str(kernel.connection_file), "--name", name, "--warm")
    (own,) = [s["own"] for s in cr("list") if s["name"] == name]
    return taken["elapsed_ms"], own


def _measure_second(bench: Bench) -> None:
    changes = {"1 % dirtied at random": _ONE_PERCENT, "10 % in one array": _TEN_PERCENT}
    sizes = {"1 % dirtied at random": _SIZE // 100, "10 % in one array": _SIZE // 10}
    stored: dict[str, list[float]] = {name: [] for name in changes}
    times: dict[str, list[float]] = {name: [] for name in changes}
    firsts = []
    for _ in range(bench.repeat):
        with _kernel(bench, _RANDOM) as kernel:
            first, _ = _take(kernel, "first")
            firsts.append(first)
            for number, (name, code) in enumerate(changes.items()):
                # What the kernel itself has changed since is none of what is asked.
                _, idle = _take(kernel, f"idle-{number}")
                kernel.client.run(code)
                took, size = _take(kernel, f"second-{number}")
                times[name].append(took)
                stored[name].append(size - idle)
    for name in changes:
        bench.figures.add(
            Figure(
                name="second snapshot, bytes stored",
                workload=f"1 GiB, {name}",
                unit="B",
                samples=tuple(stored[name]),
                limit=Limit("bytes dirtied", sizes[name]),
                target=1.15 * sizes[name],
                note="beyond what a snapshot of the idle kernel takes",
            )
        )
        bench.figures.add(
            Figure(
                name="second snapshot, until durable",
                workload=f"1 GiB, {name}",
                unit="ms",
                samples=tuple(times[name]),
                limit=Limit("the first one", median(firsts)),
                target=0.05 * median(firsts) if name.startswith("1 %") else None,
                note="page frames compared" if os.geteuid() == 0 else "pages hashed",
            )
        )


def _measure_compressible(bench: Bench) -> None:
    times, writes, restores, raw_restores = [], [], [], []
    for _ in range(bench.repeat):
        with _kernel(bench, _COMPRESSIBLE) as kernel:
            took, _ = _take(kernel, "packed")
            times.append(took)
            writes.append(plain_write_ms(bench.home, _SIZE, durable=True))
        restores.append(_restore(bench))
        raw_restores.append(_restore(bench, code=_AS_IT_IS))
    bench.figures.add(
        Figure(
            name="first snapshot, until durable",
            workload="1 GiB that compresses",
            unit="ms",
            samples=tuple(times),
            limit=Limit("plain write and fsync", median(writes)),
            target=median(writes),
        )
    )
    bench.figures.add(
        Figure(
            name="restore of packed pages, engine",
            workload="1 GiB that compresses",
            unit="ms",
            samples=tuple(restores),
            limit=Limit("of the same pages, stored as they are", median(raw_restores)),
            target=1.3 * median(raw_restores),
        )
    )


_AS_IT_IS = (
    "import sys; from jupyter_cr.image import codecs; codecs._WORTH_IT = 0.0; "
    "from jupyter_cr.cli import main; sys.exit(main())"
)
"""A command that packs nothing."""


def _restore(bench: Bench, *, code: str = COMMAND) -> float:
    """From pages that have just been written: they are in the page cache."""
    with _kernel(bench, _COMPRESSIBLE) as kernel:
        cr("checkpoint", str(kernel.connection_file), "--name", "cold", code=code)
        return kernel.restore("cold")[0]


def _measure_fresh(bench: Bench, count: int) -> None:
    began = time.perf_counter()
    first = 0
    for number in range(count):
        directory = bench.home / f"kernel-{number}"
        directory.mkdir()
        with running(directory, _FRESH) as kernel:
            cr("checkpoint", str(kernel.connection_file), "--name", f"fresh-{number}")
        shutil.rmtree(directory)
        first = first or _usage(bench)
    total = _usage(bench)
    bench.figures.add(
        Figure(
            name=f"{count} fresh kernels, bytes stored",
            workload="pandas and matplotlib",
            unit="B",
            samples=(float(total),),
            limit=Limit("one of them", float(first)),
            target=2.5 * first,
            note=f"taken in {time.perf_counter() - began:.0f} s",
        )
    )
    _clear()


def _usage(bench: Bench) -> int:
    files = (bench.home / "store" / "packs").iterdir()
    return sum(path.stat().st_blocks * 512 for path in files)
