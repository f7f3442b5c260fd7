"""A system call to be made by somebody else: what remote batches are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Argument", "Call", "Out", "Words"]


@dataclass(frozen=True, slots=True)
class Out:
    """An argument that points at `size` zeroed bytes for Linux to fill in."""

    size: int


@dataclass(frozen=True, slots=True)
class Words:
    """An argument that points at a struct of 64-bit words, some of which point on."""

    words: tuple[Argument, ...]


Argument: TypeAlias = "int | bytes | Out | Words"


@dataclass(frozen=True, slots=True)
class Call:
    """One system call for a remote batch.

    ``name`` is Linux's own name of it (``"epoll_ctl"``). An argument is an int,
    ``bytes`` (copied beside the batch, the call gets its address), `Out` (the same,
    zeroed, and read back after the call), or `Words` (the same, for structs).

    ``optional``: a failure is no error (the caller looks at the result).
    """

    name: str
    args: tuple[Argument, ...] = ()
    optional: bool = False
