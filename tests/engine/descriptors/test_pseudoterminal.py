from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
from collections.abc import Callable

import pytest

from jupyter_cr.engine.descriptors import pseudoterminal
from jupyter_cr.errors import CorruptImage, Unsupported
from jupyter_cr.tracer import tty
from tests.engine.descriptors.harness import (
    collect,
    collect_and_close,
    flags_of,
    put_in_place,
    rebuilt,
)
from tests.engine.descriptors.test_pty_queue import Pty, poll, read_all
from tests.engine.descriptors.test_pty_queue import pseudoterminal as new
from tests.engine.harness import LIMIT


def test_both_sides() -> None:
    with new() as pty:
        os.set_blocking(pty.slave, True)
        tty.write_window_size(pty.master, (20, 70, 3, 4))
        pty.type(b"line\nrest")
        flags = flags_of(pty.master), flags_of(pty.slave)
        files = collect(pty.master, pty.slave)
        with rebuilt(files) as ([master, slave], rebuilding):
            again = Pty(master, slave)
            assert (flags_of(master), flags_of(slave)) == flags
            assert again.settings == pty.settings
            assert tty.read_window_size(slave) == (20, 70, 3, 4)
            assert os.ttyname(slave) != os.ttyname(pty.slave)
            for one in (pty, again):
                assert one.read_output() == b"line\r\nrest"
                assert one.read_input() == [b"line\n"]
                one.type(b"!\n")
                assert one.read_input() == [b"rest!\n"]
            assert rebuilding.warnings == []


def test_master_alone_is_hung_up() -> None:
    with new() as pty, new() as other:
        pty.print(b"last words")
        os.close(pty.slave)
        pty.slave = os.dup(other.slave)
        with rebuilt(collect(pty.master)) as ([again], _):
            for master in (pty.master, again):
                assert poll(master, select.POLLHUP)
                assert os.read(master, 100) == b"last words"
                with pytest.raises(OSError, match="Input/output error"):
                    os.read(master, 100)


def test_program_that_has_ended() -> None:
    """It led a session, so that its terminal was hung up."""
    pid, master = pty.fork()
    if not pid:
        os.write(1, b"last words")
        os._exit(0)
    assert select.select([master], [], [], LIMIT)[0]
    os.waitpid(pid, 0)
    files = collect(master)
    with rebuilt(files) as ([again], _):
        for fd in (master, again):
            assert read_all(fd, until_end=True) == b"last words"
    os.close(master)


def test_slave_that_leads_nowhere() -> None:
    master, slave = os.openpty()
    os.close(master)
    [file] = files = collect_and_close(slave)
    assert file.record.side == "hung up"
    with rebuilt(files) as ([again], rebuilding):
        assert os.read(again, 100) == b""
        with pytest.raises(OSError, match="Input/output error"):
            os.write(again, b"x")
        assert rebuilding.warnings == []


def test_slave_opened_in_several_ways() -> None:
    with new() as pty:
        name = os.ttyname(pty.slave)
        accesses = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
        slaves = [os.open(name, access | os.O_NOCTTY) for access in accesses]
        before = [flags_of(fd) for fd in slaves]
        files = collect(*slaves, pty.master)
        with rebuilt(files) as ([*again, master], _):
            assert [flags_of(fd) for fd in again] == before
            assert len({os.ttyname(fd) for fd in again}) == 1
            os.write(again[1], b"through the second")
            assert read_all(master) == b"through the second"
        for fd in slaves:
            os.close(fd)


def test_two_are_told_apart() -> None:
    with new() as one, new() as two:
        one.print(b"one")
        two.print(b"two")
        files = collect(one.slave, two.slave, two.master, one.master)
        with rebuilt(files) as ([slave_1, slave_2, master_2, master_1], _):
            assert os.ttyname(slave_1) != os.ttyname(slave_2)
            assert (read_all(master_1), read_all(master_2)) == (b"one", b"two")


def test_watched_by_epoll() -> None:
    with new() as pty, select.epoll() as epoll:
        epoll.register(pty.master, select.EPOLLIN)
        epoll.register(pty.slave, select.EPOLLIN)
        files = collect(pty.master, pty.slave, epoll.fileno())
        assert not any(r.may_fail for r in files[2].record.registrations)
        kept = os.dup(pty.master), os.dup(pty.slave), os.dup(epoll.fileno())
        for fd in (pty.master, pty.slave):
            os.close(fd)
        epoll.close()
        with rebuilt(files) as (fds, rebuilding):
            put_in_place(files, fds, rebuilding)
            with select.epoll.fromfd(fds[2]) as again:
                assert again.poll(0) == []
                os.write(fds[1], b"x")
                assert again.poll(1) == [(fds[0], select.EPOLLIN)]
            fds[2] = os.eventfd(0)
        pty.master, pty.slave = kept[:2]
        os.close(kept[2])


N_NULL = 27


def lock_settings(pty: Pty) -> None:
    fcntl.ioctl(pty.master, 0x5457, b"\xff" * 36)


def choose_line_discipline(pty: Pty) -> None:
    fcntl.ioctl(pty.master, 0x5423, struct.pack("i", N_NULL))


def edit_outside(pty: Pty) -> None:
    pty.change(lflag=pty.settings.lflag | tty.EXTPROC)


def leave_status(pty: Pty) -> None:
    tty.set_packet_mode(pty.master, True)
    termios.tcflush(pty.slave, termios.TCIFLUSH)


def stop_input(pty: Pty) -> None:
    termios.tcflow(pty.master, termios.TCOOFF)


def fill_input(pty: Pty) -> None:
    pty.change(lflag=termios.ISIG)
    os.write(pty.master, b"x" * 10000)


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lock_settings, "settings are locked"),
        (choose_line_discipline, "line discipline"),
        (edit_outside, "EXTPROC"),
        (leave_status, "status"),
        (stop_input, "input is stopped"),
        (fill_input, "input or more are unread"),
    ],
)
def test_refused(prepare: Callable[[Pty], None], why: str) -> None:
    with new() as pty:
        try:
            prepare(pty)
        except PermissionError:
            pytest.skip("not permitted to this user")
        with pytest.raises(Unsupported, match=why) as caught:
            collect(pty.master, pty.slave)
        assert caught.value.hint
        assert f"descriptor {pty.master}" in caught.value.message


def test_slave_that_was_never_opened_is_refused() -> None:
    master = tty.open_pseudoterminal()
    with pytest.raises(Unsupported, match="has not been opened yet"):
        collect(master)
    assert not poll(master, select.POLLHUP)
    os.close(master)


def test_state_that_the_snapshot_lacks() -> None:
    with new() as pty:
        _, slave = collect(pty.master, pty.slave)
        with pytest.raises(CorruptImage), rebuilt([slave]):
            pass


def test_terminal_of_somebody_else_is_one_like_any_other() -> None:
    with new() as pty:
        [file] = collect(pty.slave)
        assert not isinstance(file.record, pseudoterminal.Record)


def test_nothing_is_left_open() -> None:
    with new() as pty:
        pty.type(b"line\nrest")
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with rebuilt(collect(pty.master, pty.slave)):
                pass
        assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
