"""``python -m tests.benchmarks [--quick] [--only WORKLOAD] [JSON-FILE]``"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil

from tests.benchmarks.browser import measure_browser
from tests.benchmarks.catalogue import measure_catalogue
from tests.benchmarks.figures import Figures
from tests.benchmarks.kernel import ROOT
from tests.benchmarks.measure import (
    Bench,
    measure_command,
    measure_criu,
    measure_workload,
)
from tests.benchmarks.report import Facts, to_json, to_table
from tests.benchmarks.stored import measure_stored
from tests.benchmarks.workloads import WORKLOADS, Workload

STORE = "store"
"""What is chosen like a workload, and takes several."""

_REPEAT, _QUICK_REPEAT = 7, 3
_QUICK_MOST = 1 << 30
_COPIES = 5
"""Kernel, snapshot, restored kernel, warmed memory, and some room."""


def main() -> int:
    """Measure, and tell; the exit status is 0 whatever was found."""
    arguments = _parse()
    # So that kernels and snapshots are cleared away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    repeat = arguments.repeat or (_QUICK_REPEAT if arguments.quick else _REPEAT)
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-bench-", dir="/dev/shm") as name:
        home = Path(name)
        _own_directories(home)
        bench = Bench(home, repeat, Figures(), _say)
        measure_command(bench)
        measure_catalogue(bench)
        if not arguments.only or STORE in arguments.only:
            measure_stored(bench, quick=arguments.quick)
            measure_browser(bench)
        for workload in _chosen(arguments.only, arguments.quick):
            measure_workload(bench, workload)
            measure_criu(bench, workload)
    facts = Facts.here(repeat)
    to_table(facts, bench.figures.found)
    text = to_json(facts, bench.figures.found)
    if arguments.json is None:
        print(text)
    else:
        arguments.json.write_text(text + "\n")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument(
        "json", nargs="?", type=Path, help="file to be written; else stdout"
    )
    parser.add_argument("--quick", action="store_true", help="medians of 3, without 4 GiB")
    parser.add_argument("--repeat", type=int, help="samples of each figure")
    names = [STORE, *(workload.name for workload in WORKLOADS)]
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    return parser.parse_args()


def _chosen(only: list[str] | None, quick: bool) -> list[Workload]:
    chosen = []
    for workload in WORKLOADS:
        if only and workload.name not in only:
            continue
        if quick and not only and workload.size > _QUICK_MOST:
            continue
        if psutil.virtual_memory().available < _COPIES * workload.size:
            _say(f"{workload.name}: left out, {_COPIES} times as much memory is needed")
            continue
        chosen.append(workload)
    return chosen


def _own_directories(home: Path) -> None:
    """Snapshots on tmpfs; nothing of the user's own is read or written."""
    names = {
        "JUPYTER_CR_HOME": "store",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "IPYTHONDIR": "ipython",
    }
    os.environ.update({name: str(home / directory) for name, directory in names.items()})
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
