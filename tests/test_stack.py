"""Students trained in one step: each does what it would do by itself, whoever is beside it.

The tolerance: by itself and in a stack the same sums are made in another order, so a step leaves weights apart by some
units in the last place (6e-8 of them). After the ten steps of these trainings it was 3e-8 with SGD, and 3e-6 with
AdamW, which divides by the root of small squares; a tenth more or less of one hyperparameter makes 2e-4 and more.

Shapes: K students, P parameters, V views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_tune import soft_targets
from kd_tune.data import Dataset
from kd_tune.engine import Student, advance, enrol
from kd_tune.models import Stackable
from kd_tune.models.studentnet import StudentNet
from kd_tune.objectives import OBJECTIVES
from kd_tune.optimizers import OPTIMIZERS
from kd_tune.paths import read_json
from kd_tune.records import EpochRow
from kd_tune.rows import Rows
from kd_tune.stack import advance_together, kind_of
from kd_tune.trial_data import TrialData
from tests.training import CPU, HINTON, VIEWS, numbers, trial

TOLERANCE = 1e-5
OBJECTIVE: dict[str, dict[str, Any]] = {
    "hinton": {"name": "hinton", "alpha": 0.7, "temperature": 3.0},
    "mixed_target": {"name": "mixed_target", "alpha": 0.4, "temperature": 2.0, "scale": "T"},
    "cross_entropy": {"name": "cross_entropy"},
    "label_smoothing": {"name": "label_smoothing", "smoothing": 0.2},
}
OPTIMIZER: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.02, "momentum": 0.8, "weight_decay": 1e-2},
    "adamw": {"name": "adamw", "lr": 0.002, "beta1": 0.8, "beta2": 0.99, "weight_decay": 0.1},
}
TRAINING = {"num_epochs": 6, "batch_size": 25, "views": VIEWS}
STEADY = TRAINING | {"schedule": "constant"}
ORDER = 11


@pytest.fixture(scope="module")
def data(bank_folder: Path, toy_dataset: Dataset) -> TrialData:
    fingerprint = read_json(bank_folder / "bank.json")["fingerprint"]
    bank = soft_targets.open_bank(bank_folder, fingerprint, len(toy_dataset.train), toy_dataset.num_classes, VIEWS)
    return TrialData(toy_dataset, bank, CPU)


def student(data: TrialData, *, seed: int = 0, order: int = ORDER, done: int = 0, **sections: Any) -> Student:
    """A student that has done some epochs by itself."""
    found = enrol(trial(**({"training": TRAINING, "objective": HINTON} | sections)), data, seed, order)
    for _ in range(done):
        advance(found, data)
    return found


def weights(one: Student) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in one.network.state_dict().items()}


def assert_same_figures(rows: Sequence[EpochRow], others: Sequence[EpochRow]) -> None:
    for row, other in zip(rows, others, strict=True):
        assert row.epoch == other.epoch
        assert row.train_loss == pytest.approx(other.train_loss, rel=TOLERANCE, abs=TOLERANCE)
        assert row.train_loss_parts == pytest.approx(other.train_loss_parts, rel=TOLERANCE, abs=TOLERANCE)
        assert row.val_loss == pytest.approx(other.val_loss, rel=TOLERANCE)
        assert row.learning_rate == other.learning_rate
        assert (row.num_parameters, row.multiply_adds) == (other.num_parameters, other.multiply_adds)


def assert_same_students(one: Student, other: Student) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=TOLERANCE, atol=TOLERANCE)


def check_together(make: Callable[[], list[Student]], data: TrialData, num_epochs: int = 2) -> None:
    """Students trained together have the rows and weights of the same ones trained by themselves."""
    together, alone = make(), make()
    for _ in range(num_epochs):
        assert_same_figures(advance_together(together, data), [advance(one, data) for one in alone])
    for one, other in zip(together, alone, strict=True):
        assert_same_students(one, other)


def test_every_objective_and_optimizer_is_in_this_suite() -> None:
    assert set(OBJECTIVE) == set(OBJECTIVES)
    assert set(OPTIMIZER) == set(OPTIMIZERS)


@pytest.mark.parametrize("optimizer", OPTIMIZER)
@pytest.mark.parametrize("objective", OBJECTIVE)
@pytest.mark.parametrize("count", [1, 3])
def test_a_student_learns_in_a_stack_what_it_learns_alone(
    objective: str, optimizer: str, count: int, data: TrialData
) -> None:
    sections = {"objective": OBJECTIVE[objective], "optimizer": OPTIMIZER[optimizer]}
    check_together(lambda: [student(data, seed=seed, **sections) for seed in range(count)], data)


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("objective", HINTON | {"alpha": 0.77}),
        ("objective", HINTON | {"temperature": 1.0}),
        ("optimizer", OPTIMIZER["sgd"] | {"lr": 0.022}),
        ("optimizer", OPTIMIZER["sgd"] | {"momentum": 0.72}),
        ("optimizer", OPTIMIZER["sgd"] | {"weight_decay": 1.1e-2}),
        ("optimizer", OPTIMIZER["adamw"] | {"lr": 0.0022}),
        ("optimizer", OPTIMIZER["adamw"] | {"beta1": 0.72}),
        ("optimizer", OPTIMIZER["adamw"] | {"beta2": 0.9}),
        ("optimizer", OPTIMIZER["adamw"] | {"weight_decay": 0.11}),
    ],
)
def test_the_tolerance_would_tell_another_student(key: str, changed: dict[str, Any], data: TrialData) -> None:
    """Of every number that a stack holds for each student by itself."""
    usual = {"objective": HINTON, "optimizer": OPTIMIZER.get(changed["name"])}[key]
    one, other = (student(data, done=2, **({"training": STEADY} | {key: section})) for section in (usual, changed))
    assert (
        max(float((value - weights(other)[name]).abs().max()) for name, value in weights(one).items()) > 10 * TOLERANCE
    )


LEARNERS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 3),
        "order": st.integers(0, 1),
        "done": st.integers(0, 2),
        "student": st.sampled_from([{"name": "studentnet", "width": width} for width in (0.25, 0.5, 1.0)]),
        "objective": st.one_of(
            st.builds(
                lambda alpha, temperature: {"name": "hinton", "alpha": alpha, "temperature": temperature},
                st.one_of(st.floats(0, 1), st.sampled_from([0, 1])),
                st.floats(1, 10),
            ),
            st.builds(
                lambda alpha, scale: {"name": "mixed_target", "alpha": alpha, "temperature": 2.0, "scale": scale},
                st.floats(0, 1),
                st.sampled_from(["none", "T", "T2"]),
            ),
            st.just({"name": "cross_entropy"}),
            st.builds(lambda smoothing: {"name": "label_smoothing", "smoothing": smoothing}, st.floats(0, 0.5)),
        ),
        "optimizer": st.builds(
            lambda lr, momentum, decay: {"name": "sgd", "lr": lr, "momentum": momentum, "weight_decay": decay},
            st.floats(0.001, 0.02),
            st.sampled_from([0.0, 0.5, 0.9]),
            st.sampled_from([0.0, 1e-2]),
        ),
        "training": st.builds(
            lambda schedule, epochs: TRAINING | {"schedule": schedule, "num_epochs": epochs},
            st.sampled_from(["one_cycle", "cosine", "constant"]),
            st.integers(4, 8),
        ),
    }
)


@settings(max_examples=15)
@given(learners=st.lists(LEARNERS, min_size=1, max_size=4))
def test_any_mixture_learns_what_its_students_learn_alone(learners: list[Mapping[str, Any]], data: TrialData) -> None:
    """Of objectives and their numbers, rates, momenta, seeds, widths, schedules, epochs done, and orders of images."""
    check_together(lambda: [student(data, **learner) for learner in learners], data, num_epochs=1)


def test_students_in_the_midst_of_momentum_go_on_together_and_part_again(data: TrialData) -> None:
    """One leaves after an epoch, another that began by itself joins; the one that stayed does not notice."""
    for optimizer in OPTIMIZER.values():
        sections = {"optimizer": optimizer}
        stays, leaves = student(data, seed=0, **sections), student(data, seed=1, **sections)
        joins = student(data, seed=2, done=1, **sections)
        advance_together([stays, leaves], data)
        advance_together([joins, stays], data)
        advance(stays, data)
        advance(leaves, data)
        alone = [student(data, seed=seed, done=done, **sections) for seed, done in ((0, 3), (1, 2), (2, 2))]
        for one, other in zip((stays, leaves, joins), alone, strict=True):
            assert_same_students(one, other)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a search stacks: several split sums in ways that depend on K."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("neighbours", [0, 1, 2, 6])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_beside_whom_it_learns_makes_no_bit_of_difference(neighbours: int, width: float, data: TrialData) -> None:
    mine = {"student": {"name": "studentnet", "width": width}, "seed": 0}
    others = [
        student(data, seed=9 + place, student={"name": "studentnet", "width": 0.25 * (1 + place % 4)})
        for place in range(neighbours)
    ]
    one, same = student(data, **mine), student(data, **mine)
    for _ in range(2):
        rows = advance_together([*others, one], data)
        (row,) = advance_together([same], data)
        assert numbers(rows[-1]) == numbers(row)
    assert all(torch.equal(weights(one)[name], value) for name, value in weights(same).items())


@pytest.mark.parametrize("optimizer", OPTIMIZER)
def test_a_neighbour_that_diverges_does_no_harm(optimizer: str, data: TrialData) -> None:
    settings_ = OPTIMIZER[optimizer]
    wild, one, same = (
        student(data, seed=s, optimizer=settings_ | {"lr": lr}) for s, lr in ((1, 1e30), (0, 1e-3), (0, 1e-3))
    )
    for _ in range(2):
        broken, row = advance_together([wild, one], data)
        assert broken.diverged
        assert numbers(row) == numbers(advance_together([same], data)[0])


def test_the_images_of_a_stack_are_read_once_if_all_see_the_same(
    data: TrialData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a stack would cost more than its students one by one."""
    batches: list[int] = []
    batch = data.batch
    monkeypatch.setattr(
        data, "batch", lambda indices, *rest, **more: (batches.append(len(indices)), batch(indices, *rest, **more))[1]
    )
    advance_together([student(data, seed=seed) for seed in range(3)], data)
    assert sum(batches) == len(data.labels)
    batches.clear()
    advance_together([student(data, seed=seed, order=seed) for seed in range(3)], data)
    assert sum(batches) == 3 * len(data.labels)


def test_a_stack_that_breaks_has_changed_nobody(data: TrialData, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(self: StudentNet, weights: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            raise RuntimeError("out of memory")
        return forward(self, weights, images)

    forward = StudentNet.forward_stack
    both = [student(data, seed=seed) for seed in range(2)]
    before = [weights(one) for one in both]
    monkeypatch.setattr(StudentNet, "forward_stack", break_down)
    with pytest.raises(RuntimeError, match="out of memory"):
        advance_together(both, data)
    for one, old in zip(both, before, strict=True):
        assert one.epoch == 0
        assert all(torch.equal(value, old[name]) for name, value in weights(one).items())


@pytest.mark.parametrize(
    "sections",
    [
        {"student": {"name": "digits"}},
        {"student": {"name": "studentnet", "width": 1.5}},
        {"training": TRAINING | {"transform": "trivial_augment"}},
    ],
    ids=["batch norm", "wide, on a CPU", "transform"],
)
def test_what_cannot_be_stacked_or_does_not_pay_is_trained_by_itself(sections: Any, data: TrialData) -> None:
    assert kind_of(student(data, **sections), data) is None


def test_an_objective_that_does_not_say_it_can_be_stacked_is_not(data: TrialData) -> None:
    one = student(data)
    one.objective = lambda student_logits, labels, teacher_logits: {}  # type: ignore[assignment]
    assert kind_of(one, data) is None


def test_students_share_a_stack_across_widths_objectives_and_epochs_but_not_across_batches(data: TrialData) -> None:
    alike = [
        student(data),
        student(data, student={"name": "studentnet", "width": 0.25}),
        student(data, objective=OBJECTIVE["cross_entropy"], optimizer={"name": "sgd", "lr": 0.1}),
        student(data, done=1, training=TRAINING | {"num_epochs": 3, "schedule": "cosine"}),
    ]
    others = [
        student(data, training=TRAINING | {"batch_size": 20}),
        student(data, training=TRAINING | {"views": 1}),
        student(data, optimizer={"name": "adamw"}),
    ]
    kinds = [kind_of(one, data) for one in [*alike, *others]]
    assert len(set(kinds[: len(alike)])) == 1
    assert len(set(kinds)) == 1 + len(others)


def test_padding_is_zero_and_stays_zero() -> None:
    """So weight decay, momentum and the other students' gradients never reach it."""
    torch.manual_seed(0)
    narrow = StudentNet(width=0.25)
    assert isinstance(narrow, Stackable)
    shapes = narrow.stack_shapes(CPU)
    rows = Rows(shapes)
    parameters = list(narrow.parameters())
    corners = rows.pack([torch.ones_like(one) for one in parameters])
    row = rows.pack(parameters)[None].requires_grad_()
    narrow.forward_stack(rows.by_name(row), torch.randn(8, 3, 32, 32)).square().sum().backward()
    assert row.grad is not None
    assert not row[0][corners == 0].any()
    assert not row.grad[0][corners == 0].any()
    assert row.grad[0][corners == 1].any()


def test_a_row_gives_back_what_was_packed() -> None:
    shapes = {"a": torch.Size([3, 4]), "b": torch.Size([2])}
    tensors = [torch.randn(2, 3), torch.randn(2)]
    row = Rows(shapes).pack(tensors)
    a, b = (tensor.tolist() for tensor in tensors)
    assert row.tolist() == [*a[0], 0, *a[1], 0, 0, 0, 0, 0, *b]
    back = [torch.zeros(2, 3), torch.zeros(2)]
    Rows(shapes).unpack(row, back)
    assert all(torch.equal(one, other) for one, other in zip(tensors, back, strict=True))
