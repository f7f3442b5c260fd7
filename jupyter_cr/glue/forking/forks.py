"""Forks as a person uses them: `Forks`, which `jupyter_cr.fork` gives for a number, and
what comes of what they run (`Outcome`)."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Literal

from jupyter_cr.errors import ForkFailed, UsageError
from jupyter_cr.glue.forking.messages import (
    Call,
    Finished,
    Prepared,
    Printed,
    Shown,
    Source,
    receive,
)
from jupyter_cr.glue.forking.packing import unpack, unpack_error
from jupyter_cr.glue.forking.progress import ProgressLine
from jupyter_cr.glue.forking.session import Forked, Kept, Session

if TYPE_CHECKING:
    from jupyter_cr.glue.forking.worker import Work

__all__ = ["Forks", "Outcome", "Results", "RunningFork", "show"]

Told = Printed | Shown
Listener = Callable[[Told], None]


@dataclass
class Outcome:
    """What came of something that ran in a fork.

    Attributes:
        parameter: that it was given.
        value: what the function returned, or the last expression of the code was worth; a
            `Described` where it could not be pickled.
        error: the exception that ended it, its traceback as its cause; or None.
        outputs: what it printed and showed, in order.
        elapsed: seconds.
    """

    parameter: Any = None
    value: Any = None
    error: BaseException | None = None
    outputs: list[Told] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def stdout(self) -> str:
        """What it printed."""
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        """The same on standard error."""
        return self._text("stderr")

    def _text(self, stream: str) -> str:
        return "".join(
            output.text
            for output in self.outputs
            if isinstance(output, Printed) and output.stream == stream
        )

    def result(self) -> Any:
        """The value.

        Raises:
            The error, if there is one.
        """
        if self.error is not None:
            raise self.error
        return self.value

    def show(self) -> None:
        """Print and show here what was printed and shown there."""
        for output in self.outputs:
            show(output)

    def __repr__(self) -> str:
        of = "" if self.parameter is None else f" of {self.parameter!r}"
        if self.error is not None:
            said = f"{type(self.error).__name__}: {self.error}".strip()
        else:
            said = repr(self.value)
        return f"<outcome{of}, {self.elapsed:.1f} s: {said}>"


class Results(list[Any]):
    """The values, in the order of the parameters.

    Attributes:
        outcomes: all that is known of each.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        super().__init__(
            outcome.value if outcome.error is None else outcome.error
            for outcome in outcomes
        )
        self.outcomes = tuple(outcomes)


def show(output: Told) -> None:
    """Print or show here what a fork has printed or shown."""
    if isinstance(output, Printed):
        stream = sys.stderr if output.stream == "stderr" else sys.stdout
        stream.write(output.text)
        stream.flush()
        return
    from jupyter_cr.glue.forking.running import current_shell

    shell = current_shell()
    if shell is not None:
        shell.display_pub.publish(
            dict(output.data),
            dict(output.metadata),
            transient=dict(output.transient),
            update=output.update,
        )
    else:
        sys.stdout.write(f"{output.data.get('text/plain', '')}\n")


class RunningFork:
    """One fork, which keeps what it has from one `run` to the next."""

    def __init__(
        self, session: Session, forked: Forked, index: int, timeout: float | None
    ) -> None:
        self._session = session
        self._forked: Forked | None = forked
        self._timeout = timeout
        self.index = index

    def run(
        self,
        work: str | Callable[..., object],
        *arguments: object,
        timeout: float | None = None,
        show: Listener | None = None,
        **named: object,
    ) -> Outcome:
        """Run code, or call a function, and wait for what comes of it.

        Args:
            work: source, as of a cell: `named` are variables for it; or a function, with
                the arguments for it.
            timeout: seconds, after which the fork is ended; default: that of all forks.
            show: called with each output as it comes.

        Raises:
            UsageError: a function or an argument that cannot be pickled.
            ForkFailed: the fork has ended.
        """
        if self._forked is None:
            raise ForkFailed(f"Fork {self.index} has ended.", "Make a new one.")
        limit = self._timeout if timeout is None else timeout
        outcome = Outcome()
        self._forked.begin(_task(work, arguments, named))
        deadline = None if limit is None else time.monotonic() + limit
        while not _listen(self._forked.connection, outcome, deadline, show):
            if deadline is not None and time.monotonic() >= deadline:
                outcome.error = _late(limit)
                self.end()
                return outcome
            if self._forked.connection.closed:
                outcome.error = _ended(self._session.wait(self._forked), outcome)
                self.end()
                return outcome
        return outcome

    def keep(self, name: str, *, automatic: str = "") -> None:
        """Keep it, as it is now, as a snapshot: `jupyter_cr.restore` puts that in the
        place of this process, `jupyter_cr.fork` makes it a kernel of its own. Either then
        ends the cell that has made the fork.

        Raises:
            NameTaken: there is one of that name.
            CheckpointRestoreError: it was not taken.
        """
        if self._forked is None:
            raise ForkFailed(f"Fork {self.index} has ended.", "Make a new one.")
        self._session.keep(self._forked, name, automatic=automatic)

    def end(self) -> None:
        """End it now, and not with all others."""
        if self._forked is not None:
            self._session.end(self._forked)
            self._forked = None

    def __repr__(self) -> str:
        return f"<fork {self.index}{'' if self._forked else ', which has ended'}>"


class Forks:
    """Forks of this process as it is when they are made: of all its memory, threads,
    child processes and open files. What they change is theirs alone.

    Iterated over, they are made one after the other, and live until the end of the loop,
    or of the ``with`` statement. `map` makes one for each parameter.

    Args:
        count: how many; None for as many as can run at a time.
        concurrency: how many run at a time; None for as many as there are processors.
        timeout: seconds that one may take for what it is to run; None for no limit.
        progress: whether to show a line about how far they are.

    Raises:
        UsageError: less than one.
    """

    def __init__(
        self,
        count: int | None = None,
        *,
        concurrency: int | None = None,
        timeout: float | None = None,
        progress: bool = True,
    ) -> None:
        for number in (count, concurrency):
            if number is not None and number < 1:
                raise UsageError(f"{number} forks cannot be made.", "One is the least.")
        limit = concurrency or len(os.sched_getaffinity(0))
        self._concurrency = limit if count is None else min(limit, count)
        self._count = count or limit
        self._timeout = timeout
        self._progress = progress
        self._open: ExitStack | None = None

    def __enter__(self) -> Forks:
        self._open = ExitStack()
        return self

    def __exit__(self, *error: object) -> None:
        stack, self._open = self._open, None
        if stack is not None:
            stack.close()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[RunningFork]:
        with ExitStack() as until_the_end:
            with _ending_here():
                session = (self._open or until_the_end).enter_context(Session())
            for index in range(self._count):
                yield RunningFork(session, session.fork(), index, self._timeout)

    def map(
        self,
        work: Work,
        parameters: Iterable[object],
        *,
        errors: Literal["raise", "return"] = "raise",
    ) -> Results:
        """Run something for each parameter, each time in a fork of its own, of this
        process as it is now. Nothing but what comes of it need be pickled: neither the
        function nor the parameters.

        Args:
            work: a function of one parameter; or source, as of a cell, for which each
                parameter is a mapping with its variables, or else is ``parameter``.
            errors: ``raise`` the first one, which ends all others; or ``return`` each in
                the place of its value.

        Returns:
            The values, in the order of the parameters. What was printed and shown is in
            its `outcomes`.

        Raises:
            CheckpointRestoreError: forks cannot be made.
        """
        if errors not in ("raise", "return"):
            raise UsageError(f"errors={errors!r} is neither 'raise' nor 'return'.")
        listed = list(parameters)
        sweep = _Sweep(listed, self._timeout, ends_at_error=errors == "raise")
        if not listed:
            return Results(())
        with (
            _ending_here(),
            Session(work, listed) as session,
            ProgressLine(len(listed), is_shown=self._progress) as line,
        ):
            sweep.run(session, min(self._concurrency, len(listed)), line)
        return Results(sweep.outcomes)


@contextmanager
def _ending_here() -> Iterator[None]:
    """Where a fork's own snapshot goes on, the cell that made the fork is not gone on
    with."""
    try:
        yield
    except Kept:
        raise ForkFailed(
            "This is what was a fork, and was kept as a snapshot. The cell that had made "
            "it ends here.",
            "All that the fork had is there.",
        ) from None


class _Sweep:
    """One `Forks.map`."""

    def __init__(
        self, parameters: Sequence[object], timeout: float | None, *, ends_at_error: bool
    ) -> None:
        self.outcomes = [Outcome(parameter) for parameter in parameters]
        self._timeout = timeout
        self._ends_at_error = ends_at_error
        self._waiting = deque(range(len(parameters)))
        self._running: dict[Connection, tuple[int, Forked, float]] = {}

    def run(self, session: Session, limit: int, line: ProgressLine) -> None:
        done = 0
        while self._waiting or self._running:
            while self._waiting and len(self._running) < limit:
                self._begin(session, self._waiting.popleft())
                line.tell(done, len(self._running))
            for index in self._hear(session):
                done += 1
                error = self.outcomes[index].error
                if error is not None and self._ends_at_error:
                    raise error
            line.tell(done, len(self._running))

    def _begin(self, session: Session, index: int) -> None:
        forked = session.fork()
        forked.begin(Prepared(index))
        self._running[forked.connection] = index, forked, time.monotonic()

    def _hear(self, session: Session) -> list[int]:
        """Those that have ended."""
        ready = set(wait(list(self._running), self._patience()))
        ended = []
        for connection, (index, forked, began) in list(self._running.items()):
            outcome = self.outcomes[index]
            is_done = connection in ready and _listen(connection, outcome, 0.0, None)
            if connection.closed:
                outcome.error = _ended(session.wait(forked), outcome)
            elif not is_done and self._is_late(began):
                outcome.error = _late(self._timeout)
            if is_done or outcome.error is not None:
                session.end(forked)
                del self._running[connection]
                ended.append(index)
        return ended

    def _is_late(self, began: float) -> bool:
        return self._timeout is not None and time.monotonic() >= began + self._timeout

    def _patience(self) -> float:
        """At least as often the line is drawn again."""
        if self._timeout is None:
            return 1.0
        first = min(began for _, _, began in self._running.values())
        return max(0.0, min(1.0, first + self._timeout - time.monotonic()))


def _ended(how: str, outcome: Outcome) -> ForkFailed:
    said = outcome.stderr.strip()[-1000:]
    return ForkFailed(f"The fork {how}.", f"It had said:\n{said}" if said else "")


def _late(limit: float | None) -> TimeoutError:
    return TimeoutError(f"It was not done within {limit} s, and was ended.")


def _listen(
    connection: Connection,
    outcome: Outcome,
    deadline: float | None,
    listener: Listener | None,
) -> bool:
    """Hear what there is to be heard.

    Args:
        deadline: of time.monotonic(); None: wait for the next message, however long.

    Returns:
        Whether all has been said. The connection is closed if its other end was.
    """
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not connection.poll(left):
                return False
            message = receive(connection)
            if isinstance(message, Finished):
                outcome.elapsed = message.elapsed_s
                if message.raised is not None:
                    outcome.error = unpack_error(message.raised)
                elif message.value is not None:
                    outcome.value = unpack(message.value)
                return True
            outcome.outputs.append(message)
            if listener is not None:
                listener(message)
    except (EOFError, OSError):
        connection.close()
        return False


def _task(
    work: str | Callable[..., object], arguments: Sequence[object], named: dict[str, object]
) -> Source | Call:
    if isinstance(work, str):
        if arguments:
            raise UsageError(
                "Code takes no arguments.", "Variables for it have names: run(code, x=1)."
            )
        return Source(work, _pickled(named, "the variables"))
    return Call(_pickled((work, tuple(arguments), named), "the function or its arguments"))


def _pickled(value: object, what: str) -> bytes:
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise UsageError(
            f"A fork that runs already cannot be given {what}: {error}.",
            "Give it code, which finds all that there was before the fork; or use map(), "
            "for which nothing has to be pickled.",
        ) from error
