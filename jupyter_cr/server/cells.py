"""Which cell of a kernel was run last, and which one runs: that is how people know what a
snapshot is of.

The notebook itself would not tell: after a restart or a restore its cells have the numbers
of another past.
"""

from __future__ import annotations

from collections.abc import Container

from jupyter_cr.image import CellFacts, NotebookFacts

__all__ = ["Cells", "first_line"]

_MOST = 120
"""Characters of a line."""


class Cells:
    """Those of one kernel, as far as its front ends have run them."""

    def __init__(self) -> None:
        self._msg_id = ""
        """Of the request for `_current`."""
        self._current: CellFacts | None = None
        self._previous: CellFacts | None = None

    def begin(self, msg_id: str, number: int, source: str) -> None:
        """The kernel has begun with a cell; may be told several times."""
        if msg_id != self._msg_id:
            self._msg_id = msg_id
            self._previous = self._current
            self._current = CellFacts(number=number, source=first_line(source))

    def go_on(self, notebook: NotebookFacts) -> None:
        """The kernel is what it was at a snapshot."""
        begun = [request.msg_id for request in notebook.running if request.begun]
        self._msg_id = begun[0] if begun else ""
        self._current = notebook.running_cell or notebook.last_cell
        self._previous = notebook.last_cell

    def as_facts(
        self, unanswered: Container[str]
    ) -> tuple[CellFacts | None, CellFacts | None]:
        """The last one that was run, and the one that runs.

        Args:
            unanswered: message ids of requests.
        """
        if self._msg_id in unanswered:
            return self._previous, self._current
        return self._current, None


def first_line(source: str) -> str:
    """The first that is not empty, cut if it is long."""
    line = next(filter(None, map(str.strip, source.splitlines())), "")
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"
