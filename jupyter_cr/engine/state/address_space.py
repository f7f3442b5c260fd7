"""The layout of a process's memory: mappings, program break, and what /proc shows of
arguments and environment. Not its content: see `jupyter_cr.engine.pages`.

Sources: proc_pid_maps(5), proc_pid_smaps(5) (VmFlags), mmap(2), madvise(2),
prctl(2) PR_SET_MM_MAP.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

import msgspec

from jupyter_cr.errors import Unsupported
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.proc.maps import Mapping
from jupyter_cr.tracer.proc.stat import Stat

__all__ = [
    "Content",
    "Layout",
    "Region",
    "advice_calls",
    "classify",
    "map_call",
    "mm_map_call",
    "protect_calls",
]

Content = Literal["anonymous", "file", "shared", "copied", "special"]

_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
_MAP_DROPPABLE = 0x08
_MAP_GROWSDOWN, _MAP_NORESERVE = 0x100, 0x4000
_NO_FD = (1 << 64) - 1

_REFUSED = {
    "io": "memory of a device",
    "pf": "memory of a device",
    "ht": "explicit huge pages (hugetlbfs)",
    "um": "registered with userfaultfd",
    "uw": "registered with userfaultfd",
    "ui": "registered with userfaultfd",
    "ss": "a shadow stack",
}
_ADVICE = {
    "hg": 14,
    "nh": 15,
    "mg": 12,
    "dd": 16,
    "rr": 1,
    "sr": 2,
    "dc": 10,
    "wf": 18,
}
"""VmFlags -> the MADV_* that makes it so."""
_KEPT = frozenset(_ADVICE) | {"gd", "nr", "lo", "lf", "mw", "dp"}
GUARD = 102
"""MADV_GUARD_INSTALL (Linux 6.13)."""


class Region(msgspec.Struct, frozen=True, array_like=True):
    """One mapping, addresses in bytes.

    `content` tells where its bytes come from: ``anonymous`` and ``copied`` (a private
    mapping of a deleted file) from the image alone; ``file`` from the file at `path`,
    with changed private pages in the image; ``shared`` from a shared memory object
    (`device`, `inode`); ``special`` from Linux (vdso and the like).
    """

    start: int
    end: int
    protection: int
    content: Content
    shared: bool
    offset: int
    device: tuple[int, int]
    inode: int
    raw_path: bytes
    flags: tuple[str, ...]

    @property
    def path(self) -> str:
        """As `os` takes it; bytes that are no UTF-8 are lone surrogates (PEP 383)."""
        return os.fsdecode(self.raw_path)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def has_own_pages(self) -> bool:
        """Whether pages of it may have to be stored with the process."""
        return not self.shared and self.content != "special"


class Layout(msgspec.Struct, frozen=True):
    """`bounds`: start_code, end_code, start_data, end_data, start_brk, brk,
    start_stack, arg_start, arg_end, env_start, env_end (struct prctl_mm_map)."""

    regions: tuple[Region, ...]
    bounds: tuple[int, ...]
    auxv: bytes
    raw_executable: bytes

    @property
    def executable(self) -> str:
        """Path of the program, as `os` takes it (see `Region.path`)."""
        return os.fsdecode(self.raw_executable)

    @classmethod
    def of(
        cls, regions: Iterable[Region], stat: Stat, brk: int, auxv: bytes, executable: str
    ) -> Layout:
        """From what /proc and brk(2) tell."""
        bounds = (
            stat.start_code, stat.end_code, stat.start_data, stat.end_data,
            stat.start_brk, brk, stat.start_stack,
            stat.arg_start, stat.arg_end, stat.env_start, stat.env_end,
        )  # fmt: skip
        return cls(tuple(regions), bounds, auxv, os.fsencode(executable))

    @property
    def occupied(self) -> list[tuple[int, int]]:
        """(start, end) of all regions."""
        return [(region.start, region.end) for region in self.regions]


def classify(
    pid: int, maps: Sequence[Mapping], flags: dict[int, frozenset[str]], on_tmpfs: set[str]
) -> list[Region]:
    """The regions of a process; vsyscall, the same for all, is left out.

    Args:
        flags: VmFlags by start address.
        on_tmpfs: Paths of files that live in memory only.

    Raises:
        Unsupported: one cannot be restored; names it.
    """
    return [
        _classify_one(pid, mapping, flags.get(mapping.start, frozenset()), on_tmpfs)
        for mapping in maps
        if not mapping.is_vsyscall
    ]


def _classify_one(
    pid: int, mapping: Mapping, flags: frozenset[str], on_tmpfs: set[str]
) -> Region:
    content = _content(pid, mapping, on_tmpfs)
    if content != "special":
        _refuse(pid, mapping, flags)
    protection = (
        _PROT_READ * mapping.readable
        + _PROT_WRITE * mapping.writable
        + _PROT_EXEC * mapping.executable
    )
    return Region(
        mapping.start,
        mapping.end,
        protection,
        content,
        mapping.shared,
        mapping.offset,
        mapping.device,
        mapping.inode,
        os.fsencode(mapping.path),
        _kept(flags),
    )


@cache
def _kept(flags: frozenset[str]) -> tuple[str, ...]:
    # A process has hundreds of mappings, and a dozen different sets of flags.
    return tuple(sorted(flags & _KEPT))


def _content(pid: int, mapping: Mapping, on_tmpfs: set[str]) -> Content:
    if mapping.is_vdso or mapping.is_vvar:
        return "special"
    if not mapping.inode and not mapping.is_file:
        return "anonymous"
    if not mapping.is_file or mapping.path.startswith("/SYSV"):
        raise Unsupported(
            f"process {pid}: memory at {mapping.start:#x} is {mapping.path}",
            "System V shared memory and kernel objects mapped into memory cannot be "
            "restored: have the program release them, and try again.",
        )
    if mapping.shared:
        return "shared" if mapping.deleted or mapping.path in on_tmpfs else "file"
    if mapping.path == "/dev/zero":
        return "anonymous"
    return "copied" if mapping.deleted else "file"


def _refuse(pid: int, mapping: Mapping, flags: frozenset[str]) -> None:
    if flags.isdisjoint(_REFUSED):
        return
    for flag, what in _REFUSED.items():
        if flag in flags:
            raise Unsupported(
                f"process {pid}: memory at {mapping.start:#x} "
                f"({mapping.path or 'anonymous'}) is {what}",
                "It cannot be restored: have the program release it, and try again.",
            )


def map_call(region: Region, fd: int | None) -> Call:
    """The mmap of a region that is to be filled; `fd` if it is of a file."""
    flags = _MAP_FIXED | (_MAP_SHARED if region.shared else _MAP_PRIVATE)
    if "dp" in region.flags:
        flags = _MAP_FIXED | _MAP_DROPPABLE
    if fd is None:
        flags |= _MAP_ANONYMOUS
    if "gd" in region.flags:
        flags |= _MAP_GROWSDOWN
    if "nr" in region.flags:
        flags |= _MAP_NORESERVE
    return Call(
        "mmap",
        (
            region.start,
            region.size,
            _filling_protection(region),
            flags,
            _NO_FD if fd is None else fd,
            0 if fd is None else region.offset,
        ),
    )


def _filling_protection(region: Region) -> int:
    if region.has_own_pages:
        return _PROT_READ | _PROT_WRITE
    return region.protection


_BEFORE_FILLING = ("hg", "nh")


def advice_calls(region: Region, *, before_filling: bool) -> list[Call]:
    """madvise and mlock. Huge pages are asked for before the pages come, the rest after
    (a region that fork leaves out, for one, is of no concern to filling)."""
    calls = [
        Call("madvise", (region.start, region.size, _ADVICE[flag]), optional=True)
        for flag in region.flags
        if flag in _ADVICE and (flag in _BEFORE_FILLING) == before_filling
    ]
    if not before_filling and "lo" in region.flags:
        on_fault = int("lf" in region.flags)
        calls.append(Call("mlock2", (region.start, region.size, on_fault), optional=True))
    return calls


def protect_calls(region: Region) -> list[Call]:
    """From the protection for filling to the recorded one."""
    if _filling_protection(region) == region.protection:
        return []
    return [Call("mprotect", (region.start, region.size, region.protection))]


_PR_SET_MM, _PR_SET_MM_MAP = 35, 14


def mm_map_call(layout: Layout, auxv_address: int, executable: int | None) -> Call:
    """`auxv_address`: where the rebuilt process finds a copy of the auxiliary vector;
    `executable`: its descriptor of the file for /proc/pid/exe."""
    fields = struct.pack(
        "<11QQII",
        *layout.bounds,
        auxv_address,
        len(layout.auxv),
        0xFFFFFFFF if executable is None else executable,
    )
    return Call("prctl", (_PR_SET_MM, _PR_SET_MM_MAP, fields, len(fields), 0))
