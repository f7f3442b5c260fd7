from __future__ import annotations

import os
import random

import pytest

from jupyter_cr.errors import EngineError
from jupyter_cr.tracer.proc.maps import find_gap, read_maps, read_smaps, vm_flags

MIB = 1 << 20

MAP_FILES = """
import ctypes, mmap, os
areas = []
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDWR)
    area = mmap.mmap(fd, 8192, flags=mmap.MAP_PRIVATE, offset=4096)
    areas.append(area)
    os.close(fd)
os.unlink(sys.argv[-1])
tell([ctypes.addressof(ctypes.c_char.from_buffer(area)) for area in areas])
"""

MAP_MEMORY = """
import ctypes, mmap
KINDS = {"private": mmap.MAP_PRIVATE, "shared": mmap.MAP_SHARED}
libc = ctypes.CDLL(None)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
libc.mlock.argtypes = ctypes.c_void_p, ctypes.c_size_t
areas = {}
at = {}
for name, kind in KINDS.items():
    areas[name] = mmap.mmap(-1, 64 << 10, flags=kind | mmap.MAP_ANONYMOUS)
    areas[name].write(b"x" * (32 << 10))
    at[name] = ctypes.addressof(ctypes.c_char.from_buffer(areas[name]))
areas["private"].madvise(mmap.MADV_DONTFORK)
assert libc.mlock(at["private"], 4096) == 0
assert libc.mprotect(at["private"] + 4096, 4096, mmap.PROT_READ) == 0
assert libc.mprotect(at["private"] + 8192, 4096, 0) == 0
tell(at)
"""


def test_own_mappings_say_what_linux_says():
    mappings = read_maps("self")
    with open("/proc/self/maps", "rb") as file:
        lines = file.read().splitlines()
    names = {mapping.path for mapping in mappings}
    assert len(mappings) == pytest.approx(len(lines), abs=5)
    assert {"[stack]", "[heap]", "[vdso]"} <= names
    assert any(mapping.is_vvar for mapping in mappings)
    assert mappings == sorted(mappings, key=lambda mapping: mapping.start)
    for mapping in mappings:
        assert mapping.size > 0
        assert mapping.size % 4096 == 0
        if mapping.is_file and not mapping.deleted:
            stat = os.stat(mapping.path)
            assert mapping.inode == stat.st_ino
    stack = next(mapping for mapping in mappings if mapping.is_stack)
    assert stack.perms == "rw-p"
    assert (stack.readable, stack.writable, stack.executable) == (True, True, False)
    assert (stack.shared, stack.is_file, stack.is_heap, stack.is_vdso) == (False,) * 4


def test_file_names(start, tmp_path):
    names = ["a b  c ", "new\nline", "re\rturn", "b\\slash", "\udcff\udcfe", "gone"]
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.write_bytes(bytes(12288))
    inodes = [path.stat().st_ino for path in paths]
    program = start(MAP_FILES, *map(str, paths))
    mappings = {mapping.start: mapping for mapping in read_maps(program.pid)}
    found = [mappings[address] for address in program.told]
    expected = [*map(str, paths[:-1]), f"{paths[-1]} (deleted)"]
    assert [mapping.path for mapping in found] == expected
    assert [mapping.inode for mapping in found] == inodes
    assert [mapping.deleted for mapping in found] == [False] * 5 + [True]
    device = tmp_path.stat().st_dev
    for mapping in found:
        assert mapping.is_file
        assert (mapping.offset, mapping.size, mapping.perms) == (4096, 8192, "rw-p")
        assert os.makedev(*mapping.device) == device


def test_smaps_flags_and_sizes(start):
    program = start(MAP_MEMORY)
    entries = {entry.mapping.start: entry for entry in read_smaps(program.pid)}
    assert [entry.mapping for entry in entries.values()] == read_maps(program.pid)
    flags = vm_flags(program.pid)
    assert flags == {start: entry.flags for start, entry in entries.items()}

    private = program.told["private"]
    locked, read_only = entries[private], entries[private + 4096]
    guard, rest = entries[private + 8192], entries[private + 12288]
    assert {"rd", "wr", "lo", "dc"} <= locked.flags
    assert locked.locked == locked.rss == locked.pss == locked.anonymous == 4096
    assert "dc" in read_only.flags
    assert "wr" not in read_only.flags
    assert read_only.mapping.perms == "r--p"
    assert guard.mapping.perms == "---p"
    assert not guard.flags & {"rd", "wr", "ex"}
    assert "lo" not in rest.flags
    assert rest.rss == rest.anonymous == 5 * 4096
    assert rest.swap == rest.locked == rest.anon_huge == 0

    (shared,) = (
        entry
        for entry in entries.values()
        if entry.mapping.start <= program.told["shared"] < entry.mapping.end
    )
    assert shared.mapping.shared
    assert shared.mapping.is_file
    assert shared.mapping.deleted
    assert "sh" in shared.flags
    assert shared.rss == 8 * 4096
    stack = next(entry for entry in entries.values() if entry.mapping.is_stack)
    assert "gd" in stack.flags


def test_gap_stays_away_from_everything():
    random.seed(7)
    for _ in range(200):
        at = 0x10000000
        occupied = []
        for _ in range(random.randrange(30)):
            at += random.choice((0, 4096, MIB, 2 * MIB, 5 * MIB))
            size = random.choice((4096, MIB))
            occupied.append((at, at + size))
            at += size
        random.shuffle(occupied)
        size = random.choice((4096, MIB, 3 * MIB))
        align = random.choice((4096, 2 * MIB))
        gap = find_gap(occupied, size, align=align)
        assert gap >= 0x10000000
        assert gap % align == 0
        for start, end in occupied:
            assert gap + size + MIB <= start or end + MIB <= gap


def test_gap_is_the_lowest():
    assert find_gap([], 4096) == 0x10000000
    assert find_gap([], 4096, low=0x12345, align=0x10000) == 0x20000
    assert find_gap([(0x10000000, 0x10001000)], 4096) == 0x10101000
    low_and_high = [(0x1000, 0x2000), (0x40000000, 0x40001000)]
    assert find_gap(low_and_high, 0x2FF00000) == 0x10000000
    assert find_gap(low_and_high, 0x2FF00001) == 0x40101000


def test_no_gap():
    with pytest.raises(EngineError, match="no free address range of 4096 bytes"):
        find_gap([(0x10000000, 0x20000000)], 4096, high=0x20000000)


def test_gap_in_a_real_process_can_be_mapped():
    gap = find_gap(((m.start, m.end) for m in read_maps("self")), MIB)
    assert not any(m.start < gap + MIB and gap < m.end for m in read_maps("self"))
