from __future__ import annotations

import os
import signal

import pytest

from jupyter_cr.tracer.proc.status import parse_status, read_status

PREPARE = r"""
import ctypes, mmap, os, signal, threading
libc = ctypes.CDLL(None)
PR_SET_NAME, PR_SET_NO_NEW_PRIVS = 15, 38
libc.prctl(PR_SET_NAME, b"a\\b\nc: (d) e")
libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
os.umask(0o137)
os.setsid()
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
area = mmap.mmap(-1, 8192)
libc.mlock.argtypes = ctypes.c_void_p, ctypes.c_size_t
assert libc.mlock(ctypes.addressof(ctypes.c_char.from_buffer(area)), 8192) == 0
tids = []
ready = threading.Event()
def other():
    libc.prctl(PR_SET_NAME, b"other")
    tids.append(threading.get_native_id())
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    ready.set()
    threading.Event().wait()
threading.Thread(target=other, daemon=True).start()
ready.wait()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCONT])
signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
tell(tids[0])
"""


def bit(number: int) -> int:
    return 1 << number - 1


def test_process_and_thread(start):
    program = start(PREPARE)
    os.kill(program.pid, signal.SIGCONT)
    status = read_status(program.pid)
    assert status.name == "a\\b\nc: (d) e"
    assert status.state in "SR"
    assert status.umask == 0o137
    assert status.tgid == status.pid == program.pid
    assert status.ppid == os.getpid()
    assert status.tracer_pid == 0
    assert status.threads == 2
    assert status.uids == (*os.getresuid(), os.geteuid())
    assert status.gids == (*os.getresgid(), os.getegid())
    assert sorted(status.groups) == sorted(os.getgroups())
    assert status.ns_tgid[0] == status.ns_pid[0] == program.pid
    assert status.ns_pgid[0] == status.ns_sid[0] == program.pid
    assert status.sig_blocked == bit(signal.SIGTERM) | bit(signal.SIGCONT)
    assert status.sig_pending == bit(signal.SIGTERM)
    assert status.sig_caught & bit(signal.SIGUSR1)
    assert status.sig_ignored & bit(signal.SIGUSR2)
    assert status.no_new_privs
    assert status.vm_locked == 8192
    own = read_status("self")
    assert (status.cap_bounding, status.cap_ambient) == (own.cap_bounding, own.cap_ambient)
    assert (status.seccomp, status.seccomp_filters) == (own.seccomp, own.seccomp_filters)

    other = read_status(program.pid, program.told)
    assert other.name == "other"
    assert (other.tgid, other.pid) == (program.pid, program.told)
    assert other.sig_blocked == bit(signal.SIGHUP)
    assert other.sig_pending == 0


def test_signal_pending_for_the_process(start):
    program = start(
        "import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
        "tell(None)"
    )
    os.kill(program.pid, signal.SIGUSR1)
    status = read_status(program.pid)
    assert status.shd_pending == bit(signal.SIGUSR1)
    assert status.sig_pending == 0


def test_capabilities_of_root_and_others():
    status = read_status("self")
    assert status.cap_effective & ~status.cap_permitted == 0
    assert isinstance(status.cap_inheritable, int)


def test_older_linux_lacks_lines():
    with open("/proc/self/status", "rb") as file:
        lines = file.read().splitlines(keepends=True)
    newer = ("Umask", "NS", "Vm", "CapAmb", "NoNewPrivs", "Seccomp", "Speculation")
    text = b"".join(line for line in lines if not line.decode().startswith(newer))
    status = parse_status(text)
    assert status.ns_pid == status.ns_tgid == (os.getpid(),)
    assert status.ns_pgid == status.ns_sid == ()
    assert (status.umask, status.vm_locked, status.cap_ambient) == (0, 0, 0)
    assert (status.no_new_privs, status.seccomp, status.seccomp_filters) == (False, 0, 0)
    assert status.uids == read_status("self").uids


def test_linux_thread():
    """One without memory, where they can be seen at all."""
    if not os.path.exists("/proc/2/status") or os.readlink("/proc/self") == "2":
        pytest.skip("no Linux threads here")
    assert read_status(2).vm_locked == 0
