"""README's table from a JSON file: ``python -m tests.benchmarks.readme JSON-FILE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["iter_lines"]

_COLUMNS = ("idle", "256 MiB", "1 GiB", "4 GiB", "pool, child, files")
_ROWS = (
    "downtime",
    "checkpoint, durable",
    "restore, engine",
    "restore, command to next answer",
    "lazy restore, engine",
    "lazy restore, command to first answer",
    "cold fork, command to first answer",
    "warm fork, command to first answer",
    "random gather after a restore",
    "writing all memory, after a checkpoint",
    "dill.dumps() of the variables",
)


def iter_lines(content: dict[str, Any]) -> Iterator[str]:
    """Markdown: the medians, each with its limit in brackets."""
    facts = content["facts"]
    figures = {(f["workload"], f["name"]): f for f in content["figures"]}
    columns = [c for c in _COLUMNS if any(workload == c for workload, _ in figures)]
    yield (
        f"Medians of {facts['repeat']} in milliseconds, in brackets the limit of the same "
        f"run; {facts['date'][:10]}, {facts['processor']}, {facts['cores']} cores, "
        f"{facts['memory_gib']:.0f} GiB, Linux {facts['linux']}, Python {facts['python']}, "
        f"{facts['user']} user, snapshots on tmpfs."
    )
    yield ""
    yield f"| | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for row in _ROWS:
        yield f"| {row} | {' | '.join(_cell(figures.get((c, row))) for c in columns)} |"


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return ""
    limit = figure["limit"]
    return _number(figure["value"]) + (f" ({_number(limit['value'])})" if limit else "")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


if __name__ == "__main__":
    for line in iter_lines(json.loads(Path(sys.argv[1]).read_text())):
        print(line)
