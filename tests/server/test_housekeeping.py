"""What goes by itself: snapshots that are not to be kept, and twins."""

from __future__ import annotations

from tests.conftest import User
from tests.engine.harness import wait_until
from tests.engine.kernels import CommandLine, served
from tests.server.harness import Server, end_all, jupyter_server, start_server


def test_what_is_not_to_be_kept_goes(user: User) -> None:
    option = "--SnapshotExtension.retention=last 2, tagged keep"
    with jupyter_server(user, option) as server:
        kernel_id = server.open_notebook("a.ipynb")

        def names() -> list[str]:
            page = server.get("jupyter-cr/snapshots")
            return [snapshot["name"] for snapshot in page["snapshots"]]

        for name in ("a", "b", "c"):
            server.do(f"kernels/{kernel_id}/checkpoint", name=name)
        assert names() == ["c", "b"]
        server.fetch("PATCH", "jupyter-cr/snapshots/b", {"tags": ["keep"]})
        for name in ("d", "e"):
            server.do(f"kernels/{kernel_id}/checkpoint", name=name)
        assert names() == ["e", "d", "b"]
        hibernated = server.do(f"kernels/{kernel_id}/hibernate")["name"]
        assert names() == [hibernated, "e", "b"]


def test_a_policy_that_makes_no_sense_removes_nothing(user: User) -> None:
    option = "--SnapshotExtension.retention=keep what is good"
    with jupyter_server(user, option) as server:
        kernel_id = server.open_notebook("a.ipynb")
        for _ in range(2):
            server.do(f"kernels/{kernel_id}/checkpoint")
        assert server.get("jupyter-cr/snapshots")["total"] == 2
        assert "all snapshots are kept" in server.log.read_text()
        assert "'keep what is good'" in server.log.read_text()


def states(server: Server) -> dict[str, str]:
    page = server.get("jupyter-cr/snapshots")
    return {snapshot["name"]: snapshot["state"] for snapshot in page["snapshots"]}


TAKEN_OVER = "Twins of 2 snapshots taken over"


def states_in(cr: CommandLine) -> dict[str, str]:
    return {snapshot["name"]: snapshot["state"] for snapshot in cr("list")}


def test_twins_cost_what_they_may(user: User) -> None:
    with jupyter_server(user, "--SnapshotExtension.twins_count=2") as server:
        kernel_id = server.open_notebook("a.ipynb")
        assert server.get("jupyter-cr/twins") == {"snapshots": [], "bytes": 0}
        for name in ("a", "b", "c"):
            server.front_end(kernel_id).run(f"{name} = bytes(1 << 20)")
            server.do(f"kernels/{kernel_id}/checkpoint", name=name, warm=True)
        server.do(f"kernels/{kernel_id}/checkpoint", name="d")
        expected = {"a": "durable", "b": "warm", "c": "warm", "d": "durable"}
        assert states(server) == expected
        twins = server.get("jupyter-cr/twins")
        assert twins["snapshots"] == ["c", "b"]
        assert 0 < twins["bytes"] < 1 << 30
        forked = server.do("snapshots/a/fork", document=False)["kernel_id"]
        assert server.front_end(forked).run("print(len(a))") == str(1 << 20)


def test_twins_end_with_their_server(user: User) -> None:
    """Those of others do not."""
    cr = CommandLine(user)
    with served(user, "x = 1\nserve()") as process, jupyter_server(user) as server:
        kernel_id = server.open_notebook("a.ipynb")
        server.front_end(kernel_id).run("x = 1")
        server.do(f"kernels/{kernel_id}/checkpoint", name="one", warm=True)
        server.fetch("PATCH", "jupyter-cr/snapshots/one", {"name": "renamed"})
        cr("checkpoint", str(process.pid), "--name", "other", "--warm")
        assert states(server) == {"renamed": "warm", "other": "warm"}
        server.stop()
        assert states_in(cr) == {"renamed": "durable", "other": "warm"}


def test_twins_survive_where_that_is_wanted(user: User) -> None:
    cr = CommandLine(user)
    with jupyter_server(user, "--SnapshotExtension.twins_survive=True") as server:
        kernel_id = server.open_notebook("a.ipynb")
        server.front_end(kernel_id).run("x = 1")
        server.do(f"kernels/{kernel_id}/checkpoint", name="one", warm=True)
        server.stop()
        assert [snapshot["state"] for snapshot in cr("list")] == ["warm"]


def test_the_next_server_takes_over_twins(user: User) -> None:
    """Those of one that was killed end with it; those of the command line do not."""
    cr = CommandLine(user)
    with served(user, "x = 1\nserve()") as process, jupyter_server(user) as server:
        kernel_id = server.open_notebook("a.ipynb")
        server.front_end(kernel_id).run("x = 1")
        cr("checkpoint", str(process.pid), "--name", "other", "--warm")
        for name in ("one", "two"):
            server.do(f"kernels/{kernel_id}/checkpoint", name=name, warm=True)
        server.kill()
        assert states_in(cr) == {"other": "warm", "one": "warm", "two": "warm"}
        # Somebody who wants his own to survive has no hand in those of others.
        option = "--SnapshotExtension.twins_survive=True"
        for options, then in (
            ((option,), {"other": "warm", "one": "warm", "two": "warm"}),
            (("--SnapshotExtension.twins_minutes=60",), {"other": "warm"}),
        ):
            following = start_server(user, *options)
            try:
                if options != (option,):
                    wait_until(lambda: TAKEN_OVER in server.log.read_text(), TAKEN_OVER)
                assert states(following)["two"] == "warm"
            finally:
                following.stop()
            expected = {"other": "durable", "one": "durable", "two": "durable"} | then
            assert states_in(cr) == expected
        end_all(user)


def test_those_taken_over_are_within_limits(user: User) -> None:
    cr = CommandLine(user)
    with jupyter_server(user) as server:
        kernel_id = server.open_notebook("a.ipynb")
        server.front_end(kernel_id).run("x = 1")
        for name in ("one", "two"):
            server.do(f"kernels/{kernel_id}/checkpoint", name=name, warm=True)
        server.kill()
        following = start_server(user, "--SnapshotExtension.twins_count=1")
        try:
            expected = {"one": "durable", "two": "warm"}
            wait_until(lambda: states(following) == expected, "the older ones end")
        finally:
            following.stop()
        assert states_in(cr) == {"one": "durable", "two": "durable"}
