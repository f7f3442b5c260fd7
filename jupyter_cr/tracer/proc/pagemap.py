"""Which pages of a process exist: the ioctl PAGEMAP_SCAN on /proc/PID/pagemap.

Where Linux lacks it (before 6.7), the 8-byte entries of the same file are read
instead (proc_pid_pagemap(5)): the same answers but for read-only zero pages, which
only look different to CAP_SYS_ADMIN, and about 10 times slower, more in sparse areas.

All ranges are (start, end) in bytes, ascending, and as long as can be: they cross
from one mapping into the next where both are populated.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from operator import not_, truth

from jupyter_cr.errors import EngineError, NoSuchProcess
from jupyter_cr.tracer.proc import ProcessId, proc_errors, proc_path

__all__ = [
    "has_pagemap_scan",
    "iter_anonymous_ranges",
    "iter_common_ranges",
    "iter_guard_ranges",
    "iter_present_ranges",
    "open_pagemap",
    "scan_pages",
]

Ranges = Iterator[tuple[int, int]]

_PAGE = os.sysconf("SC_PAGE_SIZE")

# include/uapi/linux/fs.h: PAGEMAP_SCAN is _IOWR('f', 16, struct pm_scan_arg).
_PAGEMAP_SCAN = 0xC0606610
_SCAN_ARGUMENT = struct.Struct("=12Q")
_WALK_END = 4 * 8
_VECTOR_REGIONS = 4096
_REGION_WORDS = 3

_IS_FILE = 1 << 2
_IS_PRESENT = 1 << 3
_IS_SWAPPED = 1 << 4
_IS_PFNZERO = 1 << 5
_IS_GUARD = 1 << 8

_CHUNK_ENTRIES = 1 << 16
_ENTRY_BYTES = 8
# Bits of the highest of an entry's 8 bytes.
_ENTRY_PRESENT = 0x80
_ENTRY_SWAPPED = 0x40
_ENTRY_FILE = 0x20
_ENTRY_GUARD = 0x04
# Bits of a whole entry: present, swapped, and the page frame or place in the swap space.
_FRAME = (1 << 55) - 1
_WHERE = 1 << 63 | 1 << 62 | _FRAME


@dataclass(frozen=True)
class _Wanted:
    """Pages that have any of ``some``, all of ``every`` and none of ``none``; 0 for
    ``some`` asks for nothing. PAGE_IS_* categories."""

    some: int = 0
    every: int = 0
    none: int = 0

    def without_guards(self) -> _Wanted:
        return _Wanted(self.some, self.every, self.none & ~_IS_GUARD)

    @cached_property
    def table(self) -> bytes:
        """For bytes.translate(): highest byte of an entry -> 1 wanted, 0 not."""
        return bytes(self._has(_categories(byte)) for byte in range(256))

    def _has(self, categories: int) -> bool:
        return (
            (not self.some or bool(categories & self.some))
            and categories & self.every == self.every
            and not categories & self.none
        )


# Linux reports a guard page (MADV_GUARD_INSTALL, 6.13) as swapped, to be told apart
# only by the guard bit itself; reading one is a fault.
_ANONYMOUS = _Wanted(
    some=_IS_PRESENT | _IS_SWAPPED, none=_IS_FILE | _IS_PFNZERO | _IS_GUARD
)
_POPULATED = _Wanted(some=_IS_PRESENT | _IS_SWAPPED, none=_IS_GUARD)
_GUARDS = _Wanted(every=_IS_GUARD)


def open_pagemap(pid: ProcessId) -> int:
    """A descriptor of a process's pagemap, owned by the caller; it keeps to the memory
    that the process has now, even across its execve(2).

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
        Unsupported: Linux built without CONFIG_PROC_PAGE_MONITOR.
    """
    with proc_errors(pid, "pagemap"):
        return os.open(proc_path(pid, "pagemap"), os.O_RDONLY | os.O_CLOEXEC)


def scan_pages(pid: ProcessId, start: int, end: int) -> list[tuple[int, int]]:
    """`iter_anonymous_ranges` of a process between two page-aligned addresses.

    Raises:
        NoSuchProcess, PermissionDenied, Unsupported: as `open_pagemap`.
    """
    fd = open_pagemap(pid)
    try:
        return list(iter_anonymous_ranges(fd, start, end))
    finally:
        os.close(fd)


def iter_anonymous_ranges(pagemap_fd: int, start: int, end: int) -> Ranges:
    """Ranges of pages whose content only this process's memory holds.

    That is private anonymous pages and private copies of file pages, in memory or
    swapped out; without pages of files and of shared memory, without guard pages,
    and (where Linux has PAGEMAP_SCAN) without pages that were only read and so are
    still Linux's one page of zeros.

    Args:
        pagemap_fd: Of `open_pagemap`.
        start: Page-aligned address.
        end: Page-aligned address, within user space.

    Raises:
        NoSuchProcess: the process, and with it its memory, is gone.
    """
    return _iter_ranges(pagemap_fd, start, end, _ANONYMOUS)


def iter_present_ranges(pagemap_fd: int, start: int, end: int) -> Ranges:
    """Ranges of pages that this process has mapped, whoever owns them.

    In shared memory a page may be populated and still not be mapped here (another
    process wrote it, or Linux took it back): the memory's own file knows better, see
    SEEK_DATA in lseek(2). Arguments as `iter_anonymous_ranges`.
    """
    return _iter_ranges(pagemap_fd, start, end, _POPULATED)


def iter_guard_ranges(pagemap_fd: int, start: int, end: int) -> Ranges:
    """Ranges of guard pages made by MADV_GUARD_INSTALL (madvise(2), Linux 6.13), which
    /proc/PID/maps does not show. Arguments as `iter_anonymous_ranges`."""
    return _iter_ranges(pagemap_fd, start, end, _GUARDS)


def iter_common_ranges(pagemap_fd: int, other_fd: int, start: int, end: int) -> Ranges:
    """Ranges of pages that two processes have in common: they are in one page frame, or
    one place of the swap space, and so hold the same.

    For private memory only: what is in the page cache can change in its frame. Without
    CAP_SYS_ADMIN frames are hidden (proc_pid_pagemap(5)), and there are no such ranges.
    A frame that Linux moved while we looked is not taken for common: the other process
    is looked at twice. Arguments as `iter_anonymous_ranges`.
    """
    return _merge(_iter_common(pagemap_fd, other_fd, start, end))


def _iter_common(fd: int, other_fd: int, start: int, end: int) -> Ranges:
    while start < end:
        count = min((end - start) // _PAGE, _CHUNK_ENTRIES)
        before, entries, after = (
            os.pread(which, count * _ENTRY_BYTES, start // _PAGE * _ENTRY_BYTES)
            for which in (other_fd, fd, other_fd)
        )
        found = min(len(before), len(entries), len(after)) // _ENTRY_BYTES
        if not found:
            raise _ended()
        marks = _mark_common(before, entries, after, found)
        yield from _iter_marked(marks, start)
        start += found * _PAGE


def _mark_common(before: bytes, entries: bytes, after: bytes, count: int) -> bytes:
    """A 1 for each of the first `count` pages that has a frame, the same in all three. As
    few steps for each as Python can do: a kernel may have millions of pages."""
    size = count * _ENTRY_BYTES
    one, entry, two = (
        int.from_bytes(read[:size], "little") for read in (before, entries, after)
    )
    differs = _words(((entry ^ one) | (entry ^ two)) & _repeated(_WHERE), size)
    frames = _words(entry & _repeated(_FRAME), size)
    same = int.from_bytes(bytes(map(not_, differs)), "little")
    there = int.from_bytes(bytes(map(truth, frames)), "little")
    return (same & there).to_bytes(count, "little")


def _words(number: int, size: int) -> memoryview:
    return memoryview(number.to_bytes(size, "little")).cast("Q")


@cache
def _repeated(word: int) -> int:
    """As often as there are entries in a chunk."""
    return int.from_bytes(word.to_bytes(_ENTRY_BYTES, "little") * _CHUNK_ENTRIES, "little")


def _iter_marked(marks: bytes, start: int) -> Ranges:
    """Ranges of the pages that are marked with a 1, from address `start` on."""
    first = marks.find(1)
    while first >= 0:
        last = marks.find(0, first)
        if last < 0:
            last = len(marks)
        yield start + first * _PAGE, start + last * _PAGE
        first = marks.find(1, last)


@cache
def has_pagemap_scan() -> bool:
    """Whether Linux has PAGEMAP_SCAN (6.7)."""
    return _probe_scan(_Wanted(some=_IS_PRESENT))


@cache
def _has_guard_category() -> bool:
    """Whether PAGEMAP_SCAN knows guard pages; entries did so one release earlier."""
    return _probe_scan(_GUARDS)


def _probe_scan(wanted: _Wanted) -> bool:
    fd = open_pagemap("self")
    try:
        list(_iter_scan(fd, _PAGE, 2 * _PAGE, wanted))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EPERM):
            return False
        raise
    else:
        return True
    finally:
        os.close(fd)


def _iter_ranges(fd: int, start: int, end: int, wanted: _Wanted) -> Ranges:
    needs_guard = bool((wanted.none | wanted.every) & _IS_GUARD)
    if not has_pagemap_scan():
        return _merge(_iter_entries(fd, start, end, wanted))
    if not needs_guard or _has_guard_category():
        return _merge(_iter_scan(fd, start, end, wanted))
    if wanted.every & _IS_GUARD:
        return _merge(_iter_entries(fd, start, end, wanted))
    return _merge(_iter_unguarded(fd, start, end, wanted))


def _iter_unguarded(fd: int, start: int, end: int, wanted: _Wanted) -> Ranges:
    """Scans, and asks the entries which of the pages found are guards."""
    for found in _iter_scan(fd, start, end, wanted.without_guards()):
        yield from _iter_entries(fd, *found, _Wanted(none=_IS_GUARD))


def _iter_scan(fd: int, start: int, end: int, wanted: _Wanted) -> Ranges:
    vector = (ctypes.c_uint64 * (_VECTOR_REGIONS * _REGION_WORDS))()
    words = memoryview(vector).cast("B").cast("Q")
    while start < end:
        argument = bytearray(
            _SCAN_ARGUMENT.pack(
                _SCAN_ARGUMENT.size,
                0,
                start,
                end,
                0,
                ctypes.addressof(vector),
                _VECTOR_REGIONS,
                0,
                wanted.none,
                wanted.none | wanted.every,
                wanted.some,
                # Regions differ by what is returned, and something must be: a
                # category that all have or none has keeps them long.
                wanted.none or wanted.every or wanted.some,
            )
        )
        count = _ioctl(fd, argument)
        regions = words[: count * _REGION_WORDS].tolist()
        yield from zip(regions[::3], regions[1::3], strict=True)
        walked = int.from_bytes(argument[_WALK_END : _WALK_END + 8], "little")
        # Linux 6.18 at least tells an old walk_end, before the last regions, when it
        # reaches the end after having emptied its inner buffer of 512 regions.
        reached = max(walked, regions[-2] if regions else 0)
        if reached <= start:
            raise EngineError(f"PAGEMAP_SCAN made no progress at {start:#x}")
        start = reached


def _ioctl(fd: int, argument: bytearray) -> int:
    try:
        count: int = fcntl.ioctl(fd, _PAGEMAP_SCAN, argument)
    except ProcessLookupError as error:
        raise _ended() from error
    return count


def _ended() -> NoSuchProcess:
    return NoSuchProcess("the process that this pagemap belongs to has ended")


def _iter_entries(fd: int, start: int, end: int, wanted: _Wanted) -> Ranges:
    while start < end:
        count = min((end - start) // _PAGE, _CHUNK_ENTRIES)
        data = os.pread(fd, count * _ENTRY_BYTES, start // _PAGE * _ENTRY_BYTES)
        if not data:
            raise _ended()
        # Everything that matters is in the highest byte, and bytes' own methods look
        # at a page in 1 ns where a loop takes 30.
        marks = data[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(wanted.table)
        yield from _iter_marked(marks, start)
        start += len(marks) * _PAGE


def _categories(byte: int) -> int:
    """PAGE_IS_* categories of an entry, by its highest byte."""
    return (
        (_IS_PRESENT if byte & _ENTRY_PRESENT else 0)
        | (_IS_SWAPPED if byte & _ENTRY_SWAPPED else 0)
        | (_IS_FILE if byte & _ENTRY_FILE else 0)
        | (_IS_GUARD if byte & _ENTRY_GUARD else 0)
    )


def _merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Joins ranges that touch (Linux ends one where its walk stopped)."""
    pending: tuple[int, int] | None = None
    for found in ranges:
        if pending is None:
            pending = found
        elif pending[1] == found[0]:
            pending = (pending[0], found[1])
        else:
            yield pending
            pending = found
    if pending is not None:
        yield pending
