"""What a snapshot needs of the machine it is restored on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import msgspec
import xxhash

from jupyter_cr.engine.state import process
from jupyter_cr.errors import FileChanged, RestoreError
from jupyter_cr.tracer.arch.x86_64 import PAGE
from jupyter_cr.tracer.memory import Memory
from jupyter_cr.tracer.proc.maps import read_maps

__all__ = ["FileIdentities", "FileIdentity", "Machine", "file_identities"]


class Machine(msgspec.Struct, frozen=True):
    """The processor family, page size, and a hash of the vdso, which is code of
    Linux's own that processes hold addresses into."""

    architecture: str
    page: int
    vdso: str
    instructions: tuple[str, ...] = ()
    """Sets of instructions that the processor has, as Linux calls them: programs have
    chosen their code by them."""

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        with Memory(os.getpid()) as memory:
            code = b"".join(
                memory.read(mapping.start, mapping.size)
                for mapping in read_maps("self")
                if mapping.is_vdso
            )
        vdso = xxhash.xxh3_128_hexdigest(code)
        return cls(os.uname().machine, PAGE, vdso, _instructions())

    def require(self) -> None:
        """Check that this machine can take processes of that one.

        Raises:
            RestoreError: names what differs.
        """
        here = Machine.here()
        if (self.architecture, self.page) != (here.architecture, here.page):
            raise RestoreError(
                f"the snapshot is of a {self.architecture} machine, this is a "
                f"{here.architecture} one",
                "Restore it on a machine with the same kind of processor.",
            )
        if lacking := sorted({*self.instructions} - {*here.instructions}):
            raise RestoreError(
                "the snapshot was taken on a processor with instructions that this one "
                f"has not got: {' '.join(lacking)}",
                "Restore it on a machine with such a processor.",
            )
        if self.vdso != here.vdso:
            raise RestoreError(
                "the snapshot was taken under another version of Linux, whose code is "
                "mapped into every process (vdso)",
                "Restore it under the version that `jupyter cr show` names.",
            )


_INSTRUCTIONS = re.compile(
    r"(mmx|s?sse|avx|amx|bmi|fma|f16c|movbe|popcnt|aes|pclmul|sha_?ni|sha512|vaes|vpclmul"
    r"|gfni|adx|rdrand|rdseed|fsgsbase|xsave|clflushopt|clwb|abm|cx16|rtm|pku|ospke|rdpid"
    r"|movdir|3dnow|cldemote|serialize|tsxldtrk|sm[34]|cmov|fxsr|lahf)"
)


def _instructions() -> tuple[str, ...]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, words = line.partition(":")
        if name.strip() == "flags":
            return tuple(sorted(filter(_INSTRUCTIONS.match, words.split())))
    return ()


class FileIdentity(msgspec.Struct, frozen=True):
    """A file that is mapped: executables and libraries."""

    raw_path: bytes
    size: int
    mtime_ns: int
    build_id: bytes

    @property
    def path(self) -> str:
        """As `os` takes it; bytes that are no UTF-8 are lone surrogates (PEP 383)."""
        return os.fsdecode(self.raw_path)

    @classmethod
    def of(cls, path: str) -> FileIdentity:
        """As it is now. Raises OSError."""
        found = os.stat(path)
        size, mtime_ns = found.st_size, found.st_mtime_ns
        return cls(os.fsencode(path), size, mtime_ns, _build_id(path, size, mtime_ns))

    def require(self) -> None:
        """Check that the file is the one that it was.

        Raises:
            FileChanged: it is not.
        """
        try:
            now = FileIdentity.of(self.path)
        except OSError as error:
            raise FileChanged(
                f"{self.path} is needed and cannot be read: {error.strerror}",
                "Install it again in the version that it had.",
            ) from error
        if self.build_id and self.build_id == now.build_id:
            return
        if (self.size, self.mtime_ns) != (now.size, now.mtime_ns):
            raise FileChanged(
                f"{self.path} has changed since the snapshot was taken",
                "Put the file back that was there then (reinstall that version of "
                "its package): code that is half old and half new would crash.",
            )


class FileIdentities(msgspec.Struct, frozen=True):
    """Of all files that have to be mapped again."""

    files: tuple[FileIdentity, ...]

    def require(self) -> None:
        """Check that each is the file that it was.

        Raises:
            FileChanged: names the first that is not.
        """
        for recorded in self.files:
            recorded.require()


_ELF_MAGIC, _GNU_BUILD_ID = b"\x7fELF", b"GNU\0"
_HEAD = 4096


@lru_cache(maxsize=4096)
def _build_id(path: str, size: int, mtime_ns: int) -> bytes:
    """The linker's own hash (NT_GNU_BUILD_ID), from the first page, where linkers put
    it; empty without one. `size` and `mtime_ns` are the file's: read once for each."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return b""
    if not head.startswith(_ELF_MAGIC):
        return b""
    at = head.find(b"\x03\0\0\0" + _GNU_BUILD_ID)
    if at < 4:
        return b""
    size = int.from_bytes(head[at - 4 : at], "little")
    return head[at + 8 : at + 8 + size] if size <= 64 else b""


def file_identities(records: Iterable[process.Record]) -> FileIdentities:
    """Of all files that processes map privately, or execute."""
    paths = {
        region.path
        for record in records
        if record.layout is not None
        for region in record.layout.regions
        if region.content == "file" and not region.shared
    }
    return FileIdentities(
        tuple(FileIdentity.of(path) for path in sorted(paths) if Path(path).exists())
    )
