"""What to try next: a draw from a space, by one of Optuna's samplers, from an arm's trials so far.

A proposal is a pure function of a seed, the space and the trials before it. No sampler lives from one proposal to the
next, so a search that was resumed proposes what it would have proposed undisturbed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from kd_tune.config import SamplerConfig
from kd_tune.ledger import TrialState
from kd_tune.records import METRIC
from kd_tune.space import Draw, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(
    space: Space,
    finished: Sequence[TrialState],
    index: int,
    config: SamplerConfig,
    seed: int,
    points: Sequence[Draw] = (),
) -> Draw:
    """The next draw of an arm.

    Args:
        space: what to draw from.
        finished: the arm's trials that have ended, in the order of proposals; those that failed are passed over.
        index: proposals of this arm so far.
        config: which sampler, and its settings.
        seed: of this one proposal.
        points: draws to start from; what one leaves out is drawn.
    """
    if config.name == "grid":
        cells = space.grid()
        return cells[index % len(cells)]
    study = optuna.create_study(direction="maximize", sampler=_sampler(config, seed))
    study.add_trials([_to_optuna(space, trial) for trial in finished if trial.end != "failed"])
    if index < len(points):
        study.enqueue_trial(points[index])
    return space.suggest(study.ask())


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
