"""Training: the same numbers bit for bit from the same seed; views, rates, divergence, and what a row tells.

Shapes: B batch, N training images, V views, C classes.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_tune import soft_targets
from kd_tune.augment import view_table
from kd_tune.data import Dataset, Images
from kd_tune.engine import Student, answer, arithmetic, train
from kd_tune.errors import ConfigError
from kd_tune.losses import expected_calibration_error
from kd_tune.models import STUDENTS
from kd_tune.optimizers import OPTIMIZERS, SCHEDULES
from kd_tune.paths import read_json
from kd_tune.soft_targets import Bank
from kd_tune.trial_data import TrialData
from tests.training import CPU, HINTON, KINDS, VIEWS, Forgetful, curve, every_kind, run, trial

GOLDEN = Path(__file__).parent / "golden" / "toy_curve.txt"

pytestmark = pytest.mark.usefixtures("forgetful")


@pytest.fixture(scope="module")
def bank(bank_folder: Path, toy_dataset: Dataset) -> Bank:
    fingerprint = read_json(bank_folder / "bank.json")["fingerprint"]
    return soft_targets.open_bank(bank_folder, fingerprint, len(toy_dataset.train), toy_dataset.num_classes, VIEWS)


@pytest.fixture(scope="module")
def data(toy_dataset: Dataset, bank: Bank) -> TrialData:
    return TrialData(toy_dataset, bank, CPU)


def test_every_optimizer_of_the_table_is_in_this_suite() -> None:
    assert {trial(**sections)["optimizer"]["name"] for sections in KINDS.values()} == set(OPTIMIZERS)


@every_kind
def test_one_seed_gives_the_same_curve_and_weights_bit_for_bit(kind: str, toy_dataset: Dataset, bank: Bank) -> None:
    config = trial(**KINDS[kind])
    data = TrialData(toy_dataset, bank if "objective" in KINDS[kind] else None, CPU)
    outcomes = []
    for noise in (1, 2):  # whatever came before in the process has no say
        torch.manual_seed(noise)
        rows, weights = [], {}
        for row, state in train(config, data, seed=5):
            torch.rand(noise)  # nor has what goes on between two epochs
            rows.append(row)
            weights = {key: value.clone() for key, value in state.network.state_dict().items()}
        outcomes.append((curve(rows), weights))
    (first, first_weights), (second, second_weights) = outcomes
    assert first == second
    assert all(torch.equal(first_weights[key], second_weights[key]) for key in first_weights)
    assert len(first) == config["training"]["num_epochs"]


def test_another_seed_gives_another_curve(data: TrialData) -> None:
    first, second = run(trial(), data, seed=0), run(trial(), data, seed=1)
    assert curve(first) != curve(second)


@every_kind
def test_training_leaves_torchs_global_generator_as_it_was(kind: str, toy_dataset: Dataset, bank: Bank) -> None:
    data = TrialData(toy_dataset, bank if "objective" in KINDS[kind] else None, CPU)
    before = torch.get_rng_state()
    for _ in train(trial(**KINDS[kind]), data, seed=0):
        assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_of_every_trial_draws_dropout_of_its_own(
    toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    class Witness(Forgetful):
        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                seeds.append(torch.initial_seed())
            return super().forward(images)

    monkeypatch.setitem(STUDENTS, "witness", Witness)
    data = TrialData(toy_dataset, None, CPU)
    for seed in (0, 1):
        run(trial(student={"name": "witness"}, training={"num_epochs": 3, "batch_size": 108}), data, seed)
    assert len(set(seeds)) == len(seeds) == 6


def test_a_student_learns_the_toy(data: TrialData) -> None:
    rows = run(trial(training={"num_epochs": 12, "views": VIEWS}), data)
    assert rows[-1].train_loss < 0.3 < rows[0].train_loss
    assert rows[-1].val_accuracy > 0.9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_diverging_trial_ends_with_a_row_that_says_so(optimizer: str, data: TrialData) -> None:
    rows = run(trial(optimizer={"name": optimizer, "lr": 1e6}, training={"num_epochs": 40}), data)
    assert len(rows) < 40
    assert [row.diverged for row in rows] == [False] * (len(rows) - 1) + [True]
    assert not (math.isfinite(rows[-1].train_loss) and math.isfinite(rows[-1].val_loss))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_row_tells_the_rate_of_its_epochs_last_step(name: str, data: TrialData) -> None:
    rows = run(trial(training={"schedule": name, "num_epochs": 4}), data)
    steps = math.ceil(len(data.labels) / 25)
    expected = [0.05 * SCHEDULES[name]((epoch * steps - 1) / (4 * steps)) for epoch in range(1, 5)]
    assert [row.learning_rate for row in rows] == pytest.approx(expected)


def test_the_rate_at_a_step_follows_from_the_share_of_all_steps(data: TrialData) -> None:
    """So the first epoch of a long training differs from that of a short one."""
    short, long = (run(trial(training={"num_epochs": count}), data)[0] for count in (2, 4))
    assert short.learning_rate != long.learning_rate


def coded_bank(dataset: Dataset, views: int) -> Bank:
    """Soft targets that say whose they are: logit 0 is the view's number, logit 1 the image's; exact in float16."""
    logits = np.zeros((views, len(dataset.train), 3), np.float16)
    logits[..., 0] = np.arange(views)[:, None]
    logits[..., 1] = np.arange(len(dataset.train))
    return Bank(logits, np.zeros((len(dataset.val), 3), np.float16), "coded")


def view_of(image: np.ndarray, flip: int, dy: int, dx: int) -> np.ndarray:
    """The view (flip, dy, dx) of one image `[C, H, W]`, by slices."""
    padded = np.pad(image[..., ::-1] if flip else image, [(0, 0), (4, 4), (4, 4)])
    return padded[:, 4 - dy : 4 - dy + image.shape[1], 4 - dx : 4 - dx + image.shape[2]]


@pytest.mark.parametrize("views", [8, 162])
def test_a_students_image_and_its_soft_target_are_the_same_view_of_the_same_image(
    views: int, toy_dataset: Dataset
) -> None:
    data = TrialData(toy_dataset, coded_bank(toy_dataset, views), CPU)
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(len(toy_dataset.train), generator=generator)
    chosen = torch.randint(views, indices.shape, generator=generator)
    images, labels, answers = data.batch(indices, chosen)
    assert answers is not None
    assert torch.equal(answers[:, 0].long(), chosen)
    assert torch.equal(answers[:, 1].long(), indices)
    assert torch.equal(labels, torch.from_numpy(toy_dataset.train.labels)[indices])
    table = view_table(toy_dataset.flips).tolist()
    expected = np.stack([view_of(toy_dataset.train.images[i], *table[v]) for i, v in zip(indices, chosen, strict=True)])
    mean, std = toy_dataset.normalisation["mean"][0], toy_dataset.normalisation["std"][0]
    np.testing.assert_allclose(images.numpy(), (expected / 255 - mean) / std, rtol=1e-4, atol=1e-5)  # float32


def test_without_views_a_student_sees_the_clean_image_and_its_answer(toy_dataset: Dataset) -> None:
    data = TrialData(toy_dataset, coded_bank(toy_dataset, 2), CPU)
    images, _, answers = data.batch(torch.tensor([4, 2]), None)
    assert answers is not None
    assert answers[:, :2].tolist() == [[0, 4], [0, 2]]
    assert torch.equal(images, data.normalise(data.images[[4, 2]]))


def test_only_the_views_asked_for_are_seen_and_all_of_them(toy_dataset: Dataset) -> None:
    """With a bank of three views a fourth would be out of its range; with one fewer, the rows would be others."""
    data = TrialData(toy_dataset, coded_bank(toy_dataset, 3), CPU)
    curves = [curve(run(trial(objective=HINTON, training={"views": v, "num_epochs": 2}), data)) for v in (1, 2, 3)]
    assert curves[0] != curves[1]
    assert curves[1] != curves[2]


def test_training_images_have_mean_zero_and_deviation_one(data: TrialData) -> None:
    pixels = data.normalise(data.images)
    assert float(pixels.mean()) == pytest.approx(0, abs=1e-5)
    assert float(pixels.std()) == pytest.approx(1, abs=1e-3)


def test_reported_figures_are_those_of_the_student_handed_out(data: TrialData, bank: Bank) -> None:
    for row, state in train(trial(objective=HINTON), data, seed=0):
        with torch.inference_mode():
            logits = state.network.eval()(data.normalise(data.val_images))
        prediction = logits.argmax(-1)
        taught = torch.from_numpy(bank.val_logits).argmax(-1)
        assert row.val_accuracy == pytest.approx(float((prediction == data.val_labels).double().mean()))
        assert row.val_agreement == pytest.approx(float((prediction == taught).double().mean()))
        right = (prediction == data.val_labels).double()
        assert row.val_accuracy_even == pytest.approx(float(right[::2].mean()))
        assert row.val_accuracy_odd == pytest.approx(float(right[1::2].mean()))
        assert row.val_loss == pytest.approx(float(F.cross_entropy(logits, data.val_labels)), rel=1e-5)
        assert row.val_ece == pytest.approx(expected_calibration_error(logits, data.val_labels), abs=1e-5)
        assert row.num_parameters == sum(parameter.numel() for parameter in state.network.parameters())


def test_a_network_answers_as_one_that_is_not_training(data: TrialData) -> None:
    network = Forgetful(num_classes=3, in_channels=1, image_size=16).train()
    assert torch.equal(answer(network, data), answer(network, data))


def test_every_row_holds_the_students_multiply_adds_and_counting_them_draws_nothing(data: TrialData) -> None:
    by_layer = (25 * 3 * 12**2, 25 * 3 * 8 * 2**2, 8 * 60, 60 * 42, 42 * 3)  # width 0.5, grey, 16 pixels, 3 classes
    before = torch.get_rng_state()
    assert {row.multiply_adds for row in run(trial(), data)} == {sum(by_layer)}
    assert torch.equal(torch.get_rng_state(), before)


def test_agreement_without_a_teacher_is_nan(toy_dataset: Dataset) -> None:
    rows = run(trial(training={"num_epochs": 1}), TrialData(toy_dataset, None, CPU))
    assert math.isnan(rows[0].val_agreement)


def test_train_loss_is_the_mean_over_images_with_the_last_smaller_batch(data: TrialData) -> None:
    """108 images in batches of 25: the last holds 8. At a rate of nothing the student stays as it began."""
    config = trial(optimizer={"lr": 1e-12}, training={"num_epochs": 1})
    ((row, state),) = train(config, data, seed=0)
    with torch.inference_mode():
        expected = F.cross_entropy(state.network(data.normalise(data.images)), data.labels)
    assert row.train_loss == pytest.approx(float(expected), rel=1e-5)


def test_parts_of_the_loss_add_up_to_it(data: TrialData) -> None:
    for row in run(trial(objective=HINTON), data):
        assert set(row.train_loss_parts) == {"soft", "hard"}
        assert sum(row.train_loss_parts.values()) == pytest.approx(row.train_loss)
        assert row.to_metrics()["train_loss_soft"] == row.train_loss_parts["soft"]


def test_an_objective_that_needs_a_teacher_is_refused_without_one(toy_dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="hinton needs a teacher"):
        run(trial(objective=HINTON), TrialData(toy_dataset, None, CPU))


def test_views_and_batches_that_the_data_do_not_have_are_refused_together(toy_dataset: Dataset) -> None:
    unflipped = replace(toy_dataset, flips=False)
    with pytest.raises(ConfigError) as caught:
        run(trial(training={"views": 82, "batch_size": 109}), TrialData(unflipped, None, CPU))
    assert len(caught.value.problems) == 2
    assert "npz has 81 views (a mirrored image would be another class), not 82" in caught.value.problems[0]
    assert "109 is more than the 108 training images" in caught.value.problems[1]


def test_a_controls_student_starts_from_the_same_weights_as_the_taught_one(data: TrialData) -> None:
    """Equal seeds pair the arms of a search: the first weights and the order of images do not depend on the loss."""
    still = {"lr": 1e-12}

    def first_weights(config: dict[str, Any]) -> Student:
        return next(train(config, data, seed=0))[1]

    one = first_weights(trial(optimizer=still)).network.state_dict()
    other = first_weights(trial(optimizer=still, objective=HINTON)).network.state_dict()
    for key in one:
        torch.testing.assert_close(one[key], other[key])


def golden_data(dataset: Dataset) -> TrialData:
    """The toy with a teacher that is a table of numbers: four on the right class, and noise."""
    random = np.random.RandomState(1)

    def answers(part: Images, *views: int) -> np.ndarray:
        right = 4 * np.eye(3)[part.labels]
        logits: np.ndarray = (right + random.standard_normal((*views, len(part), 3))).astype(np.float16)
        return logits

    return TrialData(dataset, Bank(answers(dataset.train, VIEWS), answers(dataset.val), "golden"), CPU)


def test_the_golden_curve(toy_dataset: Dataset) -> None:
    """Three epochs of a fixed toy, as they were when this was written: it guards changes that should change nothing.

    Within 1e-4, because other processors and versions of torch add up in another order: a rounding of 6e-8 a step grows
    over forty steps. A change of meaning (another order, rate or weighing) moves the losses by more than that.
    Where a change is meant, put the table that the failure prints into the file.
    """
    config = trial(
        student={"name": "studentnet", "width": 1.0},
        objective={"name": "mixed_target", "alpha": 0.6, "temperature": 2.0, "scale": "T"},
        optimizer={"lr": 0.1},
        training={"num_epochs": 3, "batch_size": 8, "views": VIEWS},
    )
    rows = run(config, golden_data(toy_dataset), seed=7)
    columns = ("epoch", "train_loss", "val_loss", "val_ece", "val_accuracy", "val_agreement", "learning_rate")
    table = [[float(getattr(row, column)) for column in columns] for row in rows]
    text = "\n".join(" ".join(f"{value:>13.7g}" for value in line) for line in table)
    header = " ".join(f"{column:>13}" for column in columns)
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    assert lines[0].split() == list(columns)
    golden = [[float(value) for value in line.split()] for line in lines[1:]]
    np.testing.assert_allclose(table, golden, rtol=1e-4, atol=1e-6, err_msg=f"the curve is now\n{header}\n{text}")


def test_a_row_survives_json(data: TrialData) -> None:
    for row in run(trial(objective=HINTON), data):
        assert json.loads(json.dumps(row.to_metrics(), allow_nan=False)) == row.to_metrics()


def test_trivial_augment_is_drawn_from_the_epochs_seed(toy_dataset: Dataset) -> None:
    data = TrialData(toy_dataset, None, CPU)
    config = trial(training={"num_epochs": 2, "transform": "trivial_augment"})
    plain = run(trial(training={"num_epochs": 2}), data)[-1]
    first, again = run(config, data)[-1], run(config, data)[-1]
    assert first.train_loss == again.train_loss != plain.train_loss


@pytest.mark.parametrize(("precision", "rounds"), [("float32", False), ("tf32", True), ("bfloat16", True)])
def test_a_gpu_rounds_to_tf32_only_where_that_is_the_precision(precision: str, rounds: bool) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with arithmetic(precision, torch.device("cuda")):
        assert torch.backends.cudnn.allow_tf32 == rounds
        assert torch.get_float32_matmul_precision() == ("high" if rounds else "highest")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    with arithmetic(precision, torch.device("cpu")):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
