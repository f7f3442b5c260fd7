"""A progress bar, where there is a terminal to see it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]

_INTERVAL_S = 0.05


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None] | None]:
    """Give a function to be called with a phase's name and the fraction of it that is
    done; None if standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    # No refreshing thread: it would take the interpreter's lock from under the engine
    # while a tree is frozen.
    bar = Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
    )
    with bar:
        task = bar.add_task("", total=1.0)
        drawn = 0.0

        def progress(phase: str, fraction: float) -> None:
            nonlocal drawn
            bar.update(task, description=phase, completed=fraction)
            if (now := time.monotonic()) - drawn >= _INTERVAL_S:
                drawn = now
                bar.refresh()

        yield progress
