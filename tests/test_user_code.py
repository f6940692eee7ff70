"""Networks and objectives from outside kd_tune: used where they are allowed, and never touched where they are not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kd_tune import cli, export, report, results, teacher, user_code
from kd_tune.catalog import build_objective, build_student, check_trial
from kd_tune.data import Dataset
from kd_tune.engine import rehearse
from kd_tune.errors import ConfigError, ExitCode
from kd_tune.ranges import Choice
from kd_tune.search import Launch, start
from kd_tune.search_checks import check, check_draws
from kd_tune.search_file import Source, load_search_file, parse_search_file
from kd_tune.space import Space
from kd_tune.student_sizes import survey
from tests.own_code import PACKAGE, was_imported, write_package
from tests.searches import toy_search, write_search

SMALL, BIG, LOSS = f"{PACKAGE}.networks:small", f"{PACKAGE}.networks:Big", f"{PACKAGE}.losses:MatchLogits"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that holds the package, as the working directory; nothing of it stays behind."""
    folder = write_package(tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    user_code.forbid_all()
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def allowed(package: Path) -> Path:
    user_code.allow([PACKAGE])
    return package


def own_search(**changes: Any) -> dict[str, Any]:
    """A search in which student, teacher and objective are the user's, with a range in an argument of each kind."""
    return toy_search(
        **{
            "trial.student": {"name": SMALL, "hidden": {"choice": [4, 8]}},
            "trial.teacher": {"name": BIG, "bias": False},
            "trial.objective": {"name": LOSS, "weight": {"float": [0.001, 0.01], "log": True}},
            **changes,
        }
    )


def problems_of(search: dict[str, Any]) -> list[str]:
    return check_trial(parse_search_file(search, Source("x.yaml", {})).trial, Source("x.yaml", {}))


def test_what_was_not_allowed_is_refused_unread(package: Path) -> None:
    problems = problems_of(own_search())
    assert len(problems) == 3
    for problem, key, name in zip(problems, ("teacher", "student", "objective"), (BIG, SMALL, LOSS), strict=True):
        assert problem.startswith(f"x.yaml trial.{key}.name: '{name}' is code from outside kd_tune")
        assert problem.endswith(f"--allow-code {PACKAGE}")
    assert not was_imported(package)


def test_what_was_allowed_has_its_arguments_checked(allowed: Path) -> None:
    assert problems_of(own_search()) == []
    bad = own_search(
        **{
            "trial.student": {"name": SMALL, "hidden": {"int": [0, 4]}, "hiden": 3},
            "trial.objective": {"name": LOSS, "weight": -1.0, "num_classes": 3},
            "trial.teacher": {"name": BIG, "anything": "goes"},  # it takes **options
        }
    )
    assert problems_of(bad) == [
        "x.yaml trial.student.hidden: 0 must be greater than or equal to 1",
        f"x.yaml trial.student.hiden: {SMALL} has no such argument; known: hidden; did you mean 'hidden'?",
        "x.yaml trial.objective.weight: -1.0 must be greater than or equal to 0",
        f"x.yaml trial.objective.num_classes: {LOSS} has no such argument; known: weight",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{PACKAGE}.networks:smal", "has no callable smal; it has:"),
        (f"{PACKAGE}.networks:not_callable", "has no callable not_callable"),
        (f"{PACKAGE}.nowhere:small", "cannot be imported: ModuleNotFoundError"),
        (f"{PACKAGE}.networks:small()", "must look like package.module:callable"),
        ("os:system", "is code from outside kd_tune"),
        (f"os.{PACKAGE}:system", "is code from outside kd_tune"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_by_reason(name: str, message: str, allowed: Path) -> None:
    (problem,) = problems_of(own_search(**{"trial.student": {"name": name}}))
    assert message in problem


def test_allowing_what_is_not_there_is_refused(package: Path) -> None:
    for name in ("acme_visoin", "a.b", ""):
        with pytest.raises(ConfigError, match="no such package here"):
            user_code.allow([name])


def test_student_and_objective_are_told_of_the_data(allowed: Path, toy_dataset: Dataset) -> None:
    student = build_student({"name": SMALL, "hidden": 5}, toy_dataset)
    assert [parameter.shape for parameter in student.parameters()] == [(5, 256), (5,), (3, 5), (3,)]
    assert build_objective({"name": LOSS, "weight": 2.0}, toy_dataset).num_classes == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [
        (
            "student",
            "networks:wrong_shape",
            r"must answer images \[2, 1, 16, 16\] with logits \[2, 3\], not \[2, 256\]",
        ),
        ("student", "networks:no_network", "must return a torch.nn.Module, not int"),
        ("student", "networks:broken", "cannot be built: KeyError: 'no such weights'"),
        ("objective", "losses:nothing", "must give an objective: callable, with the attributes version and"),
    ],
)
def test_code_that_does_not_do_its_part_is_refused_before_a_search(
    section: str, name: str, message: str, allowed: Path, toy_dataset: Dataset
) -> None:
    trial = {"student": {"name": SMALL}, "objective": {"name": "cross_entropy"}}
    with pytest.raises(ConfigError, match=message):
        rehearse(trial | {section: {"name": f"{PACKAGE}.{name}"}}, toy_dataset)


def test_an_own_students_size_is_known_though_it_reads_its_weights_while_it_is_built(allowed: Path) -> None:
    section = {"name": f"{PACKAGE}.networks:reads_its_weights", "hidden": Choice(options=[2, 4])}
    found = survey(Space({"student": section}), {"num_classes": 3, "in_channels": 1, "image_size": 4}, seed=0)
    assert found.edges() == (2 * (16 + 1) + 3 * (2 + 1), 4 * (16 + 1) + 3 * (4 + 1))


def test_code_that_raises_while_it_is_built_is_refused_before_a_search(allowed: Path, toy_dataset: Dataset) -> None:
    broken = own_search(
        **{"trial.student": {"name": f"{PACKAGE}.networks:broken"}, "trial.teacher": {"name": "digits"}}
    )
    file = parse_search_file(broken, Source("x.yaml", {}))
    with pytest.raises(ConfigError, match="cannot be built: KeyError"):
        check_draws(check(file), toy_dataset, 0)


@pytest.mark.parametrize("name", ["as_partial", "for_checkers", "with_model"])
def test_callables_of_every_kind_have_arguments(name: str, allowed: Path) -> None:
    """Partials have no annotations, some annotations exist for type checkers alone, models are types like others."""
    value = {"size": 3} if name == "with_model" else 3
    student = {"name": f"{PACKAGE}.networks:{name}", "hidden": value}
    assert problems_of(own_search(**{"trial.student": student})) == []


def test_a_range_in_an_own_teachers_free_argument_is_refused(allowed: Path) -> None:
    (problem,) = problems_of(own_search(**{"trial.teacher": {"name": BIG, "depth": {"choice": [1, 2]}}}))
    assert problem == "x.yaml trial.teacher.depth: must be one value, not a range"


def test_a_rehearsal_passes_what_works(allowed: Path, toy_dataset: Dataset) -> None:
    rehearse({"student": {"name": SMALL}, "objective": {"name": LOSS}, "teacher": {"name": BIG}}, toy_dataset)
    with pytest.raises(ConfigError, match=f"{LOSS} needs a teacher"):
        rehearse({"student": {"name": SMALL}, "objective": {"name": LOSS}}, toy_dataset)


def test_a_search_with_everything_the_users_own_ends_in_an_exported_student(
    allowed: Path, toy_npz: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray's workers were started elsewhere: what was allowed, and where it lies, reaches them with the trials."""
    (allowed / "search").mkdir()
    file = load_search_file(write_search(allowed / "search", own_search()))
    run = allowed / "run"
    with (allowed / "log.txt").open("w") as log:
        state = start(file, run, Launch(source=toy_npz), Console(file=log, width=120))
    assert not state.unfinished()
    assert all(trial.usable for trial in state.trials.values())
    assert {trial.draw["student.hidden"] for trial in state.trials.values()} <= {4, 8}
    (line,) = export.export_best(run, allowed / "export", export.Wanted(), export.data_of(run, None))
    assert "ONNX agrees with torch" in line
    assert "; torch.export agrees with torch exactly; int8 " in line
    _refuses_without_permission(run, capsys)


def test_the_list_of_teachers_shows_the_users_own(
    package: Path,
    toy_dataset: Dataset,
    save_teacher: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KD_TUNE_CACHE", str(package / "cache"))
    for name, of in (("own-a", BIG), ("own-b", f"{PACKAGE}.networks:broken")):
        folder = save_teacher(package / "cache" / "teachers" / name, toy_dataset)
        teacher.update_record(folder, architecture={"name": of}, dataset={"name": "npz"})

    def listed(*options: str) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(["teacher", "list", *options])
        assert not stop.value.code
        return capsys.readouterr().out

    refused = listed()
    assert refused.count(f"{PACKAGE}.networks:") >= 2
    assert "own-a:" in refused
    assert "--allow-code" in refused
    assert not was_imported(package)
    shown = listed("--allow-code", PACKAGE)
    own = next(line for line in shown.splitlines() if line.startswith(BIG))
    assert own.split() == [BIG, "771", "0.0", "npz", "own-a"]
    assert "--allow-code" not in shown
    assert "KeyError" in shown


def _refuses_without_permission(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run is read by anybody, and its code is run by nobody who did not say so."""
    user_code.forbid_all()
    (run.parent / PACKAGE / "was_imported").unlink()
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    assert len(results.read(run).trials) == 6
    report.write(run, Console(quiet=True))
    for command in (
        ["analyze", str(run), "--export", str(run.parent / "again")],
        ["search", "--resume", str(run), "--extend", "1"],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(command)
        assert stop.value.code == ExitCode.USAGE
        assert f"--allow-code {PACKAGE}" in capsys.readouterr().err
    assert not (run.parent / "again").exists()
    assert not was_imported(run.parent)


def test_the_command_allows_what_it_is_told(package: Path, toy_npz: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The refusal without the flag, and with it only the next problem: the file is otherwise wrong on purpose."""
    file = write_search(package, own_search(**{"trial.training.views": 500}))
    for flags, message in (([], f"--allow-code {PACKAGE}"), (["--allow-code", PACKAGE], "views: 500")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["search", str(file), "--data", str(toy_npz), *flags])
        assert stop.value.code == ExitCode.USAGE
        assert message in capsys.readouterr().err
    assert was_imported(package)
