from __future__ import annotations

import signal

from jupyter_cr.tracer.proc.timers import PosixTimer, read_posix_timers

# struct sigevent of <signal.h>: sigev_value, sigev_signo, sigev_notify, and the thread
# id in the union that follows; 64 bytes.
MAKE = """
import ctypes, signal, struct, threading
CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID = 0, 1, 2
SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD_ID = 0, 1, 4
SYS_timer_create = 222
syscall = ctypes.CDLL(None).syscall
def create(clock, value, number, notify, tid=0):
    event = struct.pack("=Qiii", value, number, notify, tid)
    event = ctypes.create_string_buffer(event, 64)
    timer = ctypes.c_int()
    assert syscall(SYS_timer_create, clock, event, ctypes.byref(timer)) == 0
    return timer.value
tell([
    create(CLOCK_MONOTONIC, 0x1234567890AB, signal.SIGRTMIN, SIGEV_SIGNAL),
    create(CLOCK_REALTIME, 7, signal.SIGUSR1, SIGEV_SIGNAL | SIGEV_THREAD_ID,
           threading.get_native_id()),
    create(CLOCK_PROCESS_CPUTIME_ID, 0, 0, SIGEV_NONE),
])
"""


def test_kinds(start):
    program = start(MAKE)
    ids = program.told
    pid = program.pid
    first, second, third = read_posix_timers(pid)
    assert first == PosixTimer(
        ids[0], signal.SIGRTMIN, 0x1234567890AB, "signal", False, pid, 1
    )
    assert second == PosixTimer(ids[1], signal.SIGUSR1, 7, "signal", True, pid, 0)
    assert (third.id, third.notify, third.to_thread) == (ids[2], "none", False)
    assert (third.sigev_value, third.target) == (0, pid)


def test_none(start):
    assert read_posix_timers(start().pid) == []
