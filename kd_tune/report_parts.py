"""What a run's report says of its search, part by part, in the order in which somebody who was not there reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from kd_tune import advice, analysis, confirmation, parallel_plot, plots, rung_diagnosis
from kd_tune.analysis import Finding
from kd_tune.blocks import Block, Code, Lines, Part, Picture, Prose, TableBlock
from kd_tune.confirmation import Confirmation
from kd_tune.ledger import PLAN, SEARCH_FILE
from kd_tune.paths import file_name, read_record
from kd_tune.progress import counted, duration, short
from kd_tune.records import ARMS, METRIC
from kd_tune.results import RunTables
from kd_tune.run_state import RunState
from kd_tune.space import Space, describe

Sections = Mapping[str, pd.DataFrame]

MOST_SIZES = 12  # of students, that a table has a row each for
MOST_FAILURES = 50  # that a page shows
MOST_TRIALS = 200  # likewise


def title(confirmed: Confirmation) -> str:
    """What a confirmation was."""
    return (
        f"Confirmed on {confirmed.num_images:,} test images with {confirmed.num_seeds} fresh seeds "
        f"(opening {confirmed.opening} of the test set)"
    )


def of_confirmation(confirmed: Confirmation) -> Part:
    """What a confirmation found."""
    arms = confirmation.arms_table(confirmed)
    return Part(
        "confirmed",
        title(confirmed),
        [
            Prose(
                "The best configurations of each arm by validation accuracy were trained again. Where there were "
                "several, one was chosen by its mean validation accuracy and trained on seeds that had no part in the "
                "choice. Only these trainings are reported, and only for them were the test images opened. Intervals "
                "are of the accuracy expected over other seeds and other test images; p-values are adjusted for all "
                "comparisons (Holm)."
            ),
            TableBlock("confirmed", arms, confirmation.shown_arms(confirmed)),
            TableBlock("comparisons", confirmation.comparisons_table(confirmed), folded="All comparisons"),
            Lines(confirmation.findings(confirmed)),
            Picture("confirmed", "test accuracy of every confirmed model, with its interval", plots.confirmed(arms)),
            Prose(
                "`validation` is the mean over the fresh seeds, `trials in search` how many usable ones the search had "
                "of this arm and student (an arm with few is tuned less well), `maximum in search` what the best of "
                "them had reported, and `shrunken` the same without the luck of having been the largest on these "
                "validation images. The students whose seed had the median validation accuracy:"
            ),
            Lines(confirmation.configurations(confirmed), code=True),
        ],
        short="Confirmation",
    )


def of_search(tables: RunTables, sections: Sections, confirmed: Confirmation | None) -> Iterator[Part]:
    """What the search reported: its best trials, by arm, size and teacher."""
    winners = [
        f"{row['arm']}: {row[METRIC]:.2%} validation accuracy (trial {row['number']}, "
        f"{int(row['num_parameters']):,} parameters)"
        for row in analysis.best(tables).to_dict("records")
    ]
    opened = Prose(f"The test set was opened {openings(tables.state)}.")
    if not winners:
        yield Part("reported", "What the search reported", [Lines(["No trial gave a figure."]), opened])
        return
    blocks: list[Block] = [
        Lines(winners),
        Prose(
            "These figures are **unconfirmed**: each is the largest of many on the validation images, so it is too "
            "high by an unknown amount, and more so for an arm with more trials."
        ),
        opened,
    ]
    if confirmed is None:
        blocks.append(Prose("`kd-tune confirm` trains the best again on fresh seeds and measures them on test images."))
    if len(tables.state.quota) < 2:
        blocks.append(
            Prose(
                "There is **no control**: the search trained no student without a teacher (`arms: [distil]`), so it "
                "cannot say what distillation gained."
            )
        )
    yield Part("reported", "What the search reported", blocks)
    if not sections["best"].empty:
        yield Part("best", "Best configurations", [TableBlock("best", sections["best"])], level=3)
    if not sections["best_by_student"].empty:
        text = (
            "Best validation accuracy of each arm at each number of parameters, with the epochs that it took. Only "
            "figures of the same number of epochs compare: a trial that was stopped early had no chance to get further."
        )
        table = TableBlock("best_by_student", sections["best_by_student"], pivot(sections["best_by_student"]))
        yield Part("by_size", "By size of student", [Prose(text), table], level=3)
    if not sections["by_teacher"].empty:
        yield _by_teacher(tables, sections["by_teacher"])


def _by_teacher(tables: RunTables, table: pd.DataFrame) -> Part:
    text = (
        "What the best student of each teacher reached, at every size of student. Where the figure falls while the "
        "teacher gets better, the student is too small to follow it: the capacity gap."
    )
    what = "validation accuracy of the best student of each teacher"
    picture = Picture("capacity_gap", what, plots.capacity_gap(tables, table))
    return Part("by_teacher", "By teacher", [Prose(text), TableBlock("by_teacher", table), picture], level=3)


def openings(state: RunState) -> str:
    """How often a run opened its test set, and whether its search went on as if it had not."""
    times = f"{counted(len(state.test_openings), 'time')} by this run"
    later = sum(trial.after_opening for trial in state.trials.values())
    if not later:
        return times
    return (
        f"{times}, and the search went on after that, by {later} trials: "
        "what is confirmed again among them was chosen after a look"
    )


def of_settings(tables: RunTables) -> Part:
    """What was searched."""
    file, images = tables.file, tables.manifest.dataset
    counts = f", {images['num_train']:,} images to train on" if images.get("num_train") else ""
    counts += f", {images['num_val']:,} to select by" if isinstance(images.get("num_val"), int) else ""
    training, scheduler = file.trial["training"], file.search.scheduler
    pruning = {"none": "no trial is pruned", "median": "trials below the median are pruned"}.get(
        scheduler.name, f"rungs from epoch {scheduler.grace_period} on keep one in {scheduler.reduction_factor}"
    )
    size = training.get("batch_size")
    batches = f", batches of {size}" if isinstance(size, int) else ""  # else it is searched, and stands below
    quota = ", ".join(f"{arm} {count}" for arm, count in tables.state.quota.items())
    lines = [
        f"data: {images['name']}{counts}, {len(images['class_names'])} classes",
        f"trials of each arm: {quota}; goal: {file.search.goal}",
        f"sampler: {file.search.sampler.name}; scheduler: {scheduler.name} ({pruning})",
        f"a trial: {training['num_epochs']} epochs{batches}",
    ]
    rows = [{"parameter": name, "values": describe(leaf)} for name, leaf in Space(file.trial).parameters().items()]
    table = TableBlock("space", pd.DataFrame(rows, columns=["parameter", "values"]))
    return Part("searched", "What was searched", [Lines(lines), table])


def of_cost(sections: Sections) -> Part:
    """What it cost."""
    blocks: list[Block] = [
        Prose(
            "`saved` is the share of the epochs that pruning saved against training every pruned trial to the end; "
            "`saved_seconds` is an estimate, at each pruned trial's own pace. `epochs_for_diagnosis` were spent on "
            "trials that are never pruned, after they would have been stopped."
        ),
        TableBlock("budget", sections["budget"]),
    ]
    if not sections["teacher_answers"].empty:
        text = (
            "Teachers were asked once for each view of each training image (`computed`); asked in every step, they "
            "would have answered as often as students `used` an answer. Counts that follow from the records, not "
            "measured times."
        )
        blocks += [Prose(text), TableBlock("teacher_answers", sections["teacher_answers"])]
    return Part("cost", "What it cost", blocks)


def of_figures(tables: RunTables, sections: Sections) -> Iterator[Part]:
    """Curves, rungs, importance, each parameter, cost: the parts that are pictures first."""
    if analysis.usable(tables).empty:
        return
    stretched = (
        "Axes of accuracy are stretched so that halving the error is always the same step; the worst tenth of the "
        "trials lies below the pictures' floor."
    )
    picture = Picture("curves", "validation accuracy by epoch, a line a trial", plots.curves(tables))
    yield Part("curves", "Learning curves", [Prose(stretched), picture])
    yield from _on_rungs(tables, sections["rungs"])
    if not sections["importance"].empty:
        yield _importance(tables, sections["importance"])
    shown = [name for name in tables.parameters if not analysis.usable(tables)[name].isna().all()]
    pictures = [
        Picture(f"by_{file_name(name)}", f"validation accuracy by {name}", plots.by_parameter(tables, name))
        for name in shown
    ]
    if pictures:
        yield Part("slices", "Parameter by parameter", [*pictures])
    if figure := parallel_plot.parallel_coordinates(tables):
        text = "Distilled trials as lines through their parameters to their validation accuracy, which colours them."
        picture = Picture("parallel_coordinates", "distilled trials through their parameters to accuracy", figure)
        yield Part("parallel", "Parallel coordinates", [Prose(text), picture])
    yield _on_cost(tables, sections["fronts"])


def _on_rungs(tables: RunTables, table: pd.DataFrame) -> Iterator[Part]:
    if table.empty:
        return
    text = (
        "Rank correlation (Spearman) of validation accuracies at an epoch (the rungs, where the search has some) with "
        "those of the last one, with its 95 % interval, over `n` trials that were trained to the end whatever their "
        "first epochs said, each ranked within its arm and stratum. `best` is how many trials make the tenth that ends "
        "best, `best_stopped` how many of these would have been stopped by then."
    )
    if not rung_diagnosis.prunes(tables):
        text += (
            " This search prunes nothing: `best_stopped` is what the epoch would do as a rung that keeps the best "
            "third."
        )
    blocks: list[Block] = [Prose(text), TableBlock("rungs", table, _with_intervals(table))]
    if figure := plots.rank_correlation(tables):
        blocks.append(Picture("rank_correlation", "rank correlation of each epoch with the end", figure))
    yield Part("rungs", "Do early epochs rank as the end does?", blocks, short="Rungs")


def _importance(tables: RunTables, shares: pd.DataFrame) -> Part:
    epoch = analysis.comparison_epoch(tables)
    text = (
        f"Share of the variance in validation accuracy at epoch {epoch} that each parameter explains, among distilled "
        "trials (fANOVA). Parameters of a branch that not every trial took are left out."
    )
    picture = Picture("importance", "share of the variance by parameter", plots.importance(shares, epoch))
    return Part("importance", "What mattered", [Prose(text), picture, TableBlock("importance", shares)])


def _on_cost(tables: RunTables, fronts: pd.DataFrame) -> Part:
    text = (
        "Trials that no other of their arm beats with as few parameters or fewer; the picture shows them, and the same "
        "by multiply-adds an image."
    )
    what = "validation accuracy by parameters and by multiply-adds of the student"
    picture = Picture("accuracy_by_cost", what, plots.accuracy_by_cost(tables))
    return Part("fronts", "Accuracy and cost", [Prose(text), picture, TableBlock("fronts", fronts)])


def of_diagnosis(sections: Sections, findings: list[Finding]) -> Iterator[Part]:
    """What the search says about itself."""
    if findings:
        to_do, rest = ([one.text for one in findings if one.act is act] for act in (True, False))
        blocks: list[Block] = [Prose("To change before the next search:"), Lines(to_do)] if to_do else []
        blocks += [Lines(rest)] if rest else []
        yield Part("diagnosis", "What the search says about itself", blocks, short="Diagnosis and advice")
    if not sections["range_ends"].empty:
        ends = TableBlock("range_ends", sections["range_ends"])
        yield Part("range_ends", "Best values at a range's end", [ends], level=3)
    if not sections["divergence"].empty:
        where = TableBlock("divergence", sections["divergence"])
        yield Part("divergence", "Where trials diverged", [where], level=3)


def of_ends(tables: RunTables, sections: Sections) -> Iterator[Part]:
    """How trials ended, and what broke them."""
    time = duration(float(tables.trials["train_seconds"].sum()))
    text = (
        "`of_full` is the part of the epochs that training every trial to the end would have taken. "
        f"Training took {time} summed over trials."
    )
    yield Part("outcomes", "How trials ended", [Prose(text), TableBlock("outcomes", sections["outcomes"])])
    if not sections["failures"].empty:
        text = (
            "Every time that something broke a trial, which divergence does not. `lost` is a node that went, or the "
            "host of a stack while another trial was in hand; a trial always starts again after that, after anything "
            "else `search.max_failures` times in a launch. `time` counts a trial's failures, `epoch` is the last that "
            "it had reported."
        )
        table = TableBlock("failures", sections["failures"], most=MOST_FAILURES)
        yield Part("failures", "Failures", [Prose(text), table], level=3)


def of_trials(tables: RunTables) -> Part:
    """Every trial, the best first."""
    ranked = tables.trials.set_index("number", drop=False).rename_axis(None)
    others = ranked.index.difference(tables.ranking)
    columns = ["number", "arm", "status", "epoch", METRIC, "num_parameters", *tables.parameters, "train_seconds"]
    table = ranked.loc[[*tables.ranking, *others], columns]
    count = counted(len(table), "trial")
    block = TableBlock("trials", table, most=MOST_TRIALS, folded=f"{count}, the best first")
    return Part("trials", "All trials", [block])


def of_making(tables: RunTables, confirmed: Confirmation | None) -> Part:
    """How the run was made, and can be made again."""
    manifest = tables.manifest
    prints = manifest.fingerprints
    lines = [
        f"started {manifest.created}, seed {manifest.seed}",
        f"data: {manifest.dataset['name']} ({prints.data}), split {manifest.dataset['split']}",
        *(line for name in manifest.teachers for line in _on_teacher(tables, name)),
        "versions: " + ", ".join(f"{name} {version}" for name, version in manifest.versions.items() if version),
        _machine(manifest.hardware),
    ]
    text = (
        "What makes it again, from the search file that lies in the run. A sampler that learns proposes by what has "
        "ended, so of trials that run side by side some may be others:"
    )
    file = (tables.folder / SEARCH_FILE).read_text(encoding="utf-8")
    return Part(
        "made",
        "How it was made",
        [
            Lines(lines),
            Prose(text),
            Lines(_commands(tables, confirmed), code=True),
            Code(file, "yaml", f"The search file, {SEARCH_FILE}"),
        ],
    )


def _on_teacher(tables: RunTables, name: str) -> Iterator[str]:
    teacher, prints = tables.manifest.teachers[name], tables.manifest.fingerprints.teachers
    size = f"{teacher.num_parameters:,} parameters, " if teacher.num_parameters else ""
    opened = counted(len(teacher.record.get("test_openings", [])), "time")
    yield (
        f"teacher {name} ({prints.get(name)}): {size}validation accuracy {teacher.val_accuracy:.2%}, measured {opened} "
        "on test images before this run"
    )
    if teacher.is_control:
        yield f"teacher {name} is a control: it knows nothing on purpose"
    elif teacher.knows_validation_images:
        yield (
            f"teacher {name} learnt from images that this search selects on: its own accuracy there says nothing, and "
            "students that copy it may look better than they are"
        )
    elif teacher.knows_validation_images is None:
        yield f"nobody can tell what teacher {name} learnt from, so it may know this search's validation images"


def _machine(hardware: Mapping[str, Any]) -> str:
    parts = [hardware["processor"], f"{hardware['cores']} cores", f"{hardware['memory_gib']} GiB", *hardware["gpus"]]
    return f"machine: {', '.join(map(str, parts))}"


def _commands(tables: RunTables, confirmed: Confirmation | None) -> list[str]:
    """What makes the run again, then its confirmation, then this report."""
    folder, source = tables.folder, tables.manifest.source
    data = [] if source is None else ["--data", source]
    lines = [advice.command("kd-tune", "search", folder / SEARCH_FILE, *data)]
    place = None if confirmed is None else confirmation.latest_folder(folder)
    if place is not None:
        plan = read_record(place / PLAN, confirmation.Plan)
        words = ["--top", plan.top, "--seeds", plan.num_seeds]
        if plan.all_students is not None:
            words += ["--students", "all" if plan.all_students else "best"]
        words += [] if plan.by is None else ["--by", plan.by]
        words += [word for name, value in plan.where.items() for word in ("--where", f"{name}={short(value)}")]
        lines.append(advice.command("kd-tune", "confirm", folder, *words, *data))
    return [*lines, advice.command("kd-tune", "analyze", folder, "--html")]


def pivot(best_by_student: pd.DataFrame) -> pd.DataFrame:
    """A row a size of student, or of many a group of sizes, a column an arm; each figure with the epochs it took."""
    sizes = sorted(best_by_student["num_parameters"].unique())
    groups = np.array_split(sizes, MOST_SIZES) if len(sizes) > MOST_SIZES else [[size] for size in sizes]
    first = "num_parameters" if len(groups) == len(sizes) else "up_to_parameters"
    rows = []
    for group in groups:
        best = best_by_student[best_by_student["num_parameters"].isin(group)].sort_values(METRIC)
        cells = {row["arm"]: f"{row[METRIC]:.2%} ({row['epoch']})" for row in best.to_dict("records")}
        rows.append({first: int(group[-1]), **cells})
    arms = [arm for arm in ARMS if arm in set(best_by_student["arm"])]
    return pd.DataFrame(rows, columns=[first, *arms])


def _with_intervals(rungs: pd.DataFrame) -> pd.DataFrame:
    """The table of rungs with each correlation and its interval in one cell."""
    cells = [
        "too few" if pd.isna(row["rho"]) else f"{row['rho']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        for row in rungs.to_dict("records")
    ]
    shown = rungs.drop(columns=["rho", "low", "high"])
    shown.insert(3, "rank_correlation", cells)
    return shown
