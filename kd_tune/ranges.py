"""Ranges: leaves of a trial that a search draws, as they stand in a search file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator


class Model(BaseModel):
    """Base of every section: unknown keys are errors, types are not coerced, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_by_name=True, validate_by_alias=True)


class _NumberRange(Model):
    """What ranges of numbers have in common."""

    bounds: list[Any]
    log: bool = False
    step: Any = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"the range is upside down or empty: {low} must be below {high}")
        if self.log and low <= 0:
            raise ValueError(f"a logarithmic range must start above 0, not at {low}")
        if self.log and self.step is not None:
            raise ValueError("a range has log or step, not both")
        if self.step is not None and abs((high - low) / self.step - round((high - low) / self.step)) > 1e-6:
            raise ValueError(f"the step {self.step} does not divide the range from {low} to {high}")
        return self

    @property
    def extremes(self) -> list[Any]:
        return list(self.bounds)


class FloatRange(_NumberRange):
    """`{float: [low, high], log: true, step: 0.1}`: a real number, both ends included."""

    bounds: Annotated[list[FiniteFloat], Field(alias="float", min_length=2, max_length=2)]
    step: Annotated[float, Field(gt=0)] | None = None


class IntRange(_NumberRange):
    """`{int: [low, high], log: true, step: 2}`: a whole number, both ends included."""

    bounds: Annotated[list[int], Field(alias="int", min_length=2, max_length=2)]
    step: Annotated[int, Field(gt=0)] | None = None


class Choice(Model):
    """`{choice: [a, b, c]}`: one of a list of values, or one of a list of sections that differ in `name` or `label`."""

    options: Annotated[list[Any], Field(alias="choice", min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_sections:
            sections = [option if isinstance(option, Mapping) else {} for option in self.options]
            if not all(isinstance(section.get("name"), str) for section in sections):
                raise ValueError("every section of a choice needs a name")
            keys: list[Any] = [branch_name(section) for section in sections]
        else:
            if any(isinstance(option, dict | list) for option in self.options):
                raise ValueError("a choice holds plain values or sections with a name, not a mixture of both")
            keys = [(type(option), option) for option in self.options]
        if len(set(keys)) < len(keys):
            raise ValueError("two options of the choice are the same")
        return self

    @property
    def is_sections(self) -> bool:
        return any(isinstance(option, Mapping) for option in self.options)

    @property
    def extremes(self) -> list[Any]:
        return list(self.options)

    @property
    def values(self) -> list[Any]:
        """What a draw can say: the options, or the names of the sections."""
        return [branch_name(option) for option in self.options] if self.is_sections else list(self.options)


def branch_name(section: Mapping[str, Any]) -> str:
    """What a section is called as one option of a choice: its label, if it has one, or its name."""
    return str(section.get("label", section["name"]))


Range = FloatRange | IntRange | Choice
RANGE_KEYS: dict[str, type[Range]] = {"float": FloatRange, "int": IntRange, "choice": Choice}
