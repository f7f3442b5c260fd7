"""All open files of a tree: who shares what, and each one's kind.

Descriptors are duplicated into this process (pidfd_getfd(2)) while the tree is
frozen, and given back before it goes on: a reader must not wait for the end of a
pipe that only we still hold.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jupyter_cr.engine.descriptors import File, collect_open_file
from jupyter_cr.engine.descriptors.base import Descriptor, Place, Tree
from jupyter_cr.engine.freeze import FrozenProcess, FrozenTree
from jupyter_cr.engine.sharing import is_shared
from jupyter_cr.errors import PermissionDenied
from jupyter_cr.tracer import libc

__all__ = ["collect_open_files", "hold_open_files"]

_FLAGS = "flags:"


def collect_open_files(tree: Tree) -> list[File]:
    """The record of every open file, numbered from 0.

    Raises:
        Unsupported: one cannot be restored; names process and descriptor.
    """
    return [
        collect_open_file(descriptor, tree, number)
        for number, descriptor in enumerate(tree.descriptors)
    ]


@contextmanager
def hold_open_files(frozen: FrozenTree) -> Iterator[Tree]:
    """All open files of a frozen tree, duplicated for the time of the block."""
    with ExitStack() as stack:
        processes = frozen.living
        found: dict[tuple[str, str], list[tuple[int, list[Place]]]] = {}
        for process in processes:
            for local, place, link, fdinfo in _duplicate_all(process, stack):
                same = found.setdefault((link, fdinfo), [])
                for other, places in same:
                    if is_shared(os.getpid(), os.getpid(), libc.KCMP_FILE, other, local):
                        places.append(place)
                        break
                else:
                    same.append((local, [place]))
        yield Tree(
            [
                _describe(local, places, link, fdinfo)
                for (link, fdinfo), entries in found.items()
                for local, places in entries
            ],
            {process.inner_pid: process.pid for process in processes},
            {process.inner_pid: process.pid for process in frozen if process.is_zombie},
        )


def _duplicate_all(
    process: FrozenProcess, stack: ExitStack
) -> Iterator[tuple[int, Place, str, str]]:
    root = Path(f"/proc/{process.pid}")
    pidfd = os.pidfd_open(process.pid)
    stack.callback(os.close, pidfd)
    directory = os.open(root / "fd", os.O_RDONLY | os.O_DIRECTORY)
    infos = os.open(root / "fdinfo", os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, directory)
    stack.callback(os.close, infos)
    for name in sorted(os.listdir(directory), key=int):
        try:
            local = libc.pidfd_getfd(pidfd, int(name))
        except PermissionError as error:
            raise PermissionDenied(
                f"the descriptors of process {process.pid} may not be duplicated",
                "A security policy forbids pidfd_getfd here: run `jupyter cr check`.",
            ) from error
        stack.callback(os.close, local)
        text, cloexec = _split_flags(_read(infos, name))
        place = Place(process.inner_pid, int(name), cloexec)
        yield local, place, os.readlink(name, dir_fd=directory), text


def _read(directory: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.fsdecode(b"".join(iter(lambda: os.read(fd, 65536), b"")))
    finally:
        os.close(fd)


def _split_flags(fdinfo: str) -> tuple[str, bool]:
    """The text without FD_CLOEXEC in its flags, so that it is the same wherever the
    open file is held; and whether it was set."""
    start = fdinfo.index(_FLAGS) + len(_FLAGS)
    end = fdinfo.index("\n", start)
    flags = int(fdinfo[start:end], 8)
    plain = flags & ~os.O_CLOEXEC
    return f"{fdinfo[:start]}\t{plain:#o}{fdinfo[end:]}".replace("0o", "0"), flags != plain


def _describe(local: int, places: list[Place], link: str, fdinfo: str) -> Descriptor:
    flags = fcntl.fcntl(local, fcntl.F_GETFL) & ~os.O_CLOEXEC
    return Descriptor(local, tuple(places), link, flags, fdinfo, os.fstat(local))
