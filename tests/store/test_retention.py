"""Policies, as people say them."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta, timezone

import pytest
from msgspec.structs import replace

from jupyter_cr.errors import UsageError
from jupyter_cr.store import Snapshot, Store
from jupyter_cr.store.retention import parse_policy
from jupyter_cr.store.snapshot import HIBERNATED
from tests.store.harness import pack_of, take, twins_of

NOW = datetime(2026, 3, 20, 12, 30, tzinfo=timezone.utc)


def snapshot(age: timedelta, name: str = "", **more: object) -> Snapshot:
    return Snapshot(
        name=name or str(age),
        id=name or str(age),
        state="durable",
        created=(NOW - age).isoformat(),
        bytes=0,
        kernel_id="kernel",
        **more,  # type: ignore[arg-type]
    )


def kept(policy: str, snapshots: list[Snapshot]) -> list[str]:
    ids = parse_policy(policy).kept(snapshots, NOW)
    return [snapshot.name for snapshot in snapshots if snapshot.id in ids]


MINUTES = [snapshot(timedelta(minutes=10 * n), str(10 * n)) for n in range(300)]
"""Every ten minutes for two days, the newest first."""


@pytest.mark.parametrize(
    "text", ["keep last 3", "last 3", "the newest 3", " Keep  LAST 3 "]
)
def test_last(text: str) -> None:
    assert kept(text, MINUTES[::-1]) == ["20", "10", "0"]


def test_one_per_hour_for_a_day() -> None:
    names = kept("one per hour for a day", MINUTES)
    # Of the hour that has begun at 12:00, the newest; of each before, the one at :50.
    assert names == [str(m) for m in [0, *range(40, 24 * 60, 60)]]
    assert kept("one per hour for 1 day", MINUTES) == names
    assert kept("one an hour for one day", MINUTES) == names
    assert kept("one each hour for 24 hours", MINUTES) == names


def test_one_per_day_for_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    days = [snapshot(timedelta(hours=6 * n), str(6 * n)) for n in range(60)]
    # At 12:30, 06:30 and 00:30 of today, then at 18:30 of each day before.
    assert kept("one per day for a week", days) == [
        str(h) for h in [0, *range(18, 168, 24)]
    ]


@pytest.mark.parametrize("unit", ["minute", "hour", "day", "week", "month", "year"])
def test_one_of_each(unit: str) -> None:
    ages = [timedelta(days=n) for n in range(800)]
    names = kept(f"one per {unit}", [snapshot(age) for age in ages])
    counts = {"minute": 800, "hour": 800, "day": 800, "week": 115, "month": 27, "year": 3}
    assert abs(len(names) - counts[unit]) <= 1


def test_for_a_time() -> None:
    assert kept("for 30 minutes", MINUTES) == ["0", "10", "20", "30"]
    assert kept("all for an hour", MINUTES) == [str(10 * n) for n in range(7)]
    assert kept("for 0 days", MINUTES) == ["0"]


def test_named_and_tagged() -> None:
    named = snapshot(timedelta(days=900), "named")
    made_up = snapshot(timedelta(days=900), "made up", named=False)
    tagged = snapshot(timedelta(days=900), "tagged", named=False, tags=("Paper",))
    there = [named, made_up, tagged]
    assert kept("all named", there) == ["named"]
    assert kept("named", there) == ["named"]
    assert kept("all tagged", there) == kept("tagged paper", there) == ["tagged"]
    assert kept("tagged other", there) == []
    assert kept("keep all", there) == ["named", "made up", "tagged"]
    assert kept("nothing", there) == []


def test_what_one_rule_keeps_is_kept() -> None:
    old = snapshot(timedelta(days=400), "old")
    unnamed = [snapshot(timedelta(minutes=n), str(n), named=False) for n in range(9)]
    for text in (
        "last 2, all named",
        "last 2; all named",
        "keep last 2 and keep all named",
        "last 2\nall named,",
    ):
        assert kept(text, [*unnamed, old]) == ["0", "1", "old"]


def test_each_kernel_counts_by_itself() -> None:
    quiet = [
        replace(snapshot(timedelta(days=n), f"quiet {n}"), kernel_id="q") for n in (1, 2)
    ]
    programs = [
        replace(snapshot(timedelta(days=n), f"pid {n}"), kernel_id="", pid=n)
        for n in (1, 2)
    ]
    names = kept("last 1", [*MINUTES, *quiet, *programs])
    assert names == ["0", "quiet 1", "pid 1", "pid 2"]


def test_a_time_that_cannot_be_told_is_long_ago() -> None:
    odd = replace(snapshot(timedelta(0), "odd"), created="yesterday")
    assert kept("for 100 years", [odd]) == []
    assert kept("last 1", [odd, *MINUTES]) == ["0"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " , ;",
        "keep what is good",
        "last",
        "last -1",
        "last ten",
        "one per fortnight",
        "one per hour for",
        "for ever",
        "last 5, rubbish",
        "last 10000000",
    ],
)
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_policy(text)
    assert "keep last 10" in caught.value.hint


def test_prune(store: Store) -> None:
    for day in range(1, 6):
        take(store, str(day), f"2026-01-0{day}T00:00:00+00:00", parent=str(day - 1))
    sizes = {snapshot.name: snapshot.own for snapshot in store.list()}
    pruned = store.prune("last 2", dry_run=True)
    assert [snapshot.name for snapshot in pruned.removed] == ["1", "2", "3"]
    assert (pruned.kept, pruned.dry_run) == (2, True)
    assert pruned.bytes == sum(sizes[name] for name in "123")
    assert len(store.names()) == 5
    pruned = store.prune("last 2")
    assert pruned.bytes == sum(sizes[name] for name in "123")
    assert [(s.name, s.parent) for s in store.list()] == [("4", ""), ("5", "4")]
    assert store.prune("last 2").removed == ()


def test_what_is_never_pruned(store: Store, sleeper: subprocess.Popen[bytes]) -> None:
    take(store, "read")
    take(store, "hibernates", automatic=HIBERNATED)
    (take(store, "warm") / "twins").write_bytes(twins_of(sleeper.pid))
    pack_of(take(store, "damaged")).write_bytes(b"")
    take(store, "other")
    with store.create("saved"), store.open("read"):
        pruned = store.prune("nothing")
        assert [snapshot.name for snapshot in pruned.removed] == ["other"]
        left = {"read", "hibernates", "warm", "damaged", "saved"}
        assert {snapshot.name for snapshot in store.list()} == left
    pruned = store.prune("nothing")
    assert [snapshot.name for snapshot in pruned.removed] == ["read"]
