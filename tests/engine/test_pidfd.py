"""pidfds of the tree's processes, in place and as a fork; with epoll and with asyncio."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.conftest import User
from tests.engine.kernels import CommandError, ask, command_line, forked, kernel, served

PROGRAM = r"""
import ctypes, os, select, signal, subprocess, threading
libc = ctypes.CDLL(None, use_errno=True)
THREAD = os.O_EXCL

def fork(work=signal.pause):
    pid = os.fork()
    if not pid:
        try:
            while True: work()
        finally:
            os._exit(1)
    return pid

living, zombie, gone = fork(), fork(lambda: os._exit(5)), fork(lambda: os._exit(6))
pids = dict(living=living, itself=os.getpid(), zombie=zombie, gone=gone)
fds = {name: os.pidfd_open(pid) for name, pid in pids.items()}
fds["nonblocking"] = os.pidfd_open(living, os.O_NONBLOCK)
fds["shared"] = os.dup(fds["living"])
os.set_inheritable(fds["shared"], True)
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
os.waitpid(gone, 0)
began = threading.Event()
def wait():
    global tid
    tid = threading.get_native_id()
    began.set()
    threading.Event().wait()
threading.Thread(target=wait, daemon=True).start()
began.wait()
try:
    fds["thread"] = os.pidfd_open(tid, THREAD)
except OSError:
    pass
epoll = select.epoll()
for fd in fds.values():
    epoll.register(fd, select.EPOLLIN)

def look():
    seen = {}
    for name, fd in fds.items():
        info = open(f"/proc/self/fdinfo/{fd}").read().splitlines()
        lines = dict(line.split(":\t", 1) for line in info if ":\t" in line)
        namespaced = lines["NSpid"].split()[-1]
        seen[name] = lines["flags"], namespaced, os.get_inheritable(fd)
    return seen, sorted(epoll.poll(0))

def check():
    '''Each names whom it named.'''
    seen = [look()]
    answer = os.waitid(os.P_PIDFD, fds["zombie"], os.WEXITED)
    seen.append((answer.si_pid, answer.si_status))
    try:
        os.waitid(os.P_PIDFD, fds["gone"], os.WEXITED)
    except ChildProcessError as error:
        seen.append(error.errno)
    try:
        os.waitid(os.P_PIDFD, fds["nonblocking"], os.WEXITED)
    except BlockingIOError as error:
        seen.append(error.errno)
    signal.pidfd_send_signal(fds["shared"], signal.SIGKILL)
    answer = os.waitid(os.P_PIDFD, fds["living"], os.WEXITED | os.WNOWAIT)
    seen.append((answer.si_pid == living, answer.si_status))
    seen.append(look())
    os.waitpid(living, 0)
    return seen

serve()
"""


def test_processes_and_threads(user: User) -> None:
    with command_line(user) as cr, served(user, PROGRAM) as process:
        name = cr.checkpoint(process.pid)
        with_twins = f"{cr.prefix}-warm"
        cr("checkpoint", str(process.pid), "--name", with_twins, "--warm")
        try:
            cold, warm = cr.fork(name)[0], cr.fork(with_twins)[0]
        finally:
            subprocess.run(cr.argv("rm", with_twins)[:-1], env=user.environment, timeout=30)
        one, two, three = (ask(pid, "check()") for pid in (process.pid, cold, warm))
        assert isinstance(one, list), one
        assert two == one
        assert three == one
        assert ask(cr.restore(name), "check()") == one


def test_process_outside_is_refused(user: User) -> None:
    code = f"import os\nfd = os.pidfd_open({os.getpid()})\nserve()"
    with command_line(user) as cr, served(user, code) as process:
        with pytest.raises(CommandError, match="which is not of the tree"):
            cr.checkpoint(process.pid)
        assert ask(process.pid, "1 + 1") == 2


ASYNCIO = """
import asyncio, sys
if sys.version_info < (3, 12):
    watcher = asyncio.PidfdChildWatcher()
    watcher.attach_loop(asyncio.get_running_loop())
    asyncio.set_child_watcher(watcher)
script = "read line; echo $line; exit 3"
child = await asyncio.create_subprocess_exec("sh", "-c", script,
    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
ended = asyncio.ensure_future(child.wait())
await asyncio.sleep(0.01)
import pathlib
links = [str(link.readlink()) for link in pathlib.Path("/proc/self/fd").iterdir()
    if link.is_symlink()]
assert any("pidfd" in link for link in links), links
"""


def test_subprocess_of_asyncio(user: User) -> None:
    """Its end is noticed, and its status known, in whoever goes on."""
    with command_line(user) as cr, kernel(user) as one:
        one.do(ASYNCIO)
        name = cr.checkpoint(one.pid)
        go_on = (
            "child.stdin.write(b'hello\\n'); "
            "said = await child.stdout.read(); status = await ended"
        )
        with forked(cr, name) as (two, _):
            for frontend in (two, one):
                frontend.do(go_on)
                assert frontend.value("said, status") == "(b'hello\\n', 3)"
        cr.restore(name)
        one.do(go_on)
        assert one.value("said, status") == "(b'hello\\n', 3)"
