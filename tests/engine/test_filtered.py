"""Under system call filters, as in containers: what is permitted works, what is not is
refused before anything is done, by name and with the next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import User
from tests.engine.filtered import DOCKER, filtered
from tests.engine.kernels import (
    CommandError,
    CommandLine,
    Frontend,
    Kernel,
    command_line,
    kernel,
)


@contextmanager
def under(user: User, *calls: str) -> Iterator[tuple[CommandLine, Kernel]]:
    """A kernel, and our command line, both without those calls."""
    without = filtered(user, *calls)
    with command_line(without) as cr, kernel(without) as started:
        started.do("x = 1")
        yield cr, started


def check(cr: CommandLine) -> tuple[bool, Any]:
    """Whether all that is needed is there, and what `check` says."""
    try:
        return True, cr("check")
    except CommandError as error:
        return False, str(error)


@pytest.mark.long
def test_without_mount(user: User) -> None:
    """No mount namespace can be made private, so none gets a /proc: nothing must be
    mounted that others would see."""
    with under(user, "mount") as (cr, original):
        assert check(cr)[0]
        name = cr.checkpoint(original.pid)
        original.do("x = 2")
        before = original.value("sorted(open('/proc/mounts'))")
        restored = cr("restore", name)
        assert "no /proc of its own" in " ".join(restored["warnings"])
        assert original.value("x") == "1"
        assert original.value("sorted(open('/proc/mounts'))") == before
        _, path = cr.fork(name)
        fork = Frontend.of(str(path))
        try:
            assert fork.value("x") == "1"
        finally:
            fork.close()


@pytest.mark.long
def test_a_warm_fork_without_setns(user: User) -> None:
    with under(user, "setns", "userfaultfd") as (cr, original):
        assert check(cr)[0]
        name = f"{cr.prefix}-warm"
        cr("checkpoint", str(original.pid), "--name", name, "--warm")
        try:
            for _ in range(2):
                forked = cr("fork", name)
                assert "setns is forbidden" in " ".join(forked["warnings"])
                fork = Frontend.of(forked["connection_file"])
                try:
                    assert fork.value("x") == "1"
                finally:
                    fork.close()
            original.do("x += 1")
            assert original.value("x") == "2"
        finally:
            cr.user.run(*_rm(cr, name))


def _rm(cr: CommandLine, name: str) -> list[str]:
    return [*cr.argv("rm", name)[len(cr.user.prefix) : -1]]


CHILD = "import subprocess; c = subprocess.Popen(['cat'], stdin=subprocess.PIPE)"


def test_without_kcmp(user: User) -> None:
    """By which it is found out what a child shares with its parent."""
    with under(user, "kcmp") as (cr, original):
        original.do(CHILD)
        found, said = check(cr)
        assert not found
        assert "kcmp" in said
        with pytest.raises(CommandError, match="kcmp") as refused:
            cr.checkpoint(original.pid)
        assert "bug" not in str(refused.value)
        assert "jupyter cr check" in str(refused.value)
        original.do("x += 1")
        assert original.value("x") == "2"


@pytest.mark.parametrize("child", ["", CHILD], ids=["alone", "child"])
def test_dockers_profile(user: User, child: str) -> None:
    with under(user, *DOCKER) as (cr, original):
        original.do(child)
        found, _ = check(cr)
        assert not found
        with pytest.raises(CommandError, match="jupyter cr check") as refused:
            cr.checkpoint(original.pid)
        assert "bug" not in str(refused.value)
        assert original.value("x") == "1"


def refusal(cr: CommandLine, pid: int) -> str:
    """What is said of the first thing that cannot be done; empty if all can."""
    try:
        name = cr.checkpoint(pid)
        cr.fork(name)
        cr.restore(name)
    except CommandError as error:
        return str(error)
    return ""


@pytest.mark.long
@pytest.mark.parametrize("call", DOCKER)
def test_check_keeps_its_word(user: User, call: str) -> None:
    """Whatever one call is refused: if `check` says yes, all of it works; else there is an
    error that says what to do."""
    with under(user, call) as (cr, original):
        found, said = check(cr)
        assert found or call in said
        refused = refusal(cr, original.pid)
        if found:
            assert not refused
        else:
            assert "bug" not in refused
            assert "jupyter cr check" in refused
        assert original.value("x") == "1"
