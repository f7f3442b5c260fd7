"""A tree comes back in place: same pids, same ports, whatever has become of it."""

from __future__ import annotations

import os
import signal

from tests.conftest import User
from tests.engine.kernels import command_line, is_alive, kernel


def test_same_client_gets_answers(user: User) -> None:
    with command_line(user) as cr, kernel(user) as one:
        one.run("import os; x = [41]; seen = (os.getpid(), os.getppid())")
        name = cr.checkpoint(one.connection_file)
        one.run("x = None")
        pid = cr.restore(name)
        assert one.run("x.append(1); print(x)") == "[41, 1]"
        assert one.value("(os.getpid(), os.getppid()) == seen") == "True"
        assert pid != one.pid
        assert not is_alive(one.pid)


def test_of_a_tree_that_is_gone(user: User) -> None:
    """Killed and reaped before."""
    with command_line(user) as cr, kernel(user) as one:
        one.run("x = 41")
        name = cr.checkpoint(one.pid)
        one.process.kill()
        one.process.wait()
        cr.restore(name)
        assert one.run("print(x)") == "41"


def test_of_a_zombie(user: User) -> None:
    """Killed, and its parent has not asked yet."""
    with command_line(user) as cr, kernel(user) as one:
        one.run("x = 41")
        name = cr.checkpoint(one.pid)
        os.kill(one.pid, signal.SIGKILL)
        cr.restore(name)
        assert one.run("print(x)") == "41"
        assert one.process.wait() == -signal.SIGKILL


def test_twice_in_a_row(user: User) -> None:
    with command_line(user) as cr, kernel(user) as one:
        one.run("x = 1")
        name = cr.checkpoint(one.pid)
        first = cr.restore(name)
        second = cr.restore(name)
        assert first != second
        assert not is_alive(first)
        assert one.run("x += 1; print(x)") == "2"
        cr.restore(name)
        assert one.run("print(x)") == "1"
