"""The process outside that makes forks of one process, and ends them: whatever happens to
whoever has asked for them, its hanging up ends them, and removes their snapshot.

It reads lines of JSON with an ``op``, and answers each with one line as
`jupyter_cr.kernels.lines` has them: ``fork`` makes one more, ``look`` tells whether it has
ended, ``wait`` when it has, ``end`` ends it, ``keep`` takes a snapshot of it.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from jupyter_cr import operations
from jupyter_cr.engine.restore import restore_tree
from jupyter_cr.engine.waiter import become_waiter
from jupyter_cr.errors import (
    CheckpointRestoreError,
    EngineError,
    ImageError,
    StorageError,
    UsageError,
)
from jupyter_cr.glue.forking.keeping import keep_fork
from jupyter_cr.image import NotebookFacts
from jupyter_cr.kernels.lines import ErrorLine, Line, ResultLine
from jupyter_cr.store import Store
from jupyter_cr.store.snapshot import FOR_A_FORK

__all__ = ["KeeperRequest", "keep_forks"]

_END_LIMIT_S = 10.0
_LOOK_S = 0.02


class KeeperRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Forks of which process, and what its snapshot is to be called."""

    name: str
    pid: int
    """As the keeper sees it."""
    connection_file: str | None = None
    notebook: NotebookFacts = NotebookFacts()
    document: msgspec.Raw = msgspec.Raw(b"null")


class _Made(msgspec.Struct):
    """A tree that one of our children has made, and stays with."""

    pid: int
    """Of its root."""
    ports: dict[int, int]
    """Recorded -> now."""
    warnings: tuple[str, ...]


class _Fork:
    """One that was made; `waiter`: our child that ends as its root ends."""

    def __init__(self, made: _Made, waiter: int) -> None:
        self.pid = made.pid
        self.ports = made.ports
        self._waiter = waiter
        self._root = os.pidfd_open(made.pid)
        self._status: int | None = None

    def look(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while
        that is not known."""
        if self._status is None:
            pid, status = os.waitpid(self._waiter, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self) -> int | None:
        """The same, when it has ended."""
        deadline = time.monotonic() + _END_LIMIT_S
        while (status := self.look()) is None and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return status

    def end(self) -> None:
        """End all of it, if it lives. What had kept it ends by itself, as soon as Linux
        has cleared the namespace: that may have to wait for whoever reaps orphans."""
        if self.look() is not None:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._root, signal.SIGKILL)
        select.select([self._root], [], [], _END_LIMIT_S)

    def close(self) -> None:
        os.close(self._root)


class _Keeper:
    def __init__(self, request: KeeperRequest, report: operations.Progress) -> None:
        self._name = request.name
        self._store = Store()
        self._forks: dict[int, _Fork] = {}
        document = bytes(request.document)
        self._taken = operations.checkpoint(
            str(request.pid),
            connection_file=(
                Path(request.connection_file) if request.connection_file else None
            ),
            name=request.name,
            warm=True,
            notebook=request.notebook,
            document=b"" if document == b"null" else document,
            automatic=FOR_A_FORK,
            store=self._store,
            progress=report,
        )

    def answer(self, op: str, arguments: dict[str, Any]) -> object:
        known: dict[str, Callable[..., object]] = {
            "fork": self._fork,
            "look": self._look,
            "wait": self._wait,
            "end": self._end,
            "keep": self._keep,
        }
        if op not in known:
            raise UsageError(f"There is no operation {op!r}.")
        return known[op](**arguments)

    def _fork(self) -> dict[str, object]:
        # In a child of ours: the engine takes all children of its process for its own.
        answer, waiter = _apart(lambda: _make_fork(self._name))
        try:
            made = msgspec.json.decode(answer, type=_Made)
        except msgspec.MsgspecError:
            os.waitpid(waiter, 0)
            raise _error_in(answer) from None
        number = len(self._forks)
        self._forks[number] = _Fork(made, waiter)
        return {"number": number, "warnings": made.warnings}

    def _look(self, number: int) -> dict[str, object]:
        return {"status": self._forks[number].look()}

    def _wait(self, number: int) -> dict[str, object]:
        return {"status": self._forks[number].wait()}

    def _end(self, number: int) -> None:
        self._forks[number].end()

    def _keep(self, number: int, name: str, automatic: str = "") -> dict[str, object]:
        fork = self._forks[number]

        def keep() -> tuple[object, int]:
            with Store() as store, store.open(self._name) as reader:
                keep_fork(
                    store,
                    reader,
                    fork.pid,
                    fork.ports,
                    name,
                    automatic=automatic,
                    parent=self._taken.parent,
                )
            return {"name": name}, 0

        answer, child = _apart(keep)
        _, status = os.waitpid(child, 0)
        if status:
            raise _error_in(answer)
        return {"name": name}

    def clear(self) -> None:
        """End all forks, and remove their snapshot."""
        for fork in self._forks.values():
            fork.end()
            fork.close()
        with suppress(ImageError, StorageError):
            self._store.remove([self._name])
        self._store.close()


def _make_fork(name: str) -> tuple[object, int]:
    with Store() as store, store.open(name) as reader:
        outcome = restore_tree(reader, mode="fork", name=name, ports={}, asked_within=True)
    made = _Made(outcome.pid, outcome.ports, outcome.warnings)
    return made, outcome.supervisor_pid


def _apart(work: Callable[[], tuple[object, int]]) -> tuple[bytes, int]:
    """Do something in a child of ours, which then waits for what it has made.

    Args:
        work: gives the answer, and the pid of what is to be waited for, or 0.

    Returns:
        The answer in JSON, or an `ErrorLine`; and the child.
    """
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(readable)
            answer, made = work()
            _write_all(writable, msgspec.json.encode(answer))
            if made:
                become_waiter(made)
            os._exit(0)
        except CheckpointRestoreError as error:
            _write_all(writable, msgspec.json.encode(ErrorLine.of(error)))
        except BaseException as error:  # noqa: BLE001 - must not go on as the keeper
            failure = EngineError(f"{type(error).__name__}: {error}")
            _write_all(writable, msgspec.json.encode(ErrorLine.of(failure)))
        finally:
            os._exit(1)
    os.close(writable)
    with open(readable, "rb") as file:
        return file.read(), child


def _write_all(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


def _error_in(answer: bytes) -> CheckpointRestoreError:
    try:
        line = msgspec.json.decode(answer, type=ErrorLine)
    except msgspec.MsgspecError:
        return EngineError("The process that was to make a fork has ended.", "Try again.")
    return line.as_error()


def keep_forks(
    request: KeeperRequest,
    lines: BinaryIO,
    say: Callable[[Line], None],
    on_thaw: Callable[[], None] = lambda: None,
    on_taken: Callable[[], None] = lambda: None,
) -> None:
    """Do all that is asked for, until nobody asks any more.

    Args:
        lines: what is asked.
        say: answers.
        on_thaw: called when the process goes on.
        on_taken: called when its snapshot is complete.
    """

    def report(phase: str, fraction: float) -> None:
        if phase != "freeze":
            on_thaw()

    try:
        keeper = _Keeper(request, report)
    except CheckpointRestoreError as error:
        say(ErrorLine.of(error))
        return
    try:
        on_taken()
        say(ResultLine.of({"name": request.name}))
        for op, arguments in _iter_asked(lines):
            try:
                say(ResultLine.of(keeper.answer(op, arguments)))
            except CheckpointRestoreError as error:
                say(ErrorLine.of(error))
            except Exception as error:  # noqa: BLE001 - whoever asks must get an answer
                say(ErrorLine.of(EngineError(f"{type(error).__name__}: {error}")))
    finally:
        keeper.clear()


def _iter_asked(lines: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    with suppress(ConnectionError):
        for line in lines:
            fields = msgspec.json.decode(line, type=dict[str, Any])
            yield str(fields.pop("op", "")), fields
