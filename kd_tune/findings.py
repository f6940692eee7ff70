"""What a check of a set-up finds: a verdict, what there is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check came out."""

    PASS = "PASS"  # noqa: S105 # no password
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        verdict: WARN where a search runs, but not as it should; FAIL where it would break, or let somebody in.
        check: what was looked at.
        found: what there is.
        mend: what to do about it; empty if it passes.
        node: the address of the node; empty for the machine that asks.
    """

    verdict: Verdict
    check: str
    found: str
    mend: str = ""
    node: str = ""

    def __str__(self) -> str:
        where = f" [{self.node}]" if self.node else ""
        mend = f"; mend: {self.mend}" if self.mend else ""
        return f"{self.verdict}  {self.check}{where}: {self.found}{mend}"


def passed(check: str, found: str) -> Finding:
    """Nothing to mend."""
    return Finding(Verdict.PASS, check, found)


def warned(check: str, found: str, mend: str) -> Finding:
    """A search runs, but not as it should."""
    return Finding(Verdict.WARN, check, found, mend)


def failed(check: str, found: str, mend: str) -> Finding:
    """A search would break, or let somebody in."""
    return Finding(Verdict.FAIL, check, found, mend)
