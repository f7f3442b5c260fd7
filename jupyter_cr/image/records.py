"""Which record classes an image may hold, and under which numbers.

A record class is a `msgspec.Struct`. To make one known, give it the next free number
in `RECORDS`: one line. A number that has been in a release is never given to another
class, and a class that is no longer written stays, so that older images can be read.
"""

from __future__ import annotations

from types import MappingProxyType

import msgspec

__all__ = ["NUMBERS", "RECORDS", "Header", "KernelFacts", "Outcome", "PageBlocks"]


class KernelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What Jupyter knew of the target, where it is a kernel."""

    connection_file: str = ""
    """Absolute path; empty if the target has none."""
    connection: bytes = b""
    """The file's content, as it was."""
    kernel_id: str = ""
    kernel_name: str = ""
    """Of the kernel spec, e.g. ``python3``."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is, where and when it was taken. The first record."""

    name: str
    note: str = ""
    created: str
    """UTC, ISO 8601 with microseconds."""
    pid: int
    """Of the target, as seen by whoever took the snapshot."""
    comm: str = ""
    """Its name (proc_pid_comm(5))."""
    kernel: KernelFacts = KernelFacts()
    release: str
    """Of Linux, as in uname(2)."""
    machine: str
    """As in uname(2), e.g. ``x86_64``."""
    tool: str
    """Version of jupyter-cr that wrote it."""


class ProcessOutcome(msgspec.Struct, frozen=True, array_like=True):
    """What was taken of one process."""

    pid: int
    comm: str
    threads: int
    descriptors: int
    bytes: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the checkpoint went."""

    downtime_ms: float
    elapsed_ms: float
    bytes: int
    processes: tuple[ProcessOutcome, ...] = ()


class PageBlocks(msgspec.Struct, frozen=True, kw_only=True):
    """The checksums of the pages. The last record before the trailer."""

    length: int
    """Of the file ``pages``, in bytes."""
    block: int
    """Bytes covered by one checksum; the last block may be shorter."""
    checksums: bytes
    """XXH3-64 of each block in turn, as little-endian u64."""


RECORDS: MappingProxyType[int, type[msgspec.Struct]] = MappingProxyType(
    {
        1: Header,
        2: PageBlocks,
        3: Outcome,
    }
)

NUMBERS: MappingProxyType[type[msgspec.Struct], int] = MappingProxyType(
    {cls: number for number, cls in RECORDS.items()}
)
