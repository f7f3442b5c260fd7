"""What processes share, as kcmp(2) tells it."""

from __future__ import annotations

import errno

from jupyter_cr.errors import PermissionDenied
from jupyter_cr.tracer import libc

__all__ = ["is_shared"]


def is_shared(pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> bool:
    """Whether two processes share something.

    Args:
        kind: one of the ``KCMP_*`` constants of `jupyter_cr.tracer.libc`.
        index1, index2: descriptors, for `libc.KCMP_FILE`.

    Raises:
        PermissionDenied: that cannot be found out here.
        OSError: EBADF, ESRCH.
    """
    try:
        return libc.kcmp(pid1, pid2, kind, index1, index2) == 0
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
        raise PermissionDenied(
            f"what processes {pid1} and {pid2} share cannot be found out: kcmp: "
            f"{error.strerror}",
            "A security policy forbids kcmp here, as the seccomp profiles of containers "
            "do: run `jupyter cr check`, which says what to allow.",
        ) from error
