from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jupyter_cr.errors import CorruptImage, Unsupported
from tests.engine.descriptors.harness import (
    collect,
    collect_and_close,
    flags_of,
    put_in_place,
    rebuilt,
)
from tests.engine.harness import LIMIT

PIDFD_THREAD = os.O_EXCL


@contextmanager
def child() -> Iterator[int]:
    with subprocess.Popen(["sleep", "100"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def named(fd: int) -> int:
    """Whom a pidfd of this process names; -1 once that is gone."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    return int(text.partition("\nPid:")[2].split()[0])


def is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))


def test_outside_the_tree_it_is_refused() -> None:
    with child() as pid:
        fd = os.pidfd_open(pid)
        with pytest.raises(Unsupported, match=rf"process {pid} \(.*\), which is not of"):
            collect(fd, members=[os.getpid()])
        os.close(fd)


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
def test_living(flags: int) -> None:
    with child() as recorded, child() as rebuilt_as:
        fd = os.pidfd_open(recorded, flags)
        before = flags_of(fd)
        files = collect(fd, members=[recorded])
        os.close(fd)
        with rebuilt(files, pids={recorded: rebuilt_as}) as ([again], _):
            assert named(again) == rebuilt_as
            assert flags_of(again) == before
            assert not is_readable(again)
            signal.pidfd_send_signal(again, signal.SIGKILL)
            assert select.select([again], [], [], LIMIT)[0]
            found = os.waitid(os.P_PIDFD, again, os.WEXITED | os.WNOWAIT)
            assert found is not None
            assert found.si_pid == rebuilt_as


def test_thread() -> None:
    try:
        fd = os.pidfd_open(os.getpid(), PIDFD_THREAD)
    except OSError:
        pytest.skip("no pidfds of threads here")
    before = flags_of(fd)
    files = collect(fd, members=[os.getpid()])
    os.close(fd)
    with rebuilt(files, pids={os.getpid(): os.getpid()}) as ([again], _):
        assert named(again) == os.getpid()
        assert flags_of(again) == before


def test_one_that_is_to_be_waited_for() -> None:
    with child() as pid:
        fd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with rebuilt(collect(fd, members=[pid]), pids={pid: pid}) as ([again], _):
            assert named(again) == pid
            assert is_readable(again)
        os.close(fd)


@pytest.mark.parametrize("command", ["exit 0", "exit 7", "kill -9 $$", "kill -15 $$"])
def test_one_that_has_been_waited_for(command: str) -> None:
    with subprocess.Popen(["sh", "-c", command]) as process:
        fd = os.pidfd_open(process.pid)
    status = process.returncode
    [file] = files = collect(fd)
    with rebuilt(files) as ([again], _):
        assert named(again) == named(fd) == -1
        assert is_readable(again)
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(again, 0)
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_PIDFD, again, os.WEXITED)
        # Where Linux tells how it ended, it tells the same again.
        recorded = os.waitstatus_to_exitcode(file.record.status)
        assert recorded in (status, 0)
        assert collect(again)[0].record == file.record
    os.close(fd)


def test_watched_by_epoll() -> None:
    with child() as pid, select.epoll() as epoll:
        fd = os.pidfd_open(pid)
        epoll.register(fd, select.EPOLLIN)
        files = collect(epoll.fileno(), fd, members=[pid])
        numbers = [os.dup(epoll.fileno()), os.dup(fd)]
        os.close(fd)
        epoll.close()
        with rebuilt(files, pids={pid: pid}) as (fds, rebuilding):
            put_in_place(files, fds, rebuilding)
            with select.epoll.fromfd(fds[0]) as again:
                assert again.poll(0) == []
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                assert again.poll(1) == [(fds[1], select.EPOLLIN)]
                fds[0] = os.dup(again.fileno())
        for number in numbers:
            os.close(number)


def test_process_that_the_snapshot_lacks() -> None:
    with child() as pid:
        fd = os.pidfd_open(pid)
        files = collect(fd, members=[pid])
        os.close(fd)
        with pytest.raises(CorruptImage), rebuilt(files):
            pass


def test_nothing_is_left() -> None:
    with subprocess.Popen(["true"]) as process:
        fd = os.pidfd_open(process.pid)
    files = collect_and_close(fd)
    with rebuilt(files):
        pass
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
