"""A place that outlives machines, named by a URL: S3 and what else pyarrow knows, or a folder that machines share.

A file there is whole or not there at all. What fails is tried again, because such places fail now and then.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit, urlunsplit

from kd_tune.errors import ConfigError, EnvironmentProblem

PATIENCE = 60.0  # seconds in which an operation is tried again
# Seconds for which who trains waits for its storage. The launcher waits half as long and then pauses the search, so
# that trials fail of it only where this node alone cannot reach it.
TRIAL_PATIENCE = 600.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
S3_ATTEMPTS, S3_TIMEOUT = 3, 10.0  # of S3's client by itself: each time that an operation is tried, and in seconds
_S3_OPTIONS = ("region", "endpoint_override", "scheme")
OBJECT_STORES = ("s3", "gcs", "abfs")  # they have no folders to make, and show a file when all of it has arrived

# What does not get better by itself, in the words of S3's client.
_REFUSED = re.compile(r"NO_SUCH_BUCKET|ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|Bucket '.*' not found")

T = TypeVar("T")


def is_url(text: str) -> bool:
    """Whether a person named a storage, and not a folder of this machine."""
    return "://" in text


class Storage:
    """A folder in a storage.

    Args:
        url: `s3://bucket/prefix?region=eu-central-1`, or what else `pyarrow.fs.FileSystem.from_uri` understands; a path
            is a folder that all machines see.
        patience: seconds in which whatever fails is tried again.

    Raises:
        ConfigError: it is no such URL, or holds a password, which would be recorded.
    """

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        self.url = url.rstrip("/") if is_url(url) else Path(url).expanduser().resolve().as_uri()
        self._patience = patience
        self._opened: tuple[Any, str] | None = None
        parts = urlsplit(self.url)
        if parts.password or (parts.scheme == "s3" and parts.username):
            raise ConfigError(
                f"{parts.scheme}://...@{parts.hostname}{parts.path}: a URL is recorded and must hold no credentials; "
                "give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, on every node"
            )
        if not (parts.netloc or parts.path.strip("/")):
            raise ConfigError(f"{url}: names no place; it must look like s3://bucket/prefix")

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @property
    def folder(self) -> Path | None:
        """Where it lies, if it is a folder that this machine sees."""
        parts = urlsplit(self.url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None

    def child(self, *names: str, patience: float | None = None) -> Storage:
        """A folder in it, or itself, with another patience."""
        parts = urlsplit(self.url)
        path = "/".join([parts.path.rstrip("/"), *map(quote, names)])
        child = Storage(urlunsplit(parts._replace(path=path)), self._patience if patience is None else patience)
        if self._opened is not None:
            child._opened = self._opened[0], "/".join([self._opened[1], *names])
        return child

    def check(self) -> None:
        """Writes a file and deletes it.

        Raises:
            EnvironmentProblem: that is refused, or does not work for too long.
        """
        name = f".kd_tune_{secrets.token_hex(8)}"
        self._again("written to", lambda store, root: _write(store, f"{root}/{name}", b"kd_tune"), at_once=True)
        self._again("written to", lambda store, root: store.delete_file(f"{root}/{name}"))

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is none."""

        def read(store: Any, root: str) -> bytes:
            with store.open_input_file(f"{root}/{name}") as file:  # a stream is read in 256 kB, a request each
                content: bytes = file.read()
                return content

        try:
            return self._again("read", read)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, in place of an older one."""
        self._again("written to", lambda store, root: _write(store, f"{root}/{name}", content))

    def files(self) -> list[str]:
        """Paths of all files below, in order.

        Raises:
            ConfigError: one of them would lie elsewhere if it were copied.
        """
        found = self._again("listed", lambda store, root: _files(store, root))
        if wrong := [path for path in found if not _stays_inside(path)]:
            raise ConfigError(f"{self.url}: holds a file whose name leads out of it: {wrong[0]!r}; delete it there")
        return found

    def folders(self, name: str) -> list[str]:
        """Names of the folders that one of its folders holds."""
        return self._again("listed", lambda store, root: _folders(store, f"{root}/{name}"))

    def delete(self, name: str) -> None:
        """Deletes a folder with all that it holds, if it is there."""
        try:
            self._again("deleted from", lambda store, root: store.delete_dir(f"{root}/{name}"))
        except FileNotFoundError:
            return

    def remove(self, name: str) -> None:
        """Deletes a file, if it is there."""
        self._again("deleted from", lambda store, root: _delete_if_there(store, f"{root}/{name}"))

    def upload(self, folder: Path, name: str, last: str) -> None:
        """Copies a folder of files; the file `last` comes last, so that where it is, all of it is."""
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == last, path.name)):
            self.write(f"{name}/{path.name}", path.read_bytes())

    def download(self, target: Path, wanted: Callable[[str], bool] = lambda path: True) -> None:
        """Copies its files, or those whose paths are `wanted`, into a folder."""
        for path in filter(wanted, self.files()):
            if (content := self.read(path)) is not None:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                (target / path).write_bytes(content)

    def _again(self, what: str, operation: Callable[[Any, str], T], at_once: bool = False) -> T:
        """Does something until it works, or patience ends.

        Args:
            what: is done, for the message.
            operation: of a file system of pyarrow's and the path of this folder in it.
            at_once: whether a plain refusal is believed the first time.

        Raises:
            FileNotFoundError: by `operation`.
            EnvironmentProblem: it did not work for so long.
        """
        ends, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while True:
            try:
                return operation(*self._open())
            except FileNotFoundError:
                raise
            except OSError as error:
                refused = at_once and (isinstance(error, PermissionError) or _REFUSED.search(str(error)))
                if refused or time.monotonic() + pause > ends:
                    raise EnvironmentProblem(f"{self.url}: cannot be {what}: {_reason(error)}") from None
            time.sleep(pause * random.uniform(0.5, 1.0))  # many hosts wait for the same storage
            pause = min(2 * pause, LONGEST_PAUSE)

    def _open(self) -> tuple[Any, str]:
        """The file system and this folder's path in it; S3 may be asked for the bucket's region."""
        if self._opened is None:
            parts = urlsplit(self.url)
            try:
                store, root = _open_s3(parts) if parts.scheme == "s3" else _open(self.url)
            except (ValueError, NotImplementedError) as error:
                raise ConfigError(f"{self.url}: no storage that pyarrow knows: {_reason(error)}") from None
            self._opened = store, root.rstrip("/")
        return self._opened


def _open(url: str) -> tuple[Any, str]:
    from pyarrow import fs

    found: tuple[Any, str] = fs.FileSystem.from_uri(url)
    return found


def _open_s3(parts: SplitResult) -> tuple[Any, str]:
    """Not by `from_uri`, which leaves S3's client to try for five minutes."""
    from pyarrow import fs

    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := options.keys() - _S3_OPTIONS:
        raise ValueError(f"unknown option {min(unknown)!r} behind the '?'; known: {', '.join(_S3_OPTIONS)}")
    if not options.keys() & {"region", "endpoint_override"}:
        options["region"] = fs.resolve_s3_region(parts.netloc)
    store = fs.S3FileSystem(
        **options,
        connect_timeout=S3_TIMEOUT,
        request_timeout=S3_TIMEOUT,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        # Or else a small file takes three requests, and one that was begun and never ended costs money for ever.
        allow_delayed_open=True,
    )
    return store, parts.netloc + unquote(parts.path)


def _write(store: Any, path: str, content: bytes) -> None:
    if store.type_name in OBJECT_STORES:
        with store.open_output_stream(path) as stream:
            stream.write(content)
        return
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{secrets.token_hex(4)}.tmp"
    store.create_dir(folder, recursive=True)
    try:
        with store.open_output_stream(temporary) as stream:
            stream.write(content)
        store.move(temporary, path)
    except OSError:
        _delete_if_there(store, temporary)
        raise


def _delete_if_there(store: Any, path: str) -> None:
    try:
        store.delete_file(path)
    except OSError:
        return


def _files(store: Any, root: str) -> list[str]:
    from pyarrow import fs

    infos = store.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return sorted(info.path[len(root) + 1 :] for info in infos if info.type == fs.FileType.File)


def _folders(store: Any, root: str) -> list[str]:
    from pyarrow import fs

    infos = store.get_file_info(fs.FileSelector(root, allow_not_found=True))
    return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)


def _stays_inside(path: str) -> bool:
    return not any(part in ("", ".", "..") or "\0" in part for part in path.split("/"))


def _reason(error: Exception) -> str:
    """One line: S3's client adds numbers of requests and advice."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return re.sub(r" \(Request ID: \w*\)", "", " ".join(str(error).split()))[:300].rstrip(".")
