"""One version, in all that is built."""

from __future__ import annotations

import json
from pathlib import Path

from jupyter_cr import __version__

ROOT = Path(__file__).resolve().parent.parent


def test_the_extension_has_the_same() -> None:
    package = json.loads((ROOT / "labextension" / "package.json").read_text())
    assert package["version"] == __version__
