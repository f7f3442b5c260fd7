"""How an operation answers that runs in another process: lines of JSON. Any number of
``progress``, maybe one ``live``, then one ``result`` or ``error``; a helper's tell first
which process does it (``started``).

Written by `jupyter_cr.engine.__main__`, by a server's socket and by a kernel's helper.
"""

from __future__ import annotations

import msgspec

from jupyter_cr import errors
from jupyter_cr.errors import CheckpointRestoreError

__all__ = [
    "ErrorLine",
    "Line",
    "LiveLine",
    "ProgressLine",
    "ResultLine",
    "StartedLine",
    "decode_line",
    "encode_line",
]


class StartedLine(msgspec.Struct, frozen=True, tag_field="type", tag="started"):
    """Which process does it."""

    pid: int


class ProgressLine(msgspec.Struct, frozen=True, tag_field="type", tag="progress"):
    """How far it is: `fraction` of a phase, from 0 to 1."""

    phase: str
    fraction: float


class ResultLine(msgspec.Struct, frozen=True, tag_field="type", tag="result"):
    """What came of it, in JSON."""

    result: msgspec.Raw

    @classmethod
    def of(cls, result: object) -> ResultLine:
        """Of anything that msgspec encodes."""
        return cls(msgspec.Raw(msgspec.json.encode(result)))


class LiveLine(msgspec.Struct, frozen=True, tag_field="type", tag="live"):
    """What there is already, in JSON, while the rest goes on."""

    result: msgspec.Raw

    @classmethod
    def of(cls, result: object) -> LiveLine:
        """Of anything that msgspec encodes."""
        return cls(msgspec.Raw(msgspec.json.encode(result)))


class ErrorLine(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """Why it was not done."""

    error: str
    """The class, in `jupyter_cr.errors`."""
    message: str
    hint: str = ""
    exit_code: int = CheckpointRestoreError.exit_code
    http_status: int = CheckpointRestoreError.http_status

    @classmethod
    def of(cls, error: CheckpointRestoreError) -> ErrorLine:
        """Of an error of ours."""
        return cls(
            type(error).__name__,
            error.message,
            error.hint,
            error.exit_code,
            error.http_status,
        )

    def as_error(self) -> CheckpointRestoreError:
        """The same error, to be raised here."""
        kind = getattr(errors, self.error, None)
        if not (isinstance(kind, type) and issubclass(kind, CheckpointRestoreError)):
            kind = CheckpointRestoreError
        return kind(self.message, self.hint)


Line = StartedLine | ProgressLine | LiveLine | ResultLine | ErrorLine

_DECODER = msgspec.json.Decoder(Line)


def decode_line(line: bytes) -> Line:
    """What a line says.

    Raises:
        msgspec.MsgspecError: it is none of these.
    """
    decoded: Line = _DECODER.decode(line)
    return decoded


def encode_line(line: Line) -> bytes:
    """With the newline."""
    return msgspec.json.encode(line) + b"\n"
