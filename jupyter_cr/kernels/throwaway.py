"""Forks that are made to be thrown away: nobody's kernels, without files of their own."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from jupyter_cr.errors import CheckpointRestoreError, EngineError
from jupyter_cr.kernels.lines import ErrorLine
from jupyter_cr.store import Store
from jupyter_cr.tracer.proc.stat import read_stat

__all__ = ["ThrowAway", "apart"]

_END_LIMIT_S = 10.0
_LOOK_S = 0.02


class _Made(msgspec.Struct):
    """A tree that one of our children has made, and stays with."""

    pid: int
    """Of its root."""
    supervisor: int
    ports: dict[int, int]
    """Recorded -> now."""
    warnings: tuple[str, ...]


class ThrowAway:
    """A fork of a snapshot, without a connection file.

    Args:
        snapshot: its name.
        told: what the copy finds as the name of its snapshot.

    Attributes:
        pid: of its root, as we see it.
        ports: recorded -> its own.
        warnings: sentences.

    Raises:
        CheckpointRestoreError: it cannot be made.
    """

    def __init__(self, snapshot: str, told: str) -> None:
        # In a child of ours: the engine takes all children of its process for its own.
        answer, waiter = _begin_apart(lambda: _make_fork(snapshot, told))
        try:
            made = msgspec.json.decode(answer, type=_Made)
        except msgspec.MsgspecError:
            os.waitpid(waiter, 0)
            raise _error_in(answer) from None
        self.pid = made.pid
        self.ports = made.ports
        self.warnings = made.warnings
        self._waiter = waiter
        self._root = os.pidfd_open(made.pid)
        self._init = _open_init(made)
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
        for pidfd in (self._init, self._root):
            if pidfd is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([self._root], [], [], _END_LIMIT_S)

    def close(self) -> None:
        """Forget it."""
        for pidfd in (self._init, self._root):
            if pidfd is not None:
                os.close(pidfd)


def _open_init(made: _Made) -> int | None:
    """Of pid 1 of its namespace, with which all ends: children of the root would outlive
    that. None if it has ended already."""
    pid = made.pid
    with suppress(CheckpointRestoreError, ProcessLookupError):
        while (parent := read_stat(pid).ppid) > 1:
            if parent == made.supervisor:
                return os.pidfd_open(pid)
            pid = parent
    return None


def apart(work: Callable[[], tuple[object, int]]) -> None:
    """Do something in a child of ours, and wait for it.

    Raises:
        CheckpointRestoreError: as it does.
    """
    answer, child = _begin_apart(work)
    if os.waitpid(child, 0)[1]:
        raise _error_in(answer)


def _make_fork(name: str, told: str) -> tuple[object, int]:
    # Imported where needed: the engine.
    from jupyter_cr.engine.restore import restore_tree

    with Store() as store, store.open(name) as reader:
        outcome = restore_tree(reader, mode="fork", name=told, ports={}, asked_within=True)
    made = _Made(outcome.pid, outcome.supervisor_pid, outcome.ports, outcome.warnings)
    return made, outcome.supervisor_pid


def _begin_apart(work: Callable[[], tuple[object, int]]) -> tuple[bytes, int]:
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
                from jupyter_cr.engine.waiter import become_waiter

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
