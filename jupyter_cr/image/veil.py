"""What keeps an image that is on its way from whoever comes upon its files later: they are
encrypted with a key that ends with the process.

AES-256 in counter mode (NIST SP 800-38A): as many bytes as there were, each at its place,
so that indexes say where blocks are, as ever. It hides what they are and does no more:
whether they are as they were written is told by their checksums. No place of a file may be
written twice with different content.
"""

from __future__ import annotations

import hashlib
import os

__all__ = ["Veil"]

_BLOCK = 16
_COUNTER = 8


class Veil:
    """One key. Threads can share it."""

    def __init__(self) -> None:
        # Imported where needed: 30 ms.
        from cryptography.hazmat.primitives.ciphers.algorithms import AES256

        self._key = AES256(os.urandom(32))

    def over(self, data: bytes | memoryview, name: str, offset: int = 0) -> bytes:
        """The bytes to write; and of those that are there the bytes that were written.

        Args:
            name: of the file, which tells it from the others.
            offset: of the first byte in it.
        """
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.modes import CTR

        block, inside = divmod(offset, _BLOCK)
        file = hashlib.sha256(name.encode()).digest()[: _BLOCK - _COUNTER]
        counter = file + block.to_bytes(_COUNTER, "big")
        encryptor = Cipher(self._key, CTR(counter)).encryptor()
        encryptor.update(bytes(inside))
        return encryptor.update(data)
