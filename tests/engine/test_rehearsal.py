"""The rehearsal leaves nothing, and never keeps a checkpoint from being made."""

from __future__ import annotations

import os

import psutil
import pytest

from jupyter_cr.engine.rehearsal import rehearse
from jupyter_cr.errors import TargetError


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_nothing_stays() -> None:
    before = descriptors()
    played: list[psutil.Process] = []
    rehearse(lambda pid: played.append(psutil.Process(pid)))
    (child,) = played
    assert not child.is_running()
    assert descriptors() == before


def test_failure_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pid: int) -> None:
        raise TargetError(f"process {pid} is of no use")

    before = descriptors()
    rehearse(fail)
    monkeypatch.setenv("PATH", "/nonexistent")
    rehearse(fail)
    assert descriptors() == before
    assert not psutil.Process().children()
