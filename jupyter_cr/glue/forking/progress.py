"""One line that says how far forks are."""

from __future__ import annotations

import sys
import time
from typing import Any

from jupyter_cr.glue.forking.running import current_shell

__all__ = ["ProgressLine"]

_INTERVAL_S = 0.2
_SILENT_S = 0.5
"""What is done sooner need not be told."""


class ProgressLine:
    """In a notebook an output that changes, in a terminal a line that is written over;
    elsewhere nothing. A context manager, at whose end the line says how it went."""

    def __init__(self, total: int, *, is_shown: bool) -> None:
        shell = current_shell()
        self._total = total
        self._is_shown = is_shown
        self._is_notebook = getattr(shell, "kernel", None) is not None
        self._is_terminal = not self._is_notebook and sys.stderr.isatty()
        self._handle: Any = None
        self._began = time.monotonic()
        self._told_at = 0.0
        self._text = ""

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: object) -> None:
        if self._text:
            self._show(f"{self._text}, {time.monotonic() - self._began:.1f} s")
            if self._is_terminal:
                sys.stderr.write("\n")

    def tell(self, done: int, running: int) -> None:
        """Say that so many are done, and so many run."""
        now = time.monotonic()
        is_soon = now - self._began < _SILENT_S or now - self._told_at < _INTERVAL_S
        if not self._is_shown or (is_soon and not (done == self._total and self._text)):
            return
        self._told_at = now
        self._text = f"Forks: {done} of {self._total} done"
        if running:
            self._text += f", {running} running"
        self._show(f"{self._text}, {now - self._began:.0f} s")

    def _show(self, text: str) -> None:
        if self._is_notebook:
            self._display({"text/plain": text})
        elif self._is_terminal:
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()

    def _display(self, data: dict[str, str]) -> None:
        from IPython import display

        # It has no types.
        show: Any = display.display
        if self._handle is None:
            self._handle = show(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
