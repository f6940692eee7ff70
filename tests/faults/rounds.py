"""What the fault scripts share: a search whose end is known, rounds of it in which something is killed, their record.

The search draws at random and prunes nothing, so what it ends with follows from its file: the same trials with the same
figures, whatever happens to the processes that train them. On a CPU they are equal bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # so that a script runs from wherever it is called

from kd_tune import results  # noqa: E402 - found by the line above
from kd_tune.ledger import read_events  # noqa: E402
from kd_tune.manifest import hardware, versions  # noqa: E402
from kd_tune.paths import CACHE_VARIABLE, write_json  # noqa: E402
from kd_tune.run_state import RunState, TrialState  # noqa: E402
from tests import searches  # noqa: E402
from tests.searches import SearchProcess, complaints, ledger_text, toy_search, write_search  # noqa: E402
from tests.stripes import write_stripes  # noqa: E402

searches.WAIT_SECONDS = 900.0  # a busy machine is no fault
ARMS = ("distil", "cross_entropy")
NUM_TRIALS, NUM_EPOCHS = 8, 8
# What differs between two trainings of one trial: the clock.
CLOCK = ("time", "attempt", "seconds", "images_per_second", "restored", "train_seconds")


@dataclass
class Round:
    """One search in which something was broken.

    Attributes:
        injected: what, and when.
        wrong: what did not hold; empty: all did.
        figures: counted on the way.
    """

    injected: str
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


class Search:
    """A search in a folder of its own.

    Its cache, which holds its teacher, is the first search's beside it, and is known to all processes from now on.

    Args:
        folder: made, and holds everything.
        stack: trials that a place holds.
        address: of a cluster; None: Ray is started for it alone.
        epochs: of each trial.
        own_cache: whether it begins with an empty cache of its own.
        storage: URL of where its run is kept too; None: nowhere.
    """

    def __init__(
        self,
        folder: Path,
        stack: int,
        address: str | None = None,
        epochs: int = NUM_EPOCHS,
        own_cache: bool = False,
        storage: str | None = None,
    ) -> None:
        self.cache = (folder if own_cache else folder.parent) / "cache"
        os.environ[CACHE_VARIABLE] = str(self.cache)
        self.folder, self.stack, self.address, self.epochs = folder, stack, address, epochs
        self.storage = storage
        self.run = folder / "runs" / "toy"
        (folder / "data").mkdir(parents=True)
        changes: dict[str, Any] = {
            "search.arms": list(ARMS),
            "search.num_trials": NUM_TRIALS // len(ARMS),
            "search.sampler": {"name": "random"},
            "search.scheduler": {"name": "none"},
            "resources.stack": stack,
            "trial.training.num_epochs": epochs,
        }
        write_search(folder, toy_search(**changes))
        self.data = write_stripes(folder / "data" / "toy.npz", train=1200)

    def start(self) -> SearchProcess:
        """Starts it, or goes on with what there is of it."""
        address = () if self.address is None else ("--address", self.address)
        if (self.run / "ledger").is_dir():
            return SearchProcess(self.folder, "--resume", str(self.run), *address)
        storage = () if self.storage is None else ("--storage", self.storage, "--or-resume")
        return SearchProcess(self.folder, "toy.yaml", "--data", str(self.data), "--name", "toy", *address, *storage)

    def finish(self) -> list[str]:
        """Starts it, or goes on, and waits for its end; returns what is wrong with that."""
        launch = self.start()
        code = launch.wait()
        return [] if code == 0 else [f"exit code {code}: {launch.log.read_text()[-1500:]}"]

    def events(self) -> list[dict[str, Any]]:
        """Of its ledger so far; none before there is one."""
        return list(read_events(self.run)) if (self.run / "ledger").is_dir() else []

    def text(self) -> str:
        """Of its ledger so far."""
        return ledger_text(self.run) if (self.run / "ledger").is_dir() else ""

    def problems(self, undisturbed: RunState) -> list[str]:
        """What is wrong with it at its end."""
        problems = complaints(self.run, NUM_TRIALS, self.epochs)
        tables = results.read(self.run)
        if tables.history.duplicated(["trial", "epoch"]).any():
            problems.append("an epoch stands twice in the table")
        if len(tables.history) != NUM_TRIALS * self.epochs:
            problems.append(f"{len(tables.history)} epochs stand in the table, not {NUM_TRIALS * self.epochs}")
        if not (self.run / "report" / "report.md").exists():
            problems.append("there is no report")
        return problems + differences(tables.state, undisturbed)


def differences(found: RunState, undisturbed: RunState) -> list[str]:
    """What an undisturbed search has otherwise: trials, their parameters, their ends, any figure of any epoch."""
    if found.trials.keys() != undisturbed.trials.keys():
        return [f"trials {sorted(found.trials)}, undisturbed {sorted(undisturbed.trials)}"]
    pairs = [(found.trials[number], undisturbed.trials[number]) for number in undisturbed.trials]
    return [f"trial {one.number} is not what it is undisturbed" for one, other in pairs if _plain(one) != _plain(other)]


def _plain(trial: TrialState) -> Any:
    rows = {epoch: {key: row[key] for key in row.keys() - set(CLOCK)} for epoch, row in trial.rows.items()}
    return trial.arm, trial.draw, trial.end, rows


def undisturbed(folder: Path, stack: int, epochs: int = NUM_EPOCHS) -> tuple[RunState, float]:
    """How the search ends when nothing happens to it, and how many seconds it takes."""
    search = Search(folder / f"undisturbed_{stack}", stack, epochs=epochs)
    began = time.monotonic()
    wrong = search.finish()
    seconds = time.monotonic() - began
    wrong += complaints(search.run, NUM_TRIALS, epochs)
    if wrong:
        raise SystemExit(f"the undisturbed search went wrong: {wrong}")
    print(f"undisturbed, stack {stack}: {NUM_TRIALS} trials of {epochs} epochs in {seconds:.0f} s", flush=True)
    return results.read(search.run).state, seconds


def parser_of(docstring: str | None, count: int) -> argparse.ArgumentParser:
    """A parser of a script's arguments."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count, help=f"rounds [default: {count}]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the result")
    return parser


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder with a short name: Ray puts sockets below it, whose paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kd_") as folder:
        yield Path(folder)


def play(
    name: str, arguments: argparse.Namespace, rounds: Iterable[Callable[[random.Random, Path], Round]], folder: Path
) -> bool:
    """Plays rounds one after another, says how each ended, and writes `NAME.json`.

    Returns:
        Whether all that must hold did, in every round.
    """
    played: list[dict[str, Any]] = []
    began = time.strftime("%Y-%m-%d %H:%M:%S%z")
    for number, one in enumerate(rounds):
        since = time.monotonic()
        try:
            found = one(random.Random(f"{arguments.seed}/{name}/{number}"), folder / f"{name}_{number}")
        except AssertionError as error:  # a search that did not come so far, or did not end
            found = Round("nothing", [str(error)])
        seconds = round(time.monotonic() - since, 1)
        held = "held" if not found.wrong else f"BROKEN: {'; '.join(found.wrong)}"
        counted = ", ".join(f"{key} {value}" for key, value in found.figures.items())
        print(f"{name} {number}: {found.injected}; {counted}; {held} ({seconds:.0f} s)", flush=True)
        played.append(asdict(found) | {"seconds": seconds})
    held_in = sum(not found["wrong"] for found in played)
    result = {
        "rounds": len(played),
        "held": held_in,
        "began": began,
        "seed": arguments.seed,
        "versions": versions(),
        "hardware": hardware(),
        "played": played,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / f"{name}.json", json.loads(json.dumps(result)))
    print(f"{name}: held in {held_in} of {len(played)} rounds", flush=True)
    return held_in == len(played)
