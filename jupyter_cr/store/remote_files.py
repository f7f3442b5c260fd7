"""The files of a store that is elsewhere, by way of fsspec: any URL that it knows.

Retries and parallel transfers are the library's. Here is what it leaves open: files appear
whole or not at all, and what goes wrong is said so that a person knows what to do.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from jupyter_cr.errors import CheckpointRestoreError, StorageError

__all__ = ["RemoteFiles", "is_url"]

_WHOLE = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "memory"}
)
"""Protocols of object stores: they have no directories, and what is put there appears
whole. Elsewhere files get their names when they are whole."""

_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)")
_OF_DIRECTORIES, _OF_FILES = 0o2775, 0o644
_SECRETS = re.compile(r"(://)[^/@]*@")


def is_url(where: str) -> bool:
    """Whether that names a store elsewhere, not a directory."""
    return _URL.match(where) is not None


class RemoteFiles:
    """Files below a URL, by names relative to it. Nothing is asked of it before it is
    needed. Threads can share it.

    All methods raise StorageError, which names the URL, where it cannot be reached, or
    does not let us, or the package for its protocol is missing.

    Args:
        url: any that fsspec knows; credentials in it are shown to nobody.
        is_open: where it is a directory of this machine, whoever may read that may read
            what is written there; otherwise new directories are their owner's alone.
    """

    def __init__(self, url: str, *, is_open: bool = False) -> None:
        self._is_open = is_open
        self._address = url.rstrip("/") if not url.endswith("://") else url
        self.url = _SECRETS.sub(r"\1", self._address)

    def where(self, name: str) -> str:
        """What a file is called in messages."""
        return f"{self.url}/{name}" if name else self.url

    # fsspec is untyped.
    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise StorageError(
                f"{self.url} cannot be used: the package fsspec is missing.",
                "Install it: pip install 'jupyter-cr[remote]'",
            ) from error
        try:
            with self._asking(""):
                fs, root = url_to_fs(self._address)
        except StorageError as error:
            cause = error.__cause__
            protocol = self.url.partition(":")[0]
            if isinstance(cause, ImportError):
                raise StorageError(
                    f"{self.url} cannot be used: {cause}.",
                    "Install the package into the environment of jupyter-cr: pip install "
                    f"{_package(str(cause))}",
                ) from cause
            if isinstance(cause, ValueError):
                raise StorageError(
                    f"{self.url} cannot be used: {cause}.",
                    f"Is {protocol}:// right? As in s3://bucket/path, or file:///path",
                ) from cause
            raise
        return fs, str(root).rstrip("/")

    @property
    def _fs(self) -> Any:
        return self._opened[0]

    def _path(self, name: str) -> str:
        root = self._opened[1]
        return f"{root}/{name}" if name else root

    @cached_property
    def _protocols(self) -> frozenset[str]:
        protocol = self._fs.protocol
        return frozenset((protocol,) if isinstance(protocol, str) else protocol)

    @property
    def _has_directories(self) -> bool:
        return not self._protocols & _WHOLE

    @property
    def _is_local(self) -> bool:
        return "file" in self._protocols

    # Reading

    def find(self, directory: str) -> dict[str, int]:
        """All files below a directory: name -> size in bytes. Nothing if there is no such
        directory yet."""
        start = len(self._path("")) + 1
        with self._asking(""):
            self._fs.invalidate_cache()
            walk = self._walk if self._has_directories else self._list
            return {
                info["name"][start:]: int(info["size"] or 0)
                for info in walk(directory)
                if info["type"] == "file"
            }

    def _list(self, directory: str) -> list[Any]:
        with suppress(FileNotFoundError):
            if found := self._fs.find(self._path(directory), detail=True):
                return list(found.values())
        bucket = self._path("").partition("/")[0]
        if bucket and not self._fs.exists(bucket):
            raise StorageError(
                f"{self.url} cannot be used: there is no bucket {bucket}.",
                "Make it first, or give another URL.",
            )
        return []

    def _walk(self, directory: str) -> list[Any]:
        def fail(error: OSError) -> None:
            # What has just been removed is not there, and that is all.
            if not isinstance(error, FileNotFoundError):
                raise error

        walked = self._fs.walk(self._path(directory), detail=True, on_error=fail)
        return [info for _, _, files in walked for info in files.values()]

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """The content of files, in parallel; without those that are gone."""
        paths = {self._path(name): name for name in names}
        if not paths:
            return {}
        with self._asking(names[0]):
            found = self._fs.cat(list(paths), on_error="return")
        content: dict[str, bytes] = {}
        for path, data in found.items():
            if isinstance(data, FileNotFoundError):
                continue
            name = paths[path]
            with self._asking(name):
                if isinstance(data, BaseException):
                    raise data
            content[name] = bytes(data)
        return content

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes [start, end) of a file, in parallel. At its end they may be fewer.

        Raises:
            StorageError: also if it is gone.
        """
        paths = [self._path(name)] * len(ranges)
        starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
        with self._asking(name):
            found = self._fs.cat_ranges(paths, starts, ends, on_error="return")
            for data in found:
                if isinstance(data, FileNotFoundError):
                    raise self.gone(name) from data
                if isinstance(data, BaseException):
                    raise data
        return [bytes(data) for data in found]

    def modified(self, name: str) -> float:
        """When a file was last written, by its own clock: seconds since 1970; of one that
        is gone, infinity."""
        with self._asking(name):
            try:
                when = self._fs.modified(self._path(name))
            except FileNotFoundError:
                return float("inf")
        return _seconds(when)

    # Writing

    def upload(
        self, source: Path, name: str, advance: Callable[[float], None] | None = None
    ) -> None:
        """Copy a file there, in parts at once where that is possible.

        Args:
            advance: told the share that is there.
        """
        from fsspec.callbacks import Callback

        size = source.stat().st_size or 1

        class _Callback(Callback):  # type: ignore[misc]
            def call(self, *args: Any, **kwargs: Any) -> None:
                if advance is not None:
                    advance(min(1.0, self.value / size))

        with self._new(name) as path:
            self._fs.put_file(str(source), path, callback=_Callback(size=size))

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write small files, in parallel; each appears whole."""
        if self._has_directories:
            for name, content in contents.items():
                with self._new(name) as path:
                    self._fs.pipe_file(path, content)
            return
        with self._writing(next(iter(contents), "")):
            self._fs.pipe({self._path(n): content for n, content in contents.items()})

    @contextmanager
    def _new(self, name: str) -> Iterator[str]:
        """Where a file is to be written; it gets its name at the end."""
        path = self._path(name)
        if not self._has_directories:
            with self._writing(name):
                yield path
            return
        parent, own = posixpath.split(path)
        partial = f"{parent}/.{own}-{secrets.token_hex(4)}"
        with self._writing(name):
            self._make(parent)
            try:
                yield partial
                if self._is_local:
                    if self._is_open:
                        os.chmod(partial, self._openness & _OF_FILES)
                    _sync(partial)
                self._fs.mv(partial, path)
            except BaseException:
                with suppress(Exception):
                    self._fs.rm_file(partial)
                raise

    def _make(self, directory: str) -> None:
        if not self._is_local:
            self._fs.makedirs(directory, exist_ok=True)
            return
        if self._is_open:
            self._make_open(Path(directory))
            return
        # Snapshots are their owner's alone, unless somebody has opened the place.
        for path in (self._path(""), directory):
            Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def _openness(self) -> int:
        """The mode of the place itself. Who may write there is its owner's to say, but
        never is everybody to write below."""
        return stat.S_IMODE(os.stat(self._path("")).st_mode) & _OF_DIRECTORIES

    def _make_open(self, directory: Path) -> None:
        root = Path(self._path(""))
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        below = directory.relative_to(root)
        for path in [root / part for part in (*reversed(below.parents), below)][1:]:
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
                # Whatever the umask is.
                path.chmod(self._openness)

    def let_add(self, directory: str) -> None:
        """Where it is a directory of this machine, let whoever may read the place add files
        to one below it, and see none but their own."""
        if self._is_local:
            with self._writing(directory):
                readers = self._openness & 0o055
                # Of each class that may read and enter: that may write and enter.
                adding = (readers & 0o011) | (readers & 0o044) >> 1
                os.chmod(self._path(directory), stat.S_ISVTX | 0o700 | adding)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are gone already are no error."""
        wanted = [self._path(name) for name in names]
        if not wanted:
            return
        with self._writing(wanted[0][len(self._path("")) + 1 :]):
            if not self._has_directories:
                # Many at once; where one is gone, some libraries stop there.
                with suppress(FileNotFoundError):
                    self._fs.rm(wanted)
                    return
            for path in wanted:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(path)

    def abort_uploads(self, directory: str, before: float) -> int:
        """Give up uploads in parts that nobody has finished: S3 keeps, and bills, the parts
        that have come. How many there were.

        Args:
            before: begun before that, in seconds since 1970.
        """
        if not hasattr(self._fs, "list_multipart_uploads"):
            return 0
        bucket, _, start = self._path(f"{directory}/").partition("/")
        count = 0
        with self._writing(directory):
            for upload in self._fs.list_multipart_uploads(bucket):
                if (
                    upload["Key"].startswith(start)
                    and _seconds(upload["Initiated"]) < before
                ):
                    self._fs.call_s3(
                        "abort_multipart_upload",
                        Bucket=bucket,
                        Key=upload["Key"],
                        UploadId=upload["UploadId"],
                    )
                    count += 1
        return count

    def delete_directory(self, name: str) -> None:
        """Delete a directory, where there are any, if it is empty."""
        if self._has_directories:
            with suppress(OSError, StorageError), self._writing(name):
                self._fs.rmdir(self._path(name))

    # Errors

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Turn whatever a library raises into what a person can act on. The bodies do
        nothing but call fsspec, and of errors each protocol has its own."""
        try:
            yield
        except (CheckpointRestoreError, FileNotFoundError):
            raise
        except Exception as error:
            raise self._failed(name, error) from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            with self._asking(name):
                yield
        except FileNotFoundError as error:
            raise StorageError(
                f"Cannot write {self.where(name)}: {_reason(error)}.",
                "Make the bucket or the directory first, or give another URL.",
            ) from error

    def gone(self, name: str) -> StorageError:
        """What is said of a file that was there a moment ago."""
        return StorageError(
            f"{self.where(name)} is gone: somebody has removed it meanwhile.",
            f"What there is still: jupyter cr list --store {self.url}",
        )

    def _failed(self, name: str, error: Exception) -> StorageError:
        number = error.errno if isinstance(error, OSError) else None
        where, reason = self.where(name), _reason(error)
        if (
            isinstance(error, PermissionError)
            or number in _DENIED
            or "Credential" in type(error).__name__
        ):
            return StorageError(
                f"No permission for {where}: {reason}.",
                "Check the permissions there, and the credentials (for S3: AWS_PROFILE, "
                "or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY).",
            )
        if number in _FULL:
            return StorageError(
                f"Cannot write {where}: {reason}.",
                f"Make room there: jupyter cr rm NAME --store {self.url}",
            )
        return StorageError(
            f"{where} cannot be reached: {reason}.",
            "Check the URL and the network, and try again.",
        )


def _seconds(when: datetime) -> float:
    """Since 1970; libraries that give no time zone mean UTC."""
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def _reason(error: Exception) -> str:
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return _SECRETS.sub(r"\1", text).rstrip(".") or type(error).__name__


def _package(message: str) -> str:
    """As in: Install s3fs to access S3; SFTPFileSystem requires "paramiko"."""
    found = re.search(r"(?:[Ii]nstall|requires) \W?([A-Za-z0-9_-]+)", message)
    return found[1] if found else "'jupyter-cr[remote]'"


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
