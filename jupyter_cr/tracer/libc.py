"""System calls that Python's `os` lacks, typed: Linux's own names, ints and bytes in,
`OSError` out."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

__all__ = [
    "KCMP_EPOLL_TFD",
    "KCMP_FILE",
    "KCMP_FILES",
    "KCMP_FS",
    "KCMP_IO",
    "KCMP_SIGHAND",
    "KCMP_SYSVSEM",
    "KCMP_VM",
    "TFD_TIMER_ABSTIME",
    "TFD_TIMER_CANCEL_ON_SET",
    "TimerSetting",
    "fallocate_punch",
    "fstatfs_type",
    "ioprio_set_idle",
    "kcmp",
    "kcmp_epoll_target",
    "pidfd_getfd",
    "signalfd",
    "syscall",
    "tee",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_settime",
]

KCMP_FILE = 0
KCMP_VM = 1
KCMP_FILES = 2
KCMP_FS = 3
KCMP_SIGHAND = 4
KCMP_IO = 5
KCMP_SYSVSEM = 6
KCMP_EPOLL_TFD = 7

TFD_TIMER_ABSTIME = 1
TFD_TIMER_CANCEL_ON_SET = 2

# glibc wraps neither; 438 is the number on every architecture.
_KCMP = {"x86_64": 312, "aarch64": 272}[os.uname().machine]
_PIDFD_GETFD = 438
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}[os.uname().machine]

_IOPRIO_WHO_PROCESS, _IOPRIO_CLASS_IDLE = 1, 3
# linux/falloc.h: FALLOC_FL_PUNCH_HOLE has to come with FALLOC_FL_KEEP_SIZE.
_PUNCH_HOLE = 0x02 | 0x01

_SPLICE_F_NONBLOCK = 2
_SECOND = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_libc.tee.restype = ctypes.c_ssize_t


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class _KcmpEpollSlot(ctypes.Structure):
    _fields_ = (
        ("efd", ctypes.c_uint32),
        ("tfd", ctypes.c_uint32),
        ("toff", ctypes.c_uint32),
    )


class _Statfs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 248))


def _check(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(number: int, *args: int | bytes) -> int:
    """syscall(2): any system call, by its number on this architecture.

    Args:
        number: The system call's number.
        args: Ints go as they are, bytes as their address (Linux must not write there).

    Raises:
        OSError: What Linux answered.
    """
    words = [
        ctypes.c_char_p(arg) if isinstance(arg, bytes) else ctypes.c_long(arg)
        for arg in args
    ]
    return _check(_libc.syscall(ctypes.c_long(number), *words))


def fallocate_punch(fd: int, offset: int, length: int) -> None:
    """fallocate(2) with FALLOC_FL_PUNCH_HOLE: give back the space of a part of a file,
    which reads as zeros from then on.

    Raises:
        OSError: EOPNOTSUPP where the file system has no holes.
    """
    _check(_libc.fallocate(fd, _PUNCH_HOLE, offset, length))


def ioprio_set_idle() -> None:
    """ioprio_set(2): this thread's reads and writes wait for everybody else's.

    Raises:
        OSError: What Linux answered.
    """
    syscall(_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE << 13)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): a duplicate, here, of another process's descriptor.

    It is the same open file description; close-on-exec is set.

    Raises:
        OSError: EBADF no such descriptor there, EPERM no ptrace access, ESRCH it ended.
    """
    return syscall(_PIDFD_GETFD, pidfd, fd, 0)


def kcmp(pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> int:
    """kcmp(2): whether two processes share something that Linux holds.

    Args:
        kind: One of the ``KCMP_*`` constants.
        index1, index2: Descriptor numbers for `KCMP_FILE`.

    Returns:
        0 equal, 1 less, 2 greater, 3 different without an order.

    Raises:
        OSError: EBADF, EPERM, ESRCH, or ENOSYS (Linux built without it).
    """
    return syscall(_KCMP, pid1, pid2, kind, index1, index2)


def kcmp_epoll_target(pid: int, epoll: int, target: int, nth: int = 0) -> bool:
    """Whether descriptor ``target`` of ``pid`` is still the file that was registered.

    KCMP_EPOLL_TFD of kcmp(2): an epoll instance remembers the number under which a
    file was registered; the number may mean something else by now.

    Args:
        pid: The process, for both sides.
        epoll: Its descriptor of the epoll instance.
        target: The number registered, and the descriptor compared.
        nth: Which of several registrations with that number, in fdinfo's order.

    Raises:
        OSError: ENOENT no such registration, else as `kcmp`.
    """
    slot = _KcmpEpollSlot(epoll, target, nth)
    address = ctypes.addressof(slot)
    return kcmp(pid, pid, KCMP_EPOLL_TFD, target, address) == 0


def signalfd(mask: int, *, fd: int = -1, flags: int = 0) -> int:
    """signalfd(2): a descriptor from which signals are read.

    Args:
        mask: Bit ``n - 1`` set accepts signal ``n``, as fdinfo's ``sigmask`` has it.
        fd: -1 for a new one, or an existing one whose mask is replaced.
        flags: SFD_CLOEXEC (02000000), SFD_NONBLOCK (04000).
    """
    # glibc's sigset_t is 1,024 bits, of which Linux reads 64.
    sigset = mask.to_bytes(8, "little") + bytes(120)
    return _check(_libc.signalfd(fd, sigset, flags))


@dataclass(frozen=True, slots=True)
class TimerSetting:
    """struct itimerspec, in nanoseconds."""

    value: int
    """Time to the next expiration (or its instant, with TFD_TIMER_ABSTIME); 0 disarmed."""
    interval: int = 0
    """Period; 0 for a timer that expires once."""


def timerfd_create(clock: int, flags: int = 0) -> int:
    """timerfd_create(2).

    Args:
        clock: A CLOCK_* number.
        flags: TFD_CLOEXEC (02000000), TFD_NONBLOCK (04000).
    """
    return _check(_libc.timerfd_create(clock, flags))


def timerfd_settime(fd: int, setting: TimerSetting, flags: int = 0) -> None:
    """timerfd_settime(2); ``flags`` TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET.

    It also zeroes the count of expirations not yet read.
    """
    new = _Itimerspec(
        *divmod(setting.interval, _SECOND),
        *divmod(setting.value, _SECOND),
    )
    _check(_libc.timerfd_settime(fd, flags, ctypes.byref(new), None))


def timerfd_gettime(fd: int) -> TimerSetting:
    """timerfd_gettime(2): the time that remains, always relative."""
    now = _Itimerspec()
    _check(_libc.timerfd_gettime(fd, ctypes.byref(now)))
    return TimerSetting(
        now.value_s * _SECOND + now.value_ns,
        now.interval_s * _SECOND + now.interval_ns,
    )


def tee(source: int, target: int, length: int) -> int:
    """tee(2) without waiting: copies a pipe's unread bytes into another pipe and
    leaves them where they are.

    Returns:
        Bytes copied: less than ``length`` where ``target`` is full before.

    Raises:
        OSError: EAGAIN ``source`` is empty or ``target`` is full, EINVAL no pipes.
    """
    return _check(_libc.tee(source, target, length, _SPLICE_F_NONBLOCK))


def fstatfs_type(fd: int) -> int:
    """``f_type`` of fstatfs(2): the magic number of the file system of ``fd``."""
    buffer = _Statfs()
    _check(_libc.fstatfs(fd, ctypes.byref(buffer)))
    return int(buffer.f_type) & 0xFFFF_FFFF
