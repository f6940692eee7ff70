"""A search that has ended: its ledger, tables, pictures, report, and what TensorBoard shows of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from rich.console import Console

from kd_tune import analysis, budget, report, report_parts, results
from kd_tune.checkpoint import newest
from kd_tune.ledger import KEPT_CHECKPOINTS, Run, checkpoints_of, replay
from kd_tune.results import RunTables, plain_name
from tests.searches import SearchProcess, complaints, toy_manifest, toy_search, write_search

NUM_TRIALS, NUM_EPOCHS = 24, 6


@pytest.fixture(scope="module")
def tables(finished_run: Path) -> RunTables:
    return results.read(finished_run)


def test_every_trial_is_whole_and_every_arm_has_its_share(finished_run: Path, tables: RunTables) -> None:
    assert complaints(finished_run, NUM_TRIALS, NUM_EPOCHS) == []
    assert tables.trials["arm"].value_counts().to_dict() == {"distil": 8, "cross_entropy": 8, "label_smoothing": 8}


def test_a_diverged_trial_is_a_result(tables: RunTables) -> None:
    diverged = tables.trials[tables.trials["status"] == "diverged"]
    assert len(diverged) >= 3  # each arm's first point, a rate of 1e9
    assert not set(diverged["number"]) & set(analysis.usable(tables)["number"])


def test_manifest_says_how_the_run_was_made(finished_run: Path) -> None:
    manifest = json.loads((finished_run / "manifest.json").read_text())
    assert manifest["seed"] == 3
    assert manifest["versions"]["ray"] == "2.60.0"
    assert manifest["hardware"]["cores"] >= 1
    assert (manifest["dataset"]["num_train"], manifest["dataset"]["num_val"]) == (108, 12)
    fingerprints = manifest["fingerprints"]
    assert list(fingerprints["teachers"]) == ["digits"]
    assert all(len(found) == 16 for found in (fingerprints["data"], *fingerprints["teachers"].values()))


def test_rays_own_logs_are_not_written_and_other_searches_of_the_process_keep_theirs(finished_run: Path) -> None:
    assert (finished_run / "ray" / "launch_01").is_dir()
    assert list(finished_run.rglob("progress.csv")) == []
    assert [name for name in os.environ if name.startswith("TUNE_")] == []


def test_only_the_best_trials_of_an_arm_keep_checkpoints(finished_run: Path) -> None:
    state = replay(finished_run)
    for arm in state.quota:
        kept = [trial for trial in state.of_arm(arm) if newest(checkpoints_of(finished_run, trial.number)) is not None]
        ended = [trial for trial in state.of_arm(arm) if trial.end in ("completed", "pruned")]
        best = sorted(ended, key=lambda trial: (-(trial.value or 0.0), trial.number))[:KEPT_CHECKPOINTS]
        assert {trial.number for trial in kept} == {trial.number for trial in best}


def test_branches_are_merged_by_path(tables: RunTables) -> None:
    assert plain_name("objective[hinton].alpha") == "objective.alpha"
    assert plain_name("a[b].c[d].e") == "a.c.e"
    distil = tables.trials[tables.trials["arm"] == "distil"]
    taken = distil.groupby("objective")[["objective.alpha", "objective.temperature"]].count()
    assert set(taken.index) <= {"hinton", "mixed_target"}
    assert (taken.loc[taken.index == "hinton", "objective.temperature"] == 0).all()


def test_best_is_by_the_last_epoch(tables: RunTables) -> None:
    best = analysis.best(tables).set_index("arm")
    for arm, row in best.iterrows():
        trials = [trial for trial in tables.state.of_arm(str(arm)) if trial.end in ("completed", "pruned")]
        assert row["val_accuracy"] == max(trial.value or 0.0 for trial in trials)


def test_outcomes_add_up(tables: RunTables) -> None:
    outcomes = analysis.outcomes(tables)
    ends = outcomes[["completed", "pruned", "diverged", "failed", "unfinished"]].sum(axis=1)
    assert (ends == outcomes["trials"]).all()
    assert outcomes["epochs"].sum() == len(tables.history)


@pytest.mark.parametrize("cost", ["num_parameters", "multiply_adds"])
def test_pareto_front_rises_with_cost(tables: RunTables, cost: str) -> None:
    for _, front in analysis.pareto(tables, cost).groupby("arm"):
        assert front[cost].is_monotonic_increasing
        assert front["val_accuracy"].is_monotonic_increasing


def test_answers_of_the_teacher_are_counted(tables: RunTables) -> None:
    (row,) = budget.teacher_answers(tables).to_dict("records")
    epochs = tables.history["arm"].value_counts()["distil"]
    assert (row["used"], row["computed"]) == (epochs * 108 + 12, 2 * 108 + 12)


@pytest.mark.parametrize("most", [400, 12])
def test_importance_finds_the_parameter_that_matters(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from every third of the trials."""
    monkeypatch.setattr(analysis, "MOST_TRIALS", most)
    lr = {"float": [0.0, 1.0]}
    search = toy_search(**{"trial.optimizer.lr": lr, "search.scheduler.grace_period": 1, "trial.objective.alpha": 0.5})
    run = Run.create(tmp_path / "run", yaml.safe_dump(search), toy_manifest())
    run.record("started", quota={"distil": 30})
    for number in range(30):
        draw = {"optimizer.lr": number / 30, "student.width": [0.25, 0.5][number % 2]}
        row = {"epoch": 1, "val_accuracy": number / 30 + 0.01 * (number % 2), "seconds": 1.0, "num_parameters": 100}
        run.record("proposed", trial=number, arm="distil", draw=draw)
        run.record("epoch", trial=number, attempt=0, diverged=False, **row)
    run.close()
    shares = analysis.importance(results.read(tmp_path / "run")).set_index("parameter")["importance"]
    assert shares["optimizer.lr"] > 0.9
    assert shares.sum() == pytest.approx(1.0)


def test_a_table_of_many_sizes_of_students_has_the_best_of_each_group() -> None:
    """Fifteen sizes, of which twelve groups are made: the first three hold two sizes each."""
    sizes = range(100, 1600, 100)
    rows = [{"num_parameters": size, "arm": "distil", "val_accuracy": size / 2000, "epoch": 3} for size in sizes]
    rows.append({"num_parameters": 100, "arm": "cross_entropy", "val_accuracy": 0.9, "epoch": 3})
    table = report_parts.pivot(pd.DataFrame(rows))
    assert list(table["up_to_parameters"]) == [200, 400, 600, *range(700, 1600, 100)]
    assert list(table["distil"][:2]) == ["10.00% (3)", "20.00% (3)"]
    assert table["cross_entropy"][0] == "90.00% (3)"
    assert list(report_parts.pivot(pd.DataFrame(rows[:3]))["num_parameters"]) == [100, 200, 300]


def test_report_holds_tables_and_pictures(finished_run: Path) -> None:
    page = report.write(finished_run, Console(quiet=True))
    text = page.read_text()
    assert "**unconfirmed**" in text
    assert "The test set was opened 0 times" in text
    assert len(pd.read_csv(page.parent / "trials.csv")) == NUM_TRIALS
    for name in ("curves", "accuracy_by_cost", "by_optimizer_lr", "by_student_width", "by_objective"):
        assert f"]({name}.png)" in text
        assert (page.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_any_figure_is_reported_too(tmp_path: Path, finished_run: Path) -> None:
    run = tmp_path / "run"
    (run / "ledger").mkdir(parents=True)
    for name in ("search.yaml", "manifest.json"):
        (run / name).write_bytes((finished_run / name).read_bytes())
    (run / "ledger" / "00000.jsonl").write_text('{"event": "started", "quota": {"distil": 2}}\n')
    assert "No trial gave a figure" in report.write(run, Console(quiet=True)).read_text()


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """A TensorBoard on loopback; yields its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--reload_interval", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def ask(address: str, seconds: float, ready: Any, body: Any = None) -> Any:
    """The JSON that TensorBoard answers, once it is `ready`."""
    deadline = time.monotonic() + seconds
    answer = None
    while time.monotonic() < deadline:
        request = urllib.request.Request(
            address,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                answer = json.load(response)
        except OSError:  # it is still starting
            time.sleep(0.3)
            continue
        if ready(answer):
            return answer
        time.sleep(0.3)
    raise AssertionError(f"{address} did not become ready; its last answer: {answer}")


def test_tensorboard_shows_scalars_by_epoch_and_hyperparameters(finished_run: Path) -> None:
    with tensorboard(finished_run) as address:
        tags = ask(f"{address}/data/plugin/scalars/tags", 60, lambda found: len(found) == NUM_TRIALS + 1)
        assert {"best/distil", "trials/ended"} <= set(next(tags[name] for name in tags if name.endswith("search")))
        best = int(analysis.best(results.read(finished_run))["number"][0])
        run = next(name for name in tags if name.endswith(f"{best:04d}_distil"))
        assert {"validation/accuracy", "train/loss", "train/learning_rate", "time/seconds"} <= set(tags[run])
        scalars = ask(f"{address}/data/plugin/scalars/scalars?run={run}&tag=validation/accuracy", 10, bool)
        rows = replay(finished_run).trials[best].rows
        # TensorBoard stores float32.
        assert [step for _, step, _ in scalars] == sorted(rows)
        assert [value for _, _, value in scalars] == pytest.approx([rows[e]["val_accuracy"] for e in sorted(rows)])
        experiment = ask(
            f"{address}/data/plugin/hparams/experiment", 30, lambda found: found.get("hparamInfos"), body={}
        )
        assert {"optimizer.lr", "student.width", "arm", "number"} <= {
            info["name"] for info in experiment["hparamInfos"]
        }


def test_tensorboard_shows_a_search_that_is_running(tmp_path: Path, toy_npz: Path) -> None:
    write_search(tmp_path, toy_search(**{"search.num_trials": 2000}))
    launch = SearchProcess(tmp_path, "toy.yaml", "--data", str(toy_npz), "--name", "toy")
    run = tmp_path / "runs" / "toy"
    launch.wait_for_epochs(run, 20)
    with tensorboard(run) as address:
        scalars = ask(f"{address}/data/plugin/scalars/tags", 90, lambda found: any(found.values()))
        assert any("validation/accuracy" in tags for tags in scalars.values())
        hparams = f"{address}/data/plugin/hparams/experiment"
        experiment = ask(hparams, 90, lambda found: found.get("hparamInfos"), body={})
        assert "optimizer.lr" in {info["name"] for info in experiment["hparamInfos"]}
    launch.interrupt()
    assert launch.wait() == 75
