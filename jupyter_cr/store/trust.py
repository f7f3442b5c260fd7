"""Which images are restored: to restore one is to run its code.

As Jupyter signs the notebooks that were run here (nbformat.sign), a store signs the images
that were taken here, with its own secret: a file ``signature`` beside the manifest. What
comes from elsewhere has none, and is restored only after its owner has said so by name.

The signature is over the manifest. That the pages, too, are those of then is another
matter: who can write to the store can change them, and so can only its owner. What is on
the way from one store to another has a signature over all of it, see
`jupyter_cr.store.bundle`.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from jupyter_cr.errors import StorageError
from jupyter_cr.image.record_file import write_whole
from jupyter_cr.store.secret import read_secret

__all__ = ["SIGNATURE", "is_signed", "sign"]

SIGNATURE = "signature"
_PREFIX = "hmac-sha256 "
_MAX_BYTES = 1024


def sign(root: Path, directory: Path, manifest: bytes | memoryview) -> None:
    """Sign an image of the store.

    Raises:
        StorageError: it cannot be written, or the store's secret cannot be read.
    """
    text = _PREFIX + _code(read_secret(root), manifest)
    write_whole(directory / SIGNATURE, text.encode(), durable=True)


def is_signed(root: Path, directory: Path, manifest: bytes | memoryview) -> bool:
    """Whether the store has signed that image."""
    try:
        with open(directory / SIGNATURE, "rb") as file:
            text = file.read(_MAX_BYTES).decode(errors="replace")
        expected = _PREFIX + _code(read_secret(root), manifest)
    except (OSError, StorageError):
        return False
    return hmac.compare_digest(text.encode(), expected.encode())


def _code(secret: bytes, manifest: bytes | memoryview) -> str:
    code = hmac.new(secret, b"jupyter-cr image\n", hashlib.sha256)
    code.update(manifest)
    return code.hexdigest()
