"""How two snapshots differ: variables, the notebook, processes and their files, memory."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from jupyter_cr.engine import pages
from jupyter_cr.engine.describe import (
    DescriptorDescription,
    ProcessDescription,
    describe_snapshot,
)
from jupyter_cr.engine.streams import PAGE
from jupyter_cr.errors import CheckpointRestoreError
from jupyter_cr.image import Document
from jupyter_cr.kernels.inspection import Inside, Variable, look_inside
from jupyter_cr.store import Store
from jupyter_cr.store.reader import StoredReader

__all__ = [
    "CellDifference",
    "Comparison",
    "DocumentDifference",
    "MemoryDifference",
    "ProcessDifference",
    "VariableDifference",
    "VariablesDifference",
    "compare_snapshots",
    "interesting",
    "notable",
]

Change = Literal["added", "removed", "changed", "unknown"]
"""``unknown``: there before and after, and nobody can tell whether it is the same."""


class VariableDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One variable that is not the same, or may not be."""

    name: str
    change: Change
    before: Variable | None = None
    after: Variable | None = None


class VariablesDifference(msgspec.Struct, frozen=True, kw_only=True):
    """All that are not the same, and how many are."""

    differences: tuple[VariableDifference, ...] = ()
    same: int = 0
    problem: str = ""
    """Why they could not be compared, as a sentence."""
    left_out: int = 0
    """Of either: there were too many."""


class CellDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of the notebook."""

    id: str
    change: Literal["added", "removed", "changed"]
    source: str
    """The first line."""
    diff: tuple[str, ...] = ()
    """Lines of the sources' difference, each with ``+``, ``-`` or a space before it."""


class DocumentDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Of the notebooks that were saved with them."""

    cells: tuple[CellDifference, ...] = ()
    text: str = ""
    """All of it, as nbdime tells it; empty where that is not installed."""
    problem: str = ""


class ProcessDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One process, by its own pid."""

    pid: int
    name: str
    change: Literal["added", "removed", "changed"]
    state: tuple[str, str] | None = None
    """Before and after, if that is not the same."""
    threads: tuple[int, int] | None = None
    """How many."""
    opened: tuple[DescriptorDescription, ...] = ()
    closed: tuple[DescriptorDescription, ...] = ()


class MemoryDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of private memory, of all processes that are in both."""

    changed: int = 0
    """At addresses where there was some before."""
    added: int = 0
    removed: int = 0
    same: int = 0
    problem: str = ""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How the second of two snapshots differs from the first."""

    before: str
    after: str
    variables: VariablesDifference
    document: DocumentDifference
    processes: tuple[ProcessDifference, ...]
    memory: MemoryDifference


def compare_snapshots(
    before: str, after: str, *, variables: bool = True, store: Store | None = None
) -> Comparison:
    """Compare two snapshots of one store.

    Args:
        variables: look at them, in forks that are thrown away.

    Raises:
        NoSuchSnapshot: there is none of one of the names.
        CorruptImage: one is damaged.
    """
    store = store or Store()
    with store.open(before) as first, store.open(after) as second:
        found = VariablesDifference(problem="They were not looked at.")
        if variables:
            found = _compare_variables(look_inside(first), look_inside(second))
        return Comparison(
            before=first.name,
            after=second.name,
            variables=found,
            document=_compare_documents(first, second),
            processes=tuple(_compare_processes(first, second)),
            memory=_compare_memory(first, second),
        )


def _compare_variables(first: Inside, second: Inside) -> VariablesDifference:
    if problem := first.problem or second.problem:
        return VariablesDifference(problem=problem)
    before = {variable.name: variable for variable in first.variables}
    after = {variable.name: variable for variable in second.variables}
    differences = []
    same = 0
    for name in sorted({*before, *after}):
        change = _change(before.get(name), after.get(name))
        if change is None:
            same += 1
        else:
            differences.append(
                VariableDifference(
                    name=name,
                    change=change,
                    before=before.get(name),
                    after=after.get(name),
                )
            )
    return VariablesDifference(
        differences=tuple(differences),
        same=same,
        left_out=max(first.left_out, second.left_out),
    )


def _change(before: Variable | None, after: Variable | None) -> Change | None:
    if before is None:
        return "added"
    if after is None:
        return "removed"
    if (before.type, before.shape) != (after.type, after.shape):
        return "changed"
    if before.digest and after.digest:
        return None if before.digest == after.digest else "changed"
    return "unknown" if before.value == after.value else "changed"


def _compare_documents(first: StoredReader, second: StoredReader) -> DocumentDifference:
    contents = [_document(reader) for reader in (first, second)]
    if contents == [None, None]:
        return DocumentDifference(problem="Neither has a notebook.")
    for reader, content in zip((first, second), contents, strict=True):
        if content is None:
            return DocumentDifference(problem=f"There is no notebook in {reader.name}.")
    before, after = (content or {} for content in contents)
    return DocumentDifference(
        cells=tuple(_compare_cells(before, after)),
        text=_told_by_nbdime(first.name, second.name, before, after),
    )


def _document(reader: StoredReader) -> dict[str, Any] | None:
    for record in reader.records(Document):
        found: dict[str, Any] = msgspec.json.decode(record.content, type=dict[str, Any])
        return found
    return None


def _compare_cells(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[CellDifference]:
    """By their ids, which notebooks have since format 4.5."""
    former = {_cell_id(c, n): _source(c) for n, c in enumerate(before.get("cells", ()))}
    latter = {_cell_id(c, n): _source(c) for n, c in enumerate(after.get("cells", ()))}
    for cell, source in former.items():
        if cell not in latter:
            yield CellDifference(id=cell, change="removed", source=_first_line(source))
    for cell, source in latter.items():
        if cell not in former:
            yield CellDifference(id=cell, change="added", source=_first_line(source))
        elif source != former[cell]:
            lines = difflib.ndiff(former[cell].splitlines(), source.splitlines())
            yield CellDifference(
                id=cell,
                change="changed",
                source=_first_line(source),
                diff=tuple(f"{line[0]} {line[2:]}" for line in lines if line[0] != "?"),
            )


def _cell_id(cell: Mapping[str, Any], number: int) -> str:
    return str(cell.get("id") or f"number {number + 1}")


def _source(cell: Mapping[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _first_line(source: str) -> str:
    return source.strip().partition("\n")[0]


def _told_by_nbdime(
    name: str, other: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> str:
    try:
        import nbformat
        from nbdime import diff_notebooks
        from nbdime.prettyprint import PrettyPrintConfig, pretty_print_notebook_diff
    except ImportError:
        return ""
    # It has no types.
    make: Any = nbformat.from_dict
    one, two = (make(dict(each)) for each in (before, after))
    out = io.StringIO()
    config = PrettyPrintConfig(out=out, use_color=False, use_git=False, use_diff=False)
    pretty_print_notebook_diff(name, other, one, diff_notebooks(one, two), config)
    return out.getvalue()


def _compare_processes(
    first: StoredReader, second: StoredReader
) -> Iterator[ProcessDifference]:
    before = {process.pid: process for process in describe_snapshot(first).processes}
    after = {process.pid: process for process in describe_snapshot(second).processes}
    for pid in sorted({*before, *after}):
        one, two = before.get(pid), after.get(pid)
        if one is None or two is None:
            there = one or two
            assert there is not None
            yield ProcessDifference(
                pid=pid, name=there.name, change="removed" if two is None else "added"
            )
        elif (difference := _compare_process(one, two)) is not None:
            yield difference


_OWN_KINDS = ("eventfd", "epoll")
"""What libraries have for themselves, of which nobody wants to hear a count."""


def _compare_process(
    one: ProcessDescription, two: ProcessDescription
) -> ProcessDifference | None:
    had = {_key(descriptor): descriptor for descriptor in one.descriptors}
    has = {_key(descriptor): descriptor for descriptor in two.descriptors}
    difference = ProcessDifference(
        pid=one.pid,
        name=two.name,
        change="changed",
        state=(one.state, two.state) if one.state != two.state else None,
        threads=(
            (len(one.threads), len(two.threads))
            if len(one.threads) != len(two.threads)
            else None
        ),
        opened=_only_in(has, had),
        closed=_only_in(had, has),
    )
    is_same = not (difference.opened or difference.closed)
    if is_same and difference.state is None and difference.threads is None:
        return None
    return difference


def _key(descriptor: DescriptorDescription) -> tuple[int, str, str]:
    what = "" if descriptor.kind in _OWN_KINDS else descriptor.what
    return descriptor.fd, descriptor.kind, what


def _only_in(
    these: Mapping[tuple[int, str, str], DescriptorDescription],
    others: Mapping[tuple[int, str, str], DescriptorDescription],
) -> tuple[DescriptorDescription, ...]:
    return tuple(each for key, each in these.items() if key not in others)


def _compare_memory(first: StoredReader, second: StoredReader) -> MemoryDifference:
    if not (first.is_complete and second.is_complete):
        return MemoryDifference(problem="The memory of one is not, or not yet, on disk.")
    changed = added = removed = same = 0
    try:
        before, after = _pages_of(first), _pages_of(second)
        for pid in before.keys() & after.keys():
            one, two = before[pid], after[pid]
            added += len(two.keys() - one.keys())
            removed += len(one.keys() - two.keys())
            for address in one.keys() & two.keys():
                if _is_same(first, one[address], second, two[address]):
                    same += 1
                else:
                    changed += 1
    except CheckpointRestoreError as error:
        return MemoryDifference(problem=error.message)
    return MemoryDifference(
        changed=changed * PAGE, added=added * PAGE, removed=removed * PAGE, same=same * PAGE
    )


_Place = tuple[str, int]
"""(pack, page there); an empty name for zeros."""


def _pages_of(reader: StoredReader) -> Mapping[int, Mapping[int, _Place]]:
    """pid -> address -> where the page is."""
    found: dict[int, dict[int, _Place]] = {}
    for record in reader.records(pages.Record):
        places: dict[int, _Place] = {}
        for address, length, offset in record.runs:
            first = offset // PAGE
            for extent in reader.page_map.find(first, first + length // PAGE):
                start = address + (extent.page - first) * PAGE
                for number in range(extent.length):
                    place = (extent.pack, extent.first + number) if extent.pack else ("", 0)
                    places[start + number * PAGE] = place
        found[record.pid] = places
    return found


def _is_same(first: StoredReader, one: _Place, second: StoredReader, two: _Place) -> bool:
    # A page is mostly stored once; where it is not, its hash tells.
    if one == two:
        return True
    return bool(one[0] and two[0]) and first.digest(*one) == second.digest(*two)


def interesting(differences: Sequence[ProcessDifference]) -> Sequence[ProcessDifference]:
    """Those that a person wants to hear of: not what kernels and their clients open for
    themselves."""
    return [each for each in differences if each.change != "changed" or _is_notable(each)]


def _is_notable(difference: ProcessDifference) -> bool:
    return bool(
        difference.state
        or difference.threads
        or notable(difference.opened)
        or notable(difference.closed)
    )


def notable(
    descriptors: Sequence[DescriptorDescription],
) -> Sequence[DescriptorDescription]:
    """Without what kernels and their clients open for themselves."""
    unseen = (*_OWN_KINDS, "tcp_socket", "unix_socket", "timerfd", "signalfd")
    return [each for each in descriptors if each.kind not in unseen]
