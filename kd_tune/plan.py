"""What a person reads of a plan: lines that are as good in a log as on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kd_tune.fills import Fill
from kd_tune.limits import HOUR, Limits
from kd_tune.plan_figures import Group, Plan
from kd_tune.progress import counted, duration


def lines(plan: Plan, limits: Limits) -> Iterator[str]:
    """A plan in words.

    Args:
        plan: the search.
        limits: of which it is said what they allow.
    """
    yield f"plan: {plan.file.source.name}; {plan.rule}"
    yield from _table(plan)
    yield "expected, of such searches on average; single ones took 0.6 to 1.3 times as many epochs"
    yield from map(_teacher, plan.fills)
    sizes = ", ".join(
        f"{seconds:.3g} s with {size:,} parameters" for size, seconds in sorted(plan.speed.seconds.items())
    )
    yield f"an epoch: {sizes} ({plan.speed.source})"
    yield from _hours(plan)
    yield _disk(plan)
    for name, share in plan.share_within(limits).items():
        fits = "all" if share == 1 else f"about {share * plan.epochs:,.0f} of"
        rest = "" if share == 1 else f" ({share:.0%}); the rest with --resume"
        given = limits.hours if name == "--max-hours" else limits.device_hours
        yield f"{name} {given:g}: {fits} {plan.epochs:,.0f} student epochs fit{rest}"


def _table(plan: Plan) -> Iterator[str]:
    """Trials by arm and the milestones that they reach."""
    rows = [
        [
            "arm",
            "trials",
            *(f"to epoch {epoch}" for epoch in plan.milestones[1:]),
            "student epochs",
            "if none is pruned",
        ]
    ]
    rows += [_row(arm, groups, plan) for arm, groups in plan.arms.items()]
    if len(rows) > 2:
        rows.append(_row("all", plan.groups, plan))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for name, *figures in rows:
        yield "  ".join([name.ljust(widths[0]), *map(str.rjust, figures, widths[1:])])


def _row(name: str, groups: Sequence[Group], plan: Plan) -> list[str]:
    reached = [sum(group.reach(epoch) for group in groups) for epoch in plan.milestones]
    epochs, whole = sum(group.epochs for group in groups), reached[0] * plan.milestones[-1]
    return [name, *(f"{count:,.0f}" for count in reached), f"{epochs:,.0f}", f"{whole:,.0f}"]


def _teacher(fill: Fill) -> str:
    if fill.note:
        said = fill.note
    elif not fill.missing:
        said = f"all {fill.wanted:,} answers are there"
    else:
        said = f"{fill.missing:,} of {fill.wanted:,} answers are asked for first, {duration(fill.seconds)}"
    first = f"not there yet, trained first, {duration(fill.training)}; " if fill.training else ""
    return f"teacher: {fill.teacher}: {first}{said}"


def _hours(plan: Plan) -> Iterator[str]:
    gpus = plan.file.resources.gpus_per_trial
    places = counted(plan.places, "place") + (f", {plan.stack} trials in each" if plan.stack > 1 else "")
    total = plan.preparing_hours + plan.training_hours
    yield (
        f"hours: {total:.2f} ({duration(total * HOUR)}): {plan.training_hours:.2f} for students in {places}, "
        f"{plan.preparing_hours:.2f} for teachers"
    )
    yield f"device hours: {plan.device_hours:.2f} of {'GPUs' if gpus else 'CPU places'}"


def _disk(plan: Plan) -> str:
    sizes = plan.disk()
    cache = sizes.pop("soft targets")
    parts = ", ".join(f"{name} {_megabytes(size)}" for name, size in sizes.items())
    run = _megabytes(sum(sizes.values()))
    return f"disk: {run} for the run ({parts}), {_megabytes(cache)} for soft targets in the cache"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
