"""A program under a system call filter, as in a container::

    python -m tests.engine.filtered mount,setns COMMAND [ARGUMENT ...]

Those calls are answered with EPERM (clone3 with ENOSYS, as Docker's profile does)."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import os
import struct
import sys

from jupyter_cr.tracer.arch.x86_64 import SYSCALLS
from tests.conftest import User

__all__ = ["DOCKER", "filtered"]

DOCKER = ("kcmp", "pidfd_getfd", "clone3", "unshare", "setns", "mount", "userfaultfd")
"""What Docker's default profile refuses of what we use."""

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def filtered(user: User, *calls: str) -> User:
    """A user all of whose programs are refused some system calls, by one filter each."""
    wrap = (sys.executable, "-m", "tests.engine.filtered", ",".join(calls))
    return dataclasses.replace(user, prefix=(*wrap, *user.prefix))


def _install(calls: list[str]) -> None:
    """seccomp(2): load the number; for each one given, compare and return; allow."""

    def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    program = instruction(_LOAD, 0)
    for call in calls:
        answer = _ERRNO | (errno.ENOSYS if call == "clone3" else errno.EPERM)
        program += instruction(_EQUAL, SYSCALLS[call], 0, 1)
        program += instruction(_RETURN, answer)
    program += instruction(_RETURN, _ALLOW)
    code = ctypes.create_string_buffer(program)
    described = struct.pack("=Hxxxxxx", len(program) // 8)
    described += struct.pack("=Q", ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    _install(sys.argv[1].split(","))
    os.execvp(sys.argv[2], sys.argv[2:])
