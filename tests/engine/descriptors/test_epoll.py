from __future__ import annotations

import os
import pty
import select
import struct

import pytest

from jupyter_cr.engine.descriptors import calls_for_place, collect_open_file
from jupyter_cr.engine.descriptors.base import Place, Tree
from jupyter_cr.errors import Unsupported
from jupyter_cr.tracer.calls import Call
from tests.engine.descriptors.harness import (
    collect,
    collect_and_close,
    describe,
    put_in_place,
    rebuilt,
    run_call,
    tree_of,
)

IN, OUT, ET, ONESHOT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET, select.EPOLLONESHOT


def make() -> int:
    with select.epoll() as instance:
        return os.dup(instance.fileno())


def add(epoll: int, fd: int, events: int, data: int | None = None) -> None:
    event = struct.pack("<IQ", events, fd if data is None else data)
    run_call(Call("epoll_ctl", (epoll, 1, fd, event)))


def registrations(epoll: int) -> set[tuple[str, ...]]:
    """(descriptor, events, data) of each line."""
    with open(f"/proc/self/fdinfo/{epoll}") as lines:
        return {tuple(line.split()[1:6:2]) for line in lines if line.startswith("tfd:")}


def wait(epoll: int) -> list[tuple[int, int]]:
    instance = select.epoll.fromfd(os.dup(epoll))
    try:
        return sorted(instance.poll(0))
    finally:
        instance.close()


def test_registrations_and_readiness() -> None:
    epoll, event, (read, write) = make(), os.eventfd(1), os.pipe()
    add(epoll, event, IN)
    add(epoll, read, IN | ET, (1 << 64) - 2)
    add(epoll, write, OUT | ONESHOT)
    before, ready = registrations(epoll), wait(epoll)
    assert len(before) == 3
    after_wait = registrations(epoll)
    files = collect_and_close(epoll, event, read, write)
    with rebuilt(files) as (fds, rebuilding):
        put_in_place(files, fds, rebuilding)
        assert [r[0] for r in sorted(registrations(epoll))] == [
            r[0] for r in sorted(after_wait)
        ]
        assert wait(epoll) == [(event, IN)]
        os.write(write, b"x")
        assert len(wait(epoll)) == 2
    assert ready == [(event, IN), (write, OUT)]


def test_events_and_data_are_kept() -> None:
    epoll, event = make(), os.eventfd(0)
    add(epoll, event, IN | OUT | ET | select.EPOLLRDHUP, 0xFEDCBA9876543210)
    before = registrations(epoll)
    files = collect_and_close(epoll, event)
    with rebuilt(files) as (fds, rebuilding):
        put_in_place(files, fds, rebuilding)
        assert registrations(epoll) == before


def test_nested() -> None:
    inner, outer, event = make(), make(), os.eventfd(1)
    add(inner, event, IN)
    add(outer, inner, IN)
    files = collect_and_close(outer, inner, event)
    with rebuilt(files) as (fds, rebuilding):
        put_in_place(files, fds, rebuilding)
        assert wait(outer) == [(inner, IN)]


def test_empty() -> None:
    epoll = make()
    with rebuilt(collect_and_close(epoll)) as ([again], _):
        assert os.readlink(f"/proc/self/fd/{again}") == "anon_inode:[eventpoll]"


def test_same_file_under_two_numbers() -> None:
    epoll, event = make(), os.eventfd(1)
    twin = os.dup(event)
    add(epoll, event, IN)
    add(epoll, twin, IN)
    pid = os.getpid()
    with tree_of(describe(event, Place(pid, event), Place(pid, twin)), epoll) as tree:
        file = collect_open_file(tree.descriptors[1], tree, 0)
    assert sorted(r.fd for r in file.record.registrations) == sorted([event, twin])
    for fd in (epoll, event, twin):
        os.close(fd)


def test_closed_but_alive_through_a_duplicate_is_refused() -> None:
    epoll, event = make(), os.eventfd(1)
    add(epoll, event, IN)
    twin = os.dup(event)
    os.close(event)
    with pytest.raises(Unsupported, match=f"under descriptor {event}"):
        collect(epoll, twin)
    os.close(epoll)
    os.close(twin)


def test_number_reused_by_a_like_file_is_refused() -> None:
    epoll, event, other = make(), os.eventfd(1), os.eventfd(2)
    add(epoll, event, IN)
    twin = os.dup(event)
    os.dup2(other, event)
    with pytest.raises(Unsupported, match="reused"):
        collect(epoll, event, twin, other)
    for fd in (epoll, event, twin, other):
        os.close(fd)


def test_number_registered_twice_is_refused() -> None:
    # The first file lives on through a duplicate, the second is under its number.
    epoll, event = make(), os.eventfd(1)
    add(epoll, event, IN)
    twin = os.dup(event)
    os.close(event)
    other = os.eventfd(2)
    assert other == event
    add(epoll, other, IN)
    with pytest.raises(Unsupported, match="reused"):
        collect(epoll, other, twin)
    for fd in (epoll, other, twin):
        os.close(fd)


def test_only_the_first_process_that_can_registers() -> None:
    epoll, event = make(), os.eventfd(1)
    add(epoll, event, IN)
    pid, parent = os.getpid(), os.getppid()
    # The first holder of the instance does not hold what is watched.
    places = Place(parent, 700), Place(pid, epoll), Place(pid, epoll + 500)
    with tree_of(describe(epoll, *places), event) as tree:
        file = collect_open_file(tree.descriptors[0], tree, 0)
    with rebuilt([]) as (_, rebuilding):
        made = [calls_for_place(file, place, rebuilding) for place in places]
    assert [len(calls) for calls in made] == [0, 1, 0]
    assert made[1][0].name == "epoll_ctl"
    assert not made[1][0].optional
    os.close(epoll)
    os.close(event)


def test_terminal_that_is_gone_does_not_fail_the_restore() -> None:
    master, slave = pty.openpty()
    epoll = make()
    add(epoll, slave, IN)
    files = collect_and_close(epoll, slave)
    os.close(master)
    with rebuilt(files) as (fds, rebuilding):
        put_in_place(files, fds, rebuilding)
        assert registrations(epoll) == set()
        assert len(rebuilding.warnings) == 1


def test_pipe_that_leaves_the_tree_may_fail() -> None:
    epoll, (read, write) = make(), os.pipe()
    add(epoll, read, IN)
    [file, _] = collect(epoll, read)
    assert file.record.registrations[0].may_fail
    [file, _, _] = collect(epoll, read, write)
    assert not file.record.registrations[0].may_fail
    for fd in (epoll, read, write):
        os.close(fd)


def test_without_the_watched_descriptor_in_the_tree() -> None:
    epoll, event = make(), os.eventfd(0)
    add(epoll, event, IN)
    descriptor = describe(epoll)
    with pytest.raises(Unsupported, match="watches a file"):
        collect_open_file(descriptor, Tree([descriptor]), 0)
    for fd in (descriptor.local, epoll, event):
        os.close(fd)
