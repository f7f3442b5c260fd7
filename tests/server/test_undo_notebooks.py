"""What the comparison with Kishu runs, with a timeline alone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.benchmarks.kishu import KEPT, OTHER, measure, outcome
from tests.benchmarks.undo import Plain, Timeline
from tests.benchmarks.undo_notebooks import CASES, NOTEBOOKS, Case, Notebook
from tests.conftest import a_user
from tests.server.harness import Server, jupyter_server

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

LOST = {"the content of a file"}
"""As README says."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    for user in a_user("ordinary"):
        with jupyter_server(user, "--KernelManager.shutdown_wait_time=0.5") as running:
            yield running


def skip_without(packages: tuple[str, ...]) -> None:
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_comes_back(server: Server, case: Case) -> None:
    skip_without(case.needs)
    assert outcome(server, "python3", Plain, case) == KEPT
    expected = OTHER if case.name in LOST else KEPT
    assert outcome(server, "python3", Timeline, case) == expected


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_what_it_costs(server: Server, notebook: Notebook) -> None:
    skip_without(notebook.needs)
    costs = measure(server, "python3", Timeline, notebook, 1)
    assert not costs.problem
    assert len(costs.medians) == len(costs.stored) == len(notebook.cells)
