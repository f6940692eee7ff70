"""A run's copy in its storage: kept up by whoever runs it, fetched by another machine that goes on with it.

The folder on the launcher's machine stays what a run is. What the launcher writes is copied every few seconds;
checkpoints, which other machines write, are in the storage alone. Only one launcher at a time owns the copy:
`owner.json` in it holds a token that the owner made, and a number that it raises with every copy. A launch that finds
an owner which did not say that it has left watches for a while whether the number still rises; no clocks are compared.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from kd_tune import checkpoint, records
from kd_tune.errors import ConfigError, EnvironmentProblem, StorageLost
from kd_tune.ledger import LOCK, SEARCH_FILE, checkpoints_of
from kd_tune.paths import Record, read_record, write_json, written_whole
from kd_tune.run_state import Event, RunState
from kd_tune.storage import Storage

PERIOD = 10.0  # seconds from copy to copy: what a launcher that is lost with its machine has done since is done again
WATCH = 60.0  # seconds in which an owner that is alive raises its number
PATIENCE = 300.0  # seconds without a copy after which a search is paused
LAST_PATIENCE = 60.0  # the same for the last copy

OWNER = "owner.json"
PLACE = "storage.json"
_OF_THIS_MACHINE = (LOCK, OWNER, PLACE)
_NOT_COPIED = ("ray", "tensorboard", "checkpoints")


class Owner(Record):
    """`owner.json` in a storage: who keeps a run's copy.

    Attributes:
        token: of the launch.
        beat: rises with every copy.
        released: whether the launch has left.
        host: for a person.
        time: likewise.
    """

    token: str
    beat: int
    released: bool
    host: str
    time: str


class Place(Record):
    """`storage.json` in a run's folder: where its copy is.

    Attributes:
        url: of the copy.
        tokens: the last with which this folder owned it; two while a launch takes it over.
        files: what was copied: time of change in ns and size by path.
    """

    url: str
    tokens: list[str] = []
    files: dict[str, list[int]] = {}


class _Taken(ConfigError):  # noqa: N818 - as in `errors`
    """Another launch owns the copy now."""


def storage_for(url: str, folder: Path) -> Storage:
    """Where a new run will be copied to, a folder of its name in a storage that is written to for a trial.

    Raises:
        ConfigError: there is a run of this name, or it is the run's own folder.
        EnvironmentProblem: the storage cannot be written.
    """
    storage = Storage(url).child(folder.name)
    if storage.folder == folder.resolve():
        raise ConfigError(f"--storage {url}: the run itself lies there; take another folder, or another --runs")
    Storage(url).check()
    if any(storage.read(name) is not None for name in (OWNER, SEARCH_FILE)):
        raise ConfigError(
            f"{storage.url}: there is a run of this name; take another --name, or go on with --resume '{storage.url}'"
        )
    return storage


def copy_of(name: str, url: str) -> str | None:
    """The URL of a run's copy in a storage; None if there is none that could be fetched.

    Raises:
        EnvironmentProblem: the storage cannot be read.
    """
    storage = Storage(url).child(name)
    return None if storage.read(SEARCH_FILE) is None else storage.url


def remember(folder: Path, storage: Storage) -> None:
    """Notes in a run's folder where its copy will be."""
    write_json(folder / PLACE, Place(url=storage.url).model_dump())


def storage_of(run: Path) -> Storage | None:
    """Where a run's copy is, or a confirmation's, which lies in its search's; None if there is none."""
    for folder, names in ((run, ()), (run.resolve().parent, (run.name,))):
        if (folder / PLACE).exists():
            return Storage(read_record(folder / PLACE, Place).url).child(*names)
    return None


def newest_checkpoint(run: Path, number: int) -> Path | None:
    """A trial's newest checkpoint: where it lies in the run's folder, copied there from its storage if need be.

    Only of trials that have ended, or an older one may lie here.
    """
    folder = checkpoints_of(run, number)
    if (found := checkpoint.newest(folder)) is None and (storage := storage_of(run)) is not None:
        found = checkpoint.Shelf(storage.child(*checkpoints_of(Path(), number).parts)).newest(folder)
    return found


def discard(folder: Path, url: str) -> None:
    """Deletes the copy of a run that came to nothing, if this folder owns it and the storage can be reached.

    Args:
        folder: the run's.
        url: of the storage that holds the copy.
    """
    with suppress(ConfigError):
        place = read_record(folder / PLACE, Place)
        owner = _read_owner(Storage(place.url))
        if owner is not None and owner.token in place.tokens:
            Storage(url).delete(folder.name)


def fetch(url: str, runs: Path, console: Console) -> Path:
    """Copies a run, but not its checkpoints, from a storage to this machine, which owns the copy from now on.

    Returns:
        The run's folder, `runs` / its name.

    Raises:
        ConfigError: no run there, one of this name here, or somebody else is running it.
        EnvironmentProblem: the storage cannot be read.
    """
    storage = Storage(url)
    folder = runs / storage.name
    if folder.exists():
        raise ConfigError(
            f"{folder}: is there already; if it is this run, go on with --resume {folder}; "
            "if not, take another folder with --runs"
        )
    if storage.read(SEARCH_FILE) is None:
        raise ConfigError(f"{url}: no run there (it has no {SEARCH_FILE})")
    found, owner = _read_owner(storage), _new_owner()
    _watch(storage, found, console)
    with written_whole(folder) as temporary:
        temporary.mkdir()
        storage.download(temporary, _is_copied)
        files = {name: _stamp(path) for name, path in _files_of(temporary)}
        write_json(temporary / PLACE, Place(url=storage.url, tokens=_tokens(found, owner), files=files).model_dump())
    if _read_owner(storage) != found:
        shutil.rmtree(folder)
        raise ConfigError(f"{url}: has changed while it was fetched; somebody else is running this search")
    _write_owner(storage, owner.model_copy(update={"released": True}))
    console.print(f"{storage.url}: fetched to {folder}")
    return folder


@contextmanager
def mirrored(folder: Path, console: Console, advice: str) -> Iterator[Mirror | None]:
    """Keeps up a run's copy, if it has a storage: in the length of the body, and once more at its end.

    Args:
        folder: the run's, which no other process of this machine is running.
        console: is told if this takes time.
        advice: how to go on if the storage is lost.

    Raises:
        ConfigError: the run has gone on elsewhere, or does now.
        StorageLost: the storage did not answer for too long; the run's folder has everything.
    """
    if (folder / OWNER).exists():
        raise ConfigError(
            f"{folder}: is the copy that a storage holds of a run; fetch it first: --resume {folder.resolve().as_uri()}"
        )
    if not (folder / PLACE).exists():
        yield None
        return
    mirror = Mirror(folder, console)
    console.print(f"storage: {mirror.url_of(folder)}")
    try:
        yield mirror
    except BaseException:
        with suppress(ConfigError):
            mirror.end(advice)
        raise
    mirror.end(advice)


class Mirror:
    """Keeps a run's copy in its storage, by a thread of its own; listens to the run.

    Args:
        folder: the run's.
        console: is told if the launch before has to be watched.

    Attributes:
        problem: what is wrong, once it has been for so long that the search should stop.

    Raises:
        ConfigError: the run has gone on elsewhere, or does now.
        EnvironmentProblem: the storage cannot be reached.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.problem: str | None = None
        self._folder = folder
        self._place = read_record(folder / PLACE, Place)
        self._storage = Storage(self._place.url)
        self._useless: set[int] = set()
        self._forgetting, self._copying = threading.Lock(), threading.Lock()
        self._ending = threading.Event()
        self._beaten = time.monotonic()
        self._owner = self._claim(console)
        self._copy(LAST_PATIENCE)
        self._thread = threading.Thread(target=self._keep_copying, name="mirror", daemon=True)
        self._thread.start()

    def url_of(self, run: Path) -> str:
        """Where the copy of the run, or of a confirmation in its folder, is."""
        return self._storage.child(*run.resolve().relative_to(self._folder.resolve()).parts).url

    def __call__(self, event: Event, state: RunState) -> None:
        """A look at the test images must be recorded where another machine would look, before it is taken."""
        if event["event"] == records.TEST_OPENED:
            self._copy(LAST_PATIENCE)

    def forget(self, numbers: Iterable[int]) -> None:
        """Has trials' checkpoints deleted, once the copy of the ledger says why they are not needed."""
        with self._forgetting:
            self._useless.update(numbers)

    def end(self, advice: str) -> None:
        """Copies what is left and lets go.

        Raises:
            ConfigError: another launch owns the copy.
            StorageLost: the storage does not answer.
        """
        self._ending.set()
        self._thread.join()
        try:
            self._copy(LAST_PATIENCE if self.problem is None else 0.0)
            _write_owner(self._storage, self._owner.model_copy(update={"released": True}))
        except EnvironmentProblem as error:
            raise StorageLost(f"{error}. Nothing is lost: the run is in {self._folder}; {advice}") from None

    def _claim(self, console: Console) -> Owner:
        """Makes this launch the owner of the copy."""
        found, owner = _read_owner(self._storage), _new_owner()
        if found is None:
            self._place.files = {}
        elif found.token not in self._place.tokens:
            raise ConfigError(
                f"{self._folder}: has gone on elsewhere, last on {found.host} at {found.time}; go on with what was "
                f"done there: --resume '{self._storage.url}', with another --runs than this folder's"
            )
        _watch(self._storage, found, console)
        self._place.tokens = _tokens(found, owner)
        self._write_place()  # first, so that a launch that is killed here still knows its predecessor's
        _write_owner(self._storage, owner)
        return owner

    def _keep_copying(self) -> None:
        copied = time.monotonic()
        while not self._ending.wait(PERIOD):
            try:
                self._copy(0.0)
                copied = time.monotonic()
            except _Taken as error:
                self.problem = str(error)
                return
            except (ConfigError, OSError) as error:
                if time.monotonic() - copied >= PATIENCE:
                    self.problem = str(error)

    def _copy(self, patience: float) -> None:
        """Copies what has changed since the last time."""
        with self._copying:
            with self._forgetting:
                useless = set(self._useless)
            storage = self._storage.child(patience=patience)
            self._beat(storage)
            copied = []
            for name, path in _files_of(self._folder):
                if time.monotonic() - self._beaten >= PERIOD:
                    self._beat(storage)
                copied.append(self._copy_file(storage, name, path))
            if any(copied):
                self._write_place()
            self._delete_checkpoints(storage, useless)
            with self._forgetting:
                self._useless -= useless

    def _beat(self, storage: Storage) -> None:
        """Shows that this launch is alive; raises _Taken if another has taken the run over."""
        found = _read_owner(storage)
        if found is not None and found.token != self._owner.token:
            raise _Taken(f"{storage.url}: {found.host} goes on with this run now, so it is stopped here")
        self._owner.beat += 1
        _write_owner(storage, self._owner)
        self._beaten = time.monotonic()

    def _copy_file(self, storage: Storage, name: str, path: Path) -> bool:
        """Copies a file if it has changed; returns whether it had."""
        with suppress(FileNotFoundError):  # replaced or deleted meanwhile
            stamp = _stamp(path)
            if stamp != self._place.files.get(name):
                storage.write(name, path.read_bytes())
                self._place.files[name] = stamp
                return True
        return False

    def _delete_checkpoints(self, storage: Storage, numbers: set[int]) -> None:
        useless = {checkpoints_of(Path(), number) for number in numbers}
        there = storage.folders("checkpoints") if useless else []
        for folder in useless:
            if folder.name in there:
                storage.delete(str(folder))

    def _write_place(self) -> None:
        write_json(self._folder / PLACE, self._place.model_dump())


def _new_owner() -> Owner:
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return Owner(token=secrets.token_hex(8), beat=0, released=False, host=socket.gethostname(), time=now)


def _tokens(*owners: Owner | None) -> list[str]:
    return [owner.token for owner in owners if owner is not None]


def _read_owner(storage: Storage) -> Owner | None:
    content = storage.read(OWNER)
    try:
        return None if content is None else Owner.model_validate_json(content)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(
            f"{storage.url}/{OWNER}: not a valid record: {reason}; delete it if nobody runs this search"
        ) from None


def _write_owner(storage: Storage, owner: Owner) -> None:
    storage.write(OWNER, owner.model_dump_json().encode())


def _watch(storage: Storage, found: Owner | None, console: Console) -> None:
    """Raises ConfigError if a run's owner is alive."""
    if found is None or found.released:
        return
    console.print(f"{storage.url}: {found.host} has not let go of this run; watching for {WATCH:.0f} s if it goes on")
    time.sleep(WATCH)
    if _read_owner(storage) != found:
        raise ConfigError(f"{storage.url}: {found.host} is running this search; wait for it, or stop it")


def _is_copied(name: str) -> bool:
    *folders, last = name.split("/")
    hidden = any(part.startswith(".") for part in (*folders, last))
    return not (hidden or last in _OF_THIS_MACHINE or any(folder in _NOT_COPIED for folder in folders))


def _files_of(folder: Path) -> list[tuple[str, Path]]:
    """What is copied of a run: paths in it, and where they are; ledgers last, which tell of what the others hold."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_COPIED]  # Ray's are thousands
        paths = [path for path in (Path(where, name) for name in files) if not path.is_symlink()]  # whose, who knows
        found += [(path.relative_to(folder).as_posix(), path) for path in paths]
    return sorted((one for one in found if _is_copied(one[0])), key=lambda one: ("ledger" in one[1].parts, one[0]))


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_mtime_ns, status.st_size]
