"""A hosted trial: cut anywhere and opened again it gives the same rows; checkpoints are whole, or refused by name."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kd_tune import checkpoint, host, storage
from kd_tune.catalog import check_trial
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError, EnvironmentProblem
from kd_tune.host import open_trial
from kd_tune.paths import read_json, write_json
from kd_tune.records import Assignment, EpochRow, TeacherPlace
from kd_tune.search_file import Source, parse_search_file
from kd_tune.storage import Storage
from tests.object_store import Gate
from tests.training import KINDS, curve, every_kind, numbers, trial

pytestmark = pytest.mark.usefixtures("forgetful")


@pytest.fixture
def assignment(tmp_path: Path, toy_npz: Path, bank_folder: Path) -> Callable[..., Assignment]:
    """`assignment(config, name, **changes)`: a trial of the toy whose checkpoints go to a folder of that name."""

    def make(config: dict[str, Any], name: str = "checkpoints", **changes: Any) -> Assignment:
        needs_bank = config["objective"]["name"] == "hinton"
        whole = Assignment(
            number=3,
            arm="distil",
            trial=config,
            seed=5,
            order_seed=5,
            checkpoints=str(tmp_path / name),
            source=str(toy_npz),
            teacher=TeacherPlace(bank=str(bank_folder)) if needs_bank else None,
        )
        return replace(whole, **changes)

    return make


def first(rows: Iterator[EpochRow], count: int) -> list[EpochRow]:
    """So many rows; then the training is gone, as if its process had been killed."""
    taken = [next(rows) for _ in range(count)]
    rows.close()  # type: ignore[attr-defined]
    return taken


@every_kind
def test_a_training_that_goes_on_gives_the_rows_and_weights_of_one_left_alone(
    kind: str, assignment: Callable[..., Assignment]
) -> None:
    config = trial(**KINDS[kind])
    last = config["training"]["num_epochs"]
    at = last - 2  # killed an epoch after its last checkpoint
    alone = assignment(config, "alone", checkpoint_epochs=(at, last))
    cut = assignment(config, "cut", checkpoint_epochs=(at, last))
    uninterrupted = list(open_trial(alone))
    before = first(open_trial(cut), at + 1)
    after = list(open_trial(cut))
    assert curve(before) == curve(uninterrupted[: at + 1])
    assert curve(after) == curve(uninterrupted)
    assert [row.restored for row in after] == [True] * at + [False, False]
    one, other = (
        load_file(checkpoint.newest(Path(a.checkpoints)) / checkpoint.WEIGHTS)  # type: ignore[operator]
        for a in (alone, cut)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_that_is_cut_after_every_epoch_gives_the_same_rows(assignment: Callable[..., Assignment]) -> None:
    uninterrupted = list(open_trial(assignment(trial(), "alone")))
    cut = assignment(trial(), "cut", checkpoint_seconds=0.0)
    pieces = [first(open_trial(cut), epochs)[-1] for epochs in range(1, 6)]
    assert curve(pieces) == curve(uninterrupted)


def test_a_finished_trial_gives_its_rows_again_and_ends(assignment: Callable[..., Assignment]) -> None:
    finished = assignment(trial(), checkpoint_epochs=(5,))
    rows = list(open_trial(finished))
    again = list(open_trial(finished))
    assert all(row.restored for row in again)
    assert curve(again) == curve(rows)


def test_a_checkpoint_of_another_draw_is_not_gone_on_with(assignment: Callable[..., Assignment]) -> None:
    """The machine that had drawn it was lost, and its ledger's end with it."""
    list(open_trial(assignment(trial(optimizer={"lr": 0.123}), "one", checkpoint_epochs=(2, 5))))
    rows = list(open_trial(assignment(trial(), "one", checkpoint_epochs=(2, 5))))
    assert not any(row.restored for row in rows)
    assert curve(rows) == curve(list(open_trial(assignment(trial(), "alone"))))


def test_a_checkpoint_is_there_before_its_row_is_given_out(assignment: Callable[..., Assignment]) -> None:
    cut = assignment(trial(), checkpoint_epochs=(2,))
    first(open_trial(cut), 2)
    found = checkpoint.newest(Path(cut.checkpoints))
    assert found is not None
    assert checkpoint.epoch_of(found) == 2


def test_checkpoints_come_at_rungs_only_until_their_time_is_up(assignment: Callable[..., Assignment]) -> None:
    quiet = assignment(trial(), "quiet", checkpoint_epochs=())
    busy = assignment(trial(), "busy", checkpoint_seconds=0.0)
    assert len(list(open_trial(quiet))) == len(list(open_trial(busy))) == 5
    assert checkpoint.newest(Path(quiet.checkpoints)) is None
    assert [path.name for path in Path(busy.checkpoints).iterdir()] == ["epoch_0005"], "older ones are deleted"


def test_a_checkpoint_that_was_not_finished_is_passed_over(assignment: Callable[..., Assignment]) -> None:
    cut = assignment(trial(), checkpoint_epochs=(2,))
    first(open_trial(cut), 2)
    folder = Path(cut.checkpoints)
    (folder / ".epoch_0003.1234abcd.tmp").mkdir()
    (folder / "epoch_0004.tmp").mkdir()
    assert [row.restored for row in first(open_trial(cut), 3)] == [True, True, False]


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.TRIAL])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, None], ids=["empty", "a third", "nearly all", "missing"])
def test_a_damaged_checkpoint_is_refused_by_its_file(
    name: str, kept: float | None, assignment: Callable[..., Assignment]
) -> None:
    cut = assignment(trial(), checkpoint_epochs=(2,))
    first(open_trial(cut), 2)
    path = Path(cut.checkpoints) / "epoch_0002" / name
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ConfigError) as caught:
        list(open_trial(cut))
    assert str(caught.value).startswith(f"{path}: ")


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.TRIAL])
def test_a_trial_begins_anew_without_its_damaged_checkpoint(name: str, assignment: Callable[..., Assignment]) -> None:
    alone, cut = assignment(trial(), "alone"), assignment(trial(), "cut", checkpoint_epochs=(2,))
    first(open_trial(cut), 2)
    folder = Path(cut.checkpoints) / "epoch_0002"
    for _ in range(2):  # the second time, one lies aside already
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1  # of the weights, a number that is as likely as any other
        (folder / name).write_bytes(content)
        with pytest.raises(ConfigError, match=r"set aside as .*/damaged_epoch_0002, and .* the training begins anew"):
            list(open_trial(cut))
        assert curve(first(open_trial(cut), 2)) == curve(first(open_trial(alone), 2))
    assert curve(list(open_trial(cut))) == curve(list(open_trial(alone)))


def without_hashes(folder: Path) -> None:
    """Makes a checkpoint one of before there were hashes."""
    record = read_json(folder / checkpoint.TRIAL)
    del record[checkpoint.HASHES]
    write_json(folder / checkpoint.TRIAL, record)


def test_a_checkpoint_of_before_there_were_hashes_is_gone_on_with(assignment: Callable[..., Assignment]) -> None:
    cut = assignment(trial(), checkpoint_epochs=(2,))
    first(open_trial(cut), 2)
    without_hashes(Path(cut.checkpoints) / "epoch_0002")
    assert next(open_trial(cut)).restored


@pytest.mark.parametrize(
    "wrap", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap, protocol=2))], ids=["zip", "raw"]
)
def test_code_in_a_checkpoint_is_not_run(
    wrap: Callable[..., Any], assignment: Callable[..., Assignment], tmp_path: Path
) -> None:
    cut = assignment(trial(), checkpoint_epochs=(2,))
    first(open_trial(cut), 2)
    folder = Path(cut.checkpoints) / "epoch_0002"
    wrap(Trap(tmp_path / "sprung"), folder / checkpoint.STATE)
    without_hashes(folder)
    with pytest.raises(ConfigError, match=r"state\.pt: cannot be read"):
        list(open_trial(cut))
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoints_trial_is_a_trial_that_can_be_searched_again(assignment: Callable[..., Assignment]) -> None:
    done = assignment(trial(), checkpoint_epochs=(5,))
    list(open_trial(done))
    record = read_json(Path(done.checkpoints) / "epoch_0005" / checkpoint.TRIAL)
    again = parse_search_file({"trial": record["trial"]}, Source("trial.json", {}))
    assert check_trial(again.trial, again.source) == []
    assert (record["number"], record["arm"], record["seed"]) == (3, "distil", 5)
    assert record["input"] == {"num_classes": 3, "in_channels": 1, "image_size": 16}
    assert record["row"]["epoch"] == 5


def test_what_a_trial_leaves_out_of_its_training_section_has_defaults(assignment: Callable[..., Assignment]) -> None:
    config = trial() | {"training": {"num_epochs": 1, "batch_size": 25}}
    assert curve(list(open_trial(assignment(config, "short")))) == curve(
        list(open_trial(assignment(trial(training={"num_epochs": 1}), "long")))
    )


def test_a_trial_that_diverged_gives_that_row_again_and_no_more(assignment: Callable[..., Assignment]) -> None:
    config = trial(optimizer={"lr": 1e6}, training={"num_epochs": 40})
    rows = list(open_trial(assignment(config)))
    (again,) = open_trial(assignment(config))
    assert again.diverged
    assert again.restored
    assert numbers(again) == numbers(rows[-1])


def test_a_row_read_back_holds_nan_where_json_could_not(assignment: Callable[..., Assignment]) -> None:
    config = trial(optimizer={"lr": 1e6}, training={"num_epochs": 40})
    list(open_trial(assignment(config)))
    (again,) = open_trial(assignment(config))
    values = [value for key, value in again.to_metrics().items() if key.startswith(("train_loss", "val_"))]
    assert all(isinstance(value, float) for value in values), again.to_metrics()


@pytest.fixture(params=["folder", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Where a trial's checkpoints are kept in a storage."""
    if request.param == "folder":
        return Storage(str(tmp_path / "storage")).child("checkpoints", "0003")
    return Storage(request.getfixturevalue("s3").url).child(tmp_path.name, "checkpoints", "0003")


def test_with_a_storage_checkpoints_are_in_it_alone(assignment: Callable[..., Assignment], shelf: Storage) -> None:
    stored = assignment(trial(), checkpoint_seconds=0.0, storage=shelf.url)
    rows = list(open_trial(stored))
    assert not Path(stored.checkpoints).exists()
    assert shelf.files() == [f"epoch_0005/{name}" for name in (checkpoint.STATE, checkpoint.WEIGHTS, checkpoint.TRIAL)]
    (*earlier, last) = open_trial(stored)
    assert curve([*earlier, last]) == curve(rows), "all of its rows, for a ledger that may be older"
    assert all(row.restored for row in (*earlier, last))


def test_a_training_goes_on_from_a_storage_as_if_left_alone(
    assignment: Callable[..., Assignment], shelf: Storage
) -> None:
    uninterrupted = list(open_trial(assignment(trial(), "alone")))
    stored = assignment(trial(), checkpoint_epochs=(2, 5), storage=shelf.url)
    first(open_trial(stored), 3)
    shelf.child("epoch_0004").write(checkpoint.WEIGHTS, b"half of a checkpoint whose host was lost")
    after = list(open_trial(stored))
    assert curve(after) == curve(uninterrupted)
    assert [row.restored for row in after] == [True, True, False, False, False]
    assert shelf.folders("") == ["epoch_0005"]


def test_a_checkpoint_of_another_draw_under_this_number_is_no_beginning(
    assignment: Callable[..., Assignment], shelf: Storage
) -> None:
    list(open_trial(assignment(trial(optimizer={"lr": 0.123}), checkpoint_epochs=(5,), storage=shelf.url)))
    mine = assignment(trial(), "mine", checkpoint_epochs=(2, 5), storage=shelf.url)
    before = first(open_trial(mine), 2)
    assert curve(before) == curve(list(open_trial(assignment(trial(), "alone")))[:2])
    assert shelf.folders("") == ["epoch_0002"]


def test_a_host_waits_for_a_storage_that_comes_back(
    assignment: Callable[..., Assignment], s3: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "S3_ATTEMPTS", 1)
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.05)
    place = Storage(s3.url).child(tmp_path.name)
    stored = assignment(trial(), checkpoint_epochs=(5,), storage=place.url)
    s3.failures = [503, "reset", None, 500, 0.1]
    assert len(list(open_trial(stored))) == 5
    assert not s3.failures
    assert f"epoch_0005/{checkpoint.TRIAL}" in place.files()


def test_a_host_that_cannot_reach_its_storage_says_so(
    assignment: Callable[..., Assignment], s3: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "TRIAL_PATIENCE", 0.2)
    monkeypatch.setattr(storage, "S3_ATTEMPTS", 1)
    s3.always = 403
    with pytest.raises(EnvironmentProblem, match=r"cannot be listed: .*ACCESS_DENIED"):
        list(open_trial(assignment(trial(), storage=s3.url)))


def test_other_data_than_the_search_has_are_refused(
    assignment: Callable[..., Assignment], toy_dataset: Dataset, toy_npz: Path
) -> None:
    config = trial()
    assert first(open_trial(assignment(config, fingerprint=toy_dataset.fingerprint)), 1)
    with pytest.raises(ConfigError, match=rf"{toy_npz}: on .* these are other data .*, not 0123456789abcdef"):
        next(open_trial(assignment(config, fingerprint="0123456789abcdef")))
