"""Everything that can go wrong, said so that a person knows what to do next.

::

    CheckpointRestoreError
    ├── UsageError              2   the request itself makes no sense
    │   └── NoSuchTask
    ├── TargetError             3   the process or tree named cannot be worked on
    │   ├── NoSuchProcess
    │   ├── PermissionDenied    4
    │   ├── AlreadyTraced       5
    │   └── ForkFailed         20   it has ended, or what it raised cannot be brought here
    ├── Unsupported             6   refused at checkpoint: it could not be restored
    ├── ImageError              7
    │   ├── CorruptImage        7
    │   ├── FutureImage         8   written by a later release
    │   ├── NoSuchSnapshot      9
    │   ├── Untrusted          18   from elsewhere, and nobody has said that it may run
    │   ├── LockedImage        19   encrypted, and its key is not at hand
    │   └── NameTaken          10
    ├── StorageError           11   disk full, store not writable
    │   └── StoreBusy          17   somebody else is at it: wait
    ├── RestoreError           12   the snapshot is sound, this machine cannot take it now
    │   ├── FileChanged        13   an executable or library differs from the recorded one
    │   ├── PidTaken           14
    │   └── AddressTaken       15   a port or socket path is used by somebody else
    ├── Cancelled              16   called off by whoever had asked for it
    └── EngineError            70   a bug, or Linux behaving as never seen

Each class owns its exit code (``exit_code``) and its HTTP status
(``http_status``); each error carries ``message`` (names the object) and
``hint`` (the next step).
"""

from __future__ import annotations

__all__ = [
    "AddressTaken",
    "AlreadyTraced",
    "Cancelled",
    "CheckpointRestoreError",
    "CorruptImage",
    "EngineError",
    "FileChanged",
    "ForkFailed",
    "FutureImage",
    "ImageError",
    "LockedImage",
    "NameTaken",
    "NoSuchProcess",
    "NoSuchSnapshot",
    "NoSuchTask",
    "PermissionDenied",
    "PidTaken",
    "RestoreError",
    "StorageError",
    "StoreBusy",
    "TargetError",
    "Unsupported",
    "Untrusted",
    "UsageError",
    "printable",
]


def printable(text: str) -> str:
    """The text with ``\\xNN`` for each byte that was no UTF-8 where it came from (a
    lone surrogate, PEP 383): file names and command lines on Linux may hold any."""
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()


class CheckpointRestoreError(Exception):
    """Base of all errors that a user may see.

    Args:
        message: What happened, naming the object (pid, descriptor, path, kind).
        hint: What the person can do next, a sentence.
    """

    exit_code = 1
    http_status = 500
    not_kept = False
    """Whether it is only that what runs now could not be kept before a restore."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = printable(message)
        self.hint = printable(hint)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(CheckpointRestoreError):
    exit_code = 2
    http_status = 400


class NoSuchTask(UsageError):
    """The server knows no such operation, or has forgotten it."""

    http_status = 404


class TargetError(CheckpointRestoreError):
    exit_code = 3
    http_status = 409


class NoSuchProcess(TargetError):
    http_status = 404


class PermissionDenied(TargetError):
    exit_code = 4
    http_status = 403


class AlreadyTraced(TargetError):
    exit_code = 5


class ForkFailed(TargetError):
    """A fork that was to run something has ended before it was done; or it has raised
    what cannot be brought here, and is named in the message."""

    exit_code = 20


class Unsupported(CheckpointRestoreError):
    """The tree holds something that could not be restored, so nothing was written."""

    exit_code = 6
    http_status = 409


class ImageError(CheckpointRestoreError):
    exit_code = 7


class CorruptImage(ImageError):
    exit_code = 7


class FutureImage(ImageError):
    exit_code = 8


class NoSuchSnapshot(ImageError):
    exit_code = 9
    http_status = 404


class Untrusted(ImageError):
    """To restore an image is to run its code, and this one is from elsewhere."""

    exit_code = 18
    http_status = 403


class LockedImage(ImageError):
    """It is encrypted, and its key is not at hand."""

    exit_code = 19
    http_status = 403


class NameTaken(ImageError):
    exit_code = 10
    http_status = 409


class StorageError(CheckpointRestoreError):
    exit_code = 11
    http_status = 507


class StoreBusy(StorageError):
    """Nothing is wrong: somebody else is writing, or reading, what is asked for."""

    exit_code = 17
    http_status = 409


class RestoreError(CheckpointRestoreError):
    exit_code = 12
    http_status = 409


class FileChanged(RestoreError):
    exit_code = 13


class PidTaken(RestoreError):
    exit_code = 14


class AddressTaken(RestoreError):
    exit_code = 15


class Cancelled(CheckpointRestoreError):
    """Called off before it had changed anything."""

    exit_code = 16
    http_status = 409


class EngineError(CheckpointRestoreError):
    exit_code = 70
