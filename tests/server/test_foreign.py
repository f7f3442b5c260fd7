"""Kernels that another provisioner looks after, because the user chose that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import User
from tests.server.harness import Server, jupyter_server


@pytest.fixture
def server(user: User) -> Iterator[Server]:
    option = "--KernelProvisionerFactory.default_provisioner_name=local-provisioner"
    with jupyter_server(user, option) as running:
        yield running


def test_snapshot_and_restore(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    front_end = server.front_end(kernel_id)
    front_end.run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    front_end.run("x = 2")
    server.do(f"kernels/{kernel_id}/restore", snapshot="one")
    # Without our extension in the kernel, IPython remarks on its history, too.
    assert front_end.run("print(x)").splitlines()[0] == "1"
    request = front_end.begin("while True: pass")
    server.fetch("POST", f"api/kernels/{kernel_id}/interrupt")
    assert front_end.reply(request).content["ename"] == "KeyboardInterrupt"
    assert not {"dead", "restarting"} & set(front_end.states())


def test_fork_says_what_is_needed(server: Server) -> None:
    kernel_id = server.open_notebook("a.ipynb")
    server.front_end(kernel_id).run("x = 1")
    server.do(f"kernels/{kernel_id}/checkpoint", name="one")
    problem = server.fail("snapshots/one/fork")
    assert problem["status"] == 409
    assert "jupyter-cr-provisioner" in problem["hint"]
    assert list(server.kernels()) == [kernel_id]
