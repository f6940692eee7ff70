"""The optimizers of `optimizers` for K students in one step, every student with its own numbers.

All of a student's parameters lie in one row, so that a step is a handful of operations whatever K is. Each formula is
that of torch's optimizer of the same name; the state is taken from such optimizers, one a student, and handed back to
them, so that a checkpoint does not tell how a student was trained.

Shapes: K students, P parameters of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from kd_tune.rows import Rows


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All that an optimizer learns, in its order."""
    parameters: list[nn.Parameter] = optimizer.param_groups[0]["params"]
    return parameters


class StackedOptimizer(ABC):
    """What the stacked optimizers have in common.

    Args:
        optimizers: of every student, of one kind; each with one group of parameters.
        rows: how these lie in a row.
    """

    names: ClassVar[tuple[str, ...]]  # of the state that a parameter has, of its own shape

    def __init__(self, optimizers: Sequence[Optimizer], rows: Rows) -> None:
        self._optimizers = optimizers
        self._rows = rows
        self._state = {
            name: torch.stack([rows.pack(_state_of(one, name)) for one in optimizers]) for name in self.names
        }

    @abstractmethod
    def step(self, weights: Tensor, gradient: Tensor, rates: Tensor) -> None:
        """Changes the weights.

        Args:
            weights: `[K, P]`.
            gradient: `[K, P]`; written over.
            rates: `[K, 1]`, every student's learning rate in this step.
        """

    def hand_back(self) -> None:
        """Gives every student's optimizer its state after the last step."""
        for place, optimizer in enumerate(self._optimizers):
            for name in self.names:
                tensors = [torch.empty_like(parameter) for parameter in parameters_of(optimizer)]
                self._rows.unpack(self._state[name][place], tensors)
                for parameter, tensor in zip(parameters_of(optimizer), tensors, strict=True):
                    optimizer.state[parameter][name] = tensor

    def _column(self, key: str, index: int | None = None) -> Tensor:
        """A hyperparameter of every student: `[K, 1]`."""
        values = [optimizer.param_groups[0][key] for optimizer in self._optimizers]
        numbers = [value if index is None else value[index] for value in values]
        return torch.tensor(numbers, dtype=torch.float32, device=self._state[self.names[0]].device).unsqueeze(1)


def _state_of(optimizer: Optimizer, name: str) -> list[Tensor]:
    """One state of an optimizer, for every parameter; zeros before the first step, as torch begins."""
    return [optimizer.state[one].get(name, torch.zeros_like(one)) for one in parameters_of(optimizer)]


class StackedSGD(StackedOptimizer):
    """`optimizers.sgd`: Nesterov's momentum, weight decay added to the gradient."""

    names = ("momentum_buffer",)

    def __init__(self, optimizers: Sequence[Optimizer], rows: Rows) -> None:
        super().__init__(optimizers, rows)
        self._momentum, self._weight_decay = self._column("momentum"), self._column("weight_decay")

    def step(self, weights: Tensor, gradient: Tensor, rates: Tensor) -> None:
        velocity = self._state["momentum_buffer"]
        gradient.addcmul_(weights, self._weight_decay)
        velocity.mul_(self._momentum).add_(gradient)
        weights.sub_(gradient.addcmul_(velocity, self._momentum).mul_(rates))


class StackedAdamW(StackedOptimizer):
    """`optimizers.adamw` (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2)."""

    names = ("exp_avg", "exp_avg_sq")

    def __init__(self, optimizers: Sequence[Optimizer], rows: Rows) -> None:
        super().__init__(optimizers, rows)
        self._first, self._second = self._column("betas", 0), self._column("betas", 1)
        self._weight_decay, self._epsilon = self._column("weight_decay"), self._column("eps")
        self._steps = torch.tensor([_steps(one) for one in optimizers], device=self._first.device).unsqueeze(1)

    def step(self, weights: Tensor, gradient: Tensor, rates: Tensor) -> None:
        mean, square = self._state["exp_avg"], self._state["exp_avg_sq"]
        self._steps += 1
        weights.mul_(1 - rates * self._weight_decay)
        mean.lerp_(gradient, 1 - self._first)
        square.mul_(self._second).addcmul_(gradient, gradient * (1 - self._second))
        root = square.sqrt().div_((1 - self._second**self._steps).sqrt()).add_(self._epsilon)
        weights.sub_(mean.div(root).mul_(rates / (1 - self._first**self._steps)))

    def hand_back(self) -> None:
        super().hand_back()
        for steps, optimizer in zip(self._steps.flatten().tolist(), self._optimizers, strict=True):
            for parameter in parameters_of(optimizer):
                optimizer.state[parameter]["step"] = torch.tensor(steps, device=parameter.device)


def _steps(optimizer: Optimizer) -> float:
    """Steps that an AdamW has done."""
    return float(optimizer.state[parameters_of(optimizer)[0]].get("step", 0.0))


STACKED_OPTIMIZERS: dict[type[Optimizer], type[StackedOptimizer]] = {SGD: StackedSGD, AdamW: StackedAdamW}
