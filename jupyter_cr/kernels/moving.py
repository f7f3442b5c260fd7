"""Kernels that change hands: what one has that is its user's alone is taken from it before
others get its state, and they give it theirs.

That is done by code that a Python kernel runs, silently, and it leaves no names behind. In
other languages there is no such thing: their kernels move where users have the same paths,
as in containers.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_cr.errors import TargetError
from jupyter_cr.kernels.glue_client import ask_kernel, kernel_client

__all__ = ["move_in", "move_out"]

_LIMIT_S = 10.0

_OWN = (
    *("HOME", "USER", "LOGNAME", "MAIL", "PWD", "OLDPWD", "TMPDIR"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
    *("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_CR_HOME"),
    *("IPYTHONDIR", "JUPYTERHUB_USER", "JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN"),
    *("JPY_SESSION_NAME", "JUPYTER_CR_KEY_FILE"),
)
"""Environment variables that say who the user is, and where things of theirs are."""

_OUT = """
def _jupyter_cr_move_out():
    import os, stat
    from IPython import get_ipython
    shell = get_ipython()
    history = shell.history_manager
    thread = getattr(history, "save_thread", None)
    if thread is not None:
        thread.stop()
        history.save_thread = None
    history.using_thread = False
    if history.hist_file != ":memory:":
        history.db.close()
        history.hist_file = ":memory:"
        history.init_db()
        history.new_session()
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        try:
            with open(f"/proc/self/fdinfo/{name}") as facts:
                flags = int(facts.read().split("flags:")[1].split()[0], 8)
            if stat.S_ISREG(os.fstat(int(name)).st_mode) and (
                flags & os.O_ACCMODE == os.O_WRONLY and flags & os.O_APPEND
                and os.readlink(f"/proc/self/fd/{name}").startswith("/")
            ):
                os.dup2(null, int(name), inheritable=int(name) < 3)
        except OSError:
            pass
    os.close(null)
    os.chdir("/")
try:
    _jupyter_cr_move_out()
finally:
    del _jupyter_cr_move_out
"""
"""The history is the user's, and a file; so are the logs that output goes to, and where
the kernel was."""

_IN = """
def _jupyter_cr_move_in(environment, directory):
    import os
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.chdir(directory)
try:
    _jupyter_cr_move_in({environment!r}, {directory!r})
finally:
    del _jupyter_cr_move_in
"""


def move_out(connection: Mapping[str, Any]) -> bool:
    """Take from a kernel what is its user's alone.

    Returns:
        Whether that could be done: it is a Python kernel.

    Raises:
        TargetError: it is one, and it failed, or does not answer.
    """
    return asyncio.run(_run(connection, _OUT))


async def move_in(
    connection: Mapping[str, Any], directory: Path, environment: Mapping[str, str] = {}
) -> bool:
    """Give a kernel the present user's environment, and a directory to be in.

    Args:
        environment: in addition to the present process's.

    Returns, Raises:
        As `move_out`.
    """
    known = {**os.environ, **environment}
    own = {name: known.get(name) for name in _OWN}
    return await _run(connection, _IN.format(environment=own, directory=str(directory)))


async def _run(connection: Mapping[str, Any], code: str) -> bool:
    until = time.monotonic() + _LIMIT_S
    content = {
        "code": code,
        "silent": True,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }
    async with kernel_client(connection) as client:
        shell = client.shell_channel
        info = await ask_kernel(client, shell, "kernel_info_request", {}, until)
        if info is not None and info.get("implementation") != "ipython":
            return False
        reply = info and await ask_kernel(client, shell, "execute_request", content, until)
    if not reply or reply.get("status") != "ok":
        why = f"{reply.get('ename')}: {reply.get('evalue')}" if reply else "no answer"
        raise TargetError(
            f"The kernel could not be made ready for another user: {why}.",
            "Take a snapshot of it while it is idle, and try again.",
        )
    return True
