"""Cells wait at their kernel's gate until the state before them is safe.

In *Run All* a front end sends all requests at once. Here the first passes; the others wait
until it has ended and the kernel has been made a point, one after the other. What a kernel
does with its own queue is done here, then: after a cell that raises, those that wait are
answered with "aborted" (``stop_on_error``). Nothing but cells ever waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Cell", "Gate", "Keeper"]


@dataclass(frozen=True)
class Cell:
    """A cell that somebody wants to be run: an ``execute_request`` that counts, which one
    that is silent or leaves no trace in the history does not.

    Attributes:
        session: of the front end.
        stop_on_error: whether those that wait behind it are not to be run if it raises.
        pass_on: sends it to the kernel.
        abort: answers it with "aborted".
    """

    msg_id: str
    session: str
    cell_id: str
    code: str
    stop_on_error: bool
    pass_on: Callable[[], None]
    abort: Callable[[], None]


class Keeper(Protocol):
    """Who sees to it that there is a point before each cell."""

    @property
    def is_ready(self) -> bool:
        """Whether the kernel's state is safe, or cannot be made so: the next cell may go
        on. Asked only while no other one runs."""

    def wait(self) -> None:
        """A cell waits; `Gate.look` is to be called when the next may go on."""

    def began(self, cell: Cell) -> None:
        """A cell is about to be sent to the kernel."""

    def ended(self, cell: Cell, status: str) -> None:
        """A cell has been answered, with this status, and the kernel is idle again."""

    def touched(self) -> None:
        """Something else has been asked of the kernel that may have changed it."""

    def questioned(self, is_over: bool) -> None:
        """Something is asked that changes nothing, or that has been answered."""

    def relaunched(self) -> None:
        """The kernel has been started afresh."""

    def deserted(self) -> None:
        """A front end has gone away: of its cells, perhaps nobody hears how they end."""


class Gate:
    """Of one kernel.

    Attributes:
        is_open: whether cells pass at once, as without a gate.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._waiting: deque[Cell] = deque()
        self._running: dict[str, Cell] = {}
        self._questions: set[str] = set()
        self._touches: set[str] = set()
        self.is_open = False

    @property
    def running(self) -> tuple[Cell, ...]:
        """Those that were sent to the kernel, and have not ended."""
        return tuple(self._running.values())

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def arrive(self, cell: Cell) -> None:
        """A front end has sent it."""
        self._waiting.append(cell)
        self.look()

    def look(self) -> None:
        """Let the next cells go on that may."""
        while self._waiting:
            if not self.is_open and (self._running or not self._keeper.is_ready):
                if not self._running:
                    self._keeper.wait()
                return
            cell = self._waiting.popleft()
            self._running[cell.msg_id] = cell
            self._keeper.began(cell)
            cell.pass_on()

    def answered(self, msg_id: str, status: str) -> None:
        """The kernel has come to the end of a request."""
        cell = self._running.pop(msg_id, None)
        if cell is None:
            self._answered_other(msg_id)
            return
        self._keeper.ended(cell, status)
        if status == "error" and cell.stop_on_error:
            self.abort()
        self.look()

    def _answered_other(self, msg_id: str) -> None:
        if msg_id in self._touches:
            self._touches.discard(msg_id)
            self._keeper.touched()
        elif msg_id in self._questions:
            self._questions.discard(msg_id)
            self._keeper.questioned(is_over=not self._questions)

    def has_passed(self, msg_id: str) -> bool:
        """Whether it is a cell that has been let pass."""
        return msg_id in self._running

    def asks(self, msg_id: str) -> None:
        """Something has been asked of the kernel that changes nothing."""
        self._questions.add(msg_id)
        self._keeper.questioned(is_over=False)

    def touches(self, msg_id: str) -> None:
        """Something has been asked of the kernel, and is no cell, that may change it."""
        self._touches.add(msg_id)
        self._keeper.touched()

    def abort(self) -> None:
        """Those that wait are not to be run."""
        waiting, self._waiting = self._waiting, deque()
        for cell in waiting:
            cell.abort()

    def forget(self) -> None:
        """The kernel has been started afresh, and front ends know that by themselves."""
        self._waiting.clear()
        self._keeper.relaunched()
        self.reset()

    def reset(self) -> None:
        """The kernel is another, or as it was: it runs nothing that is known of."""
        self._running.clear()
        self._questions.clear()
        self._touches.clear()

    def release(self) -> None:
        """Let all go on that wait, since the kernel is to see to their order itself."""
        was_open, self.is_open = self.is_open, True
        self.look()
        self.is_open = was_open

    def desert(self) -> None:
        """A front end is about to go away."""
        # Its cells are run, whoever looks on.
        self.release()
        self._keeper.deserted()

    def go_on(self, cell: Cell) -> None:
        """The kernel is in the middle of a cell, after a restore."""
        self._running[cell.msg_id] = cell
