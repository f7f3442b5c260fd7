"""What a test has another machine do: in namespaces of its own, with a store of its own.

Arguments: the store elsewhere, the snapshot's name, its connection file, and the directory
of the first machine's store, which this one does not see. Prints JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.engine.kernels import COMMAND, Frontend

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def cr(*words: str) -> Any:
    done = subprocess.run(
        [sys.executable, *COMMAND, *words, "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main(url: str, name: str, connection_file: str, hidden: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", hidden], check=True)
    assert os.listdir(hidden) == []
    with socket.socket() as any_socket:
        # Of a new network namespace, it is down (network_namespaces(7)).
        request = struct.pack("16sH14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)
    said: dict[str, Any] = {"before": cr("list", "--store", "")}
    said["there"] = [snapshot["name"] for snapshot in cr("list", "--store", url)]
    cr("verify", name, "--store", url)
    said["restored"] = cr("restore", name, "--store", url)
    assert Path(connection_file).exists()
    frontend = Frontend.of(connection_file)
    said["value"] = frontend.value("sum(data)")
    said["pid"] = frontend.value("__import__('os').getpid()")
    frontend.do("data.append(1)")
    frontend.close()
    forked = cr("fork", name, "--store", url)
    frontend = Frontend.of(forked["connection_file"])
    said["forked"] = frontend.value("len(data)")
    frontend.close()
    said["after"] = [snapshot["name"] for snapshot in cr("list", "--store", "")]
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
