"""Giving our descriptors to a process that runs batches for us (unix(7), SCM_RIGHTS).

The process connects to a socket of ours with an unguessable abstract name; nothing
has to be inherited, and no path has to be visible in its mount namespace.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Sequence
from types import TracebackType

from jupyter_cr.errors import EngineError
from jupyter_cr.tracer.calls import Call, Out, Words
from jupyter_cr.tracer.remote import RemoteThread

__all__ = ["Handover"]

_MOST_AT_ONCE = 250
_MSG_CMSG_CLOEXEC = 0x40000000
_CMSG_HEADER = 16
_LIMIT = 10.0


class Handover:
    """Where processes come for descriptors. A context manager."""

    def __init__(self) -> None:
        self._name = b"\0jupyter-cr-" + secrets.token_hex(16).encode()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self._name)
        self._listener.listen(8)
        self._listener.settimeout(_LIMIT)

    def __enter__(self) -> Handover:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()

    def give(self, thread: RemoteThread, fds: Sequence[int]) -> list[int]:
        """The numbers that duplicates of `fds` have got in the thread's process, all
        with FD_CLOEXEC set.

        Raises:
            CallFailed: the process cannot take them (RLIMIT_NOFILE, most likely).
        """
        theirs = thread.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        address = struct.pack("<H", socket.AF_UNIX) + self._name
        thread.call("connect", theirs, address, len(address))
        ours, _ = self._listener.accept()
        with ours:
            given: list[int] = []
            for start in range(0, len(fds), _MOST_AT_ONCE):
                part = fds[start : start + _MOST_AT_ONCE]
                socket.send_fds(ours, [b"."], list(part))
                given += _receive(thread, theirs, len(part))
        thread.call("close", theirs)
        return given


def _receive(thread: RemoteThread, theirs: int, count: int) -> list[int]:
    size = _CMSG_HEADER + 4 * count
    vector = Words((Out(1), 1))
    message = Words((0, 0, vector, 1, Out(size), size, 0))
    (result,) = thread.run([Call("recvmsg", (theirs, message, _MSG_CMSG_CLOEXEC))])
    control = result.outs[1]
    (length,) = struct.unpack_from("<Q", control)
    if length != size:
        raise EngineError(
            f"process {thread.pid} received {(length - _CMSG_HEADER) // 4} of {count} "
            f"descriptors; its limit of open files may be too low (we have {os.getpid()})"
        )
    return list(struct.unpack_from(f"<{count}i", control, _CMSG_HEADER))
