"""A trial with ranges as a search space: names, draws, grids, and the way to a file and back.

Random spaces come as the raw trees that a search file would hold; only their shape matters here, not what they name.
"""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kd_tune.ranges import Choice, FloatRange, IntRange
from kd_tune.search_file import TRIAL_SECTIONS, Source, parse_search_file
from kd_tune.space import Space, contains, describe, to_raw
from kd_tune.strict_yaml import dump_yaml, parse_yaml

optuna.logging.set_verbosity(optuna.logging.WARNING)

NAMES = st.sampled_from(["alpha", "lr", "width", "depth", "mode", "rate"])
# Letters and punctuation, `no` and `true` among them; strings that look like numbers have a test of their own.
TEXT = st.one_of(
    st.text(alphabet="abz -_/.:#'\"\\é\n", max_size=12), st.sampled_from(["no", "on", "true", "null", "~"])
)
NUMBERS = st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT)


@st.composite
def float_ranges(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["plain", "log", "step"]))
    if kind == "step":  # in decimals, so that the step divides the range as it is written
        step, start = (Decimal(draw(st.integers(*ends))) / 10 for ends in ((1, 30), (-20, 20)))
        return {"float": [float(start), float(start + draw(st.integers(1, 6)) * step)], "step": float(step)}
    low = draw(st.floats(1e-6, 1e3) if kind == "log" else st.floats(-1e3, 1e3))
    high = low + draw(st.floats(1e-2, 1e3))
    return {"float": [low, high]} | ({"log": True} if kind == "log" else {})


@st.composite
def int_ranges(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["plain", "log", "step"]))
    low = draw(st.integers(1, 50) if kind == "log" else st.integers(-50, 50))
    step = draw(st.integers(1, 7)) if kind == "step" else 1
    extras: dict[str, dict[str, Any]] = {"plain": {}, "log": {"log": True}, "step": {"step": step}}
    return {"int": [low, low + step * draw(st.integers(1, 6))]} | extras[kind]


PLAIN_CHOICES = st.lists(SCALARS, min_size=1, max_size=4, unique_by=lambda v: (type(v), v)).map(lambda v: {"choice": v})
FINITE_CHOICES = st.lists(st.integers(0, 9), min_size=1, max_size=2, unique=True).map(lambda v: {"choice": v})


def sections(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(NAMES, leaves, max_size=3)


def choices_of_sections(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    named = st.tuples(st.sampled_from(["a", "b", "hinton"]), sections(leaves)).map(
        lambda pair: {"name": pair[0], **pair[1]}
    )
    options = st.lists(named, min_size=1, max_size=3, unique_by=lambda option: option["name"])
    return options.map(lambda value: {"choice": value})


def trials(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Raw `trial` sections, with choices of sections down to two levels."""
    nested = st.one_of(leaves, choices_of_sections(leaves))
    section = st.one_of(sections(nested), choices_of_sections(nested))
    return st.fixed_dictionaries(dict.fromkeys(TRIAL_SECTIONS, section))


TRIALS = trials(st.one_of(SCALARS, float_ranges(), int_ranges(), PLAIN_CHOICES))
# Grids are products: two free sections keep them small enough to walk through.
FINITE_TRIALS = trials(st.one_of(st.integers(0, 9), FINITE_CHOICES)).map(
    lambda trial: {key: {} for key in TRIAL_SECTIONS} | {key: trial[key] for key in ("student", "objective")}
)


def space_of(raw_trial: dict[str, Any]) -> Space:
    return Space(parse_search_file({"trial": raw_trial}, Source("x.yaml", {})).trial)


def draw_from(space: Space, seed: int) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return space.suggest(study.ask())


def has_range(node: Any) -> bool:
    if isinstance(node, dict):
        return any(has_range(value) for value in node.values())
    return isinstance(node, FloatRange | IntRange | Choice)


BRANCHES = space_of(
    {
        "dataset": {"name": "mnist5k"},
        "student": {"name": "studentnet", "width": {"choice": [0.5, 1.0]}},
        "objective": {
            "choice": [
                {"name": "hinton", "alpha": {"float": [0, 1]}, "temperature": {"float": [1, 20], "log": True}},
                {"name": "mixed_target", "alpha": {"float": [0, 1]}, "scale": "T2"},
            ]
        },
        "optimizer": {"name": "sgd", "lr": {"float": [0.1, 0.3], "step": 0.1}},
        "training": {"num_epochs": 3, "batch_size": {"int": [32, 128], "log": True}},
    }
)


def test_a_parameter_is_named_by_its_path_and_its_branch() -> None:
    assert list(BRANCHES.parameters()) == [
        "student.width",
        "objective",
        "objective[hinton].alpha",
        "objective[hinton].temperature",
        "objective[mixed_target].alpha",
        "optimizer.lr",
        "training.batch_size",
    ]


def test_a_draw_fills_the_branch_that_it_chose() -> None:
    draw = {
        "student.width": 0.5,
        "objective": "mixed_target",
        "objective[mixed_target].alpha": 0.25,
        "optimizer.lr": 0.2,
        "training.batch_size": 64,
    }
    assert BRANCHES.fill(draw) == {
        "dataset": {"name": "mnist5k"},
        "student": {"name": "studentnet", "width": 0.5},
        "objective": {"name": "mixed_target", "alpha": 0.25, "scale": "T2"},
        "optimizer": {"name": "sgd", "lr": 0.2},
        "training": {"num_epochs": 3, "batch_size": 64},
    }
    assert list(BRANCHES.active(draw)) == list(draw)


def test_a_draw_that_lacks_a_parameter_is_refused_by_its_name() -> None:
    with pytest.raises(KeyError, match=r"objective\[hinton\].alpha"):
        BRANCHES.fill({"student.width": 0.5, "objective": "hinton"})


def test_filling_leaves_the_template_as_it_was() -> None:
    before = pickle.dumps(BRANCHES)
    filled = BRANCHES.fill(draw_from(BRANCHES, 0))
    filled["objective"]["alpha"] = 7
    filled["dataset"]["name"] = "other"
    assert pickle.dumps(BRANCHES) == before


@given(trial=TRIALS, seed=st.integers(0, 2**31))
def test_a_draw_lies_in_its_space_and_fills_every_range(trial: dict[str, Any], seed: int) -> None:
    space = space_of(trial)
    draw = draw_from(space, seed)
    parameters = space.parameters()
    assert draw.keys() <= parameters.keys()
    for name, value in draw.items():
        assert contains(parameters[name], value), (name, value, parameters[name])
    assert space.problems_of(draw) == []
    assert list(space.active(draw)) == list(draw)
    assert not has_range(space.fill(draw))


@given(trial=TRIALS, seed=st.integers(0, 2**31))
def test_equal_seeds_draw_equally(trial: dict[str, Any], seed: int) -> None:
    assert draw_from(space_of(trial), seed) == draw_from(space_of(trial), seed)


@given(trial=TRIALS, seed=st.integers(0, 2**31))
def test_optunas_distributions_accept_the_draw_that_they_belong_to(trial: dict[str, Any], seed: int) -> None:
    """This is how a finished trial is told to a fresh study."""
    space = space_of(trial)
    draw = draw_from(space, seed)
    told = optuna.trial.create_trial(params=draw, distributions=space.distributions(draw), value=0.5)
    assert told.params == draw


@pytest.mark.parametrize("kind", [FloatRange, IntRange])
def test_a_logarithmic_range_is_drawn_evenly_over_orders_of_magnitude(kind: type[Any]) -> None:
    """Of 1 to 10,000 half lies below 100; on a plain range a hundredth. 200 draws: a half within 0.4 to 0.6."""
    counts = {}
    for log in (True, False):
        space = Space({"lr": kind(bounds=[1, 10_000], log=log)})
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        counts[log] = sum(space.suggest(study.ask())["lr"] < 100 for _ in range(200))
        assert space.distributions({"lr": 1})["lr"].log == log  # type: ignore[attr-defined]
    assert 80 <= counts[True] <= 120
    assert counts[False] < 10


@settings(max_examples=200)
@given(TRIALS)
def test_a_space_survives_being_written_to_a_file_and_read_again(trial: dict[str, Any]) -> None:
    space = space_of(trial)
    written = dump_yaml({"trial": to_raw(space.template)})
    raw, _ = parse_yaml(written)
    assert Space(parse_search_file(raw, Source("x.yaml", {})).trial) == space


@pytest.mark.parametrize(
    "text",
    ["1e-3", "1e5", "08", "2.5e3", "0x1F", "12:30", "2024-01-01", "=", "<<", "null", "~", "", "No", "1" * 40 + "e5"],
)
def test_a_string_that_looks_like_something_else_stays_a_string_in_a_runs_copy_of_the_file(text: str) -> None:
    """PyYAML alone would leave `1e-3` without quotes, and our stricter loader would read a number."""
    assert parse_yaml(dump_yaml({"weights": text}))[0] == {"weights": text}


@given(st.recursive(SCALARS | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=4))
def test_whatever_is_written_as_yaml_is_read_back_equal(value: Any) -> None:
    assert parse_yaml(dump_yaml({"value": value}))[0] == {"value": value}


@given(TRIALS)
def test_a_space_survives_pickling(trial: dict[str, Any]) -> None:
    space = space_of(trial)
    assert pickle.loads(pickle.dumps(space)) == space


@given(FINITE_TRIALS)
def test_a_grid_holds_every_draw_once(trial: dict[str, Any]) -> None:
    space = space_of(trial)
    assume(count_cells(space.template) <= 2_000)
    grid = space.grid()
    assert len({repr(sorted(cell.items())) for cell in grid}) == len(grid) == count_cells(space.template)
    for cell in grid[:50]:
        assert space.problems_of(cell) == []
        assert list(space.active(cell)) == list(cell)
        assert not has_range(space.fill(cell))


def count_cells(node: Any) -> int:
    """Cells of a grid: a product over keys, a sum over branches."""
    if isinstance(node, dict):
        product = 1
        for value in node.values():
            product *= count_cells(value)
        return product
    if isinstance(node, Choice):
        return sum(count_cells(option) for option in node.options) if node.is_sections else len(node.options)
    return 1


def test_a_grid_walks_through_steps_and_whole_numbers() -> None:
    space = Space({"a": FloatRange(bounds=[0.1, 0.3], step=0.1), "b": IntRange(bounds=[2, 6], step=2)})
    cells = [(pytest.approx(a), b) for a in (0.1, 0.2, 0.3) for b in (2, 4, 6)]
    assert [(cell["a"], cell["b"]) for cell in space.grid()] == cells


def test_a_stepped_draw_is_a_cell_of_the_grid_to_the_last_bit_and_never_past_the_end() -> None:
    """0.1 + 2 x 0.1 is 0.30000000000000004, which lies outside of 0.1 to 0.3."""
    space = Space({"a": FloatRange(bounds=[0.1, 0.3], step=0.1), "b": FloatRange(bounds=[0.0, 0.7], step=0.1)})
    cells = space.grid()
    assert all(contains(leaf, cell[name]) for cell in cells for name, leaf in space.parameters().items())
    assert all(draw_from(space, seed) in cells for seed in range(50))
    study = optuna.create_study()
    study.enqueue_trial({"b": 0.3})  # as a person writes it; the grid's is 0.30000000000000004
    assert space.suggest(study.ask()) in cells


def test_a_grid_of_millions_is_refused_with_its_size_before_it_is_made() -> None:
    space = Space({name: IntRange(bounds=[1, 100]) for name in "abcd"} | {"e": Choice(options=["x", "y"])})
    with pytest.raises(ValueError, match="the grid has 200,000,000 cells, but at most"):
        space.grid()


def test_a_grid_over_a_range_without_steps_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"objective\[hinton\].alpha, objective\[hinton\].temperature, .* has neither"):
        BRANCHES.grid()


@pytest.mark.parametrize(
    ("leaf", "inside", "outside"),
    [
        (FloatRange(bounds=[0.0, 1.0]), [0, 0.0, 0.5, 1, 1.0], [-0.1, 1.1, "0.5", None, True, float("nan")]),
        (FloatRange(bounds=[0.0, 1.0], step=0.1), [0.0, 0.1, 0.3, 0.1 + 0.2, 1.0], [0.05, 1.1]),
        (FloatRange(bounds=[-0.3, 0.3], step=0.1), [-0.3, -0.1, 0.0, 0.3], [0.05]),
        (IntRange(bounds=[2, 8], step=3), [2, 5, 8], [3, 11, 2.0, "2", True]),
        (IntRange(bounds=[0, 1]), [0, 1], [True, False, 0.5, 2]),
        (Choice(options=[1, 2.0, "a", None, True]), [1, 2.0, "a", None, True], [1.0, 2, "b", False]),
    ],
)
def test_a_range_contains_its_values_and_no_others(leaf: Any, inside: list[Any], outside: list[Any]) -> None:
    assert [value for value in inside if not contains(leaf, value)] == []
    assert [value for value in outside if contains(leaf, value)] == []


def test_a_point_outside_the_space_is_told_parameter_by_parameter() -> None:
    point = {"student.width": 2.0, "objective[hinton].alpha": 1.5, "objective.alpha": 0.5, "optimizer.lr": 0.2}
    problems = BRANCHES.problems_of(point)
    assert len(problems) == 4
    assert problems[0].startswith("objective.alpha: no such parameter; known: student.width, objective, ")
    assert "student.width: 2.0 is not in {choice: [0.5, 1.0]}" in problems
    assert "objective[hinton].alpha: 1.5 is not in {float: [0.0, 1.0]}" in problems
    assert "objective[hinton].alpha: belongs to a branch; the point must also say objective: hinton" in problems


def test_a_partial_point_is_no_problem() -> None:
    assert BRANCHES.problems_of({"objective": "hinton"}) == []


def test_a_range_is_described_as_it_is_written() -> None:
    leaves = BRANCHES.parameters()
    assert describe(leaves["objective"]) == "{choice: [hinton, mixed_target]}"
    assert describe(leaves["objective[hinton].temperature"]) == "{float: [1.0, 20.0], log: true}"
    assert describe(leaves["optimizer.lr"]) == "{float: [0.1, 0.3], step: 0.1}"


def test_a_step_that_does_not_divide_its_range_is_refused() -> None:
    """Optuna would cut the range, with a warning at every draw."""
    with pytest.raises(ValueError, match=r"the step 0\.3 does not divide the range from 0\.0 to 1\.0"):
        FloatRange(bounds=[0.0, 1.0], step=0.3)


def test_two_sections_of_one_name_are_told_apart_by_their_label() -> None:
    options = [{"name": "digits"}, {"name": "digits", "label": "wide", "width": 2.0}]
    space = Space({"teacher": Choice.model_validate({"choice": options})})
    assert space.fill({"teacher": "wide"}) == {"teacher": options[1]}
    assert space.fill({"teacher": "digits"}) == {"teacher": options[0]}
    assert space.grid() == [{"teacher": "digits"}, {"teacher": "wide"}]
    assert space.problems_of({"teacher": "narrow"}) == ["teacher: 'narrow' is not in {choice: [digits, wide]}"]


def test_two_sections_of_one_name_and_label_are_refused() -> None:
    for options in ([{"name": "a"}, {"name": "a"}], [{"name": "a", "label": "b"}, {"name": "b"}]):
        with pytest.raises(ValueError, match="two options of the choice are the same"):
            Choice.model_validate({"choice": options})
