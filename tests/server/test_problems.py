from __future__ import annotations

import msgspec
import pytest
from tornado.web import HTTPError, MissingArgumentError

from jupyter_cr import errors
from jupyter_cr.server.problems import problem_of


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n != "printable"])
def test_each_error_of_ours_is_a_problem(name: str) -> None:
    cls = getattr(errors, name)
    problem = problem_of(cls("Process 7 is gone.", "Start it again."))
    assert problem.error == name
    assert (problem.status, problem.exit_code) == (cls.http_status, cls.exit_code)
    assert (problem.detail, problem.hint) == ("Process 7 is gone.", "Start it again.")
    assert problem.type.startswith("https://")
    assert problem.title.replace(" ", "").lower() == name.lower()


def test_what_one_looks_like() -> None:
    problem = problem_of(errors.NoSuchSnapshot("There is no snapshot named a.", "Look."))
    assert msgspec.to_builtins(problem) == {
        "type": "https://schema.jupyter.org/jupyter_cr/problems/no-such-snapshot",
        "title": "No such snapshot",
        "status": 404,
        "detail": "There is no snapshot named a.",
        "hint": "Look.",
        "error": "NoSuchSnapshot",
        "exit_code": 9,
        "not_kept": False,
    }


@pytest.mark.parametrize(
    ("error", "status", "title", "detail"),
    [
        (HTTPError(404), 404, "Not Found", "Not Found"),
        (HTTPError(400, "100 % wrong"), 400, "Bad Request", "100 % wrong"),
        (HTTPError(403, "%s may not", "Jane"), 403, "Forbidden", "Jane may not"),
        (HTTPError(418, reason="Short"), 418, "Short", "Short"),
        (HTTPError(599), 599, "Error", "Error"),
        (MissingArgumentError("q"), 400, "Bad Request", "Missing argument q"),
    ],
)
def test_errors_of_http(error: HTTPError, status: int, title: str, detail: str) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.title, problem.detail) == (status, title, detail)
    assert (problem.type, problem.error) == ("about:blank", "HTTPError")


def test_a_bug_is_one() -> None:
    problem = problem_of(KeyError("key"))
    assert (problem.status, problem.error, problem.exit_code) == (500, "EngineError", 70)
    assert "KeyError" in problem.detail
    assert "log" in problem.hint
