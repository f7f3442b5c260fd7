"""The keeper of forks that a server starts::

    python -m jupyter_cr.glue.forking.keeper_process CONTROL

Its standard input and output are the kernel's connection; the descriptor CONTROL is the
server's. From there it reads one line, a `KeeperRequest`; there it writes a byte when the
kernel goes on, and closes it when the snapshot is complete.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

import msgspec

from jupyter_cr.glue.forking.keeper import KeeperRequest, keep_forks
from jupyter_cr.kernels.lines import Line, encode_line

__all__ = ["main"]


def _say(line: Line) -> None:
    encoded = encode_line(line)
    # Whoever has asked may have ended.
    with suppress(BrokenPipeError):
        while encoded:
            encoded = encoded[os.write(1, encoded) :]


def main() -> None:
    """Become nobody's child, and keep forks."""
    if os.fork():
        os._exit(0)
    os.setsid()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        with control.makefile("rb") as lines:
            line = lines.readline()
        if not line:
            return
        has_told = False

        def on_thaw() -> None:
            nonlocal has_told
            if not has_told:
                has_told = True
                with suppress(OSError):
                    control.sendall(b"\n")

        keep_forks(
            msgspec.json.decode(line, type=KeeperRequest),
            sys.stdin.buffer,
            _say,
            on_thaw,
            control.close,
        )


if __name__ == "__main__":
    main()
