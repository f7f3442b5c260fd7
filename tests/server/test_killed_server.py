"""kill -9 of the server, and the next one: kernels and snapshots are all there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.engine.kernels import command_line, is_alive
from tests.server.harness import Server, end_all, start_server


@contextmanager
def killed_and_started(server: Server) -> Iterator[Server]:
    """The server is killed, and another one started in its place."""
    server.kill()
    other = start_server(server.user)
    try:
        yield other
    finally:
        other.stop()
        end_all(server.user)


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    running = start_server(user)
    try:
        yield running
    finally:
        running.stop()
        end_all(user)


def test_kernels_are_adopted(server: Server) -> None:
    """Untouched, restored and forked ones, at their notebooks, in the middle of a cell;
    interrupt, restart and shutdown work on each."""
    untouched = server.open_notebook("a.ipynb")
    server.front_end(untouched).run("x = 'untouched'")
    restored = server.open_notebook("b.ipynb")
    server.front_end(restored).run("x = 'restored'")
    server.do(f"kernels/{restored}/checkpoint", name="one")
    server.do(f"kernels/{restored}/restore", snapshot="one", keep=False)
    forked = server.do("snapshots/one/fork", path="c.ipynb", document=False)["kernel_id"]
    server.front_end(forked).run("x = 'forked'")
    counting = server.open_notebook("d.ipynb")
    front_end = server.front_end(counting)
    front_end.run("import time; n = 0")
    front_end.execute("while n < 30: n += 1; time.sleep(0.1)")
    wait_until(lambda: server.kernels()[counting] == "busy", "the cell runs")
    with killed_and_started(server) as other:
        kernels = [untouched, restored, forked, counting]
        wait_until(lambda: set(kernels) == set(other.kernels()), "adoption")
        for kernel_id, path in zip(kernels, "abcd", strict=True):
            assert other.open_notebook(f"{path}.ipynb") == kernel_id
        for kernel_id, value in zip(
            kernels[:3], ["untouched", "restored", "forked"], strict=True
        ):
            assert other.front_end(kernel_id).run("print(x)") == value
        assert other.front_end(counting).run("print(n)") == "30"
        for kernel_id in kernels:
            again = other.front_end(kernel_id)
            request = again.begin("while True: pass")
            other.fetch("POST", f"api/kernels/{kernel_id}/interrupt")
            assert again.reply(request).content["ename"] == "KeyboardInterrupt"
        other.do(f"kernels/{untouched}/checkpoint", name="two")
        other.do(f"kernels/{untouched}/restore", snapshot="two")
        other.do(f"kernels/{restored}/restore", snapshot="one")
        for kernel_id in kernels:
            status, _, _ = other.fetch("POST", f"api/kernels/{kernel_id}/restart")
            assert status == 200
            assert other.front_end(kernel_id).run("print('x' in globals())") == "False"
            assert other.fetch("DELETE", f"api/kernels/{kernel_id}")[0] == 204


def test_kernels_end_with_an_orderly_server(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    pid = int(server.front_end(kernel_id).run("import os; print(os.getpid())"))
    assert pid
    server.stop()
    other = start_server(server.user)
    try:
        assert other.kernels() == {}
        names = {s["name"] for s in other.get("jupyter-cr/snapshots")["snapshots"]}
        assert "one" in names
    finally:
        other.stop()


def test_killed_in_the_middle(server: Server) -> None:
    check_killed(server, "restore", (0.25,))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("operation", ["checkpoint", "restore", "fork"])
def test_killed_at_any_time(server: Server, operation: str) -> None:
    check_killed(server, operation, [0.02 + 0.03 * number for number in range(20)])


def check_killed(server: Server, operation: str, delays: Sequence[float]) -> None:
    """At several instants of each operation: the kernel goes on, or is what it was
    restored to; the snapshot from before is sound, and so are all others."""
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="before")
    server.front_end(kernel_id).run("x = 2")
    for number, delay in enumerate(delays):
        if operation == "checkpoint":
            server.begin(f"kernels/{kernel_id}/checkpoint", name=f"killed-{number}")
        elif operation == "restore":
            server.begin(f"kernels/{kernel_id}/restore", snapshot="before")
        else:
            server.begin("snapshots/before/fork", document=False)
        time.sleep(delay)
        server.kill()
        again = start_server(server.user)
        server.__dict__.update(again.__dict__)
        wait_until(lambda: kernel_id in server.kernels(), "adoption")
        said = server.front_end(kernel_id).run("print(x)")
        assert said in (("1", "2") if operation == "restore" else ("2",))
    with command_line(server.user) as cr:
        for snapshot in cr("list"):
            cr("verify", snapshot["name"])
    server.do(f"kernels/{kernel_id}/restore", snapshot="before")
    assert server.front_end(kernel_id).run("print(x)") == "1"


def test_kernel_that_ended_meanwhile(server: Server) -> None:
    """Nobody is told of it for ever."""
    kernel_id = server.open_notebook("a.ipynb")
    pid = int(server.front_end(kernel_id).run("import os; print(os.getpid())"))
    server.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "its end")
    again = start_server(server.user)
    try:
        assert again.kernels() == {}
        assert "Traceback" not in server.log.read_text()
        records = Path(server.user.environment["JUPYTER_RUNTIME_DIR"]) / "jupyter-cr"
        wait_until(lambda: not list(records.glob("kernel-*")), "the record is gone")
    finally:
        again.stop()


def test_two_servers(server: Server) -> None:
    """A server leaves the kernels of another one that lives alone."""
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    other = start_server(server.user)
    try:
        assert other.kernels() == {}
        problem = other.fail(f"kernels/{kernel_id}/restore", snapshot="one")
        assert problem["status"] == 409
        assert str(server.process.pid) in problem["detail"]
        forked = other.do("snapshots/one/fork", document=False)
        assert other.front_end(forked["kernel_id"]).run("print(x)") == "1"
    finally:
        other.stop()
    assert server.front_end(kernel_id).run("print(x)") == "1"


def test_without_survival(user: User) -> None:
    """Where it is switched off, a kernel ends with its server, as it always did."""
    server = start_server(user, "--SnapshotProvisioner.survive_server=False")
    try:
        kernel_id = server.open_notebook("a.ipynb")
        said = server.front_end(kernel_id).run("import os; print(os.getpid())")
        server.process.send_signal(signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{said}").exists(), "end of the kernel")
    finally:
        server.kill()
        end_all(user)
