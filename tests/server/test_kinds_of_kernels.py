"""Kernels of other languages, with pictures and child processes; and those that cannot be
snapshotted or brought back just now, which say so and go on. All with a real server."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.server.harness import FrontEnd, Server, jupyter_server


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as running:
        yield running


def require(module: str) -> None:
    """Skip without it; it is for kernels, and need not be imported here."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def write_kernel_spec(user: User, name: str, argv: Sequence[str]) -> None:
    directory = Path(user.environment["JUPYTER_DATA_DIR"], "kernels", name)
    directory.mkdir(parents=True)
    spec = {"argv": argv, "display_name": name, "language": name}
    (directory / "kernel.json").write_text(json.dumps(spec))


def printed(messages: Sequence[dict[str, Any]]) -> str:
    return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")


def wait_for_output(front_end: FrontEnd, request: str, text: str) -> None:
    front_end.wait_for(
        lambda _: text in printed(front_end.of(request)), f"{text} is printed", LIMIT
    )


def descendants(server: Server) -> list[psutil.Process]:
    """Of the server: its kernels, and whatever those have started; not the engines that
    wait to be asked."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if not _is_spare(child)]


def _is_spare(process: psutil.Process) -> bool:
    try:
        is_engine = process.cmdline()[-2:] == ["-m", "jupyter_cr.engine"]
        return is_engine and not process.children()
    except psutil.Error:
        return False


def assert_refused(problem: Any, kind: str, status: int, *words: str) -> None:
    """It says what is wrong, and what to do."""
    assert (problem["error"], problem["status"]) == (kind, status), problem
    assert all(word in problem["detail"] for word in words), problem
    assert problem["hint"], problem


SHELL_STATE = """\
number=41; list=(a b c); export EXPORTED=yes; add() { number=$((number + 1)); }
mkdir -p below; cd below; exec 7> log
sleep 1000 & child=$!"""

LOOK = """\
add; echo $number ${list[*]} $EXPORTED ${PWD##*/} $$ $child $(jobs -p)
echo written >&7; kill -0 $child && ps -o comm= -p $child"""


@pytest.mark.long
def test_shell(user: User) -> None:
    """A kernel in another language, which nothing of ours is loaded into."""
    require("bash_kernel")
    write_kernel_spec(
        user, "bash", ["python", "-m", "bash_kernel", "-f", "{connection_file}"]
    )
    with jupyter_server(user) as server:
        kernel_id = server.open_notebook("a.ipynb", "bash")
        front_end = server.front_end(kernel_id)
        front_end.run(SHELL_STATE)
        server.do(f"kernels/{kernel_id}/checkpoint", name="one")
        first = front_end.run(LOOK).split()
        assert first[:6] == ["42", "a", "b", "c", "yes", "below"]
        assert first[7] == first[8]
        assert first[9] == "sleep"
        front_end.reply(front_end.execute("number=0; kill $child; cd /; unset -f add"))

        server.do(f"kernels/{kernel_id}/restore", snapshot="one")
        assert front_end.run(LOOK).split() == first
        assert not {"dead", "restarting"} & set(front_end.states())
        interrupt(server, kernel_id, front_end)
        assert front_end.run("add; echo $number") == "43"

        forked = server.do("snapshots/one/fork", path="b.ipynb")
        other = server.front_end(forked["kernel_id"])
        assert other.run(LOOK).split() == first
        interrupt(server, forked["kernel_id"], other)
        # It has its own ports, and nobody could tell it of a key of its own.
        connections = [
            json.loads(Path(file).read_text())
            for file in (connection_file(user, kernel_id), forked["connection_file"])
        ]
        assert connections[0]["shell_port"] != connections[1]["shell_port"]
        assert not forked["key_renewed"]
        assert connections[0]["key"] == connections[1]["key"]
        assert "key" in forked["warnings"][0]

        for each in (forked["kernel_id"], kernel_id):
            assert server.fetch("DELETE", f"api/kernels/{each}")[0] == 204
        wait_until(lambda: not descendants(server), "end of all processes")


def connection_file(user: User, kernel_id: str) -> Path:
    return Path(user.environment["JUPYTER_RUNTIME_DIR"], f"kernel-{kernel_id}.json")


def interrupt(server: Server, kernel_id: str, front_end: FrontEnd) -> None:
    """In the middle of a command of a shell. Between two of them bash_kernel loses it."""
    request = front_end.execute("sleep 999")
    wait_until(lambda: ["sleep", "999"] in command_lines(server), "the command runs")
    assert server.fetch("POST", f"api/kernels/{kernel_id}/interrupt")[0] == 204
    assert front_end.reply(request).status in ("abort", "aborted", "error")
    assert ["sleep", "999"] not in command_lines(server)


def command_lines(server: Server) -> list[list[str]]:
    found = []
    for process in descendants(server):
        with suppress(psutil.NoSuchProcess):
            found.append(process.cmdline())
    return found


FIGURE = """\
import io, hashlib
import numpy as np
import matplotlib.pyplot as plt
%matplotlib inline
%config InlineBackend.close_figures = False
figure, (left, right) = plt.subplots(1, 2)
line, = left.plot([1, 4, 9])
picture = right.imshow(np.arange(12).reshape(3, 4))
right.set_title("picture")"""

DRAW = """\
assert plt.gcf() is figure and plt.fignum_exists(figure.number)
plt.gcf().canvas.draw()
print(hashlib.sha256(plt.gcf().canvas.buffer_rgba()).hexdigest())"""


def test_figure(server: Server) -> None:
    """An open one is drawn as it was, and can be drawn on."""
    require("matplotlib")
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run(FIGURE)
    before = shown(front_end)
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    front_end.run("left.plot([9, 4, 1]); right.clear()")
    assert shown(front_end) != before
    forked = server.do("snapshots/one/fork")
    server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    for each in (front_end, server.front_end(forked["kernel_id"])):
        assert shown(each) == before
        each.run("left.plot([9, 4, 1])")
        assert shown(each) != before


def shown(front_end: FrontEnd) -> tuple[str, str]:
    """The open figure: a hash of its pixels, and the PNG as a front end gets it."""
    reply = front_end.reply(front_end.execute(DRAW + "\nplt.show()"))
    assert reply.status == "ok", reply.content
    (png,) = [
        m["content"]["data"]["image/png"]
        for m in reply.messages
        if m["msg_type"] == "display_data"
    ]
    return reply.text.strip(), png


# It is half-way as long as it takes, and does not end before it is let.
COUNT = """\
!for i in 1 2 3 4; do echo $i; sleep 0.1; done; \
until [ -e half ]; do sleep 0.05; done; \
for i in 5 6 7 8; do echo $i; sleep 0.1; done; \
until [ -e end ]; do sleep 0.05; done; echo 9"""


def test_command_in_the_middle_of_its_output(server: Server) -> None:
    """The rest of it arrives, for the request that had asked for it. A fork goes on with
    it, too; who looks at it later finds it busy, and hears the rest."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    request = front_end.execute(COUNT)
    wait_for_output(front_end, request, "4")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    (server.root / "half").touch()
    wait_for_output(front_end, request, "8")
    at = len(front_end.of(request))
    server.do(f"kernels/{kernel_id}/restore", snapshot="one", keep=False)
    forked = server.do("snapshots/one/fork")
    assert server.kernels() == {kernel_id: "busy", forked["kernel_id"]: "busy"}
    other = server.front_end(forked["kernel_id"])
    (server.root / "end").touch()
    reply = front_end.reply(request)
    assert reply.status == "ok"
    before, after = (printed(m).split() for m in (reply.messages[:at], reply.messages[at:]))
    assert (before, after) == (list("12345678"), list("56789"))
    wait_for_output(other, request, "9")
    for each in (front_end, other):
        assert each.run("print(_exit_code)") == "0"
    wait_until(
        lambda: server.kernels() == {kernel_id: "idle", forked["kernel_id"]: "idle"},
        "all are idle",
    )


ADDER = "total=0; while read n; do total=$((total + n)); echo $total; done; exit 3"
CHILDREN = f"""\
import asyncio, subprocess
from subprocess import PIPE
adder, pipes = ["bash", "-c", {ADDER!r}], dict(stdin=PIPE, stdout=PIPE)
child = subprocess.Popen(adder, **pipes)
other = await asyncio.create_subprocess_exec(*adder, **pipes)
async def add(n):
    line = b"%d\\n" % n
    child.stdin.write(line)
    child.stdin.flush()
    other.stdin.write(line)
    return int(child.stdout.readline()), int(await other.stdout.readline())"""

# The cell is in the middle of it.
AWAIT = """\
slow = await asyncio.create_subprocess_exec(
    "bash", "-c", "echo; until [ -e go ]; do sleep 0.05; done; echo gone; exit 4",
    stdout=PIPE)
await slow.stdout.readline()
print("begun", flush=True)
said, _ = await slow.communicate()
print(said, slow.returncode)"""


def test_child_processes(server: Server) -> None:
    """Those of `subprocess`, and those of `asyncio` in a cell that awaits them."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run(CHILDREN)
    assert front_end.run("print(await add(5))") == "(5, 5)"
    request = front_end.execute(AWAIT)
    wait_for_output(front_end, request, "begun")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    forked = server.do("snapshots/one/fork")
    server.do(f"kernels/{kernel_id}/restore", snapshot="one", keep=False)
    (server.root / "go").touch()
    assert front_end.reply(request).text.split() == ["begun", "b'gone\\n'", "4"]
    for each in (front_end, server.front_end(forked["kernel_id"])):
        assert each.run("print(said, slow.returncode)") == "b'gone\\n' 4"
        assert each.run("print(await add(7))") == "(12, 12)"
        each.run("child.stdin.close(); other.stdin.close()")
        assert each.run("print(child.wait(), await other.wait())") == "3 3"


# Ends, and lets go, with its standard input.
TRACE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
if libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None):
    sys.exit(f"errno {ctypes.get_errno()}")
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def debugger(user: User, pid: int) -> Iterator[int]:
    """A tracer of somebody else's; its pid."""
    with subprocess.Popen(
        user.command(user.python, "-c", TRACE, str(pid)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


def test_debugger_is_attached(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    pid = int(front_end.run("import os; x = 1; print(os.getpid())"))
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    front_end.run("x = 2")
    with debugger(server.user, pid) as tracer:
        for problem in (
            server.fail(f"kernels/{kernel_id}/checkpoint"),
            server.fail(f"kernels/{kernel_id}/fork"),
            server.fail(f"kernels/{kernel_id}/restore", snapshot="one"),
        ):
            assert_refused(problem, "AlreadyTraced", 409, str(tracer))
        assert front_end.run("print(os.getpid(), x)") == f"{pid} 2"
        home = Path(server.user.environment["JUPYTER_CR_HOME"])
        assert len(os.listdir(home / "snapshots")) == 1
        # Ending what nobody wants to keep is always possible.
        server.do(f"kernels/{kernel_id}/restore", snapshot="one", keep=False)
        assert front_end.run("print(x)") == "1"
    server.do(f"kernels/{kernel_id}/checkpoint", name="two")


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(user: User) -> Iterator[Path]:
    """The user's store is on a file system of its own."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("no file system can be mounted")
    store = Path(user.environment["JUPYTER_CR_HOME"])
    store.mkdir()
    options = f"size=1g,mode=700,uid={user.uid},gid={user.uid}"
    mount("-t", "tmpfs", "-o", options, "tmpfs", str(store))
    yield store
    subprocess.run(["umount", str(store)], check=True)


def leave_room(disk: Path, size: int) -> None:
    """Make a tmpfs as small as what it holds and `size` bytes."""
    found = os.statvfs(disk)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    mount("-o", f"remount,size={used + size}", str(disk))


def test_disk_is_full(small_disk: Path, server: Server) -> None:
    """Nothing half-done remains, and what needs no room can still be done."""
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    # What has not changed would take no room.
    front_end.run("import os; x = 2; y = os.urandom(16 << 20)")
    for room, warm in ((8 << 20, False), (8 << 20, True), (0, False)):
        leave_room(small_disk, room)
        problem = server.fail(f"kernels/{kernel_id}/checkpoint", name="two", warm=warm)
        assert_refused(problem, "StorageError", 507)
        assert "JUPYTER_CR_HOME" in problem["hint"]
        assert len(os.listdir(small_disk / "snapshots")) == 1
    assert_refused(server.fail(f"kernels/{kernel_id}/fork"), "StorageError", 507)
    problem = server.fail(f"kernels/{kernel_id}/restore", snapshot="one")
    assert_refused(problem, "StorageError", 507)
    assert problem["not_kept"]
    assert "keep" in problem["hint"]
    assert len(os.listdir(small_disk / "snapshots")) == 1
    assert server.get("jupyter-cr/snapshots")["total"] == 1
    assert front_end.run("print(x)") == "2"
    server.do(f"kernels/{kernel_id}/restore", snapshot="one", keep=False)
    other = server.front_end(server.do("snapshots/one/fork")["kernel_id"])
    assert [each.run("print(x)") for each in (front_end, other)] == ["1", "1"]
    assert server.fetch("DELETE", "jupyter-cr/snapshots/one")[0] == 204
    assert os.listdir(small_disk / "snapshots") == []


def install_python(user: User) -> Path:
    """An interpreter of the user's own, and again where it is not what it was."""
    code = "import os, sys; print(os.path.realpath(sys.executable), sys.base_prefix)"
    executable, prefix = user.run(user.python, "-c", code).stdout.split()
    own = user.home / "python" / "bin" / Path(executable).name
    if not own.parent.exists():
        own.parent.mkdir(parents=True)
        (user.home / "python" / "lib").symlink_to(Path(prefix) / "lib")
    replace(own, executable)
    return own


def replace(program: Path, new: str) -> None:
    """As package managers do: what runs keeps the file that it has."""
    program.unlink(missing_ok=True)
    shutil.copy(new, program)


def test_python_is_not_what_it_was(user: User) -> None:
    python = install_python(user)
    launch = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_kernel_spec(user, "own", [str(python), *launch])
    with jupyter_server(user) as server:
        kernel_id = server.open_notebook("a.ipynb", "own")
        front_end = server.front_end(kernel_id)
        front_end.run("x = 1")
        server.do(f"kernels/{kernel_id}/checkpoint", name="one")
        front_end.run("x = 2")
        restore = f"kernels/{kernel_id}/restore"
        python.unlink()
        problem = server.fail(restore, snapshot="one")
        assert_refused(problem, "FileChanged", 409, str(python))
        replace(python, "/bin/sh")
        for operation in (restore, f"kernels/{kernel_id}/fork"):
            problem = server.fail(operation, snapshot="one")
            assert_refused(problem, "FileChanged", 409, str(python))
        # What runs was not to be kept after all.
        home = Path(user.environment["JUPYTER_CR_HOME"])
        assert len(os.listdir(home / "snapshots")) == 1
        assert front_end.run("print(x)") == "2"
        assert list(server.kernels()) == [kernel_id]
        # A snapshot that is taken now needs no file that is gone.
        server.do(f"kernels/{kernel_id}/checkpoint", name="two")
        front_end.run("x = 3")
        server.do(restore, snapshot="two", keep=False)
        assert front_end.run("print(x)") == "2"
        install_python(user)
        server.do(restore, snapshot="one", keep=False)
        assert front_end.run("print(x)") == "1"
