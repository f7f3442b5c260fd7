"""One operation in a process of its own, for callers that must not be blocked by it::

    python -m jupyter_cr.engine

One request, a line of JSON, is read from standard input; its ``op`` is ``checkpoint``,
``restore``, ``fork``, ``list``, ``show``, ``remove`` or ``verify``, its other keys are
that function's arguments in `jupyter_cr.operations`. Lines of JSON come back on
standard output, each with a ``type``: any number of ``progress`` (``phase``,
``fraction``), then one ``result`` (``result``) or ``error`` (``error``, ``message``,
``hint``, ``exit_code``, ``http_status``). The exit status is the error's.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from jupyter_cr import operations
from jupyter_cr.errors import CheckpointRestoreError, EngineError, UsageError

__all__ = ["main"]

_PROGRESS_INTERVAL_S = 0.05


class _Request(msgspec.Struct, frozen=True, tag_field="op", forbid_unknown_fields=True):
    """What all requests have in common."""


class _Checkpoint(_Request, frozen=True, tag="checkpoint"):
    target: str
    name: str | None = None
    note: str = ""
    warm: bool = False

    def run(self, progress: operations.Progress) -> object:
        return operations.checkpoint(
            self.target, name=self.name, note=self.note, warm=self.warm, progress=progress
        )


class _Restore(_Request, frozen=True, tag="restore"):
    name: str
    lazy: bool = False

    def run(self, progress: operations.Progress) -> object:
        return operations.restore(self.name, lazy=self.lazy, progress=progress)


class _Fork(_Request, frozen=True, tag="fork"):
    name: str
    connection_file: str | None = None
    lazy: bool = False

    def run(self, progress: operations.Progress) -> object:
        path = Path(self.connection_file) if self.connection_file else None
        return operations.fork(
            self.name, connection_file=path, lazy=self.lazy, progress=progress
        )


class _List(_Request, frozen=True, tag="list"):
    def run(self, progress: operations.Progress) -> object:
        return operations.list_snapshots()


class _Show(_Request, frozen=True, tag="show"):
    name: str

    def run(self, progress: operations.Progress) -> object:
        return operations.show_snapshot(self.name)


class _Remove(_Request, frozen=True, tag="remove"):
    names: tuple[str, ...]

    def run(self, progress: operations.Progress) -> object:
        operations.remove_snapshots(self.names)
        return self.names


class _Verify(_Request, frozen=True, tag="verify"):
    name: str

    def run(self, progress: operations.Progress) -> object:
        return operations.verify_snapshot(self.name, progress=progress)


_AnyRequest = _Checkpoint | _Restore | _Fork | _List | _Show | _Remove | _Verify


class _Progress(msgspec.Struct, frozen=True, tag_field="type", tag="progress"):
    phase: str
    fraction: float


class _Result(msgspec.Struct, frozen=True, tag_field="type", tag="result"):
    result: Any


class _Error(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    error: str
    message: str
    hint: str
    exit_code: int
    http_status: int


def _take_stdout() -> int:
    """A private descriptor on standard output; whatever else is printed in this process,
    or by one that it starts, goes to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _send(answers: int, message: msgspec.Struct) -> None:
    line = msgspec.json.encode(message) + b"\n"
    while line:
        line = line[os.write(answers, line) :]


def _progress_to(answers: int) -> operations.Progress:
    last = ("", 0.0)

    def progress(phase: str, fraction: float) -> None:
        nonlocal last
        now = time.monotonic()
        if phase != last[0] or fraction >= 1 or now - last[1] >= _PROGRESS_INTERVAL_S:
            last = (phase, now)
            _send(answers, _Progress(phase, fraction))

    return progress


def _read_request() -> _AnyRequest:
    try:
        request: _AnyRequest = msgspec.json.decode(
            sys.stdin.buffer.readline(), type=_AnyRequest
        )
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"The request is not understood: {error}.",
            "One line of JSON is needed, as jupyter_cr/engine/__main__.py says.",
        ) from error
    return request


def _answer(send: Callable[[msgspec.Struct], None], progress: operations.Progress) -> int:
    try:
        send(_Result(_read_request().run(progress)))
        return 0
    except CheckpointRestoreError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - the caller must get its last line
        import traceback

        traceback.print_exc()
        failure = EngineError(
            f"{type(error).__name__}: {error}", "This is a bug; the traceback is on stderr."
        )
    send(
        _Error(
            type(failure).__name__,
            failure.message,
            failure.hint,
            failure.exit_code,
            failure.http_status,
        )
    )
    return failure.exit_code


def main() -> int:
    """Answer one request; the exit status."""
    answers = _take_stdout()
    return _answer(lambda message: _send(answers, message), _progress_to(answers))


if __name__ == "__main__":
    sys.exit(main())
