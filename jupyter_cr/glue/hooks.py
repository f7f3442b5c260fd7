"""Hooks: what code that cares does before a snapshot, and after a restore or a fork.

::

    @jupyter_cr.on_fork
    def new_connection():
        pool.reconnect()

They are called without arguments, in the order of `os.register_at_fork`: those before
a snapshot in the reverse order of their registration, those after a restore or a fork in
that order. One that raises is reported, and does not keep the others from running. They
are called in the thread that notices: the one that had asked for the snapshot, the one
that runs the next cell, or ipykernel's control thread, maybe while a cell is running.

A library registers its hooks through the entry-point group `GROUP`: each entry names
a function that is called once, without arguments, and calls `on_checkpoint` and so on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from jupyter_cr.glue.whereabouts import Role, Whereabouts, find_out

__all__ = [
    "GROUP",
    "catch_up",
    "load_entry_points",
    "now_checkpointing",
    "on_checkpoint",
    "on_fork",
    "on_restore",
    "run_checkpoint_hooks",
    "unregister",
]

GROUP = "jupyter_cr.hooks"

Kind = Literal["checkpoint", "restore", "fork"]
Hook = TypeVar("Hook", bound=Callable[[], object])

_hooks: dict[Kind, list[Callable[[], object]]] = {
    "checkpoint": [],
    "restore": [],
    "fork": [],
}

_LIMIT_S = 30.0
"""How long one thread waits for hooks that another runs."""


def on_checkpoint(hook: Hook) -> Hook:
    """Call `hook` before each snapshot of this process."""
    return _register("checkpoint", hook)


def on_restore(hook: Hook) -> Hook:
    """Call `hook` in this process after each restore."""
    return _register("restore", hook)


def on_fork(hook: Hook) -> Hook:
    """Call `hook` in each fork of this process."""
    return _register("fork", hook)


def _register(kind: Kind, hook: Hook) -> Hook:
    if not callable(hook):
        raise TypeError(f"on_{kind} needs a function to call, not {hook!r}")
    if hook not in _hooks[kind]:
        _hooks[kind].append(hook)
    return hook


def unregister(hook: Callable[[], object]) -> None:
    """Call it no more, whatever it was registered for."""
    for hooks in _hooks.values():
        if hook in hooks:
            hooks.remove(hook)


def _run(kind: Kind) -> tuple[str, ...]:
    """What failed, as sentences."""
    hooks = list(_hooks[kind])
    if kind == "checkpoint":
        hooks.reverse()
    errors = (_call(hook, f"The {kind} hook {_name(hook)}") for hook in hooks)
    return tuple(error for error in errors if error)


def _call(function: Callable[[], object], what: str) -> str:
    """A sentence if it raises."""
    try:
        function()
    except Exception as error:  # noqa: BLE001 - whatever others' code raises
        return f"{what} failed: {type(error).__name__}: {error}"
    return ""


def _name(hook: Callable[[], object]) -> str:
    module = getattr(hook, "__module__", None) or "?"
    return f"{module}.{getattr(hook, '__qualname__', None) or repr(hook)}"


def load_entry_points() -> tuple[str, ...]:
    """Let the libraries register their hooks, once.

    Returns:
        Sentences: what failed.
    """
    global _loaded
    if _loaded:
        return ()
    _loaded = True
    # Imported where needed: 20 ms.
    from importlib.metadata import entry_points

    errors = []
    for entry in entry_points(group=GROUP):
        what = f"The entry point {entry.name} = {entry.value} of {GROUP}"
        errors.append(_call(lambda entry=entry: entry.load()(), what))  # type: ignore[misc]
    return tuple(error for error in errors if error)


_loaded = False


class _Latest:
    """The incarnation whose hooks have run, and what failed in them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pid = os.getpid()
        self.whereabouts: Whereabouts = find_out()
        self.errors: tuple[str, ...] = ()

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Whether no other thread is at it still."""
        held = self.lock.acquire(timeout=_LIMIT_S)
        try:
            yield held
        finally:
            if held:
                self.lock.release()


_latest = _Latest()


def catch_up(told: Role | None = None) -> tuple[str, ...]:
    """Run the hooks of a restore or a fork, if this process has been restored or forked
    and they have not run yet: whoever notices calls this, the first one runs them, once.

    Args:
        told: what has happened, by somebody who knows; /proc does not show it everywhere.

    Returns:
        Sentences: what failed, now or when they were run.
    """
    here = find_out()
    with _latest.held() as held:
        if not held:
            return (f"Hooks have been running for more than {_LIMIT_S:.0f} s.",)
        if here != _latest.whereabouts:
            _arrive(here, told or here.role)
    return _latest.errors


def _arrive(here: Whereabouts, role: Role | None) -> None:
    is_child = _latest.pid != os.getpid()  # of os.fork(), which is no incarnation
    if is_child or role in ("restored", "forked"):
        # First, since hooks may ask for snapshots, too.
        _latest.whereabouts, _latest.pid, _latest.errors = here, os.getpid(), ()
        if not is_child:
            _latest.errors = _run("restore" if role == "restored" else "fork")


_asking = 0


@contextmanager
def now_checkpointing() -> Iterator[tuple[str, ...]]:
    """Run the hooks before a snapshot that this process itself asks for, with what
    failed in them; nobody else's request runs them again meanwhile."""
    global _asking
    _asking += 1
    try:
        yield _run("checkpoint")
    finally:
        _asking -= 1


def run_checkpoint_hooks() -> tuple[str, ...]:
    """For a snapshot that somebody else takes of this process.

    Returns:
        Sentences: what failed.
    """
    return () if _asking else _run("checkpoint")
