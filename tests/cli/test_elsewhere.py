"""``--store``, push and pull: a kernel goes on on another machine that shares the store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_cr.errors import NameTaken, NoSuchSnapshot, StorageError
from tests.conftest import ROOT, User, a_user
from tests.engine.kernels import CommandError, CommandLine, command_line, kernel


@pytest.fixture
def root() -> Iterator[User]:
    yield from a_user("root")


@pytest.fixture
def cr(root: User) -> Iterator[CommandLine]:
    with command_line(root) as cr:
        yield cr


@pytest.mark.timeout(180)
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_a_kernel_goes_on_on_another_machine(root: User, cr: CommandLine) -> None:
    url = f"file://{root.home}/elsewhere"
    name = f"{cr.prefix}-1"
    with kernel(root) as original:
        original.do("data = list(range(1000))")
        pid = original.value("__import__('os').getpid()")
        taken = cr("checkpoint", str(original.pid), "--name", name, "--store", url)
        assert taken["pushed"]["url"] == url
        assert taken["pushed"]["name"] == taken["name"] == name
        connection_file = original.connection_file
    Path(connection_file).unlink()
    # So that no file of it helps.
    Path(root.environment["JUPYTER_CR_HOME"], "snapshots").rename(root.home / "away")
    environment = {
        **root.environment,
        "JUPYTER_CR_HOME": str(root.home / "another store"),
        "PYTHONPATH": os.pathsep.join((str(ROOT), root.environment["PYTHONPATH"])),
    }
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"),
            *(
                "--net",
                "--ipc",
                "--uts",
                "--",
                root.python,
                "-m",
                "tests.cli.another_machine",
            ),
            *(url, name, connection_file, root.environment["JUPYTER_CR_HOME"]),
        ],
        cwd=root.home,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["before"] == []
    assert said["there"] == [name]
    assert said["restored"]["name"] == name
    assert (said["value"], said["pid"]) == ("499500", pid)
    assert said["forked"] == "1000"
    # The second time it is there already.
    assert said["after"] == [name]


def test_the_commands(root: User, cr: CommandLine) -> None:
    url = f"file://{root.home}/elsewhere"
    with subprocess.Popen(root.command("sleep", "60")) as process:
        name = cr.checkpoint(process.pid)
        process.kill()
    pushed = cr("push", name, url)
    assert pushed["name"] == name
    assert cr("push", name, url, "--as", "other")["bytes"] < pushed["bytes"]
    there = {snapshot["name"]: snapshot for snapshot in cr("list", "--store", url)}
    assert there.keys() == {name, "other"}
    shown = cr("show", "other", "--store", url)
    assert shown["header"]["comm"] == "sleep"
    assert cr("verify", name, "--store", url)["bytes"] == pushed["logical"]
    assert len(cr("verify", "--all", "--store", url)) == 2
    assert cr("pull", "other", url)["name"] == "other"
    assert cr("pull", "other", url, "--as", "third")["name"] == "third"
    with pytest.raises(CommandError) as caught:
        cr("push", name, url)
    assert caught.value.code == NameTaken.exit_code
    assert url in caught.value.text
    assert cr("tag", "other", "good", "--store", url) == ["good"]
    assert cr("rename", "other", "better", "--store", url) == {"name": "better"}
    policy = ("prune", "--policy", "tagged good", "--store", url)
    pruned = cr(*policy, "--dry-run")
    assert [snapshot["name"] for snapshot in pruned["removed"]] == [name]
    assert cr("tag", name, "good", "--store", url) == ["good"]
    assert cr(*policy)["removed"] == []
    assert cr("rm", "better", "--store", url)["names"] == ["better"]
    with pytest.raises(CommandError) as caught:
        cr("restore", "other", "--store", url)
    assert caught.value.code == NoSuchSnapshot.exit_code
    assert cr("gc", "--store", url, "--older-than", "0")["bytes"] == 0
    directory = str(root.home / "a directory")
    assert cr("push", name, directory)["url"] == directory
    assert [s["name"] for s in cr("list", "--store", directory)] == [name]


def test_the_variable(root: User, cr: CommandLine) -> None:
    url = f"file://{root.home}/elsewhere"
    root.environment["JUPYTER_CR_STORE"] = url  # type: ignore[index]
    with subprocess.Popen(root.command("sleep", "60")) as process:
        taken = cr("checkpoint", str(process.pid), "--name", "one")
        with pytest.raises(CommandError) as caught:
            cr("checkpoint", str(process.pid), "--name", "one", "--store", "nosuch://x")
        assert caught.value.code == StorageError.exit_code
        # Found out only when it is written.
        nowhere = "file:///proc/nowhere/store"
        with pytest.raises(CommandError) as caught:
            cr("checkpoint", str(process.pid), "--name", "two", "--store", nowhere)
        assert caught.value.code == StorageError.exit_code
        assert "two was taken, and is here only" in caught.value.text
        assert "jupyter cr push two URL" in caught.value.text
        process.kill()
    assert taken["pushed"]["url"] == url
    assert [s["name"] for s in cr("list")] == ["one"]
    assert cr("pull", "one")["name"] == "one-2"
    cr("rm", "one")
    assert cr("list") == []
    assert {s["name"] for s in cr("list", "--store", "")} == {"one", "one-2", "two"}
