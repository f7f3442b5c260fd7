from __future__ import annotations

import os

import pytest

from jupyter_cr.tracer.proc.maps import read_maps
from jupyter_cr.tracer.proc.stat import read_stat

PREPARE = """
import ctypes, os, threading
PR_SET_NAME = 15
ctypes.CDLL(None).prctl(PR_SET_NAME, sys.argv[1].encode())
os.setsid()
os.nice(3)
tids = []
ready = threading.Event()
def other():
    tids.append(threading.get_native_id())
    ready.set()
    threading.Event().wait()
threading.Thread(target=other, daemon=True).start()
ready.wait()
tell(tids[0])
"""


@pytest.mark.parametrize("name", ["plain", "a b c", "(a) b", ") R 1 (", "x)\n(y", ""])
def test_names(start, name):
    program = start(PREPARE, name)
    stat = read_stat(program.pid)
    assert stat.comm == name
    assert stat.pid == stat.pgrp == stat.session == program.pid
    assert stat.ppid == os.getpid()


def test_process_and_thread(start):
    program = start(PREPARE, "name")
    stat = read_stat(program.pid)
    assert stat.state in "SR"
    assert (stat.tty_nr, stat.tpgid) == (0, -1)
    assert stat.nice == os.nice(0) + 3
    assert stat.priority == 20 + stat.nice
    assert (stat.policy, stat.rt_priority) == (os.sched_getscheduler(program.pid), 0)
    assert (stat.exit_signal, stat.exit_code) == (17, 0)
    assert 0 < read_stat(os.getpid()).starttime <= stat.starttime

    other = read_stat(program.pid, program.told)
    assert other.pid == program.told
    assert other.exit_signal == -1
    assert other.starttime >= stat.starttime


def test_layout_of_memory(start):
    program = start()
    stat = read_stat(program.pid)
    mappings = read_maps(program.pid)
    stack = next(mapping for mapping in mappings if mapping.is_stack)
    heap = next(mapping for mapping in mappings if mapping.is_heap)
    for address in (
        stat.start_stack,
        stat.arg_start,
        stat.arg_end,
        stat.env_start,
        stat.env_end,
    ):
        assert stack.start <= address <= stack.end
    assert stat.arg_start < stat.arg_end <= stat.env_start <= stat.env_end
    assert heap.start <= stat.start_brk <= heap.end
    assert 1 < stat.start_code < stat.end_code <= stat.start_data < stat.end_data


def test_exit_code(start):
    program = start()
    program.end()
    stat = read_stat(program.pid)
    assert (stat.state, stat.exit_code) == ("Z", 9)
