"""Terminals, by ioctl_tty(2): settings with their speeds, and what there is besides for
the two sides of a pseudoterminal (pty(7)).

What is asked of a pseudoterminal's master side is answered for the slave side, except
where a docstring says otherwise. Every function raises OSError with what Linux said.
"""

from __future__ import annotations

__all__ = [
    "EXTPROC",
    "PTMX",
    "PTS_MAJORS",
    "TIOCNOTTY",
    "TIOCSCTTY",
    "TIOCSPGRP",
    "Settings",
    "foreground_of",
    "has_locked_settings",
    "is_exclusive",
    "is_locked",
    "is_packet_mode",
    "line_discipline",
    "open_peer",
    "open_pseudoterminal",
    "read_settings",
    "read_window_size",
    "session_of",
    "set_exclusive",
    "set_locked",
    "set_packet_mode",
    "terminal_number",
    "unread_bytes",
    "write_settings",
    "write_window_size",
]

import fcntl
import os
import struct
from contextlib import suppress
from termios import (
    FIONREAD,
    TIOCEXCL,
    TIOCGETD,
    TIOCGPGRP,
    TIOCGWINSZ,
    TIOCNOTTY,
    TIOCNXCL,
    TIOCPKT,
    TIOCSCTTY,
    TIOCSPGRP,
    TIOCSWINSZ,
)

import msgspec

PTMX = os.makedev(5, 2)
"""st_rdev of a master side (Linux's devices.txt)."""
PTS_MAJORS = range(136, 144)
"""Majors of slave sides; the minor is the pseudoterminal's number."""
EXTPROC = 0o200000
"""In lflag: lines are edited by whoever holds the master side."""

# asm-generic/ioctls.h
_TCGETS2, _TCSETS2 = 0x802C542A, 0x402C542B
_TIOCGSID = 0x5429
_TIOCSPTLCK, _TIOCGPTLCK = 0x40045431, 0x80045439
_TIOCGDEV = 0x80045432
_TIOCGPKT = 0x80045438
_TIOCGEXCL = 0x80045440
_TIOCGPTPEER = 0x5441
_TIOCGLCKTRMIOS = 0x5456

_SETTINGS = struct.Struct("<4IB19s2I")
_LOCKED = struct.Struct("<4IB19s")
_INT = struct.Struct("i")
_WINDOW_SIZE = struct.Struct("4H")


class Settings(msgspec.Struct, frozen=True):
    """struct termios2 of termios(3)."""

    iflag: int
    oflag: int
    cflag: int
    lflag: int
    line: int
    """Line discipline of the slave side; 0 is the usual one (N_TTY)."""
    cc: bytes
    ispeed: int
    ospeed: int


def read_settings(fd: int) -> Settings:
    """tcgetattr(3); EIO: the terminal has been hung up."""
    answer = fcntl.ioctl(fd, _TCGETS2, bytes(_SETTINGS.size))
    return Settings(*_SETTINGS.unpack(answer))


def write_settings(fd: int, settings: Settings) -> None:
    """tcsetattr(3) with TCSANOW."""
    words = msgspec.structs.astuple(settings)
    fcntl.ioctl(fd, _TCSETS2, _SETTINGS.pack(*words))


def has_locked_settings(fd: int) -> bool:
    """Whether some of the settings may not be changed (TIOCSLCKTRMIOS)."""
    return any(fcntl.ioctl(fd, _TIOCGLCKTRMIOS, bytes(_LOCKED.size)))


def read_window_size(fd: int) -> tuple[int, int, int, int]:
    """(rows, columns, width, height): characters, then pixels."""
    rows, columns, width, height = _WINDOW_SIZE.unpack(
        fcntl.ioctl(fd, TIOCGWINSZ, bytes(_WINDOW_SIZE.size))
    )
    return rows, columns, width, height


def write_window_size(fd: int, size: tuple[int, int, int, int]) -> None:
    """The foreground processes get SIGWINCH, if it is a change."""
    fcntl.ioctl(fd, TIOCSWINSZ, _WINDOW_SIZE.pack(*size))


def unread_bytes(fd: int) -> int:
    """What could be read from this very side: if by lines, of whole lines only. What is
    still under way is not counted; poll(2) waits for that."""
    return _number(fd, FIONREAD)


def line_discipline(fd: int) -> int:
    """Of this very side; 0 is the usual one (N_TTY)."""
    return _number(fd, TIOCGETD)


def terminal_number(fd: int) -> int | None:
    """The number of the pseudoterminal; None of another terminal, or a hung up one.

    Unlike st_rdev, it does not matter under which name (``/dev/tty``) it was opened.
    """
    with suppress(OSError):
        device = _number(fd, _TIOCGDEV)
        # As Linux's new_encode_dev has it, which is not glibc's form.
        if device >> 8 & 0xFFF in PTS_MAJORS:
            return device & 0xFF | device >> 12 & 0xFFF00
    return None


def session_of(fd: int) -> int:
    """The session whose controlling terminal it is, 0 if of none. Ask the master side:
    it answers everybody."""
    with suppress(OSError):
        return _number(fd, _TIOCGSID)
    return 0


def foreground_of(fd: int) -> int:
    """The process group in the foreground, 0 if there is none; see `session_of`."""
    return _number(fd, TIOCGPGRP)


def is_packet_mode(master: int) -> bool:
    return bool(_number(master, _TIOCGPKT))


def set_packet_mode(master: int, on: bool) -> None:
    fcntl.ioctl(master, TIOCPKT, _INT.pack(on))


def is_locked(master: int) -> bool:
    """Whether the slave side cannot be opened yet (unlockpt(3))."""
    return bool(_number(master, _TIOCGPTLCK))


def set_locked(master: int, on: bool) -> None:
    fcntl.ioctl(master, _TIOCSPTLCK, _INT.pack(on))


def is_exclusive(fd: int) -> bool:
    """Whether this very side cannot be opened again (TIOCEXCL)."""
    return bool(_number(fd, _TIOCGEXCL))


def set_exclusive(fd: int, on: bool) -> None:
    fcntl.ioctl(fd, TIOCEXCL if on else TIOCNXCL)


def open_pseudoterminal(path: bytes = b"/dev/ptmx") -> int:
    """A new pseudoterminal's master side, unlocked and non-blocking."""
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    master = os.open(path, flags)
    try:
        set_locked(master, False)
    except BaseException:
        os.close(master)
        raise
    return master


def open_peer(master: int, flags: int) -> int:
    """The slave side, opened once more (TIOCGPTPEER, Linux 4.13).

    Args:
        flags: as of open(2). With O_PATH nothing is opened, and it can be told apart
            from others all the same (fstat(2)).
    """
    # O_CLOEXEC would stay among its flags (F_GETFL), other than with open(2).
    fd = int(fcntl.ioctl(master, _TIOCGPTPEER, flags | os.O_NOCTTY))
    os.set_inheritable(fd, False)
    return fd


def _number(fd: int, request: int) -> int:
    (answer,) = _INT.unpack(fcntl.ioctl(fd, request, bytes(_INT.size)))
    return int(answer)
