"""Where a rebuilt tree lives: a pid namespace, with the processes that keep it.

::

    supervisor              our child, outside; ends as the root has ended
    └── init                pid 1 inside: reaps whatever is left behind
        └── stand-in        has the pid that the root's parent had, so that
            └── root        getppid() says what it said

An ordinary user gets a user namespace around it, in which the ids are the same. Where
it is permitted the namespace has a /proc of its own: without one, whatever reads
/proc/<own pid> would read of somebody else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jupyter_cr.engine.seed import Seed, clone_seed, plant
from jupyter_cr.errors import CheckpointRestoreError, RestoreError
from jupyter_cr.tracer.arch import x86_64 as arch
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.remote import CallFailed

__all__ = ["Container", "make_container"]

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
_MS_REC, _MS_SLAVE = 0x4000, 0x80000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_PROT_READ_WRITE, _MAP_SHARED_ANONYMOUS = 3, 0x21
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_NO_FD = (1 << 64) - 1
_RLIMIT_CORE = 4


@dataclass
class Container:
    """`word`: where the wait status of init's child is put, in memory that init and the
    supervisor share: pid 1 cannot end by a signal, as the root may have."""

    supervisor: Seed
    init: Seed
    word: int

    def release(self, parent: Seed, root: int, *, tied: bool) -> None:
        """Let the keepers go and do what they are for: `parent` (maybe init itself)
        waits for its child `root`, init for `parent`, the supervisor for init. With
        `tied`, all of them still die with us."""
        waiting = [(self.supervisor, self.init.outer_pid, self.word, True)]
        if parent is self.init:
            waiting.append((self.init, root, self.word, False))
        else:
            waiting.append((self.init, parent.pid, self.word, False))
            waiting.append((parent, root, _own_word(parent), True))
        if not tied:
            self.supervisor.thread.call("prctl", _PR_SET_PDEATHSIG, 0)
        for seed, child, word, imitate in waiting:
            workspace = seed.workspace
            tracee = seed.thread.tracee
            tracee.registers = arch.reap_registers(
                tracee.registers,
                code=workspace.address,
                stack=workspace.address + workspace.size - 64,
                child=child,
                word=word,
                imitate=imitate,
            )
            tracee.signal_mask = 0
        for seed, *_ in waiting:
            seed.thread.tracee.detach()
            seed.memory.close()


def _own_word(seed: Seed) -> int:
    """Where the seed finds that nobody else has put a status."""
    address = seed.workspace.address + seed.workspace.size - 32
    seed.memory.write(address, bytes(8))
    return address


def make_container(
    address: int, threads: int, argv: Sequence[str], warn: Callable[[str], None]
) -> Container:
    """Plant a supervisor, and in new namespaces an init.

    Raises:
        RestoreError: this user may not have namespaces here.
    """
    supervisor = plant(address, threads, argv)
    try:
        return _furnish(supervisor, warn)
    except CheckpointRestoreError:
        supervisor.kill()
        raise


def _furnish(supervisor: Seed, warn: Callable[[str], None]) -> Container:
    thread = supervisor.thread
    try:
        _enter_namespaces(supervisor)
    except CallFailed as error:
        raise RestoreError(
            f"this user may not have a pid namespace here: {error.strerror}",
            "Run `jupyter cr check` to see what is missing and who can permit it.",
        ) from error
    word = thread.call(
        "mmap", 0, arch.PAGE, _PROT_READ_WRITE, _MAP_SHARED_ANONYMOUS, _NO_FD, 0
    )
    thread.run([Call("prlimit64", (0, _RLIMIT_CORE, bytes(16), 0))])
    init = clone_seed(supervisor)
    init.thread.call("prctl", _PR_SET_PDEATHSIG, _SIGKILL)
    if not _mount_proc(init):
        warn(
            "The kernel has no /proc of its own here: programs in it that read /proc "
            "(psutil, for one) see the processes outside."
        )
    return Container(supervisor, init, word)


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


def _enter_namespaces(supervisor: Seed) -> None:
    thread = supervisor.thread
    if _may_make_namespaces():
        thread.call("unshare", _CLONE_NEWNS | _CLONE_NEWPID)
        return
    thread.call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID)
    root = Path(f"/proc/{supervisor.outer_pid}")
    (root / "setgroups").write_text("deny")
    for name, number in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
        (root / name).write_text(f"{number} {number} 1")


_CAP_SYS_ADMIN = 21


def _may_make_namespaces() -> bool:
    return bool(read_status("self").cap_effective >> _CAP_SYS_ADMIN & 1)
