"""Runs side by side: what was searched, what it cost, what was best, what was confirmed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_tune import analysis, confirmation, results
from kd_tune.arms import resolved
from kd_tune.confirmation import Confirmation
from kd_tune.errors import ConfigError
from kd_tune.progress import counted, duration, short
from kd_tune.records import METRIC
from kd_tune.results import RunTables

FIRST = frozenset(("", "setting", "arm", "student, model"))  # names of first columns


@dataclass(frozen=True)
class Compared:
    """One of the runs.

    Attributes:
        name: that tells it from the others.
        tables: the run.
        confirmed: its latest confirmation; None: it has none.
    """

    name: str
    tables: RunTables
    confirmed: Confirmation | None


def read(folders: Sequence[Path]) -> list[Compared]:
    """Reads runs to compare.

    Raises:
        ConfigError: one is named twice, is no run, or is damaged.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("a run is named twice")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names) or FIRST & set(names):
        names = [str(folder.resolve()) for folder in folders]
    return [
        Compared(name, results.read(folder), confirmation.latest(folder))
        for name, folder in zip(names, folders, strict=True)
    ]


def show(runs: Sequence[Compared], console: Console) -> None:
    """Prints all that there is to compare, and why some of it may not be."""
    for title, table in (
        ("Runs", overview(runs)),
        ("What their search files do not have in common", settings(runs)),
        ("The best of each arm by validation accuracy", best(runs)),
        ("Confirmed: mean accuracy on test images, 95 % interval", confirmed(runs)),
    ):
        if not table.empty:
            console.print()
            console.print(_table(table, title))
    console.print()
    for text in warnings(runs):
        console.print(text, markup=False)


def overview(runs: Sequence[Compared]) -> pd.DataFrame:
    """A row a fact, a column a run: data, trials, budget, openings of the test set."""
    return _side_by_side("", {run.name: _facts(run.tables) for run in runs})


def settings(runs: Sequence[Compared]) -> pd.DataFrame:
    """Leaves of the search files that are not the same in all runs: a row a leaf, a column a run."""
    leaves = {run.name: dict(_leaves(resolved(run.tables.file), "")) for run in runs}
    table = _side_by_side("setting", leaves)
    return table[table.drop(columns="setting").nunique(axis=1, dropna=False) > 1].reset_index(drop=True)


def best(runs: Sequence[Compared]) -> pd.DataFrame:
    """The best trial of every arm (and stratum) by last validation accuracy: a row an arm, a column a run."""
    columns: dict[str, dict[str, str]] = {}
    for run in runs:
        column = columns.setdefault(run.name, {})
        for row in analysis.best(run.tables).to_dict("records"):
            name, about = row["arm"], f"trial {row['number']}, {counted(row['epoch'], 'epoch')}"
            if run.tables.state.strata:
                name += f" up to {run.tables.state.strata[row['stratum']]:,} parameters"
            else:
                about += f", {int(row['num_parameters']):,} parameters"
            column[name] = f"{row[METRIC]:.2%} ({about})"
    return _side_by_side("arm", columns)


def confirmed(runs: Sequence[Compared]) -> pd.DataFrame:
    """Mean test accuracies of confirmations and their 95 % intervals: a row a model and student, a column a run."""
    columns = {
        run.name: {
            f"{arm['student']}, {arm['model']}": f"{arm['test_accuracy']:.2%} ({arm['low']:.2%} to {arm['high']:.2%})"
            for arm in confirmation.arms_table(run.confirmed).to_dict("records")
        }
        for run in runs
        if run.confirmed is not None
    }
    return _side_by_side("student, model", columns)


def warnings(runs: Sequence[Compared]) -> list[str]:
    """Why figures of these runs may not be compared."""
    first, *others = runs
    found = []
    for other in others:
        pair = f"{first.name} and {other.name}"
        mine, its = first.tables.manifest, other.tables.manifest
        if mine.fingerprints.data != its.fingerprints.data:
            found.append(f"{pair} were measured on different images: their accuracies cannot be compared")
        differing = sorted(
            name
            for name in mine.versions.keys() | its.versions.keys()
            if mine.versions.get(name) != its.versions.get(name)
        )
        if differing:
            found.append(f"{pair} were made with different versions of {', '.join(differing)}")
    if unconfirmed := [run.name for run in runs if run.confirmed is None]:
        found.append(
            f"unconfirmed: {', '.join(unconfirmed)}; the best of many validation accuracies is too high, by more the "
            "more trials there were: kd-tune confirm"
        )
    return found


def _table(frame: pd.DataFrame, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for column in frame.columns:
        table.add_column(Text(column), overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*map(Text, row))
    return table


def _facts(tables: RunTables) -> dict[str, str]:
    trials, manifest = tables.trials, tables.manifest
    dataset = manifest.dataset
    num_train = f", {dataset['num_train']:,} training images" if dataset.get("num_train") else ""
    return {
        "created": manifest.created,
        "data": f"{dataset['name']}{num_train}",
        "teachers": ", ".join(f"{name} {fact.val_accuracy:.2%}" for name, fact in manifest.teachers.items()),
        "arms": ", ".join(f"{arm} {wanted}" for arm, wanted in tables.state.quota.items()),
        "trials": ", ".join(f"{count} {status}" for status, count in trials["status"].value_counts().items()),
        "epochs trained": f"{int(trials['epoch'].sum()):,}",
        "time in training": duration(float(trials["train_seconds"].sum())),
        "machine": f"{manifest.hardware['processor']}, {counted(manifest.hardware['cores'] or 0, 'core')}"
        + "".join(f", {gpu}" for gpu in manifest.hardware["gpus"]),
        "openings of the test set": str(len(tables.state.test_openings)),
    }


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every leaf by its path; a range, a choice and a list is one leaf."""
    is_section = isinstance(node, Mapping) and not node.keys() & {"float", "int", "choice"}
    if is_section:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, json.dumps(node) if isinstance(node, list | Mapping) else "" if node is None else short(node)


def _side_by_side(first: str, columns: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """A row a key of any column, in the order in which they come; empty cells where a column lacks it."""
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    rows = [{first: key} | {name: column.get(key, "") for name, column in columns.items()} for key in keys]
    return pd.DataFrame(rows, columns=[first, *columns])
