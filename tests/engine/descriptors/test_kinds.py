"""The table of kinds as a whole."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

import msgspec
import pytest

from jupyter_cr.engine.descriptors import KINDS, File, find_kind, kind_of_record
from jupyter_cr.errors import RestoreError, Unsupported
from jupyter_cr.tracer import libc
from tests.engine.descriptors.harness import (
    collect,
    collect_and_close,
    describe,
    rebuilt,
    tree_of,
)

INOTIFY_INIT1 = 294
IO_URING_SETUP = 425


def refused(fd: int) -> Unsupported:
    with tree_of(fd) as tree, pytest.raises(Unsupported) as caught:
        find_kind(tree.descriptors[0])
    os.close(fd)
    return caught.value


def test_kinds_have_their_surface() -> None:
    for kind in KINDS:
        assert issubclass(kind.Record, msgspec.Struct)
        assert kind.Record.__struct_config__.frozen
        assert kind.Record.__struct_config__.tag


def test_every_kind_takes_its_own_records(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    [file] = collect_and_close(fd)
    assert isinstance(file, File)
    assert kind_of_record(file.record) in KINDS


def test_inotify_is_refused() -> None:
    error = refused(libc.syscall(INOTIFY_INIT1, os.O_CLOEXEC))
    assert f"process {os.getpid()}" in error.message
    assert "inotify" in error.message


def test_io_uring_is_refused() -> None:
    parameters = ctypes.create_string_buffer(120)
    try:
        fd = libc.syscall(IO_URING_SETUP, 4, ctypes.addressof(parameters))
    except OSError:
        pytest.skip("no io_uring here")
    assert "io_uring" in refused(fd).message


def test_namespace_is_refused() -> None:
    assert "network namespace" in refused(os.open("/proc/self/ns/net", os.O_RDONLY)).message


def test_unknown_is_refused_by_its_link() -> None:
    real = describe(os.eventfd(0))
    descriptor = type(real)(
        real.local, real.places, "anon_inode:[new]", real.flags, real.fdinfo, real.stat
    )
    with pytest.raises(Unsupported, match=r"anon_inode:\[new\]"):
        find_kind(descriptor)
    os.close(real.local)
    os.close(real.places[0].fd)


def test_no_descriptors_left() -> None:
    fd = os.eventfd(0)
    [file] = collect_and_close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with (
            pytest.raises(RestoreError, match=f"descriptor {fd}: the eventfd"),
            rebuilt([file]),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == taken


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"x")
        pipe = os.pipe()
        memfd = os.memfd_create("memfd")
        files = collect(file.fileno(), *pipe, memfd)
    for fd in (*pipe, memfd):
        os.close(fd)
    with rebuilt(files):
        pass
    assert set(os.listdir("/proc/self/fd")) == before
