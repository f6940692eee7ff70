"""Learning from earlier runs: what must be equal, what is copied, and that it counts for nothing else."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from kd_tune import cli, results
from kd_tune.config import SamplerConfig, SearchConfig
from kd_tune.errors import ConfigError
from kd_tune.ledger import SEARCH_FILE, Run, replay
from kd_tune.ranges import Choice, FloatRange
from kd_tune.run_setup import make_run
from kd_tune.search import Launch, start
from kd_tune.search_file import load_search_file
from kd_tune.searcher import RunSearcher, SearchProposer
from kd_tune.space import Space
from kd_tune.strata import Students
from kd_tune.warm_start import check_equal, read_earlier, record_known
from tests.searches import toy_manifest, toy_search, write_search

TRIAL = toy_search()["trial"]
DRAW = {"student.width": 0.5, "objective.alpha": 0.5, "optimizer.lr": 0.01}
EQUAL: dict[str, Any] = {"trial": TRIAL, "data": "0" * 16, "teachers": {}}


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Run]:
    def make(name: str) -> Run:
        return Run.create(tmp_path / name, yaml.safe_dump(toy_search()), toy_manifest())

    return make


@pytest.fixture
def earlier(new_run: Callable[..., Run]) -> Path:
    """A run of two trials that ended, one that failed and one that can go on."""
    run = new_run("earlier")
    run.record("started", quota={"distil": 4})
    for number, reason in enumerate(("completed", "diverged", "failed", None)):
        run.record("proposed", trial=number, arm="distil", draw=DRAW, stratum=2)
        for epoch, value in ((1, 0.5), (2, None if reason == "diverged" else 0.6)):
            run.record("epoch", trial=number, attempt=0, epoch=epoch, val_accuracy=value)
        if number == 0:
            run.record("spared", trial=number, epoch=1)
        if reason is not None:
            run.record("stopped", trial=number, reason=reason)
    run.close()
    return run.folder


def test_trials_that_ended_are_copied_into_the_ledger_with_all_that_a_sampler_needs(
    earlier: Path, new_run: Callable[..., Run]
) -> None:
    run = new_run("later")
    lines = record_known(run, read_earlier([earlier], SearchConfig()), ["distil", "cross_entropy"])
    run.close()
    assert lines == [
        "distil learns from 2 earlier trials",
        "cross_entropy starts cold: no earlier run has trials of it",
    ]
    shutil.rmtree(earlier)
    completed, diverged = replay(run.folder).known["distil"]
    assert (completed.draw, completed.end, completed.value, completed.epoch) == (DRAW, "completed", 0.6, 2)
    assert (completed.stratum, completed.spared_at) == (0, 1)
    assert (diverged.end, diverged.value) == ("diverged", None)


def test_known_trials_compete_in_the_strata_of_the_new_run(earlier: Path, new_run: Callable[..., Run]) -> None:
    students = Students(lambda draw: int(100 * draw["student.width"]), ({"student.width": 0.25}, DRAW))
    run = new_run("later")
    record_known(run, read_earlier([earlier], SearchConfig()), ["distil"], students)
    run.close()
    assert [trial.stratum for trial in replay(run.folder).known["distil"]] == [1, 1]


@pytest.mark.parametrize("broken_after", [0, 1, None])
def test_a_run_that_learns_from_earlier_ones_is_there_with_all_of_them_or_not_at_all(
    earlier: Path, tmp_path: Path, broken_after: int | None
) -> None:
    """A launcher that was killed in between would leave a part, which a resumed run would take for all."""
    folder, known = tmp_path / "later", read_earlier([earlier], SearchConfig())
    file = load_search_file(write_search(tmp_path, toy_search()))
    counted: list[bool] = []

    def count(draw: dict[str, Any]) -> int:
        if len(counted) == broken_after:
            raise KeyboardInterrupt
        counted.append(folder.exists())
        return 100

    if broken_after is None:
        make_run(folder, file, toy_manifest(), known, Students(count, ()))
        assert len(replay(folder).known["distil"]) == 2
    else:
        with pytest.raises(KeyboardInterrupt):
            make_run(folder, file, toy_manifest(), known, Students(count, ()))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier", "toy.yaml"]
    assert not any(counted), "the run had its name before it was whole"


def test_the_first_proposals_are_not_those_of_an_earlier_run_of_the_same_seed(
    earlier: Path, new_run: Callable[..., Run]
) -> None:
    """They are random, whatever the few earlier trials were."""
    space = Space(
        {
            "student": {"name": "studentnet", "width": Choice(options=[0.5, 1.0])},
            "objective": {"name": "hinton", "alpha": FloatRange(bounds=[0.0, 1.0]), "temperature": 4.0},
            "optimizer": {"name": "sgd", "lr": FloatRange(bounds=[1e-3, 1e-1])},
        }
    )
    drawn: list[Any] = []
    for name, folders in (("cold", []), ("warm", [earlier])):
        run = new_run(name)
        record_known(run, read_earlier(folders, SearchConfig()), ["distil"])
        run.record("started", quota={"distil": 3})
        drawn.append(RunSearcher(run, SearchProposer(run, {"distil": space}, SearchConfig())).suggest("a"))
        run.close()
    cold, warm = (proposal["optimizer.lr"] for proposal in drawn)
    assert cold != warm


def test_known_trials_are_in_no_table_and_no_quota(earlier: Path, new_run: Callable[..., Run]) -> None:
    run = new_run("later")
    record_known(run, read_earlier([earlier], SearchConfig()), ["distil"])
    run.record("started", quota={"distil": 3})
    run.close()
    tables = results.read(run.folder)
    assert tables.trials.empty
    assert tables.history.empty
    assert (tables.state.num_missing(), tables.state.unfinished()) == (3, [])


def test_an_equal_run_is_accepted_and_no_run_asks_for_nothing(earlier: Path, new_run: Callable[..., Run]) -> None:
    check_equal(read_earlier([earlier], SearchConfig()), **EQUAL)
    assert record_known(new_run("later"), [], ["distil"]) == []


def test_every_difference_to_every_run_is_named_at_once(earlier: Path) -> None:
    other = toy_search(**{"trial.optimizer.lr": {"float": [0.003, 0.2], "log": True}})["trial"]
    other["student"] = {"name": "studentnet"}
    other["training"]["schedule"] = "cosine"
    with pytest.raises(ConfigError) as refused:
        check_equal(read_earlier([earlier, earlier], SearchConfig()), trial=other, data="1", teachers={"digits": "2"})
    once = [
        "trial.student.width was {'choice': [0.25, 0.5]} in that run, but is not here",
        "trial.optimizer.lr.float is [0.003, 0.2] here, but was [0.003, 0.1] in that run",
        "trial.training.schedule is 'cosine' here, but not there in that run",
        f"data is '1' here, but was '{'0' * 16}' in that run",
        "teachers.digits is '2' here, but not there in that run",
    ]
    assert refused.value.problems == [f"--warm-start {earlier}: {text}" for text in once] * 2


@pytest.mark.parametrize("name", ["random", "grid"])
def test_a_sampler_that_learns_nothing_is_refused(name: Any, earlier: Path) -> None:
    config = SearchConfig(sampler=SamplerConfig(name=name))
    assert read_earlier([], config) == []
    with pytest.raises(ConfigError, match=f"the sampler {name} learns from no trial"):
        read_earlier([earlier], config)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run here"):
        read_earlier([tmp_path], SearchConfig())


def test_a_resumed_run_takes_no_warm_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["search", "--resume", str(tmp_path), "--warm-start", str(tmp_path)])
    assert "--resume takes its search file from the run" in capsys.readouterr().err


def test_a_search_learns_from_a_finished_run_of_an_equal_trial(
    finished_run: Path, tmp_path: Path, toy_npz: Path
) -> None:
    raw = yaml.safe_load((finished_run / SEARCH_FILE).read_text())
    raw["search"] |= {"num_trials": 1, "arms": [{"name": "distil"}], "points": []}
    written = io.StringIO()
    launch = Launch(source=toy_npz, warm_start=(finished_run,))
    state = start(
        load_search_file(write_search(tmp_path, raw)), tmp_path / "run", launch, Console(file=written, width=200)
    )
    assert "distil learns from 8 earlier trials" in written.getvalue()
    assert [len(state.trials), len(state.known["distil"])] == [1, 8]

    raw["trial"]["optimizer"]["weight_decay"] = 0.01
    with pytest.raises(ConfigError, match=r"trial.optimizer.weight_decay is 0.01 here, but not there"):
        start(load_search_file(write_search(tmp_path, raw)), tmp_path / "other", launch, Console(file=written))
    assert not (tmp_path / "other").exists()
