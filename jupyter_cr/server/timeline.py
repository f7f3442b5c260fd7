"""The timeline: a point before each cell, so that each cell can be undone.

As long as it is on for a kernel, the kernel is made a point (a warm snapshot, see
`jupyter_cr.server.points`) as soon as a cell has ended, so that nobody has to wait for it
before the next one. A cell that comes sooner waits at the gate (`jupyter_cr.server.gate`);
not for ever, though: where a point takes too long, or is refused, the cell is run all the
same, and the timeline says why there is nothing to go back to.

What changes a kernel between two cells is found out when the next one comes: widgets and
silent code by their messages, threads by the time that they take
(`jupyter_cr.server.meter`). Then it is made a point again.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, cast

import msgspec

from jupyter_cr.errors import CheckpointRestoreError, UsageError
from jupyter_cr.server.answers import RestoreAnswer
from jupyter_cr.server.front_end_requests import FrontEndRequests, set_gate
from jupyter_cr.server.gate import Cell, Gate
from jupyter_cr.server.meter import Meter
from jupyter_cr.server.pending import KernelRequests
from jupyter_cr.server.points import CODE_LIMIT, Outcome, Point, Points, Run, Way
from jupyter_cr.server.service import SnapshotService
from jupyter_cr.server.timeline_documents import TimelineDocuments

__all__ = ["Timeline", "TimelineAnswer", "TravelAnswer"]

QUIET_S = 1.0
"""How long nothing must have been asked of a kernel before it is made a point again."""
SETTLE_S = 10.0
"""How long a kernel that was started afresh may take to be idle."""
_POLL_S = 0.05
_IDLE_S = 0.3


class TimelineAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The timeline of one kernel."""

    kernel_id: str
    is_on: bool
    """Whether there is to be a point before each cell."""
    is_chosen: bool
    """Whether somebody has said so, for this kernel or for its notebook."""
    points: tuple[Point, ...] = ()
    """Oldest first."""
    base: str = ""
    """The point that the kernel has grown from."""
    since: tuple[Run, ...] = ()
    """What was run since: if nothing was, the kernel is as it was then."""
    back: str = ""
    """The point to which one step back leads; empty if there is none."""
    forward: str = ""
    """The point to which one step forward leads; empty if there is none."""
    bytes: int = 0
    """Of memory that its points take, when that was measured last."""
    limit: int = 0
    """That all points of the server may take."""
    problem: str = ""
    """Why the last cell has no point before it."""
    hint: str = ""


class TravelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel has gone to another point of its timeline."""

    kernel_id: str
    point: str
    """Where it is."""
    left: str
    """The point that it has left, to which one can come back; empty if it is lost."""
    document: str = ""
    """Id of the notebook that belongs there; empty if there is none."""
    run: Run | None = None
    """If it went back: the cell before which it is."""
    elapsed_ms: float
    warnings: tuple[str, ...] = ()


class Timeline:
    """Of one kernel; the `jupyter_cr.server.gate.Keeper` of its gate.

    Args:
        patience_s: how long a cell waits for a point.
        changed: called when there is something new to tell.
        taken: called with each new point.
        lost: called with the name of a snapshot that is a point of nothing any more.

    Attributes:
        lock: held by whoever makes a point of the kernel, or brings it to one.
    """

    def __init__(
        self,
        kernel_id: str,
        service: SnapshotService,
        requests: FrontEndRequests,
        kernels: Any,
        documents: TimelineDocuments,
        log: logging.Logger,
        *,
        patience_s: float,
        changed: Callable[[], None],
        taken: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self.kernel_id = kernel_id
        self.points = Points()
        self.gate = Gate(self)
        self.lock = asyncio.Lock()
        self.is_on = False
        self.problem = ""
        self.hint = ""
        self.bytes = 0
        self._service = service
        self._requests = requests
        self._kernels = kernels
        self._documents = documents
        self._log = log
        self._patience_s = patience_s
        self._changed = changed
        self._taken = taken
        self._lost = lost
        self._gives_up = False
        self._is_touched = False
        self._has_crashed = False
        self._is_travelling = False
        self._meter: Meter | None = None
        self._taking: asyncio.Task[None] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._quiet: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._early: dict[str, bytes] = {}
        """Notebooks as they were before cells that have not come yet."""

    # The switch

    def switch_on(self) -> None:
        """Have a point before each cell from now on."""
        if self.is_on:
            return
        self.is_on = True
        self.gate.is_open = False
        for request in self._of_kernel.pending():
            if request.msg_type == "execute_request" and not request.subshell:
                # It runs already: the first point is what it leaves.
                self.gate.go_on(_nameless(request.msg_id, request.session, request.cell_id))
        set_gate(self.kernel_id, self.gate)
        self._of_kernel.gate = self.gate
        with suppress(ValueError, KeyError):
            self._kernels.add_restart_callback(self.kernel_id, self._crashed, "restart")
        self.take_soon()

    async def switch_off(self) -> Collection[str]:
        """No more. Names of the points that there were."""
        if not self.is_on:
            return ()
        self.is_on = False
        self.gate.release()
        self.gate.is_open = True
        set_gate(self.kernel_id, None)
        if self.kernel_id in self._kernels:
            with suppress(ValueError, KeyError):
                self._kernels.remove_restart_callback(
                    self.kernel_id, self._crashed, "restart"
                )
        await self.stop()
        names = [point.name for point in self.points]
        self.points.clear()
        self._early.clear()
        self.problem = self.hint = ""
        return names

    async def stop(self) -> None:
        """Nothing is to be taken any more."""
        for timer in (self._limit, self._quiet):
            if timer is not None:
                timer.cancel()
        tasks = {*self._background, *([self._taking] if self._taking else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def _of_kernel(self) -> KernelRequests:
        return self._requests.of(self.kernel_id)

    # What the gate tells

    @property
    def is_ready(self) -> bool:
        """See `jupyter_cr.server.gate.Keeper`."""
        if self.kernel_id not in self._kernels:
            return True
        if self._of_kernel.is_held or self._is_travelling:
            return False
        return not self.is_on or self._gives_up or not self._needs_point

    @property
    def _needs_point(self) -> bool:
        return not self.points.is_at_base or self._has_moved

    @property
    def _has_moved(self) -> bool:
        return self._is_touched or (self._meter is not None and self._meter.has_moved)

    def wait(self) -> None:
        """A cell waits."""
        self.take_soon()
        if self._limit is None:
            loop = asyncio.get_running_loop()
            self._limit = loop.call_later(self._patience_s, self._give_up)

    def _give_up(self) -> None:
        self._limit = None
        if self._is_travelling or self.kernel_id not in self._kernels:
            return
        self._gives_up = True
        self._complain(
            f"The kernel could not be saved within {self._patience_s:.0f} s before a cell "
            "was run.",
            "The cell was run all the same, and cannot be undone by itself.",
        )
        if self._taking is not None:
            # In the middle of the cell, it would be none before it.
            self._taking.cancel()
        self.gate.look()

    def _complain(self, problem: str, hint: str) -> None:
        if problem != self.problem:
            self._log.warning("Timeline of kernel %s: %s", self.kernel_id, problem)
        self.problem, self.hint = problem, hint
        self._changed()

    def began(self, cell: Cell) -> None:
        """A cell is about to be sent to the kernel."""
        self._gives_up = False
        self.points.began(
            Run(
                msg_id=cell.msg_id,
                cell_id=cell.cell_id,
                code=cell.code[:CODE_LIMIT],
                started=_now(),
            )
        )
        if (early := self._early.pop(cell.msg_id, None)) is not None:
            self._in_background(self.note_document(cell.msg_id, early))
        self._changed()

    def ended(self, cell: Cell, status: str) -> None:
        """A cell has been answered."""
        outcome = status if status in ("ok", "error") else "aborted"
        self.points.ended(cell.msg_id, cast("Outcome", outcome))
        self._changed()
        if not self.gate.is_busy:
            self.take_soon()

    def touched(self) -> None:
        """Something else may have changed the kernel."""
        self._is_touched = True
        if self._quiet is not None:
            self._quiet.cancel()
        loop = asyncio.get_running_loop()
        self._quiet = loop.call_later(QUIET_S, self._take_when_quiet)

    def _take_when_quiet(self) -> None:
        self._quiet = None
        if self.is_on and not self.gate.is_busy:
            self.take_soon()

    def questioned(self, is_over: bool) -> None:
        """Something is asked that changes nothing."""
        if self._meter is not None:
            if is_over:
                self._meter.go_on()
            else:
                self._meter.pause()

    def relaunched(self) -> None:
        """The kernel has been started afresh."""
        if not self.is_on or self._is_travelling:
            return
        self.points.changed("died" if self._has_crashed else "restarted", _now())
        self._has_crashed = self._gives_up = False
        self._meter = None
        self._changed()
        self.take_soon()

    def _crashed(self) -> None:
        """Called by the kernel's restarter before it starts it afresh."""
        self._has_crashed = True
        self._in_background(self._look_after_crash())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        async def done() -> None:
            with suppress(CheckpointRestoreError):
                await work

        task = asyncio.ensure_future(done())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _look_after_crash(self) -> None:
        """Perhaps nobody is connected who would say that it runs again."""
        await self._is_settled()
        if self.kernel_id in self._kernels:
            _ = self._of_kernel

    def deserted(self) -> None:
        """A front end has gone away."""
        if self.gate.is_busy:
            self._in_background(self._look_after_deserted())

    async def _look_after_deserted(self) -> None:
        """Take cells for ended of which nobody hears, once the kernel is idle, and stays
        that: between two cells it is so for a moment."""
        polls = 0
        while self.kernel_id in self._kernels and (unheard := self._unheard()):
            await asyncio.sleep(_POLL_S)
            manager = self._kernels.get_kernel(self.kernel_id)
            is_idle = getattr(manager, "execution_state", "idle") == "idle"
            polls = polls + 1 if is_idle else 0
            if polls * _POLL_S > _IDLE_S:
                for cell in unheard:
                    self.gate.answered(cell.msg_id, "ok")

    def _unheard(self) -> list[Cell]:
        present = self._of_kernel.connections
        return [cell for cell in self.gate.running if cell.session not in present]

    def went(self) -> None:
        """The kernel has been brought back to a snapshot by other means."""
        if self.is_on and not self._is_travelling:
            self.gate.reset()
            self.points.changed("restored", _now())
            set_gate(self.kernel_id, self.gate)
            self._of_kernel.gate = self.gate
            self._meter = None
            self._changed()
            self.take_soon()

    # Points

    def take_soon(self) -> None:
        """Make the kernel a point as soon as it can be."""
        if self._taking is None or self._taking.done():
            self._taking = asyncio.ensure_future(self._take())

    async def _take(self) -> None:
        try:
            async with self.lock:
                await self._is_settled()
                is_there = self.is_on and self.kernel_id in self._kernels
                if is_there and not self.gate.is_busy and self._needs_point:
                    await self._take_now()
                    self.problem = self.hint = ""
        except CheckpointRestoreError as error:
            self._gives_up = True
            self._complain(error.message, error.hint)
        except Exception:  # noqa: BLE001 - said by the log
            # No cell is to wait for ever.
            self._gives_up = True
            self._log.exception("Timeline of kernel %s", self.kernel_id)
        finally:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None
            # Not before this task has ended: there may be reason for another one.
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self.gate.look()
        is_at_base = self.points.is_at_base
        if self.is_on and not (self.gate.is_busy or self._gives_up or is_at_base):
            # A cell has ended while the point before it was being saved.
            self.take_soon()

    async def _is_settled(self) -> None:
        """Wait until a kernel that is being started is idle."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_S
        while loop.time() < deadline and self.kernel_id in self._kernels:
            manager = self._kernels.get_kernel(self.kernel_id)
            ready = manager.ready
            state = getattr(manager, "execution_state", "idle")
            if ready.done() and state not in ("starting", "restarting"):
                return
            await asyncio.sleep(_POLL_S)

    async def _take_now(self) -> None:
        name = f"point-{uuid.uuid4().hex[:8]}"
        try:
            await self._service.take_point(
                self.kernel_id, name, lambda: self._note_point(name)
            )
        except BaseException:
            if name in self.points:
                self.points.remove(name)
                self._changed()
            # Called off at the last moment, it has been made all the same.
            self._lost(name)
            raise
        self._taken()

    def _note_point(self, name: str) -> None:
        """The kernel goes on, and can be brought back to what it was a moment ago."""
        if self.points.is_at_base:
            if superseded := self.points.refresh(name, _now()):
                self._lost(superseded)
        else:
            self.points.add(name, _now())
        self._is_touched = False
        self._meter = Meter(self._kernels.get_kernel(self.kernel_id).provisioner.pid)
        self._changed()
        self._service.spare.prepare()
        self.gate.look()

    # Going back and forth

    async def travel(
        self,
        find: Callable[[], Way | None],
        *,
        keep: bool,
        document: bytes,
    ) -> TravelAnswer:
        """Bring the kernel to another point.

        Args:
            find: where it is; asked twice, as there may be another point meanwhile.
            keep: make a point of what runs now, if it is none.
            document: the notebook as it is now, JSON.

        Raises:
            UsageError: there is no such point.
            CheckpointRestoreError: as `SnapshotService.restore`; or what runs now cannot be
                kept.
        """
        async with self.lock:
            self._require(find())
            self._is_travelling = True
            try:
                return await self._travel(find, keep, document)
            finally:
                self._is_travelling = False
                asyncio.get_running_loop().call_soon(self.gate.look)

    async def _travel(
        self, find: Callable[[], Way | None], keep: bool, document: bytes
    ) -> TravelAnswer:
        # They waited behind what is undone.
        self.gate.abort()
        left = ""
        if keep and self._is_worth_keeping:
            await self._keep()
        if self.points.is_at_base or self._is_in_unfinished:
            left = self.points.base
        if document and left:
            with suppress(CheckpointRestoreError):
                self.points.leave(await self._documents.write(left, document))
        way = self._require(find())
        answer = await self._bring(way.point)
        set_gate(self.kernel_id, self.gate)
        self._of_kernel.gate = self.gate
        self._is_touched = self._gives_up = self._has_crashed = False
        self.problem = self.hint = ""
        self._meter = Meter(answer.pid)
        self._changed()
        self._service.spare.prepare()
        return TravelAnswer(
            kernel_id=self.kernel_id,
            point=way.point.name,
            left=left,
            document=way.document,
            run=way.run,
            elapsed_ms=answer.elapsed_ms,
            warnings=answer.warnings,
        )

    async def _bring(self, point: Point) -> RestoreAnswer:
        base, since, running = self.points.base, self.points.since, self.gate.running
        # Before, as it may be at the end of a cell sooner than we know that it is back.
        self.gate.reset()
        self.points.went(point.name)
        for run in point.unfinished:
            self.gate.go_on(_nameless(run.msg_id, "", run.cell_id))
        try:
            return await self._service.restore(self.kernel_id, point.name, keep=False)
        except BaseException:
            self.gate.reset()
            self.points.base, self.points.since = base, since
            for cell in running:
                self.gate.go_on(cell)
            raise

    @property
    def _is_in_unfinished(self) -> bool:
        point = self.points.get(self.points.base)
        return point is not None and self.points.since == point.unfinished

    @property
    def _is_worth_keeping(self) -> bool:
        """Whether the kernel is not what a point is, nor just started afresh."""
        since = self.points.since
        if not since:
            return self._has_moved
        return since[-1].outcome not in ("died", "restarted")

    async def _keep(self) -> None:
        try:
            await self._take_now()
        except CheckpointRestoreError as error:
            if self.kernel_id not in self._kernels:
                return
            manager = self._kernels.get_kernel(self.kernel_id)
            if await manager.provisioner.poll() is not None:
                return
            error.hint = (
                f"{error.hint} The kernel has not been brought back, since what runs now "
                "could not be kept; go back without keeping it (keep=false) if it may be "
                "lost."
            ).strip()
            error.not_kept = True
            raise

    def _require(self, way: Way | None) -> Way:
        if way is None:
            raise UsageError(
                f"Kernel {self.kernel_id} has no such point in its timeline.",
                "Run a cell while the timeline is on; jupyter-cr/kernels/ID/timeline tells "
                "which there are.",
            )
        return way

    # Notebooks

    async def note_document(self, msg_id: str, content: bytes) -> None:
        """Keep a notebook as it was just before a cell.

        Args:
            msg_id: of the request; it may be still to come.

        Raises:
            NoSuchSnapshot: its point is gone.
            StorageError: it cannot be written.
        """
        point = self._point_before(msg_id)
        if point is None:
            while len(self._early) >= 100:
                del self._early[next(iter(self._early))]
            self._early[msg_id] = content
            return
        self.points.note_document(msg_id, await self._documents.write(point, content))
        self._changed()

    def _point_before(self, msg_id: str) -> str | None:
        if any(run.msg_id == msg_id for run in self.points.since):
            return self.points.base
        for point in self.points:
            if any(run.msg_id == msg_id for run in point.runs):
                return point.parent
        return None

    def answer(self, *, is_chosen: bool, limit: int) -> TimelineAnswer:
        """What there is to tell."""
        back, forward = self.points.back(), self.points.forward()
        return TimelineAnswer(
            kernel_id=self.kernel_id,
            is_on=self.is_on,
            is_chosen=is_chosen,
            points=tuple(self.points),
            base=self.points.base,
            since=self.points.since,
            back=back.point.name if back is not None else "",
            forward=forward.point.name if forward is not None else "",
            bytes=self.bytes,
            limit=limit,
            problem=self.problem,
            hint=self.hint,
        )


def _nameless(msg_id: str, session: str, cell_id: str) -> Cell:
    """A cell that the kernel has got already."""
    return Cell(msg_id, session, cell_id, "", True, lambda: None, lambda: None)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
