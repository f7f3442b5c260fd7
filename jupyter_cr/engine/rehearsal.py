"""A rehearsal: what is done for the first time takes longer, and while a tree stands
still nothing should be done for the first time.

Measured on an idle ipykernel: the first freeze of a process took 18 ms, the next 14.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

from jupyter_cr.errors import CheckpointRestoreError

__all__ = ["rehearse", "rehearse_once"]

_LONGEST = "10"


def rehearse(play: Callable[[int], None]) -> None:
    """Call `play` with the pid of a child of ours that sleeps and has open what kernels
    have open. That it fails means nothing: when it counts, it will say so."""
    with contextlib.suppress(CheckpointRestoreError, OSError), ExitStack() as stack:
        actions = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in _open_files(stack)]
        pid = os.posix_spawnp("sleep", ["sleep", _LONGEST], {}, file_actions=actions)
        stack.callback(os.waitpid, pid, 0)
        stack.callback(os.kill, pid, signal.SIGKILL)
        play(pid)


@cache
def rehearse_once(play: Callable[[int], None]) -> None:
    """`rehearse`, if that has not been played in this process yet."""
    rehearse(play)


def _open_files(stack: ExitStack) -> Iterator[int]:
    """Some of each of the usual kinds, closed with the stack."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    near = stack.enter_context(socket.create_connection(listener.getsockname()))
    far = stack.enter_context(listener.accept()[0])
    pair = [stack.enter_context(end) for end in socket.socketpair()]
    epoll = stack.enter_context(select.epoll())
    plain = [*os.pipe(), os.eventfd(0), os.open(os.devnull, os.O_RDWR)]
    for fd in plain:
        stack.callback(os.close, fd)
    epoll.register(plain[0])
    yield epoll.fileno()
    yield from (end.fileno() for end in (listener, near, far, *pair))
    yield from plain
