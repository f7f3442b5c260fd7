"""A cell that runs in a fork, and what then becomes of the fork (``%%fork``)."""

from __future__ import annotations

import secrets
from contextlib import suppress

from jupyter_cr.errors import CheckpointRestoreError, ImageError, StorageError, TargetError
from jupyter_cr.glue.channel import Copied, ask
from jupyter_cr.glue.forking.forks import Outcome, RunningFork, show
from jupyter_cr.glue.forking.session import Kept, Session
from jupyter_cr.store.snapshot import FOR_A_FORK

__all__ = ["run_in_fork"]


def run_in_fork(
    source: str, *, keep: str = "", adopt: bool = False, timeout: float | None = None
) -> Outcome | None:
    """Run a cell in a fork of this process as it is now, and show here what it prints
    and shows.

    Args:
        keep: name of a snapshot of the fork, if it does not raise; empty for none.
        adopt: put the fork in the place of this process then, which ends.
        timeout: seconds; None for no limit.

    Returns:
        What came of it; None where the fork goes on, in the place of this process or as a
        copy of its snapshot: there the cell has been run.

    Raises:
        NameTaken: there is a snapshot of that name.
        CheckpointRestoreError: there can be no fork, or it could not be kept.
    """
    name = keep or f"adopted-{secrets.token_hex(8)}"
    is_kept = bool(keep) or adopt
    try:
        with Session() as session:
            fork = RunningFork(session, session.fork(), 0, timeout)
            outcome = fork.run(source, show=show)
            if is_kept and outcome.error is None:
                fork.keep(name, automatic="" if keep else FOR_A_FORK)
    except Kept:
        if not keep:
            _forget(name)
        return None
    if adopt and outcome.error is None:
        try:
            _adopt(name)
        except CheckpointRestoreError:
            if not keep:
                _forget(name)
            raise
    return outcome


def _adopt(name: str) -> None:
    # What waits in the kernel's queue goes on to wait in the fork's.
    answer = ask("restore", snapshot=name, keep=False, queue=True)
    if isinstance(answer, Copied):
        raise TargetError(
            "This is a copy of a process whose place a fork of it has taken.",
            "Run the cell again.",
        )
    raise TargetError(
        "The fork runs, but not in the place of this process.",
        "This is one that the server has replaced already: end it.",
    )


def _forget(name: str) -> None:
    """Nobody else has heard of it."""
    # Imported where needed: 20 ms.
    from jupyter_cr.store import Store

    with suppress(ImageError, StorageError), Store() as store:
        store.remove([name])
