"""userfaultfd(2): serving the page faults of another process.

The descriptor is made in that process, which is what it serves; all else is done
through a duplicate of it. Source: ioctl_userfaultfd(2), Linux
include/uapi/linux/userfaultfd.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from jupyter_cr.errors import RestoreError

__all__ = ["OPEN_FLAGS", "Event", "Fault", "Fork", "Gone", "Moved", "Userfaultfd"]

OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK
"""For the call userfaultfd in the process."""

_API = 0xAA
_UFFDIO_API, _UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
_UFFDIO_COPY, _UFFDIO_ZEROPAGE = 0xC028AA03, 0xC020AA04
_MODE_MISSING = 1
_MESSAGE = struct.Struct("<B7xQQQ")


class _Feature(IntFlag):
    EVENT_FORK = 1 << 1
    EVENT_REMAP = 1 << 2
    EVENT_REMOVE = 1 << 3
    EVENT_UNMAP = 1 << 6


class _Kind(IntEnum):
    PAGEFAULT = 0x12
    FORK = 0x13
    REMAP = 0x14
    REMOVE = 0x15
    UNMAP = 0x16


_FEATURES = (
    _Feature.EVENT_FORK
    | _Feature.EVENT_REMAP
    | _Feature.EVENT_REMOVE
    | _Feature.EVENT_UNMAP
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Somebody waits for the page at `address`."""

    address: int


@dataclass(frozen=True, slots=True)
class Fork:
    """The process has a child, whose faults come through `fd`."""

    fd: int


@dataclass(frozen=True, slots=True)
class Moved:
    """mremap: `length` bytes went from `start` to `to`."""

    start: int
    to: int
    length: int


@dataclass(frozen=True, slots=True)
class Gone:
    """munmap or MADV_DONTNEED: what was at [start, end) is of no use any more."""

    start: int
    end: int


Event = Fault | Fork | Moved | Gone


@dataclass(slots=True)
class Userfaultfd:
    """Our duplicate `fd` of the descriptor; given back by `close`."""

    fd: int

    def begin(self) -> None:
        """Shake hands.

        Raises:
            RestoreError: this user may not follow forks of a served process.
        """
        try:
            fcntl.ioctl(self.fd, _UFFDIO_API, struct.pack("<QQQ", _API, _FEATURES, 0))
        except OSError as error:
            raise RestoreError(
                f"page faults cannot be served here: {error.strerror}",
                "Restore without --lazy, or as a user with CAP_SYS_PTRACE.",
            ) from error

    def register(self, start: int, length: int) -> None:
        """Have missing pages of [start, start + length) wait for us."""
        request = struct.pack("<QQQQ", start, length, _MODE_MISSING, 0)
        fcntl.ioctl(self.fd, _UFFDIO_REGISTER, request)

    def copy(self, address: int, source: int, length: int) -> int:
        """Put `length` bytes of our own memory at `source` to `address`.

        Returns:
            How many bytes are in place; 0 if the mapping is changing: read events first.

        Raises:
            ProcessLookupError: the process has ended.
            FileNotFoundError: nothing registered is mapped there any more.
            FileExistsError: the first page is there already.
        """
        request = bytearray(struct.pack("<QQQQq", address, source, length, 0, 0))
        return self._fill(_UFFDIO_COPY, request, 32)

    def zero(self, address: int, length: int) -> int:
        """Put zeros at `address`; otherwise as `copy`."""
        request = bytearray(struct.pack("<QQQq", address, length, 0, 0))
        return self._fill(_UFFDIO_ZEROPAGE, request, 24)

    def _fill(self, number: int, request: bytearray, result_at: int) -> int:
        try:
            fcntl.ioctl(self.fd, number, request)
        except BlockingIOError:
            (done,) = struct.unpack_from("<q", request, result_at)
            return max(int(done), 0)
        (done,) = struct.unpack_from("<q", request, result_at)
        return int(done)

    def events(self) -> list[Event]:
        """All that have come, maybe none."""
        try:
            data = os.read(self.fd, _MESSAGE.size * 64)
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno == errno.EINVAL:
                return []
            raise
        return [_parse(data, at) for at in range(0, len(data), _MESSAGE.size)]

    def close(self) -> None:
        """Stop serving, as far as this duplicate goes."""
        os.close(self.fd)


def _parse(data: bytes, at: int) -> Event:
    kind, first, second, third = _MESSAGE.unpack_from(data, at)
    if kind == _Kind.PAGEFAULT:
        return Fault(second)
    if kind == _Kind.FORK:
        return Fork(first & 0xFFFFFFFF)
    if kind == _Kind.REMAP:
        return Moved(first, second, third)
    return Gone(first, second)
