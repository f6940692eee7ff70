"""A run's answer: its best student, what distillation gave, its size beside its teacher's.

Confirmed figures where there are some; else those of the search, which are too high, and said to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean
from typing import Any

import pandas as pd

from kd_tune import advice, analysis
from kd_tune.blocks import Block, Fact, Facts, Lines, Part, Prose
from kd_tune.confirmation import EXPORT, SIGNIFICANT, Comparison, Confirmation
from kd_tune.manifest import TeacherFacts
from kd_tune.progress import counted, short
from kd_tune.records import DISTIL, METRIC
from kd_tune.results import LATENCY, RunTables


def part(tables: RunTables, confirmed: Confirmation | None) -> Part:
    """The first part of a run's report."""
    blocks: list[Block]
    if confirmed is not None and confirmed.arms:
        blocks = _confirmed(tables, confirmed)
    elif analysis.usable(tables).empty:
        blocks = _nothing(tables)
    else:
        blocks = _unconfirmed(tables)
    left = tables.state.num_left()
    if left:
        blocks.append(Lines([f"The search has not ended: {counted(left, 'trial')} left."]))
    return Part("answer", "The answer", blocks)


def _confirmed(tables: RunTables, confirmed: Confirmation) -> list[Block]:
    best = max(confirmed.arms, key=lambda arm: mean(arm.val_accuracies))  # test images choose nothing
    seeds = f"{counted(len(best.test_accuracies), 'fresh seed')}, {confirmed.num_images:,} test images"
    facts = [
        Fact(
            "Best student",
            best.student,
            f"{best.model}, trial {best.trial} of the search, trained again; "
            f"of {len(confirmed.arms)} confirmed the best on validation images",
        ),
        Fact(
            "Test accuracy",
            f"{mean(best.test_accuracies):.2%}",
            f"95 % interval {100 * best.low:.2f} to {100 * best.high:.2f}; {seeds}",
        ),
    ]
    gains = [_gain(one) for one in confirmed.comparisons if one.student == best.student]
    unknown = Fact("What distillation gave", "unknown", "nothing was confirmed at this student to compare with")
    facts += gains or [unknown]
    facts += _against_teacher(tables, best.num_parameters, best.draw)
    return [
        Facts(facts),
        Lines([f"Its weights: {tables.folder / EXPORT / best.export}", *_configuration(best.draw)]),
    ]


def _gain(comparison: Comparison) -> Fact:
    """What one model gave over another, at one student."""
    decided = comparison.p_value < SIGNIFICANT
    return Fact(
        f"{comparison.first} against {comparison.second}",
        f"{100 * comparison.difference:+.2f} points",
        f"95 % interval {100 * comparison.low:+.2f} to {100 * comparison.high:+.2f}; "
        f"p {comparison.p_value:.2g}: {'a real difference' if decided else 'not decidable which is better'}",
    )


def _unconfirmed(tables: RunTables) -> list[Block]:
    trials, best = analysis.usable(tables), analysis.usable(tables).iloc[0]
    draw = tables.state.trials[int(best["number"])].draw
    configuration = " ".join(f"{name}={short(value)}" for name, value in draw.items() if name.startswith("student"))
    facts = [
        Fact("Best student so far", configuration or str(tables.file.trial["student"]["name"]), _trial(best)),
        Fact(
            "Validation accuracy",
            f"{best[METRIC]:.2%}",
            f"unconfirmed: the largest of {counted(len(trials), 'trial')}, so it is too high",
        ),
    ]
    facts += _unconfirmed_gains(tables, trials)
    if len(tables.state.quota) < 2:
        facts.append(Fact("What distillation gave", "unknown", "the search had no control"))
    facts += _against_teacher(tables, int(best["num_parameters"]), draw)
    confirm = advice.command("kd-tune", "confirm", tables.folder)
    why = "Trained again on fresh seeds and measured on test images, the best give figures that can be believed:"
    return [Facts(facts), Lines(_configuration(draw)), Prose(why), Lines([confirm], code=True)]


def _unconfirmed_gains(tables: RunTables, trials: pd.DataFrame) -> Iterator[Fact]:
    """The best distilled trial beside the best of every control, at the same size of student if there is one."""
    distilled = trials[trials["arm"] == DISTIL]
    if distilled.empty:
        return
    best = distilled.iloc[0]
    for control in tables.state.quota:
        mine = trials[trials["arm"] == control]
        same = mine[mine["num_parameters"] == best["num_parameters"]]
        if control == DISTIL or mine.empty:
            continue
        other = (mine if same.empty else same).iloc[0]
        size = "of another size" if same.empty else "at the same size"
        note = f"on validation images, unconfirmed; best against best {size} ({_trial(other)})"
        yield Fact(f"{DISTIL} against {control}", f"{100 * (best[METRIC] - other[METRIC]):+.2f} points", note)


def _trial(row: pd.Series) -> str:
    return f"{row['arm']}, trial {row['number']}, {counted(int(row['epoch']), 'epoch')}"


def _configuration(draw: dict[str, Any]) -> list[str]:
    """How to write a student's parameters; none if the search drew none."""
    return ["Its parameters: " + " ".join(f"{name}={short(value)}" for name, value in draw.items())] if draw else []


def _against_teacher(tables: RunTables, num_parameters: int, draw: dict[str, Any]) -> Iterator[Fact]:
    """Size and cost of a student, and of the teacher that it had, or of the most accurate one."""
    name, teacher = _teacher(tables, draw)
    same = tables.trials[tables.trials["num_parameters"] == num_parameters]
    costs = same["multiply_adds"].dropna() if "multiply_adds" in same else pd.Series(dtype=float)
    for label, student, of in (
        ("Parameters", num_parameters, None if teacher is None else teacher.num_parameters),
        (
            "Multiply-adds an image",
            int(costs.iloc[0]) if len(costs) else None,
            None if teacher is None else teacher.multiply_adds,
        ),
    ):
        if student is not None:
            yield Fact(label, f"{student:,}", _beside(student, of, name))
    yield from _latency(tables, same, name)
    if teacher is not None:
        knows = {
            True: "it learnt from these images",
            False: "images that it had not seen",
            None: "nobody knows whether it had seen these images",
        }
        note = f"validation; {knows[teacher.knows_validation_images]}"
        yield Fact(f"Teacher {name}", f"{teacher.val_accuracy:.2%}", note)


def _latency(tables: RunTables, same: pd.DataFrame, name: str) -> Iterator[Fact]:
    """Milliseconds for an image of students of one size and of their teacher, if they were measured."""
    measured = same["latency_ms"].dropna() if "latency_ms" in same else pd.Series(dtype=float)
    if tables.speed is None or measured.empty:
        return
    student, conditions = float(measured.iloc[0]), tables.speed.conditions
    teacher = tables.speed.teachers.get(name, {}).get(LATENCY)
    how = f"{conditions.get('runtime')}, one core of {conditions.get('processor')}"
    beside = "" if teacher is None else f"teacher {name}: {teacher:.3g} ms, {teacher / student:.3g} times as long; "
    yield Fact("Latency of an image", f"{student:.3g} ms", beside + how)


def _teacher(tables: RunTables, draw: dict[str, Any]) -> tuple[str, TeacherFacts | None]:
    known = {name: facts for name, facts in tables.manifest.teachers.items() if not facts.is_control}
    if draw.get("teacher") in known:
        return draw["teacher"], known[draw["teacher"]]
    if not known:
        return "", None
    name = max(known, key=lambda one: known[one].val_accuracy)
    return name, known[name]


def _beside(student: int, teacher: int | None, name: str) -> str:
    """`18.1 times fewer than teacher digits (1,115,018)`."""
    if not teacher or not student:
        return "the teacher's is not known"
    times = teacher / student
    said = f"{times:.3g} times fewer than" if times >= 1 else f"{1 / times:.3g} times those of"
    return f"{said} teacher {name} ({teacher:,})"


def _nothing(tables: RunTables) -> list[Block]:
    """Of a run in which nothing came out, why."""
    ends = tables.trials["status"].value_counts()
    counts = ", ".join(f"{count} {status}" for status, count in ends.items())
    lines = [f"No trial gave a figure. Of {counted(len(tables.trials), 'trial')}: {counts or 'none has begun'}."]
    errors = tables.trials["error"].dropna()
    if len(errors):
        most = errors.value_counts()
        lines.append(f"The most frequent error, of {counted(int(most.iloc[0]), 'trial')}: {most.index[0]}")
    if "diverged" in ends:
        lines.append("Diverged trials had a loss that was not finite: lower the learning rates' upper end.")
    return [Lines(lines)]
