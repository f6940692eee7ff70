"""What to try next: a draw from a space, by one of Optuna's samplers, from an arm's trials so far.

A proposal is a pure function of a seed, the space and the trials before it. No sampler lives from one proposal to the
next, so a search that was resumed proposes what it would have proposed undisturbed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from kd_tune.config import SamplerConfig
from kd_tune.ledger import TrialState
from kd_tune.records import METRIC, derive_seed
from kd_tune.space import Draw, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

ATTEMPTS = 64


def propose(
    space: Space,
    trials: Sequence[TrialState],
    config: SamplerConfig,
    seed: int,
    *,
    start: Draw | None = None,
    fixed: Draw | None = None,
    accept: Callable[[Draw], bool] | None = None,
) -> Draw | None:
    """The next draw of an arm.

    Args:
        space: what to draw from.
        trials: the arm's so far, in the order of proposals; the sampler learns from those that ended and did not fail.
        config: which sampler, and its settings.
        seed: of this one proposal.
        start: a wish: a point to start from, of which the sampler draws what is left out.
        fixed: a condition: parameters that are given; the sampler draws the rest.
        accept: whether a draw will do; any will, if it is left out.

    Returns:
        A draw that no trial had yet and that will do; None if neither the sampler nor chance found one in ATTEMPTS
        tries each.
    """
    if config.name == "grid":
        cells = space.grid()
        return cells[len(trials) % len(cells)]
    ended = [_to_optuna(space, trial) for trial in trials if trial.end not in (None, "failed")]
    at_random = SamplerConfig(name="random")
    for attempt in range(-1 if start else 0, 2 * ATTEMPTS):
        study = optuna.create_study(
            direction="maximize",
            sampler=_sampler(config if attempt < ATTEMPTS else at_random, derive_seed(seed, attempt)),
        )
        study.add_trials(ended)
        if given := {**(start or {} if attempt < 0 else {}), **(fixed or {})}:
            study.enqueue_trial(given)
        draw = space.suggest(study.ask())
        if all(draw != trial.draw for trial in trials) and (accept is None or accept(draw)):
            return draw
    return None


def _sampler(config: SamplerConfig, seed: int) -> optuna.samplers.BaseSampler:
    seed %= 2**32
    if config.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # Every flag is set: Optuna 5's defaults (multivariate, constant liar) search worse than random under pruning.
    return optuna.samplers.TPESampler(
        n_startup_trials=config.num_startup_trials,
        n_ei_candidates=24,
        multivariate=False,
        group=False,
        constant_liar=False,
        seed=seed,
    )


def _to_optuna(space: Space, trial: TrialState) -> FrozenTrial:
    """A finished trial as Optuna knows it: pruned where it was pruned.

    A diverged trial is told as pruned with a NaN: TPE passes over failures, but must learn to keep away.
    """
    values = {epoch: math.nan if row[METRIC] is None else row[METRIC] for epoch, row in trial.rows.items()}
    if trial.end == "diverged":
        values[trial.epoch] = math.nan
    completed = trial.end == "completed"
    return create_trial(
        state=OptunaState.COMPLETE if completed else OptunaState.PRUNED,
        value=trial.value if completed else None,
        params=trial.draw,
        distributions=space.distributions(trial.draw),
        intermediate_values=values,
    )
