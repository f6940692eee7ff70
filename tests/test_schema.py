"""The JSON Schema of search files, and the first search file that `kd-tune init` writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from kd_tune import starter
from kd_tune.catalog import TABLES, check_trial
from kd_tune.cli import main
from kd_tune.config import TrainingConfig
from kd_tune.data import DATASETS
from kd_tune.errors import ConfigError
from kd_tune.schema import described, search_file_schema, summary
from kd_tune.search_file import Source, load_search_file, parse_search_file
from tests.searches import toy_search

SCHEMA = search_file_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
SHIPPED = sorted((Path(__file__).parent.parent / "search_spaces").glob("*.yaml"))
NUMBERS = [-1, 0, 1, 3, 0.25, 0.5, 1.5]
VALUES = [*NUMBERS, True, False, None, "none", "T2", "x", []]
RANGES = [{"float": [0.25, 0.5], "log": True}, {"float": [-1, 0.5]}, {"int": [1, 3]}, {"int": [0, 2], "step": 1}]


def problems(raw: dict[str, Any]) -> list[str]:
    """What a search would complain of."""
    try:
        file = parse_search_file(copy.deepcopy(raw), Source("x.yaml", {}))
    except ConfigError as error:
        return error.problems
    return check_trial(file.trial, file.source)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert "$ref" not in json.dumps(SCHEMA), "some editors do not follow them"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_valid(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "section", [(key, name) for key, table in TABLES.items() if key != "teacher" for name in table.entries]
)
@given(data=st.data())
def test_it_allows_what_a_search_does(section: tuple[str, str], data: st.DataObject) -> None:
    key, name = section
    known = VALIDATOR.schema["properties"]["trial"]["properties"][key]
    entry = next(one for one in known["anyOf"] if one["properties"].get("name", {}).get("const") == name)
    arguments = sorted(entry["properties"].keys() - {"name"})
    value = st.sampled_from([*VALUES, *RANGES, {"choice": [1, 2]}, {"choice": ["none", "T2"]}, {"choice": []}])
    drawn = data.draw(st.dictionaries(st.sampled_from([*arguments, "nonsense"]), value, max_size=2))
    raw = toy_search()
    raw["trial"][key] = {"name": name, **drawn}
    assert VALIDATOR.is_valid(raw) == (not problems(raw)), problems(raw)


@given(
    st.dictionaries(
        st.sampled_from([*TrainingConfig.model_fields, "nonsense"]), st.sampled_from([*VALUES, *RANGES]), max_size=2
    )
)
def test_it_allows_the_training_that_a_search_does(drawn: dict[str, Any]) -> None:
    raw = toy_search()
    raw["trial"]["training"] |= drawn
    raw["trial"]["teacher"]["mode"] = "live"  # which goes with a transform, too
    assert VALIDATOR.is_valid(raw) == (not problems(raw)), problems(raw)


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({"search.arms": ["distil", {"name": "cross_entropy", "num_trials": 3}]}, True),
        ({"search.arms": ["distill"]}, False),
        ({"search.sampler": {"name": "grid"}}, True),
        ({"search.sampler": {"name": "greedy"}}, False),
        ({"trial.student": {"name": "my.networks:small", "depth": {"int": [1, 3]}}}, True),
        ({"trial.student": {"name": "my.networks", "depth": 2}}, False),
        ({"trial.dataset": {"choice": [{"name": "mnist5k"}]}}, False),
        ({"trial.optimizer": {"choice": [{"name": "sgd"}, {"name": "adamw", "lr": 0.01}]}}, True),
        ({"resources.gpus_per_trial": -1}, False),
    ],
)
def test_it_knows_sections_and_names(change: dict[str, Any], valid: bool) -> None:
    assert VALIDATOR.is_valid(toy_search(**change)) is valid


def test_editors_show_what_docstrings_say() -> None:
    training = SCHEMA["properties"]["trial"]["properties"]["training"]["properties"]
    assert training["views"]["description"].startswith("how many views of every image")
    assert training["views"]["default"] == 1
    for table in TABLES.values():
        assert all(map(summary, table.entries.values()))


def test_docstrings_are_read() -> None:
    def function(first: int, second: int) -> None:
        """Does this,
        and that.

        More of it.

        Args:
            first: one
                and a half: so.
            second: two.

        Returns:
            nothing: really.
        """

    assert summary(function) == "Does this, and that."
    assert described(function) == {"first": "one and a half: so.", "second": "two."}
    assert described(object) == {}


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_init_writes_is_a_valid_search(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["init", "my search.yaml", "--dataset", dataset])
    assert end.value.code == 0
    file = load_search_file(tmp_path / "my search.yaml")
    assert check_trial(file.trial, file.source) == []
    assert file.trial["dataset"]["name"] == dataset
    text = (tmp_path / "my search.yaml").read_text()
    assert text.startswith(f"# yaml-language-server: $schema={starter.SCHEMA}\n")
    assert json.loads((tmp_path / starter.SCHEMA).read_text()) == SCHEMA
    VALIDATOR.validate(yaml.safe_load(text))
    assert "next: kd-tune plan 'my search.yaml'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["there.yaml"], "there.yaml: is there already, and is left as it is; name another file"),
        (["new.yaml", "--dataset", "cifar"], "--dataset cifar: no such data set; there are mnist5k, mnist,"),
    ],
)
def test_init_spoils_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["init", *arguments])
    assert end.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]
    assert Path("there.yaml").read_text() == "mine"


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["schema"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
