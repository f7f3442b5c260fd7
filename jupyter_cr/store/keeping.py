"""The policy of the environment, for whoever takes snapshots where no server keeps them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from jupyter_cr.errors import ImageError, StorageError
from jupyter_cr.store.retention import RETENTION_VARIABLE, parse_policy
from jupyter_cr.store.store import Store

__all__ = ["retention_policy", "within_policy"]


def retention_policy() -> str:
    """The one that is to be applied whenever a snapshot has been taken; empty if none."""
    return os.environ.get(RETENTION_VARIABLE, "").strip()


@contextmanager
def within_policy() -> Iterator[None]:
    """Take a snapshot in the body: at the end, what the policy does not keep is removed.

    Raises:
        UsageError: it is not understood; nothing has been done yet.
    """
    if policy := retention_policy():
        parse_policy(policy)
    yield
    if policy:
        # The snapshot is there, whether or not others can go.
        with suppress(ImageError, StorageError), Store() as store:
            store.prune(policy)
