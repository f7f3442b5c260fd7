from __future__ import annotations

import os

import pytest

from jupyter_cr.engine.descriptors import character_device
from jupyter_cr.errors import Unsupported
from tests.engine.descriptors.harness import (
    collect,
    collect_and_close,
    describe,
    flags_of,
    rebuilt,
)


@pytest.mark.parametrize("name", ["null", "zero", "full", "random", "urandom"])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_NONBLOCK])
def test_memory_devices(name: str, flags: int) -> None:
    fd = os.open(f"/dev/{name}", flags)
    rdev, before = os.fstat(fd).st_rdev, flags_of(fd)
    with rebuilt(collect_and_close(fd)) as ([again], rebuilding):
        assert os.fstat(again).st_rdev == rdev
        assert flags_of(again) == before
        assert rebuilding.warnings == []


@pytest.mark.parametrize("path", [b"/dev/zero", b"/nowhere"])
def test_recorded_path_is_another_device_now(path: bytes) -> None:
    record = character_device.Record(path, os.makedev(1, 3), os.O_RDONLY)
    with rebuilt([]) as (_, rebuilding):
        fd = character_device.rebuild(record, rebuilding)
        assert os.fstat(fd).st_rdev == os.makedev(1, 3)
        os.close(fd)


def test_write_only() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    with (
        rebuilt(collect_and_close(fd)) as ([again], _),
        pytest.raises(OSError, match="space"),
    ):
        os.write(again, b"x")


@pytest.mark.parametrize("name", ["/dev/fuse", "/dev/kmsg", "/dev/net/tun", "/dev/kvm"])
def test_other_devices_are_refused(name: str) -> None:
    try:
        fd = os.open(name, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        pytest.skip(f"{name} cannot be opened here")
    with pytest.raises(Unsupported, match=f"{name}.*is a device") as caught:
        collect(fd)
    assert caught.value.hint
    os.close(fd)


def test_refusal_names_a_graphics_card() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    real = describe(fd)
    os.close(fd)
    # A card's device number at the place of /dev/null's: there is no card to open here.
    status = list(real.stat)
    card = os.stat_result(status, {"st_rdev": os.makedev(195, 0)})
    descriptor = type(real)(
        real.local, real.places, "/dev/nvidia0", real.flags, real.fdinfo, card
    )
    with pytest.raises(Unsupported, match=r"/dev/nvidia0.*195:0") as caught:
        collect(descriptor)
    assert "device" in caught.value.hint
