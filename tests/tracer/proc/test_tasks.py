from __future__ import annotations

import os
import struct
import sys

from jupyter_cr.tracer.proc import tasks
from jupyter_cr.tracer.proc.tasks import (
    auxv,
    exe_path,
    list_children,
    list_pids,
    list_threads,
    namespaces,
)

THREADS_WITH_CHILDREN = """
import os, threading, time
def child():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid
pids, tids = [child()], []
step = threading.Semaphore(0)
def other():
    tids.append(threading.get_native_id())
    pids.append(child())
    step.release()
    threading.Event().wait()
for _ in range(2):
    threading.Thread(target=other, daemon=True).start()
    step.acquire()
zombie = os.fork()
if zombie == 0:
    os._exit(0)
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
print(json.dumps([tids, pids, zombie]), flush=True)
sys.stdin.read()
for pid in pids:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""


def test_threads_and_children(start):
    program = start(THREADS_WITH_CHILDREN)
    tids, pids, zombie = program.told
    try:
        assert list_threads(program.pid) == [program.pid, *tids]
        assert sorted(list_children(program.pid)) == sorted([*pids, zombie])
        assert sorted(tasks._scan_children(program.pid)) == sorted([*pids, zombie])
        assert {program.pid, *pids, zombie, os.getpid()} <= set(list_pids())
        assert program.pid in list_children(os.getpid())
    finally:
        program.process.stdin.close()
        program.process.wait()


def test_no_children(start):
    assert list_children(start().pid) == []


def test_pids_ascend():
    pids = list_pids()
    assert pids == sorted(set(pids))


def test_auxv(start):
    vector = auxv(start().pid)
    pairs = dict(struct.iter_unpack("=2Q", vector))
    at_pagesz, at_phdr, at_sysinfo_ehdr = 6, 3, 33
    assert list(pairs)[-1] == 0
    assert pairs[at_pagesz] == os.sysconf("SC_PAGE_SIZE")
    assert {at_phdr, at_sysinfo_ehdr} <= set(pairs)


def test_exe_path(start):
    assert exe_path(start().pid) == os.path.realpath(sys.executable)


def test_exe_that_was_deleted(tmp_path):
    program = tmp_path / "sleep (copy)"
    with open("/bin/sleep", "rb") as file:
        program.write_bytes(file.read())
    program.chmod(0o755)
    pid = os.posix_spawn(str(program), ["sleep", "60"], {})
    try:
        while exe_path(pid) != str(program):
            pass
        program.unlink()
        assert exe_path(pid) == f"{program} (deleted)"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_namespaces(start):
    own, other = namespaces("self"), namespaces(start().pid)
    assert own == other
    for kind in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup"):
        assert getattr(own, kind) == os.stat(f"/proc/self/ns/{kind}").st_ino


def test_other_namespace(start):
    program = start(
        "import ctypes\n"
        "CLONE_NEWUSER, CLONE_NEWUTS = 0x10000000, 0x4000000\n"
        "tell(ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWUTS) == 0)"
    )
    if program.told:
        own, other = namespaces("self"), namespaces(program.pid)
        assert (own.user == other.user, own.uts == other.uts) == (False, False)
        assert (own.mnt, own.net) == (other.mnt, other.net)
