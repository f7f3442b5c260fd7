"""All kinds of open files, in one table.

`find_kind` asks them in the table's order and ends in a refusal: a descriptor that no
kind takes makes the checkpoint fail, before anything is written.
"""

from __future__ import annotations

__all__ = [
    "KINDS",
    "File",
    "Record",
    "calls_for_place",
    "collect_open_file",
    "find_kind",
    "kind_of_record",
    "rebuild_open_file",
]

import fcntl
import os
import stat
from types import MappingProxyType
from typing import Any, TypeAlias, cast, get_args

from jupyter_cr.engine.descriptors import (
    character_device,
    deleted_file,
    directory,
    epoll,
    eventfd,
    fifo,
    inherited_log,
    o_path,
    other_socket,
    owner,
    pidfd,
    pipe,
    pseudoterminal,
    regular_file,
    signalfd,
    tcp_socket,
    terminal,
    timerfd,
    udp_socket,
    unix_socket,
)
from jupyter_cr.engine.descriptors.base import (
    Descriptor,
    Kind,
    KindWithCalls,
    OpenFile,
    Place,
    Rebuilding,
    Tree,
)
from jupyter_cr.engine.descriptors.path import close_on_error
from jupyter_cr.errors import RestoreError
from jupyter_cr.tracer.calls import Call

KINDS: tuple[Kind, ...] = (
    o_path,
    deleted_file,
    inherited_log,
    regular_file,
    directory,
    pseudoterminal,
    terminal,
    character_device,
    pipe,
    fifo,
    eventfd,
    timerfd,
    signalfd,
    epoll,
    pidfd,
    unix_socket,
    tcp_socket,
    udp_socket,
)
"""The first that matches takes an open file: O_PATH before all, as it may name anything,
deleted files before those with a name, logs before other regular files, pseudoterminals
before other terminals, those before other devices."""

Record: TypeAlias = (
    o_path.Record
    | regular_file.Record
    | deleted_file.Record
    | inherited_log.Record
    | directory.Record
    | pseudoterminal.Record
    | terminal.Record
    | character_device.Record
    | pipe.Record
    | fifo.Record
    | eventfd.Record
    | timerfd.Record
    | signalfd.Record
    | epoll.Record
    | pidfd.Record
    | unix_socket.Record
    | tcp_socket.Record
    | udp_socket.Record
)
"""Every kind's record; msgspec tells them apart by their tags."""


class File(OpenFile, frozen=True, kw_only=True):
    """`OpenFile` as the image decodes it: with the kind's own record, validated."""

    record: Record


_KIND_OF_TYPE: MappingProxyType[type, Kind] = MappingProxyType(
    {record: kind for kind in KINDS for record in get_args(kind.Record) or (kind.Record,)}
)

_SETTABLE = os.O_APPEND | os.O_NONBLOCK | os.O_ASYNC | os.O_DIRECT | os.O_NOATIME
"""What fcntl(F_SETFL) can change."""
_DISPENSABLE = os.O_DIRECT | os.O_NOATIME
"""What speeds things up, but means nothing to whoever reads and writes."""

_OUTSIDE = "Close it before the checkpoint, and open it again afterwards."
_REFUSED = MappingProxyType(
    {
        "anon_inode:inotify": (
            "watches files with inotify(7)",
            "Stop the file watcher before the checkpoint.",
        ),
        "anon_inode:[fanotify]": (
            "watches files with fanotify(7)",
            "Stop the file watcher before the checkpoint.",
        ),
        "anon_inode:[io_uring]": (
            "is an io_uring instance",
            "Let the program use epoll or threads instead (UV_USE_IO_URING=0 for libuv).",
        ),
        "anon_inode:[userfaultfd]": ("handles page faults with userfaultfd(2)", _OUTSIDE),
        "anon_inode:[perf_event]": (
            "measures with perf_event_open(2)",
            "Stop the profiler before the checkpoint.",
        ),
        "anon_inode:bpf": ("is a BPF program or map", _OUTSIDE),
        "/dmabuf:": ("is memory of a device (dma-buf)", _OUTSIDE),
        "net:[": ("is a network namespace", _OUTSIDE),
        "mnt:[": ("is a mount namespace", _OUTSIDE),
        "pid:[": ("is a pid namespace", _OUTSIDE),
        "user:[": ("is a user namespace", _OUTSIDE),
        "mqueue:": ("is a message queue (mq_overview(7))", _OUTSIDE),
    }
)
"""By the beginning of the link: what it is, and what to do."""


def find_kind(descriptor: Descriptor) -> Kind:
    """The kind that takes this open file.

    Raises:
        Unsupported: None does; it names process, descriptor, what it is, what to do.
    """
    for kind in KINDS:
        if kind.matches(descriptor):
            return kind
    if other_socket.matches(descriptor):
        raise other_socket.refusal(descriptor)
    if stat.S_ISBLK(descriptor.stat.st_mode):
        raise descriptor.unsupported("is a block device", _OUTSIDE)
    for beginning, (what, hint) in _REFUSED.items():
        if descriptor.link.startswith(beginning):
            raise descriptor.unsupported(what, hint)
    raise descriptor.unsupported("is of a kind that cannot be restored", _OUTSIDE)


def kind_of_record(record: object) -> Kind:
    """The kind whose `Record` this is.

    Raises:
        KeyError: It is no record of an open file.
    """
    return _KIND_OF_TYPE[type(record)]


def collect_open_file(descriptor: Descriptor, tree: Tree, id: int) -> File:
    """All that the image stores of one open file.

    Args:
        id: How the image refers to it.

    Raises:
        Unsupported: It could not be restored.
    """
    record = find_kind(descriptor).collect(descriptor, tree)
    if not hasattr(record, "locks") and descriptor.field("lock") is not None:
        raise descriptor.unsupported(
            "is locked (flock(2), fcntl(2)), which is kept for files and directories only",
            "Release the lock before the checkpoint.",
        )
    return File(
        id=id,
        places=descriptor.places,
        flags=descriptor.flags,
        owner=owner.collect_owner(descriptor, tree),
        signal=owner.collect_signal(descriptor),
        record=cast(Record, record),
    )


def rebuild_open_file(file: OpenFile, rebuilding: Rebuilding) -> int:
    """Makes one open file again in this process, with its status flags.

    Returns:
        A descriptor with close-on-exec set, owned by the caller.

    Raises:
        RestoreError: What it needs is not there; the message names it.
    """
    kind = kind_of_record(file.record)
    try:
        fd = kind.rebuild(file.record, rebuilding)
    except OSError as error:
        raise RestoreError(
            f"{_held_by(file)}: the {_kind_name(kind)} there cannot be made again: "
            f"{error.strerror}",
            "Look at this user's limits (ulimit -a) and permissions, and try again.",
        ) from error
    with close_on_error(fd):
        if not file.flags & os.O_PATH:
            _set_flags(fd, file, rebuilding)
            owner.rebuild_signal(fd, file.signal)
        return fd


def calls_for_place(file: OpenFile, place: Place, rebuilding: Rebuilding) -> list[Call]:
    """What the process at ``place`` must do itself once all its descriptors are in
    place: epoll registrations, record locks, the receiver of SIGIO."""
    calls = list(owner.calls(file, place))
    kind = kind_of_record(file.record)
    if hasattr(kind, "calls"):
        calls += cast(KindWithCalls, kind).calls(file.record, place, rebuilding)
    return calls


def _set_flags(fd: int, file: OpenFile, rebuilding: Rebuilding) -> None:
    now = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = now & ~_SETTABLE | file.flags & _SETTABLE
    if wanted == now:
        return
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)
    except OSError as error:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted & ~_DISPENSABLE)
        rebuilding.warnings.append(
            f"{_held_by(file)}: goes on without O_DIRECT or O_NOATIME ({error.strerror})."
        )


def _held_by(file: OpenFile) -> str:
    return f"process {file.places[0].pid}, descriptor {file.places[0].fd}"


def _kind_name(kind: Any) -> str:
    return str(kind.__name__).rpartition(".")[2].replace("_", " ")
