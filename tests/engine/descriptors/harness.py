"""Takes a descriptor of the test process through what a snapshot does to it.

What it cannot do here is what the engine does around the kinds: the descriptors are
this process's own, and so are the processes that hold them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from jupyter_cr.engine.descriptors import (
    File,
    calls_for_place,
    collect_open_file,
    rebuild_open_file,
)
from jupyter_cr.engine.descriptors.base import (
    Descriptor,
    Mode,
    OpenFile,
    Place,
    Rebuilding,
    Tree,
)
from jupyter_cr.tracer import libc
from jupyter_cr.tracer.arch.x86_64 import SYSCALLS
from jupyter_cr.tracer.calls import Call, Out

O_LARGEFILE = 0o100000


def describe(fd: int, *places: Place) -> Descriptor:
    """``fd`` of this process as the engine would see it."""
    return Descriptor(
        local=os.dup(fd),
        places=places or (Place(os.getpid(), fd, not os.get_inheritable(fd)),),
        link=os.readlink(f"/proc/self/fd/{fd}"),
        flags=fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_CLOEXEC,
        fdinfo=Path(f"/proc/self/fdinfo/{fd}").read_text(),
        stat=os.fstat(fd),
    )


@contextmanager
def tree_of(*fds: int | Descriptor, members: Collection[int] = ()) -> Iterator[Tree]:
    """A tree that holds these descriptors, of those processes."""
    descriptors = [fd if isinstance(fd, Descriptor) else describe(fd) for fd in fds]
    tree = Tree(descriptors, {pid: pid for pid in members})
    try:
        yield tree
    finally:
        for descriptor in tree.descriptors:
            os.close(descriptor.local)


def collect(*fds: int | Descriptor, members: Collection[int] = ()) -> list[OpenFile]:
    """Collects, and reads back from bytes, what the image would hold."""
    with tree_of(*fds, members=members) as tree:
        files = [collect_open_file(d, tree, n) for n, d in enumerate(tree.descriptors)]
    decoded: list[OpenFile] = msgspec.msgpack.decode(
        msgspec.msgpack.encode(files), type=list[File]
    )
    assert decoded == files
    return decoded


def collect_and_close(*fds: int) -> list[OpenFile]:
    """Collects and then ends the originals, as a restore does."""
    files = collect(*fds)
    for fd in fds:
        os.close(fd)
    return files


@contextmanager
def rebuilt(
    files: Sequence[OpenFile],
    mode: Mode = "restore",
    *,
    complete: bool = True,
    outer: dict[int, int] | None = None,
    pids: dict[int, int] | None = None,
) -> Iterator[tuple[list[int], Rebuilding]]:
    """The rebuilt descriptors; the tree counts as complete unless told otherwise."""
    rebuilding = Rebuilding(mode=mode, files=files, outer=outer or {}, pids=pids or {})
    fds: list[int] = []
    try:
        with rebuilding.stack:
            for file in files:
                fds.append(rebuild_open_file(file, rebuilding))
                assert not os.get_inheritable(fds[-1])
            if not complete:
                yield fds, rebuilding
        if complete:
            yield fds, rebuilding
    finally:
        for fd in fds:
            os.close(fd)


def put_in_place(files: Sequence[OpenFile], fds: list[int], rebuilding: Rebuilding) -> None:
    """Moves what was rebuilt to the recorded numbers, whose originals must be closed,
    and makes the calls that are left to the rebuilt process. Changes ``fds``."""
    aside = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 512) for fd in fds]
    for fd in fds:
        os.close(fd)
    fds[:] = [file.places[0].fd for file in files]
    for source, target in zip(aside, fds, strict=True):
        os.dup2(source, target, inheritable=False)
        os.close(source)
    for file in files:
        for place in file.places:
            for call in calls_for_place(file, place, rebuilding):
                run_call(call)


def run_call(call: Call) -> int:
    """One `Call`, made by this process."""
    args = [bytes(arg.size) if isinstance(arg, Out) else arg for arg in call.args]
    try:
        return libc.syscall(SYSCALLS[call.name], *args)
    except OSError:
        if call.optional:
            return -1
        raise


def flags_of(fd: int) -> int:
    """F_GETFL without what Linux adds by itself."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & ~O_LARGEFILE
