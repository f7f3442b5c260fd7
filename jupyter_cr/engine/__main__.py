"""One operation in a process of its own, for callers that must not be blocked by it::

    python -m jupyter_cr.engine

One request, a line of JSON, is read from standard input; its ``op`` is ``checkpoint``,
``restore``, ``fork``, ``list``, ``show``, ``remove``, ``keep``, ``verify`` or ``check``,
its other keys are that function's arguments in `jupyter_cr.operations`; or ``compare``, of
`jupyter_cr.comparing`; or ``export`` or ``import``, of `jupyter_cr.bundles`, with ``fd``, a
descriptor that it was given, for the stream; or ``publish-lesson``, ``obtain-lesson`` or
``warm-lesson``, of `jupyter_cr.lessons`. It may be started ahead: while it waits for
the request, it has all that it needs. Lines of JSON come back on standard output, each with
a ``type``: any number of ``progress`` (``phase``, ``fraction``), for a checkpoint with
``live`` in the request one ``live`` (``result``, as it will be) when it can be restored,
then one ``result`` (``result``) or ``error`` (``error``, ``message``, ``hint``,
``exit_code``, ``http_status``). Then it takes the next request, if one comes, and ends with
the input, or with the first error, whose exit status it has.

With ``stay`` (and maybe ``replacing``, a pid), the process that has restored
or forked a tree closes its standard output behind the result, lives as long as the tree,
and ends as its root ends: what a server wants of a child.

SIGTERM calls it off: nothing is left behind, and the tree that runs goes on. Where it
is too late for that, it has no effect.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TypeVar, cast

import msgspec

from jupyter_cr import operations
from jupyter_cr.engine.waiter import become_waiter, end_as
from jupyter_cr.errors import Cancelled, CheckpointRestoreError, EngineError, UsageError
from jupyter_cr.image import NotebookFacts
from jupyter_cr.kernels.lines import (
    ErrorLine,
    Line,
    LiveLine,
    ProgressLine,
    ResultLine,
    encode_line,
)

__all__ = ["main"]

_ENGINE = ("jupyter_cr.engine.checkpoint", "jupyter_cr.engine.restore")
_PROGRESS_INTERVAL_S = 0.05

T = TypeVar("T")


class _Request(msgspec.Struct, frozen=True, tag_field="op", forbid_unknown_fields=True):
    """What all requests have in common."""


_NULL = b"null"


def _content(document: msgspec.Raw) -> bytes:
    content = bytes(document)
    return b"" if content == _NULL else content


class _Checkpoint(_Request, frozen=True, tag="checkpoint"):
    target: str
    connection_file: str | None = None
    name: str | None = None
    note: str = ""
    warm: bool = False
    memory_only: bool = False
    live: bool = False
    end: bool = False
    notebook: NotebookFacts | None = None
    document: msgspec.Raw = msgspec.Raw(_NULL)
    automatic: str = ""

    def run(self, progress: _Progress) -> object:
        return operations.checkpoint(
            self.target,
            connection_file=Path(self.connection_file) if self.connection_file else None,
            name=self.name,
            note=self.note,
            warm=self.warm,
            memory_only=self.memory_only,
            end=self.end,
            notebook=self.notebook,
            document=_content(self.document),
            automatic=self.automatic,
            progress=progress,
            live=progress.live if self.live else None,
        )


class _Restore(_Request, frozen=True, tag="restore"):
    name: str
    lazy: bool = False
    replacing: int | None = None
    asked_within: bool = False
    stay: bool = False

    def run(self, progress: _Progress) -> object:
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
    replacing: int | None = None
    lazy: bool = False
    asked_within: bool = False
    stay: bool = False

    def run(self, progress: _Progress) -> object:
        path = Path(self.connection_file) if self.connection_file else None
        if self.stay:
            return operations.bring_fork(
                self.name,
                path,
                replacing=self.replacing,
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
    def run(self, progress: _Progress) -> object:
        return operations.list_snapshots()


class _Show(_Request, frozen=True, tag="show"):
    name: str

    def run(self, progress: _Progress) -> object:
        return operations.show_snapshot(self.name)


class _Remove(_Request, frozen=True, tag="remove"):
    names: tuple[str, ...]

    def run(self, progress: _Progress) -> object:
        operations.remove_snapshots(self.names)
        return self.names


class _Keep(_Request, frozen=True, tag="keep"):
    name: str
    new_name: str
    document: msgspec.Raw = msgspec.Raw(_NULL)

    def run(self, progress: _Progress) -> object:
        return operations.keep_snapshot(
            self.name, self.new_name, document=_content(self.document), progress=progress
        )


class _Verify(_Request, frozen=True, tag="verify"):
    name: str

    def run(self, progress: _Progress) -> object:
        return operations.verify_snapshot(self.name, progress=progress)


class _Compare(_Request, frozen=True, tag="compare"):
    before: str
    after: str
    variables: bool = True

    def run(self, progress: _Progress) -> object:
        # Imported where needed: by few.
        from jupyter_cr.comparing import compare_snapshots

        return compare_snapshots(self.before, self.after, variables=self.variables)


class _Check(_Request, frozen=True, tag="check"):
    def run(self, progress: _Progress) -> object:
        return operations.check_capabilities()


class _Export(_Request, frozen=True, tag="export"):
    name: str
    fd: int

    def run(self, progress: _Progress) -> object:
        # Imported where needed: all of them would have to wait for it.
        from jupyter_cr import bundles

        with os.fdopen(self.fd, "wb") as stream:
            return bundles.export_snapshot(self.name, stream)


class _Import(_Request, frozen=True, tag="import"):
    source: str
    fd: int
    name: str | None = None

    def run(self, progress: _Progress) -> object:
        from jupyter_cr import bundles

        with os.fdopen(self.fd, "rb") as stream:
            return bundles.import_snapshot(stream, self.source, name=self.name)


class _PublishLesson(_Request, frozen=True, tag="publish-lesson"):
    name: str
    place: msgspec.Raw
    title: str = ""
    note: str | None = None
    publisher: str = ""

    def run(self, progress: _Progress) -> object:
        from jupyter_cr import lessons

        return lessons.publish_lesson(
            self.name,
            _decode(self.place, lessons.Place),
            title=self.title,
            note=self.note,
            publisher=self.publisher,
            progress=progress,
        )


class _ObtainLesson(_Request, frozen=True, tag="obtain-lesson"):
    title: str
    place: msgspec.Raw
    trust: str = ""

    def run(self, progress: _Progress) -> object:
        from jupyter_cr import lessons

        place = _decode(self.place, lessons.Place)
        return lessons.obtain_lesson(self.title, place, trust=self.trust, progress=progress)


class _WarmLesson(_Request, frozen=True, tag="warm-lesson"):
    name: str

    def run(self, progress: _Progress) -> object:
        from jupyter_cr import lessons

        return lessons.warm_lesson(self.name)


_AnyRequest = (
    _Checkpoint
    | _Restore
    | _Fork
    | _List
    | _Show
    | _Remove
    | _Keep
    | _Verify
    | _Compare
    | _Check
    | _Export
    | _Import
    | _PublishLesson
    | _ObtainLesson
    | _WarmLesson
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


class _Progress:
    """Tells whoever has asked how far it is."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._last = ("", 0.0)

    def __call__(self, phase: str, fraction: float) -> None:
        if phase == "swap":
            # Too late: the one tree ends, the other has to go.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        now = time.monotonic()
        before, at = self._last
        if phase != before or fraction >= 1 or now - at >= _PROGRESS_INTERVAL_S:
            self._last = (phase, now)
            _send(self._answers, ProgressLine(phase, fraction))

    def live(self, result: object) -> None:
        """And what there is already."""
        _send(self._answers, LiveLine.of(result))


def _decode(data: bytes | msgspec.Raw, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=type_)
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"The request is not understood: {error}.",
            "Lines of JSON are needed, as jupyter_cr/engine/__main__.py says.",
        ) from error


def _understand(line: bytes) -> _AnyRequest:
    # A union is no class, as mypy has it.
    request: _AnyRequest = _decode(line, cast("type[_AnyRequest]", _AnyRequest))
    return request


def _answer(
    send: Callable[[Line], None], progress: _Progress, *, is_first: bool
) -> operations.Brought | int | None:
    """What has been brought back and is to be stayed with, or the exit status; None if
    there are no more requests."""
    # Whoever is called off before anything was begun just ends.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        for name in _ENGINE:
            import_module(name)
        line = sys.stdin.buffer.readline()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if not (line or is_first):
            return None
        result = _understand(line).run(progress)
        # It is done, and whoever calls it off now is told so.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
    """Answer requests; the exit status."""
    answers = _take_stdout()
    is_first = True
    # Among 100,000 records, looking for cycles takes as long as all else. It is done when
    # nobody waits.
    gc.disable()
    while True:
        outcome = _answer(
            lambda message: _send(answers, message),
            _Progress(answers),
            is_first=is_first,
        )
        if outcome != 0:
            break
        gc.collect()
        gc.freeze()
        is_first = False
    if outcome is None or isinstance(outcome, int):
        return outcome or 0
    os.close(answers)
    if outcome.pager is not None and (status := outcome.pager.run()) is not None:
        end_as(status)
    become_waiter(outcome.result.supervisor)


if __name__ == "__main__":
    sys.exit(main())
