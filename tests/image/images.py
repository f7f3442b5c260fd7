"""Small images to write, read and damage."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from jupyter_cr.image import Header, ImageReader, ImageWriter, KernelFacts, Outcome

PAGE = 4096
SEED = 0x5EED

HEADER = Header(
    name="one",
    note="größer",
    created="2026-01-02T03:04:05.000006+00:00",
    pid=123,
    comm="python3",
    kernel=KernelFacts(connection_file="/run/kernel-1.json", connection=b"{}"),
    release="6.1",
    machine="x86_64",
    tool="0.1.0",
)
OUTCOME = Outcome(downtime_ms=12.5, elapsed_ms=80.0, bytes=4096)


class AllPacks:
    """`KnownPages` of a directory: every pack that is whole."""

    def __init__(self, packs: Path) -> None:
        self.packs = packs
        self.asked: list[bytes] = []

    def candidates(self, samples: Sequence[bytes]) -> Sequence[str]:
        self.asked += samples
        return sorted(path.stem for path in self.packs.glob("*.index"))


def packs_of(directory: Path) -> Path:
    """Where the packs of an image in `directory` are."""
    return directory.parent / "packs"


def begin_image(
    directory: Path, *, base: ImageReader | None = None, known: AllPacks | None = None
) -> ImageWriter:
    """A writer, after its header."""
    packs = packs_of(directory)
    for path in (packs, directory):
        path.mkdir(mode=0o700, exist_ok=True)
    writer = ImageWriter(directory, packs, seed=SEED, base=base, known=known)
    writer.add(HEADER)
    return writer


def write_image(
    directory: Path,
    pages: bytes = b"",
    *,
    durable: bool = False,
    known: AllPacks | None = None,
) -> Path:
    """An image of a header, an outcome and some pages."""
    with begin_image(directory, known=known) as writer:
        if pages:
            writer.append(pages)
        writer.add(OUTCOME)
        writer.commit(durable=durable)
    return directory


def open_image(directory: Path) -> ImageReader:
    """A reader."""
    return ImageReader(directory, packs_of(directory))


def read_all(directory: Path) -> list[msgspec.Struct]:
    """All records; every page has been checked."""
    with open_image(directory) as reader:
        reader.verify_pages()
        return list(reader)


def pack_of(directory: Path) -> Path:
    """The data of the pack that was written with an image."""
    return packs_of(directory) / f"{directory.name}.pack"


def index_of(directory: Path) -> Path:
    """The index of the same."""
    return packs_of(directory) / f"{directory.name}.index"


def flip(path: Path, position: int) -> None:
    """Change one bit."""
    with path.open("r+b") as file:
        file.seek(position)
        (old,) = file.read(1)
        file.seek(position)
        file.write(bytes([old ^ 0x10]))


def open_descriptors() -> set[str]:
    """Of this process."""
    return set(os.listdir("/proc/self/fd"))
