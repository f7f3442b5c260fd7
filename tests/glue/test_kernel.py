"""What lives in a kernel: real ones, snapshots by our command line, as both users."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jupyter_cr.kernels.connection import encode_connection, read_connection
from jupyter_cr.kernels.glue_client import find_card, notify, renew_key, tell_kernel
from jupyter_cr.kernels.glue_protocol import Card, Notice
from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import CommandLine, Frontend, Kernel, command_line, kernel

LOGGED = """
import jupyter_cr
log = []
jupyter_cr.on_checkpoint(lambda: log.append('checkpoint'))
jupyter_cr.on_restore(lambda: log.append('restore'))
jupyter_cr.on_fork(lambda: log.append('fork'))
"""


@contextmanager
def glued(
    user: User, code: str = "", *arguments: str
) -> Iterator[tuple[CommandLine, Kernel]]:
    """A kernel with our extension, which has run `code`."""
    arguments = arguments or ("--HistoryManager.enabled=False",)
    with (
        command_line(user) as cr,
        kernel(user, ("--ext=jupyter_cr", *arguments)) as started,
    ):
        started.do(code)
        yield cr, started


@contextmanager
def frontend(connection_file: str | Path | None) -> Iterator[Frontend]:
    assert connection_file is not None
    opened = Frontend.of(connection_file)
    try:
        yield opened
    finally:
        opened.close()


def say(connection: dict[str, Any], **fields: Any) -> Any:
    reply = asyncio.run(notify(connection, Notice(**fields), LIMIT))
    assert reply is not None
    return reply


def test_calling_card(user: User) -> None:
    with glued(user) as (cr, original):
        assert find_card(original.pid) == Card(aborts=True)
        pid, _ = cr.fork(cr.checkpoint(original.pid))
        assert find_card(pid) == Card(aborts=True)
        original.do("%unload_ext jupyter_cr")
        assert find_card(original.pid) is None
        original.do("%load_ext jupyter_cr")
        assert find_card(original.pid) == Card(aborts=True)


def test_a_kernel_without_us_has_no_card(user: User) -> None:
    with kernel(user) as original:
        assert find_card(original.pid) is None
        connection = read_connection(Path(original.connection_file))
        told = tell_kernel(original.pid, connection, "checkpoint", "")
        assert asyncio.run(told) == ()


def test_hooks_run_once_for_each_restore_and_fork(user: User) -> None:
    with glued(user, LOGGED) as (cr, original):
        connection = read_connection(Path(original.connection_file))
        assert say(connection, event="checkpoint").status == "ok"
        name = cr.checkpoint(original.pid)
        _, path = cr.fork(name)
        with frontend(path) as fork:
            # Two messages, and the cells that follow.
            for _ in range(2):
                say(read_connection(Path(str(path))), event="forked", snapshot=name)
            assert fork.run("print(log)") == "['checkpoint', 'fork']"
        cr.restore(name)
        # Nobody says so: the next cell notices.
        original.do("now = list(log)")
        assert original.value("now") == "['checkpoint', 'restore']"
        reply = say(connection, event="restored", snapshot=name)
        assert (reply.status, reply.errors, reply.key_taken) == ("ok", (), False)
        assert original.value("log") == "['checkpoint', 'restore']"


def test_a_busy_kernel_runs_its_hooks(user: User) -> None:
    with glued(user, LOGGED) as (_, original):
        original.client.execute("while log != ['checkpoint']: pass")
        connection = read_connection(Path(original.connection_file))
        assert say(connection, event="checkpoint").errors == ()
        assert original.run("print(log)") == "['checkpoint']"


def test_hooks_that_fail_are_reported(user: User) -> None:
    with glued(user, "import jupyter_cr; jupyter_cr.on_checkpoint(lambda: 1/0)") as (
        _,
        original,
    ):
        connection = read_connection(Path(original.connection_file))
        (problem,) = say(connection, event="checkpoint").errors
        assert "ZeroDivisionError" in problem
        told = tell_kernel(original.pid, connection, "checkpoint", "")
        assert asyncio.run(told) == (problem,)


def test_hooks_that_fail_in_a_copy_are_told_of_once(user: User) -> None:
    with glued(user, "import jupyter_cr; jupyter_cr.on_fork(lambda: 1/0)") as (
        cr,
        original,
    ):
        _, path = cr.fork(cr.checkpoint(original.pid))
        with frontend(path) as fork:
            assert "ZeroDivisionError" in fork.run("1")
            assert "ZeroDivisionError" not in fork.run("1")


def test_nonsense_is_answered(user: User) -> None:
    with glued(user) as (_, original):
        client = original.client
        message = client.session.msg("jupyter_cr_request", {"event": "party"})
        client.control_channel.send(message)
        reply = client.control_channel.get_msg(timeout=LIMIT)["content"]
        assert reply["status"] == "error"
        assert "event" in reply["errors"][0]


@pytest.mark.parametrize("extension", ["--ext=jupyter_cr", "--quiet"])
def test_a_fork_gets_a_key_of_its_own(user: User, extension: str) -> None:
    with command_line(user) as cr, kernel(user, (extension,)) as original:
        name = cr.checkpoint(original.pid)
        pid, path = cr.fork(name)
        assert path is not None
        shared, key = read_connection(Path(path)), secrets.token_hex(32)
        renewed = renew_key(pid, shared, key, snapshot=name, connection_file=path)
        assert asyncio.run(renewed)
        assert asyncio.run(notify(shared, Notice(event="checkpoint"), 1.0)) is None
        Path(path).write_bytes(encode_connection({**shared, "key": key}))
        with frontend(path) as fork:
            assert fork.value("_") == "''"
            # Nothing of ours stays behind in its names.
            assert fork.value("[n for n in globals() if 'key' in n]") == "[]"
        assert original.value("1") == "1"


def test_a_busy_kernel_without_us_keeps_its_key(user: User) -> None:
    with kernel(user) as original:
        original.client.execute("import time; time.sleep(3)")
        connection = read_connection(Path(original.connection_file))
        key = secrets.token_hex(32)
        renewed = renew_key(original.pid, connection, key, snapshot="")
        assert not asyncio.run(renewed)
        # Nor later, when it has come to what was asked.
        assert original.value("1") == "1"
        assert original.value("1") == "1"


def test_a_key_that_comes_too_late_is_not_taken(user: User) -> None:
    with glued(user) as (_, original):
        client = original.client
        late = {"event": "forked", "key": "other", "until": time.time() - 1}
        client.control_channel.send(client.session.msg("jupyter_cr_request", late))
        reply = client.control_channel.get_msg(timeout=LIMIT)["content"]
        assert (reply["status"], reply["key_taken"]) == ("ok", False)
        assert original.value("1") == "1"


def test_a_fork_knows_its_own_ports(user: User) -> None:
    with glued(user) as (cr, original):
        name = cr.checkpoint(original.pid)
        _, path = cr.fork(name)
        assert path is not None
        connection = read_connection(Path(path))
        say(connection, event="forked", snapshot=name, connection_file=path)
        with frontend(path) as fork:
            client = fork.client
            client.control_channel.send(client.session.msg("connect_request", {}))
            reply = client.control_channel.get_msg(timeout=LIMIT)["content"]
            assert reply["shell_port"] == connection["shell_port"]
            assert (
                fork.run("import ipykernel; print(ipykernel.get_connection_file())") == path
            )


def test_history_goes_on_in_sessions_of_its_own(user: User) -> None:
    number = "get_ipython().history_manager.session_number"
    with glued(user, "x = 1", "--HistoryManager.enabled=True") as (cr, original):
        first = original.value(number)
        name = cr.checkpoint(original.pid)
        _, path = cr.fork(name)
        with frontend(path) as fork:
            for _ in range(3):
                assert fork.run("x") == original.run("x") == ""
            fork.do("get_ipython().history_manager.writeout_cache()")
            forked = fork.value(number)
        original.do("get_ipython().history_manager.writeout_cache()")
        assert original.value(number) == first
        cr.restore(name)
        original.settle()
        for _ in range(3):
            assert original.run("x") == ""
        assert original.run("get_ipython().history_manager.writeout_cache()") == ""
        assert len({first, forked, original.value(number)}) == 3


def test_forks_have_random_states_as_they_should(user: User) -> None:
    code = """
import random, ssl, jupyter_cr
import numpy as np
state = lambda: (ssl.RAND_bytes(8), random.random(), np.random.random())
state()
"""
    with glued(user, code) as (cr, original):
        states = []
        for policy in ("never", "fork"):
            original.do(f"jupyter_cr.reseed_after({policy!r})")
            name = cr.checkpoint(original.pid)
            for _ in range(2):
                _, path = cr.fork(name)
                with frontend(path) as fork:
                    states.append(eval(fork.run("print(state())")))
        assert len({openssl for openssl, _, _ in states}) == 4
        # Of `random`, something in ipykernel takes numbers, too, now and then.
        assert states[0][2] == states[1][2]
        (_, *first), (_, *second) = states[2:]
        assert not set(first) & set(second)
        # A restore repeats what happened.
        restored = []
        for _ in range(2):
            cr.restore(name)
            original.do("s = state()")
            restored.append(eval(original.value("s")))
        assert restored[0][2] == restored[1][2] == states[0][2]
        assert restored[0][0] != restored[1][0]


def test_children_of_a_fork_print_there(user: User) -> None:
    child = """
import os, warnings
# Python 3.12 and later say that there are threads.
warnings.simplefilter("ignore")
def child(word):
    if not os.fork():
        print(word, flush=True)
        os._exit(0)
    os.wait()
"""
    with glued(user, child) as (cr, original):
        name = cr.checkpoint(original.pid)
        _, path = cr.fork(name)
        with frontend(path) as fork:
            heard: list[str] = []

            def listen(message: dict[str, Any]) -> None:
                if message["msg_type"] == "stream":
                    heard.append(message["content"]["text"])

            fork.client.execute_interactive("child('of the fork')", output_hook=listen)

            def arrived() -> bool:
                while fork.client.iopub_channel.msg_ready():
                    listen(fork.client.get_iopub_msg(timeout=LIMIT))
                return "".join(heard).strip() == "of the fork"

            wait_until(arrived, "the child's output")
        assert original.run("child('of the original')") in ("", "of the original")


def test_messages_are_numbered_anew(user: User) -> None:
    session = "get_ipython().kernel.session.session"
    with glued(user) as (cr, original):
        first = original.value(session)
        cr.restore(cr.checkpoint(original.pid))
        original.do("1")
        assert original.value(session) != first
