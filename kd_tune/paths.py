"""Where things lie, and how files come to be: whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kd_tune.errors import ConfigError, EnvironmentProblem, refused_by_system

CACHE_VARIABLE = "KD_TUNE_CACHE"
CHECKSUM = "crc32"


def cache_folder() -> Path:
    """Where data, teachers and soft targets are kept between searches: `$KD_TUNE_CACHE`, or `~/.cache/kd_tune`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "kd_tune")


@contextmanager
def written_whole(target: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary path to write a file or folder to, which takes `target`'s name only if the body succeeds.

    Args:
        target: a file replaces an older one; a folder replaces an older folder only if `replace`.
        replace: whether a folder of that name may be deleted.

    Raises:
        ConfigError: there is a folder of that name that may not be replaced, or the place cannot be written.
        EnvironmentProblem: there is no room, or no permission.
    """
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not replace and any(target.iterdir()):
            raise ConfigError(f"{target}: there is something already; name a new or an empty folder")
        yield temporary
        if replace and target.is_dir():
            old = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.old"
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.replace(target)  # fails on a folder that somebody else made meanwhile
    except OSError as error:
        if str(error.filename).startswith(str(temporary)):
            error.filename = None  # the target says more
        problem = refused_by_system(error, target)
        raise problem or ConfigError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary.exists():
            temporary.unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses in the body, which writes to a path, into an EnvironmentProblem."""
    try:
        yield
    except OSError as error:
        problem = refused_by_system(error, path)
        raise problem or EnvironmentProblem(f"{path}: cannot be written: {error.strerror or error}") from None


class Busy(ConfigError):  # noqa: N818 - as in `errors`
    """Another process holds a lock."""


@contextmanager
def exclusive(path: Path, complaint: str) -> Iterator[None]:
    """Holds a lock file for the length of the body; a process that dies lets it go.

    Raises:
        Busy: another process holds it; `complaint` says what it is doing.
        EnvironmentProblem: there are no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            _lock(lock, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(complaint) from None
        yield


@contextmanager
def taking_turns(path: Path) -> Iterator[None]:
    """Holds a lock file for the length of the body, when whoever holds it has let go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        _lock(lock, path, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file."""
    if not path.exists():
        return False
    with path.open() as lock:
        try:
            _lock(lock, path, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock(file: IO[str], path: Path, how: int) -> None:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        raise
    except OSError as error:
        raise EnvironmentProblem(
            f"{path}: cannot be locked: {error.strerror}; mount the file system with locks (Lustre: -o flock), or take "
            "a folder on another"
        ) from None


def write_json(target: Path, content: Mapping[str, Any]) -> None:
    """Writes one JSON object, indented, with a checksum of its content as its last key."""
    with written_whole(target) as temporary:
        sealed = {**content, CHECKSUM: _checksum(content)}
        temporary.write_text(json.dumps(sealed, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, without its checksum; one that a person wrote needs none.

    Raises:
        ConfigError: there is none, something else, or not as it was written; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except OSError as error:
        raise refused_by_system(error, path) or ConfigError(f"{path}: cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a JSON object")
    checksum = content.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(content):
        raise ConfigError(
            f"{path}: its content is not what was written; the file is damaged "
            f"(whoever changed it on purpose takes out its line {CHECKSUM})"
        )
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"


def refuse_constant(name: str) -> None:
    """For `json.loads`, which would take NaN and infinities."""
    raise ValueError(f"{name} is not JSON")


def check_fits_memory(path: Path, num_bytes: int) -> None:
    """Raises ConfigError if what a file holds is more than this machine's memory: archives may hold far more than they
    take."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > memory:
        raise ConfigError(
            f"{path}: holds {num_bytes / 2**30:,.1f} GiB, more than this machine's memory, {memory / 2**30:,.1f} GiB"
        )


class Record(BaseModel):
    """Base of what is kept in JSON files: the fields that are relied on; others may stand beside them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


RecordT = TypeVar("RecordT", bound=Record)


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """A JSON file whose fields are checked.

    Raises:
        ConfigError: missing, not JSON, or not such a record; the message names file and field.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: not a valid record: {field}: {first['msg']}") from None


def file_name(name: str) -> str:
    """A name as part of a file's: those of the user's own networks hold dots and a colon, those of values `=`."""
    return re.sub(r"[^\w-]", "_", name)
