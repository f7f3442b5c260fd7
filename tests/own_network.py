"""A network of one's own for each of several processes that run tests side by side.

A kernel's ports are chosen by binding to any that is free, and left again until the kernel
binds to them: meanwhile another process may be given the same ones. That is so with every
kernel everywhere; among thousands of tests, two at a time, it happens.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

__all__ = ["enter_own_network"]

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914  # linux/sockios.h
_IFF_UP = 1  # linux/if.h
_IFREQ = struct.Struct("16sh22x")


def enter_own_network() -> None:
    """Have the calling thread, and all that it starts, in a network that has loopback only.

    Raises:
        OSError: that is not permitted (it takes CAP_SYS_ADMIN), network_namespaces(7).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = _IFREQ.pack(b"lo", 0)
        _, flags = _IFREQ.unpack(fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))
