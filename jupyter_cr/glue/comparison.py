"""How two snapshots differ, for people: in a terminal, and in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from jupyter_cr.comparing import (
    Comparison,
    DocumentDifference,
    MemoryDifference,
    ProcessDifference,
    VariableDifference,
    VariablesDifference,
    interesting,
    notable,
)
from jupyter_cr.kernels.inspection import Variable

__all__ = ["Differences", "show_comparison"]

_WIDTH = 120

_MARKS = {
    "added": "[green]+[/]",
    "removed": "[red]-[/]",
    "changed": "[yellow]~[/]",
    "unknown": "[dim]?[/]",
}


class Differences:
    """What `jupyter_cr.diff` gives: shown as text.

    Attributes:
        comparison: all that was found.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    def __repr__(self) -> str:
        file = StringIO()
        out = Console(file=file, width=_WIDTH, color_system=None, force_jupyter=False)
        show_comparison(self.comparison, out)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def show_comparison(found: Comparison, out: Console) -> None:
    """Whatever differs, most wanted first; a line for each thing that does not."""
    after = found.after or "what runs now"
    out.print(f"[bold]{escape(found.before)}[/] -> [bold]{escape(after)}[/]")
    for line in (
        *_variables(found.variables),
        *_document(found.document),
        *_processes(found.processes),
        *_memory(found.memory),
    ):
        out.print(line)


def _variables(found: VariablesDifference) -> Iterator[str | Table]:
    if found.problem:
        yield f"[bold]variables[/]: {escape(found.problem)}"
        return
    same = f"{found.same} the same"
    if found.left_out:
        same += f", {found.left_out} not looked at"
    yield f"[bold]variables[/]: {len(found.differences)} differ, {same}"
    if not found.differences:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    for difference in found.differences:
        table.add_row(
            f"  {_MARKS[difference.change]}",
            f"[bold]{escape(difference.name)}[/]",
            escape(_both(_kind, difference)),
            escape(_both(_value, difference)),
        )
    yield table
    if any(difference.change == "unknown" for difference in found.differences):
        yield "  [dim]?: nobody can tell whether it is the same[/]"


def _both(what: object, difference: VariableDifference) -> str:
    assert callable(what)
    told = [what(each) for each in (difference.before, difference.after) if each]
    return str(told[0]) if len({*told}) == 1 else " -> ".join(told)


def _kind(variable: Variable) -> str:
    short = variable.type.rpartition(".")[2]
    return f"{short} ({variable.shape})" if variable.shape else short


def _value(variable: Variable) -> str:
    return variable.value


def _document(found: DocumentDifference) -> Iterator[str]:
    if found.problem:
        yield f"[bold]notebook[/]: {escape(found.problem)}"
        return
    if not found.cells and not found.text.strip():
        yield "[bold]notebook[/]: the same"
        return
    count = len(found.cells)
    cells = "1 cell" if count == 1 else f"{count} cells"
    yield f"[bold]notebook[/]: {cells} with another source"
    for cell in found.cells:
        yield f"  {_MARKS[cell.change]} {escape(cell.source)}"
        for line in cell.diff:
            style = {"+": "green", "-": "red"}.get(line[:1], "dim")
            yield f"      [{style}]{escape(line)}[/]"
    if not found.text:
        yield "  [dim]Outputs and metadata: pip install nbdime[/]"


def _processes(found: tuple[ProcessDifference, ...]) -> Iterator[str]:
    shown = interesting(found)
    if not shown:
        yield "[bold]processes and files[/]: the same"
        return
    yield "[bold]processes and files[/]"
    for difference in shown:
        mark = _MARKS[difference.change]
        more = []
        if difference.threads:
            more.append("{} -> {} threads".format(*difference.threads))
        if difference.state:
            more.append("{} -> {}".format(*difference.state))
        told = f": {', '.join(more)}" if more else ""
        yield f"  {mark} process {difference.pid} {escape(difference.name)}{told}"
        for sign, files in (("+", difference.opened), ("-", difference.closed)):
            for file in notable(files):
                style = "green" if sign == "+" else "red"
                yield f"      [{style}]{sign}[/] {file.fd}: {escape(file.what)}"


def _memory(found: MemoryDifference) -> Iterator[str]:
    if found.problem:
        yield f"[bold]memory[/]: {escape(found.problem)}"
        return
    yield (
        f"[bold]memory[/]: {decimal(found.changed)} changed, {decimal(found.added)} added, "
        f"{decimal(found.removed)} removed, {decimal(found.same)} the same"
    )
