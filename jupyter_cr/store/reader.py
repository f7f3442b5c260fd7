"""Reading a snapshot of a store: nobody deletes it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jupyter_cr.image import ImageReader
from jupyter_cr.store.key_file import store_cipher
from jupyter_cr.store.layout import packs_beside, root_of
from jupyter_cr.store.lease import Lease
from jupyter_cr.store.trust import is_signed

__all__ = ["StoredReader"]


class StoredReader(ImageReader):
    """One snapshot, opened; an `ImageReader` with a lease until it is closed.

    Args:
        directory: the snapshot's.
        name: how it is called now; its header has the name that it was given first.
        lease: given up when it is closed, or cannot be opened.
        closed: called after that.

    Raises:
        CorruptImage, FutureImage, NoSuchSnapshot: as `ImageReader`.
    """

    def __init__(
        self, directory: Path, name: str, lease: Lease, closed: Callable[[], None]
    ) -> None:
        self.name = name
        self._lease = lease
        self._closed = closed
        try:
            super().__init__(directory, packs_beside(directory), store_cipher())
        except BaseException:
            lease.release()
            raise

    @property
    def is_trusted(self) -> bool:
        """Whether it was taken here, or its owner has said that it may be restored. One
        that is still being saved was taken here."""
        root = root_of(self.directory)
        return not self.is_final or is_signed(root, self.directory, self.manifest)

    def close(self) -> None:
        """Close it, and let whoever wants to delete it; safe to call twice."""
        super().close()
        if self._lease.is_held:
            self._lease.release()
            self._closed()
