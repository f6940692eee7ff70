"""Draws that stand for the same trial have one form: what is inert takes the first value of its range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_tune.catalog import canonical_draw
from kd_tune.search_checks import check
from kd_tune.search_file import Source, load_search_file, parse_search_file
from kd_tune.space import Space

SEARCH_SPACES = sorted((Path(__file__).resolve().parents[1] / "search_spaces").glob("*.yaml"))

# Every way for a parameter to be inert: by alpha, by temperature, by an objective without a teacher; in branches.
TRIAL: dict[str, Any] = {
    "dataset": {"name": "mnist5k"},
    "teacher": {"choice": [{"name": "digits"}, {"name": "compact"}]},
    "student": {"name": "studentnet", "width": 1.0},
    "objective": {
        "choice": [
            {"name": "hinton", "alpha": {"choice": [0.0, 0.5]}, "temperature": {"float": [2, 8], "log": True}},
            {
                "name": "mixed_target",
                "alpha": {"float": [0, 1], "step": 0.5},
                "temperature": {"int": [1, 2]},
                "scale": {"choice": ["T", "none"]},
            },
            {"name": "label_smoothing", "smoothing": {"float": [0, 1]}},
            {"name": "acme.losses:Mine", "alpha": {"choice": [0.0, 0.5]}},
        ]
    },
    "optimizer": {"name": "sgd", "lr": 0.1},
    "training": {"num_epochs": 3},
}
CANONICAL = Space(parse_search_file({"trial": TRIAL}, Source("x.yaml", {})).trial)


@pytest.mark.parametrize(
    ("draw", "changes"),
    [
        ({"objective": "hinton", "alpha": 0.0, "temperature": 5.0}, {"teacher": "digits", "temperature": 2.0}),
        ({"objective": "hinton", "alpha": 0.5, "temperature": 5.0}, {}),
        # Only rescaled by its temperature: under SGD with a given rate that is another trial.
        ({"objective": "mixed_target", "alpha": 0.0, "temperature": 2, "scale": "none"}, {"teacher": "digits"}),
        ({"objective": "mixed_target", "alpha": 0.5, "temperature": 1, "scale": "none"}, {"scale": "T"}),
        ({"objective": "label_smoothing", "smoothing": 0.0}, {"teacher": "digits"}),
        ({"objective": "acme.losses:Mine", "alpha": 0.0}, {}),
    ],
)
def test_inert_parameters_take_the_first_value_of_their_range(draw: dict[str, Any], changes: dict[str, Any]) -> None:
    def named(short: dict[str, Any]) -> dict[str, Any]:
        outer = ("objective", "teacher")
        return {key if key in outer else f"objective[{draw['objective']}].{key}": value for key, value in short.items()}

    whole = {"teacher": "compact"} | named(draw)
    assert canonical_draw(CANONICAL, whole) == whole | named(changes)
    assert list(canonical_draw(CANONICAL, whole)) == list(whole)


@given(st.integers(0, 2**31))
def test_a_canonical_draw_is_its_own_canonical_form_and_lies_in_the_space(seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    draw = canonical_draw(CANONICAL, CANONICAL.suggest(study.ask()))
    assert canonical_draw(CANONICAL, draw) == draw
    assert CANONICAL.problems_of(draw) == []


@pytest.mark.parametrize("path", SEARCH_SPACES, ids=lambda path: path.stem)
def test_a_shipped_space_has_canonical_draws(path: Path) -> None:
    for space in check(load_search_file(path)).values():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        draw = space.suggest(study.ask())
        assert space.active(canonical_draw(space, draw)) == space.active(draw)
