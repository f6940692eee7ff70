"""The mathematics of distillation: gradients against their closed forms, torch's own losses, and cases worked by hand.

Everything is in float64, where the only difference between two ways to the same number is rounding, below 1e-12.

Shapes: K trials, B batch, C classes.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kd_tune import losses

B, C = 6, 5
ALPHAS = (0.0, 0.3, 1.0)
TEMPERATURES = (0.5, 1.0, 4.0)


def logits(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(seed: int, *shape: int, num_classes: int = C) -> Tensor:
    return torch.randint(num_classes, shape, generator=torch.Generator().manual_seed(seed))


def onehot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, C).double()


def total(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum(0)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_hard_loss_of_a_student_that_is_three_to_one_sure() -> None:
    student = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    close(losses.hard_loss(student, torch.tensor([0])), torch.tensor(math.log(4 / 3), dtype=torch.float64))
    close(losses.hard_loss(student, torch.tensor([1])), torch.tensor(math.log(4), dtype=torch.float64))


def test_divergence_from_a_coin_to_a_student_that_is_three_to_one_sure() -> None:
    student = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    coin = torch.zeros(1, 2, dtype=torch.float64)
    by_hand = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    close(losses.soft_divergence(student, coin, 1.0), torch.tensor(by_hand, dtype=torch.float64))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_divergence_is_zero_where_student_and_teacher_agree(temperature: float) -> None:
    teacher = logits(0, B, C)
    shifted = teacher + torch.arange(B, dtype=torch.float64)[:, None]  # a constant an image changes no probability
    close(losses.soft_divergence(shifted, teacher, temperature), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_divergence_is_above_zero_where_they_differ(temperature: float) -> None:
    assert losses.soft_divergence(logits(0, B, C), logits(1, B, C), temperature) > 0.01


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_divergence_is_torchs_with_batchmean_not_mean(temperature: float) -> None:
    student, teacher = logits(0, B, C), logits(1, B, C)
    arguments = F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1)
    divergence = losses.soft_divergence(student, teacher, temperature)
    close(divergence, F.kl_div(*arguments, reduction="batchmean"))
    close(divergence / C, (arguments[1] * (arguments[1].log() - arguments[0])).mean())


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_loss_is_divergence_plus_the_teachers_entropy(temperature: float) -> None:
    student, teacher = logits(0, B, C), logits(1, B, C)
    probabilities = F.softmax(teacher / temperature, -1)
    entropy = -(probabilities * probabilities.log()).sum(-1).mean()
    expected = losses.soft_divergence(student, teacher, temperature) + entropy
    close(losses.soft_loss(student, teacher, temperature), expected)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_mixed_target_parts_sum_to_cross_entropy_with_the_mixed_target(alpha: float, temperature: float) -> None:
    student, teacher, labels = logits(0, B, C), logits(1, B, C), classes(2, B)
    target = alpha * F.softmax(teacher / temperature, -1) + (1 - alpha) * onehot(labels)
    parts = losses.mixed_target_parts(student, teacher, labels, alpha, temperature)
    close(total(parts), F.cross_entropy(student / temperature, target))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_mixed_target_gradient_is_the_closed_form(alpha: float, temperature: float) -> None:
    student, teacher, labels = logits(0, B, C).requires_grad_(), logits(1, B, C), classes(2, B)
    total(losses.mixed_target_parts(student, teacher, labels, alpha, temperature)).backward()
    target = alpha * F.softmax(teacher / temperature, -1) + (1 - alpha) * onehot(labels)
    expected = (F.softmax(student.detach() / temperature, -1) - target) / temperature / B
    assert student.grad is not None
    close(student.grad, expected)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_hinton_gradient_is_the_closed_form(alpha: float, temperature: float) -> None:
    student, teacher, labels = logits(0, B, C).requires_grad_(), logits(1, B, C), classes(2, B)
    total(losses.hinton_parts(student, teacher, labels, alpha, temperature)).backward()
    fixed = student.detach()
    soft = F.softmax(fixed / temperature, -1) - F.softmax(teacher / temperature, -1)
    hard = F.softmax(fixed, -1) - onehot(labels)
    assert student.grad is not None
    close(student.grad, (alpha * temperature * soft + (1 - alpha) * hard) / B)


def test_hinton_gradient_at_high_temperature_matches_logits() -> None:
    """Equation 4 of the paper: for logits of mean zero, T^2 times the gradient tends to (z_s - z_t) / C."""
    student, teacher = (z - z.mean(-1, keepdim=True) for z in (logits(0, B, C), logits(1, B, C)))
    student.requires_grad_()
    losses.hinton_parts(student, teacher, classes(2, B), 1.0, 1e4)["soft"].backward()
    assert student.grad is not None
    expected = (student.detach() - teacher) / C / B
    torch.testing.assert_close(student.grad, expected, rtol=1e-2, atol=1e-4)  # the next term is of order |z| / T


def test_temperature_is_inert_in_hintons_loss_without_the_teachers_term() -> None:
    student, teacher, labels = logits(0, B, C), logits(1, B, C), classes(2, B)
    warm, cold = (total(losses.hinton_parts(student, teacher, labels, 0.0, t)) for t in (8.0, 1.0))
    close(warm, cold)
    close(cold, F.cross_entropy(student, labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_is_torchs(smoothing: float) -> None:
    student, labels = logits(0, B, C), classes(1, B)
    parts = losses.label_smoothing_parts(student, labels, smoothing)
    close(total(parts), F.cross_entropy(student, labels, label_smoothing=smoothing))


@given(
    seed=st.integers(0, 2**31),
    leading=st.lists(st.integers(1, 3), max_size=2),
    batch=st.integers(1, 4),
    own_teacher=st.booleans(),
    own_labels=st.booleans(),
)
def test_a_stack_of_trials_gets_the_losses_of_each_trial_alone(
    seed: int, leading: list[int], batch: int, own_teacher: bool, own_labels: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = logits(seed, *leading, batch, C)
    teacher = logits(seed + 1, *(leading if own_teacher else []), batch, C)
    labels = classes(seed, *(leading if own_labels else []), batch)
    alpha, smoothing = torch.rand(2, *leading, generator=generator, dtype=torch.float64)
    temperature = 0.5 + 9 * torch.rand(leading, generator=generator, dtype=torch.float64)
    stacked = {
        "mixed": total(losses.mixed_target_parts(student, teacher, labels, alpha, temperature)),
        "hinton": total(losses.hinton_parts(student, teacher, labels, alpha, temperature)),
        "smoothing": total(losses.label_smoothing_parts(student, labels, smoothing)),
    }
    for index in torch.cartesian_prod(*map(torch.arange, leading)).reshape(-1, len(leading)) if leading else [()]:
        at = tuple(int(i) for i in index)
        z_t, y = teacher[at] if own_teacher else teacher, labels[at] if own_labels else labels
        a, t, s = float(alpha[at]), float(temperature[at]), float(smoothing[at])
        close(stacked["mixed"][at], total(losses.mixed_target_parts(student[at], z_t, y, a, t)))
        close(stacked["hinton"][at], total(losses.hinton_parts(student[at], z_t, y, a, t)))
        close(stacked["smoothing"][at], total(losses.label_smoothing_parts(student[at], y, s)))
    assert all(loss.shape == torch.Size(leading) for loss in stacked.values())


def two_class_logits(confidences: list[float]) -> Tensor:
    """Logits whose softmax is (c, 1 - c): class 0 with confidence c above one half."""
    return torch.tensor([[math.log(c), math.log(1 - c)] for c in confidences], dtype=torch.float64)


def test_calibration_error_worked_by_hand() -> None:
    """Two images at 55 %, one of them right: off by 5 points. Two at 85 %, both right: off by 15. On average 10."""
    z, labels = two_class_logits([0.55, 0.55, 0.85, 0.85]), torch.tensor([0, 1, 0, 0])
    assert losses.expected_calibration_error(z, labels, num_bins=10) == pytest.approx(0.10, abs=1e-6)


def test_calibration_error_of_one_bin_is_the_mean_gap() -> None:
    """Errors of opposite sign cancel inside a bin: confidence 70 % on average, three of four right."""
    z, labels = two_class_logits([0.55, 0.55, 0.85, 0.85]), torch.tensor([0, 1, 0, 0])
    assert losses.expected_calibration_error(z, labels, num_bins=1) == pytest.approx(0.05, abs=1e-6)


def test_calibration_error_is_zero_for_certainty_that_is_right_and_one_for_certainty_that_is_wrong() -> None:
    certain = torch.tensor([[1e4, 0.0]])
    assert losses.expected_calibration_error(certain, torch.tensor([0])) == 0
    assert losses.expected_calibration_error(certain, torch.tensor([1])) == 1


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower() -> None:
    """Bins are open below: 50 % falls in (0, 1/2], off by 50 points; the wrong 75 % in (1/2, 1], off by 75."""
    z, labels = two_class_logits([0.5, 0.75]), torch.tensor([0, 1])
    assert losses.expected_calibration_error(z, labels, num_bins=2) == pytest.approx(0.625)


@given(seed=st.integers(0, 2**31), num_images=st.integers(1, 60), num_bins=st.integers(1, 20))
def test_calibration_error_is_that_of_a_slow_reference(seed: int, num_images: int, num_bins: int) -> None:
    z, labels = logits(seed, num_images, C).float(), classes(seed, num_images)
    confidence, prediction = z.softmax(-1).max(-1)
    expected = 0.0
    for index in range(num_bins):
        low, high = index / num_bins, (index + 1) / num_bins
        members = [n for n in range(num_images) if low < float(confidence[n]) <= high]
        if members:
            accuracy = sum(bool(prediction[n] == labels[n]) for n in members) / len(members)
            mean = sum(float(confidence[n]) for n in members) / len(members)
            expected += len(members) / num_images * abs(accuracy - mean)
    # float32 confidences: 1e-7 each.
    assert losses.expected_calibration_error(z, labels, num_bins) == pytest.approx(expected, abs=1e-6)
