"""What is looked up before the tree is frozen, so that it costs no downtime.

All of it may be outdated a moment later. What matters is checked again while the
tree is frozen, or on the twins: see `Survey.is_outdated`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from jupyter_cr.errors import TargetError, Unsupported, UsageError
from jupyter_cr.tracer.injection import Gadgets, find_gadgets
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.maps import Mapping, read_maps, vm_flags
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.tasks import list_children

__all__ = ["ProcessSurvey", "Survey", "survey_process", "survey_tree"]


@dataclass(frozen=True)
class ProcessSurvey:
    """VmFlags by start address, and code to make the first call with."""

    flags: dict[int, frozenset[str]]
    gadgets: Gadgets


@dataclass
class Survey:
    """By pid as we see it."""

    processes: dict[int, ProcessSurvey] = field(default_factory=dict)

    def of(self, pid: int, memory: Memory, maps: Sequence[Mapping]) -> ProcessSurvey:
        """That of a process, made now if it is new or has executed another program."""
        known = self.processes.get(pid)
        if known is None or not known.gadgets.still_there(memory):
            known = ProcessSurvey(vm_flags(pid), find_gadgets(memory, maps))
            self.processes[pid] = known
        return known


def survey_tree(root: int) -> Survey:
    """Look at the tree of process `root`. What cannot be looked at now is looked at
    when it is frozen.

    Raises:
        NoSuchProcess, PermissionDenied: it cannot be looked at.
        UsageError: we are part of it.
    """
    _refuse_own_tree(root)
    survey = Survey()
    pending = [root]
    while pending:
        pid = pending.pop()
        try:
            if read_stat(pid).state != "Z":
                survey.processes[pid] = survey_process(pid)
            pending += list_children(pid)
        except TargetError:
            if pid == root:
                raise
        except Unsupported:
            # One that is ending or executing a program has no mappings for a moment.
            continue
    return survey


def survey_process(pid: int) -> ProcessSurvey:
    """Look at one process."""
    with Memory(pid) as memory:
        return ProcessSurvey(vm_flags(pid), find_gadgets(memory, read_maps(pid)))


def _refuse_own_tree(root: int) -> None:
    pid = os.getpid()
    while pid > 1:
        if pid == root:
            raise UsageError(
                f"process {root} cannot be checkpointed from inside its own tree",
                "Run the command from another terminal, not from the kernel itself.",
            )
        pid = read_stat(pid).ppid
