from __future__ import annotations

import os

import pytest

from jupyter_cr.engine.descriptors import eventfd
from tests.engine.descriptors.harness import collect, collect_and_close, flags_of, rebuilt

LARGEST = (1 << 64) - 2


@pytest.mark.parametrize("count", [0, 1, 0x1234, 1 << 32, LARGEST])
@pytest.mark.parametrize("flags", [0, os.EFD_NONBLOCK])
def test_count(count: int, flags: int) -> None:
    fd = os.eventfd(0, flags | os.EFD_CLOEXEC)
    os.eventfd_write(fd, count)
    before = flags_of(fd)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert flags_of(again) == before
        if count:
            assert os.eventfd_read(again) == count
        os.set_blocking(again, False)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(again)


def test_semaphore() -> None:
    fd = os.eventfd(3, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
    [file] = collect(fd)
    os.close(fd)
    assert isinstance(file.record, eventfd.Record)
    with rebuilt([file]) as ([again], _):
        assert os.eventfd_read(again) == (1 if file.record.semaphore else 3)


def test_collecting_leaves_the_count() -> None:
    fd = os.eventfd(5)
    collect(fd)
    assert os.eventfd_read(fd) == 5
    os.close(fd)
