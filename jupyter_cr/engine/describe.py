"""What is in a snapshot, told from its records alone: the tree of processes, their
descriptors, and their memory by kind."""

from __future__ import annotations

import functools
import signal
import socket
import stat
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from jupyter_cr.engine import pages, shared_memory
from jupyter_cr.engine.descriptors import (
    File,
    character_device,
    deleted_file,
    directory,
    epoll,
    eventfd,
    fifo,
    inherited_log,
    kind_of_record,
    o_path,
    pidfd,
    pipe,
    pseudoterminal,
    pty_queue,
    regular_file,
    signalfd,
    tcp_socket,
    terminal,
    timerfd,
    udp_socket,
    unix_socket,
)
from jupyter_cr.engine.open_file_table import FileTable
from jupyter_cr.engine.state import process
from jupyter_cr.engine.state.address_space import Region
from jupyter_cr.engine.streams import SnapshotReader

__all__ = [
    "DescriptorDescription",
    "MemoryDescription",
    "MemoryKind",
    "ProcessDescription",
    "SharedMemoryDescription",
    "SnapshotDescription",
    "describe_record",
    "describe_snapshot",
]

MemoryKind = Literal["heap", "stack", "anonymous", "file", "shared"]
_KINDS: tuple[MemoryKind, ...] = ("heap", "stack", "anonymous", "file", "shared")


class DescriptorDescription(msgspec.Struct, frozen=True):
    """One number of one process; `file` is the same wherever an open file is shared."""

    fd: int
    kind: str
    """As the module is named that restores it: ``regular_file``, ``tcp_socket``, ..."""
    what: str
    file: int
    cloexec: bool


class MemoryDescription(msgspec.Struct, frozen=True):
    """All mappings of a kind in one process, bytes. ``stack`` is the first thread's;
    those of the others are ``anonymous``, as is what malloc(3) has mapped."""

    kind: MemoryKind
    mappings: int
    virtual: int
    stored: int
    """With the process. Shared memory is stored once, beside the processes."""


class ProcessDescription(msgspec.Struct, frozen=True):
    """One process, pids as it sees them itself."""

    pid: int
    ppid: int
    name: str
    command: tuple[str, ...]
    state: Literal["running", "stopped", "zombie"]
    cwd: str
    threads: tuple[str, ...]
    """Their names."""
    descriptors: tuple[DescriptorDescription, ...]
    memory: tuple[MemoryDescription, ...]


class SharedMemoryDescription(msgspec.Struct, frozen=True):
    """One object that mappings share, bytes."""

    name: str
    size: int
    stored: int
    """0 also if its content is stored with an open file."""


class SnapshotDescription(msgspec.Struct, frozen=True):
    """The whole tree, parents first; `stored`: bytes of memory in all."""

    processes: tuple[ProcessDescription, ...]
    shared: tuple[SharedMemoryDescription, ...]
    stored: int


def describe_snapshot(reader: SnapshotReader) -> SnapshotDescription:
    """What is in the snapshot.

    Raises:
        CorruptImage: a record is not what its class says.
    """
    files = [file for table in reader.records(FileTable) for file in table.files]
    stored = {record.pid: record for record in reader.records(pages.Record)}
    processes = tuple(
        _describe_process(record, files, stored.get(record.pid))
        for record in reader.records(process.Record)
    )
    shared = tuple(map(_describe_shared, reader.records(shared_memory.Record)))
    own = sum(memory.stored for p in processes for memory in p.memory)
    return SnapshotDescription(processes, shared, own + sum(s.stored for s in shared))


def _describe_process(
    record: process.Record, files: Iterable[File], stored: pages.Record | None
) -> ProcessDescription:
    is_zombie = record.zombie_status is not None
    return ProcessDescription(
        record.ids.pid,
        record.ids.ppid,
        record.name,
        tuple(map(_text, record.command)),
        "zombie" if is_zombie else "stopped" if record.is_stopped else "running",
        "" if is_zombie else _text(record.cwd),
        tuple(_text(thread.name) for thread in record.threads),
        tuple(sorted(_iter_descriptors(record.pid, files), key=lambda d: d.fd)),
        _describe_memory(record.layout.regions, stored) if record.layout else (),
    )


def _iter_descriptors(pid: int, files: Iterable[File]) -> Iterable[DescriptorDescription]:
    for file in files:
        kind = getattr(kind_of_record(file.record), "__name__", "").rpartition(".")[2]
        for place in file.places:
            if place.pid == pid:
                what = describe_record(file.record)
                yield DescriptorDescription(place.fd, kind, what, file.id, place.cloexec)


def _memory_kind(region: Region) -> MemoryKind | None:
    """None for what Linux maps into every process (vdso)."""
    if region.content == "special":
        return None
    if region.path == "[heap]":
        return "heap"
    if region.path == "[stack]":
        return "stack"
    return "file" if region.content == "copied" else region.content


def _describe_memory(
    regions: Sequence[Region], stored: pages.Record | None
) -> tuple[MemoryDescription, ...]:
    mappings = dict.fromkeys(_KINDS, 0)
    virtual = dict.fromkeys(_KINDS, 0)
    own = dict.fromkeys(_KINDS, 0)
    runs = iter(stored.runs if stored is not None else ())
    run = next(runs, None)
    for region in regions:
        kind = _memory_kind(region)
        if kind is None:
            continue
        mappings[kind] += 1
        virtual[kind] += region.size
        # Both are by address, and no run reaches beyond its region.
        while run is not None and run[0] < region.end:
            own[kind] += run[1]
            run = next(runs, None)
    return tuple(
        MemoryDescription(kind, mappings[kind], virtual[kind], own[kind])
        for kind in _KINDS
        if mappings[kind]
    )


def _describe_shared(record: shared_memory.Record) -> SharedMemoryDescription:
    name = _text(record.raw_path) or f"{_text(record.raw_name)} (no name any more)"
    return SharedMemoryDescription(name, record.size, sum(run[1] for run in record.runs))


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


_ACCESS = {0: "read", 1: "write", 2: "read and write", 3: "ioctl only"}


def _unread(count: int) -> str:
    return f", {count} bytes unread" if count else ""


@functools.singledispatch
def describe_record(record: object) -> str:
    """What a kind's Record tells, in a few words.

    Raises:
        TypeError: it is no record of an open file.
    """
    raise TypeError(f"{type(record).__qualname__} is no record of an open file")


@describe_record.register
def _(record: regular_file.Record) -> str:
    return f"{_text(record.path)} at {record.offset} of {record.size}"


@describe_record.register
def _(record: inherited_log.Record) -> str:
    return _text(record.path)


@describe_record.register
def _(record: deleted_file.Record) -> str:
    if record.inode is None:
        return f"the same file opened once more, at {record.offset}"
    what = "memfd" if record.inode.memfd else "deleted"
    return f"{what} {_text(record.inode.name)} at {record.offset} of {record.inode.size}"


@describe_record.register(directory.Record)
@describe_record.register(terminal.Record)
@describe_record.register(character_device.Record)
def _(record: directory.Record | terminal.Record | character_device.Record) -> str:
    return _text(record.path)


@describe_record.register
def _(record: pseudoterminal.Record) -> str:
    unread = record.state.unread if record.state else pty_queue.Unread()
    written = sum(map(len, unread.lines)) + len(unread.rest) + len(unread.output)
    return f"{record.side} side of a pseudoterminal, {_text(record.path)}{_unread(written)}"


@describe_record.register
def _(record: pidfd.Record) -> str:
    return f"process {record.pid}" if record.pid else "a process that is gone"


@describe_record.register
def _(record: o_path.Record) -> str:
    return f"{_text(record.path)} ({stat.filemode(record.file_type)[0]}, O_PATH)"


@describe_record.register
def _(record: pipe.Record) -> str:
    unread = sum(map(len, record.content.chunks)) if record.content else 0
    outer = ", other end outside" if record.outer else ""
    return f"pipe:[{record.ino}], {_ACCESS[record.access]}{outer}{_unread(unread)}"


@describe_record.register
def _(record: fifo.Record) -> str:
    unread = sum(map(len, record.content.chunks)) if record.content else 0
    return f"{_text(record.path)}, {_ACCESS[record.access]}{_unread(unread)}"


@describe_record.register
def _(record: eventfd.Record) -> str:
    return f"count {record.count}" + (", semaphore" if record.semaphore else "")


@describe_record.register
def _(record: timerfd.Record) -> str:
    state = f"{record.value / 1e9:.3f} s left" if record.value else "not armed"
    return state + (f", every {record.interval / 1e9:.3f} s" if record.interval else "")


@describe_record.register
def _(record: signalfd.Record) -> str:
    return ", ".join(_signal_name(n) for n in range(1, 65) if record.mask >> (n - 1) & 1)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@describe_record.register
def _(record: epoll.Record) -> str:
    watched = sorted({registration.fd for registration in record.registrations})
    return f"watches {', '.join(map(str, watched)) or 'nothing'}"


@describe_record.register
def _(record: unix_socket.Record) -> str:
    kind = socket.SocketKind(record.socket_type).name.removeprefix("SOCK_").lower()
    name = record.name.address if record.name else record.peer_name
    title = f" {_text(name)}".replace("\0", "@") if name else ""
    unread = sum(len(message.data) for message in record.unread)
    return f"{kind}, {record.role}{title}{_unread(unread)}"


@describe_record.register
def _(record: tcp_socket.Record) -> str:
    ends = " to ".join(str(end) for end in (record.local, record.remote) if end)
    return f"{record.role}{' ' if ends else ''}{ends}{_unread(len(record.unread))}"


@describe_record.register
def _(record: udp_socket.Record) -> str:
    ends = " to ".join(str(end) for end in (record.local, record.remote) if end)
    unread = sum(len(datagram.data) for datagram in record.unread)
    return f"{ends or 'not bound'}{_unread(unread)}"
