"""Jupyter kernels: which process a word means, and its connection file."""

from __future__ import annotations

from jupyter_cr.kernels.connection import (
    fork_connection,
    new_connection_file,
    read_connection,
    write_connection,
)
from jupyter_cr.kernels.target import Target, resolve_target

__all__ = [
    "Target",
    "fork_connection",
    "new_connection_file",
    "read_connection",
    "resolve_target",
    "write_connection",
]
