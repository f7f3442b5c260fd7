"""kill -9 on the engine in the middle of a restore or a fork: nothing half-built stays
behind, the snapshot is intact, and the command run again succeeds."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest

from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import (
    CommandLine,
    ask,
    command_line,
    forked,
    is_alive,
    kernel,
    served,
)

TREE = r"""
import multiprocessing, os, socket, subprocess, threading
marker = {marker!r}
x = 41
threads = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(3)]
for thread in threads: thread.start()
shared = multiprocessing.Value("i", 7)
ends, pipe = socket.socketpair(), os.pipe()
os.write(pipe[1], b"unread")
big = bytes(1 << 20) + os.urandom(1 << 20)
extra = socket.create_server(("127.0.0.2", 0))
child = os.fork()
if not child:
    while True: signal.pause()
zombie = subprocess.Popen(["true"])
os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
def state():
    os.kill(child, 0)
    return [x, shared.value, len(big), threading.active_count()]
serve()
"""


def of_tree(marker: str) -> set[int]:
    """All living processes with that in their command line."""
    found = set()
    for one in psutil.process_iter():
        try:
            if marker in " ".join(one.cmdline()) and one.status() != psutil.STATUS_ZOMBIE:
                found.add(one.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def kill_after(cr: CommandLine, words: list[str], how: str, number: str) -> bool:
    """Whether the command was killed; if not, it has succeeded."""
    user = cr.user
    module = ["-m", "tests.engine.dying_restore", how, number]
    if how == "delay":
        argv = cr.argv(*words)
    else:
        argv = user.command(user.python, *module, *words, "--json")
    process = subprocess.Popen(
        argv,
        cwd=user.home,
        env=dict(user.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    if how == "delay":
        time.sleep(float(number))
        process.kill()
    _, error = process.communicate(timeout=LIMIT)
    assert process.returncode in (0, -signal.SIGKILL), error.decode()
    return process.returncode != 0


def check_tree(root: int, expected: object) -> None:
    assert ask(root, "state()") == expected


def roots(cr: CommandLine) -> list[int]:
    """Of rebuilt trees: children of keepers that are none themselves."""
    keepers = cr.keepers()
    children: set[int] = set()
    for keeper in keepers:
        try:
            children |= {child.pid for child in psutil.Process(keeper).children()}
        except psutil.NoSuchProcess:
            continue
    return [pid for pid in children - set(keepers) if is_alive(pid)]


def sweep_fork(cr: CommandLine, name: str, root: int, moments: Callable[[int], str]) -> int:
    """Kill forks at one moment after the other, until one is done first."""
    expected = ask(root, "state()")
    number = 0
    while kill_after(cr, ["fork", name], *moments(number).split()):
        number += 1
        # Whatever there was has gone with the engine; or it was let go, and is whole.
        wait_until(lambda: not cr.keepers() or roots(cr), "half-built keepers end")
        for pid in roots(cr):
            wait_until(lambda pid=pid: not is_alive(pid) or whole(pid, expected), "whole")
        cr.end_all()
        check_tree(root, expected)
    cr.end_all()
    return number


def whole(pid: int, expected: object) -> bool:
    try:
        return bool(ask(pid, "state()") == expected)
    except (OSError, AssertionError, psutil.Error):
        return False


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
@pytest.mark.long
def test_fork_at_every_stop(user: User, step: int) -> None:
    if step > 1 and user.name == "root":
        pytest.skip("as an ordinary user in the short run")
    code = "import signal\n" + TREE.replace("{marker!r}", repr(f"fork-{step}"))
    with command_line(user) as cr, served(user, code) as process:
        name = cr.checkpoint(process.pid)
        count = sweep_fork(cr, name, process.pid, lambda n: f"stops {n * step + n % step}")
        assert count * step > 20
        cr("verify", name)
        pid, _ = cr.fork(name)
        check_tree(pid, ask(process.pid, "state()"))


@pytest.mark.timeout(300)
def test_fork_at_the_first_accesses(user: User) -> None:
    """A seed that is there, but not yet traced, must not stay either."""
    code = "import signal\n" + TREE.replace("{marker!r}", repr("accesses"))
    with command_line(user) as cr, served(user, code) as process:
        name = cr.checkpoint(process.pid)
        for number in range(6):
            assert kill_after(cr, ["fork", name], "steps", str(number))
            wait_until(lambda: not cr.keepers(), "the seed ends")


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_restore_at_every_stop(user: User, step: int) -> None:
    """Whatever was running is either still there, or has been ended; the command run
    again succeeds in both cases."""
    if step > 1 and user.name == "root":
        pytest.skip("as an ordinary user in the short run")
    code = "import signal\n" + TREE.replace("{marker!r}", repr(f"restore-{step}"))
    with command_line(user) as cr, served(user, code) as process:
        expected = ask(process.pid, "state()")
        name = cr.checkpoint(process.pid)
        root = process.pid
        number = 0
        while kill_after(cr, ["restore", name], "stops", str(number * step)):
            number += 1
            if not is_alive(root):
                wait_until(lambda: not cr.keepers() or roots(cr), "half-built ones end")
                root = cr.restore(name)
            check_tree(root, expected)
            wait_until(lambda: len(cr.keepers()) in (0, 3), "half-built ones end")
        assert number * step > 20
        cr("verify", name)
        check_tree(cr.restore(name), expected)


def kill_at_random(user: User, times: int) -> None:
    moments = random.Random(times)
    with command_line(user) as cr, kernel(user) as one:
        one.do("x = 0; import numpy; big = numpy.arange(1_000_000)")
        name = cr.checkpoint(one.connection_file)
        began = time.monotonic()
        cr.restore(name)
        longest = time.monotonic() - began
        for number in range(times):
            how = ("restore", "fork")[number % 2]
            # Most of the time goes by before the first process is made.
            moment = moments.uniform(0.3 * longest, 1.1 * longest)
            kill_after(cr, [how, name], "delay", f"{moment:.6f}")
            wait_until(lambda: not half_built(cr), "half-built ones end")
            if number % 5 == 4:
                cr.restore(name)
                assert one.value("(x, int(big.sum()))") == "(0, 499999500000)"
                with forked(cr, name) as (two, _):
                    assert two.value("(x, int(big.sum()))") == "(0, 499999500000)"
                cr.end_all()
                cr.restore(name)
        cr("verify", name)


def half_built(cr: CommandLine) -> list[int]:
    """Keepers without a whole tree: a supervisor that keeps nobody."""
    found = []
    for pid in cr.keepers():
        try:
            below = psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            continue
        kept = {child.pid for child in below} - set(cr.keepers())
        if not kept:
            found.append(pid)
    return found


@pytest.mark.parametrize("times", [10, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
@pytest.mark.long
def test_kernel_at_random_moments(user: User, times: int) -> None:
    if times == 10 and user.name == "root":
        pytest.skip("as an ordinary user in the short run")
    kill_at_random(user, times)


@pytest.mark.parametrize("times", [8, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
def test_keepers_killed(user: User, times: int) -> None:
    """Somebody kills the half-built tree: the command says so, and does not wait for ever
    for a process whose threads are dead."""
    code = "import signal\n" + TREE.replace("{marker!r}", repr(f"keepers-{times}"))
    with command_line(user) as cr, served(user, code) as process:
        name = cr.checkpoint(process.pid)
        for _ in range(times):
            command = subprocess.Popen(
                cr.argv("fork", name),
                cwd=user.home,
                env=dict(user.environment),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_until(cr.keepers, "keepers")
            time.sleep(random.uniform(0, 0.15))
            cr.end_all()
            command.wait(LIMIT)
        assert ask(process.pid, "x") == 41
