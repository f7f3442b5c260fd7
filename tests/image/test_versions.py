"""Images of earlier format versions are read for ever; `fixtures` has one of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_cr.engine import pages
from jupyter_cr.engine.describe import describe_snapshot
from jupyter_cr.engine.machine import FileIdentities, Machine
from jupyter_cr.engine.snapshot import Snapshot
from jupyter_cr.image import ImageReader
from jupyter_cr.image.frame import OLDEST, VERSION

FIXTURES = Path(__file__).with_name("fixtures")


def open_fixture(version: int) -> ImageReader:
    place = FIXTURES / f"version-{version}"
    return ImageReader(place / "sleep", place / "packs")


@pytest.mark.parametrize("version", range(OLDEST, VERSION + 1))
def test_an_image_of_each_version_is_read(version: int) -> None:
    """Of ``sleep 1000``; taken with ``jupyter cr checkpoint`` of the first release that
    wrote this version."""
    with open_fixture(version) as reader:
        assert (reader.header.name, reader.header.comm) == ("sleep", "sleep")
        assert reader.header.note == "a fixture of the tests"
        assert reader.outcome is not None
        assert len(list(reader)) == 9
        reader.verify_pages()
        snapshot = Snapshot.read(reader)
        assert [(record.name, len(record.threads)) for record in snapshot.processes] == [
            ("sleep", 1)
        ]
        assert next(reader.records(Machine)).architecture == "x86_64"
        (files,) = reader.records(FileIdentities)
        assert any(file.path.endswith("/sleep") for file in files.files)
        (stored,) = reader.records(pages.Record)
        memory = b"".join(reader.read(at, length) for _, length, at in stored.runs)
        assert b"1000\0LANG=C\0" in memory, "its arguments and environment"


def test_it_can_be_looked_into() -> None:
    with open_fixture(VERSION) as reader:
        described = describe_snapshot(reader)
    (process,) = described.processes
    assert process.name == "sleep"
