"""Policies: which snapshots are kept, said in words.

::

    keep last 10
    last 5, one per hour for a day, one per day for a week, all named
    for 30 days; tagged release

A policy is a list of rules, with commas, semicolons or "and" between them; what one of
them keeps is kept. ``last`` and ``one per`` count for each kernel by itself, so that a busy
one does not push out another's. The rules are

============================  ========================================================
``[keep] last N``             the newest N
``one per UNIT for SPAN``     of those of the last SPAN, the newest of each UNIT
``one per UNIT``              the same, of all
``[all] for SPAN``            those of the last SPAN
``all named``                 those for whose name somebody has asked
``all tagged``, ``tagged T``  those with a tag, or with that one
``all``, ``nothing``          all, or none
============================  ========================================================

UNIT is minute, hour, day, week, month or year, as the calendar of this place has them; SPAN
is one of them, or a number of them, as in "a week", "12 hours": from now on back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone

from jupyter_cr.errors import UsageError
from jupyter_cr.store.snapshot import Snapshot

__all__ = ["RETENTION_VARIABLE", "Policy", "parse_policy"]

RETENTION_VARIABLE = "JUPYTER_CR_RETENTION"
"""Of the environment: a policy that is applied whenever a snapshot has been taken."""

_Rule = Callable[[Sequence[Snapshot], datetime], Iterable[Snapshot]]
"""Of the snapshots of one kernel, newest first, those that it keeps; at that time."""

_SPANS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=30),
    "year": timedelta(days=365),
}
_UNITS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "minute": lambda t: (t.year, t.month, t.day, t.hour, t.minute),
    "hour": lambda t: (t.year, t.month, t.day, t.hour),
    "day": lambda t: (t.year, t.month, t.day),
    "week": lambda t: t.isocalendar()[:2],
    "month": lambda t: (t.year, t.month),
    "year": lambda t: (t.year,),
}
_HINT = (
    'As in: "keep last 10", "one per hour for a day, one per day for a week", "all named", '
    '"for 30 days".'
)
_UNIT = r"(minute|hour|day|week|month|year)"
_SPAN = rf"(?:(an?|one|\d{{1,6}}) )?{_UNIT}s?"


class Policy:
    """Rules; made by `parse_policy`.

    Args:
        text: as it was said.
    """

    def __init__(self, text: str, rules: Sequence[_Rule]) -> None:
        self.text = text
        self._rules = rules

    def kept(self, snapshots: Iterable[Snapshot], now: datetime | None = None) -> set[str]:
        """Ids of those that it keeps.

        Args:
            snapshots: in any order.
            now: with its time zone; this moment if not given.
        """
        now = now or datetime.now(timezone.utc)
        kernels: dict[object, list[Snapshot]] = {}
        for snapshot in snapshots:
            # Of a program that is no kernel, those of a process belong together.
            kernel = snapshot.kernel_id or (snapshot.pid, snapshot.comm)
            kernels.setdefault(kernel, []).append(snapshot)
        kept: set[str] = set()
        for of_one in kernels.values():
            of_one.sort(key=lambda snapshot: (_time(snapshot), snapshot.name), reverse=True)
            for rule in self._rules:
                kept.update(snapshot.id for snapshot in rule(of_one, now))
        return kept


def parse_policy(text: str) -> Policy:
    """Understand a policy.

    Raises:
        UsageError: names the rule that is not understood.
    """
    words = re.split(r"\s*(?:[,;\n]|\band\b)\s*", text.strip().lower())
    rules = [_parse_rule(" ".join(rule.split())) for rule in words if rule]
    if not rules:
        raise UsageError("A policy cannot be empty: nothing would be kept.", _HINT)
    return Policy(" ".join(text.split()), rules)


def _parse_rule(text: str) -> _Rule:
    for pattern, make in _GRAMMAR:
        if match := re.fullmatch(pattern, text.removeprefix("keep ")):
            return make(*match.groups())
    raise UsageError(f"This rule of a policy is not understood: {text!r}.", _HINT)


def _last(count: str) -> _Rule:
    return lambda snapshots, now: snapshots[: int(count)]


def _one_per(unit: str, count: str | None = None, span: str | None = None) -> _Rule:
    def rule(snapshots: Sequence[Snapshot], now: datetime) -> Iterable[Snapshot]:
        newest: dict[tuple[int, ...], Snapshot] = {}
        for snapshot in snapshots:
            if span is None or now - _time(snapshot) <= _span(count, span):
                newest.setdefault(_UNITS[unit](_time(snapshot).astimezone()), snapshot)
        return newest.values()

    return rule


def _within(count: str | None, span: str) -> _Rule:
    return lambda snapshots, now: [
        snapshot for snapshot in snapshots if now - _time(snapshot) <= _span(count, span)
    ]


def _span(count: str | None, unit: str) -> timedelta:
    return _SPANS[unit] * (int(count) if count and count.isdecimal() else 1)


def _that(wanted: Callable[[Snapshot], bool]) -> _Rule:
    return lambda snapshots, now: [s for s in snapshots if wanted(s)]


def _time(snapshot: Snapshot) -> datetime:
    """The beginning of time where it cannot be told."""
    try:
        time = datetime.fromisoformat(snapshot.created)
    except ValueError:
        return datetime.min.replace(tzinfo=timezone.utc)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


_GRAMMAR: tuple[tuple[str, Callable[..., _Rule]], ...] = (
    (r"(?:the )?(?:last|newest) (\d{1,6})", _last),
    (rf"(?:one|1) (?:per|an?|each|every) {_UNIT}(?: for {_SPAN})?", _one_per),
    (rf"(?:all )?for {_SPAN}", _within),
    (r"(?:all )?named", lambda: _that(lambda snapshot: snapshot.named)),
    (r"(?:all )?tagged", lambda: _that(lambda snapshot: bool(snapshot.tags))),
    (
        r"(?:all )?tagged (\S+)",
        lambda tag: _that(lambda s: tag in (t.lower() for t in s.tags)),
    ),
    (r"all|everything", lambda: _that(lambda snapshot: True)),
    (r"nothing", lambda: _that(lambda snapshot: False)),
)
