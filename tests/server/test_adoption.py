"""Forks that take their original's place, and what they are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_cr.engine.twin import read_twins
from tests.conftest import User
from tests.engine.harness import wait_until
from tests.server.harness import Server, jupyter_server
from tests.server.test_kinds_of_kernels import require, write_kernel_spec
from tests.server.test_timeline import Kernel


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    with jupyter_server(user) as server:
        yield server


def test_a_fork_is_compared_and_adopted(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    original = server.front_end(kernel_id)
    original.run("x = 1; y = 'the same'")
    fork = server.do(f"kernels/{kernel_id}/fork", document=False, hold=True)
    other = server.front_end(fork["kernel_id"])
    other.run("x = 2; z = [0] * 3")
    # What the original does meanwhile is no difference of the fork's.
    original.run("x = 'meanwhile'")

    found = server.do(f"kernels/{fork['kernel_id']}/diff", before=fork["snapshot"])
    changes = {d["name"]: d["change"] for d in found["variables"]["differences"]}
    assert changes == {"x": "changed", "z": "added"}
    assert server.fetch("DELETE", f"jupyter-cr/snapshots/{fork['snapshot']}")[0] == 204

    answer = server.do(f"kernels/{kernel_id}/adopt", fork=fork["kernel_id"])
    assert answer["kernel_id"] == kernel_id
    assert original.value("x, y, z") == "(2, 'the same', [0, 0, 0])"
    kernels = [kernel["id"] for kernel in server.get("api/kernels")]
    assert kernels == [kernel_id]
    names = {s["name"] for s in server.get("jupyter-cr/snapshots")["snapshots"]}
    assert names == {answer["kept"]}
    server.do(f"kernels/{kernel_id}/restore", snapshot=answer["kept"], keep=False)
    assert original.value("x") == "'meanwhile'"


def test_what_cannot_be_adopted(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    original = server.front_end(kernel_id)
    original.run("x = 1")
    fork_id = server.do(f"kernels/{kernel_id}/fork", document=False)["kernel_id"]
    assert server.get("jupyter-cr/snapshots")["snapshots"] == []
    itself = server.fail(f"kernels/{kernel_id}/adopt", fork=kernel_id)
    assert itself["error"] == "UsageError"
    nobody = "00000000-0000-4000-8000-000000000000"
    missing = server.fail(f"kernels/{kernel_id}/adopt", fork=nobody)
    assert missing["error"] == "NoSuchProcess"

    other = server.front_end(fork_id)
    # inotify cannot be restored.
    other.run("import ctypes; x = 2; fd = ctypes.CDLL(None).inotify_init()")
    problem = server.fail(f"kernels/{kernel_id}/adopt", fork=fork_id)
    assert problem["error"] == "Unsupported"
    assert (original.value("x"), other.value("x")) == ("1", "2")


def test_kernels_of_other_languages(user: User) -> None:
    require("bash_kernel")
    write_kernel_spec(
        user, "bash", ["python", "-m", "bash_kernel", "-f", "{connection_file}"]
    )
    with jupyter_server(user) as server:
        kernel_id = server.open_notebook("a.ipynb", "bash")
        original = server.front_end(kernel_id)
        original.run("number=1")
        fork = server.do(f"kernels/{kernel_id}/fork", document=False, hold=True)
        other = server.front_end(fork["kernel_id"])
        other.run("number=2")
        found = server.do(f"kernels/{fork['kernel_id']}/diff", before=fork["snapshot"])
        assert found["variables"]["problem"]
        server.do(f"kernels/{kernel_id}/adopt", fork=fork["kernel_id"])
        assert original.run("echo $number") == "2"
        store = Path(user.environment["JUPYTER_CR_HOME"])
        noted = store.glob("snapshots/*/twins")
        held = [twin for path in noted for twin in read_twins(path.parent)]
        assert len(held) == 2
    # What nobody has removed goes with the server, those of children, too.
    wait_until(lambda: not any(twin.is_alive for twin in held), "end of the twins")


def test_with_a_timeline(server: Server) -> None:
    """What the fork has brought is a point like any other."""
    kernel = Kernel(server)
    kernel.run("x = 1")
    fork = server.do(f"kernels/{kernel.id}/fork", document=False)["kernel_id"]
    server.front_end(fork).run("x = 2")
    server.do(f"kernels/{kernel.id}/adopt", fork=fork)
    kernel.wait_for_point()
    kernel.run("x = 3")
    kernel.travel(steps=-1)
    assert kernel.value() == "2"
    # What grew from a point is listed as grown from what is listed, too.
    server.do(f"kernels/{kernel.id}/checkpoint", name="late")
    names = {s["name"] for s in server.get("jupyter-cr/snapshots")["snapshots"]}
    for parent in (
        server.get("jupyter-cr/snapshots/late/summary")["parent"],
        server.get("jupyter-cr/snapshots?q=late")["snapshots"][0]["parent"],
    ):
        assert parent in {"", *names}
