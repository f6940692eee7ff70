"""What to try next: Optuna's samplers behind Ray's Searcher interface.

A proposal is a pure function of the search's seed, its number and the finished trials before it. No sampler lives
from one proposal to the next, so a search that was resumed proposes what it would have proposed undisturbed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from kd_tune import records
from kd_tune.config import SamplerConfig, SearchConfig
from kd_tune.ledger import Run, RunState, TrialState
from kd_tune.records import METRIC, derive_seed
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


def next_arm(state: RunState) -> str | None:
    """The arm that is furthest behind its share, the first of equals; None when every arm has all its trials."""
    proposed = dict.fromkeys(state.quota, 0)
    for trial in state.trials.values():
        proposed[trial.arm] += 1
    behind = [arm for arm, quota in state.quota.items() if proposed[arm] < quota]
    return min(behind, key=lambda arm: proposed[arm] / state.quota[arm], default=None)


def points_of_arm(points: Sequence[Draw], space: Space) -> list[Draw]:
    """The search's points to start from, cut to the parameters that an arm has."""
    known = space.parameters()
    return [{name: value for name, value in point.items() if name in known} for point in points]


class RunSearcher(Searcher):
    """Proposes a run's trials to Ray: first those that can go on, then new ones, by arm.

    Args:
        run: records every proposal.
        spaces: by arm.
        config: the `search` section.
    """

    def __init__(self, run: Run, spaces: Mapping[str, Space], config: SearchConfig) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._run = run
        self._spaces = spaces
        self._config = config
        self._to_continue = run.state.unfinished()

    def suggest(self, trial_id: str) -> Any:
        trial = self._to_continue.pop(0) if self._to_continue else self._new_trial()
        if trial is None:
            return Searcher.FINISHED
        return {"number": trial.number, "arm": trial.arm, **trial.draw}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the scheduler records why a trial ended, and a callback what broke it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what a search needs in order to go on is in its ledger."""

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("kd_tune goes on from its ledger, not from Ray's snapshots")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles searchers into its snapshots, which kd_tune never reads

    def _new_trial(self) -> TrialState | None:
        state = self._run.state
        arm = next_arm(state)
        if arm is None:
            return None
        number = len(state.trials)
        trials = state.of_arm(arm)
        draw = propose(
            self._spaces[arm],
            [trial for trial in trials if trial.end is not None],
            len(trials),
            self._config.sampler,
            derive_seed(self._config.seed, "proposal", number),
            points_of_arm(self._config.points, self._spaces[arm]),
        )
        self._run.record(records.PROPOSED, trial=number, arm=arm, draw=draw, config=self._spaces[arm].fill(draw))
        return state.trials[number]


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
