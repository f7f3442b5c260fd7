"""Typed readers of /proc (proc(5)): one module a file or family of files.

All of them take a pid as the present /proc mount numbers it (or ``"self"``), and
all fail alike, by way of `proc_errors`: a process or thread that is gone is
`NoSuchProcess`, one that may not be looked at is `PermissionDenied`, and a file
that this Linux was built without is `Unsupported`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from jupyter_cr.errors import (
    CheckpointRestoreError,
    NoSuchProcess,
    PermissionDenied,
    Unsupported,
)

__all__ = ["ProcessId", "proc_errors", "proc_path", "read_proc"]

ProcessId = int | Literal["self"]

_READ_SIZE = 1 << 17


def proc_path(pid: ProcessId, name: str = "", tid: int | None = None) -> str:
    """Path of a process's (with ``tid``: of its thread's) file ``name`` in /proc."""
    if tid is None:
        return f"/proc/{pid}/{name}"
    return f"/proc/{pid}/task/{tid}/{name}"


@contextmanager
def proc_errors(pid: ProcessId, name: str, tid: int | None = None) -> Iterator[None]:
    """Turns what Linux says of a file in /proc into errors that name the process.

    Raises:
        NoSuchProcess: ESRCH or ENOENT, and the process or thread is gone or dead.
        Unsupported: ENOENT, and the process is there: Linux lacks that file.
        PermissionDenied: EACCES or EPERM.
    """
    try:
        yield
    except OSError as error:
        failure = _explain(error, pid, name, tid)
        if failure is None:
            raise
        raise failure from error


def read_proc(pid: ProcessId, name: str, tid: int | None = None) -> bytes:
    """Whole content of a process's (or thread's) file ``name`` in /proc.

    Raises:
        NoSuchProcess, PermissionDenied, Unsupported: see `proc_errors`.
    """
    with proc_errors(pid, name, tid):
        fd = os.open(proc_path(pid, name, tid), os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(fd, _READ_SIZE):
                chunks.append(chunk)
        finally:
            os.close(fd)
    return b"".join(chunks)


def _explain(
    error: OSError, pid: ProcessId, name: str, tid: int | None
) -> CheckpointRestoreError | None:
    who = f"process {pid}" if tid is None else f"thread {tid} of process {pid}"
    if error.errno == errno.ESRCH:
        return NoSuchProcess(f"no {who}", "It may have just ended.")
    if error.errno == errno.ENOENT:
        return _explain_absence(who, pid, name, tid)
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(
            f"{who}: not permitted to read /proc/{pid}/{name}",
            "Work on processes of your own user; one that is setuid or not dumpable, "
            "or another user's, needs root or CAP_SYS_PTRACE.",
        )
    return None


def _explain_absence(
    who: str, pid: ProcessId, name: str, tid: int | None
) -> CheckpointRestoreError:
    try:
        with open(proc_path(pid, "stat", tid), "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return NoSuchProcess(
            f"no {who}", "It may have just ended, or the number is mistyped."
        )
    if state in (b"Z", b"X"):
        return NoSuchProcess(f"{who} has ended", "Its parent has not reaped it yet.")
    return Unsupported(
        f"{who}: this Linux has no /proc/PID/{name}",
        "It was built without it; `jupyter cr check` tells what is missing.",
    )
