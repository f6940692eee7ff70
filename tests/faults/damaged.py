"""Damage to what kd_tune wrote itself: checkpoints, banks, teachers, ledgers, cut short or with a flipped bit.

Each round damages one file of a good one, half of the rounds by cutting it at a random byte, half by flipping a random
bit, and has kd_tune read it. What must hold: the damage is told by the file's name, or it changes nothing (white space
of JSON; the end of a ledger, which a kill leaves too). Never another result, never another exception.

    python tests/faults/damaged.py --count 100
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import mutations as m
import numpy as np
import torch
from malformed import digits_network, good_npz, good_run
from trials_by_fault import Tally, finish, keep, parser_of

from kd_tune import checkpoint, host, soft_targets, teacher
from kd_tune.data import npz
from kd_tune.errors import ConfigError
from kd_tune.ledger import Run, replay
from kd_tune.paths import read_json
from kd_tune.records import Assignment
from tests.searches import toy_search


class Stored(ABC):
    """Something that lies in a folder.

    Args:
        place: to write to.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        self.folder = self.write()
        self.files = {path: path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}
        self.files = {path: content for path, content in self.files.items() if content}  # lock files are empty
        self.good = self.read()

    @abstractmethod
    def write(self) -> Path:
        """Writes a good one; returns its folder."""

    @abstractmethod
    def read(self) -> Any:
        """What it says, to be compared."""

    def is_right(self, read: Any) -> bool:
        """Whether what was read of a damaged one is right nevertheless."""
        return bool(read == self.good)

    def names(self, damaged: Path) -> list[str]:
        """Of which one must be in the message."""
        return [str(damaged)]

    def restore(self) -> None:
        shutil.rmtree(self.folder)
        for path, content in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


class Teacher(Stored):
    """Its answers to some images, and its record."""

    def write(self) -> Path:
        self.dataset = npz(good_npz(self.place / "data.npz"))
        record = {
            "architecture": {"name": "digits"},
            "input": self.dataset.input_shape,
            "normalisation": self.dataset.normalisation,
            "val_accuracy": 0.9,
        }
        teacher.save(self.place / "teacher", digits_network(self.dataset), record)
        return self.place / "teacher"

    def read(self) -> Any:
        loaded = teacher.load(self.folder, self.dataset)
        answers = teacher.Answers(loaded, torch.device("cpu"))(torch.from_numpy(self.dataset.val.images))
        facts = loaded.record.model_dump()
        return {name: facts[name] for name in self.good_facts(facts)}, answers.numpy().tobytes()

    def good_facts(self, facts: dict[str, Any]) -> list[str]:
        """A damaged name of the checksum is one field more."""
        return sorted(set(facts) & {"architecture", "input", "normalisation", "val_accuracy", "weights_sha256"})


class Bank(Teacher):
    """All answers, and what they follow from."""

    views = 3

    def write(self) -> Path:
        self.teacher = teacher.load(super().write(), self.dataset)
        folder = self.place / "bank"
        soft_targets.fill(folder, self.teacher, self.dataset, self.views, torch.device("cpu"))
        return folder

    def read(self) -> Any:
        fingerprint = soft_targets.fingerprint_of(self.teacher, self.dataset)
        bank = soft_targets.open_bank(self.folder, fingerprint, len(self.dataset.train), 3, self.views)
        return np.array(bank.logits).tobytes(), bank.val_logits.tobytes()

    def names(self, damaged: Path) -> list[str]:
        return [str(self.folder)]


class Checkpoint(Stored):
    """The rest of a training that goes on from it. A damaged one is set aside; without it the training begins anew."""

    def write(self) -> Path:
        trial = toy_search()["trial"] | {"student": {"name": "studentnet", "width": 0.25}}
        trial["optimizer"] = {"name": "sgd", "lr": 0.05}
        trial["objective"] = {"name": "label_smoothing", "smoothing": 0.1}
        trial["training"] = {"num_epochs": 3, "batch_size": 32}
        del trial["teacher"]
        self.assignment = Assignment(
            number=0,
            arm="distil",
            trial=trial,
            seed=1,
            order_seed=2,
            checkpoints=str(self.place / "checkpoints"),
            source=str(good_npz(self.place / "data.npz")),
            teacher=None,
            checkpoint_epochs=(2,),
        )
        alone = replace(self.assignment, checkpoints=str(self.place / "alone"))
        self.rows = self.told(list(host.open_trial(alone)))
        training = host.open_trial(self.assignment)
        for _ in range(2):
            next(training)
        return Path(self.assignment.checkpoints)

    def told(self, rows: list[Any]) -> list[Any]:
        """Without what differs from training to training."""
        return [replace(row, seconds=0.0, images_per_second=0.0, restored=False) for row in rows]

    def read(self) -> Any:
        return self.told(list(host.open_trial(self.assignment)))

    def is_right(self, read: Any) -> bool:
        return bool(read == self.rows[-len(read) :])

    def restore(self) -> None:
        if (damaged := list(self.folder.glob("damaged_*"))) and not self.is_right(self.read()):
            raise AssertionError(f"without its checkpoint, {damaged[0]}, the training is another one")
        super().restore()


class Student(Checkpoint):
    """A checkpoint as exports read it: every file is compared before anything is taken from it."""

    def read(self) -> Any:
        (folder,) = self.folder.iterdir()
        record = checkpoint.read(folder)
        return record["row"], (folder / checkpoint.WEIGHTS).read_bytes()

    def is_right(self, read: Any) -> bool:
        return bool(read == self.good)


class Ledger(Stored):
    """The state that its three segments add up to: all of it, or, where the last one's end is lost, that of a moment
    before."""

    def write(self) -> Path:
        folder = good_run(self.place / "run")
        self.states = [replay(folder)]
        for _ in range(2):
            run = Run(folder)
            run.record("started", quota={"distil": 8, "cross_entropy": 8}, strata=[], slots=2, stack=1)
            self.states.append(replay(folder))
            for epoch in range(7, 10):
                run.record("epoch", trial=10, attempt=0, epoch=epoch, val_accuracy=0.9, seconds=1.0)
                self.states.append(replay(folder))
            run.close()
        self.states = self.states[4:]  # of the last segment, and that before its first line
        return folder / "ledger"

    def read(self) -> Any:
        return replay(self.folder.parent)

    def is_right(self, read: Any) -> bool:
        return read in self.states


class Manifest(Stored):
    """A record of a run."""

    def write(self) -> Path:
        folder = self.place / "records"
        folder.mkdir()
        shutil.copyfile(good_run(self.place / "run") / "manifest.json", folder / "manifest.json")
        return folder

    def read(self) -> Any:
        return read_json(self.folder / "manifest.json")

    def is_right(self, read: Any) -> bool:
        return {name: read.get(name) for name in self.good} == self.good


KINDS: dict[str, type[Stored]] = {
    "checkpoint": Checkpoint,
    "checkpoint, as exports read it": Student,
    "bank": Bank,
    "ledger": Ledger,
    "teacher": Teacher,
    "manifest": Manifest,
}


def main() -> None:
    arguments = parser_of(__doc__, count=100).parse_args()
    tallies = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["KD_TUNE_CACHE"] = str(Path(temporary) / "cache")
        for name in arguments.only or KINDS:
            tallies[name] = damage(
                KINDS[name](Path(temporary) / name.replace(" ", "_")), arguments.count, arguments.seed
            )
    keep(__file__, tallies, arguments.seed)
    finish(tallies)


def damage(stored: Stored, count: int, seed: int) -> Tally:
    """So many rounds, spread evenly over its files, by turns."""
    tally = Tally()
    files = list(stored.files)
    for number in range(count):
        chance, path = random.Random(f"{seed}/{number}"), files[number // 2 % len(files)]
        spoil = (m.flip_bit, m.truncate)[number % 2]
        path.write_bytes(spoil(chance, stored.files[path]))
        tally.count(number, lambda: _read(stored, path))  # noqa: B023 - called at once
        tally.check(number, stored.restore)
    return tally


def _read(stored: Stored, damaged: Path) -> str:
    try:
        read = stored.read()
    except ConfigError as error:
        said = str(error)
    else:
        assert stored.is_right(read), f"{damaged.name}: something else was read, and no word of it"
        return "read: nothing that matters was changed"
    assert any(name in said for name in stored.names(damaged)), f"{damaged.name} is not named: {said}"
    return "told by its name"


if __name__ == "__main__":
    main()
