"""What Linux tells a tracer of a thread without asking the thread itself."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from contextlib import suppress

from jupyter_cr.tracer.arch.x86_64 import SYSCALLS
from jupyter_cr.tracer.libc import ioprio_set_idle

__all__ = ["get_robust_list", "ioprio_get", "sched_getattr", "yield_processor"]

_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(name: str, *args: object) -> int:
    result = int(_libc.syscall(SYSCALLS[name], *args))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return result


def get_robust_list(tid: int) -> tuple[int, int]:
    """Head and length of the list of robust futexes (get_robust_list(2))."""
    head, length = ctypes.c_uint64(), ctypes.c_uint64()
    _syscall("get_robust_list", tid, ctypes.byref(head), ctypes.byref(length))
    return head.value, length.value


def sched_getattr(tid: int) -> bytes:
    """struct sched_attr, its first version of 48 bytes (sched_getattr(2))."""
    buffer = ctypes.create_string_buffer(struct.pack("<I", 48), 48)
    _syscall("sched_getattr", tid, buffer, 48, 0)
    return buffer.raw


def ioprio_get(tid: int) -> int:
    """I/O class and priority (ioprio_get(2))."""
    who_process = 1
    return _syscall("ioprio_get", who_process, tid)


_NICE = 10
"""A tenth of a processor's time where somebody else wants all of it (sched(7)): it must
get done, too."""


def yield_processor() -> None:
    """Have this thread, for the rest of its life, give way to all others: for work that
    nobody waits for. Only some I/O schedulers know of it (ioprio_set(2))."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
    with suppress(OSError):
        ioprio_set_idle()
