"""Linux's memory devices, which have no state; every other device is refused."""

from __future__ import annotations

__all__ = ["Record", "collect", "matches", "rebuild"]

import os
import stat

import msgspec

from jupyter_cr.engine.descriptors import path
from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.errors import RestoreError

_STATELESS = {
    os.makedev(1, 3): b"/dev/null",
    os.makedev(1, 5): b"/dev/zero",
    os.makedev(1, 7): b"/dev/full",
    os.makedev(1, 8): b"/dev/random",
    os.makedev(1, 9): b"/dev/urandom",
}
"""By st_rdev: Linux's Documentation/admin-guide/devices.txt, major 1."""

_DEVICE_MEMORY = (
    "Free what is on the device and close it, then checkpoint; open it again afterwards."
)
_HINTS = {
    "/dev/nvidia": _DEVICE_MEMORY,
    "/dev/dri/": _DEVICE_MEMORY,
    "/dev/kfd": _DEVICE_MEMORY,
    "/dev/infiniband/": "Close the RDMA connections before the checkpoint.",
    "/dev/fuse": "Unmount the FUSE file system that this process serves.",
    "/dev/kvm": "Stop the virtual machine that this process runs.",
    "/dev/net/tun": "Close the tunnel before the checkpoint.",
    "/dev/snd/": "Stop sound input and output before the checkpoint.",
    "/dev/video": "Stop the camera before the checkpoint.",
}


class Record(msgspec.Struct, frozen=True, tag="character_device"):
    path: bytes
    rdev: int
    flags: int


def matches(descriptor: Descriptor) -> bool:
    """Any character device; the dispatcher asks after terminals before."""
    return stat.S_ISCHR(descriptor.stat.st_mode)


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Which of the memory devices it is.

    Raises:
        Unsupported: It is any other device.
    """
    rdev = descriptor.stat.st_rdev
    if rdev not in _STATELESS:
        hints = (hint for name, hint in _HINTS.items() if descriptor.link.startswith(name))
        raise descriptor.unsupported(
            f"is a device ({os.major(rdev)}:{os.minor(rdev)}) with state of its own",
            next(hints, "Close the device before the checkpoint."),
        )
    flags = descriptor.flags & path.REOPEN
    return Record(os.fsencode(descriptor.link), rdev, flags)


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Opens the same device: at its recorded path, else at the usual one.

    Raises:
        RestoreError: Neither is this device.
    """
    for name in (record.path, _STATELESS[record.rdev]):
        try:
            if os.stat(name).st_rdev == record.rdev:
                return path.open_path(name, record.flags)
        except OSError:
            continue
    raise RestoreError(
        f"{os.fsdecode(record.path)} is no longer device "
        f"{os.major(record.rdev)}:{os.minor(record.rdev)}",
        "Make it available again (mknod) and try again.",
    )
