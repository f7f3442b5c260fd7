"""The calling card of a kernel that understands our messages."""

from __future__ import annotations

import fcntl
import os

import msgspec

from jupyter_cr.kernels.glue_protocol import CARD_NAME, Card

__all__ = ["show_card", "withdraw_card"]

_fd: int | None = None


def show_card() -> None:
    """Open it, sealed; once (memfd_create(2))."""
    global _fd
    if _fd is None:
        fd = os.memfd_create(CARD_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(fd, msgspec.json.encode(Card(aborts=True)))
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)
        _fd = fd


def withdraw_card() -> None:
    """Close it."""
    global _fd
    if _fd is not None:
        os.close(_fd)
        _fd = None
