"""There is no Yama where this was written: that Linux is asked the right thing, a system
call filter tells, and what its answers come to is read from its source."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_cr.tracer import yama
from jupyter_cr.tracer.capabilities import _advise_ptrace_other, probe_capabilities
from tests.conftest import User
from tests.engine.kernels import kernel
from tests.tracer.test_capabilities import FILTER

ROOT = Path(__file__).parents[2]

# Whoever calls prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY) is killed: both halves of the
# second argument are looked at (struct seccomp_data, seccomp(2)).
KILL_IF_ASKED = """
LOW, HIGH, SECOND_LOW, SECOND_HIGH = 16, 20, 24, 28
def watch():
    number, option, everybody = 157, 0x59616d61, 0xFFFFFFFF
    program = instruction(LOAD, 0) + instruction(EQUAL, number, 0, 7)
    for place, value, rest in (
        (LOW, option, 5), (SECOND_LOW, everybody, 3), (SECOND_HIGH, everybody, 1)
    ):
        program += instruction(LOAD, place) + instruction(EQUAL, value, 0, rest)
    program += instruction(RETURN, KILL_PROCESS) + instruction(RETURN, ALLOW)
    code = ctypes.create_string_buffer(program)
    described = struct.pack("=Hxxxxxx", len(program) // 8)
    described += struct.pack("=Q", ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described) == 0
watch()
"""


@pytest.mark.parametrize("asked", ["", "any"])
def test_a_kernel_says_it_when_asked(asked: str) -> None:
    load = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "shell.run_line_magic('load_ext', 'jupyter_cr')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", FILTER + KILL_IF_ASKED + load],
        cwd=ROOT,
        env={**os.environ, yama.VARIABLE: asked},
        capture_output=True,
        timeout=50,
    )
    assert done.returncode == (-signal.SIGSYS if asked else 0), done.stderr.decode()


def test_it_harms_nobody(user: User) -> None:
    """Where there is no Yama, and children are forked."""
    asked = dict(user.environment) | {yama.VARIABLE: "any"}
    asking = dataclasses.replace(user, environment=asked)
    with kernel(asking, ("--ext=jupyter_cr",)) as started:
        assert started.run("import os; print(os.environ['JUPYTER_CR_PTRACER'])") == "any"
        assert started.run("!echo below") == "below"


def test_what_to_do() -> None:
    advice = _advise_ptrace_other("1")
    assert "ptrace_scope=0" in advice
    assert f"{yama.VARIABLE}=any" in advice
    for scope in ("2", "3"):
        assert "ptrace_scope=0" in _advise_ptrace_other(scope)
        assert yama.VARIABLE not in _advise_ptrace_other(scope)
    assert ("reboot" in _advise_ptrace_other("2")) is False


@pytest.mark.skipif(not yama.ptrace_scope(), reason="there is no Yama")
def test_its_answer_is_ours() -> None:
    found = probe_capabilities().get("ptrace_other")
    assert found.ok is (os.geteuid() == 0 or yama.ptrace_scope() == "0")
