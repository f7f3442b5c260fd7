from __future__ import annotations

import ctypes
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jupyter_cr.tracer.arch import x86_64 as arch

capstone = pytest.importorskip("capstone")


def normal(operand: str) -> str | int:
    """One spelling for what disassemblers spell differently."""
    text = re.sub(r"\b0x(\d)\b", r"\1", operand.lower().replace(" ", ""))
    try:
        return int(text, 0) & (1 << 64) - 1
    except ValueError:
        return text


def number(text: str) -> int:
    return int(text.removeprefix("0x"), 16)


def test_listing_is_the_code() -> None:
    """Every line, bytes and assembly, against an independent disassembler."""
    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    found = list(machine.disasm(arch.CODE, 0))
    assert sum(len(instruction.bytes) for instruction in found) == len(arch.CODE)
    assert len(found) == len(arch.LISTING)
    for instruction, (code, assembly) in zip(found, arch.LISTING, strict=True):
        assert instruction.bytes.hex() == code
        mnemonic, _, operands = assembly.partition(" ")
        assert instruction.mnemonic == mnemonic, assembly
        if mnemonic.startswith("j"):
            assert number(instruction.op_str) == number(operands), assembly
            continue
        ours, theirs = operands.split(","), instruction.op_str.split(",")
        assert len(ours) == len(theirs), assembly
        for one, other in zip(ours, theirs, strict=True):
            assert normal(one) == normal(other), assembly


def test_registers_are_those_of_linux() -> None:
    # sizeof(struct user_regs_struct): 27 words.
    assert ctypes.sizeof(arch.Registers) == 27 * 8
    assert arch.Registers.orig_rax.offset == 15 * 8
    assert arch.Registers.rip.offset == 16 * 8


def in_call(result: int, number: int = 230) -> arch.Registers:
    return arch.Registers(rax=result & (1 << 64) - 1, orig_rax=number, rip=0x1002, cs=0x33)


@pytest.mark.parametrize("error", [512, 513, 514])
def test_settled_makes_the_call_again(error: int) -> None:
    again = arch.settled(in_call(-error))
    assert (again.rip, again.rax, again.orig_rax) == (0x1000, 230, (1 << 64) - 1)


def test_settled_cannot_use_a_restart_block() -> None:
    interrupted = arch.settled(in_call(-516))
    assert (interrupted.rip, interrupted.result) == (0x1002, -4)


@pytest.mark.parametrize("result", [0, 1, -4, -11, -515, -517])
def test_settled_leaves_other_results(result: int) -> None:
    registers = in_call(result)
    settled = arch.settled(registers)
    assert (settled.rip, settled.result) == (0x1002, result)
    assert registers.orig_rax == 230


def test_settled_leaves_a_thread_outside_of_calls() -> None:
    computing = in_call(-512, number=-1 & (1 << 64) - 1)
    assert arch.settled(computing).rip == 0x1002
    assert arch.settled(computing).result == -512


@pytest.mark.parametrize(
    ("call", "register", "value", "is_restarted"),
    [
        (232, "r10", 0xFFFFFFFF, True),
        (232, "r10", 100, False),
        (281, "r10", 0xFFFFFFFF, True),
        (441, "r10", 0, True),
        (441, "r10", 0x7FFF0000, False),
        (128, "rdx", 0, True),
        (0, "r10", 0xFFFFFFFF, False),
    ],
)
def test_undisturbed(call: int, register: str, value: int, is_restarted: bool) -> None:
    registers = in_call(-4, call)
    setattr(registers, register, value)
    assert arch.undisturbed(registers).result == (-514 if is_restarted else -4)
    assert registers.result == -4


def test_signal_frame_layout() -> None:
    """Where Linux's struct rt_sigframe has things (arch/x86/kernel/signal_64.c)."""
    registers = arch.Registers(rip=0x1234, rsp=0x5678, rax=7, orig_rax=-1 & (1 << 64) - 1)
    registers.cs, registers.ss = 0x33, 0x2B
    xstate = bytearray(832)
    struct.pack_into("<Q", xstate, 464, 7)
    address = 0x7F0000000040
    frame = arch.signal_frame(registers, bytes(xstate), 0x55, address, 0xABCD)
    word = lambda at: struct.unpack_from("<Q", frame, at)[0]  # noqa: E731
    assert word(0) == 0xABCD
    # uc_mcontext begins 40 bytes into the ucontext: r8..r15, rdi, rsi, rbp, rbx, rdx,
    # rax, rcx, rsp, rip, eflags.
    assert (word(8 + 40 + 13 * 8), word(8 + 40 + 15 * 8), word(8 + 40 + 16 * 8)) == (
        7,
        0x5678,
        0x1234,
    )
    floating = word(8 + 40 + 23 * 8)
    assert floating % 64 == 0
    assert word(8 + 296) == 0x55
    area = frame[floating - address :]
    magic, extended, features, size = struct.unpack_from("<IIQI", area, 464)
    assert (magic, extended, features, size) == (0x46505853, 832 + 4, 7, 832)
    assert struct.unpack_from("<I", area, 832) == (0x46505845,)
    assert len(area) == 832 + 4


def test_seed_program_runs_until_killed(tmp_path: Path) -> None:
    program = tmp_path / "seed"
    program.write_bytes(arch.seed_program(0x10000000, 4 * arch.PAGE, os.getpid()))
    program.chmod(0o755)
    running = subprocess.Popen([program])
    try:
        deadline = time.monotonic() + 10
        # pause(2), in the first word.
        while not Path(f"/proc/{running.pid}/syscall").read_text().startswith("34 "):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert running.poll() is None
        maps = Path(f"/proc/{running.pid}/maps").read_text()
        assert maps.startswith("10000000-")
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait(10) == -signal.SIGKILL
    finally:
        running.kill()
        running.wait(10)


def test_numbers_of_calls() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("Linux's headers are not installed")
    words = [line.split() for line in header.read_text().splitlines()]
    known = {
        w[1].removeprefix("__NR_"): int(w[2])
        for w in words
        if w[:1] == ["#define"] and len(w) == 3
    }
    for name, value in arch.SYSCALLS.items():
        assert known.get(name, value) == value, name


def test_seed_program_ends_without_its_parent(tmp_path: Path) -> None:
    """Whoever executed it is gone, or goes: it must not wait for ever."""
    program = tmp_path / "seed"
    program.write_bytes(arch.seed_program(0x10000000, 4 * arch.PAGE, 1 << 22))
    program.chmod(0o755)
    assert subprocess.run([program], timeout=10).returncode == 1
    start = (
        "import os, subprocess, sys; from jupyter_cr.tracer.arch import x86_64 as arch\n"
        "from pathlib import Path; program = Path(sys.argv[1])\n"
        "program.write_bytes(arch.seed_program(0x10000000, 4 * arch.PAGE, os.getpid()))\n"
        "print(subprocess.Popen([program], stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "sys.stdin.read()"
    )
    other = tmp_path / "other"
    other.touch(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", start, other],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        seed = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(seed) and psutil.Process(seed).status() != "zombie":
        assert time.monotonic() < deadline
        time.sleep(0.005)
