"""The process that runs the engine for a process that no server works for::

    python -m jupyter_cr.glue.helper_process

It is started with a socket as its standard input, output and error. It leaves its parent
and its session, reads a line with a `HelperRequest`, and answers with lines as
`jupyter_cr.engine.__main__` writes them, after one that tells the engine's pid.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from jupyter_cr.engine.identity import Identity
from jupyter_cr.errors import CheckpointRestoreError, NoSuchSnapshot, UsageError
from jupyter_cr.glue.helper import HelperRequest
from jupyter_cr.kernels.connection import (
    encode_connection,
    read_connection,
    write_connection,
)
from jupyter_cr.kernels.glue_client import renew_key, tell_kernel
from jupyter_cr.kernels.lines import encode_line
from jupyter_cr.store import Store
from jupyter_cr.store.keeping import within_policy
from jupyter_cr.store.snapshot import FOR_A_COMPARISON

__all__ = ["main"]

_BEFORE_RESTORE = "before restore"


class _FailedError(Exception):
    """The engine has said what failed, and that line has been sent on."""


def _send(line: bytes) -> None:
    """Whoever asked may have ended: a restore ends it."""
    with suppress(BrokenPipeError):
        while line:
            line = line[os.write(1, line) :]


def _say(kind: str, **fields: Any) -> None:
    _send(msgspec.json.encode({"type": kind, **fields}) + b"\n")


def _run_engine(request: Mapping[str, Any]) -> dict[str, Any]:
    """One operation. All lines but the result are sent on.

    Raises:
        _FailedError: it failed.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "jupyter_cr.engine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
    ) as engine:
        assert engine.stdin is not None
        assert engine.stdout is not None
        _say("started", pid=engine.pid)
        engine.stdin.write(msgspec.json.encode(request) + b"\n")
        engine.stdin.close()
        for line in engine.stdout:
            message = msgspec.json.decode(line)
            if message["type"] == "result":
                result: dict[str, Any] = message["result"]
                return result
            _send(line)
    raise _FailedError


def _checkpoint(request: HelperRequest) -> dict[str, Any]:
    arguments = {k: request.arguments.get(k) for k in ("name", "note", "warm")}
    with within_policy():
        return _run_engine(
            {
                "op": "checkpoint",
                "target": str(request.pid),
                "connection_file": request.connection_file,
                **{key: value for key, value in arguments.items() if value is not None},
            }
        )


def _restore(request: HelperRequest) -> dict[str, Any]:
    name = request.arguments["snapshot"]
    if not _is_of(name, request.identity):
        raise UsageError(
            f"Snapshot {name} is not of this process.",
            f"Bring it back in its own place from a terminal: jupyter cr restore {name}",
        )
    return _replace(request, name)


def _undo(request: HelperRequest) -> dict[str, Any]:
    steps = request.arguments.get("steps", 1)
    own = [
        snapshot.name
        for snapshot in reversed(Store().list())
        if not snapshot.automatic and _is_of(snapshot.name, request.identity)
    ]
    if not 0 < steps <= len(own):
        raise NoSuchSnapshot(
            f"There are {len(own)} snapshots of this process to go back to, not {steps}.",
            "jupyter cr list shows all.",
        )
    return _replace(request, own[steps - 1])


def _is_of(name: str, identity: str) -> bool:
    with Store().open(name) as reader:
        return any(record.text == identity for record in reader.records(Identity))


def _replace(request: HelperRequest, name: str) -> dict[str, Any]:
    if request.arguments.get("keep", True):
        _run_engine(
            {
                "op": "checkpoint",
                "target": str(request.pid),
                "connection_file": request.connection_file,
                "name": Store().suggest_name(f"before-{name}"),
                "automatic": _BEFORE_RESTORE,
            }
        )
    result = _run_engine({"op": "restore", "name": name})
    if path := result.get("connection_file"):
        connection = read_connection(Path(path))
        asyncio.run(tell_kernel(result["pid"], connection, "restored", name))
    return result


def _fork(request: HelperRequest) -> dict[str, Any]:
    name = request.arguments["snapshot"]
    result = _run_engine({"op": "fork", "name": name})
    if path := result.get("connection_file"):
        _renew_key(result["pid"], Path(path), name)
    return {"snapshot": name, "kernel_id": "", "path": "", **result}


def _diff(request: HelperRequest) -> dict[str, Any]:
    before, after = request.arguments["before"], request.arguments.get("after")
    if after is not None:
        return _run_engine({"op": "compare", "before": before, "after": after})
    name = Store().suggest_name(f"now-{before}")
    _run_engine(
        {
            "op": "checkpoint",
            "target": str(request.pid),
            "connection_file": request.connection_file,
            "name": name,
            "warm": True,
            "automatic": FOR_A_COMPARISON,
        }
    )
    try:
        found = _run_engine({"op": "compare", "before": before, "after": name})
    finally:
        Store().remove([name])
    return {**found, "after": ""}


def _renew_key(pid: int, path: Path, snapshot: str) -> None:
    connection, key = read_connection(path), secrets.token_hex(32)
    renewed = renew_key(
        pid, connection, key, snapshot=snapshot, connection_file=os.fspath(path)
    )
    if asyncio.run(renewed):
        content = encode_connection({**connection, "key": key})
        write_connection(path, content, replace=True)


_OPERATIONS = {
    "checkpoint": _checkpoint,
    "restore": _restore,
    "undo": _undo,
    "fork": _fork,
    "diff": _diff,
}


def _answer(request: HelperRequest) -> None:
    try:
        _say("result", result=_OPERATIONS[request.op](request))
    except CheckpointRestoreError as error:
        _say(
            "error",
            error=type(error).__name__,
            message=error.message,
            hint=error.hint,
            exit_code=error.exit_code,
            http_status=error.http_status,
        )
    except _FailedError:
        pass


def _keep_forks(request: HelperRequest) -> None:
    # Imported where needed: the engine.
    from jupyter_cr.glue.forking.keeper import KeeperRequest, keep_forks

    keep_forks(
        KeeperRequest(
            name=request.arguments["name"],
            pid=request.pid,
            connection_file=request.connection_file,
        ),
        sys.stdin.buffer,
        lambda line: _send(encode_line(line)),
    )


def main() -> None:
    """Become nobody's child that the caller could know, and answer its request."""
    if os.fork():
        os._exit(0)
    os.setsid()
    line = sys.stdin.buffer.readline()
    if line:
        request = msgspec.json.decode(line, type=HelperRequest)
        (_keep_forks if request.op == "forks" else _answer)(request)


if __name__ == "__main__":
    main()
