"""Places for stores elsewhere: directories, memory, and a real S3 API server."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "a secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}

LIMIT_S = 30


@contextmanager
def s3_server(directory: Path) -> Iterator[str]:
    """moto's server, on a free port of loopback; its URL."""
    log = directory / "s3.log"
    with open(log, "wb") as file:
        words = ("-m", "moto.server", "-H", "127.0.0.1", "-p", "0")
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        yield _address(process, log)
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        text = log.read_text()
        if found := re.search(r"http://127\.0\.0\.1:\d+", text):
            return found[0]
        assert process.poll() is None, text
        time.sleep(0.05)
    raise AssertionError(f"no S3 server: {log.read_text()}")


def lead_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all who speak S3 do so with the server there."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address}.items():
        monkeypatch.setenv(name, value)


def new_bucket() -> str:
    """The URL of a place in it."""
    import s3fs

    name = f"bucket-{secrets.token_hex(4)}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/snapshots of a class"
