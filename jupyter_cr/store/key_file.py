"""The key with which snapshots are encrypted, if they are: in a file that its user keeps
apart from the store."""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from pathlib import Path

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import UsageError
from jupyter_cr.image.cipher import KEY_BYTES, Cipher
from jupyter_cr.image.veil import Veil

__all__ = ["KEY_VARIABLE", "make_key", "store_cipher", "transfer_veil"]

KEY_VARIABLE = "JUPYTER_CR_KEY_FILE"
"""Of the environment: names the file."""


def store_cipher() -> Cipher | None:
    """The cipher for what is stored and read; None if nothing is to be encrypted.

    Raises:
        UsageError: the file is missing, or holds no key.
    """
    name = os.environ.get(KEY_VARIABLE, "")
    return _read(name) if name else None


def transfer_veil() -> Veil | None:
    """A new one for an image that is on its way; None if nothing is to be encrypted.

    Raises:
        UsageError: as `store_cipher`.
    """
    return None if store_cipher() is None else Veil()


@lru_cache(maxsize=4)
def _read(name: str) -> Cipher:
    path = Path(name).expanduser()
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise UsageError(
            f"The key file {path} ({KEY_VARIABLE}) cannot be read: {error.strerror}.",
            f"Put it there, or make one: jupyter cr new-key {path}",
        ) from error
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(
            f"The file {path} ({KEY_VARIABLE}) holds no key: {KEY_BYTES} bytes in "
            "hexadecimal.",
            "Put the right one there. A new one cannot read what another has encrypted.",
        )
    return Cipher(key)


def make_key(path: Path) -> None:
    """Make a new key, for its owner's eyes only.

    Raises:
        StorageError: the file exists, or cannot be written.
    """
    with storage_errors(path):
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
