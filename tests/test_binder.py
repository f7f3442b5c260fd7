"""binder/: what repo2docker builds is what pyproject.toml asks for."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BINDER = ROOT / "binder"


def requirements(text: str) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {line for line in lines if line}


def test_requirements_are_those_of_the_project() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {*project["dependencies"], *project["optional-dependencies"]["lab"]}
    assert requirements((BINDER / "requirements.txt").read_text()) == asked


def test_python_is_one_that_the_project_runs_on() -> None:
    text = (BINDER / "runtime.txt").read_text()
    found = re.fullmatch(r"python-3\.(\d+)\n", text)
    assert found is not None, text
    oldest = re.search(
        r'^requires-python = ">=3\.(\d+)"$', (ROOT / "pyproject.toml").read_text(), re.M
    )
    assert oldest is not None
    assert int(found[1]) >= int(oldest[1])


def test_post_build_is_a_program() -> None:
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
