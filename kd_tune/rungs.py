"""Asynchronous successive halving: which trials of those compared at a rung go on."""

from __future__ import annotations


def rung_epochs(grace_period: int, reduction_factor: int, num_epochs: int) -> tuple[int, ...]:
    """The epochs at which trials are compared: grace_period times powers of reduction_factor, below num_epochs.

    Whole numbers throughout: log(243) / log(3) is 4.999... in floating point.
    """
    rungs = []
    epoch = grace_period
    while epoch < num_epochs:
        rungs.append(epoch)
        epoch *= reduction_factor
    return tuple(rungs)


class Rungs:
    """Asynchronous successive halving, the stopping form (Li et al. 2020, arXiv:1810.05934).

    Of the n values seen at a rung so far, a trial's own among them, b are better than its own. It goes on if
    b < n / reduction_factor; so always if nothing is better.

    A verdict is asked for when a value comes, so it does depend on what came before. It depends on nothing else: not on
    the order in which the earlier values came, nor on which trials they belong to; equal values count as no better, and
    of two in a row the second goes on if the first did.

    Args:
        epochs: of the rungs.
        reduction_factor: a rung keeps the best 1 / reduction_factor.
    """

    def __init__(self, epochs: tuple[int, ...], reduction_factor: int) -> None:
        self.epochs = epochs
        self._factor = reduction_factor
        self._values: dict[int, dict[int, float]] = {epoch: {} for epoch in epochs}

    @property
    def rule(self) -> str:
        """What is done to trials, in a few words."""
        if not self.epochs:
            return "no rung below the last epoch: every trial is trained to the end"
        if len(self.epochs) == 1:
            return f"a rung at epoch {self.epochs[0]} keeps the best 1/{self._factor}"
        return f"rungs at epochs {', '.join(map(str, self.epochs))} keep the best 1/{self._factor}"

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Takes a trial's value (a number; larger is better), once a rung; returns whether the trial goes on."""
        rung = self._values.get(epoch)
        if rung is None or trial in rung:
            return True
        rung[trial] = value
        num_better = sum(other > value for other in rung.values())
        return num_better * self._factor < len(rung)
