"""Teachers of a search: where each kind comes from, what its answers are, and what is known of it.

Shapes: V views, N training images, C classes.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from kd_tune import checkpoint, prepare, soft_targets, teacher
from kd_tune.data import Dataset, mnist5k, npz
from kd_tune.engine import train
from kd_tune.errors import ConfigError
from kd_tune.models.compact import LOGIT_SCALE, Compact
from kd_tune.objectives import OBJECTIVES
from kd_tune.paths import CACHE_VARIABLE
from kd_tune.prepare import PreparedTeacher
from kd_tune.ranges import Choice
from kd_tune.records import TeacherPlace
from kd_tune.soft_targets import Bank
from kd_tune.trial_data import TrialData
from tests.training import CPU, HINTON, run, trial

VIEWS = 3
DATA = {"name": "npz"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for each test: teachers are found by their place in it."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def prepared(dataset: Dataset, section: dict[str, Any], views: int = VIEWS) -> dict[str, PreparedTeacher]:
    whole = {"teacher": section, "dataset": DATA, "training": {"views": views}}
    return prepare.prepare(whole, dataset, None, Console(file=io.StringIO()))


def bank_of(found: PreparedTeacher, dataset: Dataset, views: int = VIEWS) -> Bank:
    assert found.place.bank is not None
    folder = Path(found.place.bank)
    return soft_targets.open_bank(folder, found.fingerprint, len(dataset.train), dataset.num_classes, views)


@pytest.fixture(scope="module")
def learnt(toy_dataset: Dataset) -> nn.Module:
    """A network that has learnt the toy, so that its answers differ from image to image."""
    config = trial(student={"name": "digits"}, training={"num_epochs": 8})
    *_, (row, state) = train(config, TrialData(toy_dataset, None, CPU), 0)
    assert row.val_accuracy > 0.8
    return state.network


@pytest.fixture
def digits(toy_dataset: Dataset, learnt: nn.Module) -> PreparedTeacher:
    """That network in the place where a search looks for its teacher."""
    folder = teacher.folder_of({"name": "digits"}, toy_dataset)
    teacher.save(folder, learnt, teacher.base_record({"name": "digits"}, toy_dataset))
    return prepared(toy_dataset, {"name": "digits"})["digits"]


def test_a_network_is_asked_about_every_view_and_measured_on_validation(
    digits: PreparedTeacher, toy_dataset: Dataset
) -> None:
    bank = bank_of(digits, toy_dataset)
    assert bank.logits.shape == (VIEWS, 108, 3)
    found = teacher.load(teacher.folder_of({"name": "digits"}, toy_dataset), toy_dataset)
    assert digits.facts.val_accuracy == teacher.accuracy(found, toy_dataset.val, CPU)
    assert digits.facts.num_parameters == sum(value.numel() for value in found.network.parameters())
    assert digits.facts.multiply_adds is not None
    assert digits.facts.multiply_adds > 0


def test_permuted_answers_are_the_real_ones_dealt_out_anew(digits: PreparedTeacher, toy_dataset: Dataset) -> None:
    found = prepared(toy_dataset, {"name": "permuted", "of": "digits"})["permuted"]
    real, dealt = bank_of(digits, toy_dataset), bank_of(found, toy_dataset)
    assert found.fingerprint != digits.fingerprint
    for view in range(VIEWS):  # the same answers, and every view of an image gets those of the same other image
        assert sorted(map(tuple, dealt.logits[view])) == sorted(map(tuple, real.logits[view]))
    order = [int(np.flatnonzero((real.logits[0] == row).all(1))[0]) for row in dealt.logits[0]]
    assert (dealt.logits[1] == real.logits[1][order]).all()
    assert (np.array(order) != np.arange(len(order))).mean() > 0.9
    assert sorted(map(tuple, dealt.val_logits)) == sorted(map(tuple, real.val_logits))
    assert (dealt.val_logits != real.val_logits).any()
    other = prepared(toy_dataset, {"name": "permuted", "of": "digits", "seed": 1})["permuted"]
    assert other.fingerprint != found.fingerprint
    assert (bank_of(other, toy_dataset).logits != dealt.logits).any()


def test_a_permuted_bank_grows_with_the_real_one(digits: PreparedTeacher, toy_dataset: Dataset) -> None:
    section = {"name": "permuted", "of": "digits"}
    few = np.array(bank_of(prepared(toy_dataset, section)["permuted"], toy_dataset).logits)
    more = prepared(toy_dataset, section, VIEWS + 2)["permuted"]
    assert (bank_of(more, toy_dataset, VIEWS + 2).logits[:VIEWS] == few).all()


@pytest.mark.parametrize("name", ["permuted", "logits"])
def test_a_damaged_bank_of_answers_dealt_out_or_read_is_refused_before_a_search(
    name: str, digits: PreparedTeacher, tmp_path: Path, toy_dataset: Dataset
) -> None:
    np.save(tmp_path / "logits.npy", np.ones((VIEWS, 120, 3)))
    section = {"permuted": {"of": "digits"}, "logits": {"file": str(tmp_path / "logits.npy")}}[name] | {"name": name}
    found = prepared(toy_dataset, section)[name]
    assert found.place.bank is not None
    stored = np.memmap(Path(found.place.bank) / soft_targets.LOGITS, np.uint8, "r+")
    stored[-1] ^= 1  # of the last view
    stored.flush()
    with pytest.raises(ConfigError, match=f"view {VIEWS - 1} of the bank is damaged"):
        prepared(toy_dataset, section)


def test_a_random_teacher_has_first_weights_that_follow_from_its_seed(toy_dataset: Dataset) -> None:
    found = {
        seed: prepared(toy_dataset, {"name": "random", "network": "digits", "seed": seed})["random"] for seed in (0, 1)
    }
    again = prepared(toy_dataset, {"name": "random", "network": "digits"})["random"]
    assert again.fingerprint == found[0].fingerprint != found[1].fingerprint
    assert found[0].facts.knows_validation_images is False


def test_a_file_of_logits_is_aligned_with_the_images_before_the_split(tmp_path: Path, toy_dataset: Dataset) -> None:
    """Its row n is about image n of the file; the bank's about image n of the training part."""
    rows = np.arange(120, dtype=np.float32)
    np.save(tmp_path / "logits.npy", np.stack([rows, -rows, 0 * rows], 1) + 1000 * np.arange(VIEWS)[:, None, None])
    found = prepared(toy_dataset, {"name": "logits", "file": str(tmp_path / "logits.npy")})["logits"]
    bank = bank_of(found, toy_dataset)
    assert (bank.logits[0, :, 0] == toy_dataset.train_positions).all()
    assert (bank.logits[2, :, 2] == 2000).all()
    assert (bank.val_logits[:, 1] == -toy_dataset.val_positions).all()
    assert sorted([*toy_dataset.train_positions, *toy_dataset.val_positions]) == list(range(120))
    facts = found.facts
    assert (facts.num_parameters, facts.multiply_adds, facts.knows_validation_images) == (None, None, None)


def test_logits_of_the_labels_make_a_perfect_teacher_also_of_some_of_the_images(tmp_path: Path, toy_npz: Path) -> None:
    """The alignment, seen from its purpose; `num_train` takes rows out of a file that holds them all."""
    labels = np.load(toy_npz)["train_labels"]
    np.save(tmp_path / "logits.npy", np.eye(3)[labels])
    dataset = npz(toy_npz, num_train=50)
    found = prepared(dataset, {"name": "logits", "file": str(tmp_path / "logits.npy")}, views=1)["logits"]
    assert found.facts.val_accuracy == 1.0
    assert (bank_of(found, dataset, 1).logits[0].argmax(-1) == dataset.train.labels).all()


def test_mnist5k_logits_are_counted_without_its_test_images(tmp_path: Path) -> None:
    dataset = mnist5k()
    labels = np.empty(4000, np.int64)
    labels[dataset.train_positions], labels[dataset.val_positions] = dataset.train.labels, dataset.val.labels
    np.save(tmp_path / "logits.npy", np.eye(10, dtype=np.float32)[labels])
    found = prepared(dataset, {"name": "logits", "file": str(tmp_path / "logits.npy")}, views=1)["logits"]
    assert found.facts.val_accuracy == 1.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((120, 4), np.float32), r"has the shape \[1, 120, 4\], but npz needs \[120, 3\] or \[views, 120, 3\]"),
        (np.zeros((108, 3), np.float32), r"a row for every training image before the split"),
        (np.zeros((2, 120, 3), np.float32), "holds 2 views, but trial.training.views is 3; lower that"),
        (np.zeros((3, 120, 3), np.int64), "must hold an array of floating point numbers"),
        (np.full((3, 120, 3), 1e6, np.float32), "not finite, or beyond float16"),
        (np.full((3, 120, 3), np.nan, np.float32), "not finite, or beyond float16"),
        (b"no array", "cannot be read as .npy"),
        (None, "cannot be read as .npy: .*No such file"),
    ],
)
def test_a_file_of_logits_that_does_not_fit_is_refused(
    content: Any, message: str, tmp_path: Path, toy_dataset: Dataset, cache: Path
) -> None:
    path = tmp_path / "logits.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        prepared(toy_dataset, {"name": "logits", "file": str(path)})
    assert str(path) in str(caught.value)
    assert not [path for path in (cache / "banks").glob("logits-*") if path.is_dir()]


def test_several_teachers_have_a_bank_each(digits: PreparedTeacher, toy_dataset: Dataset) -> None:
    sections = [{"name": "digits"}, {"name": "permuted", "of": "digits"}, {"name": "random", "network": "digits"}]
    whole = {"teacher": Choice.model_validate({"choice": sections}), "dataset": DATA, "training": {"views": VIEWS}}
    found = prepare.prepare(whole, toy_dataset, None, Console(file=io.StringIO()))
    assert list(found) == ["digits", "permuted", "random"]
    assert len({teacher_.place for teacher_ in found.values()}) == 3


def test_another_teacher_changes_what_a_student_learns(digits: PreparedTeacher, toy_dataset: Dataset) -> None:
    """A hyperparameter that silently does nothing is the commonest fault of published code."""
    rows = []
    for section in ({"name": "digits"}, {"name": "permuted", "of": "digits"}, {"name": "random", "network": "digits"}):
        (found,) = prepared(toy_dataset, section).values()
        data = TrialData(toy_dataset, bank_of(found, toy_dataset), CPU)
        rows.append(run(trial(objective=HINTON, training={"num_epochs": 1, "views": VIEWS}), data)[-1])
    assert len({row.train_loss for row in rows}) == 3
    assert len({row.val_loss for row in rows}) == 3


def test_a_live_teacher_says_what_its_bank_says(digits: PreparedTeacher, toy_dataset: Dataset) -> None:
    """The same views, asked in every step: what differs is that a bank holds float16."""
    (live,) = prepared(toy_dataset, {"name": "digits", "mode": "live"}).values()
    assert live.place == TeacherPlace(live=str(teacher.folder_of({"name": "digits"}, toy_dataset)))
    assert live.facts.val_accuracy == digits.facts.val_accuracy
    found = teacher.load(Path(str(live.place.live)), toy_dataset)
    stored = TrialData(toy_dataset, bank_of(digits, toy_dataset), CPU)
    asked = TrialData(toy_dataset, None, CPU, found)
    indices, views = torch.arange(40), torch.arange(40) % VIEWS
    (images, _, answers), (same, _, expected) = asked.batch(indices, views), stored.batch(indices, views)
    assert answers is not None
    assert expected is not None
    assert torch.equal(images, same)
    torch.testing.assert_close(answers, expected, rtol=1e-3, atol=1e-3)  # float16: 11 bits
    config = trial(objective=HINTON, training={"num_epochs": 2, "views": VIEWS})
    first, second = run(config, asked)[-1], run(config, stored)[-1]
    assert first.train_loss == pytest.approx(second.train_loss, rel=1e-3)
    assert first.val_agreement == second.val_agreement


def test_a_live_teacher_sees_the_transformed_image(digits: PreparedTeacher, toy_dataset: Dataset) -> None:
    found = teacher.load(teacher.folder_of({"name": "digits"}, toy_dataset), toy_dataset)
    data = TrialData(toy_dataset, None, CPU, found)

    def dimmed(images: torch.Tensor) -> torch.Tensor:
        return images // 2

    indices = torch.arange(10)
    _, _, answers = data.batch(indices, None, transform=dimmed)
    expected = teacher.Answers(found, CPU)(torch.from_numpy(toy_dataset.train.images[:10] // 2))
    torch.testing.assert_close(answers, expected)


@pytest.fixture
def shipped(tmp_path: Path, toy_dataset: Dataset, learnt: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships a teacher of the toy's images, under the name of a published data set."""
    monkeypatch.setattr(teacher, "SHIPPED", tmp_path.resolve())
    record = teacher.base_record({"name": "digits"}, toy_dataset) | {"dataset": {"name": "mnist"}}
    teacher.save(tmp_path / "digits-mnist", learnt, record)
    return tmp_path / "digits-mnist"


def test_a_shipped_teacher_is_found_for_its_data_and_copied_before_use(
    shipped: Path, toy_dataset: Dataset, cache: Path
) -> None:
    """Openings of the test set are written beside it, and the package's own files may be read-only."""
    mnist = replace(toy_dataset, name="mnist")
    found = teacher.find({"name": "digits"}, mnist)
    assert found is not None
    assert found.parent == cache / "teachers"
    assert teacher.find({"name": "digits"}, mnist) == found == teacher.writable(shipped)
    assert teacher.find({"name": "digits", "width": 2.0}, mnist) is None
    assert teacher.find({"name": "digits"}, replace(toy_dataset, name="cifar10")) is None


def test_own_teachers_come_before_imported_and_shipped_ones(
    shipped: Path, toy_dataset: Dataset, learnt: nn.Module
) -> None:
    mnist = replace(toy_dataset, name="mnist")
    record = teacher.base_record({"name": "digits"}, mnist) | {"dataset": {"name": "mnist"}}
    for place in (teacher.imported_folder("digits", "mnist"), teacher.folder_of({"name": "digits"}, mnist)):
        teacher.save(place, learnt, record)
        assert teacher.find({"name": "digits"}, mnist) == place


def test_weights_imported_for_some_images_of_the_users_are_not_taken_for_others(
    toy_dataset: Dataset, learnt: nn.Module, toy_npz: Path
) -> None:
    """All .npz files share one name, so there the images themselves must be the same."""
    made_for = {"name": "npz", "fingerprint": toy_dataset.fingerprint}
    record = teacher.base_record({"name": "digits"}, toy_dataset) | {"dataset": made_for}
    teacher.save(teacher.imported_folder("digits", "npz"), learnt, record)
    assert teacher.find({"name": "digits"}, toy_dataset) == teacher.imported_folder("digits", "npz")
    assert teacher.find({"name": "digits"}, npz(toy_npz, split_seed=1)) is None


def test_weights_of_a_students_kind_are_no_teacher(toy_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no teacher and is no file of weights"):
        prepared(toy_dataset, {"name": "digits", "weights": str(tmp_path / "nowhere")})


@pytest.fixture
def weights_file(tmp_path: Path, learnt: nn.Module) -> Path:
    """The same network as a user brings it."""
    (tmp_path / "mine.safetensors").write_bytes(checkpoint.weights_of(learnt))
    return tmp_path / "mine.safetensors"


def test_a_file_of_weights_is_imported_once(weights_file: Path, toy_dataset: Dataset) -> None:
    section = {"name": "digits", "weights": str(weights_file), "label": "mine"}
    found = prepared(toy_dataset, section)["mine"]
    assert found.facts.val_accuracy > 0.8
    assert found.facts.record["imported"]["file"] == "mine.safetensors"
    assert found.facts.knows_validation_images is None
    said = io.StringIO()
    whole = {"teacher": section, "dataset": DATA, "training": {"views": VIEWS}}
    again = prepare.prepare(whole, toy_dataset, None, Console(file=said, width=400))["mine"]
    assert again.fingerprint == found.fingerprint
    assert "teacher: imported" not in said.getvalue()


def test_weights_are_read_in_the_normalisation_that_they_were_trained_with(
    weights_file: Path, toy_dataset: Dataset
) -> None:
    section = {"name": "digits", "weights": str(weights_file)}
    plain = prepared(toy_dataset, section)["digits"]
    normalisation = {"mean": [0.5], "std": [0.25]}
    other = prepared(toy_dataset, section | {"normalisation": normalisation})["digits"]
    assert other.facts.record["normalisation"] == normalisation
    assert other.fingerprint != plain.fingerprint


def test_a_bank_that_its_teacher_no_longer_agrees_with_is_refused(
    digits: PreparedTeacher, toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are fingerprinted, code is not: here a network that was changed to answer with other signs."""
    prepared(toy_dataset, {"name": "digits"})
    monkeypatch.setattr(
        Compact,
        "forward",
        lambda self, images: (
            -self.classifier(self.pool(self.features(self.whitening(images))).flatten(1)) * LOGIT_SCALE
        ),
    )
    with pytest.raises(ConfigError, match="no longer says what is stored here"):
        prepared(toy_dataset, {"name": "digits"})


def test_logits_beyond_float16_are_refused(
    toy_dataset: Dataset, learnt: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = teacher.folder_of({"name": "digits"}, toy_dataset)
    teacher.save(folder, learnt, teacher.base_record({"name": "digits"}, toy_dataset))
    monkeypatch.setattr(teacher.Answers, "__call__", lambda self, images: torch.full((len(images), 3), 1e6))
    with pytest.raises(ConfigError, match="not finite, or beyond float16"):
        prepared(toy_dataset, {"name": "digits"})


def test_a_teacher_at_chance_on_these_images_is_doubted_and_a_control_is_not(
    tmp_path: Path, digits: PreparedTeacher, toy_dataset: Dataset
) -> None:
    np.save(tmp_path / "logits.npy", np.random.RandomState(0).normal(size=(120, 3)).astype(np.float32))
    for section, doubted in (
        ({"name": "logits", "file": str(tmp_path / "logits.npy")}, True),
        ({"name": "permuted", "of": "digits"}, False),
        ({"name": "digits"}, False),
    ):
        said = io.StringIO()
        whole = {"teacher": section, "dataset": DATA, "training": {"views": 1}}
        prepare.prepare(whole, toy_dataset, None, Console(file=said, width=400))
        assert ("no better than chance" in said.getvalue()) == doubted, section


@pytest.mark.parametrize("objective", [name for name, entry in OBJECTIVES.items() if entry.needs_teacher])  # type: ignore[attr-defined]
def test_every_objective_learns_from_a_live_teacher(
    objective: str, digits: PreparedTeacher, toy_dataset: Dataset
) -> None:
    found = teacher.load(teacher.folder_of({"name": "digits"}, toy_dataset), toy_dataset)
    data = TrialData(toy_dataset, None, CPU, found)
    assert not run(trial(objective={"name": objective}, training={"num_epochs": 1}), data)[-1].diverged


def test_a_live_teachers_answers_may_be_part_of_a_graph(digits: PreparedTeacher, toy_dataset: Dataset) -> None:
    """Losses such as the mean squared distance keep them for the backward pass."""
    found = teacher.load(teacher.folder_of({"name": "digits"}, toy_dataset), toy_dataset)
    _, _, answers = TrialData(toy_dataset, None, CPU, found).batch(torch.arange(4), None)
    assert answers is not None
    student = torch.zeros_like(answers, requires_grad=True)
    torch.nn.functional.mse_loss(student, answers).backward()
    assert student.grad is not None
