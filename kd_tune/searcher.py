"""Proposes trials to Ray: which arm is next, which size of student, and a draw for it from `proposals`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from ray.tune.search import Searcher

from kd_tune import records
from kd_tune.catalog import canonical_draw
from kd_tune.config import SearchConfig
from kd_tune.ledger import Recorder
from kd_tune.proposals import propose
from kd_tune.records import METRIC, derive_seed
from kd_tune.run_state import RunState, TrialState
from kd_tune.space import Draw, Space
from kd_tune.strata import Students, stratum_of


def next_arm(state: RunState) -> str | None:
    """The arm that is furthest behind its share, the first of equals; None when every arm has all its trials."""
    proposed = dict.fromkeys(state.quota, 0)
    for trial in state.trials.values():
        proposed[trial.arm] += 1
    behind = [arm for arm, quota in state.quota.items() if proposed[arm] < quota]
    return min(behind, key=lambda arm: proposed[arm] / state.quota[arm], default=None)


def strata_in_turn(trials: Sequence[TrialState], num_strata: int) -> list[int]:
    """An arm's strata, the one with the fewest proposals first, the first of equals."""
    proposed = Counter(trial.stratum for trial in trials)
    return sorted(range(num_strata), key=lambda stratum: proposed[stratum])


def is_never_pruned(index: int, share: float, offset: float) -> bool:
    """Whether trial `index` of a group is one of those that are never pruned: a share of them, evenly spread.

    Args:
        index: in the order of proposals, from 0; of the first n trials, n * share are, rounded up or down.
        share: 0 to 1.
        offset: 0 to 1; where the spread begins.
    """
    return math.floor((index + 1) * share + offset) > math.floor(index * share + offset)


def is_spared(config: SearchConfig, arm: str, stratum: int, index: int) -> bool:
    """Whether a search never prunes trial `index`, from 0, of an arm's stratum."""
    share = 0.0 if config.scheduler.name == "none" else config.scheduler.never_pruned
    return is_never_pruned(index, share, derive_seed(config.seed, "never_pruned", arm, stratum) / 2**63)


def points_of_arm(points: Sequence[Draw], space: Space) -> list[Draw]:
    """The search's points to start from, cut to the parameters that an arm has."""
    known = space.parameters()
    return [{name: value for name, value in point.items() if name in known} for point in points]


class Proposer(Protocol):
    """Where a run's new trials come from."""

    def propose(self) -> TrialState | None:
        """Records a new trial; None if there is none, or none before one that runs has ended.

        Who has no more to propose leaves none missing in the run's state.
        """


class RunSearcher(Searcher):
    """Gives Ray a run's trials: first those that can go on, those that broke in this launch among them, then new ones.

    Args:
        run: what is trained.
        proposer: of its new trials.
        room: how many trials there is room for now; None: as many as Ray asks for.
    """

    def __init__(self, run: Recorder, proposer: Proposer, room: Callable[[], int] | None = None) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._run = run
        self._proposer = proposer
        self._room = room
        self._to_continue = run.state.unfinished()
        self._given: dict[str, TrialState] = {}
        self._retries: Counter[int] = Counter()

    def suggest(self, trial_id: str) -> Any:
        if self._room is not None and len(self._given) >= self._room():
            return None
        while self._to_continue and self._to_continue[0].end is not None:
            self._to_continue.pop(0)  # it broke once too often
        trial = self._to_continue.pop(0) if self._to_continue else self._proposer.propose()
        if trial is None:
            may_come = self._run.state.num_missing() or any(one.end is None for one in self._given.values())
            return None if may_come else Searcher.FINISHED  # None: Ray asks again
        self._given[trial_id] = trial
        # What TensorBoard shows of a search's own is short.
        marks = {"repeat": trial.repeat, "retry": self._retries[trial.number]}
        marks = {name: count for name, count in marks.items() if count}
        return {"number": trial.number, "arm": trial.arm, **marks, **trial.draw}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Makes room; takes a trial that broke back, to give it once more unless its end is recorded by then."""
        trial = self._given.pop(trial_id, None)
        if trial is not None and error:
            self._retries[trial.number] += 1
            self._to_continue.append(trial)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what a search needs in order to go on is in its ledger."""

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("kd_tune goes on from its ledger, not from Ray's snapshots")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles searchers into its snapshots, which kd_tune never reads


class SearchProposer:
    """Proposes a search's trials, arm by arm (`Proposer`).

    An arm's proposals follow from the seed, its own trials so far and their order; other arms are nothing to it.

    Args:
        run: records every proposal; its state says the arms' numbers of trials, and the strata.
        spaces: by arm.
        config: the `search` section.
        students: by their size; needed where the run has strata.
    """

    def __init__(
        self, run: Recorder, spaces: Mapping[str, Space], config: SearchConfig, students: Students | None = None
    ) -> None:
        self._run = run
        self._spaces = spaces
        self._config = config
        self._students = students

    def propose(self) -> TrialState | None:
        """A new trial of the arm whose turn it is; None when every arm has all its trials."""
        state = self._run.state
        while (arm := next_arm(state)) is not None:
            draw = self._draw(arm)
            if draw is not None:
                return self._record(arm, draw)
            why = "its space holds no draw that was not tried"
            self._run.record(records.EXHAUSTED, arm=arm, trials=len(state.of_arm(arm)), why=why)
        return None

    def _record(self, arm: str, draw: Draw) -> TrialState:
        state, number = self._run.state, len(self._run.state.trials)
        stratum = self._stratum_of(draw)
        index = sum(trial.stratum == stratum for trial in state.of_arm(arm))
        self._run.record(
            records.PROPOSED,
            trial=number,
            arm=arm,
            stratum=stratum,
            never_pruned=is_spared(self._config, arm, stratum, index),
            draw=draw,
            config=self._spaces[arm].fill(draw),
        )
        return state.trials[number]

    def _draw(self, arm: str) -> Draw | None:
        """The arm's next draw: a point to start from while there are some, else of the size whose turn it is."""
        state = self._run.state
        trials, points = state.of_arm(arm), points_of_arm(self._config.points, self._spaces[arm])
        if len(trials) < len(points):
            return self._propose(arm, start=points[len(trials)])
        if not state.strata:
            return self._propose(arm)
        draws = (self._draw_in(stratum, arm) for stratum in strata_in_turn(trials, len(state.strata)))
        return next((draw for draw in draws if draw is not None), None)

    def _draw_in(self, stratum: int, arm: str) -> Draw | None:
        """A draw whose student lies in a stratum: one of those known, to which the sampler says the rest.

        Left to itself the sampler would come to the sizes that it has learnt are better, and had to be asked ten times
        for another; small strata it might never meet.
        """
        known = self._known_students().of_stratum(stratum, self._run.state.strata)
        given = known[self._seed_of_next(arm) % len(known)] if known else None
        return self._propose(arm, accept=lambda draw: self._stratum_of(draw) == stratum, given=given)

    def _propose(
        self,
        arm: str,
        *,
        start: Draw | None = None,
        accept: Callable[[Draw], bool] | None = None,
        given: Draw | None = None,
    ) -> Draw | None:
        space, state = self._spaces[arm], self._run.state
        return propose(
            space,
            state.of_arm(arm),
            self._config.sampler,
            self._seed_of_next(arm),
            start=start,
            accept=accept,
            given=given,
            canonical=partial(canonical_draw, space),
            known=state.known.get(arm, ()),
        )

    def _seed_of_next(self, arm: str) -> int:
        state = self._run.state
        # Or the first draws, which are random, would be those of an earlier run of the same seed.
        earlier = [f"after {len(state.known[arm])}"] if state.known.get(arm) else []
        return derive_seed(self._config.seed, "proposal", arm, len(state.of_arm(arm)), *earlier)

    def _stratum_of(self, draw: Draw) -> int:
        edges = self._run.state.strata
        return stratum_of(self._known_students().count(draw), edges) if edges else 0

    def _known_students(self) -> Students:
        assert self._students is not None, "a run with strata needs to know its students"
        return self._students
