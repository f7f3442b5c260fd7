"""The same answers from PAGEMAP_SCAN and from the entries, and both are right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest

from jupyter_cr.errors import NoSuchProcess
from jupyter_cr.tracer.proc import pagemap
from jupyter_cr.tracer.proc.pagemap import (
    has_pagemap_scan,
    iter_anonymous_ranges,
    iter_guard_ranges,
    iter_present_ranges,
    open_pagemap,
    scan_pages,
)

PAGE = 4096
COUNT = 64
# More than two vectors of 4096 regions, and not a multiple of Linux's inner 512.
MANY = 20_000
HUGE = 2 << 20

AREAS = f"""
import ctypes, mmap, os
PAGE, COUNT, MANY, HUGE = {PAGE}, {COUNT}, {MANY}, {HUGE}
"""
AREAS += """
MADV_GUARD_INSTALL = 102
libc = ctypes.CDLL(None)
libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
areas = {}
at = {}
def make(name, size, flags, fd=-1):
    areas[name] = mmap.mmap(fd, size, flags=flags)
    at[name] = ctypes.addressof(ctypes.c_char.from_buffer(areas[name]))
    libc.madvise(at[name], size, mmap.MADV_NOHUGEPAGE)
    return areas[name]
def touch(area, pages):
    for page in pages:
        area[page * PAGE] = 1

ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
touch(make("private", COUNT * PAGE, ANONYMOUS), [0, 1, 2, 7, 63])

zero = make("zero", COUNT * PAGE, ANONYMOUS)
for page in 3, 4, 10:
    assert zero[page * PAGE] == 0
touch(zero, [4, 20])

fd = os.open(sys.argv[1], os.O_RDWR)
file = make("file", COUNT * PAGE, mmap.MAP_PRIVATE, fd)
assert sum(file[:]) == 0
touch(file, [5, 6, 40])

touch(make("shared", COUNT * PAGE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS), [8, 9, 30])

touch(make("many", MANY * PAGE, ANONYMOUS), range(0, MANY, 2))

huge = mmap.mmap(-1, 4 * HUGE, flags=ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(huge))
aligned = -(-start // HUGE) * HUGE
libc.madvise(aligned, HUGE, mmap.MADV_HUGEPAGE)
huge[aligned - start] = 1
at["huge"] = aligned

guarded = make("guarded", COUNT * PAGE, ANONYMOUS)
touch(guarded, [0, 1, 2, 3])
at["has_guards"] = libc.madvise(at["guarded"] + PAGE, 2 * PAGE, MADV_GUARD_INSTALL) == 0
tell(at)
"""


@pytest.fixture
def program(start, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(COUNT * PAGE))
    return start(AREAS, str(path))


@pytest.fixture
def fd(program) -> Iterator[int]:
    fd = open_pagemap(program.pid)
    yield fd
    os.close(fd)


@pytest.fixture(params=["scan", "unguarded", "entries"])
def way(request, monkeypatch) -> str:
    """The ways that different releases of Linux leave; this one has them all."""
    if request.param != "entries" and not has_pagemap_scan():
        pytest.skip("this Linux has no PAGEMAP_SCAN")
    if request.param == "unguarded":
        monkeypatch.setattr(pagemap, "_has_guard_category", lambda: False)
    if request.param == "entries":
        monkeypatch.setattr(pagemap, "has_pagemap_scan", lambda: False)
    return str(request.param)


def pages(ranges, start: int) -> list[int]:
    """Numbers of the pages, from `start` on; fails on ranges that touch or overlap."""
    found: list[int] = []
    last = None
    for first, end in ranges:
        assert last is None or first > last
        last = end
        found.extend(range((first - start) // PAGE, (end - start) // PAGE))
    return found


def look(iterate, fd: int, start: int, count: int = COUNT) -> list[int]:
    return pages(iterate(fd, start, start + count * PAGE), start)


def test_private_anonymous(program, fd, way):
    start = program.told["private"]
    expected = [0, 1, 2, 7, 63]
    assert look(iter_anonymous_ranges, fd, start) == expected
    assert look(iter_present_ranges, fd, start) == expected
    assert look(iter_guard_ranges, fd, start) == []


def test_part_of_a_mapping(program, fd, way):
    start = program.told["private"] + PAGE
    assert look(iter_anonymous_ranges, fd, start, 6) == [0, 1]
    assert look(iter_anonymous_ranges, fd, start, 0) == []


def test_zero_page(program, fd, way):
    start = program.told["zero"]
    read_only = [] if way == "scan" or way == "unguarded" else [3, 10]
    expected = sorted([4, 20, *read_only])
    assert look(iter_anonymous_ranges, fd, start) == expected
    assert look(iter_present_ranges, fd, start) == [3, 4, 10, 20]


def test_private_file(program, fd, way):
    start = program.told["file"]
    assert look(iter_anonymous_ranges, fd, start) == [5, 6, 40]
    assert look(iter_present_ranges, fd, start) == list(range(COUNT))


def test_shared_memory(program, fd, way):
    start = program.told["shared"]
    assert look(iter_anonymous_ranges, fd, start) == []
    assert look(iter_present_ranges, fd, start) == [8, 9, 30]


def test_more_ranges_than_fit_one_call(program, fd, way):
    start = program.told["many"]
    expected = list(range(0, MANY, 2))
    assert look(iter_anonymous_ranges, fd, start, MANY) == expected


def test_huge_page(program, fd, way):
    start = program.told["huge"]
    count = HUGE // PAGE
    found = look(iter_anonymous_ranges, fd, start, count)
    # One page where Linux had no huge one to give.
    assert found in ([0], list(range(count)))


def test_guard_pages(program, fd, way):
    if not program.told["has_guards"]:
        pytest.skip("this Linux has no MADV_GUARD_INSTALL")
    start = program.told["guarded"]
    assert look(iter_anonymous_ranges, fd, start) == [0, 3]
    assert look(iter_present_ranges, fd, start) == [0, 3]
    assert look(iter_guard_ranges, fd, start) == [1, 2]


def test_one_call_over_all_mappings(program):
    if not has_pagemap_scan():
        pytest.skip("the entries of a whole address space would take minutes")
    everything = scan_pages(program.pid, PAGE, 0x7FFFFFFFF000)
    assert sorted(everything) == everything
    assert all(end < start for (_, end), (start, _) in pairwise(everything))
    start = program.told["private"]
    end = start + COUNT * PAGE
    inside = [
        (max(first, start), min(last, end))
        for first, last in everything
        if first < end and last > start
    ]
    assert pages(inside, start) == [0, 1, 2, 7, 63]


def test_process_that_ends_meanwhile(program, fd, way):
    program.reap()
    with pytest.raises(NoSuchProcess, match="has ended"):
        look(iter_anonymous_ranges, fd, program.told["private"])
