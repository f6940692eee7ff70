"""A JSON Schema (draft 2020-12) of search files, for editors to complete and check them by.

It says what `catalog` and `config` check leaf by leaf, from the same signatures and models. What depends on several
leaves (a range that is upside down, a teacher that an objective lacks) only `kd-tune doctor FILE` and a search say.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from kd_tune import user_code
from kd_tune.catalog import FIXED_TRAINING, TABLES, Table, adapter, signature
from kd_tune.config import ArmConfig, ResourcesConfig, SearchConfig, TrainingConfig
from kd_tune.ranges import RANGE_KEYS, Model
from kd_tune.search_file import TRIAL_SECTIONS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
RANGES = {"number": ("float", "int"), "integer": ("int",)}  # that may stand for a number of each type

Schema = dict[str, Any]


def search_file_schema() -> Schema:
    """The schema of a search file."""
    search = _of_model(SearchConfig)
    names = _of_model(ArmConfig)["properties"]["name"]
    search["properties"]["arms"]["items"] = {"anyOf": [names, _of_model(ArmConfig)]}
    sections = {key: _table(table) for key, table in TABLES.items()} | {"training": _training()}
    trial = {
        "type": "object",
        "description": "A trial as one would write it by hand, in which some leaves are ranges.",
        "properties": {key: sections[key] for key in TRIAL_SECTIONS},
        "required": [key for key in TRIAL_SECTIONS if key != "teacher"],
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": "kd_tune search file",
        "type": "object",
        "properties": {"search": search, "resources": _of_model(ResourcesConfig), "trial": trial},
        "required": ["trial"],
        "additionalProperties": False,
    }


def _of_model(model: type[Model]) -> Schema:
    """A fixed section: pydantic's schema of it, without references, with what its docstring says of each key."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            found = definitions[node["$ref"].rpartition("/")[2]]
            return inlined(found) | {key: value for key, value in node.items() if key != "$ref"}
        return {key: inlined(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}

    _describe(schema, model)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Model):
            _describe(definitions[field.annotation.__name__], field.annotation)
    whole: Schema = inlined(schema)
    return whole


def _describe(schema: Schema, model: type[Model]) -> None:
    """Puts what a model's docstring says where an editor shows it."""
    schema["description"] = summary(model)
    for name, text in described(model).items():
        schema["properties"][name]["description"] = text


def _training() -> Schema:
    hints = get_type_hints(TrainingConfig, include_extras=True)
    texts = described(TrainingConfig)
    properties = {}
    for key, field in TrainingConfig.model_fields.items():
        default = {} if field.is_required() else {"default": field.default}
        properties[key] = _leaf(hints[key], key in FIXED_TRAINING) | default | {"description": texts[key]}
    return {
        "type": "object",
        "description": "How a student is trained.",
        "properties": properties,
        "required": ["num_epochs"],
        "additionalProperties": False,
    }


def _table(table: Table) -> Schema:
    """A section that names an entry of a table, or a choice of such sections."""
    sections = [_entry(name, entry, table) for name, entry in table.entries.items()]
    if table.open:
        sections.append(
            {
                "type": "object",
                "description": f"Your own {table.kind}: package.module:callable, with --allow-code package.",
                "properties": {"name": {"type": "string", "pattern": user_code.FORM}},
                "required": ["name"],
            }
        )
    one = {"anyOf": sections}
    if table.kind == "data set":
        return one
    return {"anyOf": [*sections, _object({"choice": {"type": "array", "items": one, "minItems": 1}}, ["choice"])]}


def _entry(name: str, entry: Callable[..., Any], table: Table) -> Schema:
    domains, required, free = signature(entry, table)
    parameters, texts = inspect.signature(entry).parameters, described(entry)
    properties: Schema = {"name": {"const": name, "description": summary(entry)}}
    for key, domain in domains.items():
        properties[key] = _leaf(domain, table.fixed)
        if key in texts:
            properties[key]["description"] = texts[key]
        default = parameters[key].default if key in parameters else inspect.Parameter.empty
        if isinstance(default, bool | int | float | str):
            properties[key]["default"] = default
    return _object(properties, ["name", *sorted(required)]) | ({"additionalProperties": True} if free else {})


def _object(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _leaf(domain: Any, fixed: bool) -> Schema:
    """A value of a domain or, where ranges are allowed, a range or choice of such values."""
    value = adapter(domain).json_schema()
    if fixed:
        return dict(value)
    allowed = [value, _choice(value)]
    for option in value.get("anyOf", [value]):
        if option.get("type") in RANGES:
            allowed += [_range(kind, option) for kind in RANGES[option["type"]]]
    return {"anyOf": allowed}


def _choice(value: Mapping[str, Any]) -> Schema:
    options = {"type": "array", "items": value, "minItems": 1}
    return _object({"choice": options}, ["choice"]) | {"description": "One of these: {choice: [a, b]}"}


def _range(kind: str, value: Mapping[str, Any]) -> Schema:
    """A range of numbers, whose ends are values themselves."""
    of = "integer" if kind == "int" else "number"
    properties = {
        kind: {"type": "array", "items": {**value, "type": of}, "minItems": 2, "maxItems": 2},
        "log": {"type": "boolean", "description": "Drawn on a logarithmic scale."},
        "step": {"type": of, "exclusiveMinimum": 0, "description": "Only the lower end plus multiples of this."},
    }
    return _object(properties, [kind]) | {"description": summary(RANGE_KEYS[kind])}


def summary(documented: Any) -> str:
    """The first sentence of a docstring, on one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def described(documented: Any) -> dict[str, str]:
    """What a docstring says of arguments or attributes, by name."""
    lines = (inspect.getdoc(documented) or "").splitlines()
    heads = [place for place, line in enumerate(lines) if line in ("Args:", "Attributes:")]
    texts: dict[str, str] = {}
    name = ""
    for line in lines[heads[0] + 1 :] if heads else ():
        if line and not line.startswith(" "):
            break
        if found := re.match(r" {4}(\w+): (.*)", line):
            name = found[1]
            texts[name] = found[2]
        elif name and line.strip():
            texts[name] += " " + line.strip()
    return texts
