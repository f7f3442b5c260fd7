"""A tree comes back in place: same pids, same ports, whatever has become of it; and
where it cannot, the one that runs goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jupyter_client.threaded import ThreadedKernelClient

from jupyter_cr.engine.machine import Machine
from jupyter_cr.image.frame import VERSION, encode_preamble
from jupyter_cr.image.record_file import RecordEncoder, RecordFile
from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import (
    CommandError,
    CommandLine,
    ask,
    command_line,
    is_alive,
    kernel,
    running,
    served,
    tell,
)


def test_same_client_gets_answers(user: User) -> None:
    with command_line(user) as cr, kernel(user) as one:
        one.do("import os; x = [41]; seen = (os.getpid(), os.getppid())")
        name = cr.checkpoint(one.connection_file)
        one.do("x = None")
        pid = cr.restore(name)
        one.do("x.append(1)")
        assert one.value("x") == "[41, 1]"
        assert one.value("(os.getpid(), os.getppid()) == seen") == "True"
        assert pid != one.pid
        assert not is_alive(one.pid)


def test_outputs_arrive(user: User) -> None:
    """At a front end that, like Jupyter's server, looks after its sockets all the time.
    (A SUB socket of ZeroMQ that has lost its connection subscribes again when its owner
    next looks at it: a client that does nothing in between may miss the first output.)"""
    with command_line(user) as cr, kernel(user) as one:
        client = ThreadedKernelClient(connection_file=one.connection_file)
        client.load_connection_file()
        client.start_channels()
        try:
            arrived: list[dict[str, Any]] = []
            channel: Any = client.iopub_channel
            channel.call_handlers = arrived.append

            def printed(message_id: str) -> str:
                return "".join(
                    message["content"]["text"]
                    for message in list(arrived)
                    if message["msg_type"] == "stream"
                    and message["parent_header"].get("msg_id") == message_id
                )

            first = client.execute("print('first')")
            wait_until(lambda: printed(first) == "first\n", "the first output")
            name = cr.checkpoint(one.connection_file)
            for number in range(3):
                cr.restore(name)
                sent = client.execute(f"print({number})")
                wait_until(lambda s=sent: printed(s), f"output {number}")
                assert printed(sent) == f"{number}\n"
        finally:
            client.stop_channels()


def test_of_a_tree_that_is_gone(user: User) -> None:
    """Killed and reaped before."""
    with command_line(user) as cr, kernel(user) as one:
        one.do("x = 41")
        name = cr.checkpoint(one.pid)
        one.process.kill()
        one.process.wait()
        cr.restore(name)
        assert one.value("x") == "41"


def test_of_a_zombie(user: User) -> None:
    """Killed, and its parent has not asked yet."""
    with command_line(user) as cr, kernel(user) as one:
        one.do("x = 41")
        name = cr.checkpoint(one.pid)
        os.kill(one.pid, signal.SIGKILL)
        cr.restore(name)
        assert one.value("x") == "41"
        assert one.process.wait() == -signal.SIGKILL


def test_twice_in_a_row(user: User) -> None:
    with command_line(user) as cr, kernel(user) as one:
        one.do("x = 1")
        name = cr.checkpoint(one.pid)
        first = cr.restore(name)
        second = cr.restore(name)
        assert first != second
        assert not is_alive(first)
        one.do("x += 1")
        assert one.value("x") == "2"
        cr.restore(name)
        assert one.value("x") == "1"


def test_of_a_restored_one_that_is_gone(user: User) -> None:
    with command_line(user) as cr, kernel(user) as one:
        one.do("x = 1")
        name = cr.checkpoint(one.pid)
        os.kill(cr.restore(name), signal.SIGKILL)
        cr.restore(name)
        assert one.value("x") == "1"


def test_older_snapshots_stay_of_use(user: User) -> None:
    """Back and forth between three, of the original and of what was restored."""
    with command_line(user) as cr, served(user, "x = 0\nserve()") as process:
        names = [cr.checkpoint(process.pid)]
        pid = cr.restore(names[0])
        for number in (1, 2):
            tell(pid, f"x = {number}")
            names.append(cr.checkpoint(pid))
        for number in (0, 2, 1, 0, 2):
            pid = cr.restore(names[number])
            assert ask(pid, "x") == number


def test_two_at_once(user: User) -> None:
    """There is one tree then; whoever came second is told, if they met."""
    with command_line(user) as cr, served(user, "x = 1\nserve()") as process:
        name = cr.checkpoint(process.pid)
        for _ in range(3):
            both = [
                subprocess.Popen(
                    cr.argv("restore", name),
                    cwd=user.home,
                    env=dict(user.environment),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for _ in range(2)
            ]
            done = [(*one.communicate(timeout=LIMIT), one.returncode) for one in both]
            assert 0 in [code for _, _, code in done]
            for _, error, code in done:
                assert not code or '"RestoreError"' in error
            wait_until(lambda: len(cr.keepers()) == 3, "keepers of one tree")
            (pid,) = (json.loads(out)["pid"] for out, _, _ in done if out and is_here(out))
            assert ask(pid, "x") == 1


def is_here(answer: str) -> bool:
    return is_alive(json.loads(answer)["pid"])


# --- what cannot be restored, and then nothing is ended -------------------------------


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def of_manifest(path: Path) -> Path:
    return path / "manifest"


def of_pages(path: Path) -> Path:
    return path.parent.parent / "packs" / f"{path.name}.pack"


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def from_the_future(directory: Path) -> None:
    path = of_manifest(directory)
    now = encode_preamble(VERSION)
    assert path.read_bytes().startswith(now)
    later = encode_preamble(VERSION + 1)
    path.write_bytes(later + path.read_bytes()[len(now) :])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit of the manifest's head": (lambda d: flip(of_manifest(d), 3), "CorruptImage"),
    "a bit of a record": (
        lambda d: flip(of_manifest(d), of_manifest(d).stat().st_size // 2),
        "CorruptImage",
    ),
    "a bit of the trailer": (lambda d: flip(of_manifest(d), -2), "CorruptImage"),
    "a bit of the first page": (lambda d: flip(of_pages(d), 1), "CorruptImage"),
    "a bit of the last page": (lambda d: flip(of_pages(d), -1), "CorruptImage"),
    "a bit of some page": (
        lambda d: flip(of_pages(d), of_pages(d).stat().st_size // 2),
        "CorruptImage",
    ),
    "a short manifest": (
        lambda d: cut(of_manifest(d), of_manifest(d).stat().st_size - 1),
        "CorruptImage",
    ),
    "short pages": (
        lambda d: cut(of_pages(d), of_pages(d).stat().st_size - 4096),
        "CorruptImage",
    ),
    "no pages": (lambda d: of_pages(d).unlink(), "CorruptImage"),
    "a future version": (from_the_future, "FutureImage"),
    "no snapshot": (shutil.rmtree, "NoSuchSnapshot"),
}


def assert_refused(cr: CommandLine, name: str, error: str, pid: int) -> str:
    """Both ways back are refused with that error, the running tree goes on, and nothing
    half-built is left."""
    before = ask(pid, "x")
    for how in ("restore", "fork"):
        with pytest.raises(CommandError) as caught:
            cr(how, name)
        assert f'"{error}"' in caught.value.text
        assert "Traceback" not in caught.value.text
        assert ask(pid, "x") == before
        assert is_alive(pid)
        assert not cr.keepers()
    return str(caught.value.text)


def test_damaged_image(user: User) -> None:
    with command_line(user) as cr, served(user, "x = 1\nserve()") as process:
        name = cr.checkpoint(process.pid)
        path = cr.path(name)
        files = (of_manifest(path), of_pages(path), path / "signature")
        sound = [file.read_bytes() for file in files]
        for damage, error in DAMAGE.values():
            damage(path)
            assert_refused(cr, name, error, process.pid)
            path.mkdir(mode=0o700, exist_ok=True)
            for file, content in zip(files, sound, strict=True):
                file.write_bytes(content)
            for file in (path, *files):
                os.chown(file, user.uid, user.uid)
        tell(process.pid, "x = 2")
        assert ask(cr.restore(name), "x") == 1


def test_another_linux(user: User) -> None:
    """Whose vdso is another one."""
    with command_line(user) as cr, served(user, "x = 1\nserve()") as process:
        name = cr.checkpoint(process.pid)
        path = of_manifest(cr.path(name))
        encoder = RecordEncoder()
        for record in RecordFile(path.read_bytes(), path):
            if isinstance(record, Machine):
                record = msgspec.structs.replace(record, vdso="0" * 32)
            encoder.add(record)
        path.write_bytes(encoder.whole())
        cr("trust", name)
        said = assert_refused(cr, name, "RestoreError", process.pid)
        assert "vdso" in said


SMALL = """
#include <unistd.h>
int number(void);
int main(void) { for (;;) { usleep(10000); if (number() != 5) return 1; } }
"""


@pytest.mark.parametrize("which", ["program", "libsmall.so"])
@pytest.mark.parametrize("what", ["changed", "gone"])
def test_program_or_library_is_not_what_it_was(user: User, which: str, what: str) -> None:
    cc = shutil.which("cc") or shutil.which("gcc")
    if cc is None:
        pytest.skip("there is no C compiler")
    home = user.home

    def compiled(number: int, suffix: str = "") -> None:
        (home / "small.c").write_text(f"int number(void) {{ return {number}; }}\n")
        (home / "main.c").write_text(SMALL + f"/* */ const int version = {number};\n")
        library, program = home / f"libsmall.so{suffix}", home / f"program{suffix}"
        link = [str(library), "-Wl,-rpath," + str(home)]
        soname = "-Wl,-soname,libsmall.so"
        for command in (
            [cc, "-shared", "-fPIC", soname, "-o", str(library), str(home / "small.c")],
            [cc, "-o", str(program), str(home / "main.c"), *link],
        ):
            subprocess.run(command, check=True, timeout=LIMIT)
            Path(command[command.index("-o") + 1]).chmod(0o755)

    compiled(5)
    with command_line(user) as cr, running(user, str(home / "program")) as process:
        name = cr.checkpoint(process.pid)
        kept = home / f"{which}.kept"
        (home / which).rename(kept)
        if what == "changed":
            compiled(6, ".new")
            (home / f"{which}.new").rename(home / which)
        for how in ("restore", "fork"):
            with pytest.raises(CommandError, match=which) as caught:
                cr(how, name)
            assert '"FileChanged"' in caught.value.text
            assert is_alive(process.pid)
        assert not cr.keepers()
        kept.rename(home / which)
        pid = cr.restore(name)
        assert is_alive(pid)


def test_file_that_was_open_is_gone(user: User) -> None:
    code = "x = 1\nfile = open('data.txt', 'w+')\nserve()"
    with command_line(user) as cr, served(user, code) as process:
        name = cr.checkpoint(process.pid)
        (user.home / "data.txt").rename(user.home / "kept.txt")
        said = assert_refused(cr, name, "RestoreError", process.pid)
        assert "data.txt" in said
        (user.home / "kept.txt").rename(user.home / "data.txt")
        assert ask(cr.restore(name), "x") == 1


def test_directory_is_gone(user: User) -> None:
    code = "import os\nx = 1\nos.mkdir('below'); os.chdir('below')\nserve()"
    with command_line(user) as cr, served(user, code) as process:
        name = cr.checkpoint(process.pid)
        (user.home / "below").rename(user.home / "kept")
        said = assert_refused(cr, name, "RestoreError", process.pid)
        assert "below" in said


def test_port_is_somebody_elses(user: User) -> None:
    """A restore says so, before it ends anything; a fork has ports of its own."""
    code = """
import socket
x = 1
extra = socket.create_server(("127.0.0.2", 0))
serve()
"""
    with command_line(user) as cr, served(user, code) as process:
        name = cr.checkpoint(process.pid)
        port = ask(process.pid, "extra.getsockname()[1]")
        tell(process.pid, "extra.close()")
        with socket.create_server(("127.0.0.2", port)):
            with pytest.raises(CommandError) as caught:
                cr.restore(name)
            assert '"AddressTaken"' in caught.value.text
            assert str(port) in caught.value.text
            assert ask(process.pid, "x") == 1
            pid, _ = cr.fork(name)
            assert ask(pid, "extra.getsockname()[1]") != port
        assert ask(cr.restore(name), "extra.getsockname()[1]") == port
