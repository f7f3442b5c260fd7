"""Whether the IPython extension ``jupyter_cr`` can be loaded into a kernel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from shutil import which

__all__ = ["has_extension"]

_LAUNCHERS = frozenset({"ipykernel", "ipykernel_launcher", "ipykernel.kernelapp"})
_OWN = frozenset({"python", "python3", f"python3.{sys.version_info[1]}"})
"""What a kernel spec may say for the interpreter that the server runs with
(KernelManager.format_kernel_cmd)."""
_PROBE = "import sys, importlib.util as u; sys.exit(u.find_spec('jupyter_cr') is None)"
_LIMIT = 10.0


def has_extension(argv: Sequence[str]) -> bool:
    """Whether a kernel spec's command starts an ipykernel, by an interpreter that has
    this package."""
    if len(argv) < 3 or argv[1] != "-m" or argv[2] not in _LAUNCHERS:
        return False
    return _can_import(argv[0])


@lru_cache
def _can_import(interpreter: str) -> bool:
    if interpreter in _OWN:
        return True
    path = which(interpreter)
    if path is None:
        return False
    if path == sys.executable:
        return True
    try:
        done = subprocess.run(
            [path, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
