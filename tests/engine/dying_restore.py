"""Restores and forks that are killed at a given moment::

    python -m tests.engine.dying_restore HOW NUMBER WORDS...

``stops N`` kills this process right after the Nth time that it has waited for a tracee,
``steps N`` right before its Nth access to one; WORDS are our command's.
"""

from __future__ import annotations

import sys

from jupyter_cr.cli import main
from tests.engine.dying_engine import prepare

if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2])
    sys.argv[1:] = sys.argv[3:]
    sys.exit(main())
