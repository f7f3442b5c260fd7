"""The figures, for people and for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Figure

__all__ = ["Facts", "to_json", "to_table"]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how it was measured."""

    date: str
    linux: str
    machine: str
    processor: str
    cores: int
    memory_gib: float
    python: str
    user: str
    repeat: int

    @classmethod
    def here(cls, repeat: int) -> Facts:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            linux=platform.release(),
            machine=platform.machine(),
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(pages / 2**30, 1),
            python=platform.python_version(),
            user="root" if os.geteuid() == 0 else "ordinary",
            repeat=repeat,
        )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def to_table(facts: Facts, figures: list[Figure]) -> None:
    """Print facts and figures."""
    console = Console(width=None if os.isatty(1) else 190, highlight=False)
    console.print(
        f"{facts.processor}, {facts.cores} cores, {facts.memory_gib} GiB, "
        f"Linux {facts.linux} {facts.machine}, Python {facts.python}, {facts.user} user; "
        f"medians of {facts.repeat}, {facts.date}"
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    right = ("value", "target", "limit", "ratio")
    for column in (
        "workload",
        "figure",
        "value",
        "target",
        "limit",
        "ratio",
        "held against",
    ):
        table.add_column(column, justify="right" if column in right else "left")
    last = ""
    for figure in sorted(figures, key=_order(figures)):
        if figure.workload != last:
            table.add_section()
        workload = figure.workload if figure.workload != last else ""
        last = figure.workload
        notes = [figure.limit.name if figure.limit else "", figure.note]
        table.add_row(
            workload,
            figure.name,
            _number(figure.value, figure.unit),
            _number(figure.target, ""),
            _number(figure.limit.value if figure.limit else None, ""),
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            "; ".join(filter(None, notes)),
        )
    console.print(table)


def _order(figures: list[Figure]) -> Callable[[Figure], int]:
    names = list(dict.fromkeys(figure.workload for figure in figures))
    return lambda figure: names.index(figure.workload)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-" if unit else ""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}".strip()


def to_json(facts: Facts, figures: list[Figure]) -> str:
    """Everything, each figure with its samples, median and ratio."""
    lines = [
        msgspec.to_builtins(figure) | {"value": figure.value, "ratio": figure.ratio}
        for figure in figures
    ]
    content = {"facts": facts, "figures": lines}
    return msgspec.json.format(msgspec.json.encode(content), indent=1).decode()
