"""What to try next: a draw from a space, by one of SAMPLERS, from an arm's trials so far.

A proposal is a pure function of a seed, the space and the trials before it. No sampler lives from one proposal to the
next, so a search that was resumed proposes what it would have proposed undisturbed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import optuna

from kd_tune.config import SamplerConfig
from kd_tune.records import derive_seed
from kd_tune.run_state import TrialState
from kd_tune.space import Draw, Space
from kd_tune.studies import Told, highest_rung, most_telling, study_of, told_as_they_ended, told_at

# How often a sampler is asked for a draw that is new and accepted, before draws are made at random. TPE gives nearly
# the same answer each time: it takes the best of 24 candidates, so an option that did badly may never come.
MAX_ASKS = 16
MAX_RANDOM_ASKS = 256
MOST_TOLD = 1000  # trials that TPE is told of: asking it takes 11 ms at 333 and 21 ms at 667, ever in proportion


def propose(
    space: Space,
    trials: Sequence[TrialState],
    config: SamplerConfig,
    seed: int,
    *,
    start: Draw | None = None,
    accept: Callable[[Draw], bool] | None = None,
    given: Draw | None = None,
    canonical: Callable[[Draw], Draw] | None = None,
    known: Sequence[TrialState] = (),
) -> Draw | None:
    """The next draw of an arm: one that none of its trials has, except those that failed.

    Args:
        space: what to draw from.
        trials: all of the arm's trials so far, running ones too, in the order of proposals.
        config: which sampler, and its settings.
        seed: of this one proposal.
        start: a wish: a draw to start from, of which the sampler draws what is left out. Passed over where nothing new
            and accepted comes of it.
        accept: a condition on the draw.
        given: parameters with which the condition is met: the sampler is asked for the rest. Where nothing new comes of
            it, any accepted draw will do.
        canonical: gives every draw that stands for the same trial the same form.
        known: trials of earlier runs that the sampler is shown first. Their draws may be proposed again: this run
            wants its own students, checkpoints and figures of the best of them.

    Returns:
        The draw, in canonical form. None if there is none: for certain in a finite space, and as far as MAX_RANDOM_ASKS
        random draws can tell in an endless one.
    """
    taken = {_key(trial.draw) for trial in trials if trial.end != "failed"}
    ask = SAMPLERS[config.name]
    history = [*known, *trials]
    candidates = itertools.chain(
        ask(space, history, config, derive_seed(seed, "start"), start) if start else (),
        ask(space, history, config, seed, given or {}),
        _anywhere(space, derive_seed(seed, "anywhere")),
    )
    for candidate in candidates:
        draw = candidate if canonical is None else canonical(candidate)
        if _key(draw) not in taken and (accept is None or accept(draw)):
            return draw
    return None


def _random(
    space: Space, history: Sequence[TrialState], config: SamplerConfig, seed: int, given: Draw
) -> Iterator[Draw]:
    return _asked(space, (), _random_sampler, seed, given)


def _tpe(space: Space, history: Sequence[TrialState], config: SamplerConfig, seed: int, given: Draw) -> Iterator[Draw]:
    """TPE over trials as they ended (Bergstra et al. 2011); random for the first `num_startup_trials`."""
    told = told_as_they_ended(history, config.constant_liar)
    return _asked(space, told, _tpe_sampler(config, config.num_startup_trials), seed, given)


def _rung_tpe(
    space: Space, history: Sequence[TrialState], config: SamplerConfig, seed: int, given: Draw
) -> Iterator[Draw]:
    """TPE over the highest epoch with enough results, as BOHB models rungs; random before there is one.

    Falkner et al. 2018 (arXiv:1807.01774), without their random third: pruned trials already hold many random draws.
    """
    epoch = highest_rung(history, config.num_results)
    if epoch is None:
        return _random(space, history, config, seed, given)
    told = told_at(epoch, history, config.constant_liar)
    return _asked(space, told, _tpe_sampler(config, config.num_results), seed, given)


def _grid(space: Space, history: Sequence[TrialState], config: SamplerConfig, seed: int, given: Draw) -> Iterator[Draw]:
    """Every cell, in the order of the file."""
    return iter(space.grid())


Candidates = Callable[[Space, Sequence[TrialState], SamplerConfig, int, Draw], Iterator[Draw]]

# Each gives draws to take the first good one from: (space, history, config, seed, given parameters) -> draws.
SAMPLERS: Mapping[str, Candidates] = {"tpe": _tpe, "rung_tpe": _rung_tpe, "random": _random, "grid": _grid}


def _asked(
    space: Space,
    told: Sequence[Told],
    sampler: Callable[[int], optuna.samplers.BaseSampler],
    seed: int,
    given: Draw,
    times: int = MAX_ASKS,
) -> Iterator[Draw]:
    """What Optuna answers, with a fresh seed each time that it is asked."""
    study = study_of(space, most_telling(told, MOST_TOLD), sampler(seed % 2**32))
    for attempt in range(times):
        if attempt:
            study.sampler = sampler(derive_seed(seed, attempt) % 2**32)
        if given:
            study.enqueue_trial(given)
        yield space.suggest(study.ask())


def _tpe_sampler(config: SamplerConfig, num_startup_trials: int) -> Callable[[int], optuna.samplers.BaseSampler]:
    # Every flag is set: Optuna 5's defaults (multivariate, constant liar) search worse than random under pruning.
    # Of those not set here, giving a value at all is deprecated.
    return lambda seed: optuna.samplers.TPESampler(
        n_startup_trials=num_startup_trials,
        n_ei_candidates=24,
        multivariate=config.multivariate,
        group=False,
        constant_liar=config.constant_liar,
        constraints_func=None,
        seed=seed,
    )


def _random_sampler(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _anywhere(space: Space, seed: int) -> Iterator[Draw]:
    """Every cell of a finite space in random order, or many random draws: what a sampler would not come to."""
    try:
        cells = list(space.grid())
    except ValueError:  # endless, or too large to walk through
        yield from _asked(space, (), _random_sampler, seed, {}, MAX_RANDOM_ASKS)
        return
    random.Random(seed).shuffle(cells)
    yield from cells


def _key(draw: Draw) -> tuple[tuple[str, Any], ...]:
    """Equal for equal draws alone: 1, 1.0 and True are different options of a choice."""
    return tuple(sorted((name, repr(value)) for name, value in draw.items()))
