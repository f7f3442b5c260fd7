"""Encryption of what is stored: a memory image holds passwords and keys.

AES-256 in Galois/Counter Mode (NIST SP 800-38D), a random nonce of 96 bits for each block
and each file, and its place as associated data, so that nothing can be put in another's
place. The key is its user's: neither an image nor a store has it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from jupyter_cr.errors import CorruptImage, LockedImage
from jupyter_cr.image.frame import DAMAGED

__all__ = ["KEY_BYTES", "WRAPPING", "Cipher", "is_wrapped", "unwrap", "wrap"]

KEY_BYTES = 32
_NONCE = 12
_MAGIC = b"\x89JCE\r\n\x1a\n"
_ID = 8
_TAG = 16
WRAPPING = len(_MAGIC) + _ID + _NONCE + _TAG
"""Bytes by which a file of records is longer when it is encrypted."""


class Cipher:
    """One key. Threads can share it.

    Args:
        key: `KEY_BYTES` random bytes.
    """

    def __init__(self, key: bytes) -> None:
        # Imported where needed: 30 ms.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aead = AESGCM(key)
        self.id = hashlib.sha256(b"jupyter-cr key\n" + key).digest()[:_ID]
        """Tells it from others, and nothing of it."""

    def encrypt(self, data: bytes | bytearray, place: str) -> bytes:
        """The bytes to store at that place. Lets go of the interpreter lock."""
        nonce = os.urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, bytes(data), place.encode())

    def decrypt(self, stored: bytes | memoryview, place: str) -> bytes:
        """What was stored there.

        Raises:
            ValueError: it was not, or not with this key.
        """
        from cryptography.exceptions import InvalidTag

        stored = bytes(stored)
        try:
            return self._aead.decrypt(stored[:_NONCE], stored[_NONCE:], place.encode())
        except InvalidTag as error:
            raise ValueError("it cannot be decrypted") from error


def wrap(data: bytes, cipher: Cipher | None, place: str) -> bytes:
    """The content of a file of records: encrypted, if there is a cipher."""
    if cipher is None:
        return data
    return _MAGIC + cipher.id + cipher.encrypt(data, place)


def is_wrapped(data: bytes) -> bool:
    """Whether a file of records is encrypted."""
    return data.startswith(_MAGIC)


def unwrap(data: bytes, cipher: Cipher | None, place: str, path: Path) -> bytes:
    """The records of a file, encrypted or not.

    Raises:
        LockedImage: encrypted, and not with this cipher.
        CorruptImage: it cannot be decrypted all the same.
    """
    if not is_wrapped(data):
        return data
    key = data[len(_MAGIC) : len(_MAGIC) + _ID]
    if cipher is None or cipher.id != key:
        raise LockedImage(
            f"{path} is encrypted with the key {key.hex()}.",
            "Let JUPYTER_CR_KEY_FILE name the file that has this key.",
        )
    try:
        return cipher.decrypt(memoryview(data)[len(_MAGIC) + _ID :], place)
    except ValueError as error:
        raise CorruptImage(f"{path} is damaged: {error}.", DAMAGED) from error
