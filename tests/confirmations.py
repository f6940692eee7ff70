"""Searches and confirmations made by hand, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from kd_tune import confirmation
from kd_tune.confirmation import Candidate, Comparison, Confirmation, ConfirmedArm, Plan
from kd_tune.ledger import Run
from kd_tune.paths import write_json
from kd_tune.ranges import Choice, FloatRange
from kd_tune.run_state import RunState
from kd_tune.space import Space
from tests.searches import toy_manifest, toy_search

Outcome = tuple[float, int, float]  # width, epochs, last validation accuracy

SPACE = Space(
    {
        "student": {"name": "studentnet", "width": Choice(options=[0.25, 0.5, 1.0])},
        "objective": {"name": "cross_entropy"},
        "optimizer": {"name": "sgd", "lr": FloatRange(bounds=[0.0, 1.0])},
    }
)


def search_state(**arms: Sequence[Outcome]) -> RunState:
    """A search whose trials have ended like this, six epochs being the whole of a trial."""
    state = RunState()
    state.apply({"event": "started", "quota": {arm: len(outcomes) for arm, outcomes in arms.items()}})
    for arm, outcomes in arms.items():
        for width, epochs, value in outcomes:
            number = len(state.trials)
            draw = {"student.width": width, "optimizer.lr": (number + 1) / 100}
            state.apply({"event": "proposed", "trial": number, "arm": arm, "draw": draw})
            row = {"val_accuracy": value, "num_parameters": round(1000 * width), "diverged": False}
            state.apply({"event": "epoch", "trial": number, "attempt": 0, "epoch": epochs, **row})
            state.apply({"event": "stopped", "trial": number, "reason": "completed" if epochs == 6 else "pruned"})
    return state


def candidate(arm: str, trial: int, student: int = 0) -> Candidate:
    draw = {"student.width": 0.5, "optimizer.lr": 0.1}
    return Candidate(
        student=student, arm=arm, model=arm, trial=trial, draw=draw, moved=False, epoch=6, val_accuracy=0.9
    )


def toy_plan(*candidates: Candidate, num_seeds: int = 3, top: int | None = None) -> Plan:
    sections = [{"name": "studentnet", "width": width} for width in (0.5, 0.25)]
    students = sections[: 1 + max(one.student for one in candidates)]
    trials = [{one.arm: 8 for one in candidates} for _ in students]
    if top is None:
        top = sum((one.arm, one.student) == (candidates[0].arm, candidates[0].student) for one in candidates)
    return Plan(
        seed=5,
        by=None,
        where={},
        top=top,
        num_seeds=num_seeds,
        students=students,
        trials=trials,
        candidates=list(candidates),
    )


def toy_confirmation() -> Confirmation:
    """Two students, three arms; distillation beats one control."""
    arms, comparisons = [], []
    for student, size in enumerate((17_482, 5_102)):
        name = f"studentnet width={(0.5, 0.25)[student]}"
        for place, arm in enumerate(("distil", "cross_entropy", "label_smoothing")):
            mean = 0.95 - 0.03 * student - 0.008 * place
            arms.append(
                ConfirmedArm(
                    student=name,
                    num_parameters=size,
                    arm=arm,
                    model=arm,
                    trial=place,
                    draw={"optimizer.lr": 0.1},
                    trainings=[place, place + 3],
                    val_accuracies=[mean + 0.004, mean + 0.006],
                    test_accuracies=[mean - 0.002, mean + 0.002],
                    low=mean - 0.006,
                    high=mean + 0.005,
                    moved=False,
                    search_trials=8,
                    search_maximum=mean + 0.015,
                    search_shrunken=None if arm == "label_smoothing" else mean + 0.007,
                    exported=place,
                    export=f"{arm}_{student + 1}",
                )
            )
        for control, difference, p_value in (("cross_entropy", 0.008, 0.01), ("label_smoothing", 0.004, 0.3)):
            comparisons.append(
                Comparison(
                    student=name,
                    first="distil",
                    second=control,
                    difference=difference,
                    low=difference - 0.005,
                    high=difference + 0.005,
                    p_value=p_value,
                )
            )
    return Confirmation(
        created="2026-01-01T00:00:00+0000",
        num_seeds=2,
        num_images=10_000,
        opening=1,
        search_arms=["distil", "cross_entropy", "label_smoothing"],
        by=None,
        arms=arms,
        comparisons=comparisons,
        left_out=[],
        knows_validation_images={"digits": False},
        class_names=["ant", "bee", "cow"],
        class_groups={"insects": ["ant", "bee"], "cattle": ["cow"]},
        teacher="digits",
    )


def begin(run: Path, number: int, complete: bool = False) -> Path:
    """A confirmation's folder in a run's, begun or completed."""
    place = confirmation.folder_of(run, number)
    (place / "ledger").mkdir(parents=True)
    write_json(place / confirmation.PLAN, toy_plan(candidate("distil", 0)).model_dump())
    if complete:
        write_json(place / confirmation.FIGURES, toy_confirmation().model_dump())
    return place


def write_run(folder: Path, **arms: Sequence[Outcome]) -> Path:
    """A run on disk whose trials have ended like this."""
    run = Run.create(folder, yaml.safe_dump(toy_search()), toy_manifest())
    state = search_state(**arms)
    run.record("started", quota=state.quota)
    for trial in state.trials.values():
        run.record("proposed", trial=trial.number, arm=trial.arm, draw=trial.draw)
        run.record("epoch", **{key: value for key, value in trial.rows[trial.epoch].items() if key != "event"})
        run.record("stopped", trial=trial.number, reason=trial.end)
    run.close()
    return folder
