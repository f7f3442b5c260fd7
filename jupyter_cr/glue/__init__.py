"""What lives in the kernel's own process: hooks, the calling card, the handler of control
messages, and the ways to ask for a snapshot from inside.

It is imported into every kernel, so importing it costs little: the standard library and
msgspec; IPython and ipykernel are used where they are there already.
"""

from __future__ import annotations

__all__: list[str] = []
