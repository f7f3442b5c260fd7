"""Results, for people: tables where there are rows, sentences where there are none."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from jupyter_cr.store.older import older_lines

if TYPE_CHECKING:
    from pathlib import Path

    from jupyter_cr.bundles import ImportResult
    from jupyter_cr.engine.describe import ProcessDescription, SnapshotDescription
    from jupyter_cr.image.records import CellFacts, ProcessOutcome
    from jupyter_cr.lessons import LessonInfo
    from jupyter_cr.operations import (
        CheckpointResult,
        RestoreResult,
        SnapshotDetails,
        VerifyResult,
    )
    from jupyter_cr.store import Freed, Pruned, Snapshot
    from jupyter_cr.store.transfer import Transferred
    from jupyter_cr.tracer.capabilities import Capabilities

__all__ = [
    "console",
    "show_capabilities",
    "show_checkpoint",
    "show_details",
    "show_forked",
    "show_freed",
    "show_imported",
    "show_kept",
    "show_list",
    "show_older",
    "show_pruned",
    "show_pulled",
    "show_pushed",
    "show_restored",
    "show_tree",
    "show_twins",
    "show_verified",
    "size",
]

_STATE_STYLES = {
    "saving": "cyan",
    "live": "cyan",
    "memory": "cyan",
    "warm": "green",
    "durable": "",
    "corrupt": "red",
    "future": "yellow",
    "locked": "yellow",
}
_PIPE_WIDTH = 160
_COMMAND_LENGTH = 100


def console() -> Console:
    """Where results are shown."""
    # In a pipe, rich would wrap at 80 columns.
    return Console(
        highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH
    )


def _table(*columns: str, right: Iterable[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table


def size(count: int) -> str:
    """Bytes, for people."""
    left = float(count)
    for unit in ("B", "KiB", "MiB"):
        if left < 1024:
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"
        left /= 1024
    return f"{left:.2f} GiB"


def _time(iso: str) -> str:
    try:
        return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return iso


def show_capabilities(found: Capabilities) -> None:
    """What there is, and the advice for what there is not."""
    out = console()
    table = _table("", "capability", "needed for", "found")
    for item in found.items:
        mark = "[green]yes[/]" if item.ok else "[red]no[/]"
        table.add_row(
            mark, escape(item.name), escape(item.required_for), escape(item.detail)
        )
    out.print(table)
    for item in found.items:
        if not item.ok and item.advice:
            out.print(f"[bold]{escape(item.name)}[/]: {escape(item.advice)}")


def _processes(processes: Sequence[ProcessOutcome]) -> Table:
    right = ("pid", "threads", "descriptors", "memory")
    table = _table("pid", "process", "threads", "descriptors", "memory", right=right)
    for process in processes:
        table.add_row(
            str(process.pid),
            escape(process.comm),
            str(process.threads),
            str(process.descriptors),
            size(process.bytes),
        )
    return table


def show_checkpoint(result: CheckpointResult) -> None:
    """Its name, what it cost, and what was taken."""
    out = console()
    count = len(result.processes)
    what = "1 process" if count == 1 else f"{count} processes"
    out.print(
        f"Snapshot [bold]{escape(result.name)}[/] is {result.state}: "
        f"{size(result.bytes)} of {what}"
    )
    out.print(
        f"Downtime {result.downtime_ms:.1f} ms, durable after {result.elapsed_ms:.0f} ms"
    )
    out.print(_processes(result.processes))


def show_hibernation(result: CheckpointResult) -> None:
    """What was saved, and how it goes on."""
    show_checkpoint(result)
    console().print(
        f"It has been ended. To go on: jupyter cr restore {escape(result.name)}"
    )


def show_list(snapshots: Sequence[Snapshot]) -> None:
    """A line for each snapshot, or a sentence that there are none."""
    out = console()
    if not snapshots:
        out.print("No snapshots yet. Take one with: jupyter cr checkpoint TARGET")
        return
    right = ("size", "processes")
    table = _table(
        "name", "state", "taken", "size", "processes", "kernel", "tags", "note", right=right
    )
    for snapshot in snapshots:
        table.add_row(
            escape(snapshot.name),
            _state(snapshot),
            _time(snapshot.created),
            size(snapshot.bytes),
            str(snapshot.processes or ""),
            escape(snapshot.kernel_name or snapshot.comm),
            escape(" ".join(snapshot.tags)),
            escape(snapshot.note or snapshot.problem or snapshot.automatic),
        )
    out.print(table)


def show_imported(result: ImportResult) -> None:
    """What came from elsewhere, who has sent it, and what it lacks here."""
    out = console()
    who = escape(result.signer_name or result.signer)
    out.print(f"Snapshot [bold]{escape(result.name)}[/] is here, signed by {who}")
    if not result.trusted:
        out.print(
            "It is not restored before you say that you trust it: to restore it is to run "
            f"its code.\n  jupyter cr trust {escape(result.name)}"
        )
    if result.missing:
        out.print("A restore needs what is not here:")
    for sentence in (*result.missing, *result.warnings):
        out.print(f"  {escape(sentence)}")


def _state(snapshot: Snapshot) -> str:
    text: str = snapshot.state
    if not snapshot.trusted:
        text = f"{text}, not trusted"
    if snapshot.state in ("saving", "live"):
        text = f"{text} {snapshot.saved:.0%}"
    style = _STATE_STYLES[snapshot.state]
    return f"[{style}]{text}[/]" if style else text


def show_tree(snapshots: Sequence[Snapshot]) -> None:
    """Each below the one that its kernel was at when it was taken."""
    if not snapshots:
        show_list(snapshots)
        return
    top = Tree("[bold]snapshots[/]", hide_root=True)
    branches: dict[str, Tree] = {}
    # Mostly oldest first, as they are; but what its clock says is a machine's own business.
    waiting = list(snapshots)
    names = {snapshot.name for snapshot in snapshots}
    while waiting:
        ready = [s for s in waiting if s.parent not in names or s.parent in branches]
        # A ring can only be in a catalogue that somebody has edited.
        for snapshot in ready or waiting:
            above = branches.get(snapshot.parent, top)
            branches[snapshot.name] = above.add(_tree_line(snapshot))
        waiting = [snapshot for snapshot in waiting if snapshot.name not in branches]
    console().print(top)


def _tree_line(snapshot: Snapshot) -> str:
    words = [_state(snapshot), _time(snapshot.created), size(snapshot.bytes)]
    words += [f"[cyan]{escape(tag)}[/]" for tag in snapshot.tags]
    text = snapshot.note or snapshot.problem or snapshot.automatic
    if text:
        words.append(f"[dim]{escape(text)}[/]")
    return f"[bold]{escape(snapshot.name)}[/] {' '.join(words)}"


def show_twins(count: int, cost: int) -> None:
    """What those snapshots cost that are in memory."""
    are = "1 snapshot is" if count == 1 else f"{count} snapshots are"
    console().print(f"{are} in memory; that takes {size(cost)}")


def show_older(root: Path, names: Sequence[str]) -> None:
    """That there are snapshots which cannot be read: beside the table, not in it."""
    if names:
        console = Console(highlight=False, soft_wrap=True, stderr=True)
        for line in older_lines(root, names):
            console.print(escape(line))


def show_freed(freed: Freed) -> None:
    """How much room there is more."""
    out = console()
    for name in freed.found:
        out.print(f"Found again: [bold]{escape(name)}[/]")
    gone = [name for name in freed.names if name not in freed.held]
    if gone:
        out.print(f"Removed: {escape(', '.join(gone))}")
    for name in freed.held:
        out.print(
            f"[yellow]Note:[/] {escape(name)} is being read, and goes when that ends."
        )
    out.print(f"Freed {size(freed.bytes)}")


def show_pruned(pruned: Pruned) -> None:
    """What a policy has removed, or would remove."""
    out = console()
    verb = "Would be removed" if pruned.dry_run else "Removed"
    for snapshot in pruned.removed:
        out.print(
            f"{verb}: [bold]{escape(snapshot.name)}[/], {_time(snapshot.created)}, "
            f"{size(snapshot.own)}"
        )
    freed = f"{size(pruned.bytes)} {'would be freed' if pruned.dry_run else 'freed'}"
    out.print(f"{len(pruned.removed)} go, {pruned.kept} stay, {freed}")


def show_pushed(result: Transferred) -> None:
    """What it is called there, and how much of it had to be sent."""
    _show_transferred(f"{result.source} is at {result.url}", result, "sent")


def show_lessons(lessons: Sequence[LessonInfo]) -> None:
    """One line each."""
    if not lessons:
        console().print("No lessons are published.")
        return
    table = _table("lesson", "by", "published", "memory", "started", "note", right=[])
    for lesson in lessons:
        publisher = escape(lesson.publisher)
        table.add_row(
            f"[bold]{escape(lesson.title)}[/]",
            publisher if lesson.trusted else f"{publisher} (not trusted yet)",
            _time(lesson.published),
            size(lesson.bytes),
            "unknown" if lesson.starts is None else str(lesson.starts),
            escape(lesson.note),
        )
    console().print(table)


def show_kept(snapshot: Snapshot) -> None:
    """What it is called, and what it takes."""
    console().print(f"[bold]{escape(snapshot.name)}[/] is on disk: {size(snapshot.bytes)}")


def show_pulled(result: Transferred) -> None:
    """What it is called here, and how much of it had to be fetched."""
    _show_transferred(f"{result.source} of {result.url} is here", result, "fetched")
    if not result.trusted:
        console().print(
            "[yellow]Note:[/] it is restored only if you trust it: jupyter cr trust "
            f"{escape(result.name)}"
        )


def _show_transferred(what: str, result: Transferred, verb: str) -> None:
    alias = f" as {result.name}" if result.name != result.source else ""
    console().print(
        f"Snapshot {escape(what + alias)}: {size(result.bytes)} {verb} for "
        f"{size(result.logical)} of memory, in {result.elapsed_ms:.0f} ms",
        soft_wrap=True,
    )


def show_details(details: SnapshotDetails) -> None:
    """What a snapshot is, where it was taken, and all that is in it."""
    out = console()
    header, snapshot = details.header, details.snapshot
    rows = [
        ("name", snapshot.name),
        ("state", snapshot.state),
        ("taken", _time(header.created)),
        ("after", snapshot.parent),
        ("tags", " ".join(snapshot.tags)),
        ("note", snapshot.note),
        ("last cell", _cell(header.notebook.last_cell)),
        ("running cell", _cell(header.notebook.running_cell)),
        ("size", size(snapshot.bytes)),
        ("target", f"pid {header.pid} ({header.comm})"),
        ("kernel", header.kernel.kernel_name),
        ("connection", header.kernel.connection_file),
        ("host", f"Linux {header.release} {header.machine}"),
        ("written by", f"jupyter-cr {header.tool}"),
    ]
    if details.outcome:
        rows.append(("downtime", f"{details.outcome.downtime_ms:.1f} ms"))
    grid = Table.grid(padding=(0, 2))
    for label, value in rows:
        if value:
            grid.add_row(f"[bold]{label}[/]", escape(value))
    out.print(grid)
    content = details.content
    if content.processes:
        out.print()
        out.print(_process_tree(content.processes))
        out.print(_memory(content))
    elif details.outcome:
        out.print()
        out.print(_processes(details.outcome.processes))
    for process in content.processes:
        if process.descriptors:
            out.print(_descriptors(process))


def _cell(cell: CellFacts | None) -> str:
    return f"[{cell.number}] {cell.source}" if cell else ""


def _process_tree(processes: Sequence[ProcessDescription]) -> Tree:
    pids = {process.pid for process in processes}
    top = Tree("[bold]processes[/]")
    branches: dict[int, Tree] = {}
    for process in processes:
        parent = branches[process.ppid] if process.ppid in pids else top
        branches[process.pid] = parent.add(_process_line(process))
    return top


def _process_line(process: ProcessDescription) -> str:
    command = shlex.join(process.command)
    if len(command) > _COMMAND_LENGTH:
        command = command[:_COMMAND_LENGTH] + "..."
    count = len(process.threads)
    threads = "" if process.state == "zombie" else f", {count} thread{'s' * (count != 1)}"
    return (
        f"[bold]{process.pid}[/] {escape(process.name)} ({process.state}{threads}) "
        f"[dim]{escape(command)}[/]"
    )


def _memory(content: SnapshotDescription) -> Table:
    right = ("pid", "mappings", "virtual", "stored")
    table = _table("pid", "memory", "mappings", "virtual", "stored", right=right)
    for process in content.processes:
        for memory in process.memory:
            table.add_row(
                str(process.pid),
                memory.kind,
                str(memory.mappings),
                size(memory.virtual),
                size(memory.stored),
            )
    for shared in content.shared:
        name = f"shared: {escape(shared.name)}"
        table.add_row("", name, "", size(shared.size), size(shared.stored))
    table.add_row("", "[bold]total[/]", "", "", size(content.stored))
    return table


def _descriptors(process: ProcessDescription) -> Table:
    table = _table("fd", "kind", "what", right=("fd",))
    table.title = f"descriptors of {process.pid} {escape(process.name)}"
    table.title_justify = "left"
    for descriptor in process.descriptors:
        table.add_row(str(descriptor.fd), descriptor.kind, escape(descriptor.what))
    return table


def show_verified(result: VerifyResult) -> None:
    """That all is well, or what is not."""
    name = f"Snapshot [bold]{escape(result.name)}[/]"
    if result.problem:
        console().print(f"{name} is [red]damaged[/]: {escape(result.problem)}")
    else:
        console().print(
            f"{name} is sound: {size(result.bytes)} checked in {result.elapsed_ms:.0f} ms"
        )


def show_restored(result: RestoreResult) -> None:
    """Where the tree is now."""
    _show_running(f"Snapshot [bold]{escape(result.name)}[/] runs again", result)


def show_forked(result: RestoreResult) -> None:
    """Where the fork is, and how to talk to it."""
    _show_running(f"A fork of [bold]{escape(result.name)}[/] runs", result)
    if result.connection_file:
        console().print(
            f"jupyter console --existing {escape(result.connection_file)}", soft_wrap=True
        )


def _show_running(sentence: str, result: RestoreResult) -> None:
    out = console()
    out.print(f"{sentence} as process {result.pid}, after {result.elapsed_ms:.0f} ms")
    for warning in result.warnings:
        out.print(f"[yellow]Note:[/] {escape(warning)}")
