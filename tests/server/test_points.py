"""The tree of points: where a kernel can go, and with which notebook."""

from __future__ import annotations

import pytest

from jupyter_cr.server.points import Outcome, Points, Run


def run(name: str, outcome: Outcome = "ok") -> Run:
    return Run(
        msg_id=name,
        cell_id=f"cell-{name}",
        code=name,
        started="2026",
        outcome=outcome,
        document=f"before-{name}",
    )


def made(*names: str) -> Points:
    """A root, and a point after each run."""
    points = Points()
    points.add("root", "2026")
    for name in names:
        points.began(run(name))
        points.add(name.upper(), "2026")
    return points


def way(found: object) -> tuple[str, str] | None:
    """Point and notebook."""
    return (found.point.name, found.document) if found else None  # type: ignore[attr-defined]


def test_back_and_forward() -> None:
    points = made("a", "b", "c")
    assert way(points.back()) == ("B", "before-c")
    assert way(points.back(3)) == ("root", "before-a")
    assert points.back(4) is None
    assert points.back(0) is None
    assert points.forward() is None
    points.leave("left")
    points.went("A")
    assert way(points.back()) == ("root", "before-a")
    assert way(points.forward()) == ("B", "before-c")
    assert way(points.forward(2)) == ("C", "left")
    assert points.forward(3) is None


def test_what_runs_is_undone_first() -> None:
    points = made("a")
    points.began(run("b", "running"))
    assert way(points.back()) == ("A", "before-b")
    assert way(points.back(2)) == ("root", "before-a")
    assert points.forward() is None


def test_branches() -> None:
    points = made("a", "b")
    points.went("A")
    points.began(run("c"))
    points.add("C", "2026")
    assert way(points.back()) == ("A", "before-c")
    assert way(points.to("B")) == ("B", "")
    points.went("B")
    assert way(points.back()) == ("A", "before-b")
    points.went("A")
    assert way(points.forward()) == ("B", "")


def test_what_is_between_goes() -> None:
    points = made("a", "b", "c")
    points.remove("B")
    assert [r.msg_id for r in points.get("C").runs] == ["b", "c"]  # type: ignore[union-attr]
    assert way(points.back()) == ("A", "before-b")
    points.went("A")
    assert way(points.forward()) == ("C", "")
    points.remove("root")
    assert points.back() is None
    assert points.get("A").parent == ""  # type: ignore[union-attr]


def test_what_is_needed() -> None:
    assert set(made("a", "b").needed()) == {"A", "B"}
    assert set(Points().needed()) == set()


def test_by_itself() -> None:
    """What has changed without a run takes the place of the point, or is a step of none."""
    points = made("a", "b")
    assert points.refresh("B2", "2026") == "B"
    assert way(points.back()) == ("A", "before-b")
    points.went("A")
    assert way(points.forward()) == ("B2", "")
    assert points.refresh("A2", "2026") == ""
    assert way(points.back()) == ("root", "before-a")
    points.went("root")
    assert way(points.forward()) == ("A2", "")


def test_in_the_middle() -> None:
    """One never goes back into the middle of a cell, but forward one does."""
    points = made("a")
    points.began(run("b", "running"))
    points.add("M", "2026")
    points.went("A")
    assert way(points.forward()) == ("M", "")
    points.went("M")
    assert [r.msg_id for r in points.since] == ["b"]
    assert way(points.back()) == ("A", "before-b")
    points.ended("b", "ok")
    points.add("B", "2026")
    assert way(points.back()) == ("A", "before-b")


@pytest.mark.parametrize("outcome", ["died", "restarted", "restored"])
def test_changes(outcome: Outcome) -> None:
    points = made("a")
    points.began(run("b", "running"))
    points.changed(outcome, "2026")
    points.changed(outcome, "2026")
    outcomes = [r.outcome for r in points.since]
    assert outcomes == (["died"] if outcome == "died" else ["aborted", outcome])
    assert way(points.back()) == ("A", "before-b")


def test_notebooks() -> None:
    points = made("a")
    assert points.note_document("a", "other")
    assert not points.note_document("b", "other")
    points.began(run("b"))
    assert points.note_document("b", "new")
    points.leave("left")
    assert points.documents() == {"other", "new", "left"}


def test_another_name() -> None:
    points = made("a", "b")
    points.went("A")
    points.rename("A", "good")
    assert points.base == "good"
    assert way(points.forward()) == ("B", "")
    assert points.get("B").parent == "good"  # type: ignore[union-attr]
