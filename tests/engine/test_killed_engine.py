# ruff: noqa: E501 (programs under test, as text)
"""kill -9 on the engine, at every step of a checkpoint: the tree does not notice."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from jupyter_cr.tracer.proc.maps import read_maps
from jupyter_cr.tracer.proc.tasks import list_threads
from tests.engine.harness import (
    LIMIT,
    SERVE,
    Program,
    checkpointed,
    program,
    session_of,
    wait_until,
)

BLOCKED = (
    SERVE
    + """
import os, queue, select, signal, socket, threading, time

signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
caught, errors = [], []
left, right = socket.socketpair()
listener = socket.create_server(("127.0.0.1", 0))
pipe = os.pipe()
epoll, poll = select.epoll(), select.poll()
epoll.register(right, select.EPOLLIN)
poll.register(right, select.POLLIN)
requests, answers = queue.Queue(), queue.Queue()

child = os.fork()
if not child:
    signal.pause()

def nap():
    began = time.monotonic()
    time.sleep(0.01)
    assert time.monotonic() - began >= 0.01

def forever(function, *args):
    def loop():
        try:
            while True:
                function(*args)
        except BaseException as error:
            errors.append(repr(error))
    threading.Thread(target=loop, daemon=True).start()

never = threading.Event()
for function, *args in (
    (nap,),
    (never.wait, 0.02),
    (never.wait,),
    (lambda: answers.put(requests.get() * 2),),
    (os.read, pipe[0], 1),
    (poll.poll,),
    (select.poll().poll, 15),
    (lambda: select.select([pipe[0]], [], [], 0.012),),
    (epoll.poll, 0.012),
    (listener.accept,),
    (os.waitpid, child, 0),
    (lambda: signal.sigtimedwait([signal.SIGUSR2], 0.011),),
    (signal.sigwaitinfo, [signal.SIGUSR2]),
)[: int(sys.argv[2])]:
    forever(function, *args)
count = 0

def state():
    global count
    count += 1
    requests.put(count)
    return (count, answers.get(), errors, caught, [*map(int, signal.pthread_sigmask(0, []))],
            len(os.listdir("/proc/self/fd")),
            threading.active_count(), os.getppid() > 1)

serve(globals())
"""
)


@contextmanager
def dying_engines(pid: int) -> Iterator[Program]:
    running = Program([sys.executable, "-m", "tests.engine.dying_engine", str(pid)])
    try:
        running.expect("ready")
        yield running
    finally:
        running.end()


def strays(pid: int) -> list[psutil.Process]:
    """Whatever a dead engine has left of the tree of `pid`: all processes of the session,
    and twins, but for the tree itself and for what init is about to reap."""
    tree = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    found = []
    for other in {*session_of(pid), *twins(pid)} - tree:
        try:
            process = psutil.Process(other)
            if process.status() != psutil.STATUS_ZOMBIE or process.ppid() != 1:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def twins(pid: int) -> list[int]:
    """Those of the process: they have its command line, which is its alone."""
    command = psutil.Process(pid).cmdline()
    return [
        process.pid
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "jupyter-cr twin" and process.info["cmdline"] == command
    ]


def workspaces(pid: int) -> int:
    return sum(mapping.perms == "rwxp" for mapping in read_maps(pid))


def has_threads_inside(pid: int) -> bool:
    """Whether a thread may still be on its way out of a workspace."""
    inside = [m for m in read_maps(pid) if m.perms == "rwxp"]
    for tid in list_threads(pid) if inside else []:
        *_, counter = Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()
        if counter == "running" or any(m.start <= int(counter, 16) < m.end for m in inside):
            return True
    return False


def check_unharmed(pid: int, children: list[psutil.Process]) -> None:
    """`children`: those that it has."""
    assert psutil.Process(pid).children() == children
    wait_until(lambda: not strays(pid), f"strays end: {strays(pid)}")
    wait_until(lambda: not has_threads_inside(pid))
    assert workspaces(pid) <= 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("how", "threads"),
    [
        ("stops", 13),
        pytest.param("steps", 4, marks=pytest.mark.long),
        pytest.param("steps", 13, marks=pytest.mark.long),
    ],
)
def test_every_moment(how: str, threads: int, tmp_path: Path) -> None:
    """One engine for each moment of the protocol, the first to complete is the last."""
    with (
        program(BLOCKED, str(tmp_path), str(threads)) as running,
        dying_engines(running.pid) as engines,
    ):
        children = psutil.Process(running.pid).children()
        first = eval(running.ask("state()"))
        assert first[2] == []
        number, killed = 0, True
        while killed:
            killed = engines.ask(f"{how} {number}") == "-9"
            number += 1
            state = eval(running.ask("state()"))
            assert state == (first[0] + number, 2 * (first[0] + number), *first[2:])
            check_unharmed(running.pid, children)
        assert number > 20
        with checkpointed(running.pid) as (_, writer):
            assert all("rwx" not in str(record) for record in writer.added)
        assert workspaces(running.pid) == 0


@contextmanager
def kernel(directory: Path) -> Iterator[tuple[int, BlockingKernelClient]]:
    """A real ipykernel: its pid, and a client that has got an answer."""
    manager = KernelManager(connection_file=str(directory / "kernel.json"))
    manager.start_kernel(extra_arguments=["--HistoryManager.enabled=False"])
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=LIMIT)
        assert manager.provisioner is not None
        yield manager.provisioner.pid, client  # type: ignore[attr-defined]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def execute(client: BlockingKernelClient, code: str) -> str:
    """Run code in the kernel, and give what it printed."""
    printed = []

    def collect(message: dict[str, object]) -> None:
        content = message["content"]
        assert isinstance(content, dict)
        if message["msg_type"] == "stream":
            printed.append(str(content["text"]))

    reply = client.execute_interactive(
        code, timeout=LIMIT, output_hook=collect, store_history=False
    )
    assert reply["content"]["status"] == "ok", reply
    return "".join(printed).strip()


def kill_at_random(directory: Path, times: int) -> None:
    moments = random.Random(times)
    with kernel(directory) as (pid, client), dying_engines(pid) as engines:
        execute(client, "x = 0; import threading; text = 'kept'")
        with checkpointed(pid) as (outcome, _):
            # Killed in the middle of looking, frozen, saving, and when all is done.
            longest = 1.3 * outcome.elapsed_ms / 1000
        for number in range(1, times + 1):
            engines.ask(f"delay {moments.uniform(0, longest):.6f}")
            assert execute(client, "x += 1; print(x, text)") == f"{number} kept"
            check_unharmed(pid, [])
        with checkpointed(pid):
            assert workspaces(pid) == 0
        assert execute(client, "print(x)") == str(times)
        assert [p for p in session_of(pid) if p != pid] == [] or not strays(pid)


@pytest.mark.timeout(300)
def test_kernel_at_random_moments(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 25)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_kernel_at_two_hundred_random_moments(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 200)


@pytest.mark.timeout(180)
def test_kernel_at_every_stop(tmp_path: Path) -> None:
    with kernel(tmp_path) as (pid, client), dying_engines(pid) as engines:
        execute(client, "x = 0")
        number, killed = 0, True
        while killed:
            killed = engines.ask(f"stops {number}") == "-9"
            number += 1
            assert execute(client, "x += 1; print(x)") == str(number)
            check_unharmed(pid, [])
        assert workspaces(pid) == 0
        assert os.path.exists(f"/proc/{pid}")
