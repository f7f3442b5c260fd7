# ruff: noqa: E501 (programs under test, as text)
from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jupyter_cr.engine import shared_memory
from jupyter_cr.engine.open_file_table import FileTable
from jupyter_cr.errors import Unsupported, UsageError
from jupyter_cr.tracer import ptrace
from jupyter_cr.tracer.proc.maps import read_maps
from tests.engine.harness import (
    LIMIT,
    ROOT,
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

MANY_THINGS = (
    SERVE
    + """
import ctypes, fcntl, os, resource, select, signal, socket, tempfile, threading, time

libc = ctypes.CDLL(None, use_errno=True)
caught = []
signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGRTMIN + 3])
signal.setitimer(signal.ITIMER_VIRTUAL, 1000, 500)
os.kill(os.getpid(), signal.SIGUSR2)
os.umask(0o027)
os.nice(3)
libc.prctl(1, signal.SIGTERM)
libc.prctl(36, 1)
libc.prctl(29, 70_000)
libc.prctl(15, b"many things")
pipe = os.pipe()
os.write(pipe[1], b"unread")
pair = socket.socketpair()
pair[0].send(b"queued")
epoll = select.epoll()
epoll.register(pair[1], select.EPOLLIN, )
file = tempfile.TemporaryFile()
file.write(b"0123456789")
file.seek(4)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
locals_ = threading.local()
event = threading.Event()
threads = [threading.Thread(target=event.wait, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()

def links():
    # Of what is open, but for the directory that is being listed.
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = (os.readlink(f"/proc/self/fd/{fd}"),
                              open(f"/proc/self/fdinfo/{fd}").read())
        except FileNotFoundError:
            pass
    return found

CHANGING = ("SigQ", "VmRSS", "VmHWM", "VmPeak", "RssAnon", "ctxt", "VmSize", "VmPTE", "RssFile", "VmData",
            "Rss", "State", "VmLck")

def status():
    found = {}
    for tid in os.listdir("/proc/self/task"):
        text = open(f"/proc/self/task/{tid}/status").read().splitlines()
        found[tid] = [line for line in text if not any(word in line for word in CHANGING)]
    return found

def attributes():
    word = ctypes.c_int(0)
    libc.prctl(2, ctypes.byref(word))
    death = word.value
    libc.prctl(37, ctypes.byref(word))
    return (death, word.value, libc.prctl(30), libc.prctl(3), os.nice(0),
            resource.getrlimit(resource.RLIMIT_NOFILE), os.getpgid(0), os.getsid(0),
            os.sched_getaffinity(0), signal.sigpending(), os.readlink("/proc/self/cwd"),
            int(signal.getitimer(signal.ITIMER_VIRTUAL)[0]) in (999, 1000),
            signal.getitimer(signal.ITIMER_VIRTUAL)[1], file.tell())

def children():
    try:
        return os.waitpid(-1, os.WNOHANG | 0x40000000)
    except ChildProcessError:
        return "none"

def maps():
    return [line.split()[:2] for line in open("/proc/self/maps")]

serve(globals())
"""
)


def settled_maps(running: Program) -> str:
    """What it says of its own mappings, once asking does not change them any more."""
    previous = ""
    while previous != (previous := running.ask("maps()")):
        pass
    return previous


class TestCore:
    """Run as root and as an ordinary user."""

    def test_nothing_changes(self) -> None:
        """The process cannot tell from anything Linux shows it that it was frozen."""
        with program(MANY_THINGS) as running:
            questions = ["status()", "links()", "attributes()", "children()", "caught"]
            before = [running.ask(question) for question in questions]
            mappings = settled_maps(running)
            checkpoint(running.pid, times=3)
            assert settled_maps(running) == mappings
            assert [running.ask(question) for question in questions] == before
            assert session_of(running.pid) == [running.pid]

    def test_wait_never_sees_the_helper(self) -> None:
        """A thread that waits for any child, all the time, finds none."""
        code = """
import os, sys, threading
found = []
def look():
    while True:
        for options in (os.WNOHANG, os.WNOHANG | os.WUNTRACED):
            try:
                found.append(os.waitpid(-1, options))
            except ChildProcessError:
                pass
for _ in range(2):
    threading.Thread(target=look, daemon=True).start()
serve(globals())
"""
        with program(SERVE + code) as running:
            checkpoint(running.pid, times=10)
            assert set(eval(running.ask("found"))) <= {(0, 0)}

    def test_content_of_memory(self) -> None:
        """What the pages hold is what the memory held, whatever its kind."""
        code = """
import ctypes, mmap, tempfile, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
SIZE = 16 * 4096
def pattern(seed):
    return bytes((i * 7 + i // 4096 + seed) % 251 for i in range(SIZE))
def area(seed, flags=0x22, fd=-1, prot=3):
    address = libc.mmap(None, SIZE, prot, flags, fd, 0)
    assert address not in (None, 2**64 - 1)
    ctypes.memmove(address, pattern(seed), SIZE)
    return address
def advise(address, what, size=SIZE):
    assert libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), what) == 0
    return address
def protect(address, prot):
    assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(SIZE), prot) == 0
    return address
file = tempfile.NamedTemporaryFile()
file.write(b"f" * SIZE)
file.flush()
gone = tempfile.TemporaryFile()
gone.write(b"g" * SIZE)
gone.flush()
areas = {
    "anonymous": area(1),
    "copied file pages": area(2, flags=2, fd=file.fileno()),
    "none": protect(area(3), 0),
    "read-only": protect(area(4), 1),
    "dontfork": advise(area(5), 10),
    "wipeonfork": advise(area(6), 18),
    "both": advise(advise(area(7), 10), 18),
    "deleted file": area(8, flags=2, fd=gone.fileno()),
    "written past": area(9),
}
# In the middle of a larger mapping, so that mappings are split and merged again.
middle = libc.mmap(None, 3 * SIZE, 3, 0x22, -1, 0)
for part in range(3):
    ctypes.memmove(middle + part * SIZE, pattern(10 + part), SIZE)
advise(middle + SIZE, 10)
areas |= {"before": middle, "middle": middle + SIZE, "behind": middle + 2 * SIZE}
def flags(address):
    return [line for line in open("/proc/self/smaps") if line.startswith(f"{address:x}-")]
def vm_flags():
    text = open("/proc/self/smaps").read().split("VmFlags:")
    found = {}
    for entry, following in zip(text, text[1:]):
        header = [l for l in entry.splitlines() if "-" in l.split(" ")[0]][-1]
        start = int(header.split("-")[0], 16)
        for name, address in areas.items():
            if address == start:
                found[name] = following.splitlines()[0]
    return found
serve(globals())
"""
        with program(SERVE + code) as running:
            areas = eval(running.ask("areas"))
            flags = running.ask("vm_flags()")
            with checkpointed(running.pid) as (_, writer):
                for seed, (name, address) in enumerate(areas.items(), 1):
                    expected = eval(running.ask(f"pattern({seed})"))
                    stored = writer.stored(running.pid, address, len(expected))
                    assert stored == expected, name
            assert running.ask("vm_flags()") == flags
            checkpoint(running.pid)

    def test_content_is_of_the_instant(self) -> None:
        """Memory that is being written all the time is stored as it was at one moment:
        both counters, in pages far apart, were written one after the other."""
        code = """
import ctypes, mmap, threading
size = 64 << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
first = ctypes.c_uint64.from_buffer(memory, 0)
last = ctypes.c_uint64.from_buffer(memory, size - 8)
def count():
    number = 0
    while True:
        number += 1
        first.value = number
        last.value = number
threading.Thread(target=count, daemon=True).start()
serve(globals())
"""
        with program(SERVE + code) as running:
            address = int(running.ask("address"))
            for _ in range(3):
                with checkpointed(running.pid) as (_, writer):
                    begin, end = (
                        int.from_bytes(writer.stored(running.pid, at, 8) or b"", "little")
                        for at in (address, address + (64 << 20) - 8)
                    )
                    assert begin - end in (0, 1)

    def test_shared_memory(self) -> None:
        """Anonymous, memfd, and unlinked files of /dev/shm: found once, whoever maps it."""
        code = """
import ctypes, os, tempfile
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
SIZE = 8 * 4096
def pattern(seed):
    return bytes((i * 7 + i // 4096 + seed) % 251 for i in range(SIZE))
def shared(fd=-1):
    if fd >= 0:
        os.ftruncate(fd, SIZE)
    return libc.mmap(None, SIZE, 3, 1 if fd >= 0 else 0x21, fd, 0)
anonymous = shared()
memfd = shared(fd := os.memfd_create("shared"))
os.close(fd)
with tempfile.TemporaryFile(dir="/dev/shm") as file:
    segment = shared(file.fileno())
address = [anonymous, memfd, segment]
for seed, area in enumerate(address):
    ctypes.memmove(area, pattern(seed), SIZE)
if not (child := os.fork()):
    ctypes.memmove(anonymous, b"!", 1)
    os.kill(os.getpid(), 19)
    os._exit(0)
os.waitpid(child, os.WUNTRACED)
serve(globals())
"""
        with program(SERVE + code) as running:
            starts = eval(running.ask("address"))
            inodes = {m.start: m.inode for m in read_maps(running.pid)}
            with checkpointed(running.pid) as (_, writer):
                records = writer.records(shared_memory.Record)
                assert len(records) == 3
                for seed, start in enumerate(starts):
                    (record,) = (r for r in records if r.inode == inodes[start])
                    found = b"".join(
                        writer.pages[offset : offset + length]
                        for _, length, offset in record.runs
                    )
                    expected = eval(running.ask(f"pattern({seed})"))
                    assert found == (b"!" + expected[1:] if not seed else expected)
                assert [p.is_stopped for p in writer.added if hasattr(p, "is_stopped")] == [
                    False,
                    True,
                ]
            os.kill(int(running.ask("child")), signal.SIGCONT)
            wait_until(lambda: running.ask("os.waitpid(child, os.WNOHANG)") != "(0, 0)")

    def test_few_stops(self) -> None:
        """Waiting is what costs: no more than 60 stops for each thread."""
        with program(MANY_THINGS) as running:
            threads = len(os.listdir(f"/proc/{running.pid}/task"))
            before = ptrace.waits
            checkpoint(running.pid)
            assert ptrace.waits - before <= 60 * threads


AVX = r"""
#include <immintrin.h>
#include <stdint.h>
/* Keeps all sums in vector registers for the whole time. */
uint64_t spin(uint64_t rounds) {
    __m256i a = _mm256_set_epi64x(1, 2, 3, 4), b = _mm256_set_epi64x(5, 6, 7, 8);
    __m256i c = _mm256_set_epi64x(9, 10, 11, 12), one = _mm256_set1_epi64x(0x9e3779b9);
    for (uint64_t i = 0; i < rounds; i++) {
        a = _mm256_add_epi64(_mm256_xor_si256(a, b), one);
        b = _mm256_add_epi64(_mm256_slli_epi64(b, 1), c);
        c = _mm256_xor_si256(_mm256_srli_epi64(a, 3), c);
        __asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c));
    }
    uint64_t out[12];
    _mm256_storeu_si256((__m256i *)out, a);
    _mm256_storeu_si256((__m256i *)(out + 4), b);
    _mm256_storeu_si256((__m256i *)(out + 8), c);
    uint64_t sum = 0;
    for (int i = 0; i < 12; i++) sum = sum * 31 + out[i];
    return sum;
}
"""


def has_avx2() -> bool:
    return " avx2 " in Path("/proc/cpuinfo").read_text()


@pytest.mark.skipif(not has_avx2(), reason="this processor has no AVX2")
def test_vector_registers_are_kept(tmp_path: Path) -> None:
    source, library = tmp_path / "spin.c", tmp_path / "spin.so"
    source.write_text(AVX)
    compiler = ["cc", "-O2", "-mavx2", "-shared", "-fPIC", "-o", str(library), str(source)]
    try:
        subprocess.run(compiler, check=True, timeout=LIMIT)
    except FileNotFoundError:
        pytest.skip("there is no C compiler")
    spin = ctypes.CDLL(str(library)).spin
    spin.restype = ctypes.c_uint64
    code = f"""
import ctypes, threading
spin = ctypes.CDLL({str(library)!r}).spin
spin.restype = ctypes.c_uint64
done = []
def work():
    while True:
        done.append(spin(ctypes.c_uint64(5_000_000)))
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
serve(globals())
"""
    expected = spin(ctypes.c_uint64(5_000_000))
    with program(SERVE + code) as running:
        for _ in range(10):
            checkpoint(running.pid)
        wait_until(lambda: int(running.ask("len(done)")) >= 10)
        assert set(eval(running.ask("done"))) == {expected}


LOAD = """
import os, subprocess, sys, threading
# OpenBLAS ends its threads at each fork, and hangs if another thread is computing.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy
errors, rounds = [], dict(compute=0, allocate=0, fork=0, threads=0, spawn=0)

def again(work):
    def loop():
        while not stop.is_set():
            try:
                work()
                rounds[work.__name__] += 1
            except BaseException as error:
                errors.append(repr(error))
    return threading.Thread(target=loop)

matrix = numpy.arange(40_000, dtype=float).reshape(200, 200) % 17
product = matrix @ matrix

def compute():
    assert ((matrix @ matrix) == product).all()

def allocate():
    blocks = [bytes([i]) * (i * 5000 + 1) for i in range(60)]
    assert all(block == bytes([i]) * (i * 5000 + 1) for i, block in enumerate(blocks))
    array = numpy.ones(300_000)
    assert array.sum() == 300_000

def fork():
    pid = os.fork()
    if not pid:
        os._exit(sum(range(10)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 45

def threads():
    found = []
    several = [threading.Thread(target=found.append, args=(i,)) for i in range(5)]
    for thread in several: thread.start()
    for thread in several: thread.join()
    assert sorted(found) == list(range(5))

def spawn():
    assert subprocess.run(["echo", "hello"], capture_output=True).stdout == b"hello\\n"

stop = threading.Event()
running = [again(work) for work in (compute, allocate, fork, threads, spawn)]
for thread in running: thread.start()
"""


@pytest.mark.timeout(180)
def test_fifty_checkpoints_under_load() -> None:
    with program(SERVE + LOAD + "serve(globals())") as running:
        for number in range(50):
            checkpoint(running.pid)
            assert running.ask("errors") == "[]", f"after checkpoint {number}"
        running.ask("stop.set()")
        assert running.ask("[thread.join() for thread in running][0]") == "None"
        assert running.ask("errors") == "[]"
        assert min(eval(running.ask("list(rounds.values())"))) > 0


REFUSED = {
    "inotify": (
        "number = libc.inotify_init1(0)",
        "inotify",
    ),
    "fanotify-less userfaultfd": (
        "number = libc.syscall(323, 1)",
        "userfaultfd",
    ),
    "perf_event": (
        "attribute = bytearray(128); attribute[0:4] = (1).to_bytes(4, 'little')\n"
        "attribute[4:8] = (128).to_bytes(4, 'little'); attribute[40:41] = b'\\x63'\n"
        "number = libc.syscall(298, bytes(attribute), 0, -1, -1, 0)",
        "perf_event",
    ),
    "io_uring": (
        "number = libc.syscall(425, 4, ctypes.create_string_buffer(120))",
        "io_uring",
    ),
    "pidfd": ("number = os.pidfd_open(os.getppid())", "which is not of the tree"),
    "pseudoterminal": (
        "number = os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY)",
        "has not been opened yet",
    ),
    "System V shared memory": (
        "libc.shmat.restype = ctypes.c_ssize_t\n"
        "key = libc.shmget(0, 4096, 0o1600)\n"
        "number = libc.shmat(key, None, 0)\n"
        "libc.shmctl(key, 0, None)",
        "/SYSV",
    ),
    # Its identifier is 0, which Linux shows as the inode of what is mapped.
    "right to make the first System V shared memory again": (
        "libc.shmat.restype = ctypes.c_ssize_t\n"
        "key = -1\n"
        "if os.access('/proc/sys/kernel/shm_next_id', os.W_OK):\n"
        "    with open('/proc/sys/kernel/shm_next_id', 'w') as file: file.write('0')\n"
        "    key = libc.shmget(0, 4096, 0o1600)\n"
        "number = libc.shmat(key, None, 0) if key == 0 else -1\n"
        "libc.shmctl(key, 0, None)",
        "/SYSV",
    ),
    "a lost directory": (
        "import tempfile\n"
        "directory = tempfile.mkdtemp(); os.chdir(directory); os.rmdir(directory)\n"
        "number = 0",
        "cwd",
    ),
    "a filter on a child": (
        """
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
allow = ctypes.create_string_buffer(bytes([6, 0, 0, 0, 0, 0, 255, 127]), 8)
child = os.fork()
if not child:
    libc.prctl(38, 1, 0, 0, 0)
    status = libc.prctl(22, 2, ctypes.byref(Filter(1, ctypes.addressof(allow))))
    os.write(ready[1], b"y" if status == 0 else b"n")
    signal.pause()
number = 0 if os.read(ready[0], 1) == b"y" else -1
""",
        "seccomp",
    ),
    "a child that shares memory": (
        """
stack = ctypes.create_string_buffer(65536)
pause = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("pause", libc))
top = ctypes.c_void_p(ctypes.addressof(stack) + 65536 - 16)
number = libc.clone(pause, top, 0x100 | 17, None)
""",
        "share their memory",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    """By name, and the program goes on as if nothing had happened."""
    setup, named = REFUSED[what]
    code = f"""
import ctypes, os, signal, socket  # some of 3.13 cannot be imported in a lost directory
libc = ctypes.CDLL(None, use_errno=True)
ready = os.pipe()
{setup}
{MANY_THINGS.replace(SERVE, "")}
"""
    with program(SERVE + code) as running:
        if int(running.ask("number")) < 0:
            pytest.skip(f"this machine has no {what}")
        before = [running.ask(question) for question in ("status()", "attributes()")]
        mappings = settled_maps(running)
        with pytest.raises(Unsupported) as caught:
            checkpoint(running.pid)
        assert named in caught.value.message
        assert caught.value.hint
        assert settled_maps(running) == mappings
        assert [running.ask(q) for q in ("status()", "attributes()")] == before


def test_not_from_inside() -> None:
    with pytest.raises(UsageError, match="own tree"):
        checkpoint(os.getpid())


@pytest.mark.skipif(os.geteuid() != 0, reason="not run by root")
@pytest.mark.timeout(180)
def test_as_ordinary_user(tmp_path: Path) -> None:
    if not can_become_user():
        pytest.skip("setpriv, unshare or mount is not permitted here")
    own = Path("/tmp") / f"jupyter-cr-user-{os.getpid()}"
    own.mkdir()
    os.chown(own, 20001, 20001)
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={own}/base",
        "tests/engine/test_checkpoint.py::TestCore",
    ]
    try:
        done = subprocess.run(
            as_user(argv),
            cwd=ROOT,
            env=os.environ | {"HOME": str(own), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        subprocess.run(["rm", "-rf", str(own)], check=True)


@pytest.mark.alone
def test_short_transactions_are_waited_for() -> None:
    """SQLite's journal is deleted with its transaction: a snapshot with one in it could be
    restored only until then."""
    code = """
import sqlite3, time
database = sqlite3.connect("{path}", isolation_level=None)
database.execute("CREATE TABLE t (x)")
print("ready", flush=True)
while True:
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO t VALUES (1)")
    time.sleep(0.01)
    database.execute("COMMIT")
    time.sleep(0.05)
"""
    with (
        tempfile.TemporaryDirectory() as directory,
        program(code.format(path=f"{directory}/x.db")) as running,
    ):
        for _ in range(10):
            with checkpointed(running.pid) as (_, image):
                (table,) = image.records(FileTable)
                paths = [getattr(file.record, "path", b"") for file in table.files]
                assert not any(path.endswith(b"-journal") for path in paths)


def test_what_lasts_an_instant_is_waited_for() -> None:
    """As when psutil reads about all processes in turn."""
    code = """
import threading
file = open("/proc/1/stat")
def close_soon():
    threading.Timer(0.2, file.close).start()
"""
    with program(code + SERVE + "serve(globals())") as running:
        running.ask("close_soon()")
        checkpoint(running.pid)
        assert running.ask("file.closed") == "True"
