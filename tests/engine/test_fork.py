"""A tree comes back beside the one that runs, any number of times."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import (
    CommandError,
    Frontend,
    command_line,
    forked,
    is_alive,
    kernel,
)


def test_fork_answers_on_its_own_connection_file(user: User) -> None:
    """Original and fork then go different ways."""
    with command_line(user) as cr, kernel(user) as one:
        one.do("import os; x = [0]; seen = (os.getpid(), os.getppid())")
        name = cr.checkpoint(one.connection_file)
        wanted = user.home / "runtime" / "kernel-fork.json"
        pid, path = cr.fork(name, "--connection-file", str(wanted))
        assert path == str(wanted)
        assert wanted.stat().st_mode & 0o777 == 0o600
        two = Frontend.of(path)
        try:
            one.do("x.append('original')")
            two.do("x.append('fork')")
            assert (one.value("x"), two.value("x")) == ("[0, 'original']", "[0, 'fork']")
            assert two.value("(os.getpid(), os.getppid()) == seen") == "True"
            assert one.run("print('only here')") == "only here"
            assert two.run("print('only there')") == "only there"
            two.do("import threading; threading.Timer(0.1, os._exit, (0,)).start()")
            wait_until(lambda: not is_alive(pid), "the fork ends")
            assert one.value("x") == "[0, 'original']"
        finally:
            two.close()


@pytest.mark.parametrize("count", [3, pytest.param(10, marks=pytest.mark.long)])
@pytest.mark.timeout(300)
def test_many_at_once(user: User, count: int) -> None:
    """All are being built at the same time, and all answer."""
    with command_line(user) as cr, kernel(user) as one, ExitStack() as stack:
        one.do("x = 41; import numpy; big = numpy.arange(1_000_000)")
        name = cr.checkpoint(one.pid)
        files = [str(user.home / "runtime" / f"kernel-{n}.json") for n in range(count)]
        starting = [
            subprocess.Popen(
                cr.argv("fork", name, "--connection-file", path),
                cwd=user.home,
                env=dict(user.environment),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for path in files
        ]
        for process in starting:
            _, error = process.communicate(timeout=LIMIT * 2)
            assert process.returncode == 0, error
        forks = []
        for path in files:
            forks.append(Frontend.of(path))
            stack.callback(forks[-1].close)
        for number, fork in enumerate([one, *forks]):
            fork.do(f"x += {number}; big[:] = {number}")
        for number, fork in enumerate([one, *forks]):
            answer = fork.value("(x, int(big[0]), int(big[-1]))")
            assert answer == str((41 + number, number, number))


def test_fork_of_a_fork(user: User) -> None:
    with command_line(user) as cr, kernel(user) as one:
        one.do("x = ['one']")
        with forked(cr, cr.checkpoint(one.pid)) as (two, pid):
            two.do("x.append('two')")
            with forked(cr, cr.checkpoint(pid)) as (three, _):
                three.do("x.append('three')")
                assert three.value("x") == "['one', 'two', 'three']"
                assert two.value("x") == "['one', 'two']"
                assert one.value("x") == "['one']"


def test_fork_is_found_by_its_connection_file(user: User) -> None:
    """Its command line names the original's."""
    with command_line(user) as cr, kernel(user) as one:
        one.do("x = 'original'")
        name = cr.checkpoint(one.connection_file)
        _, path = cr.fork(name)
        assert path is not None
        two = Frontend.of(path)
        try:
            two.do("x = 'fork'")
            fork = cr.checkpoint(path)
            two.do("x = 'fork went on'")
            cr.restore(fork)
            assert (one.value("x"), two.value("x")) == ("'original'", "'fork'")
            one.process.kill()
            one.process.wait()
            with pytest.raises(CommandError, match="NoSuchProcess"):
                cr.checkpoint(one.connection_file)
        finally:
            two.close()


def test_restore_of_a_fork_is_of_the_fork(user: User) -> None:
    """And a restore of the original is of the original."""
    with command_line(user) as cr, kernel(user) as one:
        one.do("x = 'original'")
        original = cr.checkpoint(one.pid)
        with forked(cr, original) as (two, pid):
            two.do("x = 'fork'")
            fork = cr.checkpoint(pid)
            one.do("x = 'original went on'")
            two.do("x = 'fork went on'")

            again = cr.restore(fork)
            assert not is_alive(pid)
            assert two.value("x") == "'fork'"
            assert one.value("x") == "'original went on'"
            assert is_alive(one.pid)

            two.do("x = 'fork went on again'")
            cr.restore(original)
            assert one.value("x") == "'original'"
            assert two.value("x") == "'fork went on again'"
            assert is_alive(again)


def test_fork_needs_no_original(user: User) -> None:
    with command_line(user) as cr, kernel(user) as one:
        one.do("x = 41")
        name = cr.checkpoint(one.pid)
        one.process.kill()
        one.process.wait()
        with forked(cr, name) as (two, _):
            assert two.value("x") == "41"
            cr.restore(name)
            one.do("x = 42")
            assert (one.value("x"), two.value("x")) == ("42", "41")


def test_children_belong_to_their_fork(user: User) -> None:
    """Each has its own; an end of one is no end of the other."""
    with command_line(user) as cr, kernel(user) as one:
        one.do("import os, signal, subprocess; child = subprocess.Popen(['sleep', '1000'])")
        with forked(cr, cr.checkpoint(one.pid)) as (two, pid):
            assert one.value("child.pid") == two.value("child.pid")
            (other,) = psutil.Process(pid).children()
            two.do("child.terminate(); child.wait(10)")
            assert two.value("child.returncode") == str(-signal.SIGTERM)
            assert not other.is_running()
            assert one.value("child.poll()") == "None"


def test_two_restores_and_a_fork_leave_nothing(user: User) -> None:
    """When a tree ends, so does whatever held it."""
    with command_line(user) as cr, kernel(user) as one:
        one.do("x = 1")
        name = cr.checkpoint(one.pid)
        pids = [cr.fork(name)[0], cr.restore(name), cr.restore(name)]
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not cr.keepers(), "keepers end")
        wait_until(lambda: not any(map(is_alive, pids)), "trees end")
        assert Path(one.connection_file).exists()
