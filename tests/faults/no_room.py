"""A disk that is full, read-only, or not to be written to, wherever kd_tune writes.

A small file system in memory is the disk. Each round lets a part of kd_tune write to it as it must not: with so many
pages left, a random number below what is needed (`full`); mounted read-only; or as another user. What must hold:

- an EnvironmentProblem (exit code 5) that names a path on that disk, or success where there was room enough;
- when the disk is as it should be, the same call goes on, or begins again, and its result is that of an undisturbed
  one: nothing half written was read.

`search` and `confirmation` are whole commands with Ray, on a full disk: no trial may fail by it, and both can be gone
on with.

    python tests/faults/no_room.py --count 10            # mounting needs root, or a user namespace: unshare -Urm
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from malformed import digits_network, good_npz, good_run
from rich.console import Console
from trials_by_fault import Tally, finish, keep, parser_of

from kd_tune import export, host, report, soft_targets, teacher
from kd_tune.data import npz
from kd_tune.errors import EnvironmentProblem, refused_by_system
from kd_tune.ledger import Run, checkpoints_of, replay
from kd_tune.paths import written_whole
from kd_tune.records import Assignment
from tests.searches import complaints, toy_search, write_search

QUIET = Console(quiet=True)
PAGE = 4096
NOBODY = 65534
MOUNT, UMOUNT = (shutil.which(name) or name for name in ("mount", "umount"))
SECONDS = 900.0  # of a whole command, on a machine that does other things too


class Disk:
    """A file system of its own.

    Args:
        place: where it is mounted; made.
        megabytes: its size.
    """

    def __init__(self, place: Path, megabytes: int) -> None:
        self.place = place
        place.mkdir(parents=True)
        subprocess.run([MOUNT, "-t", "tmpfs", "-o", f"size={megabytes}m", "kd_tune_fault", str(place)], check=True)

    def close(self) -> None:
        subprocess.run([UMOUNT, "-l", str(self.place)], check=True)

    def wipe(self) -> None:
        for path in self.place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def used(self) -> int:
        """Pages."""
        status = os.statvfs(self.place)
        return (status.f_blocks - status.f_bfree) * status.f_frsize // PAGE

    @contextmanager
    def full(self, pages: int) -> Iterator[None]:
        """With so many pages left."""
        ballast = self.place / "ballast"
        status = os.statvfs(self.place)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail - pages) * status.f_frsize)
        try:
            yield
        finally:
            ballast.unlink(missing_ok=True)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        subprocess.run([MOUNT, "-o", "remount,ro", str(self.place)], check=True)
        try:
            yield
        finally:
            subprocess.run([MOUNT, "-o", "remount,rw", str(self.place)], check=True)

    @contextmanager
    def forbidden(self, elsewhere: Path) -> Iterator[None]:
        """As a user that may read everything here and elsewhere, and write nothing."""
        around = [elsewhere.parent, self.place, elsewhere]  # made under whatever umask this process has
        for path in [*around, *self.place.rglob("*"), *elsewhere.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)


def may_mount() -> bool:
    """Whether this process may mount file systems and be another user."""
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run([MOUNT, "-t", "tmpfs", "none", folder], capture_output=True, check=False).returncode:
            return False
        subprocess.run([UMOUNT, folder], check=True)
    try:
        os.seteuid(NOBODY)
        os.seteuid(0)
    except OSError:
        return False
    return True


class Writer(ABC):
    """A part of kd_tune that writes.

    Args:
        disk: to.
        good: a folder elsewhere, for what it needs.
    """

    def __init__(self, disk: Path, good: Path) -> None:
        self.disk = disk
        self.good = good
        good.mkdir()

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Lays what must be on the disk before."""

    @abstractmethod
    def write(self) -> Any:
        """Writes what is still to be written; returns what is read back, to be compared."""


class LedgerWriter(Writer):
    def prepare(self) -> None:
        good_run(self.disk / "run")

    def write(self) -> Any:
        run = Run(self.disk / "run")
        try:
            for epoch in range(run.state.trials[10].epoch + 1, 300):
                run.record("epoch", trial=10, attempt=0, epoch=epoch, val_accuracy=1 / epoch, seconds=1.0)
        finally:
            run.close()
        state = replay(self.disk / "run")
        assert state == run.state
        return [{key: value for key, value in row.items() if key != "time"} for row in state.trials[10].rows.values()]


def assignment(data: Path, checkpoints: Path) -> Assignment:
    trial = toy_search()["trial"] | {"student": {"name": "studentnet", "width": 0.25}}
    trial["optimizer"] = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    trial["objective"] = {"name": "label_smoothing", "smoothing": 0.1}
    trial["training"] = {"num_epochs": 4, "batch_size": 32}
    del trial["teacher"]
    return Assignment(
        number=0,
        arm="distil",
        trial=trial,
        seed=1,
        order_seed=2,
        checkpoints=str(checkpoints),
        source=str(data),
        teacher=None,
        checkpoint_epochs=(1, 2, 3, 4),
    )


class CheckpointWriter(Writer):
    def write(self) -> Any:
        data = self.good / "data.npz"
        one = assignment(data if data.exists() else good_npz(data), self.disk / "checkpoints")
        *_, last = host.open_trial(one)
        return replace(last, seconds=0.0, images_per_second=0.0, restored=False)


class TeacherWriter(Writer):
    def __init__(self, disk: Path, good: Path) -> None:
        super().__init__(disk, good)
        self.dataset = npz(good_npz(good / "data.npz"))

    def save(self, folder: Path) -> teacher.Teacher:
        record = {
            "architecture": {"name": "digits"},
            "input": self.dataset.input_shape,
            "normalisation": self.dataset.normalisation,
        }
        teacher.save(folder, digits_network(self.dataset), record)
        return teacher.load(folder, self.dataset)

    def write(self) -> Any:
        return self.save(self.disk / "teacher").fingerprint


class BankWriter(TeacherWriter):
    def __init__(self, disk: Path, good: Path) -> None:
        super().__init__(disk, good)
        self.teacher = self.save(good / "teacher")

    def write(self) -> Any:
        folder, views = self.disk / "bank", 20
        soft_targets.fill(folder, self.teacher, self.dataset, views, torch.device("cpu"))
        fingerprint = soft_targets.fingerprint_of(self.teacher, self.dataset)
        bank = soft_targets.open_bank(folder, fingerprint, len(self.dataset.train), 3, views)
        return bytes(bank.logits.tobytes() + bank.val_logits.tobytes())


class ReportWriter(Writer):
    def prepare(self) -> None:
        good_run(self.disk / "run")

    def write(self) -> Any:
        page = report.write(self.disk / "run", QUIET)
        return page.read_text(), sorted(path.name for path in page.parent.iterdir())


class ExportWriter(Writer):
    def __init__(self, disk: Path, good: Path) -> None:
        super().__init__(disk, good)
        good_run(good / "run")
        for number in range(12):  # of which each arm's best is exported
            place = checkpoints_of(good / "run", number)
            if number == 0:
                list(host.open_trial(assignment(good_npz(good / "data.npz"), place)))
            else:
                shutil.copytree(checkpoints_of(good / "run", 0), place)

    def write(self) -> Any:
        """A format that found no room is said in a line, and no reason to export nothing."""
        target = self.disk / "export"
        export.export_best(self.good / "run", target, export.Wanted(), None, replace=True)
        return sorted((path.name, (path / "student.safetensors").read_bytes()) for path in target.iterdir())


class ConfirmationWriter(Writer):
    """The run that a confirmation is: made whole, or not at all."""

    def write(self) -> Any:
        place = self.disk / "confirmation"
        if not place.exists():
            with written_whole(place) as temporary:
                good_run(temporary)
                (temporary / "answers.npz").write_bytes(bytes(50_000))
        return len(replay(place).trials), (place / "answers.npz").stat().st_size


WRITERS: dict[str, type[Writer]] = {
    "ledger": LedgerWriter,
    "checkpoint": CheckpointWriter,
    "bank": BankWriter,
    "teacher": TeacherWriter,
    "report": ReportWriter,
    "export": ExportWriter,
    "confirmation's folder": ConfirmationWriter,
}


def main() -> None:
    arguments = parser_of(__doc__, count=10).parse_args()
    if not may_mount():
        raise SystemExit("this process may not mount a file system, or not be another user: run it as root")
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        for name in arguments.only or [*WRITERS, "search", "confirmation"]:
            if name in WRITERS:
                played = play(name, Path(temporary), arguments.count, arguments.seed)
            else:
                played = {f"{name}: full": play_commands(name, Path(temporary), arguments.count, arguments.seed)}
            keep(__file__, played, arguments.seed)
            tallies |= played
    finish(tallies)


def play(name: str, folder: Path, count: int, seed: int) -> dict[str, Tally]:
    """All three faults for one writer: so many rounds of a full disk, one of each of the others."""
    place = folder / name.replace(" ", "_")
    disk = Disk(place / "disk", megabytes=16)
    os.environ["KD_TUNE_CACHE"] = str(place / "cache")
    try:
        writer = WRITERS[name](disk.place, place / "good")
        before = disk.used()
        writer.prepare()
        expected = writer.write()
        needed = disk.used() - before
        faults: dict[str, list[Callable[[], Any]]] = {
            "full": [lambda pages=pages: disk.full(pages) for pages in _pages(name, needed, count, seed)],
            "read-only": [disk.read_only],
            "forbidden": [lambda: disk.forbidden(writer.good)],
        }
        tallies = {}
        for fault, rounds in faults.items():
            tally = tallies[f"{name}: {fault}"] = Tally(seconds=120)
            for number, impose in enumerate(rounds):
                tally.count(number, lambda: one_round(disk, writer, impose, expected))  # noqa: B023 - called at once
        return tallies
    finally:
        disk.close()


def _pages(name: str, needed: int, count: int, seed: int) -> list[int]:
    chance = random.Random(f"{seed}/{name}")
    return [chance.randrange(needed) for _ in range(count)]


def one_round(disk: Disk, writer: Writer, impose: Callable[[], Any], expected: Any) -> str:
    """A fault, what it came to, and what comes after it."""
    disk.wipe()
    writer.prepare()
    said = None
    with impose():
        try:
            writer.write()
        except EnvironmentProblem as problem:
            said = str(problem)
        except OSError as error:  # as `cli.main` does
            said = str(refused_by_system(error))
    assert said is None or str(disk.place) in said, f"no path on the disk is named: {said}"
    assert writer.write() == expected, "afterwards the result is another one"
    left = [path for path in disk.place.rglob(".*") if path.name.endswith((".tmp", ".old"))]
    assert not left, f"half written: {left}"
    return "there was room" if said is None else "refused with the path, exit code 5, and gone on with"


def play_commands(name: str, folder: Path, count: int, seed: int) -> Tally:
    """Whole commands on a disk that becomes full while they run."""
    place = folder / name
    place.mkdir()
    tally = Tally(seconds=3 * SECONDS)
    for number in range(count):
        chance = random.Random(f"{seed}/{name}/{number}")
        disk = Disk(place / f"disk_{number}", megabytes=64)
        try:
            tally.count(number, lambda: one_search(disk, place, chance, name == "confirmation"))  # noqa: B023
        finally:
            disk.close()
    return tally


def one_search(disk: Disk, place: Path, chance: random.Random, confirm: bool) -> str:
    """A search, or a search and its confirmation, of which one finds no room after a random number of pages."""
    os.environ["KD_TUNE_CACHE"] = str(place / "cache")
    data = place / "data.npz"
    if not data.exists():
        good_npz(data)
    search = toy_search(**{"search.arms": ["distil", "cross_entropy"], "search.num_trials": 3})
    search["resources"]["stack"] = chance.choice((1, 3))
    run = disk.place / "runs" / "toy"
    begin = [
        "search",
        str(write_search(place, search)),
        "--data",
        str(data),
        "--name",
        "toy",
        "--runs",
        str(run.parent),
    ]
    again = ["search", "--resume", str(run)]
    if confirm:
        code, log = run_command(begin)
        assert code == 0, log[-1500:]
        begin = again = ["confirm", str(run), "--top", "1", "--seeds", "2"]
    pages = chance.randrange(10, 250)
    with disk.full(pages):
        first, log = run_command(begin)
        if "analyze.py" in log.split("error: ")[-1]:  # all but the report
            again = ["analyze", str(run)]
        assert "Traceback" not in log, log[-1500:]
        assert first in (0, 5), f"{pages} pages: exit code {first}: {log[-1500:]}"
        assert first == 0 or str(disk.place) in log.split("error: ")[-1], log[-600:]
    if first:
        code, log = run_command(again if run.exists() else begin)
        assert code == 0, f"{pages} pages, gone on with: exit code {code}: {log[-1500:]}"
    assert not complaints(run, 6, 6), complaints(run, 6, 6)
    assert not replay(run).failed()
    if not first:
        return "there was room"
    return "refused with the path, exit code 5, no trial failed, and gone on with"


def run_command(arguments: list[str]) -> tuple[int, str]:
    """`kd-tune` in a process of its own: its exit code and what it printed."""
    ended = subprocess.run(
        [sys.executable, "-m", "kd_tune.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return ended.returncode, ended.stdout


if __name__ == "__main__":
    main()
