"""Packs: where pages are kept, each once, for as many snapshots as have it.

A pack is two files: ``NAME.pack``, blocks of pages one after the other, and
``NAME.index``, records that say where each block is, how it is stored, its checksum, and
the hash of each page. It is written by one checkpoint. Afterwards blocks that no
snapshot needs can be dropped: the index says so first, and then there is a hole.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, groupby
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import NamedTuple

import msgspec
import xxhash

from jupyter_cr.engine.streams import PAGE, storage_errors
from jupyter_cr.errors import CorruptImage
from jupyter_cr.image import codecs
from jupyter_cr.image.cipher import Cipher, is_wrapped, unwrap, wrap
from jupyter_cr.image.frame import DAMAGED
from jupyter_cr.image.page_map import Interval
from jupyter_cr.image.record_file import RecordEncoder, RecordFile, write_whole
from jupyter_cr.image.veil import Veil
from jupyter_cr.tracer.libc import fallocate_punch

__all__ = [
    "BLOCK_PAGES",
    "HASH_BYTES",
    "SUFFIXES",
    "Block",
    "Pack",
    "PackBlocks",
    "PackPages",
    "PackWriter",
    "drop_blocks",
    "is_sample",
    "pack_files",
    "read_samples",
]

SUFFIXES = (".pack", ".index")
"""Of a pack's two files."""

BLOCK_PAGES = 32
"""Pages in a block; the last block may have fewer. Larger ones pack little better, and a
page fault of a lazy restore has to unpack a whole one."""

HASH_BYTES = 16

_BLOCK = BLOCK_PAGES * PAGE
_SAMPLE_MASK = 0x3F
_MOST_WAITING = 64
_MOST_UNPACKED = 64


class PackBlocks(msgspec.Struct, frozen=True, kw_only=True):
    """The blocks of a pack, in order; they lie in the file without gaps.

    `codecs`: one byte each, see `jupyter_cr.image.codecs`; `lengths`: bytes stored, as
    little-endian u32; `checksums`: XXH3-64 of the bytes stored, as little-endian u64.
    """

    codecs: bytes
    lengths: bytes
    checksums: bytes


class PackPages(msgspec.Struct, frozen=True, kw_only=True):
    """XXH3-128 of each page of a pack, with the store's seed: 16 bytes each, in order,
    `jupyter_cr.image.pack.BLOCK_PAGES` of them in a block."""

    hashes: bytes


class Block(NamedTuple):
    """One block of a pack: where and how it is stored; `pages` in it."""

    number: int
    offset: int
    length: int
    codec: int
    checksum: int
    pages: int


def pack_files(directory: Path, name: str) -> tuple[Path, Path]:
    """The data and the index of a pack."""
    data, index = SUFFIXES
    return directory / f"{name}{data}", directory / f"{name}{index}"


def is_sample(digest: bytes) -> bool:
    """Whether a page's hash is one by which packs are found: one of 64 is."""
    return not digest[0] & _SAMPLE_MASK


def read_samples(index: Path) -> bytes:
    """The hashes by which a pack is to be found, one after the other, from its index
    alone.

    Raises:
        CorruptImage: it is missing or damaged.
        FutureImage: written by a later release.
    """
    found = _Index.read(index, None)
    hashes, blocks = found.hashes, found.blocks
    return b"".join(
        hashes[page * HASH_BYTES : (page + 1) * HASH_BYTES]
        for page, first in enumerate(hashes[::HASH_BYTES])
        if not first & _SAMPLE_MASK and blocks[page // BLOCK_PAGES].codec != codecs.DROPPED
    )


@dataclass(frozen=True)
class _Index:
    """A pack's index, decoded."""

    blocks: Sequence[Block]
    hashes: bytes
    is_encrypted: bool

    @property
    def length(self) -> int:
        """Of the data, in bytes."""
        return self.blocks[-1].offset + self.blocks[-1].length if self.blocks else 0

    @classmethod
    def read(cls, path: Path, cipher: Cipher | None) -> _Index:
        """Raises CorruptImage, FutureImage, LockedImage."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from error
        file = RecordFile(unwrap(data, cipher, path.name, path), path)
        return cls.decode(
            file.only(PackBlocks), file.only(PackPages), path, is_encrypted=is_wrapped(data)
        )

    @classmethod
    def decode(
        cls, record: PackBlocks, pages: PackPages, path: Path, *, is_encrypted: bool
    ) -> _Index:
        count, left = len(record.codecs), len(pages.hashes) % HASH_BYTES
        total = len(pages.hashes) // HASH_BYTES
        sizes = (len(record.lengths), len(record.checksums), -(-total // BLOCK_PAGES), left)
        if sizes != (4 * count, 8 * count, count, 0):
            raise CorruptImage(f"{path}: {total} pages do not fit {count} blocks.", DAMAGED)
        lengths = memoryview(record.lengths).cast("I").tolist()
        blocks = map(
            Block,
            range(count),
            accumulate(lengths, initial=0),
            lengths,
            record.codecs,
            memoryview(record.checksums).cast("Q").tolist(),
            (min(BLOCK_PAGES, total - first) for first in range(0, total, BLOCK_PAGES)),
        )
        return cls(tuple(blocks), pages.hashes, is_encrypted)

    def write(self, path: Path, cipher: Cipher | None, *, durable: bool) -> None:
        encoder = RecordEncoder()
        encoder.add(
            PackBlocks(
                codecs=bytes(block.codec for block in self.blocks),
                lengths=b"".join(b.length.to_bytes(4, "little") for b in self.blocks),
                checksums=b"".join(b.checksum.to_bytes(8, "little") for b in self.blocks),
            )
        )
        encoder.add(PackPages(hashes=self.hashes))
        write_whole(path, wrap(encoder.whole(), cipher, path.name), durable=durable)


def unreadable(path: Path, error: OSError) -> CorruptImage:
    """What is said of a file that is not there, or cannot be read."""
    return CorruptImage(f"{path} cannot be read: {error.strerror}.", DAMAGED)


class PackWriter:
    """A pack being written. A context manager: what has not been finished is removed.

    Args:
        directory: of all packs; must exist.
        name: free there.
        workers: threads that pack and hash blocks.
        cipher: encrypts them; None: they are not encrypted.
        veil: over the blocks, where they are only on their way.

    Raises:
        StorageError: `directory` cannot be written to.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        workers: ThreadPoolExecutor,
        cipher: Cipher | None = None,
        veil: Veil | None = None,
    ) -> None:
        self.cipher = cipher
        self._veil = veil
        self._handed_over = 0
        self.name = name
        self._data, self._index = pack_files(directory, name)
        self._workers = workers
        self._page_count = 0
        self._block = bytearray()
        self._hashes: list[bytes] = []
        self._waiting: deque[Future[tuple[int, bytes, int]]] = deque()
        self._blocks: list[Block] = []
        self._stored = 0
        self._finished = False
        with storage_errors(self._data):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            self._fd = os.open(self._data, flags, 0o600)

    @property
    def pages(self) -> int:
        """How many it has."""
        return self._page_count

    @property
    def stored(self) -> int:
        """Bytes that have been written."""
        return self._stored

    @property
    def samples(self) -> list[bytes]:
        """The hashes by which it will be found."""
        return [digest for digest in self._hashes if is_sample(digest)]

    def extend(self, pages: memoryview, digests: Sequence[bytes]) -> None:
        """Append pages, with their hashes.

        Raises:
            StorageError: disk full, or not writable any more.
        """
        self._hashes += digests
        self._page_count += len(digests)
        while pages:
            part = pages[: _BLOCK - len(self._block)]
            self._block += part
            if len(self._block) == _BLOCK:
                self._hand_over(_MOST_WAITING)
            pages = pages[len(part) :]

    def _hand_over(self, most_waiting: int) -> None:
        if self._block:
            place = _place(self.name, self._handed_over)
            work = self._workers.submit(_pack_block, self._block, self.cipher, place)
            self._waiting.append(work)
            self._handed_over += 1
            self._block = bytearray()
        with storage_errors(self._data):
            while self._waiting and (
                len(self._waiting) > most_waiting or self._waiting[0].done()
            ):
                self._write(*self._waiting.popleft().result())

    def _write(self, codec: int, stored: bytes, checksum: int) -> None:
        number = len(self._blocks)
        written = stored
        if self._veil is not None:
            written = self._veil.over(stored, self.name, self._stored)
        view = memoryview(written)
        while view:
            view = view[os.write(self._fd, view) :]
        pages = min(BLOCK_PAGES, self._page_count - number * BLOCK_PAGES)
        self._blocks.append(
            Block(number, self._stored, len(stored), codec, checksum, pages)
        )
        self._stored += len(stored)

    def finish(self, *, durable: bool) -> None:
        """Write what is left, and the index. A pack without pages is removed.

        Raises:
            StorageError: disk full, or not writable any more.
        """
        self._hand_over(0)
        if not self._page_count:
            return
        if durable:
            with storage_errors(self._data):
                os.fsync(self._fd)
        hashes = b"".join(self._hashes)
        index = _Index(tuple(self._blocks), hashes, self.cipher is not None)
        index.write(self._index, self.cipher, durable=durable)
        self._finished = True

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd < 0:
            return
        for future in self._waiting:
            future.cancel()
        os.close(self._fd)
        self._fd = -1
        if not self._finished:
            self.remove()

    def remove(self) -> None:
        """Take it away again."""
        for path in (self._index, self._data):
            with suppress(OSError):
                path.unlink()


def _place(name: str, number: int) -> str:
    """What is bound to a block when it is encrypted."""
    return f"{name} {number}"


def _pack_block(
    data: bytearray, cipher: Cipher | None, place: str
) -> tuple[int, bytes, int]:
    """(codec, bytes stored, their checksum)."""
    codec, stored = codecs.pack(data)
    if cipher is not None:
        codec, stored = codec | codecs.ENCRYPTED, cipher.encrypt(stored, place)
    return codec, stored, xxhash.xxh3_64_intdigest(stored)


class Pack:
    """A pack, opened for reading. Threads can share it. A context manager.

    Args:
        directory: of all packs.
        cipher: decrypts it, if it is encrypted.
        veil: that is over its blocks.

    Raises:
        CorruptImage: its index is missing or damaged, or its data too short.
        FutureImage: written by a later release.
        LockedImage: encrypted, and not with this cipher.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        cipher: Cipher | None = None,
        veil: Veil | None = None,
    ) -> None:
        self.name = name
        self._cipher = cipher
        self.veil = veil
        self.path, index_path = pack_files(directory, name)
        self._index = _Index.read(index_path, cipher)
        self._unpacked: OrderedDict[int, bytes] = OrderedDict()
        self._sound: set[int] = set()
        self._lock = Lock()
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(self.path, error) from error
        length = os.fstat(self.fd).st_size
        if length != self._index.length:
            self.close()
            raise CorruptImage(
                f"{self.path} has {length} bytes; it should have {self._index.length}.",
                DAMAGED,
            )

    def __enter__(self) -> Pack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def is_encrypted(self) -> bool:
        """Whether it can be read by its key only."""
        return self._index.is_encrypted

    @property
    def blocks(self) -> Sequence[Block]:
        """All of them."""
        return self._index.blocks

    @property
    def pages(self) -> int:
        """How many it has."""
        return len(self._index.hashes) // HASH_BYTES

    @property
    def kept(self) -> tuple[int, int]:
        """Pages and bytes stored, without those that were dropped."""
        there = [block for block in self.blocks if block.codec != codecs.DROPPED]
        return sum(block.pages for block in there), sum(block.length for block in there)

    def digest(self, page: int) -> bytes:
        """The hash of a page."""
        return self._index.hashes[page * HASH_BYTES : (page + 1) * HASH_BYTES]

    @property
    def hashes(self) -> Mapping[bytes, int]:
        """Hash -> number, of each page that has not been dropped."""
        hashes = self._index.hashes
        return {
            hashes[page * HASH_BYTES : (page + 1) * HASH_BYTES]: page
            for block in self.blocks
            if block.codec != codecs.DROPPED
            for page in range(
                block.number * BLOCK_PAGES, block.number * BLOCK_PAGES + block.pages
            )
        }

    def find(self, digest: bytes) -> int | None:
        """The number of the page with that hash; None if there is none, or it has been
        dropped."""
        page = self._numbers.get(int.from_bytes(digest[:8], sys.byteorder))
        if page is None or self.digest(page) != digest:
            return None
        block = self._index.blocks[page // BLOCK_PAGES]
        return page if block.codec != codecs.DROPPED else None

    @cached_property
    def _numbers(self) -> Mapping[int, int]:
        """By the first half of each hash: the fewest steps for each that Python can do."""
        halves = memoryview(self._index.hashes).cast("Q")[::2].tolist()
        return dict(zip(halves, range(len(halves)), strict=True))

    def samples(self) -> list[bytes]:
        """The hashes by which it is to be found."""
        return [digest for digest in self.hashes if is_sample(digest)]

    def check(self, block: Block) -> None:
        """Read a block, and compare it with its checksum.

        Raises:
            CorruptImage: names the block.
        """
        self._read(block)

    def check_once(self, block: Block) -> None:
        """The same, but for blocks that have been found sound before."""
        if block.number not in self._sound:
            self._read(block)
            self._sound.add(block.number)

    def _read(self, block: Block) -> bytes:
        if block.codec == codecs.DROPPED:
            raise self._damaged(block, "has been dropped")
        try:
            stored = os.pread(self.fd, block.length, block.offset)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if self.veil is not None:
            stored = self.veil.over(stored, self.name, block.offset)
        if xxhash.xxh3_64_intdigest(stored) != block.checksum:
            raise self._damaged(block, "does not match its checksum")
        return stored

    def unpack(self, block: Block) -> bytes:
        """The pages of a block; the last ones are remembered.

        Raises:
            CorruptImage: it is not as it was written.
        """
        with self._lock:
            if (data := self._unpacked.get(block.number)) is not None:
                return data
        stored = self._read(block)
        try:
            codec = block.codec
            if codec & codecs.ENCRYPTED:
                stored, codec = self._decrypt(block, stored), codec & ~codecs.ENCRYPTED
            data = codecs.unpack(codec, stored, block.pages * PAGE)
        except ValueError as error:
            raise self._damaged(block, f"cannot be unpacked ({error})") from error
        with self._lock:
            self._unpacked[block.number] = data
            if len(self._unpacked) > _MOST_UNPACKED:
                self._unpacked.popitem(last=False)
        return data

    def _decrypt(self, block: Block, stored: bytes) -> bytes:
        if self._cipher is None:
            raise ValueError("it is encrypted, and its index is not")
        return self._cipher.decrypt(stored, _place(self.name, block.number))

    def _damaged(self, block: Block, what: str) -> CorruptImage:
        return CorruptImage(
            f"{self.path}: block {block.number} at offset {block.offset} {what}.", DAMAGED
        )


def drop_blocks(
    directory: Path, name: str, needed: Iterable[Interval], cipher: Cipher | None = None
) -> int:
    """Give back the space of the blocks of a pack in which nobody needs a page.

    First the index says that they are gone, then holes are made of them
    (fallocate(2), FALLOC_FL_PUNCH_HOLE): whenever this is interrupted, what is needed
    is there, and the next run makes the holes. Whoever has the pack open can go on.

    Args:
        needed: pages, by [first, end).
        cipher: of the pack, if it is encrypted.

    Returns:
        Bytes given back, at most.

    Raises:
        CorruptImage: the index is damaged.
        LockedImage: encrypted, and not with this cipher.
        StorageError: not writable.
    """
    data, index_path = pack_files(directory, name)
    index = _Index.read(index_path, cipher)
    kept = set(
        chain.from_iterable(
            range(first // BLOCK_PAGES, -(-end // BLOCK_PAGES)) for first, end in needed
        )
    )
    blocks = tuple(
        block if block.number in kept else block._replace(codec=codecs.DROPPED, checksum=0)
        for block in index.blocks
    )
    if blocks != index.blocks:
        changed = _Index(blocks, index.hashes, index.is_encrypted)
        changed.write(index_path, cipher if index.is_encrypted else None, durable=True)
    with storage_errors(data):
        before = data.stat().st_blocks
        fd = os.open(data, os.O_RDWR | os.O_CLOEXEC)
        try:
            for offset, length in _holes(blocks):
                _punch(fd, offset, length)
        finally:
            os.close(fd)
        # st_blocks is in units of 512 bytes whatever the file system (inode(7)).
        return max(0, before - data.stat().st_blocks) * 512


def _holes(blocks: Sequence[Block]) -> Iterator[tuple[int, int]]:
    """(offset, length) of neighbours that have been dropped: only whole blocks of the
    file system become holes."""
    for dropped, group in groupby(blocks, lambda block: block.codec == codecs.DROPPED):
        if dropped:
            first, *others = group
            yield first.offset, first.length + sum(block.length for block in others)


def _punch(fd: int, offset: int, length: int) -> None:
    try:
        fallocate_punch(fd, offset, length)
    except OSError as error:
        # Some file systems have no holes: the space comes back with the pack itself.
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
