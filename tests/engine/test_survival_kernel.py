"""What a kernel's users keep in it comes back with it, in place and as a fork."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

import pytest

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.engine.kernels import (
    CellError,
    Frontend,
    Kernel,
    command_line,
    forked,
    kernel,
    settle,
)


@dataclass(frozen=True)
class Survivor:
    """`setup` is run before the checkpoint, `check` in whatever came back."""

    setup: str
    check: str
    forks: bool = True
    """Whether a fork can have it beside the original (a lock on a file, for one, has
    one holder)."""


SURVIVORS = {
    "a generator half-way": Survivor(
        """
        def _numbers():
            for i in range(10):
                try:
                    yield i
                finally:
                    seen.append(i)
        seen = []
        half_way = _numbers()
        assert [next(half_way) for _ in range(4)] == [0, 1, 2, 3]
        """,
        """
        assert list(half_way) == [4, 5, 6, 7, 8, 9] and seen == list(range(10)), seen
        """,
    ),
    "threads that are blocked": Survivor(
        """
        import queue, select, socket, threading, time
        blocked_lock, blocked_queue = threading.Lock(), queue.Queue()
        blocked_lock.acquire()
        blocked_condition, blocked_event = threading.Condition(), threading.Event()
        select_in, select_out = socket.socketpair()
        went_on, began = [], time.monotonic()
        def _wait_lock():
            with blocked_lock: went_on.append("lock")
        def _wait_queue():
            went_on.append(blocked_queue.get())
        def _wait_select():
            select.select([select_in], [], []); went_on.append("select")
        def _wait_poll():
            poll = select.poll(); poll.register(select_in, select.POLLIN)
            poll.poll(); went_on.append("poll")
        def _wait_recv():
            went_on.append(select_in.recv(100, socket.MSG_PEEK).decode())
        def _wait_condition():
            with blocked_condition: blocked_condition.wait(); went_on.append("condition")
        def _wait_sleep():
            time.sleep(0.5); went_on.append("sleep")
        def _wait_event():
            went_on.append(blocked_event.wait(1000))
        def _wait_for_ever():
            time.sleep(100000)
        _waits = (_wait_lock, _wait_queue, _wait_select, _wait_poll, _wait_recv,
            _wait_condition, _wait_sleep, _wait_event)
        blocked = [threading.Thread(target=f, daemon=True) for f in _waits]
        for_ever = threading.Thread(target=_wait_for_ever, daemon=True)
        for thread in (*blocked, for_ever): thread.start()
        time.sleep(0.1)
        """,
        """
        time.sleep(0.1)
        _all = {"lock", "queue", "select", "poll", "data", "condition", True}
        assert not _all & {*went_on}, went_on
        blocked_lock.release(); blocked_queue.put("queue"); select_out.send(b"data")
        with blocked_condition: blocked_condition.notify()
        blocked_event.set()
        for thread in blocked: thread.join(10)
        assert {*went_on} == _all | {"sleep"}, went_on
        assert len(went_on) == 8 and for_ever.is_alive()
        """,
    ),
    "a transaction in sqlite": Survivor(
        """
        import sqlite3
        database = sqlite3.connect("transaction.db", isolation_level=None)
        database.execute("create table t (x)")
        database.execute("insert into t values (0)")
        database.execute("begin immediate")
        database.execute("insert into t values (1)")
        """,
        """
        other = sqlite3.connect("transaction.db", timeout=0)
        assert other.execute("select count(*) from t").fetchone() == (1,)
        try:
            other.execute("insert into t values (9)"); raise SystemExit("not locked")
        except sqlite3.OperationalError: pass
        database.execute("insert into t values (2)")
        database.execute("commit")
        assert other.execute("select x from t").fetchall() == [(0,), (1,), (2,)]
        """,
        forks=False,
    ),
    "a database in memory": Survivor(
        """
        import sqlite3
        in_memory = sqlite3.connect(":memory:", isolation_level=None)
        in_memory.execute("create table t (x)")
        in_memory.execute("begin")
        in_memory.executemany("insert into t values (?)", [(i,) for i in range(1000)])
        rows = in_memory.execute("select x from t")
        assert [next(rows)[0] for _ in range(10)] == list(range(10))
        """,
        """
        assert [row[0] for row in rows] == list(range(10, 1000))
        in_memory.execute("rollback")
        assert in_memory.execute("select count(*) from t").fetchone() == (0,)
        """,
    ),
    "pools of processes": Survivor(
        """
        import concurrent.futures, multiprocessing, os
        _context = multiprocessing.get_context("fork")
        pool = _context.Pool(2)
        executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=_context)
        assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
        assert list(executor.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
        workers = sorted(process.pid for process in pool._pool)
        """,
        """
        assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
        assert list(executor.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        assert sorted(process.pid for process in pool._pool) == workers
        later = [pool.apply_async(pow, (2, i)) for i in range(20)]
        assert [one.get(10) for one in later] == [2 ** i for i in range(20)]
        pool.close(); pool.join(); executor.shutdown()
        """,
    ),
    "bash in the middle of a loop": Survivor(
        """
        import subprocess
        looping = subprocess.Popen(["bash", "-c", "for i in {1..40}; do echo $i; "
            "sleep 0.02; done; exit 3"], stdout=subprocess.PIPE)
        counted = [looping.stdout.readline() for _ in range(5)]
        """,
        """
        counted += looping.stdout.readlines()
        assert [int(line) for line in counted] == list(range(1, 41)), counted
        assert looping.wait(10) == 3
        """,
    ),
    "asyncio tasks": Survivor(
        """
        import asyncio
        ticks, started = [], asyncio.Event()
        async def _tick():
            for i in range(30):
                ticks.append(i); await asyncio.sleep(0.02)
            return "done"
        async def _get():
            return await aqueue.get()
        async def _serve(reader, writer):
            writer.write((await reader.readline()).upper()); await writer.drain()
        aqueue = asyncio.Queue()
        ticking, getting = asyncio.ensure_future(_tick()), asyncio.ensure_future(_get())
        aserver = await asyncio.start_server(_serve, "127.0.0.1", 0)
        areader, awriter = await asyncio.open_connection(*aserver.sockets[0].getsockname())
        achild = await asyncio.create_subprocess_exec("sh", "-c", "read x; echo $x; exit 4",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        awaiting = asyncio.ensure_future(achild.wait())
        await asyncio.sleep(0.1)
        """,
        """
        assert await asyncio.wait_for(ticking, 10) == "done" and ticks == list(range(30))
        await aqueue.put("put"); assert await asyncio.wait_for(getting, 10) == "put"
        awriter.write(b"hello\\n")
        assert await asyncio.wait_for(areader.readline(), 10) == b"HELLO\\n"
        awriter.close()
        out, _ = await asyncio.wait_for(achild.communicate(b"word\\n"), 10)
        assert out == b"word\\n", out
        assert await asyncio.wait_for(awaiting, 10) == 4
        _again = await asyncio.open_connection(*aserver.sockets[0].getsockname())
        _again[1].write(b"again\\n")
        assert await asyncio.wait_for(_again[0].readline(), 10) == b"AGAIN\\n"
        _again[1].close()
        """,
    ),
    "numpy's state": Survivor(
        """
        import numpy
        random = numpy.random.default_rng(7)
        drawn = random.standard_normal(1000)
        mapped = numpy.memmap("mapped.bin", dtype="i8", mode="w+", shape=10000)
        mapped[:] = range(10000)
        cube = numpy.arange(1_000_000.).reshape(100, 100, 100)
        view = cube[::3, ::-2, 5:9]
        """,
        """
        _same = numpy.random.default_rng(7); _same.standard_normal(1000)
        assert (random.standard_normal(50) == _same.standard_normal(50)).all()
        assert mapped.sum() == sum(range(10000))
        assert view.base is cube.base or view.base is cube
        cube[0, -1, 5] = -1; assert view[0, 0, 0] == -1
        assert (numpy.ones((300, 300)) @ numpy.ones((300, 300)) == 300).all()
        """,
    ),
    "pandas' state": Survivor(
        """
        import pandas
        frame = pandas.DataFrame({"a": range(1000), "b": [str(i % 7) for i in range(1000)]})
        groups = frame.groupby("b")
        summed = groups["a"].sum()
        """,
        """
        assert (groups["a"].sum() == summed).all() and summed.sum() == 499500
        frame.loc[0, "a"] = 5; assert frame["a"].sum() == 499505
        """,
    ),
    "sockets between parent and child": Survivor(
        """
        import os, socket
        _listener = socket.create_server(("127.0.0.1", 0))
        _tcp = socket.create_connection(_listener.getsockname())
        _accepted = _listener.accept()[0]; _listener.close()
        _a, _b = socket.socketpair(); _c, _d = socket.socketpair(type=socket.SOCK_SEQPACKET)
        talking = os.fork()
        if not talking:
            try:
                _tcp.send(b"tcp queued"); _b.send(b"unix queued")
                _d.send(b"1"); _d.send(b"2")
                while (_data := _b.recv(100)) != b"end":
                    _tcp.send(b"tcp " + _data); _d.send(b"packet " + _data); _b.send(_data)
            finally:
                os._exit(9)
        ends = _accepted, _a, _c
        for _one in (_tcp, _b, _d): _one.close()
        for _one in ends:
            _one.settimeout(10); _one.recv(1, socket.MSG_PEEK)
        """,
        """
        assert ends[0].recv(100) == b"tcp queued" and ends[1].recv(100) == b"unix queued"
        assert [ends[2].recv(100), ends[2].recv(100)] == [b"1", b"2"]
        ends[1].send(b"more"); assert ends[1].recv(100) == b"more"
        assert ends[0].recv(100) == b"tcp more" and ends[2].recv(100) == b"packet more"
        ends[1].send(b"end")
        assert os.waitstatus_to_exitcode(os.waitpid(talking, 0)[1]) == 9
        assert ends[0].recv(1) == b"" and ends[1].recv(1) == b""
        """,
    ),
    "shared memory": Survivor(
        """
        import mmap, multiprocessing, multiprocessing.shared_memory, os
        _name = os.path.basename(os.environ["HOME"])
        segment = multiprocessing.shared_memory.SharedMemory(_name, True, 100_000)
        anonymous = mmap.mmap(-1, 100_000)
        _fork = multiprocessing.get_context("fork")
        number, array = _fork.Value("q", 0), _fork.Array("i", 1000)
        to_child, to_parent = os.pipe(), os.pipe()
        sharing = os.fork()
        if not sharing:
            try:
                while (_command := os.read(to_child[0], 1)) != b"e":
                    with number.get_lock(): number.value += 1
                    array[7] += 1
                    segment.buf[50_000] += 1
                    anonymous[99_999] += 1
                    os.write(to_parent[1], b"k")
            finally:
                os._exit(0)
        def _both(expected):
            os.write(to_child[1], b"x"); assert os.read(to_parent[0], 1) == b"k"
            with number.get_lock(): number.value += 10
            array[7] += 10; segment.buf[50_000] += 10; anonymous[99_999] += 10
            found = number.value, array[7], segment.buf[50_000], anonymous[99_999]
            assert found == (expected,) * 4, found
        _both(11)
        """,
        """
        _both(22); _both(33)
        os.write(to_child[1], b"e"); assert os.waitpid(sharing, 0)[1] == 0
        """,
    ),
    "the shared segment by its name": Survivor(
        """
        import multiprocessing.shared_memory, os
        _name = os.path.basename(os.environ["HOME"]) + "-named"
        named = multiprocessing.shared_memory.SharedMemory(_name, True, 5000)
        named.buf[:3] = b"abc"
        """,
        """
        _other = multiprocessing.shared_memory.SharedMemory(named.name)
        assert bytes(_other.buf[:3]) == b"abc"
        _other.buf[4] = 7; assert named.buf[4] == 7
        """,
        forks=False,
    ),
    "files": Survivor(
        """
        import os, tempfile
        unlinked = tempfile.TemporaryFile("w+b")
        unlinked.write(b"0123456789"); unlinked.flush(); unlinked.seek(3)
        log = open("log.txt", "a"); log.write("before\\n"); log.flush()
        buffered = open("buffered.txt", "w"); buffered.write("not flushed")
        reading = open(os.__file__); _head = reading.read(100)
        os.makedirs("below", exist_ok=True); os.chdir("below")
        """,
        """
        assert unlinked.read() == b"3456789" and os.fstat(unlinked.fileno()).st_nlink == 0
        unlinked.write(b"more"); unlinked.seek(0)
        assert unlinked.read() == b"0123456789more"
        log.write("after\\n"); log.flush()
        assert _head + reading.read() == open(os.__file__).read()
        assert os.path.basename(os.getcwd()) == "below"
        buffered.close()
        """,
    ),
    "a thread's own things": Survivor(
        """
        import contextvars, threading
        local, variable = threading.local(), contextvars.ContextVar("v", default=0)
        own, go = [], threading.Event()
        def _own():
            local.x = 5; variable.set(6)
            go.wait(100)
            own.append((local.x, variable.get(), threading.get_native_id()))
        owner = threading.Thread(target=_own); owner.start(); native = owner.native_id
        """,
        """
        go.set(); owner.join(10); assert own == [(5, 6, native)], own
        assert not hasattr(local, "x")
        """,
    ),
    # After those that fork, and keep what they do not know of open.
    "pipes with unread bytes": Survivor(
        """
        import subprocess
        _pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        talker = subprocess.Popen(["sh", "-c", "echo one; echo two >&2; read x; "
            "echo got $x; exit 7"], **_pipes)
        import select as _select
        assert _select.select([talker.stdout], [], [], 10)[0]
        assert _select.select([talker.stderr], [], [], 10)[0]
        writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        writer.stdin.write(b"x" * 50000); writer.stdin.flush()
        """,
        """
        out, err = talker.communicate(b"answer\\n", timeout=10)
        assert (out, err, talker.returncode) == (b"one\\ngot answer\\n", b"two\\n", 7)
        out, _ = writer.communicate(b"y" * 50000, timeout=10)
        assert out == b"x" * 50000 + b"y" * 50000
        """,
    ),
}


def run_through(one: Kernel, survivors: dict[str, Survivor]) -> None:
    for what, survivor in survivors.items():
        try:
            one.do(dedent(survivor.setup))
        except CellError as failed:
            raise AssertionError(f"{what}, before the checkpoint: {failed}") from None


def failures(frontend: Frontend, survivors: dict[str, Survivor]) -> list[str]:
    """What did not survive, and how that showed."""
    found = []
    for what, survivor in survivors.items():
        try:
            frontend.do(dedent(survivor.check))
        except CellError as failed:
            found.append(f"{what}: {failed}")
    return found


@pytest.mark.timeout(300)
def test_all_of_it(user: User) -> None:
    """Everything in one kernel, brought back as a fork and in place."""
    both = {what: one for what, one in SURVIVORS.items() if one.forks}
    with command_line(user) as cr, kernel(user) as one:
        run_through(one, both)
        name = cr.checkpoint(one.pid)
        with forked(cr, name) as (fork, _):
            assert not failures(fork, both)
        cr.restore(name)
        assert not failures(one, both)
    with command_line(user) as cr, kernel(user) as one:
        alone = {what: one for what, one in SURVIVORS.items() if not one.forks}
        run_through(one, alone)
        cr.restore(cr.checkpoint(one.pid))
        assert not failures(one, alone)


@pytest.mark.long
@pytest.mark.parametrize("what", SURVIVORS)
def test_each_by_itself(user: User, what: str) -> None:
    survivor = {what: SURVIVORS[what]}
    with command_line(user) as cr, kernel(user) as one:
        run_through(one, survivor)
        name = cr.checkpoint(one.pid)
        if SURVIVORS[what].forks:
            with forked(cr, name) as (fork, _):
                assert not failures(fork, survivor)
        cr.restore(name)
        assert not failures(one, survivor)


LOOP = """
import time
seen = []
for i in range(400):
    seen.append(i)
    if i % 2:
        time.sleep(0.005)
    else:
        sum(range(20000))
total = sum(seen)
"""


def test_long_cell_goes_on(user: User) -> None:
    """No iteration lost or doubled."""
    with command_line(user) as cr, kernel(user) as one:
        one.do("1")
        one.client.execute(LOOP)
        settle(0.3)
        name = cr.checkpoint(one.pid)
        with forked(cr, name) as (fork, _):
            assert fork.value("(seen == list(range(400)), total)") == "(True, 79800)"
        cr.restore(name)
        assert one.value("(seen == list(range(400)), total)") == "(True, 79800)"


@pytest.mark.parametrize("rounds", [3, pytest.param(10, marks=pytest.mark.long)])
@pytest.mark.timeout(300)
def test_chains_lose_nothing(user: User, rounds: int) -> None:
    """A kernel that was restored is checkpointed, restored, and so on."""
    with command_line(user) as cr, kernel(user) as one:
        one.do("import subprocess, os; history = []; pids = [os.getpid(), os.getppid()]")
        one.do(
            "cat = subprocess.Popen(['cat'], stdin=subprocess.PIPE, "
            "stdout=subprocess.PIPE, bufsize=0)"
        )
        one.do("big = bytearray(os.urandom(1 << 20)); import hashlib")
        one.do("digest = hashlib.sha256(big).digest()")
        for number in range(rounds):
            one.do(f"history.append({number}); cat.stdin.write(b'{number}\\n')")
            name = cr.checkpoint(one.connection_file)
            one.do("history.append('lost'); big[0] ^= 1")
            cr.restore(name)
            assert one.value("history") == str(list(range(number + 1)))
            assert one.value("hashlib.sha256(big).digest() == digest") == "True"
            assert one.value("int(cat.stdout.readline())") == str(number)
        assert one.value("[os.getpid(), os.getppid()] == pids") == "True"
        wait_until(lambda: len(cr.keepers()) <= 3, "earlier keepers end")
