"""The command line, on a real store."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from jupyter_cr import __version__
from jupyter_cr.cli import main
from jupyter_cr.errors import (
    CorruptImage,
    NoSuchProcess,
    NoSuchSnapshot,
    StoreBusy,
    Untrusted,
    UsageError,
)
from jupyter_cr.image import Header, KernelFacts, Outcome
from jupyter_cr.image.records import ProcessOutcome
from jupyter_cr.store import Store
from tests.store.harness import twins_of

CONNECTION = json.dumps(
    dict.fromkeys(("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"), 9)
).encode()


HEADER = Header(
    name="one",
    created="2026-01-02T03:04:05.000006+00:00",
    pid=77,
    comm="python3",
    release="6.1",
    machine="x86_64",
    tool="0.1.0",
)


def take(
    name: str, note: str = "", pages: bytes | None = None, connection: bytes = b""
) -> Path:
    store = Store()
    kernel = KernelFacts(
        kernel_name="python3",
        connection_file="/run/kernel-7.json",
        connection=connection,
    )
    with store.create(name) as writer:
        writer.add(structs.replace(HEADER, name=name, note=note, kernel=kernel))
        writer.append(os.urandom(8192) if pages is None else pages)
        processes = (
            ProcessOutcome(77, "python3", 12, 40, 3 << 20),
            ProcessOutcome(78, "[bold]", 1, 3, 4096),
        )
        writer.add(Outcome(downtime_ms=9.5, elapsed_ms=50, bytes=5000, processes=processes))
        writer.commit(durable=False)
    return store.path(name)


def pack_of(directory: Path) -> Path:
    """Where the pages are that a snapshot was the first to have."""
    return directory.parent.parent / "packs" / f"{directory.name}.pack"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        return code, *capfd.readouterr()

    return run


Run = Callable[..., tuple[int, str, str]]


def test_list(run: Run) -> None:
    assert run("list", "--json") == (0, "[]\n", "")
    assert "No snapshots yet" in run("list")[1]
    take("one", note="[red]not markup[/red]")
    pack_of(take("two")).write_bytes(b"")
    code, out, _ = run("list", "--json")
    listed = json.loads(out)
    assert code == 0
    assert [(s["name"], s["state"]) for s in listed] == [
        ("one", "durable"),
        ("two", "corrupt"),
    ]
    code, out, err = run("list")
    assert (code, err) == (0, "")
    assert "[red]not markup[/red]" in out
    assert "it should have 8192" in out


def test_show(run: Run) -> None:
    take("one", note="before training")
    code, out, err = run("show", "one")
    assert (code, err) == (0, "")
    for word in (
        "before training",
        "python3",
        "[bold]",
        "3.0 MiB",
        "/run/kernel-7.json",
        "9.5",
    ):
        assert word in out
    shown = json.loads(run("show", "one", "--json")[1])
    assert shown["snapshot"]["state"] == "durable"
    assert shown["header"]["note"] == "before training"
    assert len(shown["outcome"]["processes"]) == 2


def test_verify(run: Run) -> None:
    directory = take("one")
    code, out, _ = run("verify", "one", "--json")
    assert code == 0
    verified = json.loads(out)
    assert verified["name"] == "one"
    assert verified["bytes"] == 8192
    assert "is sound" in run("verify", "one")[1]
    pack_of(directory).write_bytes(b"q" * 8192)
    code, out, err = run("verify", "one")
    assert (code, out) == (CorruptImage.exit_code, "")
    assert "block 0 at offset 0" in err
    assert "Traceback" not in err
    assert json.loads(run("list", "--json")[1])[0]["state"] == "corrupt"


def test_verify_several(run: Run) -> None:
    for name in ("one", "two", "three"):
        take(name)
    code, out, _ = run("verify", "one", "two", "--json")
    assert code == 0
    assert [(v["name"], v["problem"]) for v in json.loads(out)] == [
        ("one", ""),
        ("two", ""),
    ]
    assert run("verify", "one", "none")[0] == NoSuchSnapshot.exit_code
    pack_of(Store().path("two")).write_bytes(b"q" * 8192)
    code, out, _ = run("verify", "--all", "--json")
    assert code == CorruptImage.exit_code
    problems = {v["name"]: v["problem"] for v in json.loads(out)}
    assert problems.keys() == {"one", "two", "three"}
    assert [name for name, problem in problems.items() if problem] == ["two"]
    code, out, _ = run("verify", "--all")
    assert code == CorruptImage.exit_code
    assert "two is damaged: " in out
    for words in (("verify",), ("verify", "one", "--all")):
        code, _, err = run(*words)
        assert code == UsageError.exit_code
        assert "--all" in err


def test_rm(run: Run) -> None:
    take("one")
    take("two")
    take("three")
    assert run("rm", "one", "none")[0] == NoSuchSnapshot.exit_code
    code, out, _ = run("rm", "one", "two")
    assert (code, out.splitlines()[0]) == (0, "Removed: one, two")
    assert "Freed " in out
    with Store().open("three"):
        code, out, _ = run("rm", "three", "--json")
        assert (code, json.loads(out)["held"]) == (0, ["three"])
    assert Store().names() == []


def test_rm_of_what_is_being_saved(run: Run) -> None:
    with Store().create("one"):
        code, out, err = run("rm", "one")
        assert (code, out) == (StoreBusy.exit_code, "") == (17, "")
        assert "still being saved" in err
        assert json.loads(run("list", "--json")[1])[0]["state"] == "saving"
        assert "saving 0%" in run("list")[1]


def test_tag(run: Run) -> None:
    take("one")
    assert run("tag", "one", "b", "[a]") == (0, "[a]\nb\n", "")
    assert run("tag", "one", "--remove", "b", "c") == (0, "[a]\nc\n", "")
    assert json.loads(run("tag", "one", "--json")[1]) == ["[a]", "c"]
    assert "[a] c" in run("list")[1]
    assert "[a] c" in run("show", "one")[1]
    assert run("tag", "one", "a b")[0] == UsageError.exit_code
    assert run("tag", "none", "a")[0] == NoSuchSnapshot.exit_code


def test_list_as_a_tree(run: Run) -> None:
    for name, parent in (
        ("root", ""),
        ("left", "root"),
        ("leaf", "left"),
        ("right", "root"),
    ):
        with Store().create(name, parent=parent) as writer:
            writer.add(HEADER)
            writer.commit(durable=False)
    Store().tag("leaf", ["[tag]"])
    code, out, err = run("list", "--tree")
    assert (code, err) == (0, "")
    lines = [line.split(" durable")[0].rstrip() for line in out.splitlines()]
    assert lines == ["root", "├── left", "│   └── leaf", "└── right"]
    assert "[tag]" in out
    assert "No snapshots yet" not in run("list", "--limit", "1", "--tree")[1]


def test_list_the_newest(run: Run) -> None:
    for name in ("a", "b", "c"):
        take(name)
    listed = json.loads(run("list", "--limit", "2", "--json")[1])
    assert [snapshot["name"] for snapshot in listed] == ["b", "c"]
    assert run("list", "--limit", "0")[0] == UsageError.exit_code


def test_what_is_in_memory_is_told(run: Run) -> None:
    directory = take("one")
    with subprocess.Popen(["sleep", "60"]) as twin:
        (directory / "twins").write_bytes(twins_of(twin.pid))
        code, out, _ = run("list")
        assert (code, "1 snapshot is in memory; that takes " in out) == (0, True)
        assert run("rm", "one")[0] == 0
    assert "in memory" not in run("list")[1]


def test_prune(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        take(name)
    code, out, _ = run("prune", "--policy", "keep last 2", "--dry-run")
    assert (code, out.count("Would be removed: a")) == (0, 1)
    assert "1 go, 2 stay" in out
    assert len(Store().names()) == 3
    pruned = json.loads(run("prune", "--policy", "last 2", "--json")[1])
    assert [snapshot["name"] for snapshot in pruned["removed"]] == ["a"]
    assert sorted(Store().names()) == ["b", "c"]
    code, _, err = run("prune", "--policy", "keep what is good")
    assert code == UsageError.exit_code
    assert "'keep what is good' " in err or "'keep what is good'" in err
    assert "one per hour for a day" in err
    assert run("prune")[0] == UsageError.exit_code
    monkeypatch.setenv("JUPYTER_CR_RETENTION", "last 1")
    assert run("prune")[0] == 0
    assert Store().names() == ["c"]


def test_gc(run: Run) -> None:
    directory = take("one")
    assert run("gc") == (0, "Freed 0 B\n", "")
    stray = directory.with_name("0123456789abcdef")
    stray.mkdir()
    (stray / "pages").write_bytes(bytes(1 << 20))
    code, out, _ = run("gc", "--json")
    assert (code, json.loads(out)["names"]) == (0, [stray.name])
    assert json.loads(out)["bytes"] >= 1 << 20
    (Store().root / "catalogue.sqlite").unlink()
    assert Store().names() == ["one"]


@pytest.mark.parametrize("command", ["show", "verify", "restore", "fork"])
def test_no_such_snapshot(run: Run, command: str) -> None:
    take("before")
    code, out, err = run(command, "befor")
    assert (code, out) == (NoSuchSnapshot.exit_code, "")
    assert err.splitlines() == [
        f"There is no snapshot named befor in {Store().root}.",
        "Did you mean before?",
    ]


def test_no_such_target(run: Run) -> None:
    code, out, err = run("checkpoint", "zz", "--json")
    assert (code, out) == (NoSuchProcess.exit_code, "")
    error = json.loads(err)
    assert error.keys() == {"error", "message", "hint", "exit_code"}
    assert (error["error"], error["exit_code"]) == (
        "NoSuchProcess",
        NoSuchProcess.exit_code,
    )


def test_names_are_checked_before_anything_is_stopped(run: Run) -> None:
    take("one")
    assert run("checkpoint", "1", "--name", "one")[0] == 10
    assert run("checkpoint", "1", "--name", "../one")[0] == UsageError.exit_code
    assert run("checkpoint", str(os.getpid()))[0] == UsageError.exit_code


@pytest.mark.parametrize(
    "words", [("checkpoint",), ("nonsense",), ("list", "--nonsense"), ("rm",)]
)
def test_wrong_usage(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (UsageError.exit_code, "")
    assert "--help tells more" in err
    code, _, err = run(*words, "--json")
    assert code == UsageError.exit_code
    assert json.loads(err)["error"] == "UsageError"


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(NoSuchSnapshot):
        main(["show", "none", "--debug"])
    with pytest.raises(NoSuchSnapshot):
        main(["--debug", "show", "none"])


def test_a_bug_is_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_cr.operations.list_snapshots", lambda **_: 1 / 0)
    code, _, err = run("list")
    assert code == 70
    assert "ZeroDivisionError" in err
    assert "Traceback" not in err


def test_help_and_version(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    commands = (
        *("check", "checkpoint", "list", "show", "rm", "verify", "restore", "fork"),
        *("tag", "prune", "gc"),
    )
    assert all(f"  {command} " in out for command in commands)
    assert run() == (0, out, "")
    assert __version__ in run("--version")[1]


def test_check(run: Run) -> None:
    code, out, _ = run("check", "--json")
    items = json.loads(out)
    assert code in (0, 1)
    assert items
    assert all(item.keys() >= {"name", "ok", "required_for", "advice"} for item in items)
    again, out, _ = run("check")
    assert again == code
    assert all(item["name"] in out for item in items)


def test_a_connection_file_is_for_kernels(run: Run, tmp_path: Path) -> None:
    take("one")
    code, _, err = run("fork", "one", "--connection-file", str(tmp_path / "x.json"))
    assert code == UsageError.exit_code
    assert "not of a Jupyter kernel" in err


def test_a_fork_needs_a_free_file(run: Run, tmp_path: Path) -> None:
    take("one", connection=CONNECTION)
    path = tmp_path / "x.json"
    path.write_bytes(b"somebody's")
    code, _, err = run("fork", "one", "--connection-file", str(path))
    assert code == UsageError.exit_code
    assert f"{path} exists already" in err
    assert path.read_bytes() == b"somebody's"


def test_a_fork_that_fails_leaves_no_connection_file(run: Run, tmp_path: Path) -> None:
    take("one", connection=CONNECTION)
    path = tmp_path / "x.json"
    code, out, err = run("fork", "one", "--connection-file", str(path))
    assert (code != 0, out) == (True, ""), "there is no process in that snapshot"
    assert err
    assert not path.exists()


@pytest.mark.parametrize("words", [("list",), ("list", "--json")])
def test_output_that_nobody_reads(words: tuple[str, ...]) -> None:
    for number in range(3):
        take(str(number))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=30,
        )
    finally:
        os.close(writer)
    assert (result.returncode != 0, result.stderr) == (True, b"")


PROGRAM = "import sys; from jupyter_cr.cli import main; sys.exit(main())"


def run_program(*words: str, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_the_exit_status_is_the_errors() -> None:
    assert run_program("show", "none").returncode == NoSuchSnapshot.exit_code
    assert run_program("list").returncode == 0


def test_heavy_packages_are_imported_only_when_needed() -> None:
    heavy = {"rich", "jupyter_client", "zmq", "asyncio", "IPython", "numpy", "traitlets"}
    program = (
        "import sys; import jupyter_cr.operations; from jupyter_cr.cli import main;"
        f"main(['checkpoint', 'zz', '--json']); print({heavy} & sys.modules.keys())"
    )
    result = run_program(program=program)
    assert result.stdout == "set()\n", result.stderr


def test_a_progress_bar_on_a_terminal_only(tmp_path: Path) -> None:
    take("one", pages=bytes(3 << 20))
    assert run_program("verify", "one").stderr == ""
    leader, terminal = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", PROGRAM, "verify", "one"],
            env={**os.environ, "TERM": "xterm"},
            stdout=subprocess.DEVNULL,
            stderr=terminal,
            timeout=30,
            check=True,
        )
        shown = os.read(leader, 65536).decode()
    finally:
        os.close(leader)
        os.close(terminal)
    assert "verify" in shown
    assert "0%" in shown


def ask(request: object) -> tuple[int, list[dict[str, object]]]:
    line = request if isinstance(request, str) else json.dumps(request)
    result = subprocess.run(
        [sys.executable, "-m", "jupyter_cr.engine"],
        input=line + "\n",
        capture_output=True,
        text=True,
        timeout=30,
    )
    return result.returncode, [json.loads(answer) for answer in result.stdout.splitlines()]


def test_the_engine_as_a_process_of_its_own() -> None:
    take("one")
    code, answers = ask({"op": "verify", "name": "one"})
    assert code == 0
    assert [answer["type"] for answer in answers] == ["progress", "progress", "result"]
    code, (answer,) = ask({"op": "list"})
    assert (code, len(answer["result"])) == (0, 1)
    code, (answer,) = ask({"op": "show", "name": "one"})
    assert answer["result"]["header"]["name"] == "one"
    code, (answer,) = ask({"op": "remove", "names": ["one"]})
    assert (code, answer["result"]) == (0, ["one"])


@pytest.mark.parametrize(
    ("request_", "code", "error"),
    [
        ({"op": "show", "name": "none"}, 9, "NoSuchSnapshot"),
        ({"op": "checkpoint", "target": "zz"}, 3, "NoSuchProcess"),
        ({"op": "nonsense"}, 2, "UsageError"),
        ({"op": "show"}, 2, "UsageError"),
        ({"op": "list", "extra": 1}, 2, "UsageError"),
        ("", 2, "UsageError"),
        ("{", 2, "UsageError"),
    ],
)
def test_errors_of_the_engines_process(request_: object, code: int, error: str) -> None:
    got, answers = ask(request_)
    assert got == code
    assert (answers[-1]["type"], answers[-1]["error"]) == ("error", error)
    assert answers[-1]["exit_code"] == code
    assert answers[-1].keys() >= {"message", "hint", "http_status"}


def test_export_and_import(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr("jupyter_cr.bundles._missing", lambda reader: ("a file",))
    take("one", note="a note")
    bundle = tmp_path / "one.bundle"
    assert run("export", "one", str(bundle)) == (0, f"Snapshot one is in {bundle}\n", "")
    assert bundle.stat().st_mode & 0o777 == 0o600
    code, _, err = run("export", "one", str(bundle))
    assert (code, err.splitlines()[0]) == (UsageError.exit_code, f"{bundle} exists.")
    code, out, _ = run("import", str(bundle), "--name", "two", "--json")
    assert code == 0
    imported = json.loads(out)
    assert (imported["name"], imported["trusted"]) == ("two", True)
    assert imported["missing"] == ["a file"]
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "another's"))
    code, out, _ = run("import", str(bundle))
    assert code == 0
    assert "Snapshot one-2 is here, signed by " in out
    assert "jupyter cr trust one-2" in out
    assert "A restore needs what is not here:\n  a file" in out
    assert "not trusted" in run("list")[1]
    code, _, err = run("fork", "one-2")
    assert code == Untrusted.exit_code
    assert "jupyter cr trust one-2" in err
    assert run("trust", "one", "--signer", "me")[0] == UsageError.exit_code
    trusted = json.loads(run("trust", "one-2", "--signer", "Prof. Ada", "--json")[1])
    assert trusted["trusted"]
    listed = json.loads(run("signers", "--json")[1])
    assert list(listed["trusted"].values()) == ["Prof. Ada"]
    assert listed["own"] not in listed["trusted"]
    assert "Prof. Ada" in run("signers")[1]
    assert json.loads(run("import", str(bundle), "--json")[1])["trusted"]
    assert run("signers", "--remove", "Prof. Ada")[0] == 0
    assert run("signers", "--remove", "Prof. Ada")[0] == UsageError.exit_code
    assert not json.loads(run("import", str(bundle), "--json")[1])["trusted"]


def test_import_of_what_is_no_bundle(run: Run, tmp_path: Path) -> None:
    code, _, err = run("import", str(tmp_path / "none"))
    assert code == UsageError.exit_code
    assert "none cannot be read: No such file" in err
    (tmp_path / "text").write_text("not a bundle")
    code, _, err = run("import", str(tmp_path / "text"))
    assert code == CorruptImage.exit_code
    assert "text is no bundle, or is damaged" in err
