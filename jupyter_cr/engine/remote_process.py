"""A frozen process that can be asked: every thread ready to make calls for us.

Whatever is done to it is undone on the way out, and would undo itself if we died.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from jupyter_cr.engine.freeze import FrozenProcess
from jupyter_cr.engine.state import thread as thread_state
from jupyter_cr.errors import EngineError
from jupyter_cr.tracer.arch import x86_64 as arch
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.injection import Gadgets, Injector
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.maps import Mapping as MemoryMapping
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.ptrace import Tracee
from jupyter_cr.tracer.remote import Batch, RemoteThread, Result, Workspace, choose_signal

__all__ = ["RemoteProcess", "remote_process"]


@dataclass(frozen=True)
class RemoteProcess:
    """`threads` by tid as we see it; `found` and `masks`: the registers and signal
    masks that they were stopped with. `maps`: the mappings, without anything of ours.
    `spare` is a slot that no thread uses."""

    frozen: FrozenProcess
    memory: Memory
    workspace: Workspace
    threads: Mapping[int, RemoteThread]
    found: Mapping[int, arch.Registers]
    masks: Mapping[int, int]
    maps: Sequence[MemoryMapping]
    spare: int

    @property
    def leader(self) -> RemoteThread:
        """The thread that the process began with."""
        return self.threads[self.frozen.pid]

    def run(self, calls: Mapping[int, Sequence[Call]]) -> dict[int, list[Result]]:
        """For each tid its calls (no more than fit one batch), all at once."""
        batches = {tid: Batch(self.threads[tid], list(calls[tid])) for tid in calls}
        for batch in batches.values():
            batch.start()
        return {tid: batch.finish() for tid, batch in batches.items()}


@contextmanager
def remote_process(
    frozen: FrozenProcess, maps: Sequence[MemoryMapping], gadgets: Gadgets
) -> Iterator[RemoteProcess]:
    """Ready a frozen process; put everything back at the end."""
    if frozen.memory is None:
        raise EngineError(f"process {frozen.pid} is a zombie")
    injector = Injector(frozen.leader, frozen.memory, gadgets)
    found = {tid: thread_state.take_registers(t) for tid, t in frozen.threads.items()}
    masks = {tid: tracee.signal_mask for tid, tracee in frozen.threads.items()}
    maps = injector.without_leftover(maps, found.values())
    with injector.workspace(maps, len(frozen.threads) + 1) as workspace:
        signal = choose_signal(frozen.status.sig_caught, frozen.status.sig_ignored)
        threads: dict[int, RemoteThread] = {}
        try:
            for index, (tid, tracee) in enumerate(frozen.threads.items()):
                inner = frozen.inner_pid if tid == frozen.pid else _inner_tid(frozen, tid)
                thread = RemoteThread(
                    tracee, workspace, frozen.inner_pid, inner, signal, index, found[tid]
                )
                threads[tid] = thread
                _ready(thread, masks[tid])
            yield RemoteProcess(
                frozen,
                frozen.memory,
                workspace,
                threads,
                found,
                masks,
                maps,
                len(frozen.threads),
            )
        finally:
            for tid, thread in threads.items():
                _put_back(thread.tracee, masks[tid], found[tid])


def _inner_tid(frozen: FrozenProcess, tid: int) -> int:
    if len(frozen.status.ns_tgid) == 1:
        return tid
    return read_status(frozen.pid, tid).ns_pid[-1]


def _ready(thread: RemoteThread, mask: int) -> None:
    """From here on the thread, if let go, comes back by its frame: that has to be true
    before its signal mask is changed."""
    tracee = thread.tracee
    frame = arch.signal_frame(thread.base, tracee.xstate, mask, thread.frame)
    thread.workspace.memory.write(thread.frame, frame)
    tracee.registers = arch.batch_registers(
        thread.base,
        code=thread.workspace.address,
        table=thread.frame,
        count=0,
        pid=thread.pid,
        tid=thread.tid,
        signal=thread.signal,
        frame=thread.frame,
    )
    tracee.signal_mask = thread.mask


def _put_back(tracee: Tracee, mask: int, registers: arch.Registers) -> None:
    with suppress(ProcessLookupError):
        tracee.signal_mask = mask
        tracee.registers = registers
