"""YAML without its traps: `1e-3` is a number, `no` is a string, a key given twice is an error, so is an alias.

PyYAML follows YAML 1.1, which reads `1e-3` as a string and `no` as False, and keeps the last of two equal keys. This
loader resolves plain scalars as YAML 1.2's core schema does, and remembers the line of every key for messages.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_NULL = re.compile(r"null|~|")
_BOOL = re.compile(r"true|false")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

MAX_DEPTH = 40


class StrictYamlError(ValueError):
    """`line: what is wrong`."""


class _Loader(yaml.SafeLoader):
    """Only its reader, scanner, parser and composer are used; values are built below."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise StrictYamlError(
                f"{event.start_mark.line + 1}: aliases (*{event.anchor}) are not allowed; write it out"
            )
        return super().compose_node(parent, index)


def parse_yaml(text: str) -> tuple[Any, dict[tuple[Hashable, ...], int]]:
    """Parses one document.

    Returns:
        The value, and the line (from 1) of every key and list item by its path.

    Raises:
        StrictYamlError: where and why, in one line.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StrictYamlError(f"{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise StrictYamlError(f"1: not YAML: {' '.join(str(error).split()) or 'nested too deeply'}") from None
    lines: dict[tuple[Hashable, ...], int] = {}
    return (None if node is None else _construct(node, (), lines)), lines


def parse_scalar(text: str) -> Any:
    """The value of a short piece of YAML, as given on a command line."""
    return parse_yaml(text)[0]


def _construct(node: yaml.Node, path: tuple[Hashable, ...], lines: dict[tuple[Hashable, ...], int]) -> Any:
    line = node.start_mark.line + 1
    if len(path) > MAX_DEPTH:
        raise StrictYamlError(f"{line}: nested more than {MAX_DEPTH} deep")
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, line)
    if isinstance(node, yaml.SequenceNode):
        _check_tag(node, "tag:yaml.org,2002:seq", line)
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
        return [_construct(item, (*path, index), lines) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    _check_tag(node, "tag:yaml.org,2002:map", line)
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise StrictYamlError(f"{key_line}: a key must be a plain word")
        key = key_node.value  # keys are names: `yes:` is the key 'yes', `1:` the key '1'
        if key in mapping:
            raise StrictYamlError(f"{key_line} {'.'.join(map(str, (*path, key)))}: this key is given twice")
        lines[(*path, key)] = key_line
        mapping[key] = _construct(value_node, (*path, key), lines)
    return mapping


def _check_tag(node: yaml.Node, expected: str, line: int) -> None:
    if node.tag != expected:
        raise StrictYamlError(f"{line}: tags ({node.tag}) are not allowed")


def _scalar(node: yaml.ScalarNode, line: int) -> Any:
    text = node.value
    if node.tag.startswith("!") or "python" in node.tag:
        raise StrictYamlError(f"{line}: tags ({node.tag}) are not allowed")
    if node.style is not None:  # quoted, or a block: always a string
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text == "true"
    if _INT.fullmatch(text):
        if len(text) > 30:
            raise StrictYamlError(f"{line}: a whole number of {len(text)} digits is not allowed")
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
