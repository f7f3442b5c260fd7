"""Whatever is sent, the answer is one that the OpenAPI description foretells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_cr.server import handlers
from tests.server.checked import CheckedServer, checked_server
from tests.server.harness import TOKEN

OPENAPI = Path(handlers.__file__).parent / "openapi.yaml"
ITS_SNAPSHOT = "before-training"
"""As the examples in the description name it. Fuzzing would fork it many times."""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
"""All that schemathesis has, but for those that take a 409 or 404 for a mistake, or 1.0 for
an integer."""


@pytest.mark.parametrize(
    "phases",
    [
        "examples,coverage",
        pytest.param("fuzzing", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
def test_whatever_is_sent(phases: str, tmp_path: Path) -> None:
    with checked_server(tmp_path) as server:
        kernel_id = server.start_kernel()
        if phases != "fuzzing":
            server.do(f"kernels/{kernel_id}/checkpoint", name=ITS_SNAPSHOT)
        finished = subprocess.run(
            [
                sys.executable,
                "-m",
                "schemathesis.cli",
                "run",
                str(OPENAPI),
                f"--url={server.url}",
                f"--header=Authorization: token {TOKEN}",
                f"--phases={phases}",
                # What is no JSON is sent in test_bundles.py.
                "--exclude-path=/jupyter-cr/import",
                "--max-examples=200",
                f"--checks={','.join(CHECKS)}",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=850 if phases == "fuzzing" else 45,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert_all_is_well(server, kernel_id)


def assert_all_is_well(server: CheckedServer, kernel_id: str) -> None:
    for task in server.get("jupyter-cr/tasks")["tasks"]:
        ended = server.wait(task)
        # Nothing was a bug of ours.
        assert ended["error"] is None or ended["error"]["status"] < 500, ended
    assert server.run(kernel_id, "print('here')") == "here"
