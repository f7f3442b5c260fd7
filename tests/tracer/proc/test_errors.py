"""All readers fail alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jupyter_cr.errors import NoSuchProcess, Unsupported
from jupyter_cr.tracer.proc import read_proc
from jupyter_cr.tracer.proc.maps import read_maps, read_smaps, vm_flags
from jupyter_cr.tracer.proc.pagemap import open_pagemap, scan_pages
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.proc.tasks import (
    auxv,
    exe_path,
    list_children,
    list_threads,
    namespaces,
)
from jupyter_cr.tracer.proc.timers import read_posix_timers

READERS: tuple[Callable[[int], object], ...] = (
    read_maps,
    read_smaps,
    vm_flags,
    open_pagemap,
    lambda pid: scan_pages(pid, 0x10000, 0x20000),
    read_status,
    lambda pid: read_status(pid, pid),
    read_stat,
    lambda pid: read_stat(pid, pid),
    list_threads,
    list_children,
    auxv,
    exe_path,
    namespaces,
    read_posix_timers,
)
PRIVILEGED: tuple[Callable[[int], object], ...] = (
    read_maps,
    read_smaps,
    vm_flags,
    open_pagemap,
    auxv,
    exe_path,
    namespaces,
)


@pytest.mark.parametrize("read", READERS)
def test_reaped_process(start, read):
    program = start()
    program.reap()
    with pytest.raises(NoSuchProcess, match=rf"\b{program.pid}\b"):
        read(program.pid)


def test_thread_that_is_not_there(start):
    program, other = start(), start()
    with pytest.raises(
        NoSuchProcess, match=rf"thread {other.pid} of process {program.pid}"
    ):
        read_status(program.pid, other.pid)


def test_zombie(start):
    program = start()
    program.end()
    assert read_stat(program.pid).state == "Z"
    assert read_status(program.pid).state == "Z"
    assert read_maps(program.pid) == []
    with pytest.raises(NoSuchProcess, match=f"process {program.pid} has ended"):
        exe_path(program.pid)


@pytest.mark.parametrize("read", PRIVILEGED)
def test_not_permitted(start, stranger, read):
    program = start(
        "import ctypes\n"
        "PR_SET_DUMPABLE = 4\n"
        "ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)\n"
        "tell(None)"
    )
    said = stranger(lambda: read(program.pid))
    assert said.startswith(f"PermissionDenied\nprocess {program.pid}: not permitted")
    assert "CAP_SYS_PTRACE" in said


def test_file_that_linux_lacks(start):
    program = start()
    with pytest.raises(Unsupported, match="no /proc/PID/no_such_file"):
        read_proc(program.pid, "no_such_file")
