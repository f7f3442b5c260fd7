"""The side of a fork: it finds itself where its original had asked for forks, and does
what the original says until that hangs up."""

from __future__ import annotations

import os
import pickle
import queue
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jupyter_cr.glue.forking.messages import (
    Call,
    Finished,
    Message,
    Prepared,
    Printed,
    Source,
    Task,
    receive,
    send,
)
from jupyter_cr.glue.forking.running import run_call, run_source
from jupyter_cr.glue.hooks import catch_up
from jupyter_cr.glue.whereabouts import find_out

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Work", "Worker", "run_prepared"]

Work = Callable[[Any], object] | str
"""A function of one parameter; or code, to which a mapping gives its variables, and
anything else is ``parameter``."""


def run_prepared(
    work: Work, parameter: object, sending: Callable[[Message], None]
) -> Finished:
    """Do one piece of work."""
    if not isinstance(work, str):
        return run_call(work, ((parameter,), {}), sending)
    if isinstance(parameter, Mapping):
        return run_source(work, parameter, sending)
    return run_source(work, {"parameter": parameter}, sending)


class Worker:
    """Serves whoever is at the other end of a connection.

    Args:
        work, parameters: what there was before the fork, for `Prepared`.
    """

    def __init__(
        self, connection: Connection, work: Work, parameters: Sequence[object]
    ) -> None:
        self._connection = connection
        self._work = work
        self._parameters = parameters
        self._here = find_out()
        self._sending = threading.Lock()
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()

    def serve(self) -> None:
        """Returns only in a copy of this fork, from a snapshot that was taken of it. The
        fork itself ends without a word: what would be done at its end, as to remove its
        original's connection file, is not its own."""
        threading.Thread(target=self._read, name="jupyter-cr fork", daemon=True).start()
        try:
            while (task := self._tasks.get()) is not None:
                self._send(self._do(task))
        except BaseException:
            if find_out() == self._here:
                self._send(Printed("stderr", traceback.format_exc()))
                os._exit(1)
            raise
        catch_up()

    def _read(self) -> None:
        """In a thread of its own, so that a fork that computes ends with its original."""
        with suppress(EOFError, OSError):
            while True:
                self._tasks.put(receive(self._connection))
        if find_out() == self._here:
            os._exit(0)
        self._connection.close()
        self._tasks.put(None)

    def _send(self, message: Message) -> None:
        # Threads of the user's may print, too.
        with self._sending, suppress(OSError):
            send(self._connection, message)

    def _do(self, task: Task) -> Finished:
        if isinstance(task, Prepared):
            return run_prepared(self._work, self._parameters[task.index], self._send)
        if isinstance(task, Source):
            return run_source(task.code, pickle.loads(task.variables), self._send)
        return run_call(*_unpickled(task), self._send)


def _unpickled(task: Call) -> tuple[Callable[..., object], Any]:
    try:
        function, positional, named = pickle.loads(task.call)
    except Exception as error:  # noqa: BLE001 - whatever others' classes raise
        return _raise, ((error,), {})
    return function, (positional, named)


def _raise(error: Exception) -> None:
    raise error
