"""What a kind of file descriptor is given, and what it gives back.

Every module beside this one is one kind of open file. Each has, in this order:

``Record``
    a frozen, tagged `msgspec.Struct`: all that has to be known to make it again;
``matches(descriptor) -> bool``
    whether an open file is of this kind;
``collect(descriptor, tree) -> Record``
    reads its state *without changing it* while the tree is frozen, or raises
    `jupyter_cr.errors.Unsupported` naming pid, descriptor and what to do;
``rebuild(record, rebuilding) -> int``
    makes it again in this process and returns the descriptor, owned by the caller;
``calls(record, place, rebuilding) -> Iterable[Call]``   (optional)
    system calls that the rebuilt process must make itself, once all its
    descriptors are in place (epoll registrations, record locks).

Collecting works on duplicates of the tree's own descriptors, taken with
pidfd_getfd(2): ordinary local system calls, and nothing to undo. They are the
same open files: a kind must not move an offset, read data that it cannot leave
in place, or change a flag.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import msgspec

from jupyter_cr.errors import Unsupported
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.sock_diag import UnixSocket, unix_sockets

__all__ = ["Descriptor", "Kind", "Mode", "OpenFile", "Place", "Rebuilding", "Tree"]

Mode = Literal["restore", "fork"]


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a process holds an open file: its pid (as inside the tree's own pid
    namespace), the number there, and whether FD_CLOEXEC is set."""

    pid: int
    fd: int
    cloexec: bool = False


@dataclass(frozen=True)
class Descriptor:
    """One open file description of the frozen tree, as this process sees it."""

    local: int
    """This process's own duplicate."""
    places: tuple[Place, ...]
    """Everywhere in the tree that it is held; never empty."""
    link: str
    """What /proc/pid/fd/N points at (proc_pid_fd(5)), e.g. ``pipe:[123]``."""
    flags: int
    """fcntl(F_GETFL): access mode and status flags (O_CLOEXEC never included)."""
    fdinfo: str
    """The text of /proc/pid/fdinfo/N (proc_pid_fdinfo(5))."""
    stat: os.stat_result
    """fstat(2) of it."""

    @property
    def where(self) -> str:
        """For error messages: ``process 123, descriptor 4``."""
        return f"process {self.places[0].pid}, descriptor {self.places[0].fd}"

    def field(self, name: str) -> str | None:
        """Value of the first ``name:`` line of fdinfo, stripped; None if absent."""
        prefix = name + ":"
        for line in self.fdinfo.splitlines():
            if line.startswith(prefix):
                return line[len(prefix) :].strip()
        return None

    def fields(self, name: str) -> Iterator[str]:
        """Values of all ``name:`` lines of fdinfo, in order."""
        prefix = name + ":"
        for line in self.fdinfo.splitlines():
            if line.startswith(prefix):
                yield line[len(prefix) :].strip()

    def unsupported(self, what: str, hint: str) -> Unsupported:
        """The error that refuses this descriptor: ``what`` it is and what to do."""
        return Unsupported(f"{self.where} ({self.link}): {what}", hint)


@dataclass
class Tree:
    """All open files of the frozen tree, for kinds that have relations."""

    descriptors: Sequence[Descriptor]
    pids: Mapping[int, int] = field(default_factory=dict)
    """pid inside the tree's own namespace -> pid as this process sees it."""
    zombies: Mapping[int, int] = field(default_factory=dict)
    """The same of processes that have ended and are still to be waited for."""
    memo: dict[str, Any] = field(default_factory=dict)
    """For what a kind finds out once; keys are the modules' names."""

    @cached_property
    def by_inode(self) -> dict[tuple[int, int], list[Descriptor]]:
        """(st_dev, st_ino) -> the open files on it."""
        table: dict[tuple[int, int], list[Descriptor]] = {}
        for descriptor in self.descriptors:
            key = (descriptor.stat.st_dev, descriptor.stat.st_ino)
            table.setdefault(key, []).append(descriptor)
        return table

    @cached_property
    def by_place(self) -> dict[tuple[int, int], Descriptor]:
        """(pid, fd) -> the open file there."""
        return {(p.pid, p.fd): d for d in self.descriptors for p in d.places}

    @cached_property
    def unix_sockets(self) -> dict[int, UnixSocket]:
        """Socket inode -> what sock_diag(7) tells of it, this network namespace."""
        return {socket.inode: socket for socket in unix_sockets()}

    @cached_property
    def unix_inodes(self) -> frozenset[int]:
        """Inodes of all sockets that the tree holds."""
        return frozenset(
            d.stat.st_ino for d in self.descriptors if d.link.startswith("socket:[")
        )


class OpenFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the image stores of one open file description."""

    id: int
    places: tuple[Place, ...]
    flags: int
    owner: tuple[int, int] = (0, 0)
    """fcntl(F_GETOWN_EX): (type, pid); pid 0 when none."""
    signal: int = 0
    """fcntl(F_GETSIG)."""
    record: Any
    """The kind's own Record."""


@dataclass
class Rebuilding:
    """One restore or fork, as the kinds see it."""

    mode: Mode
    files: Sequence[OpenFile]
    memo: dict[Any, Any] = field(default_factory=dict)
    """For kinds whose open files share something (both ends of a pipe): made at the
    first of them, found by the others. Keys start with the module's name."""
    ports: dict[int, int] = field(default_factory=dict)
    """Fork: recorded TCP/UDP port of a listener -> the port it has in the fork.
    Filled by the caller for ports it wants, by the kinds for the others."""
    outer: Mapping[int, int] = field(default_factory=dict)
    """Restore: inode of a pipe or socket that leaves the tree -> a descriptor of this
    process on it, where one could still be had (from the tree being replaced)."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Restore: path of a file that only an heir has -> a descriptor of this process on it,
    from the tree being replaced."""
    pids: Mapping[int, int] = field(default_factory=dict)
    """Process or thread inside the tree -> its number as this process sees it."""
    warnings: list[str] = field(default_factory=list)
    """Sentences for the user: ties that could not be made again as they were."""
    stack: ExitStack = field(default_factory=ExitStack)
    """Closed when the tree is complete: temporary listeners, helper descriptors."""

    def records(self, kind: type[msgspec.Struct]) -> Iterator[tuple[OpenFile, Any]]:
        """All open files of one kind, with their records."""
        for file in self.files:
            if isinstance(file.record, kind):
                yield file, file.record


class Kind(Protocol):
    """The surface of every module in this folder."""

    @property
    def Record(self) -> type[msgspec.Struct]: ...  # noqa: N802

    def matches(self, descriptor: Descriptor) -> bool: ...

    def collect(self, descriptor: Descriptor, tree: Tree) -> msgspec.Struct: ...

    def rebuild(self, record: Any, rebuilding: Rebuilding) -> int: ...


class KindWithCalls(Kind, Protocol):
    """A kind whose rebuilt process must act itself."""

    def calls(
        self, record: Any, place: Place, rebuilding: Rebuilding
    ) -> Iterable[Call]: ...
