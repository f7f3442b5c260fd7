"""What an engine process becomes when its work is done: something tiny that waits.

A rebuilt tree's supervisor is our child, and whoever has started us wants to wait for
it. A Python interpreter would be a costly way to do that, for each tree.
"""

from __future__ import annotations

import os
import resource
import signal
from typing import NoReturn

from jupyter_cr.tracer.arch.x86_64 import waiter_program

__all__ = ["WAITER_NAME", "become_waiter", "end_as"]

WAITER_NAME = "jupyter-cr-waiter"
"""argv[0]. Not that of the keepers: it is none of them, and may end without harm."""


def become_waiter(child: int) -> NoReturn:
    """Turn this process into one that ends as `child` ends: with the same exit code, or
    by the same signal.

    Args:
        child: pid of our child. It may have ended already, if nobody has waited for it.
    """
    program = os.memfd_create(WAITER_NAME, os.MFD_CLOEXEC)
    os.write(program, waiter_program(child))
    _forget_handlers()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.execve(program, [WAITER_NAME, str(child)], {})


def end_as(status: int) -> NoReturn:
    """End as a child has ended that had to be waited for.

    Args:
        status: how that was, as wait(2) gives it.
    """
    if os.WIFSIGNALED(status):
        _forget_handlers()
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _forget_handlers() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
