"""A thread: registers, and all that Linux keeps for each.

Sources: ptrace(2), rseq(2) (Linux kernel/rseq.c), get_robust_list(2),
set_tid_address(2), sigaltstack(2), prctl(2), sched_setattr(2), ioprio_set(2).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import msgspec

from jupyter_cr.errors import Unsupported
from jupyter_cr.tracer import scheduling
from jupyter_cr.tracer.arch import x86_64 as arch
from jupyter_cr.tracer.calls import Call, Out
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.ptrace import RseqConfiguration, Tracee
from jupyter_cr.tracer.remote import Result

__all__ = ["Record", "Registers", "collect", "collect_calls", "rebuild_calls"]

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
_PR_GET_TID_ADDRESS = 40
_IOPRIO_WHO_PROCESS = 1
_STACK_SIZE = 24
_RSEQ_CS_OFFSET = 8
_RSEQ_CS = struct.Struct("<IIQQQ")


class Rseq(msgspec.Struct, frozen=True):
    """The registered area of restartable sequences."""

    address: int
    size: int
    signature: int


class Registers(msgspec.Struct, frozen=True):
    """What the processor held, ready to go on with: general (struct user_regs_struct)
    and extended (XSAVE standard format), and the signals blocked."""

    general: bytes
    extended: bytes
    mask: int


class Record(msgspec.Struct, frozen=True):
    """One thread. `tid` is the one it sees itself."""

    tid: int
    registers: Registers
    pending: tuple[bytes, ...]
    name: bytes
    alternate_stack: bytes
    tid_address: int
    robust_list: tuple[int, int]
    rseq: Rseq | None
    parent_death_signal: int
    timer_slack: int
    scheduling: bytes
    affinity: tuple[int, ...]
    io_priority: int


def take_registers(tracee: Tracee) -> arch.Registers:
    """The general registers of a thread that has just been stopped.

    Raises:
        Unsupported: it runs 32-bit code.
    """
    registers = tracee.registers
    if not registers.is_64_bit:
        raise Unsupported(
            f"thread {tracee.tid} runs 32-bit code", "Only 64-bit programs are supported."
        )
    return arch.undisturbed(registers)


def collect_calls() -> list[Call]:
    return [
        Call("prctl", (_PR_GET_TID_ADDRESS, Out(8))),
        Call("sigaltstack", (0, Out(_STACK_SIZE))),
        Call("prctl", (_PR_GET_NAME, Out(16))),
        Call("prctl", (_PR_GET_PDEATHSIG, Out(4))),
        Call("prctl", (_PR_GET_TIMERSLACK,)),
    ]


def collect(
    tracee: Tracee,
    tid: int,
    found: arch.Registers,
    mask: int,
    memory: Memory,
    results: Sequence[Result],
) -> Record:
    """The Record of the thread that was stopped with the registers `found`."""
    address, stack, name, death, slack = results
    rseq = tracee.rseq
    return Record(
        tid,
        Registers(bytes(_leave_rseq(found, rseq, memory)), tracee.xstate, mask),
        tuple(tracee.pending_signals(shared=False)),
        name.outs[0].rstrip(b"\0"),
        stack.outs[0],
        int.from_bytes(address.outs[0], "little"),
        scheduling.get_robust_list(tracee.tid),
        Rseq(rseq.address, rseq.size, rseq.signature) if rseq else None,
        int.from_bytes(death.outs[0], "little"),
        slack.value,
        scheduling.sched_getattr(tracee.tid),
        tuple(sorted(os.sched_getaffinity(tracee.tid))),
        scheduling.ioprio_get(tracee.tid),
    )


def _leave_rseq(
    found: arch.Registers, rseq: RseqConfiguration | None, memory: Memory
) -> arch.Registers:
    """The registers to go on with; a thread inside a restartable sequence goes on at
    its abort handler, as it would after a preemption."""
    registers = arch.settled(found)
    if rseq is None:
        return registers
    area = memory.read(rseq.address + _RSEQ_CS_OFFSET, 8)
    section = int.from_bytes(area, "little")
    if section:
        _, _, start, length, abort = _RSEQ_CS.unpack(memory.read(section, _RSEQ_CS.size))
        if start <= registers.instruction_pointer < start + length:
            registers.instruction_pointer = abort
    return registers


def rebuild_calls(record: Record) -> list[Call]:
    """Made by the thread itself."""
    calls = [
        Call("set_tid_address", (record.tid_address,)),
        Call("set_robust_list", record.robust_list),
        Call("sigaltstack", (_without_onstack(record.alternate_stack), 0)),
        Call("prctl", (_PR_SET_NAME, record.name.ljust(16, b"\0"))),
        Call("prctl", (_PR_SET_TIMERSLACK, record.timer_slack)),
        Call("ioprio_set", (_IOPRIO_WHO_PROCESS, 0, record.io_priority), optional=True),
        Call("sched_setattr", (0, record.scheduling, 0), optional=True),
        Call(
            "sched_setaffinity",
            (0, _AFFINITY_SIZE, _cpu_set(record.affinity)),
            optional=True,
        ),
    ]
    if record.rseq is not None:
        rseq = record.rseq
        calls.append(Call("rseq", (rseq.address, rseq.size, 0, rseq.signature)))
    return calls


def death_signal_call(record: Record) -> Call:
    """Must come after the credentials: changing those clears it (prctl(2))."""
    return Call("prctl", (_PR_SET_PDEATHSIG, record.parent_death_signal))


_AFFINITY_SIZE = 128
_SS_ONSTACK = 1


def _without_onstack(stack: bytes) -> bytes:
    """sigaltstack refuses SS_ONSTACK nowhere, but reports it while a handler runs."""
    pointer, flags, size = struct.unpack("<Qi4xQ", stack)
    return struct.pack("<Qi4xQ", pointer, flags & ~_SS_ONSTACK, size)


def _cpu_set(cpus: Sequence[int]) -> bytes:
    mask = sum(1 << cpu for cpu in cpus)
    return mask.to_bytes(_AFFINITY_SIZE, "little")
