"""Who has pushed a snapshot, and that nothing of it has been changed since.

A file ``signature`` beside the manifest, JSON: an Ed25519 signature (RFC 8032) over the
line ``jupyter-cr push 1``, a line with the SHA-256 of the manifest, and one with that of
the pages, in their order, but for those that are zeros, which the manifest tells. Packs are
shared, and others write some of them: what is in these is covered, too.
"""

from __future__ import annotations

import hashlib

import msgspec

from jupyter_cr.errors import CorruptImage
from jupyter_cr.store.signers import Signers, verify_signature

__all__ = ["PushSignature", "sign_push"]

_HINT = "Have it pushed again by somebody who has it; do not use it as it is."


class PushSignature(msgspec.Struct, frozen=True, kw_only=True):
    """Hexadecimal."""

    signer: str
    """Public key."""
    signature: str

    @classmethod
    def decode(cls, data: bytes, where: str) -> PushSignature:
        """From the file.

        Raises:
            CorruptImage: it is none; names `where`.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptImage(f"{where} is no signature: {error}.", _HINT) from error

    def encode(self) -> bytes:
        """As the file has it."""
        return msgspec.json.encode(self)

    def check(self, manifest: bytes | memoryview, pages: str, where: str) -> None:
        """See that it is of this image.

        Args:
            pages: SHA-256 of the pages, hexadecimal.

        Raises:
            CorruptImage: it is not; names `where`.
        """
        if not verify_signature(self.signer, self.signature, _message(manifest, pages)):
            raise CorruptImage(f"{where} is not of what is there now.", _HINT)


def sign_push(manifest: bytes | memoryview, pages: str) -> PushSignature:
    """Sign an image with the user's own key.

    Args:
        pages: SHA-256 of the pages, hexadecimal.

    Raises:
        StorageError: the key cannot be read, or made.
    """
    signer, signature = Signers().sign(_message(manifest, pages))
    return PushSignature(signer=signer, signature=signature)


def _message(manifest: bytes | memoryview, pages: str) -> bytes:
    digest = hashlib.sha256(manifest).hexdigest()
    return f"jupyter-cr push 1\n{digest}\n{pages}\n".encode()
