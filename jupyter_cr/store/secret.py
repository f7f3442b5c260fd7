"""The store's secret: 256 random bits that nobody but its owner knows."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import StorageError

__all__ = ["page_seed", "read_secret", "write_once"]

_SECRET = "secret"
_BYTES = 32


def read_secret(root: Path) -> bytes:
    """The secret; made when there is none.

    Raises:
        StorageError: it cannot be read or written, or is damaged.
    """
    path = root / _SECRET
    with storage_errors(path):
        if not path.exists():
            write_once(path, secrets.token_hex(_BYTES))
        text = path.read_text(encoding="ascii", errors="replace")
    with suppress(ValueError):
        if len(secret := bytes.fromhex(text)) == _BYTES:
            return secret
    raise StorageError(
        f"The store's secret {path} is damaged.",
        "Put it back from a copy; or remove it: a new one is made, and then snapshots "
        "that you want to restore have to be trusted anew (jupyter cr trust NAME).",
    )


def write_once(path: Path, text: str) -> None:
    """Make a file, 0600, whole; where another process is faster, it is that one's.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    try:
        with open(os.open(partial, flags, 0o600), "w", encoding="ascii") as file:
            file.write(text)
        with suppress(FileExistsError):
            # Unlike rename(2), it does not replace another process's.
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def page_seed(secret: bytes) -> int:
    """The seed for hashes of pages: who does not know it cannot make pages that are
    taken for others."""
    return int.from_bytes(hmac.digest(secret, b"pages", hashlib.sha256)[:8], "little")
