# ruff: noqa: E501 (programs under test, as text)
from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from jupyter_cr.engine.freeze import freeze
from jupyter_cr.errors import (
    AlreadyTraced,
    NoSuchProcess,
    PermissionDenied,
    TargetError,
)
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.tasks import list_threads
from tests.engine.harness import (
    LIMIT,
    SERVE,
    Program,
    as_user,
    can_become_user,
    checkpoint,
    checkpointed,
    program,
    session_of,
    wait_until,
)

ENDLESS = """
import os, subprocess, sys, threading, time
rounds, errors = [0], []
def forever(work):
    def loop():
        try:
            while True:
                work()
                rounds[0] += 1
        except BaseException as error:
            errors.append(repr(error))
    threading.Thread(target=loop, daemon=True).start()
"""
MAKING = {
    "threads": """
def work():
    several = [threading.Thread(target=time.sleep, args=(0.0005,)) for _ in range(4)]
    for thread in several: thread.start()
    for thread in several: thread.join()
""",
    "children": """
def work():
    pid = os.fork()
    if not pid:
        time.sleep(0.001)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
""",
    "generations": """
def bomb(depth):
    pids = []
    for _ in range(2):
        pid = os.fork()
        if not pid:
            if depth:
                bomb(depth - 1)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
def work():
    bomb(2)
""",
    "programs": """
def work():
    assert subprocess.run(["/bin/true"]).returncode == 0
""",
    "spawned programs": """
def work():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    assert os.waitpid(pid, 0)[1] == 0
""",
    "programs in programs": """
def work():
    assert subprocess.run(["/bin/sh", "-c", "/bin/true; /bin/true & wait; exit 3"]).returncode == 3
""",
}


@pytest.mark.parametrize("what", MAKING)
def test_while_making(what: str) -> None:
    """While frozen, nobody runs, and nobody is born; afterwards all goes on."""
    with program(
        SERVE + ENDLESS + MAKING[what] + "forever(work)\nserve(globals())"
    ) as running:
        for _ in range(15):
            with freeze(running.pid) as freezing:
                for process in freezing.tree.living:
                    assert set(list_threads(process.pid)) == set(process.threads)
                    for tid in process.threads:
                        assert read_stat(process.pid, tid).state == "t"
                family = session_of(running.pid)
                assert set(family) == set(freezing.tree.processes)
                time.sleep(0.002)
                assert session_of(running.pid) == family
            time.sleep(0.003)
        before = int(running.ask("rounds[0]"))
        wait_until(lambda: int(running.ask("rounds[0]")) > before)
        assert running.ask("errors") == "[]"


@pytest.mark.parametrize("what", MAKING)
def test_checkpoint_while_making(what: str) -> None:
    with program(
        SERVE + ENDLESS + MAKING[what] + "forever(work)\nserve(globals())"
    ) as running:
        for _ in range(10):
            checkpoint(running.pid)
            time.sleep(0.003)
        before = int(running.ask("rounds[0]"))
        wait_until(lambda: int(running.ask("rounds[0]")) > before)
        assert running.ask("errors") == "[]"


@pytest.fixture
def waiting() -> Iterator[Program]:
    with program(SERVE + "import os, signal, threading, time\nserve(globals())") as running:
        yield running


def test_stopped_stays_stopped(waiting: Program) -> None:
    waiting.tell("1 + 1")
    waiting.expect("2")
    os.kill(waiting.pid, signal.SIGSTOP)
    os.waitpid(waiting.pid, os.WUNTRACED)
    for _ in range(3):
        with checkpointed(waiting.pid) as (_, writer):
            assert writer.process(waiting.pid).is_stopped
        assert read_stat(waiting.pid).state == "T"
    # Its parent is not told of a stop or a continuation that was none.
    assert os.waitpid(waiting.pid, os.WUNTRACED | os.WCONTINUED | os.WNOHANG) == (0, 0)
    waiting.tell("2 + 2")
    os.kill(waiting.pid, signal.SIGCONT)
    waiting.expect("4")


def test_stop_and_go_meanwhile(waiting: Program) -> None:
    """Job control while the tree is frozen takes effect afterwards."""
    for _ in range(3):
        with freeze(waiting.pid):
            os.kill(waiting.pid, signal.SIGSTOP)
        wait_until(lambda: read_stat(waiting.pid).state == "T", "it stops")
        with freeze(waiting.pid):
            os.kill(waiting.pid, signal.SIGCONT)
        assert waiting.ask("'going'") == "going"


def test_zombies_and_orphans() -> None:
    code = """
import os, time
zombie = os.fork()
if not zombie:
    os._exit(3)
middle = os.fork()
if not middle:
    if not os.fork():
        os.write(1, f"born {os.getpid()}\\n".encode())
        time.sleep(100)
    os._exit(0)
os.waitpid(middle, 0)
while open(f"/proc/{zombie}/stat").read().split()[2] != "Z":
    time.sleep(0.001)
serve(globals())
"""
    running = Program([sys.executable, "-c", SERVE + code])
    try:
        lines = sorted([running.line(), running.line()])
        orphan, zombie = int(lines[0].split()[1]), int(running.ask("zombie"))
        with checkpointed(running.pid) as (outcome, writer):
            assert {p.pid for p in outcome.processes} == {running.pid, orphan, zombie}
            assert writer.process(zombie).zombie_status == 3 << 8
            assert writer.process(orphan).name.startswith("python")
        assert running.ask("os.waitstatus_to_exitcode(os.waitpid(zombie, 0)[1])") == "3"
    finally:
        running.end()


def test_no_such_process() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(NoSuchProcess, match=str(ended.pid)):
        checkpoint(ended.pid)
    ended.wait(LIMIT)
    with pytest.raises(NoSuchProcess, match=str(ended.pid)):
        checkpoint(ended.pid)


def test_already_traced(waiting: Program) -> None:
    """The error names the other tracer; the target goes on."""
    code = f"""
import sys
from jupyter_cr.engine.freeze import freeze
with freeze({waiting.pid}):
    print("ready", flush=True)
    sys.stdin.read()
"""
    with program(code) as tracer, pytest.raises(AlreadyTraced, match=str(tracer.pid)):
        checkpoint(waiting.pid)
    assert waiting.ask("1 + 1") == "2"


@pytest.mark.skipif(os.geteuid() != 0, reason="not run by root")
def test_process_of_another_user(waiting: Program) -> None:
    if not can_become_user():
        pytest.skip("setpriv, unshare or mount is not permitted here")
    code = f"""
from jupyter_cr.errors import PermissionDenied
from tests.engine.harness import checkpoint
try:
    checkpoint({waiting.pid})
except PermissionDenied as error:
    print("ready" if "{waiting.pid}" in error.message and error.hint else error, flush=True)
"""
    with program(code, prefix=as_user([])):
        assert waiting.ask("1 + 1") == "2"


def test_process_of_another_user_as_ordinary_user() -> None:
    if os.geteuid() == 0:
        pytest.skip("run by root")
    with pytest.raises(PermissionDenied):
        checkpoint(1)


CALLS = """
import ctypes, os, select, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

class Timespec(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]

span = ctypes.byref(Timespec(0, 250_000_000))
word, buffer = ctypes.c_int(0), ctypes.create_string_buffer(64)
pipe, pair = os.pipe(), socket.socketpair()
listener = socket.create_server(("127.0.0.1", 0))
epoll = libc.epoll_create1(0)
libc.epoll_ctl(epoll, 1, pair[0].fileno(), (ctypes.c_char * 12)(1))
poll = (ctypes.c_int * 2)(pair[0].fileno(), 1)
no_signals = (ctypes.c_char * 8)()
blocked = ctypes.c_uint64(1 << (signal.SIGUSR1 - 1))
libc.syscall(14, 0, ctypes.byref(blocked), 0, 8)
signal.signal(signal.SIGUSR1, lambda number, frame: None)
EINTR, ETIMEDOUT = 4, 110
child = os.fork()
if not child:
    time.sleep(0.25)
    os._exit(5)

def later(act):
    threading.Timer(0.25, act).start()

def connect():
    socket.create_connection(listener.getsockname()).close()

def wake():
    # One that is interrupted leaves the queue until its call goes on, as with any signal:
    # real programs change the word as well (futex(2)).
    while not libc.syscall(202, ctypes.byref(word), 1, 1, None, None, 0):
        time.sleep(0.001)

calls = {
    "nanosleep": (0, None, lambda: libc.nanosleep(span, None)),
    "clock_nanosleep": (0, None, lambda: libc.clock_nanosleep(1, 0, span, None)),
    "poll": (0, None, lambda: libc.poll(None, 0, 250)),
    "ppoll": (0, None, lambda: libc.ppoll(None, 0, span, no_signals)),
    "select": (0, None, lambda: libc.select(0, None, None, None, ctypes.byref(Timespec(0, 250_000)))),
    "futex": (-ETIMEDOUT, None, lambda: libc.syscall(202, ctypes.byref(word), 0, 0, span, None, 0)),
    "poll for ever": (1, lambda: pair[1].send(b"x"), lambda: libc.poll(poll, 1, -1)),
    "epoll for ever": (1, lambda: pair[1].send(b"x"), lambda: libc.epoll_wait(epoll, buffer, 1, -1)),
    "epoll_pwait": (1, lambda: pair[1].send(b"x"),
                    lambda: libc.epoll_pwait(epoll, buffer, 1, -1, no_signals)),
    "read": (1, lambda: os.write(pipe[1], b"x"), lambda: libc.read(pipe[0], buffer, 9)),
    "recv": (1, lambda: pair[1].send(b"x"), lambda: libc.recv(pair[0].fileno(), buffer, 9, 0)),
    "accept": (None, connect, lambda: libc.accept(listener.fileno(), None, None)),
    "futex for ever": (0, wake,
                       lambda: libc.syscall(202, ctypes.byref(word), 0, 0, None, None, 0)),
    "waitpid": (child, None, lambda: libc.waitpid(child, None, 0)),
    "sigsuspend": (-EINTR, lambda: signal.pthread_kill(target, signal.SIGUSR1),
                   lambda: libc.syscall(130, no_signals, 8)),
    "sigwaitinfo": (signal.SIGUSR1, lambda: signal.pthread_kill(target, signal.SIGUSR1),
                    lambda: libc.syscall(128, ctypes.byref(blocked), None, None, 8)),
}
expected, act, call = calls[sys.argv[1]]

def run():
    global target
    target = threading.get_ident()
    print("ready", flush=True)
    if act:
        later(act)
    ctypes.set_errno(0)
    began = time.monotonic()
    result = call()
    took = time.monotonic() - began
    if result < 0:
        result = -ctypes.get_errno()
    ok = result == expected or expected is None and result >= 0
    print("as it should" if ok and took >= 0.2 else (result, took), flush=True)

if sys.argv[2] == "first":
    run()
else:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
sys.stdin.read()
"""
CALL_NAMES = [
    line.split('"')[1]
    for line in CALLS.split("calls = {")[1].splitlines()
    if line[4:5] == '"'
]


@pytest.mark.parametrize("where", ["first", "other"])
@pytest.mark.parametrize("call", CALL_NAMES)
def test_blocked_call_goes_on(call: str, where: str) -> None:
    """Exactly the result and the time that it would have had."""
    with program(CALLS, call, where) as running:
        for _ in range(8):
            time.sleep(0.015)
            checkpoint(running.pid)
        running.expect("as it should")


ORDINARY = (signal.SIGUSR1, signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD)


def test_signals_meanwhile() -> None:
    """Each signal that arrives at any moment of a checkpoint is delivered once, with
    what it carries."""
    code = """
import ctypes, os, signal, threading, time
libc = ctypes.CDLL(None, use_errno=True)
counts = {}
number = signal.SIGRTMIN + 1
values = []
mask = [number, signal.SIGUSR2]
signal.pthread_sigmask(signal.SIG_BLOCK, mask)
for caught in (signal.SIGUSR1, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT):
    def count(caught, frame):
        counts[int(caught)] = counts.get(int(caught), 0) + 1
    signal.signal(caught, count)
def take():
    while True:
        # si_value is behind si_signo, si_errno, si_code, padding, si_pid and si_uid.
        info = ctypes.create_string_buffer(128)
        wanted = ctypes.c_uint64(1 << (number - 1))
        if libc.syscall(128, ctypes.byref(wanted), info, None, 8) > 0:
            values.append(int.from_bytes(info.raw[24:28], "little"))
threading.Thread(target=take, daemon=True).start()
serve(globals())
"""
    with program(SERVE + code) as running:
        realtime = int(running.ask("int(number)"))
        stop = threading.Event()
        sent = {"values": 0}
        library = ctypes.CDLL(None)

        def send() -> None:
            while not stop.is_set():
                if library.sigqueue(running.pid, realtime, sent["values"]) == 0:
                    sent["values"] += 1
                time.sleep(0.0005)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            for number in range(1, 21):
                for caught in ORDINARY:
                    os.kill(running.pid, caught)
                checkpoint(running.pid)
                expected = {int(caught): number for caught in ORDINARY}
                wait_until(lambda n=expected: eval(running.ask("counts")) == n)
        finally:
            stop.set()
            sender.join(LIMIT)
        wait_until(lambda: int(running.ask("len(values)")) == sent["values"])
        assert eval(running.ask("values")) == list(range(sent["values"]))


@pytest.mark.parametrize("moment", range(25))
def test_target_killed_meanwhile(moment: int) -> None:
    """A target that is killed during a checkpoint means an error, not a hang; and nothing
    of it stays behind."""
    code = """
import os, threading, time
for _ in range(5):
    threading.Thread(target=time.sleep, args=(60,)).start()
if not os.fork():
    time.sleep(60)
serve(globals())
"""
    with program(SERVE + code) as running:
        family = session_of(running.pid)
        timer = threading.Timer(0.0008 * moment, os.kill, (running.pid, signal.SIGKILL))
        timer.start()
        try:
            with suppress(TargetError):
                checkpoint(running.pid)
        finally:
            timer.join()
        running.process.wait(LIMIT)
        for pid in family:
            if pid != running.pid:
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not [p for p in session_of(running.pid) if is_running(p)])


def is_running(pid: int) -> bool:
    """A clone that is stopped under our hand is not: it ends with us."""
    try:
        return read_stat(pid).state not in "ZXt"
    except NoSuchProcess:
        return False


EXECUTING = """
import os, sys, threading, time
number = int(sys.argv[1])
for _ in range(6):
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
def execute():
    time.sleep(0.002)
    os.execv(sys.executable, [sys.executable, "-S", "-c", sys.argv[2], str(number + 1), sys.argv[2]])
threading.Thread(target=execute).start()
time.sleep(100)
"""


def test_program_executed_by_a_thread() -> None:
    """It ends its siblings meanwhile, which only their tracer can reap."""
    argv = [sys.executable, "-S", "-c", EXECUTING, "0", EXECUTING]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        taken = 0
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and taken < 40:
            with suppress(TargetError), freeze(process.pid):
                taken += 1
            time.sleep(0.001 * (taken % 7))
            assert process.poll() is None
        assert taken, "not once frozen"
        before = number_of(process.pid)
        wait_until(lambda: number_of(process.pid) != before, "it goes on executing")
    finally:
        process.kill()
        process.wait(LIMIT)


def number_of(pid: int) -> bytes:
    """Which incarnation it is."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    return words[4] if len(words) > 4 else b""
