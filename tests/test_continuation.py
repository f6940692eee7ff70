"""A search is its ledger: cut anywhere, it goes on as if nothing had happened; what is read is what was recorded."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_tune import records
from kd_tune.config import SearchConfig
from kd_tune.judges import SCHEDULERS
from kd_tune.ledger import Run, read_events, replay
from kd_tune.limits import DeviceTime
from kd_tune.run_state import Event, RunState
from tests.driven import Driven, MemoryRun, launch, memory_run, proposals_in, spaces_of
from tests.searches import toy_manifest

SEEDS = (1, 3, 4)


def search(
    seed: int, scheduler: str = "asha", goal: str = "front", num_trials: int = 7, sampler: str = "random"
) -> SearchConfig:
    settings: dict[str, Any] = {"name": scheduler}
    if scheduler != "none":
        settings |= {"grace_period": 1, "never_pruned": 0.3}
    if scheduler.endswith("asha"):
        settings["reduction_factor"] = 2
    return SearchConfig.model_validate(
        {
            "goal": goal,
            "num_trials": num_trials,
            "arms": ["distil", "cross_entropy"],
            "sampler": {"name": sampler, "num_startup_trials": 3},
            "scheduler": settings,
            "seed": seed,
        }
    )


def happenings(folder: Path) -> list[Event]:
    """What happened to trials, without the times, and without saying in which launch."""
    events = [{key: value for key, value in event.items() if key != "time"} for event in read_events(folder)]
    return [event for event in events if event["event"] != records.STARTED]


@functools.cache
def undisturbed(config_json: str) -> list[Event]:
    with tempfile.TemporaryDirectory() as folder:
        run, driven = launch(Path(folder) / "run", SearchConfig.model_validate_json(config_json))
        driven.finish()
        run.close()
        return happenings(run.folder)


def tear(folder: Path, num_bytes: int) -> None:
    """Takes so many bytes off the end of the newest segment."""
    *_, newest = sorted((folder / "ledger").iterdir())
    whole = newest.read_bytes()
    newest.write_bytes(whole[: max(0, len(whole) - num_bytes)])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_search_of_these_tests_has_every_kind_of_end(seed: int) -> None:
    events = undisturbed(search(seed).model_dump_json())
    kinds = {event.get("reason", event["event"]) for event in events}
    assert kinds == {"proposed", "epoch", "spared", "pruned", "completed", "diverged"}
    assert {event["stratum"] for event in events if event["event"] == "proposed"} == {0, 1, 2}


# After so many epochs of a launch, so many bytes of the ledger did not reach the disk.
KILLS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400)), min_size=1, max_size=3)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=10)
@given(seed=st.sampled_from(SEEDS), goal=st.sampled_from(["best", "front"]), kills=KILLS)
def test_killed_at_any_byte_and_resumed_a_search_ends_as_if_undisturbed(
    scheduler: str, seed: int, goal: str, kills: list[tuple[int, int]]
) -> None:
    config = search(seed, scheduler, goal)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        for steps, torn in kills:
            run, driven = launch(folder, config)
            for _ in range(steps):
                driven.step()
            run.close()
            tear(folder, torn)
        run, driven = launch(folder, config)
        driven.finish()
        run.close()
        assert happenings(folder) == undisturbed(config.model_dump_json())
        assert replay(folder) == run.state


class JumpingClock:
    """Set forwards and back, by up to a day, whenever it is asked."""

    def __init__(self) -> None:
        self._random = random.Random(0)

    def __call__(self) -> float:
        return 1.8e9 + self._random.uniform(-86400, 86400)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_clock_that_jumps_changes_nothing_but_times(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = search(seed)
    monkeypatch.setattr("kd_tune.ledger.time.time", JumpingClock())
    for steps in (5, 30, 1000):
        run, driven = launch(tmp_path / "run", config)
        devices, held = DeviceTime(1.0), [0.0]
        run.listeners.append(devices)
        run.record(records.STARTED, quota=config.trials_by_arm(), slots=2)
        for _ in range(steps):
            driven.step()
            held.append(devices.seconds(0.0))  # long before: what is counted so far
        run.close()
        assert held == sorted(held)
        assert held[-1] > 0
    assert happenings(tmp_path / "run") == undisturbed(config.model_dump_json())


def record_every_kind(run: Run) -> None:
    """A short run in which everything happens that changes a state."""
    run.record(records.STARTED, quota={"distil": 3}, strata=(1000, 4000))
    for number, (stratum, never_pruned) in enumerate([(0, True), (1, False), (0, False)]):
        run.record(
            records.PROPOSED, trial=number, arm="distil", stratum=stratum, never_pruned=never_pruned, draw={"lr": 0.1}
        )
        run.record(records.EPOCH, trial=number, attempt=0, epoch=1, val_accuracy=0.5)
    run.record(records.SPARED, trial=0, epoch=1)
    run.record(records.EPOCH, trial=0, attempt=1, epoch=1, val_accuracy=float("nan"))
    run.record(records.STOPPED, trial=1, reason="pruned", epoch=1)
    run.record(records.EXTENDED, num_trials=2)
    run.record(records.EXHAUSTED, arm="distil", trials=3)
    run.record(records.TEST_OPENED, purpose="confirm")
    run.record(records.STOPPED, trial=0, reason="completed", epoch=1)
    run.record(records.STOPPED, trial=2, reason="failed", epoch=1, error="No space left on device")
    run.record(records.REOPENED, trials=[2], quota={"distil": 4})


def test_a_ledger_cut_at_every_byte_loads_to_its_last_whole_event(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "trial: {}\n", toy_manifest())
    record_every_kind(run)
    run.close()
    (segment,) = (tmp_path / "run" / "ledger").iterdir()
    whole = segment.read_bytes()
    events = list(read_events(run.folder))
    state, num_whole = RunState(), 0
    for cut in range(len(whole) + 1):
        if whole[:cut].endswith(b"\n"):
            state.apply(events[num_whole])
            num_whole += 1
        segment.write_bytes(whole[:cut])
        assert replay(run.folder) == state, cut
    assert num_whole == len(events)
    assert state == run.state
    assert (state.strata, state.quota, state.trials[0].spared_at) == ((1000, 4000), {"distil": 4}, 1)
    assert (state.trials[2].end, state.trials[2].error, state.unfinished()) == (None, None, [state.trials[2]])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_arm_knows_nothing_of_the_others(scheduler: str) -> None:
    """Its proposals and ends are the same whatever the other arms' trials do, and without them."""
    config = search(5, scheduler, sampler="tpe")
    alone = config.model_copy(update={"arms": config.arms[:1]})

    def run_of(config: SearchConfig, others_value: float) -> MemoryRun:
        run = memory_run(config.trials_by_arm())
        Driven(
            run,
            config,
            spaces_of(config),
            value=lambda trial, epoch: (
                trial.draw["student.width"] / 2 + epoch / 100 if trial.arm == "distil" else others_value
            ),
            slots=1,
        ).finish()
        return run

    first, *others = (run_of(config, 0.1), run_of(config, 0.9), run_of(config, float("nan")), run_of(alone, 0.5))
    for other in others:
        assert proposals_in(other.events, "distil") == proposals_in(first.events, "distil")
        ends = [
            [(trial.never_pruned, trial.spared_at, trial.end) for trial in run.state.of_arm("distil")]
            for run in (first, other)
        ]
        assert ends[0] == ends[1]
    assert proposals_in(first.events, "distil") != proposals_in(first.events, "cross_entropy")
