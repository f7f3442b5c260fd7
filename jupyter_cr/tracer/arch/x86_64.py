"""x86-64: machine code, register sets, system-call numbers, signal frames.

All that the rest of the package would have to know about the processor is
behind this module's surface; a second architecture is one more file beside it
with the same names.

Sources: Linux arch/x86/include/uapi/asm/{ptrace,sigcontext,ucontext}.h,
arch/x86/entry/syscalls/syscall_64.tbl, arch/x86/kernel/signal_64.c.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from typing import Final

__all__ = [
    "BATCH",
    "BATCH_END",
    "CODE",
    "ENTRY_SIZE",
    "LISTEN",
    "LISTING",
    "PAGE",
    "PARK",
    "REAP",
    "RED_ZONE",
    "RESTORER_GADGET",
    "SYSCALLS",
    "SYSCALL_INSTRUCTION",
    "SYSCALL_RETURN_GADGET",
    "Registers",
    "batch_registers",
    "call_registers",
    "frame_entry",
    "listen_registers",
    "park_registers",
    "reap_registers",
    "seed_program",
    "settled",
    "signal_frame",
    "undisturbed",
    "waiter_program",
]

PAGE: Final = 4096
RED_ZONE: Final = 128
ENTRY_SIZE: Final = 64

# Each line is one instruction: its bytes and its assembly. The jump targets are
# offsets from the start of CODE. A test runs them through a disassembler.
#
# BATCH: rbx = table, r12 = count of entries {nr, a0..a5, result} of 8 bytes each,
# r13 = pid, r14 = tid, r15 = signal, rsp = a ucontext. Makes the calls, then sends
# the signal to itself: a tracer sees it as a stop. Without a tracer it is ignored
# (a signal whose default is to be ignored is chosen) and rt_sigreturn brings the
# thread back to where it was found. The child of a clone or clone3 in the table
# ends at once: only a tracer, which sees it before its first instruction, uses it.
_BATCH_LISTING = (
    ("4d85e4", "test r12,r12"),
    ("7447", "je 4c"),
    ("488b03", "mov rax,QWORD PTR [rbx]"),
    ("488b7b08", "mov rdi,QWORD PTR [rbx+0x8]"),
    ("488b7310", "mov rsi,QWORD PTR [rbx+0x10]"),
    ("488b5318", "mov rdx,QWORD PTR [rbx+0x18]"),
    ("4c8b5320", "mov r10,QWORD PTR [rbx+0x20]"),
    ("4c8b4328", "mov r8,QWORD PTR [rbx+0x28]"),
    ("4c8b4b30", "mov r9,QWORD PTR [rbx+0x30]"),
    ("0f05", "syscall"),
    ("4885c0", "test rax,rax"),
    ("750f", "jne 36"),
    ("48833b38", "cmp QWORD PTR [rbx],0x38"),
    ("7416", "je 43"),
    ("48813bb3010000", "cmp QWORD PTR [rbx],0x1b3"),
    ("740d", "je 43"),
    ("48894338", "mov QWORD PTR [rbx+0x38],rax"),
    ("4883c340", "add rbx,0x40"),
    ("49ffcc", "dec r12"),
    ("ebbd", "jmp 0"),
    ("31ff", "xor edi,edi"),
    ("b83c000000", "mov eax,0x3c"),
    ("0f05", "syscall"),
    ("4c89ef", "mov rdi,r13"),
    ("4c89f6", "mov rsi,r14"),
    ("4c89fa", "mov rdx,r15"),
    ("b8ea000000", "mov eax,0xea"),
    ("0f05", "syscall"),
    ("b80f000000", "mov eax,0xf"),
    ("0f05", "syscall"),
)
_PARK_LISTING = (
    ("b822000000", "mov eax,0x22"),
    ("0f05", "syscall"),
    ("ebf7", "jmp 63"),
)
# REAP: r12 = child, rbx = a word, r13 = whether to end as the child did. Otherwise it
# stays for as long as there are others to reap, no longer tied to its parent, which it
# tells by the descriptor in ebp: the wait status (bit 30 set), and 1 above it if it stays.
_REAP_LISTING = (
    ("48c7c7ffffffff", "mov rdi,0xffffffffffffffff"),
    ("488d7424f0", "lea rsi,[rsp-0x10]"),
    ("ba00000040", "mov edx,0x40000000"),
    ("4531d2", "xor r10d,r10d"),
    ("b83d000000", "mov eax,0x3d"),
    ("0f05", "syscall"),
    ("4883f8fc", "cmp rax,0xfffffffffffffffc"),
    ("74df", "je 6c"),
    ("4885c0", "test rax,rax"),
    ("7867", "js f9"),
    ("4c39e0", "cmp rax,r12"),
    ("75d5", "jne 6c"),
    ("4d85ed", "test r13,r13"),
    ("7566", "jne 102"),
    ("8b4424f0", "mov eax,DWORD PTR [rsp-0x10]"),
    ("480d00000040", "or rax,0x40000000"),
    ("488903", "mov QWORD PTR [rbx],rax"),
    ("bf01000000", "mov edi,0x1"),
    ("31f6", "xor esi,esi"),
    ("b89d000000", "mov eax,0x9d"),
    ("0f05", "syscall"),
    ("48c7c7ffffffff", "mov rdi,0xffffffffffffffff"),
    ("488d7424f0", "lea rsi,[rsp-0x10]"),
    ("ba01000040", "mov edx,0x40000001"),
    ("4531d2", "xor r10d,r10d"),
    ("b83d000000", "mov eax,0x3d"),
    ("0f05", "syscall"),
    ("4885c0", "test rax,rax"),
    ("7fe0", "jg b7"),
    ("7807", "js e0"),
    ("c7430401000000", "mov DWORD PTR [rbx+0x4],0x1"),
    ("89ef", "mov edi,ebp"),
    ("4889de", "mov rsi,rbx"),
    ("ba08000000", "mov edx,0x8"),
    ("b801000000", "mov eax,0x1"),
    ("0f05", "syscall"),
    ("4531e4", "xor r12d,r12d"),
    ("e973ffffff", "jmp 6c"),
    ("31ff", "xor edi,edi"),
    ("b8e7000000", "mov eax,0xe7"),
    ("0f05", "syscall"),
    ("488b03", "mov rax,QWORD PTR [rbx]"),
    ("4885c0", "test rax,rax"),
    ("7504", "jne 10e"),
    ("8b4424f0", "mov eax,DWORD PTR [rsp-0x10]"),
    ("4189c6", "mov r14d,eax"),
    ("4183e67f", "and r14d,0x7f"),
    ("7414", "je 12b"),
    ("b827000000", "mov eax,0x27"),
    ("0f05", "syscall"),
    ("4889c7", "mov rdi,rax"),
    ("4c89f6", "mov rsi,r14"),
    ("b83e000000", "mov eax,0x3e"),
    ("0f05", "syscall"),
    ("0fb6fc", "movzx edi,ah"),
    ("b8e7000000", "mov eax,0xe7"),
    ("0f05", "syscall"),
)
# LISTEN: ebp = descriptor. Waits for the word that REAP writes, at rbx, then ends as it
# says: at once if the writer stays, else after that. If the descriptor says nothing any
# more, it goes on with REAP.
_LISTEN_LISTING = (
    ("89ef", "mov edi,ebp"),
    ("4889de", "mov rsi,rbx"),
    ("ba08000000", "mov edx,0x8"),
    ("31c0", "xor eax,eax"),
    ("0f05", "syscall"),
    ("4883f8fc", "cmp rax,0xfffffffffffffffc"),
    ("74ec", "je 135"),
    ("837b0400", "cmp DWORD PTR [rbx+0x4],0x0"),
    ("75b3", "jne 102"),
    ("e918ffffff", "jmp 6c"),
)

# START: what a seed begins with. It dies with the thread that executed it
# (PR_SET_PDEATHSIG), or at once if its parent is another one by now; then it waits. The
# parent's pid stands in the comparison.
_START_LISTING = (
    ("bf01000000", "mov edi,0x1"),
    ("be09000000", "mov esi,0x9"),
    ("b89d000000", "mov eax,0x9d"),
    ("0f05", "syscall"),
    ("b86e000000", "mov eax,0x6e"),
    ("0f05", "syscall"),
    ("3d00000001", "cmp eax,0x1000000"),
    ("0f84ecfeffff", "je 63"),
    ("bf01000000", "mov edi,0x1"),
    ("b8e7000000", "mov eax,0xe7"),
    ("0f05", "syscall"),
)

# WAIT: what a process becomes that is to end as its child does, whose pid stands in the
# third instruction.
_WAIT_LISTING = (
    ("488d5c24e0", "lea rbx,[rsp-0x20]"),
    ("48c70300000000", "mov QWORD PTR [rbx],0x0"),
    ("41bc00000001", "mov r12d,0x1000000"),
    ("41bd01000000", "mov r13d,0x1"),
    ("e9ccfeffff", "jmp 6c"),
)

LISTING: Final = (
    *_BATCH_LISTING,
    *_PARK_LISTING,
    *_REAP_LISTING,
    *_LISTEN_LISTING,
    *_START_LISTING,
    *_WAIT_LISTING,
)


def _length(listing: tuple[tuple[str, str], ...]) -> int:
    return sum(len(code) // 2 for code, _ in listing)


CODE: Final = bytes.fromhex("".join(code for code, _ in LISTING))
BATCH: Final = 0
BATCH_END: Final = _length(_BATCH_LISTING[:-2])
"""Where a batch stops: right behind the call that sends the signal."""
PARK: Final = _length(_BATCH_LISTING)
REAP: Final = PARK + _length(_PARK_LISTING)
LISTEN: Final = REAP + _length(_REAP_LISTING)
START: Final = LISTEN + _length(_LISTEN_LISTING)
_PARENT: Final = START + _length(_START_LISTING[:6]) + 1
WAIT: Final = START + _length(_START_LISTING)
_CHILD: Final = WAIT + _length(_WAIT_LISTING[:2]) + 2

SYSCALL_INSTRUCTION: Final = bytes.fromhex("0f05")
SYSCALL_RETURN_GADGET: Final = bytes.fromhex("0f05c3")
"""``syscall; ret``"""
RESTORER_GADGET: Final = bytes.fromhex("48c7c00f0000000f05")
"""``mov rax, 15; syscall``: what C libraries and Go return from signal handlers with."""

_UNBLOCKABLE_TRAP_FLAG: Final = 1 << 8


# fmt: off
_REGISTER_NAMES: Final = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx",
    "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base",
    "gs_base", "ds", "es", "fs", "gs",
)
# fmt: on


class Registers(ctypes.Structure):
    """struct user_regs_struct, as PTRACE_GETREGSET gives it for NT_PRSTATUS."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in _REGISTER_NAMES)

    r15: int
    r14: int
    r13: int
    r12: int
    rbp: int
    rbx: int
    r11: int
    r10: int
    r9: int
    r8: int
    rax: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    orig_rax: int
    rip: int
    cs: int
    eflags: int
    rsp: int
    ss: int
    fs_base: int
    gs_base: int
    ds: int
    es: int
    fs: int
    gs: int

    def copy(self) -> Registers:
        """The same values, independent."""
        return Registers.from_buffer_copy(self)

    @property
    def is_64_bit(self) -> bool:
        """False for a thread in 32-bit compatibility mode."""
        return self.cs == 0x33

    @property
    def instruction_pointer(self) -> int:
        """Address of the next instruction."""
        return self.rip

    @instruction_pointer.setter
    def instruction_pointer(self, address: int) -> None:
        self.rip = address

    @property
    def stack_pointer(self) -> int:
        """Address of the top of the stack."""
        return self.rsp

    @property
    def result(self) -> int:
        """What the last system call returned, signed (-errno on failure)."""
        value = self.rax
        return value - (1 << 64) if value >> 63 else value


_NOT_IN_A_CALL: Final = (1 << 64) - 1
_ERESTARTSYS, _ERESTARTNOINTR, _ERESTARTNOHAND = 512, 513, 514
_ERESTART_RESTARTBLOCK, _EINTR = 516, 4


def settled(registers: Registers) -> Registers:
    """The registers with which a thread goes on that was stopped in a system call.

    Does what Linux does when it lets such a thread go on without a signal
    (arch_do_signal_or_restart): the call is made again. Where that needs a restart
    block, which no new thread can have, the call reports EINTR, as POSIX lets it.
    """
    new = registers.copy()
    if new.orig_rax < 1 << 31:
        error = -new.result
        if error in (_ERESTARTSYS, _ERESTARTNOINTR, _ERESTARTNOHAND):
            new.rip -= len(SYSCALL_INSTRUCTION)
            new.rax = new.orig_rax
        elif error == _ERESTART_RESTARTBLOCK:
            new.rax = (1 << 64) - _EINTR
    new.orig_rax = _NOT_IN_A_CALL
    return new


# Number of the call -> which register says that it waits without a limit of time.
_WAITING_FOR_EVER: Final = {
    232: ("r10", "int"),  # epoll_wait
    281: ("r10", "int"),  # epoll_pwait
    441: ("r10", "pointer"),  # epoll_pwait2
    128: ("rdx", "pointer"),  # rt_sigtimedwait
}


def undisturbed(registers: Registers) -> Registers:
    """The registers of a thread that was stopped, without a trace of that.

    A few calls report EINTR after any stop (signal(7), "Interruption of system calls
    by stop signals"). One that would have waited for ever is made again instead, as
    Linux does with all others, unless a signal handler is to run. With a limit it
    stays interrupted: the limit would begin anew.
    """
    name, kind = _WAITING_FOR_EVER.get(registers.orig_rax, ("", ""))
    if not name or registers.result != -_EINTR:
        return registers
    value = getattr(registers, name)
    for_ever = ctypes.c_int(value).value < 0 if kind == "int" else value == 0
    if not for_ever:
        return registers
    new = registers.copy()
    new.rax = (1 << 64) - _ERESTARTNOHAND
    return new


def batch_registers(
    base: Registers,
    *,
    code: int,
    table: int,
    count: int,
    pid: int,
    tid: int,
    signal: int,
    frame: int,
) -> Registers:
    """Registers that run `count` entries at `table` and return by `frame`."""
    new = base.copy()
    new.rip, new.rbx, new.r12 = code + BATCH, table, count
    new.r13, new.r14, new.r15 = pid, tid, signal
    new.rsp = frame + 8
    new.orig_rax = _NOT_IN_A_CALL
    new.eflags &= ~_UNBLOCKABLE_TRAP_FLAG
    return new


def call_registers(
    base: Registers, gadget: int, frame: int | None, number: int, *args: int
) -> Registers:
    """Registers that make one call at a ``syscall; ret`` gadget, then return by `frame`
    (or, with None, are left to a tracer that steps over the one instruction)."""
    new = base.copy()
    new.rip, new.rax, new.orig_rax = gadget, number, _NOT_IN_A_CALL
    padded = (*args, 0, 0, 0, 0, 0, 0)
    new.rdi, new.rsi, new.rdx, new.r10, new.r8, new.r9 = padded[:6]
    if frame is not None:
        new.rsp = frame
    new.eflags &= ~_UNBLOCKABLE_TRAP_FLAG
    return new


def park_registers(base: Registers, code: int) -> Registers:
    """Registers that wait for ever, whatever signals come."""
    new = base.copy()
    new.rip, new.orig_rax = code + PARK, _NOT_IN_A_CALL
    return new


def reap_registers(
    base: Registers,
    *,
    code: int,
    stack: int,
    child: int,
    word: int,
    tell: int | None = None,
) -> Registers:
    """Registers that reap children until `child` has ended, and end as it did; or, with
    `tell`, write how it did to that descriptor, and go on until none are left.

    Args:
        word: address of 8 bytes to work with, which are 0.
    """
    new = base.copy()
    new.rip, new.rsp, new.rbx = code + REAP, stack, word
    new.r12, new.r13, new.rbp = child, int(tell is None), tell or 0
    new.orig_rax = _NOT_IN_A_CALL
    return new


def listen_registers(
    base: Registers, *, code: int, stack: int, child: int, word: int, listen: int
) -> Registers:
    """Registers that end as whoever has been given `reap_registers` with `tell` says by
    the descriptor `listen`; if it just ends, as `child` does, if there is such a child."""
    new = reap_registers(base, code=code, stack=stack, child=child, word=word)
    new.rip, new.rbp = code + LISTEN, listen
    return new


_UC_FP_XSTATE, _UC_SIGCONTEXT_SS, _UC_STRICT_RESTORE_SS = 1, 2, 4
_FP_XSTATE_MAGIC1, _FP_XSTATE_MAGIC2 = 0x46505853, 0x46505845
_SW_RESERVED = 464
_UCONTEXT = struct.Struct("<QQQiiQ 8Q 8Q QQ 4H 4Q Q 8Q Q")
_SIGINFO_SIZE = 128
# rt_sigreturn also sets the alternate stack, but leaves it alone when told nonsense
# (restore_altstack ignores EINVAL): no batch changes it.
_NO_STACK_MODE = 0x7F


def signal_frame(
    registers: Registers, xstate: bytes, mask: int, address: int, restorer: int = 0
) -> bytes:
    """A struct rt_sigframe for `address` (a multiple of 64) that rt_sigreturn takes.

    Args:
        registers: Where the thread goes on; a call to be made again is settled.
        xstate: The extended state as PTRACE_GETREGSET gives it for NT_X86_XSTATE.
        mask: The signal mask that the thread goes on with.
        restorer: The address to be found first on the stack.
    """
    regs = settled(registers)
    floating = address + 8 + _UCONTEXT.size + _SIGINFO_SIZE
    floating += -floating % 64
    selectors = (regs.cs, regs.gs, regs.fs, regs.ss)
    context = _UCONTEXT.pack(
        _UC_FP_XSTATE | _UC_SIGCONTEXT_SS | _UC_STRICT_RESTORE_SS,
        0,
        0, _NO_STACK_MODE, 0, 0,
        regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        regs.rdi, regs.rsi, regs.rbp, regs.rbx, regs.rdx, regs.rax, regs.rcx, regs.rsp,
        regs.rip, regs.eflags,
        *selectors,
        0, 0, 0, 0,
        floating,
        *(0,) * 8,
        mask,
    )  # fmt: skip
    frame = struct.pack("<Q", restorer) + context
    frame += bytes(floating - address - len(frame))
    reserved = struct.pack(
        "<IIQI28x", _FP_XSTATE_MAGIC1, len(xstate) + 4, _features_mask(xstate), len(xstate)
    )
    area = bytearray(xstate)
    area[_SW_RESERVED : _SW_RESERVED + len(reserved)] = reserved
    return frame + bytes(area) + struct.pack("<I", _FP_XSTATE_MAGIC2)


def _features_mask(xstate: bytes) -> int:
    """The features that this processor's layout has (struct xstate_fx_sw, put there by
    Linux's ptrace), so that those in their initial state are reset as well."""
    (mask,) = struct.unpack_from("<Q", xstate, _SW_RESERVED)
    return int(mask)


def frame_entry(registers: Registers) -> int:
    """Highest address that the interrupted code may be using below its stack pointer."""
    return registers.rsp - RED_ZONE


_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_ET_EXEC, _EM_X86_64, _PT_LOAD, _PT_GNU_STACK, _RWX = 2, 62, 1, 0x6474E551, 7


def seed_program(address: int, size: int, parent: int) -> bytes:
    """A static ELF executable that waits as long as process `parent` lives, whose child
    it has to be. `size` bytes at `address` are its one segment."""
    return _program(address, size, START, {_PARENT: parent})


def waiter_program(child: int) -> bytes:
    """A static ELF executable that waits for process `child`, its child already when it
    is executed, and ends as that does: with the same exit code, or by the same signal."""
    return _program(_WAITER_ADDRESS, PAGE, WAIT, {_CHILD: child})


_WAITER_ADDRESS: Final = 0x10000


def _program(address: int, size: int, entry: int, pids: Mapping[int, int]) -> bytes:
    """A static ELF executable. Its one segment, writable and executable, begins with
    `CODE`; the rest is zero. It needs no C library, whose rseq area would kill the
    process as soon as it is unmapped.

    Args:
        entry: offset in `CODE`.
        pids: offset in `CODE` -> what is to stand there.
    """
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = _ELF_HEADER.pack(
        ident, _ET_EXEC, _EM_X86_64, 1, address + entry, _ELF_HEADER.size, 0, 0,
        _ELF_HEADER.size, _PROGRAM_HEADER.size, 2, 0, 0, 0,
    )  # fmt: skip
    load = _PROGRAM_HEADER.pack(
        _PT_LOAD, _RWX, PAGE, address, address, len(CODE), size, PAGE
    )
    stack = _PROGRAM_HEADER.pack(_PT_GNU_STACK, 6, 0, 0, 0, 0, 0, 16)
    code = bytearray(CODE)
    for offset, pid in pids.items():
        struct.pack_into("<I", code, offset, pid)
    return (header + load + stack).ljust(PAGE, b"\0") + bytes(code)


# fmt: off
SYSCALLS: Final = {
    "read": 0, "write": 1, "close": 3, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12,
    "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
    "pread64": 17, "pwrite64": 18, "writev": 20, "mremap": 25, "madvise": 28, "pause": 34,
    "getitimer": 36, "setitimer": 38, "getpid": 39, "socket": 41, "connect": 42,
    "sendmsg": 46, "recvmsg": 47, "clone": 56, "exit": 60, "wait4": 61, "kill": 62,
    "fcntl": 72, "ftruncate": 77, "chdir": 80, "fchdir": 81, "umask": 95, "setpgid": 109,
    "setsid": 112, "setgroups": 116, "setresuid": 117, "setresgid": 119, "getpgid": 121,
    "setfsuid": 122, "setfsgid": 123, "getsid": 124, "capget": 125, "capset": 126,
    "rt_sigqueueinfo": 129, "sigaltstack": 131, "personality": 135, "setpriority": 141,
    "sched_setscheduler": 144, "mlock": 149, "munlock": 150, "prctl": 157,
    "arch_prctl": 158, "chroot": 161, "mount": 165, "umount2": 166, "gettid": 186,
    "tkill": 200, "sched_setaffinity": 203, "sched_getaffinity": 204,
    "set_tid_address": 218, "timer_create": 222, "timer_settime": 223,
    "timer_gettime": 224, "timer_getoverrun": 225, "timer_delete": 226, "exit_group": 231,
    "epoll_ctl": 233, "tgkill": 234, "ioprio_set": 251, "ioprio_get": 252, "openat": 257,
    "unshare": 272, "set_robust_list": 273, "get_robust_list": 274, "dup3": 292,
    "pipe2": 293, "preadv": 295, "pwritev": 296, "rt_tgsigqueueinfo": 297, "prlimit64": 302,
    "setns": 308, "process_vm_readv": 310, "kcmp": 312, "sched_setattr": 314,
    "sched_getattr": 315, "memfd_create": 319, "userfaultfd": 323, "mlock2": 325,
    "rseq": 334, "pidfd_send_signal": 424, "pidfd_open": 434, "clone3": 435,
    "close_range": 436, "pidfd_getfd": 438, "process_madvise": 440,
}
# fmt: on
