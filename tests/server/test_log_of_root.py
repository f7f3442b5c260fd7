"""A server whose output goes to a file that its user may not open, as a hub's may."""

from __future__ import annotations

import os

import pytest

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.engine.kernels import CommandLine
from tests.server.harness import jupyter_server

SAY = "import os; os.write({fd}, b'said by {name}\\n')"
FIND = (
    "import os\n"
    "print(next(fd for fd in range(64) if os.path.exists(f'/proc/self/fd/{fd}')"
    " and os.readlink(f'/proc/self/fd/{fd}').endswith('server.log')))"
)


@pytest.mark.parametrize("user", ["ordinary"], indirect=True)
def test_snapshots_are_taken(user: User) -> None:
    with jupyter_server(user) as server:
        os.chown(server.log, 0, 0)
        server.log.chmod(0o600)
        kernel_id = server.open_notebook("a.ipynb")
        front_end = server.front_end(kernel_id)
        fd = front_end.run(FIND)
        server.do(f"kernels/{kernel_id}/checkpoint", name="one")

        def says(name: str) -> None:
            front_end.run(SAY.format(fd=fd, name=name))
            wait_until(
                lambda: f"said by {name}\n" in server.log.read_text(), f"{name} in the log"
            )

        says("the original")
        restored = server.do(f"kernels/{kernel_id}/restore", snapshot="one")
        assert not [each for each in restored["warnings"] if "log" in each]
        says("the restored one")
        forked = server.do("snapshots/one/fork")
        front_end = server.front_end(forked["kernel_id"])
        says("the fork")

        front_end = server.front_end(kernel_id)
        lock = f"import fcntl; fcntl.flock({fd}, fcntl.LOCK_"
        front_end.run(lock + "EX)")
        said = server.fail(f"kernels/{kernel_id}/checkpoint")
        assert "is locked" in said["detail"]
        assert "unlock it" in said["hint"]
        front_end.run(lock + "UN)")

        # A command's own output goes elsewhere: it has nothing to give.
        alone = CommandLine(user)("fork", "one")
        assert "/dev/null stands in for it" in " ".join(alone["warnings"])
