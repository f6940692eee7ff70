"""YAML without its traps: `1e-3` is a number, `no` is a string, a key given twice is an error, so is an alias.

PyYAML follows YAML 1.1, which reads `1e-3` as a string and `no` as False, and keeps the last of two equal keys. This
loader resolves plain scalars as YAML 1.2's core schema does (decimal numbers only; no .inf, no .nan), and remembers
the line of every key for messages.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

MAX_DEPTH = 40
MAX_DIGITS = 30


class StrictYamlError(ValueError):
    """`line: what is wrong`."""


class _Loader(yaml.SafeLoader):
    """Only its reader, scanner, parser and composer are used; values are built below."""

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        tag = self.peek_event().tag  # type: ignore[no-untyped-call]
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        if tag is not None:
            raise StrictYamlError(f"{node.start_mark.line + 1}: tags ({tag}) are not allowed")
        return node

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


def dump_yaml(content: Any) -> str:
    """Plain values as YAML that `parse_yaml` reads back equal: strings that look like something else are quoted."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False))


class _Dumper(yaml.SafeDumper):
    """PyYAML leaves `1e-3` unquoted, because it reads it as a string."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        try:
            plain = isinstance(_plain(text, line=0), str)
        except StrictYamlError:  # too many digits for a number
            plain = False
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


_Dumper.add_representer(str, _Dumper.represent_str)


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
    return text if node.style is not None else _plain(text, line)  # quoted, or a block: always a string


def _plain(text: str, line: int) -> Any:
    """The value of an unquoted scalar, by YAML 1.2's core schema."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise StrictYamlError(f"{line}: a whole number of {len(text)} digits is not allowed")
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
