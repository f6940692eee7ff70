"""A trial with ranges as a search space: draws from it, and the trial that a draw stands for.

A draw is a flat dict from a parameter's name to its value. A parameter is named by its path (`objective.alpha`); inside
a choice of sections the branch is part of the name (`objective[hinton].alpha`), and the choice itself is a categorical
parameter (`objective`) whose values are the sections' names (or labels, where two have the same name).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kd_tune.ranges import Choice, FloatRange, IntRange, Range, branch_name

if TYPE_CHECKING:
    import optuna

MAX_GRID = 100_000

Draw = dict[str, Any]
Choose = Callable[[str, Range], Any]


@dataclass(frozen=True)
class Space:
    """A trial's tree whose leaves are values or ranges.

    Attributes:
        template: the `trial` section of a search file, ranges parsed.
    """

    template: dict[str, Any]

    def suggest(self, trial: optuna.Trial) -> Draw:
        """Draws from the space through an Optuna trial (define by run)."""
        draw: Draw = {}

        def choose(name: str, leaf: Range) -> Any:
            draw[name] = _suggest(trial, name, leaf)
            return draw[name]

        _resolve(self.template, "", choose)
        return draw

    def fill(self, draw: Draw) -> dict[str, Any]:
        """The trial that a draw stands for: the template with every range replaced by its value.

        Raises:
            KeyError: the draw lacks a parameter of the space.
        """
        filled: dict[str, Any] = _resolve(self.template, "", lambda name, _: draw[name])
        return filled

    def parameters(self) -> dict[str, Range]:
        """Every parameter of every branch by name."""
        return dict(_parameters(self.template, ""))

    def active(self, draw: Draw) -> dict[str, Range]:
        """The parameters that a complete draw uses, in the order in which they are drawn."""
        used: dict[str, Range] = {}

        def choose(name: str, leaf: Range) -> Any:
            used[name] = leaf
            return draw[name]

        _resolve(self.template, "", choose)
        return used

    def grid(self) -> list[Draw]:
        """Every draw of a space that holds only choices and ranges of whole numbers or steps.

        Raises:
            ValueError: names the ranges that have no finite list of values, or the grid is too large.
        """
        endless = [name for name, leaf in self.parameters().items() if isinstance(leaf, FloatRange) and not leaf.step]
        if endless:
            raise ValueError(f"a grid needs choices or steps, but {', '.join(endless)} has neither")
        size = _grid_size(self.template)
        if size > MAX_GRID:
            raise ValueError(f"the grid has {size:,} cells, but at most {MAX_GRID:,} are allowed; take fewer values")
        return list(_grid(self.template, ""))

    def distributions(self, draw: Draw) -> dict[str, optuna.distributions.BaseDistribution]:
        """Optuna's distributions of the parameters that a draw uses."""
        return {name: _distribution(leaf) for name, leaf in self.active(draw).items()}

    def all_distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Optuna's distributions of every parameter of every branch."""
        return {name: _distribution(leaf) for name, leaf in self.parameters().items()}

    def problems_of(self, point: Draw) -> list[str]:
        """What is wrong with a (possibly partial) draw that a person wrote: unknown names, values out of range."""
        known = self.parameters()
        problems = [f"{name}: no such parameter; known: {', '.join(known)}" for name in point if name not in known]
        problems += [
            f"{name}: {value!r} is not in {describe(known[name])}"
            for name, value in point.items()
            if name in known and not contains(known[name], value)
        ]
        for name in point:
            choice, _, rest = name.partition("[")
            if rest and name in known and point.get(choice) != rest.partition("]")[0]:
                problems.append(
                    f"{name}: belongs to a branch; the point must also say {choice}: {rest.partition(']')[0]}"
                )
        return problems


def first_value(leaf: Range) -> Any:
    """The low end of a range, the first option of a choice."""
    if isinstance(leaf, Choice):
        return _values(leaf)[0]
    return leaf.bounds[0] if isinstance(leaf, IntRange) else float(leaf.bounds[0])


def contains(leaf: Range, value: Any) -> bool:
    """Whether a value lies in a range; on a step, where the range has one."""
    if isinstance(leaf, Choice):
        return any(type(value) is type(option) and value == option for option in _values(leaf))
    kinds = (int,) if isinstance(leaf, IntRange) else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        return False
    low, high = leaf.bounds
    if not low <= value <= high:
        return False
    steps = (value - low) / leaf.step if leaf.step else 0.0
    return abs(steps - round(steps)) <= 1e-6


def describe(leaf: Range) -> str:
    """A range as it is written in a search file."""
    if isinstance(leaf, Choice):
        return "{choice: [" + ", ".join(map(str, _values(leaf))) + "]}"
    kind = "float" if isinstance(leaf, FloatRange) else "int"
    extra = ", log: true" if leaf.log else f", step: {leaf.step}" if leaf.step else ""
    return f"{{{kind}: {leaf.bounds}{extra}}}"


def to_raw(node: Any) -> Any:
    """The template as plain values, written as in a search file; the inverse of parsing it."""
    if isinstance(node, dict):
        return {key: to_raw(value) for key, value in node.items()}
    if isinstance(node, FloatRange | IntRange | Choice):
        dumped = node.model_dump(by_alias=True, exclude_defaults=True)
        return {key: to_raw(value) for key, value in dumped.items()} | (
            {"choice": [to_raw(option) for option in node.options]} if isinstance(node, Choice) else {}
        )
    return node


def _resolve(node: Any, name: str, choose: Choose) -> Any:
    """Rebuilds the tree with every range replaced by what `choose` says; visits only the branches chosen."""
    if isinstance(node, dict):
        return {key: _resolve(value, _join(name, key), choose) for key, value in node.items()}
    if isinstance(node, Choice) and node.is_sections:
        branch = choose(name, node)
        section = next(option for option in node.options if branch_name(option) == branch)
        return _resolve(section, f"{name}[{branch}]", choose)
    if isinstance(node, FloatRange | IntRange | Choice):
        return choose(name, node)
    return node


def _parameters(node: Any, name: str) -> Iterator[tuple[str, Range]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _parameters(value, _join(name, key))
    elif isinstance(node, FloatRange | IntRange | Choice):
        yield name, node
        if isinstance(node, Choice) and node.is_sections:
            for option in node.options:
                yield from _parameters(option, f"{name}[{branch_name(option)}]")


def _grid(node: Any, name: str) -> Iterator[Draw]:
    if isinstance(node, dict):
        cells = [list(_grid(value, _join(name, key))) for key, value in node.items()]
        for combination in itertools.product(*cells):
            yield {key: value for cell in combination for key, value in cell.items()}
    elif isinstance(node, Choice) and node.is_sections:
        for option in node.options:
            for cell in _grid(option, f"{name}[{branch_name(option)}]"):
                yield {name: branch_name(option)} | cell
    elif isinstance(node, FloatRange | IntRange | Choice):
        yield from ({name: value} for value in _values(node))
    else:
        yield {}


def _grid_size(node: Any) -> int:
    if isinstance(node, dict):
        return math.prod(_grid_size(value) for value in node.values())
    if isinstance(node, Choice) and node.is_sections:
        return sum(_grid_size(option) for option in node.options)
    if isinstance(node, Choice):
        return len(node.options)
    return _num_steps(node) if isinstance(node, FloatRange | IntRange) else 1


def _num_steps(leaf: FloatRange | IntRange) -> int:
    low, high = leaf.bounds
    return math.floor((high - low) / (leaf.step or 1) + 1e-9) + 1


def _values(leaf: Range) -> list[Any]:
    if isinstance(leaf, Choice):
        return leaf.values
    return [_on_step(leaf, index) for index in range(_num_steps(leaf))]


def _on_step(leaf: FloatRange | IntRange, index: int) -> Any:
    """One of a stepped range's values, to the last bit the same for a draw and for a grid, and never past the end."""
    low, high = leaf.bounds
    return min(low + index * (leaf.step or 1), high)


def _suggest(trial: optuna.Trial, name: str, leaf: Range) -> Any:
    if isinstance(leaf, Choice):
        return trial.suggest_categorical(name, _values(leaf))
    if isinstance(leaf, IntRange):
        return trial.suggest_int(name, *leaf.bounds, step=leaf.step or 1, log=leaf.log)
    value = trial.suggest_float(name, *leaf.bounds, step=leaf.step, log=leaf.log)
    # Optuna's own rounding may differ from the grid's in the last bit.
    return _on_step(leaf, round((value - leaf.bounds[0]) / leaf.step)) if leaf.step else float(value)


def _distribution(leaf: Range) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(leaf, Choice):
        return CategoricalDistribution(_values(leaf))
    if isinstance(leaf, IntRange):
        return IntDistribution(leaf.bounds[0], leaf.bounds[1], leaf.log, leaf.step or 1)
    return FloatDistribution(leaf.bounds[0], leaf.bounds[1], leaf.log, leaf.step)


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
