"""How results look: HTML in a notebook, text elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_cr.store import Snapshot

__all__ = ["html_note", "snapshot_rows", "table_html", "table_text", "text_note"]

HEADINGS = ("name", "state", "taken", "size", "kernel", "note")

_WIDTH = 120


def snapshot_rows(snapshots: Iterable[Snapshot]) -> list[tuple[str, ...]]:
    """As in `HEADINGS`."""
    # Imported where needed: rich is, for showing only.
    from rich.filesize import decimal

    return [
        (
            snapshot.name,
            snapshot.state,
            _time(snapshot.created),
            decimal(snapshot.bytes),
            snapshot.kernel_name or snapshot.comm,
            snapshot.note or snapshot.problem or snapshot.automatic,
        )
        for snapshot in snapshots
    ]


def _time(iso: str) -> str:
    try:
        return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return iso


def table_html(rows: Sequence[Sequence[str]]) -> str:
    """A table, as pandas has made people used to."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """The same for a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    file = StringIO()
    console = Console(file=file, width=_WIDTH, color_system=None, force_jupyter=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def text_note(sentence: str, details: Iterable[str]) -> str:
    """A sentence, with what else there is to say below it."""
    return "\n".join((sentence, *details))


def html_note(sentence: str, details: Iterable[str]) -> str:
    """The same in HTML."""
    more = "".join(f"<br><small>{escape(text)}</small>" for text in details)
    return f"<div>{escape(sentence)}{more}</div>"
