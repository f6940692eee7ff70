"""Distillation mathematics: pure functions of tensors.

Every function broadcasts over leading dimensions, so that the same code serves one student and a stack of K of them.

Shapes: B batch, C classes, `...` leading dimensions (none, or K trials).
    student_logits  [..., B, C]
    teacher_logits  [B, C] or [..., B, C]
    labels          [B] or [..., B], class numbers
    temperature, alpha, smoothing: numbers, or tensors of the leading shape [...]
Every loss is a mean over the batch, in nats, of shape [...]. No gradient goes to the teacher.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Scalar = float | Tensor


def hard_loss(student_logits: Tensor, labels: Tensor, temperature: Scalar = 1.0) -> Tensor:
    """Cross entropy with the labels: `-log softmax(z_s / T)[y]`."""
    log_probabilities = _log_softmax(student_logits, temperature)
    index = labels.expand(log_probabilities.shape[:-1]).unsqueeze(-1)
    return -log_probabilities.gather(-1, index).squeeze(-1).mean(-1)


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: Scalar) -> Tensor:
    """Cross entropy with the teacher's softened answer: `-sum_c softmax(z_t / T)_c log softmax(z_s / T)_c`."""
    targets = _log_softmax(teacher_logits.detach(), temperature).exp()
    return -(targets * _log_softmax(student_logits, temperature)).sum(-1).mean(-1)


def soft_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: Scalar) -> Tensor:
    """`KL(softmax(z_t / T) || softmax(z_s / T))`: `soft_loss` less the teacher's entropy, so 0 where both agree.

    Summed over classes and averaged over the batch (torch's `batchmean`; its `mean` also divides by C).
    """
    log_targets = _log_softmax(teacher_logits.detach(), temperature)
    difference = log_targets - _log_softmax(student_logits, temperature)
    return (log_targets.exp() * difference).sum(-1).mean(-1)


def mixed_target_parts(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: Scalar, temperature: Scalar
) -> dict[str, Tensor]:
    """Cross entropy of the student at temperature T with one mixed target: the loss of the study kd_tune starts from.

    `q = alpha softmax(z_t / T) + (1 - alpha) onehot(y)`, loss `-sum_c q_c log softmax(z_s / T)_c`. Cross entropy is
    linear in its target, so the loss is the sum of the two parts returned. Unlike Hinton's loss, both terms see the
    student at temperature T and there is no factor T^2: the gradient, `(softmax(z_s / T) - q) / T`, fades as T grows.

    Returns:
        `soft`, weighted by alpha, and `hard`, weighted by 1 - alpha.
    """
    return {
        "soft": alpha * soft_loss(student_logits, teacher_logits, temperature),
        "hard": (1 - alpha) * hard_loss(student_logits, labels, temperature),
    }


def hinton_parts(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: Scalar, temperature: Scalar
) -> dict[str, Tensor]:
    """The two-term loss of Hinton, Vinyals and Dean (2015, arXiv:1503.02531, section 2).

    `alpha T^2 KL(softmax(z_t / T) || softmax(z_s / T)) + (1 - alpha) CE(y, softmax(z_s))`. T^2 keeps the size of the
    soft term's gradient when T changes. The paper writes the soft term as a cross entropy; the divergence differs from
    it by the teacher's entropy, which has no gradient. `alpha` weighs the teacher's term (some tools: the labels').

    Returns:
        `soft`, weighted by alpha T^2, and `hard`, weighted by 1 - alpha.
    """
    return {
        "soft": alpha * temperature**2 * soft_divergence(student_logits, teacher_logits, temperature),
        "hard": (1 - alpha) * hard_loss(student_logits, labels),
    }


def label_smoothing_parts(student_logits: Tensor, labels: Tensor, smoothing: Scalar) -> dict[str, Tensor]:
    """Cross entropy with `(1 - s) onehot(y) + s / C` (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Returns:
        `hard`, weighted by 1 - s, and `uniform`, weighted by s.
    """
    uniform = -F.log_softmax(student_logits, -1).mean(-1).mean(-1)
    return {"hard": (1 - smoothing) * hard_loss(student_logits, labels), "uniform": smoothing * uniform}


def expected_calibration_error(logits: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over bins of confidence (Guo et al. 2017, arXiv:1706.04599, eq. 3).

    Args:
        logits: `[N, C]`.
        labels: `[N]`.
        num_bins: bins of equal width over (0, 1].
    """
    confidence, prediction = logits.softmax(-1).max(-1)
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    gaps = torch.zeros(num_bins, dtype=torch.float64, device=logits.device)
    gaps.index_add_(0, bins, (confidence - (prediction == labels).float()).double())
    return float(gaps.abs().sum() / len(labels))


def _log_softmax(logits: Tensor, temperature: Scalar) -> Tensor:
    if isinstance(temperature, Tensor):
        temperature = temperature[..., None, None]
    return F.log_softmax(logits / temperature, -1)
