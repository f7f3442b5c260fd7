from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_cr.tracer import capabilities
from jupyter_cr.tracer.capabilities import Capabilities, Capability, probe_capabilities
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.proc.tasks import list_children

ROOT = Path(__file__).parents[2]

TELL = """
import json
from jupyter_cr.tracer.capabilities import probe_capabilities
found = probe_capabilities()
print(json.dumps({
    "items": {item.name: [item.ok, item.detail, item.advice] for item in found.items},
    "checkpoint": found.can_checkpoint,
    "here": found.can_restore_here,
    "namespace": found.can_restore_in_namespace,
    "fork": found.can_fork,
    "restore": found.can_restore,
}))
"""

# Answers chosen system calls as a container's filter does, the others as ever. The
# program: load the number; for each one given, compare and return; allow.
FILTER = """
import ctypes, struct
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38
def instruction(code, value, if_true=0, if_false=0):
    return struct.pack("=HBBI", code, if_true, if_false, value)
def refuse(answers):
    program = instruction(LOAD, 0)
    for number, answer in answers.items():
        program += instruction(EQUAL, number, 0, 1) + instruction(RETURN, answer)
    program += instruction(RETURN, ALLOW)
    code = ctypes.create_string_buffer(program)
    described = struct.pack("=Hxxxxxx", len(program) // 8)
    described += struct.pack("=Q", ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described) == 0
"""


# After the imports: the interpreter's files may be root's alone. Linux makes a process
# that changes its user one that may not be traced.
BECOME_ORDINARY = """
import ctypes, json, os
import jupyter_cr.tracer.capabilities
PR_SET_DUMPABLE = 4
os.setgroups([])
os.setresgid(20001, 20001, 20001)
os.setresuid(20001, 20001, 20001)
assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0
"""


def tell(prepare: str = "") -> dict:
    """What a new Python finds out, after it has prepared itself."""
    result = subprocess.run(
        [sys.executable, "-c", prepare + TELL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_what_this_process_may():
    found = probe_capabilities()
    assert found is probe_capabilities()
    names = [item.name for item in found.items]
    assert len(names) == len(set(names)) == 21
    for item in found.items:
        assert found.get(item.name) is item
        assert item.detail
        assert item.required_for
        assert bool(item.advice) is not item.ok
    assert found.get("architecture").ok
    assert found.get("seccomp").ok is (read_status("self").seccomp == 0)
    with pytest.raises(KeyError):
        found.get("no such name")


def test_leaves_nothing_behind():
    before = list_children(os.getpid())
    status = read_status("self")
    descriptors = os.listdir("/proc/self/fd")
    probe_capabilities.__wrapped__()
    assert list_children(os.getpid()) == before
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    after = read_status("self")
    assert (after.tracer_pid, after.cap_effective) == (0, status.cap_effective)
    assert (after.ns_pid, after.uids) == (status.ns_pid, status.uids)


def test_works_where_children_are_reaped_by_linux():
    ignoring = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    assert tell(ignoring) == tell()


def test_same_answers_from_inside_a_thread():
    threaded = (
        "from threading import Event, Thread\n"
        "Thread(target=Event().wait, daemon=True).start()\n"
    )
    assert tell(threaded) == tell()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_ordinary_user():
    found = tell(BECOME_ORDINARY)
    assert not found["items"]["set_tid"][0]
    assert not found["items"]["tcp_repair"][0]
    assert not found["here"]
    if probe_capabilities().can_checkpoint:
        assert found["items"]["ptrace_child"][0]


def test_container_filter():
    """What Docker's default profile answers."""
    refusal = (
        "refuse({435: ERRNO | ENOSYS, 312: ERRNO | EPERM, 438: ERRNO | EPERM, "
        "272: ERRNO | EPERM, 323: ERRNO | EPERM, 308: ERRNO | EPERM, "
        "165: ERRNO | EPERM})\n"
    )
    found = tell(FILTER + refusal)
    details = {name: item[1] for name, item in found["items"].items() if not item[0]}
    assert "ENOSYS" in details["set_tid"]
    assert "kcmp" in details["kcmp"]
    assert "EPERM" in details["kcmp"]
    assert "EPERM" in details["pidfd_getfd"]
    assert "unshare" in details["user_namespace"]
    assert "unshare" in details["pid_namespace"]
    assert "EPERM" in details["userfaultfd_user_mode"]
    assert "seccomp mode 2" in details["seccomp"]
    advice = found["items"]["kcmp"][2]
    assert "seccomp profile" in advice
    for call in ("kcmp", "pidfd_getfd", "clone3", "unshare", "setns", "mount"):
        assert call in advice
    assert found["items"]["ptrace_child"][0] is probe_capabilities().get("ptrace_child").ok
    verdicts = (found["checkpoint"], found["here"], found["namespace"], found["fork"])
    assert verdicts == (False,) * 4


def test_filter_of_what_is_optional():
    """Without these, restores do without: `jupyter_cr.engine.container`, `.warm`."""
    found = tell(FILTER + "refuse({165: ERRNO | EPERM, 308: ERRNO | EPERM})\n")
    assert "MS_SLAVE" in found["items"]["mount_proc"][1]
    assert "mount" in found["items"]["mount_proc"][2]
    assert "setns" in found["items"]["setns"][1]
    assert "setns" in found["items"]["setns"][2]
    assert found["restore"]


def test_filter_that_kills():
    found = tell(FILTER + "refuse({312: KILL_PROCESS, 101: KILL_PROCESS})\n")
    killed = f"killed by signal {signal.SIGSYS.value}"
    for name in ("kcmp", "ptrace_child", "ptrace_other", "rseq"):
        ok, detail, _ = found["items"][name]
        assert not ok
        assert killed in detail
    assert found["items"]["pidfd_getfd"][0] is probe_capabilities().get("pidfd_getfd").ok
    assert not found["checkpoint"]


def test_probe_that_hangs(monkeypatch):
    monkeypatch.setattr(capabilities, "_LIMIT_S", 0.3)

    reader, writer = os.pipe()

    def hang() -> str:
        with capabilities._sleeping_child() as child:
            os.write(writer, str(child).encode())
            signal.pause()
        return "never"

    before = list_children(os.getpid())
    outcome = capabilities._run_in_child(hang)
    assert (outcome.ok, outcome.detail) == (False, "no answer within 0.3 s")
    assert list_children(os.getpid()) == before
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        # The end of file comes when the last process that held it is gone.
        assert pipe.read().isdigit()


def test_verdicts():
    def some(*missing: str) -> Capabilities:
        return Capabilities(
            tuple(
                Capability(item.name, item.name not in missing, "", "", "")
                for item in probe_capabilities().items
            )
        )

    def verdicts(*missing: str) -> tuple[bool, bool, bool, bool]:
        found = some(*missing)
        return (
            found.can_checkpoint,
            found.can_restore_here,
            found.can_restore_in_namespace,
            found.can_fork,
        )

    assert verdicts() == (True, True, True, True)
    assert verdicts("ptrace_child") == (False, False, False, False)
    assert verdicts("ptrace_other") == (False, True, True, True)
    assert verdicts("kcmp") == (False, True, True, True)
    assert verdicts("set_tid") == (True, False, True, True)
    assert verdicts("pid_namespace") == (True, True, False, False)
    assert not some("pid_namespace").can_restore
    assert not some("pidfd_getfd").can_restore
    assert some("set_tid", "kcmp", "setns").can_restore
    assert some("set_tid", "huge_pages", "setns", "mount_proc").missing == ()
    assert set(some("kcmp", "pid_namespace").missing) == {"kcmp", "pid_namespace"}
    assert verdicts("seccomp", "mount_proc", "userfaultfd") == (True, True, True, True)
