"""Files that trials read, and that another node may lack: data, answers, live teachers. They are sent, once a node.

A parcel says what lies at a path of the driver's machine. A node that has the same there uses it. Another gets the
files as one stream, keeps them in its cache, and trials read them there. Loads no Ray: how a stream's chunks cross is
the caller's business.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_tune.errors import ConfigError
from kd_tune.findings import Finding, failed, passed
from kd_tune.paths import cache_folder, taking_turns, written_whole

MB = 10**6
CHUNK = 64 * 2**20  # bytes; Ray's object store takes and passes on whole ones
MOST_BYTES = 4000 * MB  # of a parcel: it lies in the driver's object store while a search runs, and on each node's disk
RECORD = ".json"  # of a bank or a teacher; it holds checksums of the files beside it


@dataclass(frozen=True)
class Parcel:
    """What lies at a path of the driver's machine.

    Attributes:
        name: for a person.
        path: a file or a folder there.
        files: name below the path (of a file itself: empty), size in bytes, SHA-256; of a parcel that is too large to
            be sent, of its records alone.
    """

    name: str
    path: str
    files: tuple[tuple[str, int, str], ...]

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size, _ in self.files)

    @property
    def kept(self) -> Path:
        """Where this machine keeps it if it was sent; ends as the path does, because a file's suffix counts."""
        key = hashlib.sha256(repr(self.files).encode()).hexdigest()[:16]
        return cache_folder() / "sent" / key / Path(self.path).name

    def is_at(self, path: Path, whole: bool = False) -> bool:
        """Whether the same lies at a path: sizes and records; `whole`: every byte. Readers check the rest."""
        return all(_lies_at(path / name, size, sha256, whole) for name, size, sha256 in self.files)


def _lies_at(file: Path, size: int, sha256: str, whole: bool) -> bool:
    try:
        return file.stat().st_size == size and (not (whole or file.suffix == RECORD) or _sha256(file) == sha256)
    except OSError:
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def pack(name: str, path: Path, only: Sequence[str] | None = None) -> Parcel:
    """What lies at a path.

    Args:
        name: for a person.
        path: a file or a folder.
        only: files and folders below it; None: all.
    """
    tops = [path] if only is None else [path / part for part in only]
    found = [file for top in tops for file in ([top] if top.is_file() else sorted(top.rglob("*"))) if file.is_file()]
    sizes = [file.stat().st_size for file in found]
    can_be_sent = sum(sizes) <= MOST_BYTES
    names = ["" if file == path else file.relative_to(path).as_posix() for file in found]
    digests = [_sha256(file) if can_be_sent or file.suffix == RECORD else "" for file in found]
    return Parcel(name, str(path), tuple(zip(names, sizes, digests, strict=True)))


def check_parcels(parcels: Iterable[Parcel]) -> list[Finding]:
    """Whether the machine that this runs on has parcels, or can be sent them."""
    return [_check(parcel) for parcel in parcels]


def _check(parcel: Parcel) -> Finding:
    for path in (Path(parcel.path), parcel.kept):
        if parcel.is_at(path):
            return passed(parcel.name, f"{path}: there")
    found = f"{parcel.path}: not there, or other files; {parcel.num_bytes / MB:.0f} MB"
    if parcel.num_bytes > MOST_BYTES:
        mend = "put them on storage that all nodes share under one path, or copy them there"
        return failed(parcel.name, f"{found} are too much to be sent (at most {MOST_BYTES / MB:.0f})", mend)
    return passed(parcel.name, f"{found} will be sent")


def at_hand(parcel: Parcel, send: Callable[[], Iterable[bytes]]) -> Path:
    """Where a parcel's files lie on this machine; they are sent first if it lacks them, to one of all who ask at once.

    Args:
        parcel: what is needed.
        send: asked for its stream.

    Raises:
        ConfigError: it is too large, came damaged, or cannot be written here.
    """
    if parcel.is_at(Path(parcel.path)):
        return Path(parcel.path)
    with taking_turns(parcel.kept.parent.with_suffix(".lock")):
        if not parcel.is_at(parcel.kept):
            finding = _check(parcel)
            if finding.mend:
                raise ConfigError(f"{finding.found}; {finding.mend}")
            _write(parcel, _Reader(iter(send())))
    return parcel.kept


def send(parcel: Parcel, put: Callable[[bytes], None]) -> None:
    """Gives the files of a parcel, which lies here, to `put`, chunk by chunk."""
    writer = _Writer(put)
    with tarfile.open(mode="w|", fileobj=writer, bufsize=CHUNK // 8, dereference=True) as archive:
        for name, _, _ in parcel.files:
            archive.add(Path(parcel.path) / name, arcname=str(Path(Path(parcel.path).name) / name))
    writer.finish()


def _write(parcel: Parcel, reader: _Reader) -> None:
    """Keeps a stream, whole or not at all."""
    with written_whole(parcel.kept.parent, replace=True) as temporary:
        try:
            with tarfile.open(mode="r|", fileobj=reader, bufsize=CHUNK // 8) as archive:
                archive.extractall(temporary, filter="data")
        except tarfile.TarError as error:
            raise ConfigError(f"{parcel.path}: came here damaged: {error}") from None
        if not parcel.is_at(temporary / parcel.kept.name, whole=True):
            raise ConfigError(f"{parcel.path}: came here damaged, or was changed since the search started")


class _Writer(io.RawIOBase):
    """Collects what is written into chunks.

    Args:
        put: takes each.
    """

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._held = bytearray()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._held += data
        if len(self._held) >= CHUNK:
            self.finish()
        return len(data)

    def finish(self) -> None:
        """Gives what is held."""
        self._put(bytes(self._held))
        self._held.clear()


class _Reader(io.RawIOBase):
    """Reads chunks as one file.

    Args:
        chunks: in order.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held, self._at = b"", 0

    def read(self, size: int = -1) -> bytes:
        while self._at == len(self._held):
            try:
                self._held, self._at = next(self._chunks), 0
            except StopIteration:
                return b""
        end = len(self._held) if size < 0 else self._at + size
        data = self._held[self._at : end]
        self._at += len(data)
        return data
