"""Snapshots that are carried from one server to another, in one file."""

from __future__ import annotations

import http.client
import io
import os
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.engine.harness import LIMIT, wait_until
from tests.server.checked import CheckedServer, checked_server
from tests.server.harness import TOKEN

NAME = "as it was, ü"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckedServer]:
    with checked_server(tmp_path_factory.mktemp("here")) as server:
        yield server


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckedServer]:
    """Somebody else's."""
    with checked_server(tmp_path_factory.mktemp("there")) as server:
        yield server


@pytest.fixture(autouse=True)
def clear(here: CheckedServer, there: CheckedServer) -> Iterator[None]:
    yield
    for server in (here, there):
        server.clear()
        assert staged(server) == []


def staged(server: CheckedServer) -> list[Path]:
    """What is on its way into the store or out of it."""
    return list(Path(server.user.environment["JUPYTER_CR_HOME"]).glob(".staging-*"))


def taken(server: CheckedServer, code: str = "x = 6 * 7") -> str:
    """A kernel that has run that, with a snapshot."""
    kernel = server.start_kernel()
    server.run(kernel, code)
    server.do(f"kernels/{kernel}/checkpoint", name=NAME, note="with a note")
    return kernel


def address(server: CheckedServer, verb: str = "bundle") -> str:
    return f"{server.url}jupyter-cr/snapshots/{quote(NAME)}/{verb}"


def exported(server: CheckedServer) -> bytes:
    request = urllib.request.Request(
        address(server), headers={"Authorization": f"token {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:
        assert answer.headers["Content-Type"] == "application/x-tar"
        disposition = answer.headers["Content-Disposition"]
        assert disposition == f"attachment; filename*=UTF-8''{quote(NAME)}.jupyter-cr.tar"
        return bytes(answer.read())


def test_from_one_server_to_another(here: CheckedServer, there: CheckedServer) -> None:
    taken(here)
    bundle = exported(here)
    with there.events() as events:
        result = there.wait(there.fetch("POST", "jupyter-cr/import", bundle)[1])["result"]
        assert {"created", "durable"} <= {e["action"] for e in events.until("durable")}
    assert (result["name"], result["trusted"], result["missing"]) == (NAME, False, [])
    assert len(result["signer"]) == 64
    line = there.get(f"jupyter-cr/snapshots/{quote(NAME)}/summary")
    assert (line["trusted"], line["note"], line["signer"]) == (
        False,
        "with a note",
        result["signer"],
    )

    assert there.fail(f"snapshots/{quote(NAME)}/fork")["error"] == "Untrusted"
    trust = f"jupyter-cr/snapshots/{quote(NAME)}/trust"
    with there.events() as events:
        status, now, _ = there.fetch("POST", trust)
        assert (status, now["trusted"]) == (200, True)
        assert events.until("updated")[-1]["snapshot"] == NAME
    fork = there.do(f"snapshots/{quote(NAME)}/fork")
    assert there.run(fork["kernel_id"], "print(x)") == "42"

    # Where it came from, it is trusted; and has another name, since its own is taken.
    again = here.wait(here.fetch("POST", "jupyter-cr/import", bundle)[1])["result"]
    assert again["trusted"]
    assert again["name"] != NAME
    named = here.fetch("POST", "jupyter-cr/import?name=another", bundle)[1]
    assert here.wait(named)["result"]["name"] == "another"


def test_what_is_no_bundle(there: CheckedServer, here: CheckedServer) -> None:
    taken(here)
    bundle = exported(here)
    changed = bytearray(bundle)
    changed[-20000] ^= 1
    for body in (b"", b"no bundle", bundle[: len(bundle) // 2], bytes(changed)):
        _, task, _ = there.fetch("POST", "jupyter-cr/import?source=a%20file", body)
        problem = there.wait(task)["error"]
        assert problem["error"] == "CorruptImage", len(body)
        assert problem["detail"].startswith("a file "), problem
    # More of it than a pipe takes, and nobody wants it.
    _, task, _ = there.fetch("POST", "jupyter-cr/import", bytes(8 << 20))
    assert there.wait(task)["error"]["error"] == "CorruptImage"
    assert there.snapshot_names() == set()


def test_a_name_that_is_taken(here: CheckedServer) -> None:
    taken(here)
    bundle = exported(here)
    _, task, _ = here.fetch("POST", f"jupyter-cr/import?name={quote(NAME)}", bundle)
    assert here.wait(task)["error"]["error"] == "NameTaken"


def test_there_is_nothing_to_export_or_trust(here: CheckedServer) -> None:
    for verb, path in (("GET", "a/bundle"), ("POST", "a/trust")):
        status, problem, headers = here.fetch(verb, f"jupyter-cr/snapshots/{path}")
        assert (status, problem["error"]) == (404, "NoSuchSnapshot")
        assert "Content-Disposition" not in headers


def test_nobody_else_may(here: CheckedServer) -> None:
    taken(here)
    for verb, path in (
        ("GET", f"jupyter-cr/snapshots/{quote(NAME)}/bundle"),
        ("POST", f"jupyter-cr/snapshots/{quote(NAME)}/trust"),
        ("POST", "jupyter-cr/import"),
    ):
        assert here.fetch(verb, path, token="")[0] == 403, path
    assert all(task["operation"] != "import" for task in running(here))


def running(server: CheckedServer) -> list[dict[str, str]]:
    tasks = server.get("jupyter-cr/tasks")["tasks"]
    return [task for task in tasks if task["state"] == "running"]


def connected(server: CheckedServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)


def test_an_upload_that_is_broken_off(here: CheckedServer, there: CheckedServer) -> None:
    taken(here)
    bundle = exported(here)
    connection = connected(there)
    connection.putrequest("POST", "/jupyter-cr/import")
    connection.putheader("Authorization", f"token {TOKEN}")
    connection.putheader("Content-Length", str(len(bundle)))
    connection.endheaders()
    connection.send(bundle[: len(bundle) // 2])
    wait_until(lambda: running(there) and staged(there), "the upload is being read")
    connection.close()
    wait_until(lambda: not running(there), "it is called off")
    assert there.snapshot_names() == set()
    assert staged(there) == []


def test_a_download_that_is_broken_off(here: CheckedServer) -> None:
    """The pages cannot be packed, so that much more of them is on its way than fits into
    buffers."""
    taken(here, "import os; x = os.urandom(64 << 20)")
    connection = connected(here)
    connection.request(
        "GET",
        f"/jupyter-cr/snapshots/{quote(NAME)}/bundle",
        headers={"Authorization": f"token {TOKEN}"},
    )
    answer = connection.getresponse()
    assert answer.read(512)
    assert staged(here)
    answer.close()
    connection.close()
    wait_until(lambda: not staged(here), "the export is called off")
    assert not here.fetch("DELETE", f"jupyter-cr/snapshots/{quote(NAME)}")[1]


def test_a_snapshot_that_is_damaged(here: CheckedServer) -> None:
    """What is found out before the first byte is an answer."""
    taken(here, "import os; x = os.urandom(8 << 20)")
    store = Path(here.user.environment["JUPYTER_CR_HOME"])
    (pack,) = store.glob("packs/*.pack")
    with pack.open("r+b") as file:
        file.seek(pack.stat().st_size // 2)
        file.write(os.urandom(4096))
    status, problem, _ = here.fetch("GET", f"jupyter-cr/snapshots/{quote(NAME)}/bundle")
    assert (status, problem["error"]) == (500, "CorruptImage")


def test_others_are_served_meanwhile(here: CheckedServer, there: CheckedServer) -> None:
    taken(here, "import os; x = os.urandom(128 << 20)")
    bundle = exported(here)
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        assert tar.getnames()[0] == "bundle.json"
    _, task, _ = there.fetch("POST", "jupyter-cr/import", bundle)
    longest = 0.0
    while running(there):
        began = time.monotonic()
        there.get("api/status")
        longest = max(longest, time.monotonic() - began)
    assert there.wait(task)["state"] == "done"
