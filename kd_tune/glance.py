"""A search at a glance: trials, rungs, the best so far, what it cost, how long it takes. From a run's state alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.bar import Bar
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kd_tune.progress import counted, duration, short
from kd_tune.records import METRIC, STOP_REASONS
from kd_tune.run_state import RunState, TrialState

NARROW = 72  # columns of a terminal in which the table has room for how trials ended
SPARKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH, BAR_WIDTH = 24, 24


@dataclass(frozen=True)
class Course:
    """How a search's trials are trained.

    Attributes:
        num_epochs: of a whole trial.
        rungs: epochs at which trials may be pruned; none where they never are.
    """

    num_epochs: int
    rungs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pace:
    """How fast a launch goes.

    Attributes:
        epochs: that it has trained.
        seconds: that this took.
    """

    epochs: int
    seconds: float

    def seconds_left(self, state: RunState, course: Course) -> float | None:
        """Seconds to the end, from this speed and the length of the trials that ended so far.

        None before there were as many epochs as trials that run: the first of all has no speed yet.
        """
        running = sum(trial.end is None for trial in state.trials.values())
        if self.epochs <= running:
            return None
        return epochs_left(state, course) * self.seconds / self.epochs


@dataclass(frozen=True)
class Glance:
    """What a terminal shows of a search, whatever its width.

    Attributes:
        state: of the run.
        course: of its trials.
        pace: of its launch.
    """

    state: RunState
    course: Course
    pace: Pace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.summary())  # first: a low terminal shows the beginning
        yield Text()
        yield self._table(options.max_width >= NARROW)
        yield from (Text(), *self._rungs()) if self.course.rungs else ()
        best = list(self._best())
        yield from (Text(), *best) if best else ()

    def summary(self) -> str:
        """Time, speed, what is left, and what pruning has saved."""
        trained = sum(trial.epoch for trial in self.state.trials.values())
        words = [f"{duration(self.pace.seconds)} so far"]
        if self.pace.epochs:
            words.append(f"{60 * self.pace.epochs / max(self.pace.seconds, 1e-9):.3g} epochs a minute")
        else:
            words.append("starting workers")
        left = self.pace.seconds_left(self.state, self.course)
        words += [f"about {duration(left)} left"] if left else []
        words.append(f"{counted(trained, 'epoch')} trained")
        saved = sum(
            self.course.num_epochs - trial.epoch for trial in self.state.trials.values() if trial.end == "pruned"
        )
        words += [f"{saved} saved by pruning"] if saved else []
        return ", ".join(words)

    def _table(self, wide: bool) -> Table:
        """Trials by state and the best so far, for every arm."""
        ends = {trial.end for trial in self.state.trials.values()}
        reasons = [reason for reason in STOP_REASONS if reason in ends or reason == "completed"] if wide else []
        table = Table(box=None, pad_edge=False)
        for title in ("arm", "trials", "running", *reasons, "best", "trial"):
            is_arm = title == "arm"
            table.add_column(title, justify="left" if is_arm else "right", no_wrap=not is_arm)
        for name, trials, quota in self._groups():
            counts = [str(sum(trial.end == reason for trial in trials)) for reason in reasons]
            running = sum(trial.end is None for trial in trials)
            best = best_trial(trials)
            shown = ("", "") if best is None else (f"{best.value:.2%}", f"{best.number}")
            table.add_row(name, f"{len(trials)}/{quota}", str(running), *counts, *shown)
        return table

    def _groups(self) -> Iterator[tuple[str, list[TrialState], int]]:
        """Name, trials and number of trials wanted of every arm, or of its strata where it has some."""
        edges = self.state.strata
        for arm, quota in self.state.quota.items():
            trials = self.state.of_arm(arm)
            if not edges:
                yield arm, trials, quota
            for stratum, edge in enumerate(edges):
                mine = [trial for trial in trials if trial.stratum == stratum]
                share, rest = divmod(quota, len(edges))
                yield f"{arm} up to {edge:,}", mine, share + (stratum < rest)

    def _rungs(self) -> Iterator[RenderableType]:
        """How many trials have reached each rung and the end, as bars."""
        trials = self.state.trials.values()
        table = Table.grid(padding=(0, 1))
        epochs = sorted({1, *self.course.rungs, self.course.num_epochs})
        for epoch in epochs:
            reached = sum(trial.epoch >= epoch for trial in trials)
            pruned = sum(trial.end == "pruned" and trial.epoch == epoch for trial in trials)
            bar = Bar(max(1, len(trials)), 0, reached, width=BAR_WIDTH, color="cyan")
            said = f"{counted(reached, 'trial')}" + (f", {pruned} pruned" if pruned else "")
            table.add_row(Text(f"epoch {epoch}", justify="right"), bar, said)
        yield table

    def _best(self) -> Iterator[RenderableType]:
        """Every arm's best trial: its figure, its curve, and its parameters."""
        for arm in self.state.quota:
            best = best_trial(self.state.of_arm(arm))
            if best is not None:
                line = Text(f"{arm}: ", no_wrap=True, overflow="ellipsis")
                line.append(f"{best.value:.2%}", style="bold")
                line.append(f"  {sparkline(curve_of(best))}", style="cyan")
                line.append(f"  trial {best.number}, {counted(best.epoch, 'epoch')}")
                drawn = "  ".join(f"{name} {short(value)}" for name, value in best.draw.items())
                yield Group(line, Padding(Text(drawn, style="dim"), (0, 0, 0, 2), expand=False))


def curve_of(trial: TrialState) -> list[float]:
    """A trial's metric by epoch, as far as it is a number."""
    values = (row.get(METRIC) for _, row in sorted(trial.rows.items()))
    return [value for value in values if value is not None]


def sparkline(values: Sequence[float], width: int = CURVE_WIDTH) -> str:
    """A curve in a line of text, from its lowest to its highest value; of those that share a character the last."""
    if len(values) > width:
        values = [values[(place + 1) * len(values) // width - 1] for place in range(width)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((value - low) * scale)] for value in values)


def epochs_left(state: RunState, course: Course) -> float:
    """Epochs that a search still has to train, if trials to come are as long as those that ended.

    While none has ended, half of a trial is taken for typical where trials may be pruned.
    """
    left = 0.0
    for arm, quota in state.quota.items():
        trials = state.of_arm(arm)
        ended = [trial.epoch for trial in trials if trial.end is not None]
        typical = sum(ended) / len(ended) if ended else course.num_epochs / (2 if course.rungs else 1)
        running = [trial.epoch for trial in trials if trial.end is None]
        # One that came further than most is trained to the end.
        left += sum((typical if epoch < typical else course.num_epochs) - epoch for epoch in running)
        left += typical * max(0, quota - len(trials))
    return left


def best_trial(trials: list[TrialState]) -> TrialState | None:
    """The trial with the best last value among those that did not fail or diverge; of equals the first."""
    return max(
        (trial for trial in trials if trial.usable), key=lambda trial: (trial.value, -trial.number), default=None
    )
