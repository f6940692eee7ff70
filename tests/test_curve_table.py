"""Tables of learning curves: what is written is read, and what was chosen or pruned is no table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kd_tune import curve_table, records, results
from kd_tune.cli import main
from kd_tune.errors import ConfigError
from kd_tune.ledger import Run
from kd_tune.record import check_target, recording_of, write_table
from kd_tune.search_file import load_search_file
from tests.searches import ROOT, toy_manifest, toy_search, write_search

TABLES = ROOT / "benchmarks" / "tables"
MNIST5K = TABLES / "mnist5k.parquet"
OPTIONS = [1, "a", None, 0.5]  # as a user's own network may take them
RANDOM = {"search.sampler": {"name": "random"}, "search.scheduler": {"name": "none"}}


def recorded(folder: Path, finished: bool = True, **changes: Any) -> Path:
    """A run of three trials over two epochs, the last of which diverged."""
    run = Run.create(folder, yaml.safe_dump(toy_search(**(RANDOM | changes))), toy_manifest())
    run.record(records.STARTED, quota={"distil": 4 if finished else 5}, versions={}, slots=2)
    for number in range(4):
        draw = {"student.width": OPTIONS[number], "objective.alpha": 0.1 + number / 10, "optimizer.lr": 0.01}
        run.record(records.PROPOSED, trial=number, arm="distil", draw=draw, config={})
        for epoch in (1, 2):
            row = {"val_accuracy_even": 0.5, "val_accuracy_odd": number / 10, "val_loss": 1.0, "seconds": 1.0 + epoch}
            diverged = number == 2 and epoch == 2
            row |= {"epoch": epoch, "num_parameters": 100 + number % 2, "val_accuracy": 0.5, "diverged": diverged}
            run.record(records.EPOCH, trial=number, attempt=0, **row)
        reason = "diverged" if number == 2 else "failed" if number == 3 else "completed"
        run.record(records.STOPPED, trial=number, reason=reason, epoch=2)
    run.close()
    return folder


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    target = tmp_path / "toy.parquet"
    assert "3 configurations, 1 of them diverged" in write_table(recorded(tmp_path / "run"), target)
    table = curve_table.read(target)
    assert [draw["objective.alpha"] for draw in table.draws] == [0.1, 0.2, pytest.approx(0.3)]
    assert [draw["student.width"] for draw in table.draws] == [1, "a", None]
    assert set(table.draws[2]) == {"student.width", "objective.alpha", "optimizer.lr"}
    assert table.num_epochs == 6
    odd = table.accuracy("odd")
    assert odd.shape == (3, 6)
    assert odd[1, :2].tolist() == [0.1, 0.1]
    assert odd[2, 0] == 0.2
    assert np.isnan(odd[2, 1])
    assert np.isnan(odd[:, 2:]).all()
    assert table.num_parameters.tolist() == [100, 101, 100]
    assert table.epoch_seconds.tolist() == [2.5, 2.5, 2.5]


def test_a_table_that_was_changed_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "toy.parquet"
    write_table(recorded(tmp_path / "run"), target)
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match=r"not the table that toy\.json describes"):
        curve_table.read(target)


@pytest.mark.parametrize(
    ("changes", "finished", "said"),
    [
        ({"search.scheduler": {"name": "asha"}}, True, "scheduler none"),
        ({"search.sampler": {"name": "tpe"}}, True, "sampler random"),
        ({"search.goal": "front"}, True, "goal best"),
        ({"search.points": [{"objective.alpha": 0.5}]}, True, "no points"),
        ({}, False, "not finished; go on with `kd-tune record --resume"),
    ],
)
def test_a_run_that_pruned_or_chose_is_no_table(tmp_path: Path, changes: Any, finished: bool, said: str) -> None:
    run = recorded(tmp_path / "run", finished, **changes)
    with pytest.raises(ConfigError, match=said):
        curve_table.from_run(results.read(run))


def test_whatever_a_search_file_chooses_its_recording_is_a_table(tmp_path: Path) -> None:
    choosy = {"search.goal": "front", "search.points": [{"objective.alpha": 0.5}], "search.num_trials": 4}
    file = recording_of(load_search_file(write_search(tmp_path, toy_search(**choosy))))
    assert file.search.num_trials == 4
    tables = results.read(recorded(tmp_path / "run"))
    curve_table.check_recording(replace(tables, file=file))


def test_only_a_recording_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = recorded(tmp_path / "run", finished=False, **{"search.scheduler": {"name": "asha"}})
    before = sorted(path.name for path in (run / "ledger").iterdir())
    with pytest.raises(SystemExit) as ended:
        main(["record", "--resume", str(run), "--out", str(tmp_path / "x.parquet")])
    assert ended.value.code == 2
    assert "scheduler none" in capsys.readouterr().err
    assert sorted(path.name for path in (run / "ledger").iterdir()) == before, "nothing was trained"


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.parquet: cannot be read: .*; `kd-tune record`"):
        curve_table.read(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize("given", [["search.yaml"], ["--num-trials", "9"], ["--set", "search.seed=1"], ["--name", "x"]])
def test_a_recording_that_is_gone_on_with_takes_no_other_settings(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded(tmp_path / "run", finished=False)
    with pytest.raises(SystemExit) as ended:
        main(["record", "--resume", str(run), "--out", str(tmp_path / "new" / "x.parquet"), *given])
    assert ended.value.code == 2
    assert (
        "only --out, --data, --address, --max-hours, --max-device-hours and --allow-code go with it"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "new").exists()


def test_a_recording_stops_at_a_limit_and_is_gone_on_with(
    tmp_path: Path, toy_npz: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_search(tmp_path, toy_search(**{"search.num_trials": 2, "trial.training.num_epochs": 100_000}))
    run, out = tmp_path / "toy", tmp_path / "toy.parquet"
    given = [str(file), "--data", str(toy_npz), "--runs", str(tmp_path), "--name", "toy", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(["record", *given, "--max-hours", "0.0001"])
    assert ended.value.code == 75
    again = f"kd-tune record --resume {run} --out {out} --data {toy_npz}"
    assert f"2 configurations are left; go on with:\n  {again}\n" in capsys.readouterr().out
    for hours, option in (("0.0001", "--max-hours"), ("1e-9", "--max-device-hours")):
        with pytest.raises(SystemExit) as ended:
            main(["record", "--resume", str(run), "--out", str(out), option, hours])
        assert ended.value.code == (75 if option == "--max-hours" else 2)
    assert "allow more" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("name", ["toy.csv", "there.parquet", "there.parquet/toy.parquet", "/proc/toy.parquet"])
def test_a_table_that_cannot_be_written_is_refused_before_training(tmp_path: Path, name: str) -> None:
    (tmp_path / "there.parquet").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"--out"):
        check_target(tmp_path / name)


def test_to_try_whether_a_table_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_target(tmp_path / "new" / "folder" / "table.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist5k", "cifar10"])
def test_tables_in_the_repository_are_whole(name: str) -> None:
    table = curve_table.read(TABLES / f"{name}.parquet")
    assert len(table.draws) >= 200
    assert table.num_epochs == 27
    complete = np.isfinite(table.accuracy("even")).all(axis=1)
    assert complete.mean() > 0.9
    assert set(table.space.parameters()) == set(table.draws[0])


def test_replay_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    budget = ["--seeds", "2", "--num-trials", "4", "--workers", "2"]
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(MNIST5K), *budget, "--set", "search.sampler.name=tpe"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "these settings" in printed
    assert "Ray's OptunaSearch + ASHAScheduler" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "trial.training.num_epochs=9"], "a replay has no use for it; what can be set: search.goal, "),
        (["--set", "search.num_trials=9"], "--set search.num_trials=9: a replay has no use for it"),
        (["--set", "search.arms=[cross_entropy]"], "a replay has no use for it"),
        (["--set", "search.seed=1"], "a replay has no use for it"),
        (["--set", "search.max_failures=1"], "a replay has no use for it"),
        (["--set", "search.sampler.name=best"], "best"),
        (["--set", "search.sampler.name=grid"], "--set search.sampler: a grid needs choices or steps"),
        (["--set", "search.points=[{objective.alpa: 0.5}]"], "objective.alpa: no such parameter; known: "),
        (["--set", "search.points=[{objective.alpha: 7}]"], "objective.alpha: 7 is not in {float: [0.0, 1.0]}"),
    ],
)
def test_settings_that_cannot_be_replayed_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(MNIST5K), *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_table_of_one_size_of_student_has_no_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = results.read(recorded(tmp_path / "run"))
    table = curve_table.from_run(tables)
    alike = replace(table, curves=table.curves.assign(num_parameters=100))
    curve_table.write(alike, tables, tmp_path / "toy.parquet")
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(tmp_path / "toy.parquet"), "--set", "search.goal=front"])
    assert ended.value.code == 2
    assert "every student of this file has 100 parameters" in capsys.readouterr().err
