"""A run's report: on the terminal, as CSV files, as pictures, and as pages that show them all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.csv
from rich.console import Console
from rich.table import Table

from kd_tune import (
    analysis,
    answer,
    answers_report,
    budget,
    confirmation,
    diagnosis,
    html_page,
    markdown,
    report_json,
    report_parts,
    results,
    rung_diagnosis,
    svg,
)
from kd_tune.analysis import Finding
from kd_tune.answers_report import Answers
from kd_tune.blocks import Part, Picture, cell
from kd_tune.confirmation import Confirmation
from kd_tune.paths import written_whole
from kd_tune.progress import counted, short
from kd_tune.records import METRIC
from kd_tune.results import RunTables

TOP = 5
HTML = "report.html"
MOST_BY_ITSELF = 2000  # trials; of more the page takes seconds


@dataclass(frozen=True)
class Contents:
    """What a report says, before it is written.

    Attributes:
        tables: the run.
        sections: tables that follow from it, by name.
        findings: what the run says about its search.
        confirmed: its latest confirmation.
        answers: what that confirmation's students answer.
        parts: all of it, in the order of a page.
    """

    tables: RunTables
    sections: dict[str, pd.DataFrame]
    findings: list[Finding]
    confirmed: Confirmation | None
    answers: Answers
    parts: list[Part]


def write(folder: Path, console: Console, html: bool = False) -> Path:
    """Writes `report/` in a run's folder, in place of an earlier one, and prints the short of it.

    Args:
        folder: the run's.
        console: to print to.
        html: whether the HTML page is written however many trials there are; otherwise up to `MOST_BY_ITSELF`.

    Returns:
        The path of the Markdown page.

    Raises:
        ConfigError: no run here, or a damaged one.
    """
    contents = gather(folder)
    target = folder / "report"
    with written_whole(target, replace=True) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # browsers have more fonts
        temporary.mkdir()
        _write_tables(contents, temporary)
        pages = _pages(contents, html or len(contents.tables.trials) <= MOST_BY_ITSELF)
        for name, text in pages.items():
            (temporary / name).write_text(text, encoding="utf-8")
        for picture in _pictures(contents.parts):
            picture.figure.savefig(temporary / f"{picture.name}.png")
    if contents.confirmed is not None:
        show(contents.confirmed, console)
        for note in contents.answers.notes:
            console.print(f"  {note}", markup=False)
    _print(contents, console)
    if HTML in pages:
        console.print(f"for a browser: {target / HTML}", markup=False)
    else:
        console.print(f"{HTML} is left out of {len(contents.tables.trials):,} trials; --html writes it too")
    return target / "report.md"


def gather(folder: Path) -> Contents:
    """All that a run says.

    Raises:
        ConfigError: no run here, or a damaged one.
    """
    tables = results.read(folder)
    confirmed, place = confirmation.latest(folder), confirmation.latest_folder(folder)
    sections, findings = sections_of(tables), diagnosis.findings(tables)
    answers = Answers() if confirmed is None or place is None else answers_report.gather(place, confirmed)
    parts = [
        answer.part(tables, confirmed),
        *([] if confirmed is None else [report_parts.of_confirmation(confirmed)]),
        *report_parts.of_search(tables, sections, confirmed),
        report_parts.of_settings(tables),
        report_parts.of_cost(sections),
        *report_parts.of_figures(tables, sections),
        *([] if confirmed is None else answers_report.parts(answers)),
        *report_parts.of_diagnosis(sections, findings),
        *report_parts.of_ends(tables, sections),
        report_parts.of_trials(tables),
        report_parts.of_making(tables, confirmed),
    ]
    return Contents(tables, sections, findings, confirmed, answers, parts)


def _pages(contents: Contents, html: bool) -> dict[str, str]:
    """The texts of all pages by file name."""
    title, parts = contents.tables.folder.name, contents.parts
    manifest = contents.tables.manifest
    started = f"started {manifest.created}, seed {manifest.seed}"
    subtitle = f"A search on {manifest.dataset['name']}, {counted(len(contents.tables.trials), 'trial')}, {started}."
    pages = {
        "report.md": markdown.page(title, parts),
        "report.json": report_json.page(title, subtitle, parts),
    }
    if html:
        pictures = {one.name: svg.inline(one.figure, one.name, one.title) for one in _pictures(parts)}
        pages[HTML] = html_page.page(title, subtitle, parts, pictures)
    return pages


def _write_tables(contents: Contents, target: Path) -> None:
    """Every table as a CSV file."""
    contents.tables.trials.to_csv(target / "trials.csv", index=False)
    # A line an epoch: pandas takes ten times as long.
    pyarrow.csv.write_csv(pyarrow.Table.from_pandas(contents.tables.history), target / "history.csv")
    for name, table in contents.sections.items():
        table.to_csv(target / f"{name}.csv", index=False)
    if contents.confirmed is not None:
        confirmation.arms_table(contents.confirmed).to_csv(target / "confirmed.csv", index=False)
        confirmation.comparisons_table(contents.confirmed).to_csv(target / "comparisons.csv", index=False)
    for student in contents.answers.students:
        for name, table in student.tables.items():
            table.to_csv(target / f"{student.stem}{name}.csv", index=False)


def _pictures(parts: list[Part]) -> Iterator[Picture]:
    """Every picture of a report."""
    for part in parts:
        yield from (block for block in part.blocks if isinstance(block, Picture))


def show(confirmed: Confirmation, console: Console) -> None:
    """Prints what a confirmation found."""
    console.print(f"\n{report_parts.title(confirmed)}", style="bold")
    for student, rows in confirmation.shown_arms(confirmed).groupby("student", sort=False):
        title = f"{student}, {rows['parameters'].iloc[0]} parameters"
        console.print(_table(rows.drop(columns=["student", "parameters", "trial"]), title))
    for line in (*confirmation.findings(confirmed), *confirmation.configurations(confirmed)):
        console.print(f"  {line}")


def sections_of(tables: RunTables) -> dict[str, pd.DataFrame]:
    """Tables that follow from a run's, by name."""
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


def _print(contents: Contents, console: Console) -> None:
    tables, sections = contents.tables, contents.sections
    standing = "unconfirmed" if contents.confirmed is None else "of the search itself"
    console.print(f"\nThe best of each arm by validation accuracy ({standing})", style="bold")
    for _, row in analysis.best(tables).iterrows():
        configuration = " ".join(f"{name}={short(row[name])}" for name in tables.parameters if pd.notna(row[name]))
        size = f"{int(row['num_parameters']):,} parameters, {row['epoch']} epochs"
        console.print(
            f"  {row['arm']}: {row[METRIC]:.2%} (trial {row['number']}, {size}) {configuration}",
        )
    by_size = report_parts.pivot(sections["best_by_student"])
    for title, frame in (
        ("The best of each arm at every size of student (after so many epochs)", by_size),
        ("What students of each teacher reach", sections["by_teacher"]),
        ("How trials ended", sections["outcomes"]),
    ):
        if frame.empty:
            continue
        console.print()
        console.print(_table(frame, title))
    to_do = [finding.text for finding in contents.findings if finding.act]
    if to_do:
        console.print("\nBefore the next search", style="bold")
    for text in to_do:
        console.print(f"  {text}", markup=False)
    console.print(f"\nThe test set was opened {report_parts.openings(tables.state)}.\n")


def _table(frame: pd.DataFrame, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for column in frame.columns:
        table.add_column(str(column).replace("_", " "), justify="left" if column in ("student", "arm") else "right")
    for values in frame.itertuples(index=False):
        table.add_row(*(cell(column, value) for column, value in zip(frame.columns, values, strict=True)))
    return table
