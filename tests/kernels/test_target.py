"""Which process a word means: real processes that name connection files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from jupyter_cr.errors import NoSuchProcess, UsageError
from jupyter_cr.kernels.target import Target, resolve_target

Start = Callable[..., "subprocess.Popen[str]"]

WAIT = "print('ready', flush=True); import sys; sys.stdin.read()"

LISTEN = f"""
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
{WAIT}
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program that prints a line when ready and ends when its input does."""
    with ExitStack() as stack:

        def start(*command: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=cwd,
                )
            )
            assert process.stdin is not None
            assert process.stdout is not None
            stack.callback(process.stdin.close)
            assert process.stdout.readline() == "ready\n"
            return process

        yield start


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    directory = tmp_path / "runtime"
    directory.mkdir()
    return directory


def connection_file(runtime: Path, kernel_id: str, shell_port: int = 1) -> Path:
    path = runtime / f"kernel-{kernel_id}.json"
    ports = dict.fromkeys(("iopub_port", "stdin_port", "control_port", "hb_port"), 2)
    content = {"shell_port": shell_port, **ports, "key": "k", "kernel_name": "python3"}
    path.write_text(json.dumps(content))
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_by_id_by_its_beginning_by_file_and_by_pid(runtime: Path, start: Start) -> None:
    path = connection_file(runtime, "abc-123")
    connection_file(runtime, "abd-123")
    process = start(sys.executable, "-c", WAIT, "-f", path)
    expected = Target(process.pid, path, "abc-123", "python3")
    for text in ("abc-123", "abc", str(path), str(process.pid)):
        assert resolve_target(text) == expected
    assert expected.comm.startswith("python")


def test_an_id_that_another_begins_with(runtime: Path, start: Start) -> None:
    path = connection_file(runtime, "abc")
    connection_file(runtime, "abcd")
    process = start(sys.executable, "-c", WAIT, "-f", path)
    assert resolve_target("abc").pid == process.pid


def test_an_id_of_digits(runtime: Path, start: Start) -> None:
    path = connection_file(runtime, "99999999-1")
    process = start(sys.executable, "-c", WAIT, path)
    assert resolve_target("99999999").pid == process.pid


def test_a_pid_that_is_no_kernel(start: Start) -> None:
    process = start(sys.executable, "-c", WAIT)
    assert resolve_target(str(process.pid)) == Target(process.pid)


@pytest.mark.parametrize("form", ["--f={}", "--IPKernelApp.connection_file={}", "{}"])
def test_other_ways_to_say_it(runtime: Path, start: Start, form: str) -> None:
    path = connection_file(runtime, "abc")
    process = start(sys.executable, "-c", WAIT, form.format(path))
    assert resolve_target("abc").pid == process.pid
    assert resolve_target(str(process.pid)).connection_file == path


def test_relative_and_linked_paths(
    runtime: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = connection_file(runtime, "abc")
    (tmp_path / "link").symlink_to(runtime)
    process = start(sys.executable, "-c", WAIT, "-f", f"link/{path.name}", cwd=tmp_path)
    assert resolve_target("abc").pid == process.pid
    monkeypatch.chdir(runtime)
    assert resolve_target(path.name).connection_file == path
    assert resolve_target(str(process.pid)).connection_file == path


def test_the_topmost_wrapper_is_taken(runtime: Path, start: Start) -> None:
    path = connection_file(runtime, "abc")
    script = f"'{sys.executable}' -c \"{WAIT}\" -f '{path}'; true"
    shell = start("bash", "-c", script)
    target = resolve_target("abc")
    assert (target.pid, target.comm) == (shell.pid, "bash")
    assert resolve_target(str(shell.pid)).connection_file == path


def test_a_wrapper_without_the_path_is_not(runtime: Path, start: Start) -> None:
    path = connection_file(runtime, "abc")
    run = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAIT!r}, *OPEN])"
    run = run.replace("*OPEN", f"'-f', open({str(runtime / 'x')!r}).read()")
    (runtime / "x").write_text(str(path))
    parent = start(sys.executable, "-c", run)
    target = resolve_target("abc")
    assert target.pid != parent.pid
    assert resolve_target(str(parent.pid)).connection_file == path


@pytest.mark.parametrize(
    "words",
    [("jupyter-console", "--existing"), ("jupyter-kernel", "-f"), ("jupyter", "-f")],
)
def test_front_ends_are_no_kernels(
    runtime: Path, tmp_path: Path, start: Start, words: tuple[str, str]
) -> None:
    path = connection_file(runtime, "abc")
    program = tmp_path / words[0]
    program.write_text(WAIT)
    start(sys.executable, program, words[1], path)
    with pytest.raises(NoSuchProcess, match="No process has"):
        resolve_target("abc")
    kernel = start(sys.executable, "-c", WAIT, "-f", path)
    assert resolve_target("abc").pid == kernel.pid


def test_of_several_the_one_that_listens(runtime: Path, start: Start) -> None:
    port = free_port()
    path = connection_file(runtime, "abc", port)
    other = start(sys.executable, "-c", WAIT, "--existing", path)
    kernel = start(sys.executable, "-c", LISTEN, str(port), path)
    assert resolve_target("abc").pid == kernel.pid
    assert resolve_target(str(other.pid)).pid == other.pid


def test_several_that_cannot_be_told_apart(runtime: Path, start: Start) -> None:
    path = connection_file(runtime, "abc")
    pids = [start(sys.executable, "-c", WAIT, path).pid for _ in range(2)]
    with pytest.raises(UsageError, match="Several processes") as caught:
        resolve_target("abc")
    assert all(str(pid) in caught.value.message for pid in pids)


def test_a_command_below_the_shell_that_names_the_kernel(
    runtime: Path, start: Start
) -> None:
    path = connection_file(runtime, "abc")
    kernel = start(sys.executable, "-c", WAIT, "-f", path)
    resolve = "import sys; from jupyter_cr.kernels.target import resolve_target as r"
    script = f"'{sys.executable}' -c '{resolve}; print(r(sys.argv[1]).pid)' '{path}'; true"
    result = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.stdout == f"{kernel.pid}\n", result.stderr


def test_not_this_process_nor_one_above_it() -> None:
    for pid in (os.getpid(), os.getppid()):
        with pytest.raises(UsageError, match="runs in or under"):
            resolve_target(str(pid))


def test_several_ids_with_that_beginning(runtime: Path) -> None:
    connection_file(runtime, "abc")
    connection_file(runtime, "abd")
    with pytest.raises(UsageError, match="2 kernels' ids begin with ab: abc, abd"):
        resolve_target("ab")


@pytest.mark.parametrize("text", ["zz", "", "99999999", "-1", "a*", "٣"])
def test_nothing_of_that_name(runtime: Path, text: str) -> None:
    connection_file(runtime, "abc")
    with pytest.raises(NoSuchProcess) as caught:
        resolve_target(text)
    assert "abc" in caught.value.hint


def test_a_kernel_that_has_ended(runtime: Path) -> None:
    path = connection_file(runtime, "abc")
    with pytest.raises(NoSuchProcess, match="No process has") as caught:
        resolve_target(str(path))
    assert "ended" in caught.value.hint


def test_a_file_that_is_no_connection_file(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    for text in (str(tmp_path / "notes.json"), str(tmp_path / "none.json"), str(tmp_path)):
        with pytest.raises(UsageError):
            resolve_target(text)


def test_words_that_are_fifos_or_long_are_left_alone(tmp_path: Path, start: Start) -> None:
    fifo = tmp_path / "fifo.json"
    os.mkfifo(fifo)
    large = tmp_path / "large.json"
    large.write_bytes(b"x" * 100_000)
    process = start(sys.executable, "-c", WAIT, fifo, large)
    assert resolve_target(str(process.pid)) == Target(process.pid)


def test_a_real_kernel(runtime: Path) -> None:
    from jupyter_client.blocking.client import BlockingKernelClient
    from jupyter_client.manager import KernelManager

    manager = KernelManager(connection_file=str(runtime / "kernel-real-1.json"))
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = manager.client()
        assert isinstance(client, BlockingKernelClient)
        client.start_channels()
        try:
            client.wait_for_ready(timeout=30)
            target = resolve_target("real")
            assert target.pid == getattr(manager.provisioner, "pid", None)
            assert target.kernel_name == "python3"
        finally:
            client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)
        manager.context.destroy()
