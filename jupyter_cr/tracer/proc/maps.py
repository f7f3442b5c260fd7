"""A process's memory mappings: /proc/PID/maps and smaps.

Read while the target is frozen, so speed counts: `Mapping` is a msgspec Struct because
400 of them cost 0.1 ms, where frozen dataclasses cost 0.6 ms; and the parsing can be
put off until the target runs again (`read_proc` now, `parse_maps` later).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from jupyter_cr.errors import EngineError
from jupyter_cr.tracer.proc import ProcessId, read_proc

__all__ = [
    "Mapping",
    "SmapsEntry",
    "find_gap",
    "parse_maps",
    "read_maps",
    "read_smaps",
    "vm_flags",
]

_GUARD = 1 << 20
"""How far `find_gap` stays from any range: a stack below may still grow."""


# One regular expression for the whole text takes half the time of splitting each line.
# A path may begin and end with anything but a newline, carriage returns included.
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) (\S+) (\d+) *(.*)")


class Mapping(msgspec.Struct, frozen=True, gc=False):
    """One line of /proc/PID/maps (proc_pid_maps(5)); addresses and sizes in bytes."""

    start: int
    end: int
    perms: str
    """As Linux writes it: ``rw-p``, ``r--s``."""
    offset: int
    device: tuple[int, int]
    """(major, minor)."""
    inode: int
    path: str
    """Newlines decoded, the rest as Linux writes it: an absolute path (perhaps with
    `` (deleted)``), a name like ``[heap]``, or empty for anonymous memory. Linux
    escapes newlines only, so a name that holds a literal ``\\012`` is read wrong."""

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def readable(self) -> bool:
        return self.perms[0] == "r"

    @property
    def writable(self) -> bool:
        return self.perms[1] == "w"

    @property
    def executable(self) -> bool:
        return self.perms[2] == "x"

    @property
    def shared(self) -> bool:
        return self.perms[3] == "s"

    @property
    def deleted(self) -> bool:
        """Whether the file had no name any more (memfds and shared anonymous memory
        look like that from birth)."""
        return self.path.endswith(" (deleted)")

    @property
    def is_file(self) -> bool:
        """Whether an inode stands behind it, be it in tmpfs or without a name. Its number
        may be 0: it is the identifier with System V shared memory (shmget(2)), and the
        first one's is 0."""
        return self.path.startswith("/")

    @property
    def is_stack(self) -> bool:
        """The main thread's stack."""
        return self.path == "[stack]"

    @property
    def is_heap(self) -> bool:
        """The program break's area."""
        return self.path == "[heap]"

    @property
    def is_vdso(self) -> bool:
        return self.path == "[vdso]"

    @property
    def is_vvar(self) -> bool:
        """The vdso's data, ``[vvar_vclock]`` (Linux 6.13) included."""
        return self.path.startswith("[vvar")

    @property
    def is_vsyscall(self) -> bool:
        return self.path == "[vsyscall]"


@dataclass(frozen=True, slots=True)
class SmapsEntry:
    """One mapping with what /proc/PID/smaps adds; all sizes in bytes."""

    mapping: Mapping
    flags: frozenset[str]
    """VmFlags, two letters each (proc_pid_smaps(5)): ``hg`` MADV_HUGEPAGE, ``lo``
    locked, ``dc`` MADV_DONTFORK, ``gd`` grows down, ..."""
    rss: int
    pss: int
    anonymous: int
    swap: int
    anon_huge: int
    locked: int


def read_maps(pid: ProcessId) -> list[Mapping]:
    """The mappings of a process, by address; empty for a zombie or a Linux thread.

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
    """
    return parse_maps(read_proc(pid, "maps"))


def parse_maps(text: bytes) -> list[Mapping]:
    """The mappings in the text of a /proc/PID/maps."""
    return [
        Mapping(
            int(start, 16),
            int(end, 16),
            perms,
            int(offset, 16),
            _parse_device(device),
            int(inode),
            path.replace("\\012", "\n") if "\\" in path else path,
        )
        for start, end, perms, offset, device, inode, path in _LINE.findall(
            os.fsdecode(text)
        )
    ]


def read_smaps(pid: ProcessId) -> list[SmapsEntry]:
    """The mappings of a process with sizes and flags; Linux walks all its pages.

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
        Unsupported: Linux built without CONFIG_PROC_PAGE_MONITOR.
    """
    return [_parse_entry(lines) for lines in _iter_entries(read_proc(pid, "smaps"))]


def vm_flags(pid: ProcessId) -> dict[int, frozenset[str]]:
    """The VmFlags of each mapping, by start address.

    Raises:
        NoSuchProcess, PermissionDenied, Unsupported: as `read_smaps`.
    """
    # VmFlags is the last line of each entry: what follows it is the next header.
    # A path cannot hold the separator, because its newlines are escaped.
    chunks = read_proc(pid, "smaps").split(b"\nVmFlags:")
    known: dict[bytes, frozenset[str]] = {}
    table: dict[int, frozenset[str]] = {}
    header = chunks[0]
    for chunk in chunks[1:]:
        line, _, following = chunk.partition(b"\n")
        flags = known.get(line)
        if flags is None:
            flags = known[line] = frozenset(line.decode("ascii").split())
        table[int(header[: header.index(b"-")], 16)] = flags
        header = following
    return table


def find_gap(
    occupied: Iterable[tuple[int, int]],
    size: int,
    low: int = 0x10000000,
    high: int = 0x7F0000000000,
    align: int = 4096,
) -> int:
    """The lowest address of ``size`` bytes that no range comes near.

    Args:
        occupied: (start, end) of ranges to stay 1 MiB away from; any order.
        size: Bytes.
        low: The first address that may be used.
        high: The first address that may not be used.
        align: A power of two that the result is a multiple of.

    Raises:
        EngineError: there is no such gap.
    """
    candidate = -(-low // align) * align
    for start, end in sorted(occupied):
        if candidate + size + _GUARD <= start:
            break
        if end + _GUARD > candidate:
            candidate = -(-(end + _GUARD) // align) * align
    if candidate + size > high:
        raise EngineError(
            f"no free address range of {size} bytes between {low:#x} and {high:#x}"
        )
    return candidate


@lru_cache(maxsize=256)
def _parse_device(text: str) -> tuple[int, int]:
    major, minor = text.split(":")
    return int(major, 16), int(minor, 16)


def _iter_entries(text: bytes) -> Iterator[list[str]]:
    """The lines of each entry of a smaps: the header first, VmFlags last."""
    lines: list[str] = []
    for line in os.fsdecode(text).split("\n"):
        lines.append(line)
        if line.startswith("VmFlags:"):
            yield lines
            lines = []


def _parse_entry(lines: list[str]) -> SmapsEntry:
    values = dict(line.split(":", 1) for line in lines[1:])

    def size(name: str) -> int:
        return int(values.get(name, "0").split()[0]) * 1024

    return SmapsEntry(
        mapping=parse_maps(os.fsencode(lines[0]))[0],
        flags=frozenset(values["VmFlags"].split()),
        rss=size("Rss"),
        pss=size("Pss"),
        anonymous=size("Anonymous"),
        swap=size("Swap"),
        anon_huge=size("AnonHugePages"),
        locked=size("Locked"),
    )
