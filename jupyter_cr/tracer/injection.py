"""Bringing a `Workspace` into a frozen process, and taking it out again.

The first call that a process makes for us has no workspace to come back from. It is
made at a ``syscall; ret`` that the process has somewhere in its own code, with a
signal frame at the far end of the first thread's stack, where nothing lives: if the
tracer dies right then, the ``ret`` leads to the process's own signal restorer, which
brings everything back.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from jupyter_cr.errors import EngineError, TargetError, Unsupported
from jupyter_cr.tracer.arch import x86_64 as arch
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.maps import Mapping
from jupyter_cr.tracer.ptrace import Tracee
from jupyter_cr.tracer.remote import ALL_SIGNALS, MAGIC, Workspace

__all__ = ["Gadgets", "Injector", "find_gadgets", "find_workspaces"]

_PROT_RWX, _MAP_PRIVATE_ANONYMOUS = 7, 0x22
_SEARCH_LIMIT = 64 << 20
_HOME = 0x4A4352000000
"""Where a workspace is mapped unless something is there: an address that Linux chooses for
nobody, so that one is known even if we died before anything was written to it."""


@dataclass(frozen=True, slots=True)
class Gadgets:
    """Addresses of code of the process's own: a system call followed by a return, and
    what its signal handlers return by (0 if not found)."""

    call: int
    restorer: int

    def still_there(self, memory: Memory) -> bool:
        """Whether the code at both addresses is what it was when they were found."""
        call = memory.read_available(self.call, len(arch.SYSCALL_RETURN_GADGET))
        return call == arch.SYSCALL_RETURN_GADGET and (
            not self.restorer
            or memory.read_available(self.restorer, len(arch.RESTORER_GADGET))
            == arch.RESTORER_GADGET
        )


def find_gadgets(memory: Memory, maps: Sequence[Mapping]) -> Gadgets:
    """Search the executable mappings, the C library's first.

    Raises:
        Unsupported: there is no ``syscall; ret`` in the process.
    """
    call = restorer = 0
    for mapping in sorted(maps, key=lambda m: "libc" not in m.path):
        if not (mapping.executable and mapping.readable) or mapping.is_vsyscall:
            continue
        code = memory.read_available(mapping.start, min(mapping.size, _SEARCH_LIMIT))
        if not call and (at := code.find(arch.SYSCALL_RETURN_GADGET)) >= 0:
            call = mapping.start + at
        if not restorer and (at := code.find(arch.RESTORER_GADGET)) >= 0:
            restorer = mapping.start + at
        if call and restorer:
            break
    if not call:
        raise Unsupported(
            f"process {memory.pid} has no system call instruction followed by a return",
            "It is of an unusual make; please report which program it is.",
        )
    return Gadgets(call, restorer)


def find_workspaces(memory: Memory, maps: Sequence[Mapping]) -> list[Mapping]:
    """The workspaces that checkpoints left behind which were killed, if any."""
    return [
        mapping
        for mapping in maps
        if mapping.perms == "rwxp"
        and not mapping.inode
        and (mapping.start == _HOME or _has_magic(memory, mapping.start))
    ]


def _has_magic(memory: Memory, address: int) -> bool:
    return memory.read_available(address, len(arch.CODE) + len(MAGIC)).endswith(MAGIC)


@dataclass(frozen=True, slots=True)
class Injector:
    """Makes the stopped first thread of a process map and unmap workspaces."""

    leader: Tracee
    memory: Memory
    gadgets: Gadgets

    def without_leftover(
        self, maps: Sequence[Mapping], threads: Iterable[arch.Registers]
    ) -> Sequence[Mapping]:
        """The mappings of the process without workspaces that were left behind, which
        are unmapped; one that any of the `threads` is just leaving stays."""
        busy = [thread.instruction_pointer for thread in threads]
        gone = [
            old
            for old in find_workspaces(self.memory, maps)
            if not any(old.start <= address < old.end for address in busy)
        ]
        for old in gone:
            self._call(maps, "munmap", old.start, old.size)
        return [mapping for mapping in maps if mapping not in gone] if gone else maps

    @contextmanager
    def workspace(self, maps: Sequence[Mapping], threads: int) -> Iterator[Workspace]:
        """A workspace for that many threads; gone again at the end.

        Raises:
            Unsupported: the process may not have executable memory.
            TargetError: it may not have more memory.
        """
        size, slot, frame = Workspace.layout(threads, len(self.leader.xstate))
        address = self._call(
            maps, "mmap", _HOME, size, _PROT_RWX, _MAP_PRIVATE_ANONYMOUS, ALL_SIGNALS, 0
        )
        if address in (-errno.ENOMEM, -errno.EAGAIN):
            raise TargetError(
                f"process {self.memory.pid} may not map {size} bytes more: "
                f"{os.strerror(-address)}",
                "Raise its limit (ulimit -v, prlimit), or free some memory.",
            )
        if -4096 < address < 0:
            raise Unsupported(
                f"process {self.memory.pid} may not map executable memory "
                f"(errno {-address})",
                "A security policy (SELinux execmem, PR_SET_MDWE) forbids it there.",
            )
        workspace = Workspace(self.memory, address, size, slot, frame)
        try:
            workspace.install()
            yield workspace
        finally:
            self._call(maps, "munmap", address, size)

    def _call(self, maps: Sequence[Mapping], name: str, *args: int) -> int:
        if not self.gadgets.still_there(self.memory):
            raise EngineError(f"process {self.memory.pid}: its code has changed")
        before, mask, xstate = (
            self.leader.registers,
            self.leader.signal_mask,
            self.leader.xstate,
        )
        frame = arch.signal_frame(before, xstate, mask, 0, self.gadgets.restorer)
        address = self._dead_stack(maps, len(frame)) if self.gadgets.restorer else None
        kept = b""
        if address is not None:
            kept = self.memory.read(address, len(frame))
            self.memory.write(
                address,
                arch.signal_frame(before, xstate, mask, address, self.gadgets.restorer),
            )
        self.leader.registers = arch.call_registers(
            before, self.gadgets.call, address, arch.SYSCALLS[name], *args
        )
        self.leader.signal_mask = ALL_SIGNALS
        try:
            return self.leader.make_call()
        finally:
            self.leader.signal_mask = mask
            self.leader.registers = before
            if address is not None:
                self.memory.write(address, kept)

    def _dead_stack(self, maps: Sequence[Mapping], size: int) -> int | None:
        """An address for `size` bytes that no code uses: the low end of the first
        thread's stack, unless the stack pointer is near."""
        used_from = arch.frame_entry(self.leader.registers)
        for mapping in maps:
            if mapping.is_stack:
                end = mapping.start + size + 2 * arch.PAGE
                in_use = mapping.start <= used_from < mapping.end and used_from < end
                return None if in_use or end > mapping.end else mapping.start
        return None
