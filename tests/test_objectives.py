"""One suite over OBJECTIVES: what the engine and a search rely on holds for whatever is in the table.

Shapes: K trials, B batch, C classes.
"""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_tune.objectives import OBJECTIVES, TEACHER, Objective

K, B, C = 4, 7, 5

# Another value for every hyperparameter, of which none may be without effect. A new one needs a line here.
OTHER: dict[str, Any] = {"alpha": 0.3, "temperature": 2.5, "scale": "T2", "smoothing": 0.35}

every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def student_logits(*leading: int) -> Tensor:
    return 3 * torch.randn(*leading, B, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def teacher_logits(seed: int = 1) -> Tensor:
    return 3 * torch.randn(B, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.arange(B) % C


def loss(objective: Objective, student: Tensor, teacher: Tensor | None) -> Tensor:
    return torch.stack(list(objective(student, LABELS, teacher).values())).sum(0)


def needed(objective: Objective, seed: int = 1) -> Tensor | None:
    return teacher_logits(seed) if objective.needs_teacher else None


@every_objective
def test_every_part_of_the_loss_is_one_finite_number(name: str) -> None:
    objective: Objective = OBJECTIVES[name]()
    parts = objective(student_logits(), LABELS, needed(objective))
    assert parts
    assert all(part.shape == () and bool(part.isfinite()) for part in parts.values())


@every_objective
def test_student_receives_a_gradient(name: str) -> None:
    objective: Objective = OBJECTIVES[name]()
    student = student_logits().requires_grad_()
    loss(objective, student, needed(objective)).backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert bool((student.grad.abs().sum(-1) > 0).all()), "an image teaches nothing"


@every_objective
def test_gradient_leaves_every_images_logits_sum_unchanged(name: str) -> None:
    """A constant on all logits of an image changes no probability, so no loss pushes there."""
    objective: Objective = OBJECTIVES[name]()
    student = student_logits().requires_grad_()
    loss(objective, student, needed(objective)).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad.sum(-1), torch.zeros(B, dtype=torch.float64), rtol=0, atol=1e-12)


@every_objective
def test_teacher_receives_no_gradient(name: str) -> None:
    objective: Objective = OBJECTIVES[name]()
    teacher = teacher_logits().requires_grad_()
    loss(objective, student_logits().requires_grad_(), teacher).backward()
    assert teacher.grad is None


@every_objective
def test_logits_are_left_as_they_were(name: str) -> None:
    student, teacher = student_logits(), teacher_logits()
    loss(OBJECTIVES[name](), student, teacher)
    assert torch.equal(student, student_logits())
    assert torch.equal(teacher, teacher_logits())


@every_objective
def test_another_teacher_changes_the_loss_if_and_only_if_one_is_needed(name: str) -> None:
    objective: Objective = OBJECTIVES[name]()
    one, other = (loss(objective, student_logits(), teacher_logits(seed)) for seed in (1, 2))
    assert (one != other) == objective.needs_teacher


@every_objective
def test_an_objective_without_teacher_works_without_one(name: str) -> None:
    objective: Objective = OBJECTIVES[name]()
    if not objective.needs_teacher:
        assert loss(objective, student_logits(), None) == loss(objective, student_logits(), teacher_logits())


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, key) for name, entry in OBJECTIVES.items() for key in inspect.signature(entry).parameters],
)
def test_every_hyperparameter_changes_the_loss(name: str, argument: str) -> None:
    default, changed = OBJECTIVES[name](), OBJECTIVES[name](**{argument: OTHER[argument]})
    before, after = (loss(objective, student_logits(), teacher_logits()) for objective in (default, changed))
    assert abs(before - after) > 1e-3


# Values at which something may be without effect, and others. A new hyperparameter needs a line here.
SPECIAL: dict[str, list[Any]] = {
    "alpha": [0.0, 0.3, 1.0],
    "temperature": [1.0, 2.5],
    "scale": ["none", "T", "T2"],
    "smoothing": [0.0, 0.35, 1.0],
}


def settings_of(name: str) -> list[dict[str, Any]]:
    keys = list(inspect.signature(OBJECTIVES[name]).parameters)
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(SPECIAL[key] for key in keys))]


def loss_and_gradient(objective: Objective, teacher: Tensor) -> Tensor:
    student = student_logits().requires_grad_()
    value = loss(objective, student, teacher)
    value.backward()
    assert student.grad is not None
    return torch.cat([value.detach().reshape(1), student.grad.flatten()])


@pytest.mark.parametrize(("name", "setting"), [(name, setting) for name in OBJECTIVES for setting in settings_of(name)])
def test_what_is_called_inert_changes_no_bit_of_loss_and_gradient_and_nothing_else_is_inert(
    name: str, setting: dict[str, Any]
) -> None:
    objective = OBJECTIVES[name](**setting)
    before = loss_and_gradient(objective, teacher_logits())
    others = {TEACHER: [loss_and_gradient(objective, teacher_logits(2))]} | {
        key: [
            loss_and_gradient(OBJECTIVES[name](**setting | {key: value}), teacher_logits())
            for value in SPECIAL[key]
            if value != setting[key]
        ]
        for key in setting
    }
    unchanged = {key for key, results in others.items() if all(torch.equal(before, result) for result in results)}
    assert unchanged == objective.inert()


@every_objective
def test_a_stack_of_trials_gets_the_loss_of_each_trial_alone(name: str) -> None:
    """Numbers become vectors of K; other hyperparameters are shared by a stack, and every default is tried."""
    entry = OBJECTIVES[name]
    parameters = inspect.signature(entry).parameters.values()
    vectors = {p.name: torch.linspace(0.2, 0.9, K).double() for p in parameters if isinstance(p.default, float)}
    shared: list[dict[str, Any]] = [{}] + [{p.name: OTHER[p.name]} for p in parameters if p.name not in vectors]
    student = student_logits(K)
    for arguments in shared:
        stacked = loss(entry(**vectors, **arguments), student, teacher_logits())
        alone = [
            loss(entry(**{key: float(v[k]) for key, v in vectors.items()}, **arguments), student[k], teacher_logits())
            for k in range(K)
        ]
        torch.testing.assert_close(stacked, torch.stack(alone), rtol=1e-12, atol=0)


@every_objective
def test_the_loss_is_the_same_every_time(name: str) -> None:
    first, second = (loss(OBJECTIVES[name](), student_logits(), teacher_logits()) for _ in range(2))
    assert torch.equal(first, second)


@every_objective
def test_an_objective_says_its_version(name: str) -> None:
    assert OBJECTIVES[name]().version >= 1


@pytest.mark.parametrize(("scale", "power"), [("none", 0), ("T", 1), ("T2", 2)])
def test_scale_multiplies_every_part_by_a_power_of_the_temperature(scale: str, power: int) -> None:
    plain = OBJECTIVES["mixed_target"](alpha=0.4, temperature=3.0)(student_logits(), LABELS, teacher_logits())
    scaled = OBJECTIVES["mixed_target"](alpha=0.4, temperature=3.0, scale=scale)(
        student_logits(), LABELS, teacher_logits()
    )
    for part in plain:
        torch.testing.assert_close(scaled[part], 3.0**power * plain[part], rtol=1e-12, atol=0)


def test_alpha_weighs_the_teachers_term() -> None:
    for name in ("mixed_target", "hinton"):
        taught = OBJECTIVES[name](alpha=1.0)(student_logits(), LABELS, teacher_logits())
        untaught = OBJECTIVES[name](alpha=0.0)(student_logits(), LABELS, teacher_logits())
        assert taught["hard"] == 0, name
        assert taught["soft"] > 0, name
        assert untaught["soft"] == 0, name
        assert untaught["hard"] > 0, name
