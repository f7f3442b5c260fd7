"""Forks and restores from twins: the memory is not read, but shared copy-on-write.

A helper of the parked twin enters the new namespaces and clones a passer-by there,
which clones the stand-in for the root's parent and ends, so that init adopts the
stand-in; the stand-in clones the root and forgets its own memory. A clone in a pid
namespace is a child of its maker, which explains the detour: the root's parent has to
have the memory for a moment.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Sequence

from msgspec.structs import replace

from jupyter_cr.engine.cloning import clone_apart
from jupyter_cr.engine.container import Container, namespace
from jupyter_cr.engine.family import Birth, plan_family
from jupyter_cr.engine.rebuild_memory import clear
from jupyter_cr.engine.seed import Seed, adopt_seed, clone_seed
from jupyter_cr.engine.state import process
from jupyter_cr.engine.state.address_space import Layout, mm_map_call
from jupyter_cr.engine.twin import ParkedTwin
from jupyter_cr.tracer.arch.x86_64 import PAGE
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.handover import Handover

__all__ = ["can_start_warm", "start_warm"]

_SPARE = 1
_PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS = 3, 0x22
_NO_FD = (1 << 64) - 1
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000


def can_start_warm(records: Sequence[process.Record], twin: ParkedTwin) -> bool:
    """Whether nobody but a stand-in parent comes before the root (see `plan_family`),
    and the twin's workspace, which all will have, is in no process's way."""
    root, *others = records
    before = _births_before(plan_family(records), root.pid)
    end = twin.address + twin.size
    in_the_way = any(
        region.start < end and twin.address < region.end
        for record in others
        if record.layout is not None
        for region in record.layout.regions
    )
    return root.ids.sid == root.pid and len(before) <= 1 and not in_the_way


def _births_before(births: Sequence[Birth], root: int) -> list[Birth]:
    return list(births[: next(i for i, birth in enumerate(births) if birth.pid == root)])


def start_warm(
    parked: ParkedTwin,
    container: Container,
    records: Sequence[process.Record],
    handover: Handover,
    argv: Sequence[str],
) -> dict[int, Seed]:
    """Clone the root, and the stand-in for its parent, from the twin into the container.

    Args:
        argv: command line of those that keep the tree.

    Returns:
        Both, by their own pids.

    Raises:
        TargetError: the twin is gone, or there is no memory.
    """
    root = records[0]
    before = _births_before(plan_family(records), root.pid)
    passer_by = _clone_into(parked, container, handover)
    maker = passer_by
    seeds: dict[int, Seed] = {}
    if before:
        maker = seeds[before[0].pid] = clone_seed(passer_by, before[0].pid)
    seeds[root.pid] = clone_seed(maker, root.pid, max(root.ids.exit_signal, 0))
    passer_by.kill()
    if before:
        assert root.layout is not None
        _make_stand_in(seeds[before[0].pid], root.layout, argv)
    return seeds


def _make_stand_in(seed: Seed, layout: Layout, argv: Sequence[str]) -> None:
    """Take from a clone what the kernel had: it is to end as its child does, by the same
    signal perhaps. And it has to say whose tree it keeps."""
    clear(seed)
    _rename(seed, layout, argv)
    default = [
        Call("rt_sigaction", (number, bytes(32), 0, 8), optional=True)
        for number in signal.valid_signals()
    ]
    seed.thread.run([*default, Call("prlimit64", (0, resource.RLIMIT_CORE, bytes(16), 0))])


def _rename(seed: Seed, layout: Layout, argv: Sequence[str]) -> None:
    """Give it a command line; `layout`: of the process that it is a clone of."""
    text = b"".join(os.fsencode(word) + b"\0" for word in argv)
    size = -(-len(text) // PAGE) * PAGE
    place = seed.thread.call(
        "mmap", 0, size, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, _NO_FD, 0
    )
    seed.memory.write(place, text)
    *others, _, _, _, _ = layout.bounds
    end = place + len(text)
    renamed = replace(layout, bounds=(*others, place, end, end, end), auxv=b"")
    seed.thread.run([mm_map_call(renamed, 0, None)])


def _clone_into(parked: ParkedTwin, container: Container, handover: Handover) -> Seed:
    twin = parked.take()
    try:
        init = container.init.outer_pid
        kinds = {"user": _CLONE_NEWUSER, "mnt": _CLONE_NEWNS, "pid": _CLONE_NEWPID}
        wanted = {
            kind: flag
            for kind, flag in kinds.items()
            if namespace(init, kind) != namespace(twin.pid, kind)
        }
        fds = [os.open(f"/proc/{init}/ns/{kind}", os.O_RDONLY) for kind in wanted]
        try:
            theirs = handover.give(twin.thread, fds)
        finally:
            for fd in fds:
                os.close(fd)
        enter = [
            Call("setns", (fd, flag))
            for fd, flag in zip(theirs, wanted.values(), strict=True)
        ]
        drop = [Call("close", (fd,)) for fd in theirs]
        copy = clone_apart(twin.thread, _SPARE, prepare=enter, after=drop)
        return adopt_seed(copy.finish())
    finally:
        twin.park()
