"""Batches of calls made by another process, its workspace, and descriptors given to it."""

from __future__ import annotations

import errno
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jupyter_cr.engine.freeze import freeze
from jupyter_cr.engine.remote_process import RemoteProcess, remote_process
from jupyter_cr.engine.survey import survey_tree
from jupyter_cr.errors import EngineError
from jupyter_cr.tracer.calls import Call, Out, Words
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.maps import read_maps
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.remote import MAGIC, CallFailed, choose_signal
from tests.engine.harness import SERVE, Program, program, wait_until

CATCHING = """
import os, signal, threading, time
caught = []
for number in signals:
    signal.signal(number, lambda number, frame: caught.append(int(number)))
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
serve(globals())
"""


@pytest.fixture
def target() -> Iterator[Program]:
    with program(SERVE + "signals = [10]\n" + CATCHING) as running:
        yield running


@contextmanager
def remote(running: Program) -> Iterator[RemoteProcess]:
    survey = survey_tree(running.pid)
    with freeze(running.pid) as freezing:
        frozen = freezing.tree.processes[running.pid]
        gadgets = survey.processes[running.pid].gadgets
        with remote_process(frozen, read_maps(running.pid), gadgets) as process:
            yield process


@pytest.mark.parametrize("count", [0, 1, 2, 499, 500, 501, 2000])
def test_batches(target: Program, count: int) -> None:
    with remote(target) as process:
        results = process.leader.run([Call("getpid")] * count)
        assert [result.value for result in results] == [target.pid] * count
    assert target.ask("1 + 1") == "2"


def test_all_threads_at_once(target: Program) -> None:
    with remote(target) as process:
        assert len(process.threads) == 2
        answers = process.run(dict.fromkeys(process.threads, (Call("gettid"),)))
        assert {tid: results[0].value for tid, results in answers.items()} == {
            tid: tid for tid in process.threads
        }


def test_arguments(target: Program) -> None:
    """Bytes are read, `Out` is filled in, `Words` point on."""
    with remote(target) as process:
        pipe = Call("socket", (1, 1, 0))
        assert process.leader.run([pipe])[0].value >= 0
        fd = process.leader.call("memfd_create", b"name\0", 1)
        write = Words((Words((b"hello ", 6)).words[0], 6, b"world", 5))
        calls = [
            Call("writev", (fd, write, 2)),
            Call("pread64", (fd, Out(11), 11, 0)),
            Call("pread64", (fd, Out(5), 5, 6)),
            Call("close", (fd,)),
        ]
        results = process.leader.run(calls)
        assert [result.value for result in results] == [11, 11, 5, 0]
        assert results[1].outs == (b"hello world",)
        assert results[2].outs == (b"world",)


def test_failing_calls(target: Program) -> None:
    """All calls are made; the first that may not fail is the error."""
    with remote(target) as process:
        optional = Call("close", (999,), optional=True)
        assert process.leader.run([optional])[0].value == -errno.EBADF
        fd = process.leader.call("memfd_create", b"name\0", 1)
        with pytest.raises(CallFailed, match="close") as caught:
            process.leader.run([optional, Call("close", (998,)), Call("close", (fd,))])
        assert caught.value.errno == errno.EBADF
        assert not Path(f"/proc/{target.pid}/fd/{fd}").exists()


def test_too_large(target: Program) -> None:
    with remote(target) as process, pytest.raises(EngineError, match="too large"):
        process.leader.run([Call("pwrite64", (0, bytes(1 << 20), 0, 0))])
    assert target.ask("1 + 1") == "2"


def test_nothing_stays_behind(target: Program) -> None:
    before = [(m.start, m.end) for m in read_maps(target.pid)]
    mask = read_status(target.pid).sig_blocked
    with remote(target) as process:
        head = process.memory.read(process.workspace.address, 4096)
        assert MAGIC in head
        assert read_status(target.pid).sig_blocked != mask
    assert [(m.start, m.end) for m in read_maps(target.pid)] == before
    assert read_status(target.pid).sig_blocked == mask


IGNORABLE = (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD)


@pytest.mark.parametrize("how_many", range(4))
def test_caught_signals(how_many: int) -> None:
    """Whatever the process catches, its handlers see no signal of ours, and one of
    somebody else's in the middle of a batch reaches them once."""
    signals = [int(number) for number in IGNORABLE[:how_many]] + [int(signal.SIGUSR1)]
    with program(SERVE + f"signals = {signals}\n" + CATCHING) as running:
        with remote(running) as process:
            for _ in range(5):
                process.run(dict.fromkeys(process.threads, [Call("getpid")] * 10))
            for number in signals:
                os.kill(running.pid, number)
            process.run(dict.fromkeys(process.threads, [Call("getpid")] * 10))
        wait_until(lambda: sorted(eval(running.ask("caught"))) == sorted(signals))
        assert sorted(eval(running.ask("caught"))) == sorted(signals)


def test_choose_signal() -> None:
    def mask(*numbers: int) -> int:
        return sum(1 << (number - 1) for number in numbers)

    assert choose_signal(0) == signal.SIGURG
    assert choose_signal(mask(signal.SIGURG)) == signal.SIGWINCH
    assert choose_signal(mask(*IGNORABLE), mask(signal.SIGPIPE)) == signal.SIGPIPE


@pytest.mark.parametrize("count", [1, 250, 251])
def test_handover(target: Program, count: int) -> None:
    """The very same open files, with FD_CLOEXEC, and no other descriptor stays."""
    before = target.ask("sorted(os.listdir('/proc/self/fd'))")
    with open("/dev/null", "rb") as file, remote(target) as process, Handover() as handover:
        given = handover.give(process.leader, [file.fileno()] * count)
        assert len(set(given)) == count
        for fd in given:
            assert os.readlink(f"/proc/{target.pid}/fd/{fd}") == "/dev/null"
        info = Path(f"/proc/{target.pid}/fdinfo/{given[0]}").read_text()
        assert int(info.split("flags:")[1].split()[0], 8) & os.O_CLOEXEC
        process.leader.run([Call("close", (fd,)) for fd in given])
    assert target.ask("sorted(os.listdir('/proc/self/fd'))") == before


def test_handover_beyond_the_limit(target: Program) -> None:
    target.ask("__import__('resource').setrlimit(7, (8, 4096))")
    with (
        open("/dev/null", "rb") as file,
        remote(target) as process,
        Handover() as handover,
        pytest.raises((EngineError, CallFailed)),
    ):
        handover.give(process.leader, [file.fileno()] * 20)


def test_memory(target: Program) -> None:
    """Reads and writes whatever the protection; says what is not mapped."""
    target.ask("globals().update(word=__import__('ctypes').c_uint64(7))")
    address = int(target.ask("__import__('ctypes').addressof(word)"))
    with Memory(target.pid) as memory:
        assert memory.read(address, 8) == struct.pack("<Q", 7)
        memory.write(address, struct.pack("<Q", 8))
        assert target.ask("word.value") == "8"
        assert memory.read_available(0, 8) == b""
        with pytest.raises((EngineError, OSError)):
            memory.read(4096, 8)
