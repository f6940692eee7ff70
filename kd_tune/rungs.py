"""The epochs at which trials are compared. Apart from `scheduler`, so that reading a run loads no Ray."""

from __future__ import annotations


def rung_epochs(grace_period: int, reduction_factor: int, num_epochs: int) -> tuple[int, ...]:
    """The epochs at which trials are compared: grace_period times powers of reduction_factor, below num_epochs.

    Whole numbers throughout; computed with logarithms, the last rung of (1, 3, 243) would be lost.
    """
    rungs = []
    epoch = grace_period
    while epoch < num_epochs:
        rungs.append(epoch)
        epoch *= reduction_factor
    return tuple(rungs)
