"""The points of one kernel's timeline, as a tree: which states there are to go back to,
what was run between them, and where the kernel is.

Nothing here knows of processes or files; `jupyter_cr.server.timeline` does what this says.

A *point* is a state of the kernel, with a snapshot's name. What leads from one to the next
is one *run* (a cell; or a restart or a restore, which change everything), or several,
where points between them are gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

__all__ = ["Outcome", "Point", "Points", "Run", "Way"]

Outcome = Literal["running", "ok", "error", "aborted", "died", "restarted", "restored"]
"""What has become of a run. ``died``: it has ended the kernel; ``restarted``, ``restored``:
it was no cell, but somebody has started the kernel afresh, or brought it back to a snapshot
by other means."""

CODE_LIMIT = 200
"""Characters of a cell that are kept, to know it by."""


_NO_CELLS = ("died", "restarted", "restored")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What has changed the kernel."""

    msg_id: str = ""
    """Of the ``execute_request``; empty if it was no cell."""
    cell_id: str = ""
    code: str = ""
    """The beginning of it."""
    started: str
    """UTC, ISO 8601."""
    outcome: Outcome = "running"
    document: str = ""
    """Id of the notebook as it was just before; empty if nobody has told."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A state of the kernel to go back to."""

    name: str
    """Of the snapshot."""
    created: str
    """UTC, ISO 8601."""
    parent: str = ""
    """Name of the point before; empty if there is none, or none any more."""
    runs: tuple[Run, ...] = ()
    """What led from there to here."""
    document: str = ""
    """Id of the notebook as it was when the kernel left this point for another; empty if it
    has not, or nobody has told."""
    unfinished: tuple[Run, ...] = ()
    """Cells in the middle of which it was taken: they go on when it is gone back to."""


class Way(NamedTuple):
    """Where to go, and with which notebook."""

    point: Point
    document: str
    """Its id; empty if there is none to be brought back."""
    run: Run | None
    """If it goes back: the run before which it goes."""


class Points:
    """Those of one kernel.

    Attributes:
        base: the point that the kernel has grown from; empty if from none.
        since: what was run since.
    """

    def __init__(self) -> None:
        self._points: dict[str, Point] = {}
        self._next: dict[str, str] = {}
        """Point -> the one after it that the kernel has come from, going back."""
        self.base = ""
        self.since: tuple[Run, ...] = ()

    def __iter__(self) -> Iterator[Point]:
        """Oldest first."""
        return iter(self._points.values())

    def __len__(self) -> int:
        return len(self._points)

    def __contains__(self, name: str) -> bool:
        return name in self._points

    def get(self, name: str) -> Point | None:
        """The point of that name."""
        return self._points.get(name)

    @property
    def is_at_base(self) -> bool:
        """Whether the kernel is as it was at `base`."""
        return bool(self.base) and not self.since

    # What happens

    def add(self, name: str, created: str) -> Point:
        """The kernel, as it is, has been made a point."""
        point = Point(
            name=name,
            created=created,
            parent=self.base,
            runs=self.since,
            unfinished=tuple(run for run in self.since if run.outcome == "running"),
        )
        self._points[name] = point
        if self.base:
            self._next[self.base] = name
        self.base, self.since = name, ()
        return point

    def refresh(self, name: str, created: str) -> str:
        """The kernel has changed by itself, and has been made a point again: it takes the
        place of `base`. The name of the one that nobody needs any more; empty if others
        stand on it."""
        former = self._points[self.base]
        if any(point.parent == former.name for point in self):
            self.add(name, created)
            return ""
        del self._points[former.name]
        replaced = msgspec.structs.replace(former, name=name, created=created, document="")
        self._points[name] = replaced
        for before, after in list(self._next.items()):
            if after == former.name:
                self._next[before] = name
        self.base = name
        return former.name

    def began(self, run: Run) -> None:
        """Something is run."""
        self.since = (*self.since, run)

    def ended(self, msg_id: str, outcome: Outcome) -> None:
        """What was run has come to an end."""
        self.since = _with_outcome(self.since, msg_id, outcome)

    def changed(self, outcome: Outcome, when: str) -> None:
        """The kernel has ended and another has taken its place, or it was brought back by
        other means. A cell that was running has ended it, if it has died."""
        if self.since and self.since[-1].outcome in _NO_CELLS:
            return
        for run in self.since:
            if run.outcome == "running":
                self.ended(run.msg_id, outcome if outcome == "died" else "aborted")
        if outcome != "died" or not any(run.outcome == "died" for run in self.since):
            self.began(Run(started=when, outcome=outcome))

    def note_document(self, msg_id: str, document: str) -> bool:
        """A notebook is as it was before a run. Whether there is that run."""
        for name, point in self._points.items():
            runs = _with_document(point.runs, msg_id, document)
            if runs != point.runs:
                self._points[name] = msgspec.structs.replace(point, runs=runs)
                return True
        since = _with_document(self.since, msg_id, document)
        found, self.since = since != self.since, since
        return found

    def leave(self, document: str) -> None:
        """The notebook is as it was when the kernel was at `base`, and is about to go
        elsewhere."""
        if self.base:
            point = self._points[self.base]
            self._points[self.base] = msgspec.structs.replace(point, document=document)

    def went(self, name: str) -> None:
        """The kernel is at another point."""
        # Forward leads to where it was.
        above = list(self._above(self.base))
        if name in above:
            way = [self.base, *above]
            for after, before in pairwise(way):
                self._next[before] = after
                if before == name:
                    break
        self.base = name
        self.since = self._points[name].unfinished

    def remove(self, name: str) -> None:
        """There is no such point any more. What led to it, leads to those behind it."""
        removed = self._points.pop(name)
        for other in list(self):
            if other.parent == name:
                self._points[other.name] = msgspec.structs.replace(
                    other,
                    parent=removed.parent,
                    runs=removed.runs + other.runs if removed.parent else other.runs,
                )
        after = self._next.pop(name, "")
        for before, next_ in list(self._next.items()):
            if next_ == name:
                if after:
                    self._next[before] = after
                else:
                    del self._next[before]
        if self.base == name:
            self.base = removed.parent
            self.since = (*removed.runs, *self.since) if removed.parent else self.since

    def rename(self, name: str, new_name: str) -> None:
        """The snapshot of a point has another name."""
        self._points = {
            new_name if key == name else key: msgspec.structs.replace(
                point,
                name=new_name if key == name else key,
                parent=new_name if point.parent == name else point.parent,
            )
            for key, point in self._points.items()
        }
        self._next = {
            new_name if before == name else before: new_name if after == name else after
            for before, after in self._next.items()
        }
        self.base = new_name if self.base == name else self.base

    def clear(self) -> None:
        """There is nothing any more."""
        self._points.clear()
        self._next.clear()
        self.base, self.since = "", ()

    # Where it can go

    def back(self, steps: int = 1) -> Way | None:
        """That many points back; None if there are not as many. What was run since `base`
        has to be made a point first, if it is to be come back to. Never into the middle of
        a cell: that would go on, and end where it has before."""
        ways = [way for way in self._ways_back() if not way.point.unfinished]
        return ways[steps - 1] if 0 < steps <= len(ways) else None

    def _ways_back(self) -> Iterator[Way]:
        point = self._points.get(self.base)
        if point is None:
            return
        if self.since:
            yield self._way_to(point.name)
        for name in self._above(self.base):
            run = point.runs[0] if point.runs else None
            point = self._points[name]
            # By itself, or silently: that is undone with the cell before.
            if run is not None:
                yield Way(point, run.document, run)

    def forward(self, steps: int = 1) -> Way | None:
        """That many points forward again; None if there are not as many."""
        if self.since:
            return None
        name = self.base
        for _ in range(steps):
            name = self._next.get(name, "")
            while self._is_without_run(after := self._next.get(name, "")):
                name = after
        return self.to(name) if name else None

    def _is_without_run(self, name: str) -> bool:
        point = self._points.get(name)
        return point is not None and not point.runs

    def to(self, name: str) -> Way | None:
        """The way to a point, wherever it is; None if there is no such point."""
        if name not in self._points:
            return None
        return self._way_to(name)

    def _way_to(self, name: str) -> Way:
        point = self._points[name]
        if self.base == name:
            run = self.since[0] if self.since else None
            return Way(point, run.document if run else point.document, run)
        line = [self.base, *self._above(self.base)]
        if name in line:
            after = self._points[line[line.index(name) - 1]]
            run = after.runs[0] if after.runs else None
            return Way(point, run.document if run else "", run)
        return Way(point, point.document or self._first_document(name), None)

    def _first_document(self, name: str) -> str:
        """With which the kernel went on from a point, the last time."""
        for other in reversed(list(self)):
            if other.parent == name and other.runs and other.runs[0].document:
                return other.runs[0].document
        return ""

    def _above(self, name: str) -> Iterator[str]:
        """The point before, the one before that, and so on."""
        while (point := self._points.get(name)) is not None:
            name = point.parent
            if name not in self._points:
                return
            yield name

    def needed(self) -> Collection[str]:
        """Those that must not go by themselves: where the kernel is, and the one before."""
        point = self._points.get(self.base)
        return {self.base, point.parent} if point is not None else set()

    def documents(self) -> set[str]:
        """Ids of all notebooks that can be brought back."""
        runs = [run for point in self for run in point.runs] + list(self.since)
        return {
            *(run.document for run in runs),
            *(point.document for point in self),
        } - {""}


def _with_outcome(runs: tuple[Run, ...], msg_id: str, outcome: Outcome) -> tuple[Run, ...]:
    return tuple(
        msgspec.structs.replace(run, outcome=outcome) if run.msg_id == msg_id else run
        for run in runs
    )


def _with_document(runs: tuple[Run, ...], msg_id: str, document: str) -> tuple[Run, ...]:
    return tuple(
        msgspec.structs.replace(run, document=document)
        if run.msg_id == msg_id and msg_id
        else run
        for run in runs
    )
