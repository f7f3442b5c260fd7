"""Huge pages for another process: MADV_COLLAPSE (madvise(2), Linux 6.1)."""

from __future__ import annotations

import ctypes
import os
import struct

from jupyter_cr.tracer.arch.x86_64 import SYSCALLS

__all__ = ["HUGE", "collapse"]

HUGE = 2 << 20
"""Bytes of a huge page."""

_MADV_COLLAPSE = 25
_libc = ctypes.CDLL(None, use_errno=True)


def collapse(pid: int, start: int, length: int) -> None:
    """Make huge pages of the small ones in [start, start + length), wherever all of
    those are there (process_madvise(2)).

    Raises:
        OSError: EPERM without CAP_SYS_NICE, ESRCH if the process has ended, EINVAL on a
            Linux that does not know it, or nothing there can be collapsed.
    """
    first = -(-start // HUGE) * HUGE
    last = (start + length) // HUGE * HUGE
    pidfd = os.pidfd_open(pid)
    try:
        for address in range(first, last, _AT_ONCE):
            size = min(_AT_ONCE, last - address)
            vector = struct.pack("<QQ", address, size)
            result = _libc.syscall(
                SYSCALLS["process_madvise"], pidfd, vector, 1, _MADV_COLLAPSE, 0
            )
            if result < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), f"process_madvise of {pid}")
    finally:
        os.close(pidfd)


_AT_ONCE = 8 * HUGE
"""So that the process, whose page faults have to wait, never waits long."""
