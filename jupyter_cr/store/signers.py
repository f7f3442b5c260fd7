"""Who signs what goes from store to store, and whom its owner trusts.

Everybody has a key (Ed25519, RFC 8032), which is made when it is first needed. The public
half names its owner. What somebody trusted has signed is trusted as if it had been taken
here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import StorageError
from jupyter_cr.image.record_file import write_whole
from jupyter_cr.store.secret import write_once

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["Signers", "verify_signature"]

_KEY, _TRUSTED = "signing_key", "trusted_signers.json"


class Signers:
    """Of one user.

    Args:
        directory: default: ``jupyter_cr`` in Jupyter's configuration directory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory if directory is not None else _default_directory()

    def sign(self, message: bytes) -> tuple[str, str]:
        """The public key and the signature, hexadecimal.

        Raises:
            StorageError: the key cannot be read, or made.
        """
        key = self._key()
        return key.public_key().public_bytes_raw().hex(), key.sign(message).hex()

    def own(self) -> str:
        """The public key, hexadecimal.

        Raises:
            StorageError: the key cannot be read, or made.
        """
        return self._key().public_key().public_bytes_raw().hex()

    def _key(self) -> Ed25519PrivateKey:
        # Imported where needed: 30 ms.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        path = self._directory / _KEY
        with storage_errors(path):
            if not path.exists():
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_once(path, Ed25519PrivateKey.generate().private_bytes_raw().hex())
            text = path.read_text(encoding="ascii", errors="replace")
        try:
            return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text))
        except ValueError as error:
            raise StorageError(
                f"The key {path}, which signs what you export, is damaged.",
                "Put it back from a copy; or remove it, and a new one is made.",
            ) from error

    def trusted(self) -> dict[str, str]:
        """Public keys of others who are trusted, and what they are called.

        Raises:
            StorageError: the list cannot be read, or is damaged.
        """
        path = self._directory / _TRUSTED
        try:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            raise StorageError(
                f"The list of trusted signers {path} cannot be read: {error}.",
                "Mend it, or remove it: then nobody is trusted.",
            ) from error

    def trust(self, signer: str, name: str) -> None:
        """Trust all that somebody signs.

        Raises:
            StorageError: the list cannot be read or written.
        """
        self._write(self.trusted() | {signer: name})

    def distrust(self, signer: str) -> None:
        """Do not trust any more what somebody signs; what has come already stays as it is.

        Raises:
            StorageError: the list cannot be read or written.
        """
        self._write({key: name for key, name in self.trusted().items() if key != signer})

    def _write(self, trusted: dict[str, str]) -> None:
        with storage_errors(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(trusted), indent=2)
        write_whole(self._directory / _TRUSTED, text, durable=True)

    def is_trusted(self, signer: str) -> bool:
        """Whether it is the user, or somebody the user trusts.

        Raises:
            StorageError: the key or the list cannot be read.
        """
        return signer == self.own() or signer in self.trusted()


def verify_signature(signer: str, signature: str, message: bytes) -> bool:
    """Whether the owner of a public key (hexadecimal) has signed a message."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
        key.verify(bytes.fromhex(signature), message)
    except (ValueError, InvalidSignature):
        return False
    return True


def _default_directory() -> Path:
    # Imported where needed: 25 ms.
    from jupyter_core.paths import jupyter_config_dir

    return Path(jupyter_config_dir()) / "jupyter_cr"
