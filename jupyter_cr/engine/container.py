"""Where a rebuilt tree lives: a pid namespace, with the processes that keep it.

::

    supervisor              our child, outside; ends as the root has ended
    └── init                pid 1 inside: reaps whatever is left behind
        └── stand-in        has the pid that the root's parent had, so that
            └── root        getppid() says what it said

init stays for as long as anything lives inside: twins, above all. From a twin there is no
way into any namespace but those below its own (setns(2)), so a tree that begins with a
twin of a rebuilt one lives in a container *within* that one's, which an anchor, a child of
the outer init, keeps from ending before the inner one does.

An ordinary user gets a user namespace around it, in which the ids are the same. Where
it is permitted the namespace has a /proc of its own: without one, whatever reads
/proc/<own pid> would read of somebody else.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from jupyter_cr.engine.seed import Seed, clone_seed, plant
from jupyter_cr.errors import EngineError, RestoreError
from jupyter_cr.tracer.arch import x86_64 as arch
from jupyter_cr.tracer.calls import Call, Out
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.remote import CallFailed

__all__ = ["Container", "is_outside", "make_container", "namespace"]

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
_CLONE_PARENT = 0x8000
_WALL = 0x40000000
_MS_REC, _MS_SLAVE = 0x4000, 0x80000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_RLIMIT_CORE = 4


@dataclass(frozen=True)
class _Pipe:
    """Its ends, numbers that are the same in all seeds that have them."""

    reads: int
    writes: int


@dataclass
class Container:
    """`news`: by this init tells the supervisor how its child has ended, since pid 1 cannot
    end by a signal, as the root may have. `anchor` holds the container around, and ends
    when nobody holds the other end of `hold`, as init does."""

    supervisor: Seed
    init: Seed
    news: _Pipe
    anchor: Seed | None = None
    hold: _Pipe | None = None

    def release(self, parent: Seed, root: int, *, tied: bool) -> None:
        """Let the keepers go and do what they are for: `parent` (maybe init itself)
        waits for its child `root`, init for `parent`, the supervisor for init. With
        `tied`, all of them still die with us."""
        if not tied:
            self.supervisor.thread.call("prctl", _PR_SET_PDEATHSIG, 0)
        _listen(self.supervisor, self.news, self.init.outer_pid)
        released = [self.supervisor, self.init]
        if parent is self.init:
            _reap(self.init, root, self.news)
        else:
            _reap(self.init, parent.pid, self.news)
            _reap(parent, root)
            released.append(parent)
        if self.anchor is not None and self.hold is not None:
            _listen(self.anchor, self.hold, _NOBODY)
            released.append(self.anchor)
        for seed in released:
            seed.thread.tracee.signal_mask = 0
        for seed in released:
            seed.thread.tracee.detach()
            seed.memory.close()

    def clear(self) -> None:
        """End it, and all that is in it."""
        self.supervisor.kill()
        if self.anchor is not None:
            self.anchor.kill()


_NOBODY = 0


def _reap(seed: Seed, child: int, news: _Pipe | None = None) -> None:
    tracee, workspace = seed.thread.tracee, seed.workspace
    tracee.registers = arch.reap_registers(
        tracee.registers,
        code=workspace.address,
        stack=_stack(seed),
        child=child,
        word=_own_word(seed),
        tell=None if news is None else news.writes,
    )


def _listen(seed: Seed, pipe: _Pipe, child: int) -> None:
    tracee, workspace = seed.thread.tracee, seed.workspace
    tracee.registers = arch.listen_registers(
        tracee.registers,
        code=workspace.address,
        stack=_stack(seed),
        child=child,
        word=_own_word(seed),
        listen=pipe.reads,
    )


def _stack(seed: Seed) -> int:
    return seed.workspace.address + seed.workspace.size - 64


def _own_word(seed: Seed) -> int:
    """Where the seed finds that nobody else has put a status."""
    address = seed.workspace.address + seed.workspace.size - 32
    seed.memory.write(address, bytes(8))
    return address


def is_outside(pid: int) -> bool:
    """Whether a process is in our own pid namespace."""
    try:
        return namespace(pid, "pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return False


def namespace(pid: int, kind: str) -> str:
    """Which one a process is in, as by namespaces(7)."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def make_container(
    address: int,
    threads: int,
    argv: Sequence[str],
    warn: Callable[[str], None],
    handover: Handover,
    within: int | None = None,
) -> Container:
    """Plant a supervisor, and in new namespaces an init.

    Args:
        within: somebody in the container that the new one is to be in, if in any.

    Raises:
        RestoreError: this user may not have namespaces here, or not so many within each
            other (32, by pid_namespaces(7)).
    """
    with ExitStack() as on_error:
        supervisor = plant(address, threads, argv)
        on_error.callback(supervisor.kill)
        news = _make_pipe(supervisor)
        try:
            if within is None:
                _make_namespaces(supervisor)
                container = Container(supervisor, clone_seed(supervisor), news)
            else:
                container = _nest(supervisor, news, handover, within, on_error)
        except CallFailed as error:
            raise RestoreError(
                f"this user may not have a pid namespace here: {error.strerror}",
                "Run `jupyter cr check` to see what is missing and who can permit it.",
            ) from error
        on_error.callback(container.init.kill)
        _furnish(container, warn)
        on_error.pop_all()
    return container


def _furnish(container: Container, warn: Callable[[str], None]) -> None:
    supervisor, init, news = container.supervisor, container.init, container.news
    _require_own_namespaces(init)
    supervisor.thread.call("close", news.writes)
    init.thread.run(
        [
            Call("close", (news.reads,)),
            Call("prctl", (_PR_SET_PDEATHSIG, _SIGKILL)),
            Call("prlimit64", (0, _RLIMIT_CORE, bytes(16), 0)),
        ]
    )
    supervisor.thread.run([Call("prlimit64", (0, _RLIMIT_CORE, bytes(16), 0))])
    if not _mount_proc(init):
        warn(
            "The kernel has no /proc of its own here: programs in it that read /proc "
            "(psutil, for one) see the processes outside."
        )


def _nest(
    supervisor: Seed, news: _Pipe, handover: Handover, within: int, on_error: ExitStack
) -> Container:
    """A container in another one, to which a bridge leads: a pid namespace can only be made
    by somebody in the one around (pid_namespaces(7))."""
    thread = supervisor.thread
    hold = _make_pipe(supervisor)
    _enter(supervisor, handover, within)
    bridge = clone_seed(supervisor)
    on_error.callback(bridge.kill)
    anchor = clone_seed(bridge)
    on_error.callback(anchor.kill)
    _make_namespaces_within(bridge)
    init = clone_seed(bridge, exit_signal=0, flags=_CLONE_PARENT)
    on_error.callback(init.kill)
    bridge.kill()
    thread.call("wait4", bridge.outer_pid, 0, _WALL, 0)
    for pipe_end in (hold.reads, hold.writes):
        thread.call("close", pipe_end)
    for pipe_end in (news.reads, news.writes, hold.writes):
        anchor.thread.call("close", pipe_end)
    init.thread.call("close", hold.reads)
    return Container(supervisor, init, news, anchor, hold)


def _enter(supervisor: Seed, handover: Handover, within: int) -> None:
    """Have its children be in the namespaces of somebody."""
    kinds = {"user": _CLONE_NEWUSER, "pid": _CLONE_NEWPID}
    wanted = {
        kind: flag
        for kind, flag in kinds.items()
        if namespace(supervisor.outer_pid, kind) != namespace(within, kind)
    }
    fds = [os.open(f"/proc/{within}/ns/{kind}", os.O_RDONLY) for kind in wanted]
    try:
        theirs = handover.give(supervisor.thread, fds)
    finally:
        for fd in fds:
            os.close(fd)
    for fd, flag in zip(theirs, wanted.values(), strict=True):
        supervisor.thread.call("setns", fd, flag)
        supervisor.thread.call("close", fd)


def _make_pipe(seed: Seed) -> _Pipe:
    (made,) = seed.thread.run([Call("pipe2", (Out(8), 0))])
    return _Pipe(*struct.unpack("<ii", made.outs[0]))


def _require_own_namespaces(init: Seed) -> None:
    """What is mounted from here on must not be seen outside: whatever went wrong before, it
    ends here."""
    for kind in ("mnt", "pid"):
        if namespace(init.outer_pid, kind) == os.readlink(f"/proc/self/ns/{kind}"):
            raise EngineError(
                f"process {init.outer_pid} is not in a {kind} namespace of its own"
            )


def _mount_proc(init: Seed) -> bool:
    """Give the namespaces a /proc of their own, if that is permitted. First no mount may
    be seen outside any more (mount_namespaces(7), propagation): where that is refused, as
    container runtimes' profiles do, nothing is mounted."""
    slave = (0, b"/\0", 0, _MS_REC | _MS_SLAVE, 0)
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    proc = (b"proc\0", b"/proc\0", b"proc\0", flags, 0)
    return all(
        init.thread.run([Call("mount", arguments, optional=True)])[0].value >= 0
        for arguments in (slave, proc)
    )


def _make_namespaces(supervisor: Seed) -> None:
    thread = supervisor.thread
    if _may_make_namespaces():
        thread.call("unshare", _CLONE_NEWNS | _CLONE_NEWPID)
        return
    thread.call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID)
    for name, text in _identical_ids().items():
        Path(f"/proc/{supervisor.outer_pid}/{name}").write_text(text)


def _make_namespaces_within(bridge: Seed) -> None:
    """Where the one around has a user namespace, this one gets one as well: a twin has lost
    all rights in its own, but has them in one below that its user has made
    (user_namespaces(7)). Only somebody inside may say which ids it has."""
    if namespace(bridge.outer_pid, "user") == os.readlink("/proc/self/ns/user"):
        bridge.thread.call("unshare", _CLONE_NEWNS | _CLONE_NEWPID)
        return
    bridge.thread.call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID)
    for name, text in _identical_ids().items():
        content = text.encode()
        path = f"/proc/self/{name}\0".encode()
        fd = bridge.thread.call("openat", 0, path, os.O_WRONLY, 0)
        bridge.thread.call("write", fd, content, len(content))
        bridge.thread.call("close", fd)


def _identical_ids() -> dict[str, str]:
    """What is to be written to files of /proc/PID: our ids are the same inside."""
    return {
        "setgroups": "deny",
        "uid_map": f"{os.geteuid()} {os.geteuid()} 1",
        "gid_map": f"{os.getegid()} {os.getegid()} 1",
    }


_CAP_SYS_ADMIN = 21


def _may_make_namespaces() -> bool:
    return bool(read_status("self").cap_effective >> _CAP_SYS_ADMIN & 1)
