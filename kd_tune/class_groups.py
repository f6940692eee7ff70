"""Groups of classes that are alike, such as vehicles and animals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

Groups = Mapping[str, Sequence[str]]  # names of classes by name of group
GroupsArgument = dict[str, list[str | int]] | None  # in a search file, where a class called 7 needs no quotes


def group_problems(groups: Groups, class_names: Sequence[str]) -> list[str]:
    """What is wrong with groups of these classes: each class must be in one, a problem a line."""
    counts = Counter(name for names in groups.values() for name in names)
    unknown = [name for name in counts if name not in class_names]
    found = [f"groups: unknown class '{name}'; known: {', '.join(class_names)}" for name in unknown]
    found += [
        f"groups: class '{name}' is in no group; every class must be in one"
        for name in class_names
        if name not in counts
    ]
    found += [
        f"groups: class '{name}' is named {counts[name]} times; every class must be in one group"
        for name in class_names
        if counts[name] > 1
    ]
    return found + [f"groups: group '{group}' is empty; leave it out" for group, names in groups.items() if not names]


def named_groups(argument: GroupsArgument) -> Groups | None:
    """Groups as a search file has them, with every class by its name."""
    return None if argument is None else {group: [str(name) for name in names] for group, names in argument.items()}
