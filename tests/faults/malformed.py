"""Malformed files: search files, .npz, weights, teachers, ledgers and records, spoilt in thousands of ways.

Each round spoils a good file by a mutation that follows from its seed, kind and number, and has kd_tune read it: in
this process `--count` times, and `--commands` times by the command that a person would use. What must hold:

- it is refused with a message (a ConfigError; exit code 2), or read;
- what is read is right: the same as from the good file, or what the mutation put there;
- no other exception, no round of more than 20 s (a command: 120 s), no more than 2 GiB of memory.

    python tests/faults/malformed.py --count 5000 --commands 50
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import zipfile
from abc import ABC, abstractmethod
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutations as m
import numpy as np
import torch
from safetensors.torch import save_file
from trials_by_fault import Tally, command, finish, judge_command, keep, limit_memory, parser_of

from kd_tune import analysis, diagnosis, report, results, search_checks, teacher
from kd_tune.arms import resolved
from kd_tune.catalog import build_network
from kd_tune.data import Dataset, npz
from kd_tune.errors import ConfigError
from kd_tune.ledger import Run, read_events, replay
from kd_tune.limits import device_time
from kd_tune.paths import read_json, write_json
from kd_tune.records import METRIC_NAMES
from kd_tune.run_state import RunState
from kd_tune.scheduler import Referee, replay_verdicts
from kd_tune.search_file import load_search_file
from kd_tune.strict_yaml import dump_yaml, parse_yaml
from kd_tune.weights_file import read_state_dict
from tests.searches import toy_manifest, toy_search, without_checksums

CLASSES, SIZE = 3, 16


class Kind(ABC):
    """Files of one kind.

    Args:
        folder: to write to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    @abstractmethod
    def spoil(self, chance: random.Random) -> None:
        """Writes a bad file in the good one's place."""

    @abstractmethod
    def read(self) -> str:
        """Has it read; the outcome, or an AssertionError if something wrong was read."""

    @property
    @abstractmethod
    def arguments(self) -> list[str]:
        """Of the command that reads it."""


def good_arrays() -> dict[str, np.ndarray]:
    """60 training and 15 test images, grey, three classes of stripes under noise."""
    chance = np.random.RandomState(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 60), ("test", 15)):
        labels = np.arange(count) % CLASSES
        noise = chance.randint(0, 100, (count, SIZE, SIZE))
        arrays[f"{part}_images"] = (labels[:, None, None] * 70 + noise).astype(np.uint8)
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    return arrays


def good_npz(path: Path) -> Path:
    np.savez(path, **good_arrays())  # type: ignore[arg-type]
    return path


class SearchFiles(Kind):
    """Search files: what is accepted says the same when it is written out and read again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = good_npz(folder / "data.npz")
        self.path = folder / "search.yaml"
        search = toy_search(
            **{
                "search.arms": ["distil", {"name": "cross_entropy", "num_trials": 3}],
                "search.points": [{"optimizer.lr": 0.01}],
                "trial.student": {"choice": [{"name": "studentnet", "width": {"choice": [0.25, 0.5]}}]},
                "trial.training": {"num_epochs": 3, "batch_size": 32, "views": 2},
            }
        )
        search["trial"].pop("teacher")  # `plan` would look for one
        search["trial"]["objective"] = {"name": "label_smoothing", "smoothing": {"float": [0.0, 0.2]}}
        search["search"]["arms"] = ["distil"]
        self.text = dump_yaml(search)

    def spoil(self, chance: random.Random) -> None:
        self.path.write_bytes(m.spoil_yaml(chance, self.text))

    def read(self) -> str:
        file = load_search_file(self.path)
        search_checks.check(file)
        text = dump_yaml(resolved(file))
        self.path.write_text(text)
        again = load_search_file(self.path)
        assert resolved(again) == resolved(file) == parse_yaml(text)[0]
        return "read: says the same when written out"

    @property
    def arguments(self) -> list[str]:
        return ["plan", str(self.path), "--data", str(self.data), "--places", "1"]


class Arrays(Kind):
    """.npz files: what is accepted are the arrays that numpy was given, image by image."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.good = good_arrays()
        self.path = good_npz(folder / "data.npz")
        self.whole = self.path.read_bytes()
        self.fingerprint = npz(self.path).fingerprint
        self.search = folder / "search.yaml"
        search = toy_search()
        search["trial"].pop("teacher")
        search["trial"]["objective"] = {"name": "label_smoothing", "smoothing": 0.1}
        self.search.write_text(dump_yaml(search))
        self.made: Any = None

    def spoil(self, chance: random.Random) -> None:
        content, self.made = m.spoil_npz(chance, self.good, self.whole)
        self.path.write_bytes(content)

    def read(self) -> str:
        dataset = npz(self.path)
        images, labels = _in_order(dataset)
        if self.made is not None:
            with np.load(self.path) as archive:
                self.made = {key: archive[key] for key in archive.files if not key.startswith("test")}
            expected = {key: self.made[f"train_{key}"] for key in ("images", "labels")}
            if "val_images" in self.made:
                expected = {key: np.concatenate([expected[key], self.made[f"val_{key}"]]) for key in expected}
            given = expected["images"] if expected["images"].ndim == 4 else expected["images"][..., None]
            assert np.array_equal(images, given.transpose(0, 3, 1, 2))
            assert np.array_equal(labels, expected["labels"].reshape(-1))
            return "read: the arrays that were put there"
        assert dataset.fingerprint == self.fingerprint, "other images, and no word of it"
        return "read: the good file's images"

    @property
    def arguments(self) -> list[str]:
        return ["plan", str(self.search), "--data", str(self.path), "--places", "1"]


def _in_order(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels in the order that they had in the file."""
    order = np.argsort(np.concatenate([dataset.train_positions, dataset.val_positions]))
    return tuple(  # type: ignore[return-value]
        np.concatenate([getattr(part, name) for part in (dataset.train, dataset.val)])[order]
        for name in ("images", "labels")
    )


def digits_network(dataset: Dataset) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network({"name": "digits"}, **dataset.input_shape).eval()


class Weights(Kind):
    """Files of weights from elsewhere: what is accepted is a state dict of tensors.

    safetensors have no checksum, so that a changed number is read as it stands; that it was changed is found by the
    accuracy of the import; so are the oldest files of torch.save. Newer ones are zip archives with checksums.
    """

    formats = ("safetensors", "pt", "old.pt", "zip")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = good_npz(folder / "data.npz")
        weights = digits_network(npz(self.data)).state_dict()
        self.good = {key: value.clone() for key, value in weights.items()}
        save_file(self.good, folder / "good.safetensors")
        torch.save(self.good, folder / "good.pt")
        torch.save(self.good, folder / "good.old.pt", _use_new_zipfile_serialization=False)
        with zipfile.ZipFile(folder / "good.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder / "good.pt", "weights/digits.pt")
        self.path = folder / "bad.pt"

    def spoil(self, chance: random.Random) -> None:
        suffix = chance.choice(self.formats)
        whole = (self.folder / f"good.{suffix}").read_bytes()
        self.path = self.folder / f"bad.{suffix}"
        if suffix == "safetensors":
            self.path.write_bytes(m.spoil_safetensors(chance, whole))
        elif suffix == "zip" and chance.random() < 0.2:  # a bomb
            with zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.writestr("digits.pt", bytes(chance.choice((10**6, 10**8))))
        else:
            self.path.write_bytes(m.spoil_bytes(chance, whole))

    def read(self) -> str:
        weights = read_state_dict(self.path, "digits")
        assert weights
        assert all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items())
        if list(weights) == list(self.good) and all(torch.equal(weights[key], self.good[key]) for key in weights):
            return "read: the good file's weights"
        kind = self.path.name.removeprefix("bad.")
        assert kind in ("safetensors", "old.pt"), "other weights, and no word of it"
        return f"read: tensors as they stand there ({kind}, which has no checksum)"

    @property
    def arguments(self) -> list[str]:
        out = self.folder / f"imported-{self.path.name}"
        arguments = ["teacher", "import", str(self.path), "--name", "digits", "--dataset", "npz", "--accept", "--again"]
        return [*arguments, "--data", str(self.data), "--out", str(out)]


class Teachers(Kind):
    """A teacher's folder: what is accepted are the good weights, with numbers that its record says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = good_npz(folder / "data.npz")
        self.dataset = npz(self.data)
        self.teacher = folder / "teacher"
        record = {
            "architecture": {"name": "digits"},
            "input": self.dataset.input_shape,
            "normalisation": self.dataset.normalisation,
            "val_accuracy": 0.9,
        }
        teacher.save(self.teacher, digits_network(self.dataset), record)
        self.whole = {path.name: path.read_bytes() for path in self.teacher.iterdir()}
        self.record = read_json(self.teacher / teacher.RECORD)
        self.fingerprint = teacher.load(self.teacher, self.dataset).fingerprint
        search = toy_search(**{"trial.teacher": {"name": "digits", "weights": str(self.teacher)}})
        (folder / "search.yaml").write_text(dump_yaml(search))

    def spoil(self, chance: random.Random) -> None:
        for name, content in self.whole.items():
            (self.teacher / name).write_bytes(content)
        name, kind = chance.choice(sorted(self.whole)), chance.randrange(3)
        if kind:
            content = m.spoil_bytes(chance, self.whole[name])
        else:
            name, content = teacher.RECORD, m.spoil_json(chance, self.record)
        (self.teacher / name).write_bytes(content)

    def read(self) -> str:
        loaded = teacher.load(self.teacher, self.dataset)
        if loaded.fingerprint == self.fingerprint:
            return "read: the good teacher"
        said = json.loads((self.teacher / teacher.RECORD).read_bytes())
        assert "crc32" not in said, "another teacher, and no word of it"
        assert loaded.record.normalisation.model_dump() == said["normalisation"]
        return "read: a record as a person wrote it"

    @property
    def arguments(self) -> list[str]:
        search = str(self.folder / "search.yaml")
        return ["plan", search, "--data", str(self.data), "--places", "1"]


def good_run(folder: Path) -> Path:
    """A run of twelve trials of two arms: completed, pruned, diverged, failed, unfinished."""
    chance = random.Random(0)
    search = toy_search(**{"search.arms": ["distil", "cross_entropy"]})
    with closing(Run.create(folder, dump_yaml(search), toy_manifest())) as run:
        _record_trials(run, chance)
    return folder


def _record_trials(run: Run, chance: random.Random) -> None:
    run.record("started", quota={"distil": 8, "cross_entropy": 8}, strata=[], slots=2, stack=1)
    ends: list[Any] = ["completed"] * 5 + ["pruned"] * 3 + ["diverged", "failed", None, None]
    for number, end in enumerate(ends):
        draw = {"optimizer.lr": 0.004 * (1 + number), "student.width": chance.choice((0.25, 0.5))}
        arm = ("distil", "cross_entropy")[number % 2]
        if arm == "distil":
            draw["objective.alpha"] = 0.1 + 0.9 * chance.random()
        run.record("proposed", trial=number, arm=arm, draw=draw, repeat=0, stratum=0, never_pruned=not number)
        num_epochs = 2 if end == "pruned" else 6
        for epoch in range(1, num_epochs + 1):
            row: dict[str, Any] = dict.fromkeys(METRIC_NAMES, 0.5) | {"num_parameters": 100, "multiply_adds": 1000}
            row |= {"epoch": epoch, "val_accuracy": 0.5 + 0.05 * epoch + 0.1 * chance.random(), "seconds": 1.0}
            row |= {"diverged": end == "diverged" and epoch == num_epochs, "train_loss_soft": 0.5}
            run.record("epoch", trial=number, attempt=0, **row)
        if not number:
            run.record("spared", trial=number, epoch=2)
        if end is not None:
            run.record(
                "stopped", trial=number, reason=end, epoch=num_epochs, **{"error": "no"} if end == "failed" else {}
            )


@dataclass
class Unwritten:
    """A run whose events go nowhere."""

    state: RunState

    def record(self, event: str, **fields: Any) -> None:
        pass


class Ledgers(Kind):
    """Ledgers, with checksums and without: what is accepted is a beginning of the good one, or what was put there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run = good_run(folder / "run")
        (self.segment,) = (self.run / "ledger").iterdir()
        self.sealed = self.segment.read_bytes()
        self.states = []
        lines = self.sealed.splitlines(keepends=True)
        for end in range(len(lines) + 1):
            self.segment.write_bytes(b"".join(lines[:end]))
            self.states.append(replay(self.run))
        without_checksums(self.run)
        self.events = [json.loads(line) for line in self.segment.read_bytes().splitlines()]
        self.has_checksums = False
        self.num_read = 0

    def spoil(self, chance: random.Random) -> None:
        self.has_checksums = chance.random() < 0.3
        if self.has_checksums:
            self.segment.write_bytes(m.spoil_bytes(chance, self.sealed))
            return
        lines = [json.dumps(event).encode() for event in self.events]
        for _ in range(chance.choice((1, 1, 3))):
            at, kind = chance.randrange(len(self.events)), chance.randrange(5)
            if kind < 3:
                lines[at] = m.spoil_json(chance, self.events[at])
            elif kind == 3:
                lines[at] = chance.choice(lines)
            else:
                lines.insert(at, json.dumps(dict(self.events[at], event="known", values=[[1, 0.5]])).encode())
        self.segment.write_bytes(b"\n".join(lines) + b"\n")

    def read(self) -> str:
        tables = results.read(self.run)
        events = list(read_events(self.run))
        device_time(events, tables.file.resources)
        referee = Referee(tables.file.search.scheduler, tables.file.trial["training"]["num_epochs"])
        replay_verdicts(Unwritten(tables.state), referee, events)
        analysis.best(tables, 5)
        analysis.outcomes(tables)
        analysis.pareto(tables)
        self.num_read += 1
        if self.num_read % 20 == 0:  # slower
            report.sections_of(tables)
            diagnosis.findings(tables)
        if self.has_checksums:
            assert tables.state in self.states, "another run, and no word of it"
            return "read: the good ledger, or its beginning"
        return "read: events as a person wrote them"

    @property
    def arguments(self) -> list[str]:
        return ["analyze", str(self.run)]


class Manifests(Kind):
    """A run's manifest: what is accepted says what the good one says, or what a person wrote."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run = good_run(folder / "run")
        self.path = self.run / "manifest.json"
        teacher_facts = {"val_accuracy": 0.9, "num_parameters": 10, "multiply_adds": 10, "record": {"a": 1}}
        self.good = toy_manifest().model_dump() | {
            "teachers": {"digits": teacher_facts | {"knows_validation_images": None}},
        }
        write_json(self.path, self.good)
        self.num_read = 0
        self.whole = self.path.read_bytes()

    def spoil(self, chance: random.Random) -> None:
        by_hand = chance.random() < 0.7
        self.path.write_bytes(m.spoil_json(chance, self.good) if by_hand else m.spoil_bytes(chance, self.whole))

    def read(self) -> str:
        manifest = results.read(self.run).manifest
        if "crc32" in json.loads(self.path.read_bytes()):
            assert {key: getattr(manifest, key) for key in ("created", "seed")} == {
                key: self.good[key] for key in ("created", "seed")
            }
            return "read: the good manifest"
        self.num_read += 1
        if self.num_read % 20 == 0:  # slower
            report.sections_of(results.read(self.run))
        return "read: a record as a person wrote it"

    @property
    def arguments(self) -> list[str]:
        return ["analyze", str(self.run)]


KINDS = {
    "search file": SearchFiles,
    "npz": Arrays,
    "weights": Weights,
    "teacher": Teachers,
    "ledger": Ledgers,
    "manifest": Manifests,
}


def main() -> None:
    parser = parser_of(__doc__, count=5000)
    parser.add_argument("--commands", type=int, default=50, help="rounds of each kind through the command")
    arguments = parser.parse_args()
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["KD_TUNE_CACHE"] = str(Path(temporary) / "cache")
        for name in arguments.only or KINDS:
            kind = KINDS[name](Path(temporary) / name.replace(" ", "_"))
            played = {
                f"{name}, through the command": through_the_command(kind, arguments.commands, arguments.seed),
                name: in_process(kind, arguments.count, arguments.seed),
            }
            keep(__file__, played, arguments.seed)
            tallies |= played
    finish(tallies)


def in_process(kind: Kind, count: int, seed: int) -> Tally:
    """Reads so many files that were spoilt, in this process."""
    tally = Tally()
    limit_memory()
    for number in range(count):
        kind.spoil(random.Random(f"{seed}/{number}"))
        tally.count(number, lambda: refused_or_read(kind))
    return tally


def refused_or_read(kind: Kind) -> str:
    """Has a file read; the outcome, or what is wrong raised."""
    try:
        return kind.read()
    except ConfigError as error:
        said = error.problems
    assert said
    assert all(problem and len(problem) < 20_000 for problem in said), "too long to be read"
    return "refused"


def through_the_command(kind: Kind, count: int, seed: int) -> Tally:
    """Gives so many to the command, each in a process of its own."""
    tally = Tally(seconds=150.0)
    for number in range(count):
        kind.spoil(random.Random(f"command/{seed}/{number}"))
        log = kind.folder / "log.txt"
        tally.count(number, lambda: judge_command(command(kind.arguments, log), "done"))  # noqa: B023 - called at once
    return tally


if __name__ == "__main__":
    main()
