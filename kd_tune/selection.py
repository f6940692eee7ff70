"""Which trials of a search are confirmed, and what they are compared as: arms, or values of a parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_tune.catalog import canonical_draw
from kd_tune.errors import ConfigError
from kd_tune.progress import short
from kd_tune.ranges import Choice, FloatRange
from kd_tune.records import DISTIL
from kd_tune.run_state import TrialState
from kd_tune.space import Space


@dataclass(frozen=True)
class Selection:
    """A question to the trials of a search.

    Attributes:
        top: candidates of a model at a student, at most (of one, see `candidates`).
        all_students: every student, not only the best.
        by: the parameter of the leading arm whose values are compared, with each other and with the other arms, which
            take part as they are; None: arms are compared.
        where: values that parameters must have. An arm without such a parameter is not asked.
    """

    top: int
    all_students: bool = False
    by: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)

    def check(self, spaces: Mapping[str, Space]) -> None:
        """Raises ConfigError if a parameter does not exist, cannot have this value, or is not one of few values."""
        problems = [f"--where {text}" for name, value in self.where.items() for text in _wrong(name, value, spaces)]
        known = spaces[leading_arm(spaces)].parameters()
        if self.by is not None and self.by not in known:
            problems.append(f"--by {self.by}: no such parameter; known: {', '.join(known)}")
        elif self.by is not None and is_of_student(self.by):
            problems.append(f"--by {self.by}: is the student's, and models are compared at one; see --students all")
        elif self.by is not None and isinstance(leaf := known[self.by], FloatRange) and not leaf.step:
            problems.append(f"--by {self.by}: a range without steps, of which hardly two trials have the same value")
        if problems:
            raise ConfigError(problems)

    def admits(self, trial: TrialState, space: Space, leader: str) -> bool:
        """Whether a trial is a candidate.

        One whose value of a parameter changes nothing has any value: at alpha 0 a temperature may be without effect.
        One of the leading arm without a value of `by` took a branch of the space that has no part in this.
        """
        asked = {name: value for name, value in self.where.items() if name in trial.draw}
        if asked and canonical_draw(space, trial.draw | asked) != canonical_draw(space, trial.draw):
            return False
        return self.by is None or trial.arm != leader or self.by in trial.draw

    def model(self, trial: TrialState, leader: str) -> str:
        """What a trial is compared as."""
        return trial.arm if self.by is None or trial.arm != leader else self._named(trial.draw[self.by])

    def models(self, trials: Mapping[str, Sequence[TrialState]], spaces: Mapping[str, Space]) -> list[str]:
        """What is compared, in order: arms as the search has them, values as the search file lists them, or ascending.

        Args:
            trials: those that are admitted, by arm.
            spaces: by arm.
        """
        found: list[str] = []
        for arm, mine in trials.items():
            if self.by is None or arm != leading_arm(trials):
                found.append(arm)
                continue
            leaf = spaces[arm].parameters()[self.by]
            place: Callable[[Any], float] = leaf.values.index if isinstance(leaf, Choice) else float
            found += map(self._named, sorted({trial.draw[self.by] for trial in mine}, key=place))
        return found

    def _named(self, value: Any) -> str:
        return f"{str(self.by).rpartition('.')[2]}={short(value)}"


def leading_arm(arms: Iterable[str]) -> str:
    """The arm that the others are compared with: the distilled one, or the first where none learns from a teacher."""
    names = list(arms)
    return DISTIL if DISTIL in names else names[0]


def is_of_student(parameter: str) -> bool:
    """Whether a parameter belongs to the student."""
    return parameter == "student" or parameter.startswith(("student.", "student["))


def _wrong(name: str, value: Any, spaces: Mapping[str, Space]) -> list[str]:
    """What is wrong with a value that a parameter is asked to have, if so in every arm."""
    problems = [space.problems_of({name: value}) for space in spaces.values()]
    return problems[0] if all(problems) else []
