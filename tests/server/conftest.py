"""In the short run, what stands upon the engine is tested as an ordinary user, who is
permitted less."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import User, a_user


@pytest.fixture(params=[pytest.param("root", marks=pytest.mark.long), "ordinary"])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    """As `tests.conftest.user`."""
    yield from a_user(request.param)
