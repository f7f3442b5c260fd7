"""One operation in a process of its own, for callers that must not be blocked by it::

    python -m jupyter_cr.engine

One request, a line of JSON, is read from standard input; its ``op`` is ``checkpoint``,
``restore``, ``fork``, ``list``, ``show``, ``remove``, ``verify``, ``compare`` or ``check``,
its other keys are that function's arguments in `jupyter_cr.operations` (or in
`jupyter_cr.comparing`). It may be started ahead:
while it waits for the request, it has all that it needs. Lines of JSON come back on
standard output, each with a ``type``: any number of ``progress`` (``phase``,
``fraction``), then one ``result`` (``result``) or ``error`` (``error``, ``message``,
``hint``, ``exit_code``, ``http_status``). The exit status is the error's.

With ``stay`` (and, for a restore, ``replacing``, a pid), the process that has restored
or forked a tree closes its standard output behind the result, lives as long as the tree,
and ends as its root ends: what a server wants of a child.

SIGTERM calls it off: nothing is left behind, and the tree that runs goes on. Where it
is too late for that, it has no effect.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import msgspec

from jupyter_cr import operations
from jupyter_cr.engine.waiter import become_waiter
from jupyter_cr.errors import Cancelled, CheckpointRestoreError, EngineError, UsageError
from jupyter_cr.image import NotebookFacts
from jupyter_cr.kernels.lines import (
    ErrorLine,
    Line,
    ProgressLine,
    ResultLine,
    encode_line,
)

__all__ = ["main"]

_ENGINE = ("jupyter_cr.engine.checkpoint", "jupyter_cr.engine.restore")
_PROGRESS_INTERVAL_S = 0.05


class _Request(msgspec.Struct, frozen=True, tag_field="op", forbid_unknown_fields=True):
    """What all requests have in common."""


class _Checkpoint(_Request, frozen=True, tag="checkpoint"):
    target: str
    connection_file: str | None = None
    name: str | None = None
    note: str = ""
    warm: bool = False
    end: bool = False
    notebook: NotebookFacts | None = None
    document: msgspec.Raw = msgspec.Raw(b"null")
    automatic: str = ""

    def run(self, progress: operations.Progress) -> object:
        return operations.checkpoint(
            self.target,
            connection_file=Path(self.connection_file) if self.connection_file else None,
            name=self.name,
            note=self.note,
            warm=self.warm,
            end=self.end,
            notebook=self.notebook,
            document=b"" if bytes(self.document) == b"null" else bytes(self.document),
            automatic=self.automatic,
            progress=progress,
        )


class _Restore(_Request, frozen=True, tag="restore"):
    name: str
    lazy: bool = False
    replacing: int | None = None
    asked_within: bool = False
    stay: bool = False

    def run(self, progress: operations.Progress) -> object:
        if self.stay:
            return operations.bring_restored(
                self.name,
                replacing=self.replacing,
                lazy=self.lazy,
                asked_within=self.asked_within,
                progress=progress,
            )
        return operations.restore(
            self.name, lazy=self.lazy, asked_within=self.asked_within, progress=progress
        )


class _Fork(_Request, frozen=True, tag="fork"):
    name: str
    connection_file: str | None = None
    lazy: bool = False
    asked_within: bool = False
    stay: bool = False

    def run(self, progress: operations.Progress) -> object:
        path = Path(self.connection_file) if self.connection_file else None
        if self.stay:
            return operations.bring_fork(
                self.name,
                path,
                lazy=self.lazy,
                asked_within=self.asked_within,
                progress=progress,
            )
        return operations.fork(
            self.name,
            connection_file=path,
            lazy=self.lazy,
            asked_within=self.asked_within,
            progress=progress,
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


class _Compare(_Request, frozen=True, tag="compare"):
    before: str
    after: str
    variables: bool = True

    def run(self, progress: operations.Progress) -> object:
        # Imported where needed: by few.
        from jupyter_cr.comparing import compare_snapshots

        return compare_snapshots(self.before, self.after, variables=self.variables)


class _Check(_Request, frozen=True, tag="check"):
    def run(self, progress: operations.Progress) -> object:
        return operations.check_capabilities()


_AnyRequest = (
    _Checkpoint | _Restore | _Fork | _List | _Show | _Remove | _Verify | _Compare | _Check
)


def _take_stdout() -> int:
    """A private descriptor on standard output; whatever else is printed in this process,
    or by one that it starts, goes to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _send(answers: int, message: Line) -> None:
    """Whether anybody still listens does not matter: what was begun is brought to its
    end, a kernel must not be lost because a server died."""
    line = encode_line(message)
    with suppress(BrokenPipeError):
        while line:
            line = line[os.write(answers, line) :]


def _progress_to(answers: int) -> operations.Progress:
    last = ("", 0.0)

    def progress(phase: str, fraction: float) -> None:
        nonlocal last
        if phase == "swap":
            # Too late: the one tree ends, the other has to go.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        now = time.monotonic()
        if phase != last[0] or fraction >= 1 or now - last[1] >= _PROGRESS_INTERVAL_S:
            last = (phase, now)
            _send(answers, ProgressLine(phase, fraction))

    return progress


def _read_request() -> _AnyRequest:
    for name in _ENGINE:
        import_module(name)
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


def _answer(
    send: Callable[[Line], None], progress: operations.Progress
) -> operations.Brought | int:
    """What has been brought back and is to be stayed with, or the exit status."""
    try:
        result = _read_request().run(progress)
        if isinstance(result, operations.Brought):
            send(ResultLine.of(result.result))
            return result
        send(ResultLine.of(result))
        return 0
    except CheckpointRestoreError as error:
        failure = error
    except KeyboardInterrupt:
        failure = Cancelled("The operation was called off.", "Nothing has been changed.")
    except Exception as error:  # noqa: BLE001 - the caller must get its last line
        import traceback

        traceback.print_exc()
        failure = EngineError(
            f"{type(error).__name__}: {error}", "This is a bug; the traceback is on stderr."
        )
    send(ErrorLine.of(failure))
    return failure.exit_code


def main() -> int:
    """Answer one request; the exit status."""
    answers = _take_stdout()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcome = _answer(lambda message: _send(answers, message), _progress_to(answers))
    if isinstance(outcome, int):
        return outcome
    os.close(answers)
    if outcome.pager is not None:
        outcome.pager.run()
    become_waiter(outcome.result.supervisor)


if __name__ == "__main__":
    sys.exit(main())
