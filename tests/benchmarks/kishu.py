"""Kishu beside a timeline: the same notebooks, the same kernels, on a real server.

``python -m tests.benchmarks.kishu [--venv DIRECTORY] [--runs N] [--only NAME]``
makes an environment with Kishu and what the notebooks need, where there is none yet, and
prints README's tables: what a cell costs and how long going back takes (medians), and what
is there after that. The kernels are in that environment in all cases, and the server is
ours; Kishu's file, our store and the notebooks are on tmpfs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.benchmarks.report import Facts
from tests.benchmarks.undo import (
    CHECK_LIMIT,
    Kishu,
    Plain,
    Timeline,
    Undone,
    UndoneError,
    opened,
    settled_bytes,
)
from tests.benchmarks.undo_notebooks import CASES, NOTEBOOKS, Case, Notebook
from tests.conftest import User, _environment
from tests.server.harness import Server, jupyter_server

__all__ = ["Costs", "measure", "outcome"]

PINNED = {
    "kishu": "0.3.4",
    "dill": "0.4.1",
    "ipykernel": "7.4.0",
    "ipython": "9.18.1",
    "numpy": "2.4.6",
    "pandas": "3.1.1",
    "scikit-learn": "1.9.1",
    "matplotlib": "3.11.2",
}
SPEC = "beside-kishu"
_LIMITS = (
    "--SnapshotExtension.timeline_retention=all",
    "--SnapshotExtension.timeline_mib=8192",
    # Seconds; it is no part of what is measured.
    "--KernelManager.shutdown_wait_time=0.5",
)
KEPT, OTHER = "kept", "lost, and nobody says so"
_MIB = 1 << 20


@dataclass
class Costs:
    """Of one notebook under one kind of undo; times in milliseconds, sizes in bytes."""

    cells: list[list[float]] = field(default_factory=list)
    """For each run, of each cell by itself."""
    at_once: list[float] = field(default_factory=list)
    """For each run, of each of all cells, sent together."""
    back: list[float] = field(default_factory=list)
    """From asking for the state before the last cell until another cell has been run."""
    stored: list[int] = field(default_factory=list)
    """On disk after each cell."""
    memory: int = 0
    """In the end."""
    problem: str = ""

    @property
    def medians(self) -> list[float]:
        """Of each cell."""
        return [statistics.median(each) for each in zip(*self.cells, strict=True)]

    @property
    def stored_by_cell(self) -> float:
        """Median of what a cell adds."""
        before = [0, *self.stored[:-1]]
        return statistics.median(b - a for a, b in zip(before, self.stored, strict=True))


def measure(
    server: Server, kernel: str, kind: Undone, notebook: Notebook, runs: int
) -> Costs:
    """Run it some times from the start, each time in a kernel of its own; what fails is
    told in the result."""
    costs = Costs()
    try:
        for number in range(runs):
            with opened(kind(server, kernel, notebook.cells)) as subject:
                stored = [
                    _one_cell(subject, cell, costs) for cell in _begun(subject, costs)
                ]
                if number == 0:
                    costs.stored = stored
                costs.back.append(subject.back_and_run())
        for number in range(runs):
            with opened(kind(server, kernel, notebook.cells)) as subject:
                costs.at_once.append(subject.run_all())
                if number == runs - 1:
                    subject.settle()
                    costs.memory = settled_bytes(subject)
    except (UndoneError, AssertionError) as error:
        costs.problem = str(error)
    return costs


def _begun(subject: Plain, costs: Costs) -> Sequence[str]:
    costs.cells.append([])
    return subject.cells


def _one_cell(subject: Plain, cell: str, costs: Costs) -> int:
    """Bytes on disk after it."""
    costs.cells[-1].append(subject.run(cell))
    subject.settle()
    return subject.stored()


def outcome(server: Server, kernel: str, kind: Undone, case: Case) -> str:
    """What has become of it: kept, lost, or what was said. Without any undo the last cell
    is left out, and it has to be kept."""
    with opened(kind(server, kernel, case.cells)) as subject:
        for cell in case.cells[:-1]:
            subject.run(cell)
            subject.settle()
        noted = subject.ask(case.note)
        if kind is not Plain:
            try:
                _undo_last(subject, case)
            except UndoneError as error:
                return f"cannot go back: {error}"
        try:
            is_kept = subject.ask(case.note) == noted
            is_kept = subject.ask(f"bool({case.check})", CHECK_LIMIT) == "True" and is_kept
        except UndoneError as error:
            return f"lost: {error}"
        return KEPT if is_kept else OTHER


def _undo_last(subject: Plain, case: Case) -> None:
    """Run the last cell, and go back to before it."""
    if case.ends:
        subject.front_end.execute(case.cells[-1])
        subject.revive()
    else:
        subject.run(case.cells[-1])
        subject.settle()
    subject.back()


def make_environment(directory: Path) -> Path:
    """Its interpreter; made where it is not there."""
    python = directory / "bin" / "python"
    marker = directory / "pinned.json"
    if marker.exists() and json.loads(marker.read_text()) == PINNED:
        return python
    subprocess.run([sys.executable, "-m", "venv", directory], check=True, timeout=120)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    packages = [f"{name}=={version}" for name, version in PINNED.items()]
    subprocess.run([*install, *packages], check=True, timeout=900)
    marker.write_text(json.dumps(PINNED))
    return python


@contextmanager
def beside_kishu(python: Path) -> Iterator[Server]:
    """A server with a kernel of that environment, and nothing else of ours in it."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-", dir=shared) as name:
        home = Path(name)
        spec = home / "data" / "kernels" / SPEC
        spec.mkdir(parents=True)
        content = {
            "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": SPEC,
            "language": "python",
            "env": {"PYTHONPATH": "", "KISHU_PATH_ROOT": str(home)},
        }
        (spec / "kernel.json").write_text(json.dumps(content))
        (home / ".kishu").mkdir()
        (home / ".kishu" / "config.ini").write_text("[JUPYTERINT]\ntest_mode = true\n")
        user = User("me", os.geteuid(), (), sys.executable, home, _environment(home))
        with jupyter_server(user, *_LIMITS) as server:
            yield server


def iter_cost_lines(found: dict[str, dict[str, Costs]]) -> Iterator[str]:
    """Markdown. `found`: notebook -> kind -> costs."""
    yield "| notebook | | plain | Kishu | jupyter-cr | Kishu ÷ jupyter-cr |"
    yield "|---" * 6 + "|"
    for name, kinds in found.items():
        plain, kishu, ours = (kinds[kind.name] for kind in (Plain, Kishu, Timeline))
        for problem in filter(None, (kishu.problem, ours.problem)):
            yield f"| {name} | {problem} | | | | |"
        if kishu.problem or ours.problem:
            continue
        count = len(plain.medians)
        added = [_added(costs, plain) for costs in (kishu, ours)]
        yield _row(
            f"**{name}**, {count} cells",
            "a cell, ms",
            statistics.median(plain.medians),
            *(statistics.median(each) for each in added),
            sign="+",
        )
        yield _row(
            "",
            "the cell that it costs most, ms",
            max(plain.medians),
            *map(max, added),
            sign="+",
        )
        at_once = [statistics.median(c.at_once) for c in (plain, kishu, ours)]
        rest = (value - at_once[0] for value in at_once[1:])
        yield _row("", "each of all at once, ms", at_once[0], *rest, sign="+")
        stored = (costs.stored_by_cell / _MIB for costs in (kishu, ours))
        yield _row("", "on disk, MiB a cell", None, *stored)
        total = (costs.stored[-1] / _MIB for costs in (kishu, ours))
        yield _row("", "on disk, MiB in all", None, *total)
        memory = (max(0, kishu.memory - plain.memory) / _MIB, ours.memory / _MIB)
        yield _row("", "memory, MiB in all", None, *memory, sign="+")
        back = (statistics.median(c.back) for c in (plain, kishu, ours))
        yield _row("", "back one cell, and the next one is run, ms", *back)


def _added(costs: Costs, plain: Costs) -> list[float]:
    """Milliseconds, for each cell."""
    pairs = zip(costs.medians, plain.medians, strict=True)
    return [with_it - without for with_it, without in pairs]


def _row(
    name: str, what: str, plain: float | None, kishu: float, ours: float, sign: str = ""
) -> str:
    first = "" if plain is None else _number(plain)
    ratio = _number(kishu / ours) if kishu > 0 and ours > 0 else ""
    values = " | ".join((sign if v >= 0 else "") + _number(v) for v in (kishu, ours))
    return f"| {name} | {what} | {first} | {values} | {ratio} |"


def _number(value: float) -> str:
    if abs(value) >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def iter_outcome_lines(found: dict[str, dict[str, str]]) -> Iterator[str]:
    """Markdown. `found`: case -> kind -> what has become of it."""
    yield "| before the last cell there was | Kishu | jupyter-cr |"
    yield "|---" * 3 + "|"
    for name, kinds in found.items():
        said = " | ".join(_in_a_table(kinds[kind.name]) for kind in (Kishu, Timeline))
        yield f"| {name} | {said} |"
    kept = (
        sum(kinds[kind.name] == KEPT for kinds in found.values())
        for kind in (Kishu, Timeline)
    )
    yield f"| **kept, of {len(found)}** | {' | '.join(map(str, kept))} |"


def _in_a_table(text: str) -> str:
    text = " ".join(text.replace("|", "\\|").split())
    return text if len(text) <= 72 else text[:71] + "…"


def main() -> None:
    """Make the environment, run all, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kishu")
    parser.add_argument("--venv", type=Path, help="kept there; else a temporary one")
    parser.add_argument("--runs", type=int, default=3)
    names = [each.name for each in (*NOTEBOOKS, *CASES)]
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument("--json", type=Path, help="file to be written, with all samples")
    options = parser.parse_args()
    # So that server and kernels are cleared away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = options.only or names
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-venv-") as name:
        python = make_environment(options.venv.resolve() if options.venv else Path(name))
        costs: dict[str, dict[str, Costs]] = {}
        outcomes: dict[str, dict[str, str]] = {}
        for notebook in NOTEBOOKS:
            if notebook.name not in chosen:
                continue
            costs[notebook.name] = {}
            for kind in (Plain, Kishu, Timeline):
                _say(f"{notebook.name}: {kind.name}")
                with beside_kishu(python) as server:
                    measured = measure(server, SPEC, kind, notebook, options.runs)
                costs[notebook.name][kind.name] = measured
        for kind in (Kishu, Timeline):
            with beside_kishu(python) as server:
                for case in CASES:
                    if case.name not in chosen:
                        continue
                    found = outcomes.setdefault(case.name, {})
                    found[kind.name] = outcome(server, SPEC, kind, case)
                    _say(f"{case.name}: {kind.name}: {found[kind.name]}")
    _report(options.runs, load, costs, outcomes, options.json)


def _report(
    runs: int,
    load: float,
    costs: dict[str, dict[str, Costs]],
    outcomes: dict[str, dict[str, str]],
    path: Path | None,
) -> None:
    facts = Facts.here(runs)
    versions = ", ".join(f"{name} {version}" for name, version in PINNED.items())
    print(
        f"Medians of {facts.repeat}; {facts.date[:10]}, {facts.processor}, "
        f"{facts.cores} cores, {facts.memory_gib:.0f} GiB, Linux {facts.linux}, "
        f"Python {facts.python}, {facts.user} user, all on tmpfs, "
        f"load {load:.1f} at the beginning; {versions}.\n"
    )
    if costs:
        print("\n".join(iter_cost_lines(costs)), end="\n\n")
    if outcomes:
        print("\n".join(iter_outcome_lines(outcomes)))
    if path:
        content = {
            "versions": PINNED,
            "costs": {
                n: {k: asdict(c) for k, c in each.items()} for n, each in costs.items()
            },
            "outcomes": outcomes,
        }
        path.write_text(json.dumps(content, indent=1) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
