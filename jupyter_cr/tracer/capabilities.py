"""What this machine lets this user do, found out by trying it.

Nothing is concluded from a version number or from a user id: each answer comes from a
throw-away child process that makes the very calls, and that is gone afterwards. What a
filter kills, or what hangs, harms that child only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

from jupyter_cr.tracer import yama
from jupyter_cr.tracer.arch.x86_64 import PAGE, SYSCALLS, seed_program
from jupyter_cr.tracer.proc.pagemap import has_pagemap_scan
from jupyter_cr.tracer.proc.status import read_status

__all__ = ["Capabilities", "Capability", "probe_capabilities"]


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that Linux permits or refuses here."""

    name: str
    ok: bool
    required_for: str
    """What does not work without it, in words."""
    detail: str
    """What was found, or the refused call and Linux's reason."""
    advice: str
    """What the user or administrator can do; empty when ``ok``."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Everything that was tried, in the order of the list below."""

    items: tuple[Capability, ...]

    def get(self, name: str) -> Capability:
        """The capability of that name.

        Raises:
            KeyError: there is none.
        """
        for item in self.items:
            if item.name == name:
                return item
        raise KeyError(name)

    @property
    def can_checkpoint(self) -> bool:
        """Whether this user's processes can be checkpointed."""
        return self._have(*_CHECKPOINT)

    @property
    def can_restore_here(self) -> bool:
        """Whether pids can be chosen in the present pid namespace."""
        return self._have(*_REBUILD, "set_tid")

    @property
    def can_restore_in_namespace(self) -> bool:
        """Whether a tree can be rebuilt, with its pids, in a pid namespace of its own."""
        return self._have(*_REBUILD, "pid_namespace")

    @property
    def can_restore(self) -> bool:
        """Whether a tree can be rebuilt with its pids, in place of one that runs. It is
        always in a namespace, whoever may choose pids here."""
        return self.can_restore_in_namespace and self._have("pidfd_getfd")

    @property
    def can_fork(self) -> bool:
        """Whether a tree can be rebuilt beside one that has the same pids."""
        return self.can_restore_in_namespace

    @property
    def missing(self) -> tuple[str, ...]:
        """What stands in the way of checkpoints, restores or forks. Whatever else is not
        there makes no more than a difference."""
        needed = {*_CHECKPOINT, *_REBUILD, "pid_namespace"}
        return tuple(i.name for i in self.items if i.name in needed and not i.ok)

    def _have(self, *names: str) -> bool:
        return all(self.get(name).ok for name in names)


_REBUILD = ("architecture", "ptrace_child")
_CHECKPOINT = (
    *_REBUILD,
    "ptrace_other",
    "rseq",
    "kcmp",
    "pidfd_getfd",
    "tid_address",
    "process_vm_readv",
)


@cache
def probe_capabilities() -> Capabilities:
    """Tries everything once, in about 0.1 s; the answer is remembered.

    Forks: as with any os.fork(), better called before the program starts threads.
    """
    return Capabilities(tuple(_try(probe) for probe in _PROBES))


# What the probes are run by.


class _RefusedError(Exception):
    """A probe's way of saying no, with the detail to show."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class _Probe:
    name: str
    required_for: str
    run: Callable[[], str]
    """Runs in a child. Returns the detail, or raises OSError or _RefusedError."""
    advise: Callable[[], str]


_LIMIT_S = 5.0
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.ptrace.restype = ctypes.c_long


def _try(probe: _Probe) -> Capability:
    outcome = _run_in_child(probe.run)
    return Capability(
        name=probe.name,
        ok=outcome.ok,
        required_for=probe.required_for,
        detail=outcome.detail,
        advice="" if outcome.ok else probe.advise(),
    )


def _run_in_child(run: Callable[[], str]) -> _Outcome:
    """Runs a function in a forked child, at most `_LIMIT_S` seconds."""
    reader, writer = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _answer(run, writer, parent)
    os.close(writer)
    try:
        answer = _read_answer(reader)
    finally:
        os.close(reader)
        status = _end(pid)
    if answer:
        ok, detail = json.loads(answer)
        return _Outcome(ok, detail)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            return _Outcome(False, f"no answer within {_LIMIT_S:g} s")
        return _Outcome(False, f"the trying process was killed by signal {number}")
    return _Outcome(False, "the trying process ended without an answer")


def _answer(run: Callable[[], str], writer: int, parent: int) -> NoReturn:
    """The child's whole life."""
    try:
        _become_throw_away(parent)
        try:
            outcome = _Outcome(True, run())
        except OSError as error:
            outcome = _Outcome(False, _describe(error))
        except _RefusedError as error:
            outcome = _Outcome(False, str(error))
        os.write(writer, json.dumps([outcome.ok, outcome.detail]).encode())
    finally:
        os._exit(0)


def _become_throw_away(parent: int) -> None:
    """Dies with its parent, leaves no core file, and runs none of its handlers."""
    _die_with_parent()
    # It may have died before; a parent outside the pid namespace is always 0.
    if os.getppid() not in (parent, 0):
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _read_answer(reader: int) -> bytes:
    """All that the child writes until it ends, or nothing when time runs out."""
    deadline = time.monotonic() + _LIMIT_S
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    answer = b""
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(left * 1000):
            break
        piece = os.read(reader, 4096)
        if not piece:
            return answer
        answer += piece
    return b""


def _end(pid: int) -> int:
    """Kills an own child that has not ended, reaps it, returns its wait status."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found == 0:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        # The caller ignores SIGCHLD, or another of its threads reaps everything.
        return 0
    return status


def _describe(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    what = f"{error.filename}: " if error.filename else ""
    return f"{what}{error.strerror} ({name})"


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Makes an OSError say which call was refused, where Python would not."""
    try:
        yield
    except OSError as error:
        error.filename = what
        raise


def _check(result: int, what: str) -> int:
    """The result of a C function, or the OSError that says which one failed."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _syscall(name: str, *args: int | ctypes.Array[ctypes.c_char]) -> int:
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return _check(_libc.syscall(ctypes.c_long(SYSCALLS[name]), *words), name)


@contextmanager
def _sleeping_child(prepare: Callable[[], object] = os.getpid) -> Iterator[int]:
    """A child with this process's memory and descriptors that waits to be killed, once it
    has done what is to be prepared."""
    parent = os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become_throw_away(parent)
            prepare()
            os.write(writer, b"x")
            os.close(writer)
            while True:
                signal.pause()
        finally:
            os._exit(0)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    try:
        yield pid
    finally:
        _end(pid)


# The probes. Each runs in a child of its own, so nothing has to be undone.

_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_GET_RSEQ = 0x4206, 0x4207, 0x420F
_PTRACE_O_EXITKILL = 0x100000
_WALL = 0x40000000
_RSEQ_CONFIGURATION_SIZE = 24
_KCMP_FILE = 0
_PR_GET_TID_ADDRESS = 40
_CLONE_NEWNS, _CLONE_NEWUTS = 0x20000, 0x4000000
_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000
_MS_REC, _MS_SLAVE = 0x4000, 0x80000
_CAP_SYS_ADMIN = 21
_TCP_REPAIR = 19
_UFFD_USER_MODE_ONLY = 1
_UFFDIO_API = 0xC018AA3F
_MFD_EXEC = 0x10
_CLONE_ARGS = struct.Struct("=10Q")
_CHOSEN_PID = 4242
_LOCKED_SIZE = 1 << 16
_SEED_ADDRESS = 0x200000000


def _probe_architecture() -> str:
    machine = platform.machine()
    if machine != "x86_64" or sys.maxsize < 1 << 32:
        raise _RefusedError(f"{machine}, {sys.maxsize.bit_length() + 1}-bit Python")
    return "x86-64"


def _ptrace(request: int, pid: int, address: int, data: int, what: str) -> int:
    return _check(
        _libc.ptrace(
            ctypes.c_long(request),
            ctypes.c_long(pid),
            ctypes.c_void_p(address),
            ctypes.c_void_p(data),
        ),
        what,
    )


def _seize(pid: int) -> None:
    """Stops a child as every checkpoint does."""
    _ptrace(_PTRACE_SEIZE, pid, 0, _PTRACE_O_EXITKILL, "PTRACE_SEIZE")
    _ptrace(_PTRACE_INTERRUPT, pid, 0, 0, "PTRACE_INTERRUPT")
    _, status = os.waitpid(pid, _WALL)
    if not os.WIFSTOPPED(status):
        raise _RefusedError(f"PTRACE_INTERRUPT: wait status {status:#x}, not a stop")


def _probe_ptrace_child() -> str:
    with _sleeping_child() as child:
        _seize(child)
    return "PTRACE_SEIZE of a child works"


def _probe_ptrace_other() -> str:
    def seize_sibling() -> str:
        _seize(sibling)
        return "PTRACE_SEIZE of a process that is no descendant works"

    # As a kernel does that is asked for it (`jupyter_cr.tracer.yama`).
    prepare = yama.let_everybody_trace if yama.is_asked_for() else os.getpid
    with _sleeping_child(prepare) as sibling:
        outcome = _run_in_child(seize_sibling)
    detail = outcome.detail + _yama_note()
    if not outcome.ok:
        raise _RefusedError(detail)
    return detail


def _yama_note() -> str:
    scope = yama.ptrace_scope()
    return f" (Yama ptrace_scope = {scope})" if scope else ""


def _probe_rseq() -> str:
    configuration = (ctypes.c_char * _RSEQ_CONFIGURATION_SIZE)()
    with _sleeping_child() as child:
        _seize(child)
        _ptrace(
            _PTRACE_GET_RSEQ,
            child,
            _RSEQ_CONFIGURATION_SIZE,
            ctypes.addressof(configuration),
            "PTRACE_GET_RSEQ_CONFIGURATION",
        )
    return "PTRACE_GET_RSEQ_CONFIGURATION works"


def _probe_kcmp() -> str:
    reader, writer = os.pipe()
    with _sleeping_child() as child:
        same = _syscall("kcmp", os.getpid(), child, _KCMP_FILE, reader, reader)
        other = _syscall("kcmp", os.getpid(), child, _KCMP_FILE, reader, writer)
    if same != 0 or other == 0:
        raise _RefusedError(f"kcmp: wrong answers, {same} and {other}")
    return "kcmp tells shared open files from others"


def _probe_pidfd_getfd() -> str:
    reader, _ = os.pipe()
    with _sleeping_child() as child:
        copy = _syscall("pidfd_getfd", _syscall("pidfd_open", child, 0), reader, 0)
    if not os.path.sameopenfile(copy, reader):
        raise _RefusedError("pidfd_getfd: not the descriptor asked for")
    return "pidfd_getfd of a child's descriptor works"


def _probe_tid_address() -> str:
    address = ctypes.c_void_p()
    result = _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0)
    _check(result, "PR_GET_TID_ADDRESS")
    return "PR_GET_TID_ADDRESS works (CONFIG_CHECKPOINT_RESTORE)"


def _probe_process_vm_readv() -> str:
    wanted = ctypes.create_string_buffer(b"as it was")
    found = ctypes.create_string_buffer(len(wanted))
    with _sleeping_child() as child:
        here = (ctypes.c_size_t * 2)(ctypes.addressof(found), len(found))
        there = (ctypes.c_size_t * 2)(ctypes.addressof(wanted), len(wanted))
        one = ctypes.c_ulong(1)
        result = _libc.process_vm_readv(child, here, one, there, one, ctypes.c_ulong(0))
        _check(result, "process_vm_readv")
    if found.raw != wanted.raw:
        raise _RefusedError("process_vm_readv: not the bytes that are there")
    return "process_vm_readv of a child works"


def _probe_pagemap_scan() -> str:
    if not has_pagemap_scan():
        raise _RefusedError("the ioctl PAGEMAP_SCAN is not there")
    return "the ioctl PAGEMAP_SCAN works"


def _clone_with_pid(pid: int) -> None:
    """Makes a child with that pid, and reaps it; OSError EEXIST when it is taken."""
    chosen = ctypes.c_int(pid)
    arguments = ctypes.create_string_buffer(
        _CLONE_ARGS.pack(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(chosen), 1),
        _CLONE_ARGS.size,
    )
    child = _syscall("clone3", arguments, _CLONE_ARGS.size)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    if child != pid:
        raise _RefusedError(f"clone3 gave pid {child} where {pid} was asked for")


def _probe_set_tid() -> str:
    for _ in range(20):
        free = os.fork()
        if free == 0:
            os._exit(0)
        os.waitpid(free, 0)
        try:
            _clone_with_pid(free)
        except FileExistsError:
            continue  # Somebody else has got it meanwhile.
        return "pids can be chosen in the present pid namespace"
    raise _RefusedError("clone3: each pid just freed was taken again")


def _enter_user_namespace() -> None:
    """Moves into a new user namespace, as its root."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")
    _die_with_parent()  # Linux forgets it when credentials change.
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with _naming(f"writing {file} of a user namespace"):
            Path("/proc/self", file).write_text(text)


def _probe_user_namespace() -> str:
    _enter_user_namespace()
    # Ubuntu's AppArmor lets anybody make one, and then takes its powers away.
    _check(_libc.unshare(_CLONE_NEWUTS), "unshare(CLONE_NEWUTS) in a user namespace")
    return "user namespaces can be made, with all powers inside"


def _run_in_pid_namespace(run: Callable[[], str]) -> str:
    """Runs a function as pid 1 of a new pid namespace, in a mount namespace of its own,
    and with a new user namespace around them for who has no CAP_SYS_ADMIN: as
    `jupyter_cr.engine.container` does."""
    how = "directly"
    if read_status("self").cap_effective >> _CAP_SYS_ADMIN & 1:
        _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID), "unshare(CLONE_NEWPID)")
    else:
        _enter_user_namespace()
        result = _libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID)
        _check(result, "unshare(CLONE_NEWPID) in a user namespace")
        how = "in a user namespace of its own"
    outcome = _run_in_child(run)
    if not outcome.ok:
        raise _RefusedError(outcome.detail)
    return f"{outcome.detail}, {how}"


def _probe_pid_namespace() -> str:
    def choose() -> str:
        _clone_with_pid(_CHOSEN_PID)
        return "pids can be chosen in a new pid namespace"

    return _run_in_pid_namespace(choose)


def _probe_mount_proc() -> str:
    def mount() -> str:
        slave = ctypes.c_ulong(_MS_REC | _MS_SLAVE)
        _check(_libc.mount(None, b"/", None, slave, None), "mount(/, MS_SLAVE)")
        plain = ctypes.c_ulong(0)
        result = _libc.mount(b"proc", b"/proc", b"proc", plain, None)
        _check(result, "mount of a new /proc")
        if os.readlink("/proc/self") != str(os.getpid()):
            raise _RefusedError("the new /proc does not show the new pid namespace")
        return "a new pid namespace can have a /proc of its own"

    return _run_in_pid_namespace(mount)


def _probe_setns() -> str:
    def enter() -> str:
        fd = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        _syscall("setns", fd, _CLONE_NEWNS)
        return "a process can enter a mount namespace"

    return _run_in_pid_namespace(enter)


def _open_userfaultfd(flags: int) -> None:
    fd = _syscall("userfaultfd", os.O_CLOEXEC | flags)
    with _naming("UFFDIO_API"):
        fcntl.ioctl(fd, _UFFDIO_API, struct.pack("=3Q", 0xAA, 0, 0))


def _probe_userfaultfd() -> str:
    _open_userfaultfd(0)
    return "userfaultfd works, faults inside system calls included"


def _probe_userfaultfd_user_mode() -> str:
    _open_userfaultfd(_UFFD_USER_MODE_ONLY)
    return "userfaultfd works for faults in user mode"


def _create_executable_memfd() -> int:
    try:
        return os.memfd_create("probe", os.MFD_CLOEXEC | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # MFD_EXEC came with Linux 6.3.
            raise
        return os.memfd_create("probe", os.MFD_CLOEXEC)


def _probe_memfd_exec() -> str:
    memfd = _create_executable_memfd()
    os.write(memfd, seed_program(_SEED_ADDRESS, PAGE, os.getpid()))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.execve(memfd, ["probe"], {})
        except OSError as error:
            os.write(writer, _describe(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    refusal = os.read(reader, 4096).decode()  # The end of file: it runs.
    _end(child)
    if refusal:
        raise _RefusedError(f"execve of a memfd: {refusal}")
    return "a program in a memfd can be executed"


def _probe_tcp_repair() -> str:
    with socket.socket() as tcp, _naming("TCP_REPAIR"):
        tcp.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    return "TCP_REPAIR works (CAP_NET_ADMIN)"


def _probe_seccomp() -> str:
    status = read_status("self")
    if status.seccomp:
        raise _RefusedError(
            f"seccomp mode {status.seccomp}, {status.seccomp_filters} filters"
        )
    return "no seccomp filter"


def _probe_huge_pages() -> str:
    setting = _read_setting("/sys/kernel/mm/transparent_hugepage/enabled")
    if "[always]" in setting or "[madvise]" in setting:
        return f"transparent huge pages: {setting}"
    raise _RefusedError(f"transparent huge pages: {setting or 'not configured'}")


def _probe_locked_memory() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft >> 10} KiB"
    area = mmap.mmap(-1, _LOCKED_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    result = _libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(_LOCKED_SIZE))
    _check(result, f"mlock (limit {limit})")
    return f"memory can be locked; RLIMIT_MEMLOCK is {limit}"


def _read_setting(path: str) -> str:
    """Content of a file of one line in /proc/sys or /sys; empty if it is not there."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


# The advice, for who may change the machine and for who may not.

_CONTAINER = (
    "In a container this is its seccomp profile's doing (Docker's and containerd's "
    "default ones): run it with a profile that also allows kcmp, pidfd_getfd, clone3, "
    "unshare, setns, mount and userfaultfd (`--security-opt seccomp=PROFILE`; KubeSpawner: "
    "`container_security_context` with a `seccompProfile`)."
)


def _advise(*sentences: str) -> Callable[[], str]:
    return lambda: " ".join(sentences)


def _advise_ptrace_other(scope: str | None = None) -> str:
    scope = yama.ptrace_scope() if scope is None else scope
    if scope == "1":
        return (
            "Yama lets a process trace its descendants only, and no kernel is one of the "
            "engine's: `sysctl kernel.yama.ptrace_scope=0`, or give the program "
            f"CAP_SYS_PTRACE. Without either, start the server with `{yama.VARIABLE}=any` "
            "in its environment: Python kernels with jupyter_cr then let themselves be "
            "traced, as long as they have no child processes that they have not forked "
            "themselves."
        )
    if scope in ("2", "3"):
        return (
            f"The administrator closed ptrace (Yama ptrace_scope = {scope}): "
            "`sysctl kernel.yama.ptrace_scope=0`"
            + ("." if scope == "2" else ", but only after a reboot.")
        )
    return f"A security module or a filter refuses it. {_CONTAINER}"


def _advise_user_namespace() -> str:
    if _read_setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "Ubuntu's AppArmor takes the powers of ordinary users' namespaces away: "
            "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or an AppArmor "
            "profile with `userns,` for this Python."
        )
    if _read_setting("/proc/sys/user/max_user_namespaces") == "0":
        return "They are switched off: `sysctl user.max_user_namespaces=15000`."
    if _read_setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "They are switched off: `sysctl kernel.unprivileged_userns_clone=1`."
    return (
        f"{_CONTAINER} On Kubernetes, `hostUsers: false` (KubeSpawner: "
        "`extra_pod_config`) gives each pod a user namespace that is its own."
    )


_TRACE_ADVICE = _advise(
    "Nothing works without ptrace: a security module, a sandbox such as gVisor or a "
    "seccomp filter refuses it, or another tracer has this process.",
    "Ask for the capability SYS_PTRACE and a seccomp profile that allows ptrace",
    "(`docker run --cap-add SYS_PTRACE`; KubeSpawner: `container_security_context`).",
)

_PROBES = (
    _Probe(
        "architecture",
        "everything",
        _probe_architecture,
        _advise("Only 64-bit programs on x86-64 are supported so far."),
    ),
    _Probe("ptrace_child", "everything", _probe_ptrace_child, _TRACE_ADVICE),
    _Probe(
        "ptrace_other",
        "checkpoints: no kernel is a descendant of the engine",
        _probe_ptrace_other,
        _advise_ptrace_other,
    ),
    _Probe(
        "rseq",
        "checkpoints",
        _probe_rseq,
        _advise("It came with Linux 5.13; a filter may also refuse it."),
    ),
    _Probe("kcmp", "checkpoints", _probe_kcmp, _advise(_CONTAINER)),
    _Probe("pidfd_getfd", "checkpoints", _probe_pidfd_getfd, _advise(_CONTAINER)),
    _Probe(
        "tid_address",
        "checkpoints",
        _probe_tid_address,
        _advise("This Linux was built without CONFIG_CHECKPOINT_RESTORE: use another."),
    ),
    _Probe(
        "process_vm_readv",
        "checkpoints",
        _probe_process_vm_readv,
        _advise(
            "This Linux was built without CONFIG_CROSS_MEMORY_ATTACH, or a filter "
            "refuses it.",
            _CONTAINER,
        ),
    ),
    _Probe(
        "pagemap_scan",
        "speed: without it finding populated pages takes 10 times as long",
        _probe_pagemap_scan,
        _advise("It came with Linux 6.7; nothing else is lost without it."),
    ),
    _Probe(
        "set_tid",
        "restoring with the same pids in the present pid namespace",
        _probe_set_tid,
        _advise(
            "Without it a restored tree has its pids in a pid namespace of its own.",
            "It needs root or the capability CHECKPOINT_RESTORE (Linux 5.9;",
            "`setcap cap_checkpoint_restore+ep` on a copy of Python, or systemd's",
            "`AmbientCapabilities`), and in a container also clone3 allowed by the",
            "seccomp profile.",
        ),
    ),
    _Probe(
        "user_namespace",
        "forks, and restores where pids cannot be chosen, as an ordinary user",
        _probe_user_namespace,
        _advise_user_namespace,
    ),
    _Probe(
        "pid_namespace",
        "forks, and restores where pids cannot be chosen",
        _probe_pid_namespace,
        _advise_user_namespace,
    ),
    _Probe(
        "setns",
        "speed: without it forks of warm snapshots are read from disk, as all others",
        _probe_setns,
        _advise_user_namespace,
    ),
    _Probe(
        "mount_proc",
        "psutil and other readers of /proc inside forks",
        _probe_mount_proc,
        _advise(
            "In such a fork /proc shows the pids outside. Linux permits a new /proc only",
            "where nothing is mounted over parts of the present one, as container",
            "runtimes do: `--security-opt systempaths=unconfined`, or `procMount:",
            "Unmasked` in a pod with `hostUsers: false`. It also needs mount, which the",
            "seccomp and AppArmor profiles of containers forbid.",
        ),
    ),
    _Probe(
        "userfaultfd",
        "lazy restores that also hold for memory used in system calls",
        _probe_userfaultfd,
        _advise(
            "Without it restores load all memory first. It needs root, CAP_SYS_PTRACE or",
            "`sysctl vm.unprivileged_userfaultfd=1`.",
        ),
    ),
    _Probe(
        "userfaultfd_user_mode",
        "lazy restores as an ordinary user",
        _probe_userfaultfd_user_mode,
        _advise("It came with Linux 5.11.", _CONTAINER),
    ),
    _Probe(
        "memfd_exec",
        "starting restored processes without a temporary file",
        _probe_memfd_exec,
        _advise("`sysctl vm.memfd_noexec=1` (or 0) permits it; 2 forbids it."),
    ),
    _Probe(
        "tcp_repair",
        "connections that go on with programs outside the tree",
        _probe_tcp_repair,
        _advise(
            "Without the capability NET_ADMIN such connections are reset when a tree is",
            "restored, and programs connect again, as Jupyter's do.",
        ),
    ),
    _Probe(
        "seccomp",
        "nothing by itself: it explains what else is refused",
        _probe_seccomp,
        _advise("Look at the other lines.", _CONTAINER),
    ),
    _Probe(
        "huge_pages",
        "restored memory that is as fast as it was, if it used huge pages",
        _probe_huge_pages,
        _advise(
            "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled` lets programs",
            "have them that ask.",
        ),
    ),
    _Probe(
        "locked_memory",
        "trees that lock memory",
        _probe_locked_memory,
        _advise("Raise the limit: `ulimit -l`, or systemd's `LimitMEMLOCK`."),
    ),
)
