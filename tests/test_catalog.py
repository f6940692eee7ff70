"""Names and arguments of a trial, checked against the tables before anything runs: ranges at both ends, all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from kd_tune.arms import control_objective, teachers_of
from kd_tune.catalog import (
    TABLES,
    architecture_of,
    build_network,
    build_objective,
    build_optimizer,
    check_trial,
)
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError
from kd_tune.models import TEACHERS
from kd_tune.ranges import Choice, FloatRange, IntRange, branch_name
from kd_tune.search_checks import check
from kd_tune.search_file import Source as ConfigSource
from kd_tune.search_file import load_search_file, parse_search_file

SEARCH_SPACES = sorted((Path(__file__).resolve().parents[1] / "search_spaces").glob("*.yaml"))
SOURCE = ConfigSource("x.yaml", {})


def trial(**sections: Any) -> dict[str, Any]:
    """A good trial with some sections replaced, or taken out where None."""
    whole = {
        "dataset": {"name": "mnist5k"},
        "teacher": {"name": "digits"},
        "student": {"name": "studentnet", "width": 1.0},
        "objective": {"name": "hinton", "alpha": 0.5, "temperature": 4.0},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "training": {"num_epochs": 3},
    } | sections
    raw = {"trial": {key: value for key, value in whole.items() if value is not None}}
    return parse_search_file(raw, SOURCE).trial


def test_a_good_trial_has_no_problems() -> None:
    assert check_trial(trial(), SOURCE) == []


@pytest.mark.parametrize(
    ("sections", "where", "what"),
    [
        ({"objective": {"name": "hinton", "alpha": 1.2}}, "objective.alpha", "1.2 must be less than or equal to 1"),
        (
            {"objective": {"name": "hinton", "alpha": -0.1}},
            "objective.alpha",
            "-0.1 must be greater than or equal to 0",
        ),
        ({"objective": {"name": "hinton", "temperature": 0}}, "objective.temperature", "0 must be greater than 0"),
        ({"objective": {"name": "hinton", "temperature": "4"}}, "objective.temperature", "'4' must be a valid number"),
        ({"objective": {"name": "hinton", "alpha": True}}, "objective.alpha", "True must be a valid number"),
        ({"objective": {"name": "hinton", "alpha": None}}, "objective.alpha", "None must be a valid number"),
        (
            {"objective": {"name": "hinton", "temperature": float("inf")}},
            "objective.temperature",
            "inf must be a finite",
        ),
        ({"objective": {"name": "mixed_target", "scale": "T3"}}, "objective.scale", "'T3' must be 'none', 'T' or 'T2'"),
        (
            {"objective": {"name": "hinton", "alpa": 0.5}},
            "objective.alpa",
            "hinton has no such argument; known: alpha, ",
        ),
        ({"objective": {"name": "hinton", "scale": "T"}}, "objective.scale", "hinton has no such argument"),
        ({"objective": {"name": "hintn"}}, "objective.name", "unknown objective 'hintn'; known: cross_entropy, "),
        ({"objective": {"name": "hintn"}}, "objective.name", "did you mean 'hinton'?"),
        ({"objective": "hinton"}, "objective", "must be a section with a name; known: cross_entropy, "),
        ({"objective": {"alpha": 0.5}}, "objective", "must be a section with a name"),
        ({"objective": {"name": {"choice": ["hinton", "mixed_target"]}}}, "objective", "must be a section with a name"),
        ({"student": {"name": "studnet"}}, "student.name", "unknown student 'studnet'; known: "),
        ({"student": {"name": "studnet"}}, "student.name", "did you mean 'studentnet'?"),
        ({"student": {"name": "studentnet", "width": 0}}, "student.width", "0 must be greater than 0"),
        ({"student": {"name": "studentnet", "num_classes": 3}}, "student.num_classes", "has no such argument"),
        ({"student": {"name": "studentnet", "widht": 1}}, "student.widht", "did you mean 'width'?"),
        ({"student": {"name": "studentnet", "width": [1, 2]}}, "student.width", "must be a valid number"),
        (
            {"teacher": {"name": "digit"}},
            "teacher.name",
            "unknown teacher 'digit'; known: compact, ",
        ),
        ({"teacher": {"name": "studentnet"}}, "teacher.name", "unknown teacher 'studentnet'"),
        ({"teacher": {"name": "digits", "weights": 3}}, "teacher.weights", "3 must be a valid string"),
        ({"teacher": {"name": "digits", "image_size": 28}}, "teacher.image_size", "has no such argument"),
        ({"dataset": {"name": "mnist5"}}, "dataset.name", "did you mean 'mnist5k'?"),
        ({"dataset": {"name": "mnist5k", "split_seed": 1}}, "dataset.split_seed", "mnist5k has no such argument"),
        ({"dataset": {"name": "cifar10", "split_seed": -1}}, "dataset.split_seed", "-1 must be greater than or equal"),
        ({"dataset": {"name": "cifar10", "num_train": 0}}, "dataset.num_train", "0 must be greater than or equal to 1"),
        ({"dataset": {"name": "npz", "groups": ["0", "1"]}}, "dataset.groups", "must be a valid dictionary"),
        ({"dataset": {"name": "npz", "groups": {"even": 0}}}, "dataset.groups", "0 must be a valid list"),
        ({"dataset": {"name": "npz", "groups": {"even": [0.5]}}}, "dataset.groups", "0.5 must be a valid"),
        ({"dataset": {"name": "cifar10", "source": "/data"}}, "dataset.source", "has no such argument"),
        ({"optimizer": {"name": "adam"}}, "optimizer.name", "did you mean 'adamw'?"),
        ({"optimizer": {"name": "sgd", "lr": 0}}, "optimizer.lr", "0 must be greater than 0"),
        ({"optimizer": {"name": "sgd", "momentum": 1}}, "optimizer.momentum", "1 must be less than 1"),
        ({"optimizer": {"name": "sgd", "weight_decay": -1}}, "optimizer.weight_decay", "-1 must be greater than or eq"),
        ({"optimizer": {"name": "sgd", "parameters": []}}, "optimizer.parameters", "has no such argument"),
        ({"training": {"num_epochs": 0}}, "training.num_epochs", "0 must be greater than or equal to 1"),
        ({"training": {"num_epochs": 3.0}}, "training.num_epochs", "3.0 must be a valid integer"),
        ({"training": {"batch_size": 32}}, "training", "num_epochs is missing"),
        ({"training": {"num_epochs": 3, "views": 163}}, "training.views", "163 must be less than or equal to 162"),
        ({"training": {"num_epochs": 3, "schedule": "linear"}}, "training.schedule", "'linear' must be 'one_cycle', "),
        ({"training": {"num_epochs": 3, "epochs": 3}}, "training.epochs", "unknown key; known: batch_size, num_epochs"),
        ({"training": 3}, "training", "must be a section"),
        ({"teacher": None}, "objective", "hinton needs a teacher; add trial.teacher"),
    ],
)
def test_a_bad_value_is_told_with_its_path_and_what_is_allowed(sections: dict[str, Any], where: str, what: str) -> None:
    (problem,) = check_trial(trial(**sections), SOURCE)
    assert problem.startswith(f"x.yaml trial.{where}: ")
    assert what in problem


@pytest.mark.parametrize(
    ("sections", "where", "bad"),
    [
        ({"objective": {"name": "hinton", "alpha": {"float": [0.5, 1.2]}}}, "objective.alpha", "1.2 must be"),
        ({"objective": {"name": "hinton", "alpha": {"float": [-0.5, 1.0]}}}, "objective.alpha", "-0.5 must be"),
        ({"objective": {"name": "hinton", "temperature": {"float": [0, 9]}}}, "objective.temperature", "0.0 must be"),
        ({"student": {"name": "studentnet", "width": {"choice": [1.0, 0.0]}}}, "student.width", "0.0 must be"),
        ({"student": {"name": "studentnet", "width": {"choice": [1.0, "2"]}}}, "student.width", "'2' must be"),
        ({"optimizer": {"name": "sgd", "momentum": {"float": [0.8, 1.0]}}}, "optimizer.momentum", "1.0 must be"),
        ({"training": {"num_epochs": 3, "batch_size": {"int": [0, 9]}}}, "training.batch_size", "0 must be"),
    ],
)
def test_a_range_is_checked_at_both_ends(sections: dict[str, Any], where: str, bad: str) -> None:
    (problem,) = check_trial(trial(**sections), SOURCE)
    assert problem.startswith(f"x.yaml trial.{where}: {bad}")


def test_a_range_of_reals_for_a_whole_number_is_refused() -> None:
    problems = check_trial(trial(training={"num_epochs": 3, "batch_size": {"float": [32, 64]}}), SOURCE)
    assert problems
    assert all("must be a valid integer" in problem for problem in problems)


@pytest.mark.parametrize(
    ("sections", "where", "what"),
    [
        ({"training": {"num_epochs": {"int": [3, 9]}}}, "training.num_epochs", "must be one value, not a range"),
        (
            {"training": {"num_epochs": 3, "views": {"choice": [1, 8]}}},
            "training.views",
            "must be one value, not a range",
        ),
        ({"dataset": {"name": "cifar10", "num_train": {"int": [9, 99]}}}, "dataset.num_train", "must be one value"),
        ({"dataset": {"choice": [{"name": "cifar10"}, {"name": "mnist5k"}]}}, "dataset", "cannot be a choice"),
        ({"teacher": {"name": "digits", "weights": {"choice": ["a", "b"]}}}, "teacher.weights", "must be one value"),
    ],
)
def test_what_all_trials_of_a_search_share_is_no_range(sections: dict[str, Any], where: str, what: str) -> None:
    (problem,) = check_trial(trial(**sections), SOURCE)
    assert problem.startswith(f"x.yaml trial.{where}: ")
    assert what in problem


def test_every_branch_of_a_choice_is_checked() -> None:
    objective = {"choice": [{"name": "hinton", "alpha": 2}, {"name": "cross_entropy", "alpha": 0.5}, {"name": "hint"}]}
    problems = check_trial(trial(objective=objective), SOURCE)
    assert len(problems) == 3
    for index, problem in enumerate(problems):
        assert problem.startswith(f"x.yaml trial.objective.choice.{index}.")


def test_one_branch_that_needs_a_teacher_is_enough() -> None:
    objective = {"choice": [{"name": "cross_entropy"}, {"name": "mixed_target"}]}
    (problem,) = check_trial(trial(objective=objective, teacher=None), SOURCE)
    assert problem == "x.yaml trial.objective.choice.1: mixed_target needs a teacher; add trial.teacher"


def test_an_objective_without_teacher_needs_none() -> None:
    assert check_trial(trial(objective={"name": "cross_entropy"}, teacher=None), SOURCE) == []


def test_a_teacher_may_be_the_student_of_its_own_training() -> None:
    for name in TEACHERS:
        assert check_trial(trial(student={"name": name}), SOURCE) == []


def test_a_choice_of_teachers_is_a_parameter_of_the_search() -> None:
    wide = {"name": "digits", "label": "wide", "width": 2.0}
    several = trial(teacher={"choice": [{"name": "digits"}, wide, {"name": "permuted", "of": "digits"}]})
    assert check_trial(several, SOURCE) == []
    assert [branch_name(section) for section in teachers_of(several)] == ["digits", "wide", "permuted"]
    assert architecture_of(wide) == {"name": "digits", "width": 2.0}


@pytest.mark.parametrize(
    ("teacher", "training", "where", "what"),
    [
        ({"name": "permuted", "of": "digit"}, {}, "teacher.of", "unknown teacher 'digit'; known:"),
        ({"name": "random", "network": "studentnet"}, {}, "teacher.network", "unknown teacher 'studentnet'"),
        ({"name": "permuted"}, {}, "teacher", "permuted needs the argument of"),
        ({"name": "permuted", "of": "digits", "mode": "live"}, {}, "teacher.mode", "has stored answers only"),
        ({"name": "logits", "file": "x.npy", "mode": "live"}, {}, "teacher.mode", "has stored answers only"),
        ({"name": "digits", "mode": "lives"}, {}, "teacher.mode", "'lives' must be 'bank' or 'live'"),
        ({"name": "digits", "label": "a|b"}, {}, "teacher.label", "'a|b'"),
        ({"name": "digits", "normalisation": {"men": [0.5]}}, {}, "teacher.normalisation", "must be 'mean' or 'std'"),
        ({"name": "digits", "normalisation": {"mean": [0.5], "std": [0.5]}}, {}, "teacher.normalisation", "goes with"),
        (
            {"name": "digits", "weights": "w.pt", "normalisation": {"mean": [0.5]}},
            {},
            "teacher.normalisation",
            "must hold mean and std",
        ),
        (
            {"name": "digits", "weights": "w.pt", "normalisation": {"mean": [0.5], "std": [0.0]}},
            {},
            "teacher.normalisation",
            "every std must be above 0",
        ),
        ({"name": "random", "network": "digits", "weights": "w.pt"}, {}, "teacher.weights", "random has none"),
        ({"name": "digits"}, {"transform": "trivial_augment"}, "teacher", "a teacher needs mode: live"),
        ({"name": "digits"}, {"transform": "trivial"}, "training.transform", "unknown transform 'trivial'; known:"),
    ],
)
def test_a_teacher_that_cannot_be_is_told_why(
    teacher: dict[str, Any], training: dict[str, Any], where: str, what: str
) -> None:
    (problem,) = check_trial(trial(teacher=teacher, training={"num_epochs": 3} | training), SOURCE)
    assert problem.startswith(f"x.yaml trial.{where}")
    assert what in problem


def test_a_live_teacher_goes_with_any_transform() -> None:
    live = trial(teacher={"name": "digits", "mode": "live"}, training={"num_epochs": 3, "transform": "trivial_augment"})
    assert check_trial(live, SOURCE) == []


def test_all_problems_are_told_at_once() -> None:
    bad = trial(
        dataset={"name": "mnist5"},
        teacher={"name": "digit"},
        student={"name": "studentnet", "width": 0, "depth": 3},
        objective={"name": "hinton", "alpha": 2, "temperature": {"float": [-1, 0]}},
        optimizer={"name": "adam"},
        training={"num_epochs": 0, "views": 0},
    )
    assert len(check_trial(bad, SOURCE)) == 10


def test_problems_carry_the_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    text = """\
trial:
  dataset: {name: mnist5k}
  student:
    name: studentnet
    width: {choice: [1.0, -1.0]}
  objective:
    choice:
    - name: cross_entropy
    - name: label_smoothing
      smoothing: 3
  optimizer: {name: sgd}
  training: {num_epochs: 3}
"""
    path.write_text(text, encoding="utf-8")
    file = load_search_file(path)
    assert check_trial(file.trial, file.source) == [
        f"{path}:5 trial.student.width: -1.0 must be greater than 0",
        f"{path}:10 trial.objective.choice.1.smoothing: 3 must be less than or equal to 1",
    ]


@pytest.mark.parametrize("key", TABLES)
def test_every_entry_of_every_table_can_be_named_alone(key: str) -> None:
    """Whatever is in a table must be checkable: each argument annotated, and with a default where there can be one."""
    needed = {"random": {"network": "digits"}, "permuted": {"of": "digits"}, "logits": {"file": "answers.npy"}}
    for name in TABLES[key].entries:
        section = {"name": name} | needed.get(name, {})
        assert check_trial(trial(**{key: section}), SOURCE) == [], name


@pytest.mark.parametrize("arm", ["cross_entropy", "label_smoothing"])
def test_a_controls_objective_needs_no_teacher_and_checks_clean(arm: str) -> None:
    section = control_objective(arm)
    assert section["name"] == arm
    controlled = trial(teacher=None, objective={"name": "cross_entropy"}) | {"objective": section}
    assert check_trial(controlled, SOURCE) == []


def test_a_builder_hands_over_the_arguments_of_its_section(toy_dataset: Dataset) -> None:
    network = build_network({"name": "studentnet", "width": 0.5}, num_classes=4, in_channels=1, image_size=16)
    assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 4)
    assert network.get_parameter("conv1.weight").shape[0] == 3
    assert build_objective({"name": "hinton", "alpha": 0.25}, toy_dataset).alpha == 0.25  # type: ignore[attr-defined]
    optimizer = build_optimizer({"name": "adamw", "lr": 0.5, "beta1": 0.3}, network)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["betas"] == (0.3, 0.999)
    assert sum(map(len, (group["params"] for group in optimizer.param_groups))) == len(list(network.parameters()))


def test_a_network_that_does_not_fit_the_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="studentnet needs images of at least 16 x 16 pixels, not 8"):
        build_network({"name": "studentnet"}, num_classes=4, in_channels=1, image_size=8)


def test_there_are_search_files_to_check() -> None:
    assert SEARCH_SPACES


@pytest.mark.parametrize("path", SEARCH_SPACES, ids=lambda path: path.stem)
def test_every_search_file_of_the_project_checks_clean(path: Path) -> None:
    file = load_search_file(path)
    spaces = check(file)
    assert set(spaces) == {arm.name for arm in file.search.arms}
    assert all(space.parameters() for space in spaces.values())
    assert not ray.is_initialized(), "checking a file starts no cluster"


def test_controls_are_searched_over_everything_but_the_objective() -> None:
    spaces = check(load_search_file(SEARCH_SPACES[0]))
    distil, control = (list(spaces[arm].parameters()) for arm in ("distil", "cross_entropy"))
    assert control == [name for name in distil if not name.startswith("objective")]
    assert spaces["distil"].template["teacher"] == spaces["cross_entropy"].template["teacher"]


def test_a_point_outside_the_space_is_refused(tmp_path: Path) -> None:
    file = load_search_file(SEARCH_SPACES[0], ["search.points=[{optimizer.lr: 9.0}]"])
    with pytest.raises(ConfigError, match=r"search.points.0: optimizer.lr: 9.0 is not in"):
        check(file)


def test_a_grid_over_endless_ranges_is_refused() -> None:
    file = load_search_file(SEARCH_SPACES[0], ["search.sampler={name: grid}"])
    with pytest.raises(ConfigError, match=r"search.sampler: a grid needs choices or steps, but .*optimizer.lr"):
        check(file)


def test_extremes_are_the_values_that_are_checked() -> None:
    assert FloatRange(bounds=[0.0, 1.0]).extremes == [0.0, 1.0]
    assert IntRange(bounds=[1, 3]).extremes == [1, 3]
    assert Choice(options=["a", "b"]).extremes == ["a", "b"]
