"""A run's summary: on the terminal, as CSV files, as pictures, and as a Markdown page that shows them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.csv
from rich.console import Console
from rich.table import Table

from kd_tune import analysis, answers_report, budget, confirmation, diagnosis, markdown, plots, results, rung_diagnosis
from kd_tune.analysis import Finding
from kd_tune.confirmation import Confirmation
from kd_tune.ledger import SEARCH_FILE
from kd_tune.paths import written_whole
from kd_tune.progress import counted, duration, short
from kd_tune.records import ARMS, METRIC
from kd_tune.results import RunTables
from kd_tune.run_state import RunState

TOP = 5
MOST_SIZES = 12  # of students, that a table has a row each for
MOST_FAILURES = 50  # that the page shows


def write(folder: Path, console: Console) -> Path:
    """Writes `report/` in a run's folder, in place of an earlier one, and prints the short of it.

    Returns:
        The path of the Markdown page.

    Raises:
        ConfigError: no run here, or a damaged one.
    """
    tables = results.read(folder)
    confirmed = confirmation.latest(folder)
    target = folder / "report"
    with written_whole(target, replace=True) as temporary:
        temporary.mkdir()
        tables.trials.to_csv(temporary / "trials.csv", index=False)
        # A line an epoch: pandas takes ten times as long.
        pyarrow.csv.write_csv(pyarrow.Table.from_pandas(tables.history), temporary / "history.csv")
        sections, findings = _sections(tables), diagnosis.findings(tables)
        for name, table in sections.items():
            table.to_csv(temporary / f"{name}.csv", index=False)
        shown = None if confirmed is None else _write_confirmed(folder, confirmed, temporary)
        pictures = []
        for name, figure in plots.figures(tables, sections["importance"], sections["by_teacher"]):
            figure.savefig(temporary / f"{name}.png")
            pictures.append(name)
        page = _page(tables, sections, findings, pictures, shown)
        (temporary / "report.md").write_text(page, encoding="utf-8")
    if confirmed is not None and shown is not None:
        show(confirmed, console)
        for note in shown["answers"].notes:
            console.print(f"  {note}", markup=False)
    _print(tables, sections, findings, console, "unconfirmed" if confirmed is None else "of the search itself")
    return target / "report.md"


def _write_confirmed(run: Path, confirmed: Confirmation, target: Path) -> dict[str, Any]:
    """Writes tables and pictures of a run's latest confirmation; what the page shows of it."""
    arms = confirmation.arms_table(confirmed)
    arms.to_csv(target / "confirmed.csv", index=False)
    confirmation.comparisons_table(confirmed).to_csv(target / "comparisons.csv", index=False)
    plots.confirmed(arms).savefig(target / "confirmed.png")
    place = confirmation.latest_folder(run)
    assert place is not None
    return {
        "title": _title(confirmed),
        "arms": markdown.table(confirmation.shown_arms(confirmed)),
        "findings": confirmation.findings(confirmed),
        "configurations": confirmation.configurations(confirmed),
        "answers": answers_report.write(place, confirmed, target),
    }


def show(confirmed: Confirmation, console: Console) -> None:
    """Prints what a confirmation found."""
    console.print(f"\n{_title(confirmed)}", style="bold")
    for student, rows in confirmation.shown_arms(confirmed).groupby("student", sort=False):
        title = f"{student}, {rows['parameters'].iloc[0]} parameters"
        console.print(_table(rows.drop(columns=["student", "parameters", "trial"]), title))
    for line in (*confirmation.findings(confirmed), *confirmation.configurations(confirmed)):
        console.print(f"  {line}")


def _title(confirmed: Confirmation) -> str:
    return (
        f"Confirmed on {confirmed.num_images:,} test images with {confirmed.num_seeds} fresh seeds "
        f"(opening {confirmed.opening} of the test set)"
    )


def _sections(tables: RunTables) -> dict[str, pd.DataFrame]:
    return {
        "best": analysis.best(tables, TOP),
        "best_by_student": analysis.best_by_student(tables),
        "outcomes": analysis.outcomes(tables),
        "failures": analysis.failures(tables),
        "importance": analysis.importance(tables),
        "teachers": analysis.teachers(tables),
        "by_teacher": analysis.by_teacher(tables),
        "fronts": analysis.pareto(tables),
        "rungs": rung_diagnosis.rungs(tables),
        "range_ends": diagnosis.range_ends(tables),
        "divergence": diagnosis.divergence(tables),
        "budget": budget.budget(tables),
        "teacher_answers": budget.teacher_answers(tables),
    }


def _print(
    tables: RunTables, sections: dict[str, pd.DataFrame], findings: list[Finding], console: Console, standing: str
) -> None:
    console.print(f"\nThe best of each arm by validation accuracy ({standing})", style="bold")
    for _, row in analysis.best(tables).iterrows():
        configuration = " ".join(f"{name}={short(row[name])}" for name in tables.parameters if pd.notna(row[name]))
        size = f"{int(row['num_parameters']):,} parameters, {row['epoch']} epochs"
        console.print(
            f"  {row['arm']}: {row[METRIC]:.2%} (trial {row['number']}, {size}) {configuration}",
        )
    for title, frame in (
        ("The best of each arm at every size of student (after so many epochs)", _pivot(sections["best_by_student"])),
        ("What students of each teacher reach", sections["by_teacher"]),
        ("How trials ended", sections["outcomes"]),
    ):
        if frame.empty:
            continue
        console.print()
        console.print(_table(frame, title))
    to_do = [finding.text for finding in findings if finding.act]
    if to_do:
        console.print("\nBefore the next search", style="bold")
    for text in to_do:
        console.print(f"  {text}", markup=False)
    console.print(f"\nThe test set was opened {_openings(tables.state)}.\n")


def _openings(state: RunState) -> str:
    """How often a run opened its test set, and whether its search went on as if it had not."""
    times = f"{counted(len(state.test_openings), 'time')} by this run"
    later = sum(trial.after_opening for trial in state.trials.values())
    if not later:
        return times
    return (
        f"{times}, and the search went on after that, by {later} trials: "
        "what is confirmed again among them was chosen after a look"
    )


def _table(frame: pd.DataFrame, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for column in frame.columns:
        table.add_column(str(column).replace("_", " "), justify="left" if column in ("student", "arm") else "right")
    for values in frame.itertuples(index=False):
        table.add_row(*(markdown.cell(column, value) for column, value in zip(frame.columns, values, strict=True)))
    return table


def _pivot(best_by_student: pd.DataFrame) -> pd.DataFrame:
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


def _page(
    tables: RunTables,
    sections: dict[str, pd.DataFrame],
    findings: list[Finding],
    pictures: list[str],
    confirmed: dict[str, Any] | None,
) -> str:
    shown = sections | {"best_by_student": _pivot(sections["best_by_student"])}
    shown["failures"] = sections["failures"].head(MOST_FAILURES)
    shown["rungs"] = _with_intervals(sections["rungs"])
    winner = analysis.best(tables)
    return markdown.render(
        "report.md.jinja",
        run=tables.folder.name,
        confirmed=confirmed,
        manifest=tables.manifest,
        openings=_openings(tables.state),
        arms=tables.state.quota,
        has_controls=len(tables.state.quota) > 1,
        winners=[
            (row["arm"], f"{row[METRIC]:.2%}", int(row["number"]), f"{int(row['num_parameters']):,}")
            for _, row in winner.iterrows()
        ],
        tables={name: markdown.table(table) for name, table in shown.items()},
        findings=[markdown.escaped(finding.text) for finding in findings],
        prunes=rung_diagnosis.prunes(tables),
        epoch=analysis.comparison_epoch(tables),
        pictures=pictures,
        time=duration(float(tables.trials["train_seconds"].sum())),
        search_file=markdown.code((tables.folder / SEARCH_FILE).read_text(encoding="utf-8"), "yaml"),
        more_failures=max(0, len(sections["failures"]) - MOST_FAILURES),
    )
