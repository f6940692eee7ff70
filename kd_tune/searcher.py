"""Proposes trials to Ray: which arm is next, and a draw for it from `proposals`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ray.tune.search import Searcher

from kd_tune import records
from kd_tune.catalog import canonical_draw
from kd_tune.config import SearchConfig
from kd_tune.ledger import Recorder, RunState, TrialState
from kd_tune.proposals import propose
from kd_tune.records import METRIC, derive_seed
from kd_tune.space import Draw, Space


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

    def __init__(self, run: Recorder, spaces: Mapping[str, Space], config: SearchConfig) -> None:
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
        number = len(state.trials)
        while (arm := next_arm(state)) is not None:
            draw = self._propose(arm, derive_seed(self._config.seed, "proposal", number))
            if draw is not None:
                config = self._spaces[arm].fill(draw)
                self._run.record(records.PROPOSED, trial=number, arm=arm, draw=draw, config=config)
                return state.trials[number]
            self._run.record(records.EXHAUSTED, arm=arm, trials=len(state.of_arm(arm)))
        return None

    def _propose(self, arm: str, seed: int) -> Draw | None:
        space, trials = self._spaces[arm], self._run.state.of_arm(arm)
        points = points_of_arm(self._config.points, space)
        return propose(
            space,
            trials,
            self._config.sampler,
            seed,
            start=points[len(trials)] if len(trials) < len(points) else None,
            canonical=partial(canonical_draw, space),
            known=self._run.state.known.get(arm, ()),
        )
