"""Our own hooks, for what every Python process needs.

Two forks of one snapshot have the same memory, so also the same random state:

- ``os.urandom``, ``secrets``, ``uuid.uuid4`` and new NumPy generators ask Linux, and need
  nothing.
- OpenSSL (``ssl``) keeps a state of its own, and starts a new one in another pid only; but
  a fork has its original's pid. It is given fresh entropy after every restore and fork,
  or two kernels would have the same keys. So is every other libcrypto in the process, but
  not one that a library has inside itself.
- ``random`` and ``numpy.random`` go on with the sequence of the snapshot, so that
  a restore repeats what happened, unless `reseed_after` says otherwise. Generators that
  you have made yourself (``numpy.random.default_rng``) are yours: use `on_fork`.

Connections that leave the tree are reset: the next use of one raises
ConnectionResetError, and programs that connect again go on by themselves. Nothing is
closed behind anybody's back; a pool that shall be emptied at once does so in a hook.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Literal, get_args

from jupyter_cr.glue.hooks import on_checkpoint, on_fork, on_restore

__all__ = ["Reseed", "install", "reseed_after", "reseed_policy"]

Reseed = Literal["never", "fork", "restore"]
"""After which event ``random`` and ``numpy.random`` get new seeds; ``restore`` is after
a fork, too."""

_ENTROPY_BYTES = 48
"""What OpenSSL's generators take at most, 384 bits."""

_reseed: Reseed = "never"


def reseed_policy() -> Reseed:
    """See `reseed_after`."""
    return _reseed


def reseed_after(event: Reseed) -> None:
    """Say when ``random`` and NumPy's global generator get new seeds from Linux.

    Args:
        event: ``never``, the default: a restore and a fork repeat the same numbers.
            ``fork``: forks differ from each other and from their original. ``restore``:
            each restore differs, too.

    Raises:
        ValueError: none of these.
    """
    global _reseed
    if event not in get_args(Reseed):
        raise ValueError(f"{event!r} is none of {', '.join(get_args(Reseed))}")
    _reseed = event


def install() -> None:
    """Register them; once. They come first, so that others' hooks find all in order."""
    on_checkpoint(_flush)
    for register in (on_restore, on_fork):
        register(_refresh_openssl)
    on_restore(_reseed_restored)
    on_fork(_reseed_fork)


def _flush() -> None:
    """What has been printed is not to be printed once more by every copy."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def _refresh_openssl() -> None:
    """RAND_add(3) reseeds a library's primary generator, and the others follow its count.
    Python's OpenSSL may be part of the interpreter; others have brought their own."""
    if (ssl := sys.modules.get("ssl")) is not None:
        ssl.RAND_add(os.urandom(_ENTROPY_BYTES), float(_ENTROPY_BYTES))
    for path in _find_mapped("libcrypto"):
        # Imported where needed: 10 ms.
        import ctypes

        with suppress(OSError, AttributeError):
            add = ctypes.CDLL(path, mode=os.RTLD_NOLOAD).RAND_add
            add.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_double)
            add.restype = None
            add(os.urandom(_ENTROPY_BYTES), _ENTROPY_BYTES, float(_ENTROPY_BYTES))


def _find_mapped(beginning: str) -> set[str]:
    """Paths of the libraries in this process whose names begin so (proc_pid_maps(5))."""
    with suppress(OSError), open("/proc/self/maps", errors="surrogateescape") as maps:
        paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line}
        return {path for path in paths if path.rpartition("/")[2].startswith(beginning)}
    return set()


def _reseed_restored() -> None:
    if _reseed == "restore":
        _reseed_generators()


def _reseed_fork() -> None:
    if _reseed != "never":
        _reseed_generators()


def _reseed_generators() -> None:
    if (random := sys.modules.get("random")) is not None:
        random.seed()
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()
