from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_cr.store import Store
from tests.store.remotes import lead_to, new_bucket, s3_server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture(scope="session")
def s3_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture
def s3(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a place in a new bucket."""
    lead_to(s3_address, monkeypatch)
    return new_bucket()


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a place for a store."""
    if request.param == "file":
        return f"file://{tmp_path}/elsewhere/store"
    if request.param == "memory":
        return f"memory://{tmp_path.name}/{secrets.token_hex(4)}"
    found: str = request.getfixturevalue("s3")
    return found
