"""Yama's restriction of ptrace (Linux, Documentation/admin-guide/LSM/Yama.rst).

With kernel.yama.ptrace_scope = 1 a process may be traced by its ancestors, and by whoever
it has named itself: PR_SET_PTRACER, prctl(2); that one and its descendants
(`ptracer_exception_found` in security/yama/yama_lsm.c). An engine is neither: it is
a child of the server, as the kernel is. And a kernel cannot name the server for good,
since a rebuilt one lives in a pid namespace in which the server has no pid. So a kernel
that is to be snapshotted there has to name everybody, which Linux takes for all processes
of the same user: what ptrace_scope = 0 gives to all programs, for that one alone. It is
not inherited, neither by children nor by restored or forked copies.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["VARIABLE", "is_asked_for", "let_everybody_trace", "ptrace_scope"]

VARIABLE = "JUPYTER_CR_PTRACER"
"""An environment variable of the server: ``any`` has its kernels let themselves be traced
by all processes of their user."""

_PR_SET_PTRACER = 0x59616D61
_ANY = ctypes.c_ulong(-1)
# Ahead: it is called in children of os.fork(), where the loader's lock may be held.
_prctl = ctypes.CDLL(None).prctl


def is_asked_for() -> bool:
    """Whether `VARIABLE` says so."""
    return os.environ.get(VARIABLE) == "any"


def let_everybody_trace() -> bool:
    """PR_SET_PTRACER_ANY for this process. Whether there is a Yama that has heard it."""
    return bool(_prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0) == 0)


def ptrace_scope() -> str:
    """0 to 3; empty where there is no Yama."""
    try:
        return Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip()
    except OSError:
        return ""
