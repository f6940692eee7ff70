"""The study that kd_tune starts from, done again: hard labels, a teacher, or both; and which of its claims hold.

    python benchmarks/seed_study.py                                     # on 5,000 embedded digits, a few minutes
    python benchmarks/seed_study.py search_spaces/seed_study.yaml search_spaces/seed_study_long.yaml \\
        --data cifar10.npz --page docs/seed_study.md

For every search file: the grid over alpha, temperature and rate; then, at temperature 4, two confirmations. In the
first, all students have the rate that is best for alpha 0 on validation images; in the second each has its own, of the
three best the one that is best on other seeds. Each opens the test set once. What is there already is not done again;
the page is written anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

import pandas as pd
from common import arguments_parser, reflow, table
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Console

from kd_tune import (
    answers,
    confirmation,
    confusion_plots,
    plots,
    prediction_plots,
    results,
    search,
)
from kd_tune.class_profiles import closeness, closeness_differences
from kd_tune.confirm import Request, confirm
from kd_tune.confirmation import Confirmation
from kd_tune.confusions import EVERY_GROUP, confusion_differences, confusions, inside_groups
from kd_tune.ledger import SEARCH_FILE
from kd_tune.paths import read_record, written_whole
from kd_tune.predictions import Predictions, accuracy, accuracy_by_class, paired_tests
from kd_tune.records import METRIC
from kd_tune.results import RunTables
from kd_tune.search import Launch
from kd_tune.search_file import load_search_file

ALPHA, TEMPERATURE, RATE = "objective.alpha", "objective.temperature", "optimizer.lr"
OURS = 4.0  # the temperature; the study does not give its own
HARD, BOTH, SOFT = "alpha=0", "alpha=0.5", "alpha=1"
STUDENTS = {HARD: "hard labels", BOTH: "both", SOFT: "teacher alone"}
SAME, OWN = "temperature 4, the same rate for all", "temperature 4, each its own best rate"
FREE = "each its own best temperature and rate"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Read off the study's confusion matrices: 10,000 test images of CIFAR-10, one training each, in %.
PUBLISHED = {HARD: 62.43, BOTH: 65.93, SOFT: 65.28, "teacher": 94.0}
PUBLISHED_BY_CLASS = {
    HARD: (71.9, 70.6, 50.4, 48.3, 50.3, 45.7, 75.6, 68.7, 79.4, 63.4),
    BOTH: (74.2, 70.4, 45.9, 42.0, 66.3, 52.9, 77.5, 71.2, 75.8, 83.1),
    SOFT: (75.0, 75.5, 61.3, 46.2, 51.8, 51.5, 67.8, 71.3, 82.9, 69.5),
    "teacher": (96.0, 96.8, 91.7, 87.9, 95.5, 90.0, 95.5, 96.1, 96.7, 95.9),
}


CLAIMS = (
    "Soft targets beat hard ones.",
    "The student of the teacher alone has the class profile closest to the teacher's.",
    "Confusions stay among like classes.",
)


class Judgement(NamedTuple):
    """What becomes of a claim.

    Attributes:
        about: by which confirmation.
        verdict: in words.
        figures: what it rests on.
    """

    about: str
    verdict: str
    figures: str


@dataclass(frozen=True)
class Part:
    """One search file's share of the study.

    Attributes:
        name: of the file, without its ending.
        tables: the grid.
        rate: best for alpha 0 on validation images.
        found: the confirmations, by what they are about.
        told: their answers, likewise.
    """

    name: str
    tables: RunTables
    rate: float
    found: dict[str, Confirmation]
    told: dict[str, Predictions]


def main() -> None:
    parser = arguments_parser(__doc__)
    default = Path("search_spaces/seed_study_mnist5k.yaml")
    parser.add_argument("files", nargs="*", type=Path, default=[default], help=f"search files [default: {default}]")
    parser.add_argument("--data", type=Path, help="where the data lie")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs, which are gone on with")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of every student")
    parser.add_argument("--page", type=Path, help="the page to write [default: seed_study.md in the first run]")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    parts = [
        study(file, arguments.runs / file.stem, arguments.data, arguments.seeds, console) for file in arguments.files
    ]
    page = arguments.page or arguments.runs / arguments.files[0].stem / "seed_study.md"
    write_page(parts, page, shown_command(arguments))
    console.print(f"page: {page}")


def study(file: Path, folder: Path, source: Path | None, num_seeds: int, console: Console) -> Part:
    """Does what is left to do of one search file."""
    launch = Launch(source)
    if (folder / SEARCH_FILE).exists():
        state = results.read(folder).state
        if state.unfinished() or state.num_missing():
            state = search.resume(folder, launch, console)
    else:
        state = search.start(load_search_file(file), folder, launch, console)
    if state.unfinished() or state.num_missing():
        raise SystemExit(f"{folder}: the search was stopped; the same command goes on")
    tables = results.read(folder)
    rate = best_rate(tables.trials, 0.0, OURS)
    found = {
        SAME: _confirmed(
            folder, 1, Request(1, num_seeds, by=ALPHA, where={TEMPERATURE: OURS, RATE: rate}), launch, console
        ),
        OWN: _confirmed(folder, 2, Request(3, num_seeds, by=ALPHA, where={TEMPERATURE: OURS}), launch, console),
        FREE: _confirmed(folder, 3, Request(3, num_seeds, by=ALPHA), launch, console),
    }
    told = {
        about: answers.read(confirmation.folder_of(folder, number), one)[0][1]
        for number, (about, one) in enumerate(found.items(), start=1)
    }
    return Part(file.stem, tables, rate, found, told)


def _confirmed(folder: Path, number: int, request: Request, launch: Launch, console: Console) -> Confirmation:
    """A run's confirmation of this number; made, if it is not there."""
    figures = confirmation.folder_of(folder, number) / confirmation.FIGURES
    if not figures.exists():
        request = replace(request, again=number > 1 and number not in confirmation.begun(folder))
        if confirm(folder, request, launch, console) is None:
            raise SystemExit(f"{figures.parent}: was stopped; the same command goes on")
    return read_record(figures, Confirmation)


def best_rate(trials: pd.DataFrame, alpha: float, temperature: float) -> float:
    """The learning rate with the best last validation accuracy among those of a grid."""
    cell = trials[(trials[ALPHA] == alpha) & (trials[TEMPERATURE] == temperature) & (trials["status"] == "completed")]
    return float(cell.loc[cell[METRIC].idxmax(), RATE])


def shown_command(arguments: argparse.Namespace) -> str:
    """The command that makes the page; where somebody's files lie is their own affair."""
    options = [*map(str, arguments.files), *([f"--data {arguments.data.name}"] if arguments.data else [])]
    options += [f"--seeds {arguments.seeds}", *([f"--page {arguments.page}"] if arguments.page else [])]
    return f"python benchmarks/seed_study.py {' '.join(options)}"


def write_page(parts: Sequence[Part], page: Path, command: str) -> None:
    """The page, its pictures in a folder of its name beside it, and its figures there as JSON."""
    pictures = page.with_suffix("")
    with written_whole(pictures, replace=pictures.exists()) as temporary:
        temporary.mkdir(parents=True)
        for part in parts:
            for name, figure in draw(part):
                figure.savefig(temporary / f"{part.name}_{name}.png")
        figures = {part.name: figures_of(part) for part in parts}
        (temporary / "figures.json").write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    sections = "\n\n".join(section(part, pictures.name) for part in parts)
    text = f"# The study, done again\n\nMade by `{command}`.\n\n{summary(parts)}\n\n{sections}"
    with written_whole(page, replace=page.exists()) as temporary:
        temporary.write_text(reflow(text), encoding="utf-8")


def draw(part: Part) -> Iterator[tuple[str, Figure]]:
    """The pictures of a part."""
    yield "rates", rates_by_temperature(part.tables.trials)
    told = part.told[OWN]
    yield "accuracy", prediction_plots.accuracy_by_model(accuracy(told))
    yield "accuracy_by_class", prediction_plots.accuracy_by_class(accuracy_by_class(told))
    yield "confusions", confusion_plots.confusion_matrices(confusions(told))
    yield "confusion_differences", confusion_plots.confusion_differences(confusion_differences(told, HARD))
    yield "class_profiles", prediction_plots.class_profiles(accuracy_by_class(told), closeness(told))
    if told.groups:
        yield "inside_groups", prediction_plots.inside_groups(inside_groups(told))


def rates_by_temperature(trials: pd.DataFrame) -> Figure:
    """Validation accuracy against the learning rate: a panel a temperature, a line an alpha."""
    temperatures = sorted(trials[TEMPERATURE].unique())
    figure, panels = plots.new_figure(len(temperatures), width=2.6 * len(temperatures) + 0.8, height=3.6)
    for axes, temperature in zip(panels, temperatures, strict=True):
        for index, (alpha, label) in enumerate({0.0: HARD, 0.5: BOTH, 1.0: SOFT}.items()):
            rows = trials[(trials[TEMPERATURE] == temperature) & (trials[ALPHA] == alpha)].sort_values(RATE)
            look = {"color": plots.COLOURS[index], "marker": plots.MARKERS[index], "markersize": 4}
            axes.plot(rows[RATE], rows[METRIC], label=label if axes is panels[0] else None, **look)
        axes.set_xscale("log")
        axes.set_title(f"T = {temperature:g}", fontsize=10)
        axes.set_xlabel("learning rate")
    panels[0].set_ylabel("validation accuracy")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def figures_of(part: Part) -> dict[str, Any]:
    """Everything that the page says in numbers."""
    return {
        "rate": part.rate,
        "grid": _records(part.tables.trials[[ALPHA, TEMPERATURE, RATE, METRIC, "status"]]),
        "confirmations": {about: one.model_dump(exclude={"class_groups"}) for about, one in part.found.items()},
        "by_class": {about: _records(accuracy_by_class(told)) for about, told in part.told.items()},
        "paired_tests": {about: _records(paired_tests(told)) for about, told in part.told.items()},
        "closeness": {about: _records(closeness(told)) for about, told in part.told.items()},
        "closeness_differences": {about: _records(closeness_differences(told)) for about, told in part.told.items()},
        "confusions": {about: _records(confusions(told)) for about, told in part.told.items()},
        "inside_groups": {about: _records(inside_groups(told)) for about, told in part.told.items() if told.groups},
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(frame.to_json(orient="records", double_precision=6))  # type: ignore[no-any-return]


def section(part: Part, pictures: str) -> str:
    """A part of the page."""
    training = part.tables.file.trial["training"]
    dataset = part.tables.file.trial["dataset"]["name"]
    one = part.found[OWN]
    parts = [
        f"## {dataset}, {training['num_epochs']} epochs",
        f"""Batch size {training["batch_size"]}, schedule {training["schedule"]}, SGD with momentum 0.9, temperature
        {OURS:g}, teacher {one.teacher}; {one.num_seeds} trainings of every student, {one.num_images:,} test images. The
        rate was chosen on validation images: {part.rate:g} is the best for hard labels{_at_the_end(part)}.""",
    ]
    for about, found in part.found.items():
        parts += [f"### Accuracy, {about}", accuracy_markdown(found, part.told[about], dataset == "cifar10")]
        count = len(found.comparisons)
        parts += ["\n".join(f"- {comparison.sentence(count)}" for comparison in found.comparisons)]
    parts += [
        f"![Accuracy by model]({pictures}/{part.name}_accuracy.png)",
        "### What the outcome owes to temperature and rate",
        rates_markdown(part),
        f"![Rates]({pictures}/{part.name}_rates.png)",
        f"### Accuracy by class, {OWN}",
        by_class_markdown(part.told[OWN], dataset == "cifar10"),
        f"![Accuracy by class]({pictures}/{part.name}_accuracy_by_class.png)",
        "### Confusions",
        f"![Confusion matrices]({pictures}/{part.name}_confusions.png)",
        f"![Differences from hard labels]({pictures}/{part.name}_confusion_differences.png)",
        *([f"![Inside groups]({pictures}/{part.name}_inside_groups.png)"] if part.told[OWN].groups else []),
        "### The study's three claims",
        claims_markdown(part),
        f"![Class profiles]({pictures}/{part.name}_class_profiles.png)",
    ]
    return "\n\n".join(parts)


def _at_the_end(part: Part) -> str:
    """What to know of a rate beyond which none was tried."""
    rates = part.tables.trials[RATE]
    where = {float(rates.min()): "lowest", float(rates.max()): "highest"}.get(part.rate)
    return f", the {where} of the grid" if where else ""


def accuracy_markdown(found: Confirmation, told: Predictions, published: bool) -> str:
    """Test accuracy by model, beside what the study has."""
    rates = {arm.model: f"{arm.draw[RATE]:g}" for arm in found.arms}
    rows = []
    for row in accuracy(told).to_dict("records"):
        key = "teacher" if row["teacher"] else row["model"]
        cells = [STUDENTS.get(key, row["model"]), rates.get(key, ""), *_with_interval(row, "accuracy")]
        rows.append([*cells, *([f"{PUBLISHED[key]:.2f}"] if published else [])])
    header = ["model", "rate", "accuracy, %", "95 % interval", *(["the study, %"] if published else [])]
    return table(header, rows)


def by_class_markdown(told: Predictions, published: bool) -> str:
    """Accuracy by class and model in %; in brackets the study's."""
    found = accuracy_by_class(told)
    names = {
        name: "teacher" if is_teacher else name
        for name, is_teacher in zip(found["model"], found["teacher"], strict=True)
    }
    wide = found.pivot(index="class", columns="model", values="accuracy")
    rows = []
    for place, name in enumerate(told.class_names):
        cells = [f"{100 * wide.loc[name, model]:.1f}" for model in names]
        if published:
            cells = [
                f"{cell} ({PUBLISHED_BY_CLASS[key][place]})" for cell, key in zip(cells, names.values(), strict=True)
            ]
        rows.append([name, *cells])
    return table(["class", *(STUDENTS.get(key, model) for model, key in names.items())], rows)


def rates_markdown(part: Part) -> str:
    """By temperature and alpha: the best rate, its validation accuracy, and that at the rate of hard labels."""
    trials, rows = part.tables.trials, []
    for temperature in sorted(trials[TEMPERATURE].unique()):
        common = best_rate(trials, 0.0, temperature)
        cells = []
        for alpha in sorted(trials[ALPHA].unique()):
            cell = trials[(trials[ALPHA] == alpha) & (trials[TEMPERATURE] == temperature)].set_index(RATE)[METRIC]
            own = best_rate(trials, alpha, temperature)
            cells.append(f"{100 * cell[own]:.1f} at {own:g}; {100 * cell[common]:.1f}")
        rows.append([f"{temperature:g}", f"{common:g}", *cells])
    header = ["temperature", "rate of hard labels", *(STUDENTS[name] for name in (HARD, BOTH, SOFT))]
    highest = trials.groupby(ALPHA)[METRIC].max()
    overall = ", ".join(
        f"{STUDENTS[name]} {100 * highest[alpha]:.1f}" for alpha, name in {0.0: HARD, 0.5: BOTH, 1.0: SOFT}.items()
    )
    return (
        "Validation accuracy in %, one training a cell: at each one's best rate, and at that of hard labels. "
        f"{_spread(part.found.values())} This loss softens the student's answers for hard labels too, so that these "
        f"depend on the temperature as well. The best of all cells: {overall}.\n\n" + table(header, rows)
    )


def _spread(found: Iterable[Confirmation]) -> str:
    """How much a single training says."""
    spreads = [100 * stdev(arm.val_accuracies) for one in found for arm in one.arms]
    low, high = min(spreads), max(spreads)
    return f"Between trainings of one student the standard deviation is {low:.1f} to {high:.1f} points."


def judged(part: Part) -> list[list[Judgement]]:
    """What becomes of each of CLAIMS, by each confirmation that says something of it."""
    return [
        [_beats(found, about) for about, found in part.found.items()],
        [_closest(told, about) for about, told in part.told.items()],
        [_stay_inside(part.told[OWN], OWN)],
    ]


def summary(parts: Sequence[Part]) -> str:
    """The verdicts on all claims: a row a claim and confirmation, a column a part."""
    verdicts = [judged(part) for part in parts]
    rows = [
        [claim, judgement.about, *(mine[number][place].verdict for mine in verdicts)]
        for number, claim in enumerate(CLAIMS)
        for place, judgement in enumerate(verdicts[0][number])
    ]
    epochs = [f"{part.tables.file.trial['training']['num_epochs']} epochs" for part in parts]
    return table(["the study's claim", "rates", *epochs], rows)


def claims_markdown(part: Part) -> str:
    """The verdicts with the figures that they rest on."""
    return "\n\n".join(
        f"**{claim}** "
        + " ".join(f"With {one.about}, {one.verdict}: {one.figures}." for one in judgements if one.figures)
        for claim, judgements in zip(CLAIMS, judged(part), strict=True)
    )


def _beats(found: Confirmation, about: str) -> Judgement:
    against = [one for one in found.comparisons if HARD in (one.first, one.second)]
    words = []
    for one in against:
        soft, gain = (one.first, one.difference) if one.second == HARD else (one.second, -one.difference)
        verdict = "it is not decided" if not _is_real(one.p_value) else "it holds" if gain > 0 else "the opposite holds"
        words.append((verdict, STUDENTS[soft]))
    verdicts = {verdict for verdict, _ in words}
    verdict = verdicts.pop() if len(verdicts) == 1 else ", ".join(f"{verdict} for {name}" for verdict, name in words)
    return Judgement(about, verdict, "; ".join(one.sentence(len(found.comparisons)) for one in against))


def _closest(told: Predictions, about: str) -> Judgement:
    shown = [
        f"{row['model']} {row['correlation']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        for row in closeness(told).to_dict("records")
    ]
    rows = [row for row in closeness_differences(told).to_dict("records") if SOFT in (row["first"], row["second"])]
    figures = f"correlations {', '.join(shown)}"
    if len(rows) < 2:
        return Judgement(about, "nobody can tell, because noise hides a profile", figures)
    real = [row for row in rows if _is_real(row["p_holm"])]
    ahead = [row for row in real if (row["difference"] > 0) == (row["first"] == SOFT)]
    verdict = (
        "it holds" if len(ahead) == len(rows) else "the opposite holds" if real and not ahead else "it is not decided"
    )
    return Judgement(about, verdict, figures)


def _stay_inside(told: Predictions, about: str) -> Judgement:
    if told.groups is None:
        return Judgement(about, "these data have no groups of like classes", "")
    found = inside_groups(told)
    rows = found[(found["group"] == EVERY_GROUP) & (found["model"].isin(list(STUDENTS)))].to_dict("records")
    verdict = "it holds" if all(row["low"] > row["evenly"] for row in rows) else "it does not hold for all"
    shares = [
        f"{row['model']} {row['share']:.1%} ({row['low']:.1%} to {row['high']:.1%}; spread evenly {row['evenly']:.1%})"
        for row in rows
    ]
    return Judgement(about, verdict, f"so many wrong answers name a class of the right group: {', '.join(shares)}")


def _with_interval(row: Mapping[str, Any], name: str) -> list[str]:
    return [f"{100 * row[name]:.2f}", f"{100 * row['low']:.2f} to {100 * row['high']:.2f}"]


def _is_real(p_value: float) -> bool:
    return p_value < confirmation.SIGNIFICANT


if __name__ == "__main__":
    main()
