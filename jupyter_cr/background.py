"""Lazy restores: the command returns, and a process of its own brings the pages."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from jupyter_cr.errors import EngineError

if TYPE_CHECKING:
    from jupyter_cr.engine.lazy import Pager

__all__ = ["leave_pager"]

R = TypeVar("R")


def leave_pager(work: Callable[[], tuple[R, Pager | None]]) -> R:
    """Do `work` in a new process, which stays to run the pager.

    It has to be that process from the beginning: the rebuilt tree's supervisor is a
    child of whoever built it, and ends with that.

    Returns:
        What `work` gave, as soon as it has given it. What it raised is raised here.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _become_pager(work, writing)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    if not answer:
        raise EngineError("The process that restores the snapshot died.")
    result, error = pickle.loads(answer)
    if error is not None:
        raise error
    returned: R = result
    return returned


def _become_pager(work: Callable[[], tuple[R, Pager | None]], writing: int) -> None:
    """Never returns. Its parent is gone at once, so that nobody has to wait for it."""
    status = 1
    try:
        if os.fork():
            os._exit(0)
        os.setsid()
        pager = _answer(work, writing)
        _leave_terminal()
        if pager is not None:
            pager.run()
        status = 0
    finally:
        os._exit(status)


def _answer(work: Callable[[], tuple[R, Pager | None]], writing: int) -> Pager | None:
    result: R | None = None
    pager: Pager | None = None
    failed: Exception | None = None
    try:
        result, pager = work()
    except Exception as error:  # noqa: BLE001  (raised again by whoever waits for us)
        failed = error
    with os.fdopen(writing, "wb") as pipe:
        pickle.dump((result, failed), pipe)
    return pager


def _leave_terminal() -> None:
    """Whoever reads what the command prints must not wait for us."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
