"""The process outside that makes forks of one process, and ends them: whatever happens to
whoever has asked for them, its hanging up ends them, and removes their snapshot.

It reads lines of JSON with an ``op``, and answers each with one line as
`jupyter_cr.kernels.lines` has them: ``fork`` makes one more, ``look`` tells whether it has
ended, ``wait`` when it has, ``end`` ends it, ``keep`` takes a snapshot of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from jupyter_cr import operations
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
from jupyter_cr.kernels.throwaway import ThrowAway, apart
from jupyter_cr.store import Store
from jupyter_cr.store.snapshot import FOR_A_FORK

__all__ = ["KeeperRequest", "keep_forks"]


class KeeperRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Forks of which process, and what its snapshot is to be called."""

    name: str
    pid: int
    """As the keeper sees it."""
    connection_file: str | None = None
    notebook: NotebookFacts = NotebookFacts()
    document: msgspec.Raw = msgspec.Raw(b"null")


class _Keeper:
    def __init__(self, request: KeeperRequest, report: operations.Progress) -> None:
        self._name = request.name
        self._store = Store()
        self._forks: dict[int, ThrowAway] = {}
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
        fork = ThrowAway(self._name, self._name)
        number = len(self._forks)
        self._forks[number] = fork
        return {"number": number, "warnings": fork.warnings}

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
            return None, 0

        apart(keep)
        return {"name": name}

    def clear(self) -> None:
        """End all forks, and remove their snapshot."""
        for fork in self._forks.values():
            fork.end()
            fork.close()
        with suppress(ImageError, StorageError):
            self._store.remove([self._name])
        self._store.close()


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
