"""A figure: what was measured, how much it should be, and what it is held against."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

__all__ = ["Figure", "Figures", "Limit", "median"]


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


class Limit(msgspec.Struct, frozen=True):
    """What no program could do faster, measured in the same run."""

    name: str
    value: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `samples` empty: not available, `note` says why."""

    name: str
    workload: str
    unit: str
    samples: tuple[float, ...] = ()
    target: float | None = None
    """The issue's, in the same unit."""
    limit: Limit | None = None
    note: str = ""

    @property
    def value(self) -> float | None:
        return median(self.samples) if self.samples else None

    @property
    def ratio(self) -> float | None:
        """Value to limit."""
        if self.value is None or self.limit is None or not self.limit.value:
            return None
        return self.value / self.limit.value


@dataclass
class Figures:
    """Collects them, and says on the way what is being done."""

    found: list[Figure] = field(default_factory=list)

    def add(self, figure: Figure) -> None:
        self.found.append(figure)

    @contextmanager
    def unless_it_fails(self, name: str, workload: str) -> Iterator[None]:
        """What fails in the body becomes a line that says so: the others still count."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it is reported, as a figure
            lines = str(error).strip().splitlines() or [type(error).__name__]
            note = f"failed: {lines[0][:160]}"
            self.add(Figure(name=name, workload=workload, unit="", note=note))
