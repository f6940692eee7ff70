"""Search files: YAML without its traps, the shape of every section, errors that say where, what, and what instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_tune.errors import ConfigError
from kd_tune.ranges import Choice, FloatRange, IntRange
from kd_tune.search_file import SearchFile, load_search_file
from kd_tune.strict_yaml import MAX_DEPTH, StrictYamlError, parse_scalar, parse_yaml

MINIMAL = """\
trial:
  dataset: {name: mnist5k}
  student: {name: studentnet}
  objective: {name: cross_entropy}
  optimizer: {name: sgd}
  training: {num_epochs: 3}
"""


def load(tmp_path: Path, text: str, *overrides: str) -> SearchFile:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return load_search_file(path, overrides)


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    """What is said of a bad file, with the file's folder cut off."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def trial_with(**sections: str) -> str:
    """The minimal file with some sections written otherwise, in their lines: dataset is line 2, training line 6."""
    lines = MINIMAL.splitlines()
    for index, line in enumerate(lines[1:], start=1):
        name = line.strip().partition(":")[0]
        if name in sections:
            lines[index] = f"  {name}: {sections[name]}"
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5.0e-4", 0.0005),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("+7", 7),
        ("010", 10),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("'1e-3'", "1e-3"),
        ('"true"', "true"),
        ("'~'", "~"),
        ("e5", "e5"),
        ("-", [None]),
    ],
)
def test_a_scalar_is_what_it_looks_like(text: str, value: Any) -> None:
    parsed = parse_scalar(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(("text", "value"), [("True", True), ("FALSE", False), ("Null", None), ("NULL", None)])
def test_capitals_mean_what_they_mean_in_yamls_core_schema(text: str, value: Any) -> None:
    assert parse_scalar(text) is value


@given(st.one_of(st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False)))
def test_every_number_that_python_writes_is_read_back(number: float) -> None:
    parsed = parse_scalar(repr(number))
    assert parsed == number
    assert type(parsed) is type(number)


def error_of(text: str) -> str | None:
    try:
        parse_yaml(text)
    except StrictYamlError as error:
        return str(error)
    return None


@given(st.one_of(st.text(max_size=20), st.text(alphabet="ab1e. :-,{}[]&*!|>'\"\n\t?#~<", max_size=30)))
def test_any_text_is_a_value_or_an_error_in_one_line(text: str) -> None:
    error = error_of(text)
    assert error is None or (error[0].isdigit() and "\n" not in error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "3 a: this key is given twice"),
        ("s:\n  a: 1\n  'a': 3\n", "3 s.a: this key is given twice"),
        ("l:\n- {a: 1}\n- {a: 1, a: 2}\n", "3 l.1.a: this key is given twice"),
        ("a: &x 1\nb: *x\n", r"2: aliases \(\*x\) are not allowed"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "3: aliases"),
        ("a: !!python/object/apply:os.system [ls]\n", "1: tags .* are not allowed"),
        ("a: !!python/name:os.system\n", "1: tags .* are not allowed"),
        ("a: !mine 3\n", "1: tags .* are not allowed"),
        ("a: !!set {b, c}\n", "1: tags .* are not allowed"),
        ("\na: !!str 5\n", "2: tags .* are not allowed"),
        ("a: !!int '5'\n", "1: tags .* are not allowed"),
        ("a: 1\n? [b, c]\n: 2\n", "2: a key must be a plain word"),
        ("a: 1\nb: {c\n", "not YAML"),
        ("a:\n\t- 1\n", "2: not YAML"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("a: \x00\n", "1: not YAML"),
        ("a: " + "1" * 31, "1: a whole number of 31 digits is not allowed"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), f"1: nested more than {MAX_DEPTH} deep"),
        ("[" * 3000, "1: not YAML: "),
        ("[" * 3000 + "]" * 3000, "1: not YAML: "),
    ],
)
def test_a_trap_of_yaml_is_an_error_with_its_line(text: str, message: str) -> None:
    with pytest.raises(StrictYamlError, match=f"^{message}" if message[0].isdigit() else message):
        parse_yaml(text)


def test_every_key_and_item_has_its_line() -> None:
    _, lines = parse_yaml("a: 1\nb:\n  c: 2\n  d:\n  - e\n  - {f: 3}\n")
    assert lines == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "d"): 4, ("b", "d", 0): 5, ("b", "d", 1): 6} | {
        ("b", "d", 1, "f"): 6
    }


def test_keys_are_names_even_if_they_look_like_values() -> None:
    assert parse_yaml("yes: 1\n1: 2\n1.0: 3\n")[0] == {"yes": 1, "1": 2, "1.0": 3}


def test_a_minimal_file_has_defaults_for_all_the_rest(tmp_path: Path) -> None:
    file = load(tmp_path, MINIMAL)
    assert file.search.num_trials == 32
    assert file.search.trials_by_arm() == {"distil": 32}
    assert file.search.sampler.name == "tpe"
    assert file.search.scheduler.name == "asha"
    assert file.resources.cpus_per_trial == 1
    assert file.trial["training"] == {"num_epochs": 3}


def test_arms_are_names_or_sections_with_a_number_of_trials(tmp_path: Path) -> None:
    file = load(tmp_path, "search: {num_trials: 8, arms: [distil, {name: cross_entropy, num_trials: 3}]}\n" + MINIMAL)
    assert file.search.trials_by_arm() == {"distil": 8, "cross_entropy": 3}


def test_ranges_become_ranges_wherever_they_stand(tmp_path: Path) -> None:
    text = trial_with(
        student="{name: studentnet, width: {choice: [0.5, 1.0]}}",
        objective="{choice: [{name: hinton, temperature: {float: [1, 20], log: true}}, {name: cross_entropy}]}",
        training="{num_epochs: 3, batch_size: {int: [32, 128], step: 32}}",
    )
    trial = load(tmp_path, text).trial
    assert trial["student"]["width"] == Choice(options=[0.5, 1.0])
    assert trial["training"]["batch_size"] == IntRange(bounds=[32, 128], step=32)
    assert trial["objective"].is_sections
    assert trial["objective"].options[0]["temperature"] == FloatRange(bounds=[1.0, 20.0], log=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "serch: {}\n" + MINIMAL,
            "x.yaml:1 serch: unknown key; known: resources, search, trial; did you mean 'search'?",
        ),
        ("search: {num_trails: 3}\n" + MINIMAL, "x.yaml:1 search.num_trails: unknown key;* did you mean 'num_trials'?"),
        ("search: {num_trials: 0}\n" + MINIMAL, "x.yaml:1 search.num_trials: 0 must be *1"),
        ("search: {num_trials: 3.0}\n" + MINIMAL, "x.yaml:1 search.num_trials: 3.0 must be a valid integer"),
        ("search: {num_trials: many}\n" + MINIMAL, "x.yaml:1 search.num_trials: 'many' must be a valid integer"),
        ("search: {seed: -1}\n" + MINIMAL, "x.yaml:1 search.seed: -1 must be *0"),
        ("search:\n  arms: [distil, distil]\n" + MINIMAL, "x.yaml:2 search.arms: an arm is named twice"),
        ("search:\n  arms: []\n" + MINIMAL, "x.yaml:2 search.arms: *at least 1 item*"),
        ("search:\n  arms: [distill]\n" + MINIMAL, "x.yaml:2 search.arms.0.name: 'distill' must be 'distil', *"),
        ("search:\n  sampler: {name: tpo}\n" + MINIMAL, "x.yaml:2 search.sampler.name: 'tpo' must be 'tpe', *"),
        (
            "search:\n  scheduler:\n    grace_period: 0\n" + MINIMAL,
            "x.yaml:3 search.scheduler.grace_period: 0 must be *1",
        ),
        ("search:\n  scheduler: {reduction_factor: 1}\n" + MINIMAL, "x.yaml:2 *.reduction_factor: 1 must be *2"),
        (
            "resources: {gpus_per_trial: 1.5}\n" + MINIMAL,
            "x.yaml:1 resources.gpus_per_trial: a share of a GPU is below 1*",
        ),
        ("resources: {gpus_per_trial: 1e999}\n" + MINIMAL, "x.yaml:1 resources.gpus_per_trial: *"),
        ("resources: {cpus_per_trial: true}\n" + MINIMAL, "x.yaml:1 resources.cpus_per_trial: True must be *integer"),
        ("resources: 3\n" + MINIMAL, "x.yaml:1 resources: 3 must be a valid dictionary*"),
        ("search:\n" + MINIMAL, "x.yaml:1 search: None must be a valid dictionary*"),
        (MINIMAL + "  studnet: {}\n", "x.yaml:7 trial.studnet: unknown key;* did you mean 'student'?"),
        ("search: {}\n", "x.yaml: trial is missing"),
        ("trial: 3\n", "x.yaml*trial*must be a mapping"),
        ("- 1\n", "x.yaml: must be a mapping with the sections search, resources and trial"),
        ("", "x.yaml: must be a mapping *"),
        ("a: 1\na: 2\n", "x.yaml:2 a: this key is given twice"),
        (
            trial_with(optimizer="{name: sgd, lr: {float: [0.3, 0.1]}}"),
            "x.yaml:5 trial.optimizer.lr: *upside down*0.3*0.1",
        ),
        (trial_with(optimizer="{name: sgd, lr: {float: [0.1, 0.1]}}"), "x.yaml:5 trial.optimizer.lr: *empty*"),
        (
            trial_with(optimizer="{name: sgd, lr: {float: [0.1]}}"),
            "x.yaml:5 trial.optimizer.lr.float*: *at least 2 items*",
        ),
        (
            trial_with(optimizer="{name: sgd, lr: {float: 0.1}}"),
            "x.yaml:5 trial.optimizer.lr.float: 0.1 must be a * list",
        ),
        (trial_with(optimizer="{name: sgd, lr: {float: [a, 1]}}"), "x.yaml:5 *lr.float.0: 'a' must be a valid number"),
        (
            trial_with(optimizer="{name: sgd, lr: {float: [0, 1], log: true}}"),
            "x.yaml:5 trial.optimizer.lr: a logarithmic range must start above 0, not at 0.0",
        ),
        (
            trial_with(optimizer="{name: sgd, lr: {float: [0, 1], logs: true}}"),
            "x.yaml:5 trial.optimizer.lr.logs: unknown key; known: float, log, step; did you mean 'log'?",
        ),
        (
            trial_with(optimizer="{name: sgd, lr: {float: [0, 1], log: yes}}"),
            "x.yaml:5 *lr.log: 'yes' must be *boolean",
        ),
        (
            trial_with(optimizer="{name: sgd, lr: {float: [0, 1], step: 0}}"),
            "x.yaml:5 *lr.step: 0 must be greater than 0",
        ),
        (trial_with(optimizer="{name: sgd, lr: {float: [1, 2], log: true, step: 1}}"), "x.yaml:5 *lr: *log or step*"),
        (trial_with(optimizer="{name: sgd, lr: {float: [0, 1], int: [0, 1]}}"), "x.yaml:5 *lr.int: unknown key; *"),
        (
            trial_with(training="{num_epochs: 3, batch_size: {int: [1.5, 2]}}"),
            "x.yaml:6 *batch_size.int.0: 1.5 must be *",
        ),
        (trial_with(student="{name: studentnet, width: {choice: []}}"), "x.yaml:3 *width.choice: *at least 1 item*"),
        (
            trial_with(student="{name: studentnet, width: {choice: [1.0, 2.0, 1.0]}}"),
            "x.yaml:3 trial.student.width: two options of the choice are the same",
        ),
        (
            trial_with(objective="{choice: [{name: hinton}, {name: hinton, alpha: 1}]}"),
            "x.yaml:4 trial.objective: two options of the choice are the same",
        ),
        (
            trial_with(objective="{choice: [{name: hinton}, {alpha: 1}]}"),
            "x.yaml:4 trial.objective: every section of a choice needs a name",
        ),
        (trial_with(objective="{choice: [{name: hinton}, cross_entropy]}"), "x.yaml:4 trial.objective: *needs a name"),
        (
            trial_with(objective="{choice: [[1], 2]}"),
            "x.yaml:4 trial.objective: a choice holds plain values or sections *",
        ),
        (
            trial_with(objective="{choice: [{name: hinton, alpha: {float: [1, 0]}}]}"),
            "x.yaml:4 trial.objective.choice.0.alpha: the range is upside down or empty: 1.0 must be below 0.0",
        ),
    ],
)
def test_bad_input_is_told_with_line_path_and_what_is_allowed(tmp_path: Path, text: str, expected: str) -> None:
    """`*` stands for anything in between."""
    (problem,) = problems(tmp_path, text)
    at = 0
    for fragment in expected.split("*"):
        found = problem.find(fragment, at)
        assert found >= 0, f"{problem!r} lacks {fragment!r}"
        at = found + len(fragment)
    assert problem.startswith(expected.split("*")[0])
    assert "Value error" not in problem
    assert "\n" not in problem


def test_every_missing_section_is_named_but_the_teacher(tmp_path: Path) -> None:
    expected = ["dataset", "student", "objective", "optimizer", "training"]
    assert problems(tmp_path, "trial: {}\n") == [f"x.yaml: trial.{name} is missing" for name in expected]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = "search: {num_trials: 0, seeds: 1}\nresources: {cpus_per_trial: 0}\nrun: 1\n" + trial_with(
        optimizer="{name: sgd, lr: {float: [1, 0]}}", student="{width: {choice: [1, 1]}}"
    )
    found = problems(tmp_path, text)
    assert len(found) == 6
    for fragment in ("search.num_trials", "search.seeds", "cpus_per_trial", "run:", "optimizer.lr", "student.width"):
        assert any(fragment in problem for problem in found), fragment


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_search_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_search_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read: .*utf-8"):
        load_search_file(tmp_path / "latin.yaml")


def test_an_override_replaces_a_leaf_with_a_typed_value(tmp_path: Path) -> None:
    file = load(tmp_path, MINIMAL, "trial.training.num_epochs=9", "search={num_trials: 4}", "search.seed=7")
    assert file.trial["training"]["num_epochs"] == 9
    assert file.search.num_trials == 4
    assert file.search.seed == 7


def test_an_override_may_be_a_range_a_section_or_a_new_key(tmp_path: Path) -> None:
    file = load(
        tmp_path,
        MINIMAL,
        "trial.optimizer.lr={float: [1e-3, 1], log: true}",
        "trial.objective={name: hinton, alpha: 0.5}",
        "trial.teacher={name: digits}",
    )
    assert file.trial["optimizer"]["lr"] == FloatRange(bounds=[0.001, 1.0], log=True)
    assert file.trial["objective"] == {"name": "hinton", "alpha": 0.5}
    assert file.trial["teacher"] == {"name": "digits"}
    assert file.trial["teacher"] == {"name": "digits"}


def test_a_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    file = load(tmp_path, MINIMAL, "trial.teacher={name: digits, weights: 'runs/a=b'}")
    assert file.trial["teacher"]["weights"] == "runs/a=b"


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("trial.training.num_epochs", "must look like trial.training.num_epochs=9"),
        ("=3", "must look like trial.training.num_epochs=9"),
        ("trial..x=3", "must look like trial.training.num_epochs=9"),
        ("trial.trainning.num_epochs=3", "there is no section trial.trainning"),
        ("trial.training.num_epochs.x=3", "there is no section trial.training.num_epochs"),
        ("trial.training.num_epochs={a: 1, a: 2}", "this key is given twice"),
        ("trial.training.num_epochs=[1", "not YAML"),
    ],
)
def test_a_bad_override_is_told_as_it_was_typed(tmp_path: Path, assignment: str, expected: str) -> None:
    (problem,) = problems(tmp_path, MINIMAL, assignment)
    assert problem.startswith(f"--set {assignment}: ")
    assert expected in problem


def test_what_an_override_sets_is_checked_like_the_file(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, MINIMAL, "search={}", "search.num_trials=none")
    assert "search.num_trials: 'none' must be a valid integer" in problem


def test_the_file_on_disk_is_left_as_it_was(tmp_path: Path) -> None:
    load(tmp_path, MINIMAL, "trial.training.num_epochs=9")
    assert (tmp_path / "x.yaml").read_text(encoding="utf-8") == MINIMAL
