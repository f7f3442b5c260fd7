"""Files without a name: unlinked ones, O_TMPFILE files, and memfds.

Nobody else can have kept their content, so it is part of the record. Several open
files and mappings may share one such inode. The first open file on it holds the
content, the others refer to it by (device, inode); whoever comes first at rebuild
makes the inode, and `find_or_make_inode` gives the same one to all others.

Permissions, owner, times and seals are set when ``Rebuilding.stack`` is closed, as
open files and writable mappings that came before them must still be possible to make.
"""

from __future__ import annotations

__all__ = [
    "Extent",
    "Inode",
    "Record",
    "calls",
    "collect",
    "collect_inode",
    "find_inode",
    "find_or_make_inode",
    "matches",
    "rebuild",
]

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator

import msgspec

from jupyter_cr.engine.descriptors import lock
from jupyter_cr.engine.descriptors.base import Descriptor, Place, Rebuilding, Tree
from jupyter_cr.engine.descriptors.path import REOPEN, close_on_error
from jupyter_cr.errors import CorruptImage, RestoreError, Unsupported
from jupyter_cr.tracer import libc
from jupyter_cr.tracer.calls import Call

_GIB = 1 << 30
_DELETED = " (deleted)"
_MEMFD = "/memfd:"
_MFD_EXEC = 0x10
_NFS_MAGIC = 0x6969
_MAGIC_WITHOUT_WRITE = {0x9584_58F6: "hugetlbfs", 0x5345_434D: "memfd_secret(2)"}
"""f_type of file systems whose files cannot be filled by write(2)."""


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """Bytes at an offset; what lies between extents is a hole."""

    offset: int
    data: bytes


class Inode(msgspec.Struct, frozen=True):
    """A file without a name."""

    dev: int
    ino: int
    name: bytes
    """The path it had, or the name given to memfd_create(2)."""
    memfd: bool
    mode: int
    """Permission bits."""
    uid: int
    gid: int
    size: int
    """Bytes, holes included."""
    atime_ns: int
    mtime_ns: int
    seals: int
    """fcntl(F_GET_SEALS); 0 unless a memfd."""
    extents: tuple[Extent, ...]


class Record(msgspec.Struct, frozen=True, tag="deleted_file"):
    dev: int
    ino: int
    flags: int
    offset: int
    inode: Inode | None
    """With the first open file on it only."""
    locks: tuple[lock.Lock, ...] = ()


def matches(descriptor: Descriptor) -> bool:
    """A regular file without a name, or with one that will vanish with its last user."""
    return (
        stat.S_ISREG(descriptor.stat.st_mode)
        and descriptor.link.startswith("/")
        and (descriptor.stat.st_nlink == 0 or _is_silly_renamed(descriptor))
    )


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Its access mode, offset and locks; with the first on this inode, its content.

    Raises:
        Unsupported: More than 1 GiB of content, a file that its owner may not read,
            or a file system without write(2).
    """
    dev, ino = descriptor.stat.st_dev, descriptor.stat.st_ino
    first = tree.by_inode[dev, ino][0] is descriptor
    return Record(
        dev=dev,
        ino=ino,
        flags=descriptor.flags & REOPEN & ~os.O_DIRECTORY,
        offset=int(descriptor.field("pos") or 0),
        inode=(
            collect_inode(descriptor.local, descriptor.link, descriptor.where)
            if first
            else None
        ),
        locks=lock.collect_locks(descriptor, tree),
    )


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Opens the shared inode, which the first to come makes.

    Raises:
        RestoreError: No directory takes the file, the disk is full, or it is locked.
        CorruptImage: No record has the content.
    """
    inode = find_inode(record.dev, record.ino, rebuilding)
    fd = os.open(f"/proc/self/fd/{inode}", record.flags | os.O_CLOEXEC)
    with close_on_error(fd):
        os.lseek(fd, record.offset, os.SEEK_SET)
        lock.rebuild_locks(fd, record.locks, rebuilding)
        return fd


def calls(record: Record, place: Place, rebuilding: Rebuilding) -> Iterator[Call]:
    """POSIX record locks."""
    return lock.calls(record.locks, place, rebuilding)


def collect_inode(fd: int, link: str, where: str) -> Inode:
    """A deleted file's inode with its content, through any descriptor on it.

    Args:
        fd: Open on it in any access mode but O_PATH; its offset stays where it is.
        link: What Linux shows as its path, with `` (deleted)`` at the end.
        where: Who holds it, for errors (``process 12, descriptor 3``).

    Raises:
        Unsupported: As `collect`.
    """
    kind = _MAGIC_WITHOUT_WRITE.get(libc.fstatfs_type(fd))
    if kind is not None:
        raise Unsupported(
            f"{where} ({link}): is memory of {kind}",
            "Use ordinary memory (memfd_create without MFD_HUGETLB), or close it.",
        )
    status = os.fstat(fd)
    seals = _seals(fd) if link.startswith(_MEMFD) else None
    name = link.removesuffix(_DELETED)
    return Inode(
        dev=status.st_dev,
        ino=status.st_ino,
        name=os.fsencode(name if seals is None else name.removeprefix(_MEMFD)),
        memfd=seals is not None,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size,
        atime_ns=status.st_atime_ns,
        mtime_ns=status.st_mtime_ns,
        seals=seals or 0,
        extents=_collect_extents(fd, link, where),
    )


def find_inode(dev: int, ino: int, rebuilding: Rebuilding) -> int:
    """The rebuilt inode for a recorded (device, inode) of an open file.

    Returns:
        A descriptor opened O_RDWR, owned by ``rebuilding.stack``.

    Raises:
        CorruptImage: No open file's record has the content.
        RestoreError: As `find_or_make_inode`.
    """
    known: int | None = rebuilding.memo.get(("deleted_file", dev, ino))
    if known is not None:
        return known
    for _, record in rebuilding.records(Record):
        if record.inode is not None and (record.dev, record.ino) == (dev, ino):
            return find_or_make_inode(record.inode, rebuilding)
    raise CorruptImage(
        f"the snapshot refers to a deleted file ({dev}, {ino}) that it does not hold",
        "Use another snapshot.",
    )


def find_or_make_inode(inode: Inode, rebuilding: Rebuilding) -> int:
    """The one rebuilt file for this inode; open files and mappings share it.

    Returns:
        A descriptor opened O_RDWR, owned by ``rebuilding.stack``.

    Raises:
        RestoreError: No directory takes the file, or the disk is full.
    """
    key = ("deleted_file", inode.dev, inode.ino)
    if key not in rebuilding.memo:
        fd = _make_memfd(inode) if inode.memfd else _make_file(inode, rebuilding)
        rebuilding.stack.callback(os.close, fd)
        _fill(fd, inode)
        rebuilding.stack.callback(_finish, fd, inode)
        rebuilding.memo[key] = fd
    found: int = rebuilding.memo[key]
    return found


def _is_silly_renamed(descriptor: Descriptor) -> bool:
    """NFS renames an open file that is unlinked to .nfs..., until it is closed."""
    name = os.path.basename(descriptor.link)
    return name.startswith(".nfs") and libc.fstatfs_type(descriptor.local) == _NFS_MAGIC


def _seals(fd: int) -> int | None:
    """None where ``/memfd:...`` is the name of an ordinary file."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return None


def _collect_extents(fd: int, link: str, where: str) -> tuple[Extent, ...]:
    try:
        # A description of our own: to read what is open for writing only, and because
        # SEEK_DATA moves the offset.
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unsupported(
            f"{where} ({link}): its content cannot be read ({error.strerror})",
            "Give the file back its read permission (fchmod), or close it.",
        ) from error
    try:
        ranges = tuple(_iter_data(reader))
        total = sum(length for _, length in ranges)
        if total > _GIB:
            raise Unsupported(
                f"{where} ({link}): a deleted file with {total / _GIB:.1f} GiB of content",
                "Give it a name, so that it need not be stored, or make it smaller.",
            )
        return tuple(
            Extent(start, _read_all(reader, start, length)) for start, length in ranges
        )
    finally:
        os.close(reader)


def _iter_data(fd: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is no hole; lseek(2)."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end - start


def _read_all(fd: int, start: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        chunk = os.pread(fd, length - len(data), start + len(data))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def _make_memfd(inode: Inode) -> int:
    flags = os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC
    try:
        # Otherwise vm.memfd_noexec may seal it before its mode is known (Linux 6.3).
        return os.memfd_create(os.fsdecode(inode.name), flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise RestoreError(
                f"memfd {os.fsdecode(inode.name)} cannot be made: {error.strerror}",
                "See vm.memfd_noexec of sysctl(8), and try again.",
            ) from error
        return os.memfd_create(os.fsdecode(inode.name), flags)


def _make_file(inode: Inode, rebuilding: Rebuilding) -> int:
    directory = os.path.dirname(inode.name)
    fallback = os.fsencode(tempfile.gettempdir())
    fd = _make_nameless(directory)
    if fd is None:
        rebuilding.warnings.append(
            f"A deleted file was in {os.fsdecode(directory)}, which cannot be written "
            f"to; it is in {os.fsdecode(fallback)} now."
        )
        fd = _make_nameless(fallback)
    if fd is None:
        raise RestoreError(
            f"the deleted file {os.fsdecode(inode.name)} cannot be made again: neither "
            f"{os.fsdecode(directory)} nor {os.fsdecode(fallback)} can be written to",
            "Make one of them writable and try again.",
        )
    return fd


def _make_nameless(directory: bytes) -> int | None:
    with contextlib.suppress(OSError):
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    # Not all file systems have O_TMPFILE (NFS, FAT).
    try:
        fd, name = tempfile.mkstemp(dir=directory)
    except OSError:
        return None
    os.unlink(name)
    return fd


def _fill(fd: int, inode: Inode) -> None:
    try:
        os.ftruncate(fd, inode.size)
        for extent in inode.extents:
            data = memoryview(extent.data)
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], extent.offset + done)
    except OSError as error:
        raise RestoreError(
            f"the content of the deleted file {os.fsdecode(inode.name)} "
            f"({inode.size} bytes) cannot be written: {error.strerror}",
            "Make room and try again.",
        ) from error


def _finish(fd: int, inode: Inode) -> None:
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid) != (inode.uid, inode.gid):
        # An owner that this user may not give is, within a user namespace, mostly this
        # user under another number.
        with contextlib.suppress(OSError):
            os.fchown(fd, inode.uid, inode.gid)
    os.fchmod(fd, inode.mode)
    os.utime(fd, ns=(inode.atime_ns, inode.mtime_ns))
    if inode.seals:
        _seal(fd, inode)


def _seal(fd: int, inode: Inode) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, inode.seals)
    except OSError as error:
        raise RestoreError(
            f"memfd {os.fsdecode(inode.name)} cannot be sealed as it was "
            f"({inode.seals:#x}): {error.strerror}",
            "Report this with `jupyter cr show` of the snapshot.",
        ) from error
