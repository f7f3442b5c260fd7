"""Rebuild the rest of a process: what its threads share, each thread, and at last the
registers, with which it is what it was."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Mapping

from jupyter_cr.engine.seed import Seed
from jupyter_cr.engine.state import credentials, process, signal_actions, thread, timers
from jupyter_cr.errors import EngineError, RestoreError
from jupyter_cr.tracer.arch import x86_64 as arch
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.remote import ALL_SIGNALS, Batch

__all__ = [
    "detach_first",
    "detach_others",
    "end_as_zombie",
    "open_directory",
    "ready",
    "rebuild_process",
]

_PR_SET_NAME = 15
_SIG_IGN = struct.pack("<QQQQ", 1, 0, 0, 0)


def rebuild_process(seed: Seed, record: process.Record, handover: Handover) -> None:
    """All but memory, descriptors and registers."""
    assert record.attributes is not None
    assert record.actions is not None
    assert record.credentials is not None
    assert record.timers is not None
    process.rebuild_from_outside(seed.outer_pid, record.attributes)
    _change_directories(seed, record, handover)
    forget_children = Call("rt_sigaction", (signal.SIGCHLD, _SIG_IGN, 0, 8))
    seed.thread.run(
        [
            *process.rebuild_calls(record.attributes),
            forget_children,
            *signal_actions.rebuild_calls(record.actions),
        ]
    )
    now = credentials.collect(
        read_status(seed.outer_pid),
        seed.thread.run(credentials.collect_calls()),
    )
    _rebuild_threads(seed, record, credentials.rebuild_calls(record.credentials, now))
    seed.thread.run(
        [
            *timers.rebuild_calls(record.timers),
            *process.queue_signal_calls(record.pid, record.pending),
        ]
    )
    if record.is_stopped:
        os.kill(seed.outer_pid, signal.SIGSTOP)


def _rebuild_threads(seed: Seed, record: process.Record, who: list[Call]) -> None:
    """Each thread by itself, all at once."""
    batches = []
    for wanted in record.threads:
        calls = [
            *thread.rebuild_calls(wanted),
            *who,
            thread.death_signal_call(wanted),
            *process.queue_signal_calls(record.pid, wanted.pending, wanted.tid),
        ]
        batch = Batch(seed.threads[wanted.tid], calls)
        if len(batch.calls) != len(calls):
            raise EngineError(f"thread {wanted.tid}: {len(calls)} calls are too many")
        batch.start()
        batches.append(batch)
    for batch in batches:
        batch.finish()


def _change_directories(seed: Seed, record: process.Record, handover: Handover) -> None:
    fds = [open_directory(record, path) for path in (record.root, record.cwd)]
    try:
        root, cwd = handover.give(seed.thread, fds)
    finally:
        for fd in fds:
            os.close(fd)
    calls = [Call("fchdir", (cwd,))]
    if record.root != b"/":
        calls = [Call("fchdir", (root,)), Call("chroot", (b".\0",)), *calls]
    seed.thread.run([*calls, Call("close", (root,)), Call("close", (cwd,))])


def open_directory(record: process.Record, path: bytes) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RestoreError(
            f"process {record.pid} ({record.name}) was in the directory "
            f"{os.fsdecode(path)}, which "
            f"cannot be opened: {error.strerror}",
            "Make the directory again.",
        ) from error


def ready(seed: Seed, record: process.Record) -> None:
    """Give every thread its registers and take our workspace away: all that is left is
    to let go."""
    by_tid: Mapping[int, thread.Record] = {t.tid: t for t in record.threads}
    for tid, remote in seed.threads.items():
        registers = by_tid[tid].registers
        remote.tracee.xstate = registers.extended
        if tid != seed.pid:
            remote.tracee.registers = arch.Registers.from_buffer_copy(registers.general)
            remote.tracee.signal_mask = registers.mask
    tracee = seed.thread.tracee
    assert record.layout is not None
    instruction = _find_call_instruction(seed, record)
    tracee.registers = arch.call_registers(
        tracee.registers,
        instruction,
        None,
        arch.SYSCALLS["munmap"],
        seed.workspace.address,
        seed.workspace.size,
    )
    tracee.signal_mask = ALL_SIGNALS
    if tracee.make_call() < 0:
        raise EngineError(f"process {seed.pid}: the workspace cannot be unmapped")
    own = by_tid[seed.pid].registers
    tracee.registers = arch.Registers.from_buffer_copy(own.general)
    tracee.signal_mask = own.mask


def detach_others(seed: Seed) -> None:
    """Let all threads but the first go."""
    for remote in seed.threads.values():
        if remote is not seed.thread:
            remote.tracee.detach()


def detach_first(seed: Seed) -> None:
    """Let the first thread go: with it, the process is all its own."""
    seed.thread.tracee.detach()
    seed.memory.close()


def _find_call_instruction(seed: Seed, record: process.Record) -> int:
    """Anywhere in the process's own code: the vdso has one, or the C library."""
    assert record.layout is not None
    regions = [r for r in record.layout.regions if r.protection & 4]
    for region in sorted(regions, key=lambda r: r.path != "[vdso]"):
        code = seed.memory.read_available(region.start, min(region.size, 4 << 20))
        at = code.find(arch.SYSCALL_INSTRUCTION)
        if at >= 0:
            return region.start + at
    raise EngineError(f"process {seed.pid} has no system call instruction")


def end_as_zombie(seed: Seed, record: process.Record) -> None:
    """End a seed with the status that the zombie had, for its parent to find."""
    assert record.zombie_status is not None
    status = record.zombie_status
    seed.thread.call("prctl", _PR_SET_NAME, record.comm + b"\0")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        calls = [
            Call("prlimit64", (0, 4, bytes(16), 0)),
            Call("kill", (record.pid, number)),
        ]
        seed.thread.tracee.signal_mask = 0
    else:
        calls = [Call("exit_group", (os.WEXITSTATUS(status),))]
    batch = Batch(seed.thread, calls)
    batch.start()
    _wait_until_ended(seed)


def _wait_until_ended(seed: Seed) -> None:
    while True:
        _, status = os.waitpid(seed.outer_pid, 0x40000000)
        if not os.WIFSTOPPED(status):
            return
        seed.thread.tracee.deliver(os.WSTOPSIG(status))
