"""Rebuild memory: the layout of a process, and when it has its content, what is left.

The process maps everything itself; we only tell it what.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jupyter_cr.engine.seed import Seed
from jupyter_cr.engine.state.address_space import (
    GUARD,
    Layout,
    Region,
    advice_calls,
    map_call,
    mm_map_call,
    protect_calls,
)
from jupyter_cr.errors import EngineError, RestoreError
from jupyter_cr.tracer.arch.x86_64 import PAGE
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.proc.maps import Mapping as MemoryMapping
from jupyter_cr.tracer.proc.maps import find_gap, read_maps

__all__ = [
    "FileKey",
    "MappedFiles",
    "clear",
    "file_keys",
    "finish_clone",
    "finish_memory",
    "lay_out",
    "map_shared",
    "shared_keys",
]

_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_MOST_GIVEN = 200

FileKey = tuple[str, object, bool]
"""What a region maps: ("path", path, writable) or ("shared", (device, inode), True)."""


def file_key(region: Region) -> FileKey | None:
    """What has to be opened for a region; None if it is not of a file."""
    if region.content == "shared":
        return ("shared", (region.device, region.inode), True)
    if region.content == "file":
        return ("path", region.path, region.shared and "mw" in region.flags)
    return None


def file_keys(layouts: Sequence[Layout]) -> list[FileKey]:
    """All that has to be opened for the layouts, each once."""
    found: dict[FileKey, None] = {}
    for layout in layouts:
        for region in layout.regions:
            key = file_key(region)
            if key is not None:
                found[key] = None
    return list(found)


def shared_keys(layouts: Sequence[Layout]) -> list[FileKey]:
    """Those of shared memory objects only."""
    return [key for key in file_keys(layouts) if key[0] == "shared"]


@dataclass(frozen=True)
class MappedFiles:
    """Our own descriptors of what regions map."""

    fds: Mapping[FileKey, int]

    @classmethod
    def open_paths(
        cls, keys: Sequence[FileKey], shared: Mapping[object, int]
    ) -> MappedFiles:
        """Open the paths; `shared` has the descriptors of shared memory objects.

        Raises:
            RestoreError: a file cannot be opened; names it.
        """
        fds: dict[FileKey, int] = {}
        for key in keys:
            kind, what, writable = key
            if kind == "shared":
                fds[key] = shared[what]
                continue
            try:
                flags = os.O_RDWR if writable else os.O_RDONLY
                fds[key] = os.open(str(what), flags | os.O_CLOEXEC)
            except OSError as error:
                raise RestoreError(
                    f"{what} is needed and cannot be opened: {error.strerror}",
                    "Put it back as it was when the snapshot was taken.",
                ) from error
        return cls(fds)


def lay_out(seed: Seed, layout: Layout, files: MappedFiles, handover: Handover) -> None:
    """Replace all mappings of the seed but its workspace by those of the layout."""
    seed.thread.run(_clear_calls(_own_mappings(seed), layout))
    _map_regions(seed, layout.regions, files, handover)


def clear(seed: Seed) -> None:
    """Unmap all that the seed has but its workspace."""
    seed.thread.run(
        [Call("munmap", (mapping.start, mapping.size)) for mapping in _own_mappings(seed)]
    )


def _own_mappings(seed: Seed) -> list[MemoryMapping]:
    workspace = seed.workspace
    return [
        mapping
        for mapping in read_maps(seed.outer_pid)
        if not workspace.address <= mapping.start < workspace.address + workspace.size
        and not mapping.is_vsyscall
    ]


def map_shared(seed: Seed, layout: Layout, files: MappedFiles, handover: Handover) -> None:
    """Put shared memory of its own where a clone still has the original's."""
    shared = [region for region in layout.regions if region.content == "shared"]
    _map_regions(seed, shared, files, handover)


def _map_regions(
    seed: Seed, regions: Sequence[Region], files: MappedFiles, handover: Handover
) -> None:
    for group in _groups(regions):
        keys = list(dict.fromkeys(key for r in group if (key := file_key(r)) is not None))
        numbers = (
            handover.give(seed.thread, [files.fds[key] for key in keys]) if keys else []
        )
        theirs = dict(zip(keys, numbers, strict=True))
        calls = []
        for region in group:
            key = file_key(region)
            calls.append(map_call(region, None if key is None else theirs[key]))
            calls += advice_calls(region, before_filling=True)
        calls += [Call("close", (number,)) for number in numbers]
        seed.thread.run(calls)


def _groups(regions: Sequence[Region]) -> Iterator[list[Region]]:
    """The regions to map, in groups that need no more files than can be given."""
    group: list[Region] = []
    keys: set[FileKey] = set()
    for region in regions:
        if region.content == "special":
            continue
        key = file_key(region)
        if key is not None and key not in keys and len(keys) == _MOST_GIVEN:
            yield group
            group, keys = [], set()
        if key is not None:
            keys.add(key)
        group.append(region)
    yield group


def _clear_calls(own: Sequence[MemoryMapping], layout: Layout) -> list[Call]:
    """Unmap what the seed has; move Linux's own mappings to where they were. By way of
    a free place, since where they are may be where another one has to go."""
    special = [m for m in own if m.is_vdso or m.is_vvar]
    calls = [Call("munmap", (m.start, m.size)) for m in own if m not in special]
    wanted = {
        region.path: region for region in layout.regions if region.content == "special"
    }
    if {m.path for m in special} - set(wanted) and wanted:
        raise RestoreError(
            "the vdso of this Linux has other parts than that of the snapshot",
            "Restore it under the version of Linux that it was taken under.",
        )
    parking = _parking(own, layout, special)
    for mapping in special:
        target = wanted.get(mapping.path)
        if target is None:
            calls.append(Call("munmap", (mapping.start, mapping.size)))
            continue
        if target.size != mapping.size:
            raise RestoreError(
                f"{mapping.path} of this Linux has another size than in the snapshot",
                "Restore it under the version of Linux that it was taken under.",
            )
        calls.append(_move(mapping.start, mapping.size, parking[mapping.path]))
    for mapping in special:
        target = wanted.get(mapping.path)
        if target is not None:
            calls.append(_move(parking[mapping.path], mapping.size, target.start))
    return calls


def _move(start: int, size: int, to: int) -> Call:
    return Call("mremap", (start, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, to))


def _parking(
    own: Sequence[MemoryMapping], layout: Layout, special: Sequence[MemoryMapping]
) -> dict[str, int]:
    occupied = [(m.start, m.end) for m in own] + layout.occupied
    place = find_gap(occupied, sum(m.size + PAGE for m in special) + PAGE, low=1 << 32)
    places = {}
    for mapping in special:
        places[mapping.path] = place
        place += mapping.size + PAGE
    return places


def finish_memory(
    seed: Seed,
    layout: Layout,
    guards: Sequence[tuple[int, int]],
    executable_fd: int | None,
    handover: Handover,
    *,
    wipe: bool,
) -> None:
    """Protection, advice, guard pages, and what /proc tells of the whole.

    Args:
        wipe: leave out what fork(2) would wipe (MADV_WIPEONFORK): it is there so that
            no two processes draw the same random numbers.
    """
    calls = _wipe_calls(layout) if wipe else []
    for region in layout.regions:
        if region.content != "special":
            calls += protect_calls(region)
            calls += advice_calls(region, before_filling=False)
    calls += [Call("madvise", (start, length, GUARD)) for start, length in guards]
    seed.thread.run(calls)
    theirs = None
    if executable_fd is not None and not _executes(seed, executable_fd):
        (theirs,) = handover.give(seed.thread, [executable_fd])
    auxv = seed.workspace.slot(0) + seed.workspace.frame_size - 1024
    if len(layout.auxv) > 1024:
        raise EngineError(f"auxiliary vector of {len(layout.auxv)} bytes")
    seed.memory.write(auxv, layout.auxv)
    seed.thread.run([mm_map_call(layout, auxv, theirs)])
    if theirs is not None:
        seed.thread.call("close", theirs)


def _executes(seed: Seed, fd: int) -> bool:
    """Whether it is that file already, as the clone of a twin is. It could not become it
    again while it maps it."""
    return os.path.samestat(os.stat(f"/proc/{seed.outer_pid}/exe"), os.fstat(fd))


def finish_clone(seed: Seed, layout: Layout, *, wipe: bool) -> None:
    """What `finish_memory` does, for a clone of a twin: that is all a twin has lost."""
    calls = _wipe_calls(layout) if wipe else []
    for region in layout.regions:
        if {"dc", "wf", "lo"} & set(region.flags):
            calls += advice_calls(region, before_filling=False)
    seed.thread.run(calls)


def _wipe_calls(layout: Layout) -> list[Call]:
    return [
        Call("madvise", (region.start, region.size, _MADV_DONTNEED))
        for region in layout.regions
        if "wf" in region.flags
    ]


_MADV_DONTNEED = 4
