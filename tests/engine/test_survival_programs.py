"""What Linux holds of a process, and programs in other languages, come back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from jupyter_cr.tracer.proc.maps import read_smaps
from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import (
    CommandLine,
    ask,
    command_line,
    end_tree,
    is_alive,
    running,
    served,
    tell,
)

STATE = r"""
import ctypes, os, resource, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
for name in ("sbrk", "mmap"):
    getattr(libc, name).restype = ctypes.c_void_p

PR = dict(dumpable=3, keepcaps=7, timing=13, securebits=27, timerslack=30, no_new_privs=39,
          tsc=25, mce=34, thp=42, io_flusher=58)

def status():
    kept = ("Name", "Umask", "State", "Uid", "Gid", "Groups", "Threads", "SigPnd",
            "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "Seccomp", "CapInh",
            "CapPrm", "CapEff", "CapBnd", "CapAmb", "Cpus_allowed", "Mems_allowed", "VmLck",
            "VmPin", "CoreDumping", "THP_enabled", "Speculation_Store_Bypass")
    lines = dict(l.split(":\t", 1) for l in open("/proc/self/status") if ":\t" in l)
    return {name: lines[name].split() for name in kept if name in lines}

def number_of(option, pointer):
    if not pointer:
        return libc.prctl(option, 0, 0, 0, 0)
    word = ctypes.c_int(0)
    libc.prctl(option, ctypes.byref(word), 0, 0, 0)
    return word.value

def threads():
    found = {}
    for tid in os.listdir("/proc/self/task"):
        base = f"/proc/self/task/{tid}"
        fields = open(base + "/stat").read().rsplit(")", 1)[1].split()
        lines = dict(l.split(":\t", 1) for l in open(base + "/status") if ":\t" in l)
        inner = int(lines["NSpid"].split()[-1])
        kept = "SigPnd", "SigBlk", "CapEff", "CapPrm", "NoNewPrivs"
        found[inner] = (open(base + "/comm").read(), fields[16], fields[38], fields[37],
            sorted(os.sched_getaffinity(inner)), [lines[name].split() for name in kept])
    return found

def auxiliary():
    raw = open("/proc/self/auxv", "rb").read()
    return raw.hex()

def altstack():
    word = (ctypes.c_ulong * 3)()
    libc.sigaltstack(None, word)
    return list(word)

def state():
    return dict(
        status=status(), threads=threads(),
        prctl={name: number_of(option, False) for name, option in PR.items()},
        subreaper=number_of(37, True), death=number_of(2, True),
        ids=(os.getpid(), os.getppid(), os.getpgid(0), os.getsid(0), os.getresuid(),
             os.getresgid(), os.getgroups()),
        nice=os.getpriority(os.PRIO_PROCESS, 0), personality=libc.personality(0xffffffff),
        scheduler=(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority),
        limits=[resource.getrlimit(i) for i in range(16)],
        cwd=os.getcwd(), root=os.readlink("/proc/self/root"),
        exe=os.readlink("/proc/self/exe"), cmdline=open("/proc/self/cmdline").read(),
        environ=open("/proc/self/environ").read(), auxv=auxiliary(), brk=libc.sbrk(0),
        comm=open("/proc/self/comm").read(), oom=open("/proc/self/oom_score_adj").read(),
        coredump=open("/proc/self/coredump_filter").read(),
        handlers={int(n): repr(signal.getsignal(n)) for n in signal.valid_signals()},
        timers=[signal.getitimer(n) [1] for n in (0, 1, 2)], altstack=altstack(),
        descriptors=sorted(os.listdir("/proc/self/fd"), key=int)[:-1],
    )
"""

SET_UP = r"""
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append("usr1"))
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGRTMIN + 2, lambda *_: got.append("realtime"))
signal.signal(signal.SIGALRM, lambda *_: got.append("alarm"))
signal.siginterrupt(signal.SIGUSR1, False)
block = signal.SIGUSR1, signal.SIGRTMIN + 2, signal.SIGTERM
signal.pthread_sigmask(signal.SIG_BLOCK, block)
os.kill(os.getpid(), signal.SIGUSR1)
for _ in range(3):
    os.kill(os.getpid(), signal.SIGRTMIN + 2)
signal.setitimer(signal.ITIMER_VIRTUAL, 1000, 500)
signal.setitimer(signal.ITIMER_PROF, 2000, 700)
stack = ctypes.create_string_buffer(65536)
class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
libc.sigaltstack(ctypes.byref(Stack(ctypes.addressof(stack), 0, 65536)), None)
os.umask(0o037)
os.mkdir("place"); os.chdir("place")
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, 16 << 20))
os.setpriority(os.PRIO_PROCESS, 0, 5)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
open("/proc/self/comm", "w").write("renamed")
open("/proc/self/oom_score_adj", "w").write("300")
open("/proc/self/coredump_filter", "w").write("0x7")
libc.personality(0x0040000)
libc.prctl(36, 1, 0, 0, 0)
libc.prctl(29, 70000, 0, 0, 0)
libc.prctl(1, signal.SIGUSR2, 0, 0, 0)
signal.signal(signal.SIGUSR2, lambda *_: got.append("parent died"))
libc.prctl(38, 1, 0, 0, 0)
def other():
    mask = *block, signal.SIGUSR2, signal.SIGINT
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    libc.prctl(15, b"another\0", 0, 0, 0)
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 9)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    threading.Event().wait()
threading.Thread(target=other, daemon=True).start()
time.sleep(0.1)
"""


@contextmanager
def forked(cr: CommandLine, name: str) -> Iterator[int]:
    pid, _ = cr.fork(name)
    try:
        yield pid
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "end of the fork")


def differences(before: object, after: object, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            difference
            for key in before.keys() | after.keys()
            for difference in differences(before.get(key), after.get(key), f"{where}/{key}")
        ]
    return [f"{where}: {before!r} -> {after!r}"] if before != after else []


@pytest.mark.alone
def test_all_that_linux_holds(user: User) -> None:
    with (
        command_line(user) as cr,
        served(user, STATE + SET_UP + "serve()") as process,
    ):
        before = ask(process.pid, "state()")
        assert isinstance(before, dict), before
        name = cr.checkpoint(process.pid)
        assert not differences(before, ask(process.pid, "state()"))
        with forked(cr, name) as pid:
            assert not differences(before, ask(pid, "state()"))
        pid = cr.restore(name)
        assert not differences(before, ask(pid, "state()"))
        assert ask(pid, "got") == []
        take = "signal.sigtimedwait([signal.SIGRTMIN + 2], 0).si_pid == os.getpid()"
        assert [ask(pid, take) for _ in range(3)] == [True] * 3
        tell(pid, "signal.pthread_sigmask(signal.SIG_SETMASK, [])")
        assert ask(pid, "got") == ["usr1"]
        tell(pid, "os.kill(os.getpid(), signal.SIGUSR1)")
        assert ask(pid, "got") == ["usr1"] * 2


TIMERS = r"""
import ctypes, os, select, signal, struct, time
got = []
for number in (signal.SIGALRM, signal.SIGRTMIN + 1, signal.SIGRTMIN + 2):
    signal.signal(number, lambda number, frame: got.append((number, time.monotonic())))
libc = ctypes.CDLL(None, use_errno=True)
class Event(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("signo", ctypes.c_int),
                ("notify", ctypes.c_int), ("rest", ctypes.c_byte * 48)]
def timer(signo, first, interval):
    event, made = Event(0x1234, signo, 0), ctypes.c_void_p()
    clock = time.CLOCK_MONOTONIC
    assert libc.timer_create(clock, ctypes.byref(event), ctypes.byref(made)) == 0
    def split(seconds):
        return int(seconds), int(seconds % 1 * 1e9)
    when = (ctypes.c_long * 4)(*split(interval), *split(first))
    assert libc.timer_settime(made, 0, when, None) == 0
    return made
def left(made):
    now = (ctypes.c_long * 4)()
    assert libc.timer_gettime(made, now) == 0
    return now[2] + now[3] / 1e9
once = timer(signal.SIGRTMIN + 1, 2.0, 0)
again = timer(signal.SIGRTMIN + 2, 2.0, 0.05)
far = timer(signal.SIGALRM, 5000, 0)
began = time.monotonic()
signal.setitimer(signal.ITIMER_REAL, 2.0)
def counts():
    return [sum(n == number for n, _ in got)
            for number in (signal.SIGALRM, signal.SIGRTMIN + 1, signal.SIGRTMIN + 2)]
"""


def test_timers_go_on(user: User) -> None:
    """Each that was still to come comes, and only once if only once."""
    with command_line(user) as cr, served(user, TIMERS + "serve()") as process:
        name = cr.checkpoint(process.pid)
        assert ask(process.pid, "counts()") == [0, 0, 0]
        for pid in (cr.fork(name)[0], cr.restore(name)):
            wait_until(lambda pid=pid: ask(pid, "counts()[2]") >= 3, "timers")
            assert ask(pid, "counts()[:2]") == [1, 1]
            assert 4900 < ask(pid, "left(far)") <= 5000


MEMORY = r"""
import mmap
PRIVATE, SIZE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 64 * 4096
areas, places = {}, {}
def area(what, protection=3, flags=PRIVATE, advice=(), size=SIZE):
    size_t, offset = ctypes.c_size_t, ctypes.c_long(0)
    address = libc.mmap(None, size_t(size), protection, flags, -1, offset)
    assert address not in (None, ctypes.c_void_p(-1).value)
    if protection & 2:
        ctypes.memset(address, len(areas) + 1, size // 2)
    for one in advice:
        libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), one)
    areas[what] = address
area("guard", 0)
area("writable")
area("read only", 1)
area("executable", 5)
for number in (14, 15, 16, 10, 18, 1, 2, 12):
    area(f"advice {number}", advice=[number])
area("no reserve", flags=PRIVATE | 0x4000)
area("shared", flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
area("grows down", flags=PRIVATE | 0x100)
area("locked")
libc.mlock(ctypes.c_void_p(areas["locked"]), ctypes.c_size_t(4096 * 4))
area("locked on fault")
libc.mlock2(ctypes.c_void_p(areas["locked on fault"]), ctypes.c_size_t(4096 * 4), 1)
area("made read only")
libc.mprotect(ctypes.c_void_p(areas["made read only"]), ctypes.c_size_t(SIZE // 4), 1)
area("sparse")
for page in range(0, 64, 2):
    page = ctypes.c_void_p(areas["sparse"] + page * 4096)
    libc.madvise(page, ctypes.c_size_t(4096), 4)
area("guard pages")
page = ctypes.c_void_p(areas["guard pages"] + 8192)
guards = libc.madvise(page, ctypes.c_size_t(4096), 102)
copy = open("copy.bin", "w+b"); copy.write(bytes(range(256)) * 64); copy.flush()
of_file = mmap.mmap(copy.fileno(), 16384, mmap.MAP_PRIVATE, 3)
of_file[:4] = b"mine"
shared_file = mmap.mmap(copy.fileno(), 16384, mmap.MAP_SHARED, 3)
def digest():
    import hashlib
    found = {}
    for what, address in areas.items():
        if what not in ("guard", "guard pages"):
            found[what] = hashlib.md5(ctypes.string_at(address, SIZE)).hexdigest()
    return found, of_file[:8], of_file[-8:]
"""


def mappings(pid: int) -> list[str]:
    """All mappings with their VmFlags, neighbours that are alike as one.

    Left out: what is soft-dirty is of no meaning; memory that was writable for a moment,
    to be filled, goes on being accounted for ("ac"); and anonymous memory that is shared
    has another name, of a memfd.
    """
    found: list[tuple[int, int, int, str]] = []
    for entry in read_smaps(pid):
        mapping = entry.mapping
        path = mapping.path.replace("/memfd:zero", "/dev/zero")
        what = f"{mapping.perms} {path} {sorted(entry.flags - {'sd', 'ac'})}"
        start, offset = mapping.start, mapping.offset
        if found:
            before, end, begin, same = found[-1]
            follows = offset == begin + start - before or not mapping.is_file
            if (end, same) == (start, what) and follows:
                found.pop()
                start, offset = before, begin
        found.append((start, mapping.end, offset, what))
    return [f"{start:x}-{end:x} {offset:x} {what}" for start, end, offset, what in found]


def assert_same(before: list[str], after: list[str]) -> None:
    lost, new = (sorted({*a} - {*b}) for a, b in ((before, after), (after, before)))
    assert lost + new == [], "\n".join(["lost:", *lost, "new:", *new])


def test_memory_is_laid_out_as_it_was(user: User) -> None:
    """Addresses, protection, advice, locks: all as smaps has it; and all content."""
    with (
        command_line(user) as cr,
        served(user, STATE + MEMORY + "digest(); serve()") as process,
    ):
        digest = ask(process.pid, "digest()")
        name = cr.checkpoint(process.pid)
        before = mappings(process.pid)
        with forked(cr, name) as pid:
            assert_same(before, mappings(pid))
            assert ask(pid, "shared_file[:4]") == bytes(range(4))
            fork_digest = ask(pid, "digest()")
            wiped = [what for what in digest[0] if digest[0][what] != fork_digest[0][what]]
            assert wiped == ["advice 18"], "MADV_WIPEONFORK is for forks, and nothing else"
        pid = cr.restore(name)
        assert_same(before, mappings(pid))
        assert ask(pid, "digest()") == digest
        tell(pid, "shared_file[:4] = b'both'")
        assert (user.home / "copy.bin").read_bytes()[:4] == b"both"


def test_heap_and_stack_go_on_growing(user: User) -> None:
    grow = r"""
def deep(n):
    import json
    if n == 0: return 1
    return list(map(deep, [n - 1]))[0] + 1
sys.setrecursionlimit(30000)
def stack_size():
    for line in open("/proc/self/smaps"):
        if line.endswith("[stack]\n"):
            start, end = line.split()[0].split("-")
            return int(end, 16) - int(start, 16)
"""
    with command_line(user) as cr, served(user, STATE + grow + "serve()") as process:
        small = ask(process.pid, "stack_size()")
        name = cr.checkpoint(process.pid)
        for pid in (cr.fork(name)[0], cr.restore(name)):
            was = ask(pid, "libc.sbrk(0)")
            assert ask(pid, "libc.sbrk(1 << 22)") == was
            tell(pid, f"ctypes.memset({was}, 7, 1 << 22)")
            assert ask(pid, f"ctypes.string_at({was} + 12345, 3)") == b"\7\7\7"
            assert ask(pid, "[str(i) * 1000 for i in range(20000)][-1][:5]") == "19999"
            assert ask(pid, "deep(4000)") == 4001
            assert ask(pid, "stack_size()") > small


def test_huge_pages(user: User) -> None:
    """As many after a restore as before, of 256 MiB of numpy's."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    if "[never]" in enabled:
        pytest.skip("huge pages are not enabled here")
    code = "import numpy; big = numpy.ones(256 << 17); serve()"
    with command_line(user) as cr, served(user, code) as process:
        before = huge(process.pid)
        name = cr.checkpoint(process.pid)
        pid = cr.restore(name)
        assert ask(pid, "int(big.sum())") == 256 << 17
        assert before - (8 << 20) <= huge(pid)
        again = cr.restore(cr.checkpoint(pid))
        assert ask(again, "int(big.sum())") == 256 << 17
        assert before - (8 << 20) <= huge(again)


def huge(pid: int) -> int:
    return sum(entry.anon_huge for entry in read_smaps(pid))


# --- programs in other languages ------------------------------------------------------

REGISTERS = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
typedef uint64_t vector __attribute__((vector_size(32)));
/* Keeps everything in vector registers and on the x87 stack for the whole time. */
static uint64_t spin(uint64_t rounds) {
    vector a = {1, 2, 3, 4}, b = {5, 6, 7, 8}, c = {9, 10, 11, 12};
    long double x = 1.0L, y = 3.0L, z = 0.5L;
    for (uint64_t i = 0; i < rounds; i++) {
        a = (a ^ b) + 0x9e3779b9ULL; b = (b << 1) + c; c = (a >> 3) ^ c;
        x = x * 0.999999L + y; y = y - x * 1e-7L; z = z * x / (x + 1.0L) + 1e-3L;
    }
    uint64_t out[12], sum = 0, low;
    memcpy(out, &a, 32); memcpy(out + 4, &b, 32); memcpy(out + 8, &c, 32);
    for (int i = 0; i < 12; i++) sum = sum * 31 + out[i];
    long double all = x + y + z;
    memcpy(&low, &all, 8);
    return sum * 31 + low;
}
static int deep(int n) {
    volatile char room[8192];
    memset((char *)room, n, sizeof room);
    return n ? deep(n - 1) + room[17] - room[4000] + 1 : 0;
}
int main(int argc, char **argv) {
    uint64_t first = spin(500000);
    int number = 0, fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    char *heap = malloc(10);
    strcpy(heap, "0");
    for (;;) {
        uint64_t now = spin(500000);
        number++;
        heap = realloc(heap, 10 + number * 20000);
        memset(heap + 10 + (number - 1) * 20000, number, 20000);
        int ok = now == first && heap[10 + (number - 1) * 20000 + 5] == (char)number
            && heap[10] == (char)1 && deep(number * 20 % 800) == number * 20 % 800;
        char line[64];
        int length = sprintf(line, "%d %s\n", number, ok ? "ok" : "WRONG");
        if (write(fd, line, length) != length) return 3;
    }
}
"""


def compiler(*flags: str) -> Callable[[Path, str], Path]:
    def compile_to(directory: Path, source: str) -> Path:
        cc = shutil.which("cc") or shutil.which("gcc")
        if cc is None:
            pytest.skip("there is no C compiler")
        text, made = directory / "program.c", directory / "program"
        text.write_text(source)
        command = [cc, "-O2", "-w", *flags, "-o", str(made), str(text)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode and "-static" in flags:
            pytest.skip("no static C library")
        assert not done.returncode, done.stderr
        made.chmod(0o755)
        return made

    return compile_to


def vector_flags() -> tuple[str, ...]:
    known = Path("/proc/cpuinfo").read_text().split()
    return tuple(f"-m{name}" for name in ("avx2",) if name in known)


BASH = r"""
trap 'echo trapped >>"$1.trap"' USR1
declare -A seen
sleep 1000 &
exec 5>"$1"
for ((i = 1; ; i++)); do
    seen[$i]=ok
    echo "$i ${seen[$i]}" >&5
    [ $((i % 20)) = 0 ] && x=$(echo "$i" | cat) && [ "$x" != "$i" ] && echo "$i WRONG" >&5
    read -t 0.003 <> <(:) || :
done
"""

PERL = r"""
use strict; use warnings; $| = 1;
open(my $out, '>', $ARGV[0]) or die; select((select($out), $| = 1)[0]);
open(my $child, '-|', 'sh', '-c', 'i=0; while :; do i=$((i+1)); echo $i; done') or die;
my %seen; my $i = 0;
while (my $line = <$child>) {
    chomp $line; $i++; $seen{$i} = "x" x ($i % 1000);
    my $ok = $line == $i && length($seen{$i}) == $i % 1000;
    print $out "$i ", ($ok ? "ok" : "WRONG"), "\n";
    select(undef, undef, undef, 0.002);
}
"""


def programs(what: str, home: Path) -> list[str]:
    """The command of a program that counts into the file named by its last argument."""
    output = str(home / "out")
    if what == "bash":
        return ["bash", "-c", BASH, "bash", output]
    if what == "perl":
        if shutil.which("perl") is None:
            pytest.skip("there is no perl")
        return ["perl", "-e", PERL, output]
    flags = ("-static",) if what == "static C" else ()
    return [str(compiler(*flags, *vector_flags())(home, REGISTERS)), output]


def count(output: Path) -> int:
    """How far it has come. Raises AssertionError if a line is missing, twice or wrong."""
    if not output.exists():
        return 0
    lines = output.read_text().split("\n")[:-1]
    assert lines == [f"{number} ok" for number in range(1, len(lines) + 1)]
    return len(lines)


@pytest.mark.alone
@pytest.mark.parametrize("what", ["bash", "perl", "C", "static C"])
def test_other_languages(user: User, what: str) -> None:
    """Computing, in the middle of a loop, with registers and heap and stack in use."""
    output = user.home / "out"
    with command_line(user) as cr, running(user, *programs(what, user.home)) as process:

        def goes_on(pid: int) -> None:
            was = count(output)
            wait_until(lambda: count(output) > was + 5, "it goes on")
            assert is_alive(pid)

        goes_on(process.pid)
        first = cr.checkpoint(process.pid)
        goes_on(process.pid)
        pid = cr.restore(first)
        goes_on(pid)
        second = cr.checkpoint(pid)
        pid = cr.restore(second)
        goes_on(pid)
        if what == "bash":
            os.kill(pid, signal.SIGUSR1)
            wait_until((user.home / "out.trap").exists, "the trap")
        cr.end_all()
        end_tree(process)
        with forked(cr, second) as fork:
            # It writes again what was written after the checkpoint.
            seen: set[int] = set()
            wait_until(
                lambda: seen.add(output.stat().st_mtime_ns) or len(seen) > 5,
                "the fork writes",
            )
            assert is_alive(fork)
        assert count(output) > 10


# --- the end of a restored tree -------------------------------------------------------

ENDS = {
    "exit": ("os._exit(7)", 7),
    "sys.exit": ("os._exit(0)", 0),
    "kill": ("os.kill(os.getpid(), 9)", -9),
    "term": ("os.kill(os.getpid(), 15)", -15),
    "segv": ("ctypes.string_at(0)", -11),
    "abort": ("os.abort()", -6),
    "realtime": ("os.kill(os.getpid(), 40)", -40),
}

CALLER = r"""
import ctypes, os, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(done.stdout.replace("\n", " ") or done.stderr, flush=True)
ended = []
while True:
    try:
        ended.append(os.wait()[1])
    except ChildProcessError:
        break
print([os.waitstatus_to_exitcode(status) for status in ended], flush=True)
"""


@pytest.mark.parametrize("mode", ["restore", "fork"])
@pytest.mark.parametrize("how", ENDS)
def test_exit_status_reaches_who_called(user: User, how: str, mode: str) -> None:
    """Whoever called for the tree (here: adopted its supervisor) can wait for it."""
    code, expected = ENDS[how]
    with (
        command_line(user) as cr,
        served(user, "import ctypes, os, time\nserve()") as process,
    ):
        name = cr.checkpoint(process.pid)
        caller = subprocess.Popen(
            user.command(
                user.python, "-c", CALLER, *cr.argv(mode, name)[len(user.prefix) :]
            ),
            stdout=subprocess.PIPE,
            text=True,
            cwd=user.home,
            env=dict(user.environment),
        )
        try:
            assert caller.stdout is not None
            answer = json.loads(caller.stdout.readline())
            soon = "import threading; threading.Timer(0.1, lambda: {}).start()"
            tell(answer["pid"], soon.format(code))
            out, _ = caller.communicate(timeout=LIMIT)
            assert eval(out) == [expected]
        finally:
            caller.kill()
            caller.communicate()
        assert not psutil.pid_exists(answer["pid"])
        assert not cr.keepers()


def test_children_outlive_their_tree(user: User) -> None:
    """As they do anywhere else; and what kept it ends with the last of them."""
    code = "import os, subprocess\nchild = subprocess.Popen(['sleep', '1000'])\nserve()"
    with command_line(user) as cr, served(user, code) as process:
        pid = cr.restore(cr.checkpoint(process.pid))
        (child,) = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))
        wait_until(lambda: len(cr.keepers()) == 1, "only init is left")
        assert child.is_running()
        assert child.name() == "sleep"
        (init,) = cr.keepers()
        assert child.ppid() == init
        child.kill()
        wait_until(lambda: not cr.keepers(), "the last of the keepers ends")
