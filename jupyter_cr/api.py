"""Snapshots from Python, of the very process that asks::

    import jupyter_cr

    taken = jupyter_cr.checkpoint("before")
    if taken.is_fork:
        ...

`checkpoint` returns once in the process that calls it, and once more in each restore
and in each fork of the snapshot, as os.fork() does. The Jupyter server does the work
where it has started the kernel; otherwise a helper process does, so that all of this
works in IPython in a terminal, and in any Python program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import msgspec

from jupyter_cr.errors import TargetError, UsageError
from jupyter_cr.glue import builtin
from jupyter_cr.glue.builtin import Reseed, reseed_after, reseed_policy
from jupyter_cr.glue.channel import Copied, ask, ask_server
from jupyter_cr.glue.display import (
    html_note,
    snapshot_rows,
    table_html,
    table_text,
    text_note,
)
from jupyter_cr.glue.hooks import now_checkpointing
from jupyter_cr.glue.whereabouts import Role

if TYPE_CHECKING:
    from jupyter_cr.glue.comparison import Differences
    from jupyter_cr.glue.forking.forks import Forks
    from jupyter_cr.store import Snapshot

__all__ = [
    "Checkpoint",
    "Fork",
    "Reseed",
    "Role",
    "Snapshots",
    "checkpoint",
    "diff",
    "fork",
    "reseed_after",
    "reseed_policy",
    "reset_to",
    "restore",
    "snapshots",
    "timeline",
    "undo",
]

_SENTENCES: dict[Role, str] = {
    "original": "Snapshot {!r} was taken.",
    "restored": "This is what snapshot {!r} was taken of, restored.",
    "forked": "This is a fork of snapshot {!r}.",
}


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What `checkpoint` returns: a snapshot, and who we are."""

    name: str
    """Of the snapshot."""
    role: Role = "original"
    """``original``: the process that asked, and has gone on; ``restored``, ``forked``:
    a copy, made from the snapshot."""
    warnings: tuple[str, ...] = ()
    """Sentences: hooks that failed, for example."""

    @property
    def is_original(self) -> bool:
        """Whether this is the process that had asked, and has gone on."""
        return self.role == "original"

    @property
    def is_restore(self) -> bool:
        """Whether this process was brought back from the snapshot, in place."""
        return self.role == "restored"

    @property
    def is_fork(self) -> bool:
        """Whether this process was brought up beside others, from the snapshot."""
        return self.role == "forked"

    @property
    def _sentence(self) -> str:
        return _SENTENCES[self.role].format(self.name)

    def __repr__(self) -> str:
        return text_note(self._sentence, self.warnings)

    def _repr_html_(self) -> str:
        return html_note(self._sentence, self.warnings)


class Fork(msgspec.Struct, frozen=True, kw_only=True):
    """A new process, beside this one."""

    snapshot: str
    kernel_id: str = ""
    """Empty if no server looks after it."""
    connection_file: str | None = None
    """None if it is no kernel."""
    path: str = ""
    """Of its notebook, as the server names it; empty if it has none."""
    warnings: tuple[str, ...] = ()

    @property
    def _details(self) -> Iterator[str]:
        if self.path:
            yield f"Its notebook: {self.path}"
        if self.connection_file:
            yield f"jupyter console --existing {self.connection_file}"
        yield from self.warnings

    def __repr__(self) -> str:
        return text_note(f"A fork of snapshot {self.snapshot!r} runs.", self._details)

    def _repr_html_(self) -> str:
        return html_note(f"A fork of snapshot {self.snapshot!r} runs.", self._details)


class Snapshots(Sequence["Snapshot"]):
    """Snapshots, newest first; shown as a table."""

    def __init__(self, items: Sequence[Snapshot]) -> None:
        self._items = tuple(items)

    @overload
    def __getitem__(self, index: int) -> Snapshot: ...
    @overload
    def __getitem__(self, index: slice) -> Snapshots: ...
    def __getitem__(self, index: int | slice) -> Snapshot | Snapshots:
        if isinstance(index, slice):
            return Snapshots(self._items[index])
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        if not self._items:
            return _NONE_YET
        return table_text(snapshot_rows(self._items))

    def _repr_html_(self) -> str:
        if not self._items:
            return html_note(_NONE_YET, ())
        return table_html(snapshot_rows(self._items))


_NONE_YET = "No snapshots yet. Take one with %checkpoint NAME."


def checkpoint(
    name: str | None = None, note: str = "", *, warm: bool = False
) -> Checkpoint:
    """Take a snapshot of this process and all below it: variables, threads, open files,
    children. It returns here, and in every restore and fork of the snapshot.

    Args:
        name: of the snapshot; None to have one made up.
        note: any text.
        warm: keep a copy in memory, for forks that are ready at once.

    Raises:
        UsageError: not a name.
        NameTaken: there is a snapshot of that name.
        Unsupported: something here could not be restored; the message names it.
        CheckpointRestoreError: it was not taken, as the message says.
    """
    builtin.install()
    with now_checkpointing() as problems:
        answer = ask("checkpoint", name=name, note=note, warm=warm)
    if isinstance(answer, Copied):
        return _copy(answer)
    taken = msgspec.json.decode(answer, type=Checkpoint)
    return msgspec.structs.replace(taken, warnings=(*problems, *taken.warnings))


def _copy(answer: Copied) -> Checkpoint:
    return Checkpoint(name=answer.snapshot, role=answer.role, warnings=answer.warnings)


def restore(name: str, *, keep: bool = True) -> Checkpoint:
    """Put a snapshot in place of this process, which ends: what runs then goes on where
    the snapshot was taken.

    Args:
        name: of the snapshot.
        keep: take a snapshot first, so that this can be undone.

    Returns:
        Never here, but in copies of this process, such as the one from the snapshot
        that is kept.

    Raises:
        NoSuchSnapshot: there is none of that name.
        UsageError: it is another process's.
        CheckpointRestoreError: it cannot be restored, as the message says; this process
            goes on.
    """
    builtin.install()
    return _never(ask("restore", snapshot=name, keep=keep), f"restore of {name}")


def undo(steps: int = 1) -> Checkpoint:
    """`restore` the latest snapshot that was taken of this process, or one before it.
    Done again, it goes back further, until a new snapshot is taken.

    Args:
        steps: 1 for the latest.

    Raises:
        UsageError: less than one step.
        NoSuchSnapshot: there are fewer.
        CheckpointRestoreError: as `restore` does.
    """
    if steps < 1:
        raise UsageError(f"{steps} steps cannot be undone.", "One is the least.")
    builtin.install()
    return _never(ask("undo", steps=steps), f"undo of {steps}")


def reset_to(name: str = "", *, keep: bool = True) -> Checkpoint:
    """Bring this kernel, and its notebook, back to what it was started from: the beginning
    of a lesson, or the snapshot that it was forked from.

    Args:
        name: of another snapshot, which may be any kernel's.
        keep: take a snapshot first, so that this can be undone.

    Raises:
        NoSuchSnapshot: there is none, or this kernel was not forked.
        CheckpointRestoreError: as `restore` does.
    """
    builtin.install()
    answer = ask("reset", snapshot=name, keep=keep, document=True)
    return _never(answer, "reset")


def _never(answer: msgspec.Raw | Copied, what: str) -> Checkpoint:
    if isinstance(answer, Copied):
        return _copy(answer)
    raise TargetError(
        f"The {what} was done, but not in place of this process.",
        "This is one that the server has replaced already: end it.",
    )


@overload
def fork(
    what: int | None = None,
    *,
    concurrency: int | None = None,
    timeout: float | None = None,
    progress: bool = True,
) -> Forks: ...
@overload
def fork(what: str) -> Fork: ...
def fork(what: str | int | None = None, **options: Any) -> Fork | Forks:
    """Forks: of a snapshot, as a kernel of its own beside whatever runs; or of this
    process as it is now, to run something in, whose outcome comes back::

        with jupyter_cr.fork(8) as forks:
            losses = forks.map(train, [0.1, 0.01, 0.001])

        for fork in jupyter_cr.fork(3):
            print(fork.run("train(rate)", rate=10 ** -fork.index).value)

    Args:
        what: the name of a snapshot, which may be any kernel's; or how many forks of this
            process, see `jupyter_cr.glue.forking.forks.Forks`, which has the options.

    Raises:
        NoSuchSnapshot: there is none of that name.
        UsageError: not a number of forks.
        CheckpointRestoreError: it cannot be forked, as the message says.
    """
    if not isinstance(what, str):
        from jupyter_cr.glue.forking.forks import Forks

        return Forks(what, **options)
    return _fork_snapshot(what)


def _fork_snapshot(name: str) -> Fork:
    builtin.install()
    answer = ask("fork", snapshot=name)
    if isinstance(answer, Copied):
        raise TargetError(
            f"This is a copy of the process that had asked for a fork of {name}.",
            "Ask again, if the copy is to have one, too.",
        )
    return msgspec.json.decode(answer, type=Fork)


def timeline(is_on: bool) -> None:
    """Have a snapshot in memory before each cell of this kernel from now on, so that each
    can be undone in JupyterLab; or no more.

    Raises:
        TargetError: there is no Jupyter server that looks after this process.
        CheckpointRestoreError: as the server says.
    """
    if ask_server("timeline", is_on=is_on) is None:
        raise TargetError(
            "No Jupyter server looks after this process.",
            "A timeline is for kernels that a server with jupyter-cr has started.",
        )


def diff(before: str, after: str | None = None) -> Differences:
    """How one snapshot differs from another: variables, the notebook, processes and files,
    memory. Shown as text; its `comparison` has all that was found.

    Args:
        before: name of a snapshot.
        after: of another one; None for what this process has now.

    Raises:
        NoSuchSnapshot: there is none of one of the names.
        CheckpointRestoreError: this process cannot be looked at, as the message says.
    """
    # Imported where needed: the engine.
    from jupyter_cr.comparing import Comparison
    from jupyter_cr.glue.comparison import Differences

    builtin.install()
    answer = ask("diff", before=before, after=after)
    if isinstance(answer, Copied):
        raise TargetError(
            "This is a copy of a process that had asked for a comparison.",
            "Ask again.",
        )
    return Differences(msgspec.json.decode(answer, type=Comparison))


class _Page(msgspec.Struct):
    snapshots: msgspec.Raw


def snapshots() -> Snapshots:
    """All snapshots there are, newest first.

    Raises:
        StorageError: they cannot be read.
    """
    # Imported where needed: 20 ms.
    from jupyter_cr.store import Snapshot, Store

    answer = ask_server("list", limit=0)
    if answer is None:
        # Closed at once: a snapshot of this process is not to have the store's files open.
        with Store() as store:
            return Snapshots(store.list(newest_first=True))
    page = msgspec.json.decode(answer, type=_Page)
    return Snapshots(msgspec.json.decode(page.snapshots, type=tuple[Snapshot, ...]))
