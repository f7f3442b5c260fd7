"""Programs on pseudoterminals that the tree holds, in place and as a fork."""

from __future__ import annotations

import queue
import subprocess
from contextlib import suppress

import psutil
import pytest

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.engine.kernels import (
    CommandError,
    Frontend,
    ask,
    command_line,
    forked,
    kernel,
    served,
    settle,
)

COUNT = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done"
CAPTURED = f"""
from IPython.utils.capture import capture_output
with capture_output() as got:
    get_ipython().system({COUNT!r})
"""


class Listener:
    """Whatever a kernel prints, from now on."""

    def __init__(self, frontend: Frontend) -> None:
        self.client = frontend.client
        self.printed = ""

    def listen(self) -> str:
        """All that has been printed so far."""
        with suppress(queue.Empty):
            message = self.client.get_iopub_msg(timeout=0.05)
            if message["msg_type"] == "stream":
                self.printed += message["content"]["text"]
        return self.printed

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.listen(), f"{text!r} is printed")


def test_command_of_a_cell(user: User) -> None:
    """Checkpointed in the middle, it goes on and prints the rest."""
    with command_line(user) as cr, kernel(user) as one:
        one.client.execute("!" + COUNT)
        original = Listener(one)
        original.wait_for("1")
        name = cr.checkpoint(one.pid)
        original.wait_for("6")
        assert original.printed.split() == list("123456")
        assert one.value("_exit_code") == "0"
        cr.restore(name)
        restored = Listener(one)
        restored.wait_for("6")
        rest = restored.printed.split()
        assert rest == list("123456")[-len(rest) :]
        assert one.value("_exit_code") == "0"
        one.do("import os, psutil; assert not psutil.Process().children()")


def test_output_is_complete(user: User) -> None:
    """Nothing of it is lost, and nothing comes twice, in whoever goes on."""
    with command_line(user) as cr, kernel(user) as one:
        one.client.execute(CAPTURED)
        wait_until(lambda: psutil.Process(one.pid).children(), "the command runs")
        settle(1)
        name = cr.checkpoint(one.pid)
        with forked(cr, name) as (two, _):
            for frontend in (two, one):
                assert eval(frontend.value("got.stdout.split()")) == list("123456")
            cr.restore(name)
            assert eval(one.value("got.stdout.split()")) == list("123456")
            one.do("get_ipython().system('exit 3')")
            assert one.value("_exit_code") == "3"


STATE = r"""
import fcntl, os, pty, select, signal, struct, subprocess, sys, termios, time
import pexpect

def number(fd, request):
    return struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))[0]

def events(fd):
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT | select.POLLPRI)
    return poll.poll(0)

def look(fd, *, master=True):
    '''What can be seen without reading.'''
    seen = dict(
        settings=termios.tcgetattr(fd),
        window=fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)),
        exclusive=number(fd, 0x80045440), flags=fcntl.fcntl(fd, fcntl.F_GETFL),
        inheritable=os.get_inheritable(fd), events=events(fd),
    )
    if master:
        seen.update(locked=number(fd, 0x80045439), packets=number(fd, 0x80045438))
        for name, ask in dict(session=os_tcgetsid, foreground=os.tcgetpgrp).items():
            try:
                seen[name] = ask(fd)
            except OSError as error:
                seen[name] = error.errno
    return seen

def os_tcgetsid(fd):
    return number(fd, 0x5429)

def read(fd):
    '''What can be read: by lines where it is read by lines; else all at once, as Linux
    keeps no bounds between the bytes that were written.'''
    found, end = [], []
    while any(e & select.POLLIN for _, e in events(fd)):
        try:
            found.append(os.read(fd, 65536))
        except OSError as error:
            end.append(error.errno)
            break
    is_master = os.major(os.fstat(fd).st_rdev) == 5
    if is_master and number(fd, 0x80045438):
        assert all(part[:1] == b"\0" for part in found), found
        found = [part[1:] for part in found]
    if is_master or not termios.tcgetattr(fd)[3] & termios.ICANON:
        found = [b"".join(found)]
    return found + end
"""

SHELL = (
    STATE
    + r"""
shell = pexpect.spawn("bash", ["--norc", "--noprofile", "-i"], encoding="utf-8", timeout=10,
    dimensions=(33, 77), env={"PS1": "$ ", "PATH": os.environ["PATH"], "TERM": "dumb"})
shell.expect_exact("$ ")

def run(line, before="$ "):
    '''What a command prints.'''
    shell.sendline(line)
    shell.expect_exact(before)
    return shell.before.split("\r\n")[1:-1]

def whole_line(pattern):
    shell.expect(pattern)
    return shell.match.group()

run("number=41; f() { echo $((number + 1)); }")
if step == "a foreground job reads":
    shell.sendline("cat")
    shell.sendline("hello")
    shell.expect_exact("hello\r\nhello\r\n")
    shell.send("unfin")
    shell.expect_exact("unfin")
elif step == "a foreground job is stopped":
    shell.sendline("cat")
    time.sleep(0.2)
    shell.sendcontrol("z")
    shell.expect("Stopped")
    shell.expect_exact("$ ")
elif step == "a background job":
    run("sleep 1000 &")
elif step == "half a line":
    shell.send("echo $((20 +")
    shell.expect_exact("+")
elif step == "unread output":
    shell.sendline("echo unread; sleep 1000")
    time.sleep(0.3)

def go_on():
    '''The shell goes on where it is.'''
    if step == "a foreground job reads":
        shell.sendline("ished")
        found = [whole_line("ished\r\nunfinished\r\n")]
        shell.sendeof()
        shell.expect_exact("$ ")
    elif step == "a foreground job is stopped":
        found = [run("jobs")]
        shell.sendline("fg")
        shell.expect("cat\r\n")
        shell.sendline("awake")
        shell.expect_exact("awake\r\nawake\r\n")
        shell.sendcontrol("c")
        shell.expect_exact("$ ")
    elif step == "a background job":
        found = [run("jobs"), run("kill %1; wait %1 2> /dev/null; echo $?")]
    elif step == "half a line":
        shell.sendline("1))")
        shell.expect_exact("\r\n21\r\n$ ")
        found = []
    elif step == "unread output":
        shell.expect("echo unread; sleep 1000\r\nunread\r\n")
        shell.sendcontrol("c")
        shell.expect_exact("$ ")
        found = []
    else:
        found = []
    (name,) = run("tty")
    assert os.stat(name).st_rdev == os.makedev(136, int(name.rpartition("/")[2])), name
    found += [run("f"), run("stty size"), run("exec 3<> /dev/tty; echo x >&3")]
    found.append(run("(sleep 1000)& sleep 0.01; kill $!; wait $!; echo $?")[-1])
    shell.sendline("exit 7")
    shell.expect(pexpect.EOF)
    shell.close()
    return found, shell.exitstatus

serve()
"""
)

STEPS = [
    "at its prompt",
    "half a line",
    "unread output",
    "a background job",
    "a foreground job reads",
    "a foreground job is stopped",
]


def in_all(user: User, program: str, step: str, *questions: str) -> list[list[object]]:
    """The answers of the original, of a fork, and of what comes back in its place."""
    with command_line(user) as cr, served(user, f"step = {step!r}\n{program}") as process:
        name = cr.checkpoint(process.pid)
        pids = [process.pid, cr.fork(name)[0]]
        answers = [[ask(pid, question) for question in questions] for pid in pids]
        pid = cr.restore(name)
        return [*answers, [ask(pid, question) for question in questions]]


@pytest.mark.long
@pytest.mark.parametrize("step", STEPS)
def test_shell(user: User, step: str) -> None:
    one, two, three = in_all(user, SHELL, step, "look(shell.child_fd)", "go_on()")
    assert one[1][1] == 7, one
    assert two == one
    assert three == one


PAIR = (
    STATE
    + r"""
master, slave = pty.openpty()
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 30, 90, 600, 700))

def change(index, bits, on):
    settings = termios.tcgetattr(slave)
    settings[index] = settings[index] | bits if on else settings[index] & ~bits
    termios.tcsetattr(slave, termios.TCSANOW, settings)

def go_on():
    '''All that can be read, and what becomes of what is written then.'''
    unread = [read(slave), read(master)]
    os.write(master, b"typed\n")
    events(slave)
    os.write(slave, b"printed\n")
    return [*unread, read(slave), read(master)]

def prepare():
    if step == "unread input and output":
        os.write(slave, b"one\ntwo")
        os.write(master, b"first\nsecond\n\x04unfin")
    elif step == "raw":
        import tty
        tty.setraw(slave)
        os.write(slave, bytes(range(256)) * 10)
        os.write(master, bytes(range(256)) * 10)
    elif step == "speed and characters":
        settings = termios.tcgetattr(slave)
        settings[4] = settings[5] = termios.B9600
        settings[6][termios.VERASE] = b"#"
        settings[6][termios.VEOL] = b";"
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        os.write(master, b"wrong#####right;rest")
    elif step == "exclusive, locked and in packet mode":
        fcntl.ioctl(slave, 0x540C)
        fcntl.ioctl(master, 0x40045431, struct.pack("i", 1))
        fcntl.ioctl(master, termios.TIOCPKT, struct.pack("i", 1))
        os.write(slave, b"output")
        os.write(master, b"input\nunfin")
    elif step == "stopped":
        os.set_blocking(slave, False)
        os.write(slave, b"before")
        os.write(master, b"\x13")
    elif step == "opened several times":
        global others
        name = os.ttyname(slave)
        others = [os.open(name, flags | os.O_NOCTTY) for flags in
            (os.O_RDONLY, os.O_WRONLY | os.O_NONBLOCK, os.O_RDWR)]
        others.append(os.dup(others[0]))
        os.set_blocking(master, False)
        os.set_inheritable(master, True)
    elif step == "slave closed":
        os.write(slave, b"last words\n")
        os.close(slave)
    elif step == "slave closed, all read":
        os.close(slave)
    elif step == "master closed":
        os.write(slave, b"last words\n")
        os.close(master)

prepare()

def check():
    if step == "opened several times":
        names = {os.ttyname(fd) for fd in (slave, *others)}
        assert len(names) == 1, names
        assert len({os.fstat(fd).st_ino for fd in (slave, *others)}) == 1
        os.set_blocking(others[3], False)
        seen = [look(fd, master=False) for fd in (slave, *others)]
        return seen, os.write(others[1], b"x"), go_on()
    if step.startswith("slave closed"):
        return look(master), read(master), look(master)
    if step == "master closed":
        try:
            os.write(slave, b"x")
        except OSError as error:
            return error.errno, os.read(slave, 10), os.isatty(slave), events(slave)
    seen = [look(master), look(slave, master=False)]
    if step.startswith("exclusive"):
        # Opening a locked one would spoil it for all who have it open.
        fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))
        try:
            name = f"/dev/pts/{number(master, 0x80045430)}"
            os.close(os.open(name, os.O_RDWR | os.O_NOCTTY))
            seen.append("opened")
        except OSError as error:
            seen.append(error.errno)
    if step == "stopped":
        try:
            os.write(slave, b"more")
        except OSError as error:
            seen.append(error.errno)
        seen.append(read(master))
        os.write(master, b"\x11")
        events(slave)
    return seen, go_on()

serve()
"""
)


@pytest.mark.long
@pytest.mark.parametrize(
    "step",
    [
        "nothing",
        "unread input and output",
        "raw",
        "speed and characters",
        "exclusive, locked and in packet mode",
        "stopped",
        "opened several times",
        "slave closed",
        "slave closed, all read",
        "master closed",
    ],
)
def test_both_sides(user: User, step: str) -> None:
    (one,), (two,), (three,) = in_all(user, PAIR, step, "check()")
    assert isinstance(one, tuple), one
    assert two == one
    assert three == one


FAMILY = (
    STATE
    + r"""
def is_ours(fd):
    '''Whether the controlling terminal is the one of `fd`.'''
    try:
        with open("/dev/tty", "rb+", buffering=0) as own:
            answer = fcntl.ioctl(own, 0x80045432, bytes(4))
    except OSError as error:
        return error.errno
    return answer == fcntl.ioctl(fd, 0x80045432, bytes(4)), os.tcgetpgrp(fd) == os.getpgrp()

def child(work):
    '''Answers once it is told to, for ever.'''
    here, there = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        try:
            work()
            os.write(there[1], b"ready")
            while os.read(here[0], 1):
                os.write(there[1], repr(look_around()).encode())
        finally:
            os._exit(1)
    assert os.read(there[0], 5) == b"ready"
    return pid, here[1], there[0]

def look_around():
    return is_ours(slave), os.getsid(0), os.getpgrp(), signal.getsignal(signal.SIGHUP)

master, slave = pty.openpty()

def lead():
    global early, own, without, job
    os.setsid()
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    early = child(lambda: None)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    own = child(lambda: None)
    without = child(lambda: fcntl.ioctl(slave, termios.TIOCNOTTY))
    job = child(lambda: os.setpgid(0, 0))
    if step == "a job in the foreground":
        os.tcsetpgrp(slave, job[0])
    if step == "opened by its other name":
        global named
        named = os.open("/dev/tty", os.O_RDWR)

def look_around_all():
    found = [is_ours(slave)]
    for pid, tell, hear in (early, own, without, job):
        os.write(tell, b"x")
        found.append(os.read(hear, 1000))
    if step == "opened by its other name":
        os.write(named, b"to the terminal")
        found.append((os.isatty(named), os.tcgetpgrp(named)))
    return found

leader = child(lambda: (lead(), globals().update(look_around=look_around_all)))

def check():
    os.write(leader[1], b"x")
    said = os.read(leader[2], 65536)
    return said, os.tcgetpgrp(master), os_tcgetsid(master), read(master)

check()
serve()
"""
)


@pytest.mark.parametrize(
    "step",
    ["the leader in the foreground", "a job in the foreground", "opened by its other name"],
)
def test_controlling_terminal(user: User, step: str) -> None:
    """Whoever has it has it again, and whoever has not has not."""
    (one,), (two,), (three,) = in_all(user, FAMILY, step, "check()")
    assert isinstance(one, tuple), one
    assert two == one
    assert three == one


def test_fork_of_a_fork(user: User) -> None:
    """From the twin of the original, and then from a tree in a pid namespace."""
    program = f"step = 'a job in the foreground'\n{FAMILY}"
    with command_line(user) as cr, served(user, program) as process:
        name = f"{cr.prefix}-warm"
        cr("checkpoint", str(process.pid), "--name", name, "--warm")
        try:
            child = cr.fork(name)[0]
        finally:
            subprocess.run(cr.argv("rm", name)[:-1], env=user.environment, timeout=30)
        grandchild = cr.fork(cr.checkpoint(child))[0]
        answers = [ask(pid, "check()") for pid in (process.pid, child, grandchild)]
        assert isinstance(answers[0], tuple), answers
        assert answers == [answers[0]] * 3


def test_what_is_refused_goes_on(user: User) -> None:
    program = "step = 'too much'\n" + PAIR.replace(
        "prepare()\n\ndef check",
        "os.write(master, b'a line\\n' * 500)\nevents(slave)\n\ndef check",
    )
    with command_line(user) as cr, served(user, program) as process:
        with pytest.raises(CommandError, match="bytes of input or more are unread"):
            cr.checkpoint(process.pid)
        assert ask(process.pid, "read(slave)") == [b"a line\n"] * 500
