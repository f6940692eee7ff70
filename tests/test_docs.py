"""The code on `docs/your_own.md` does what the page says, with timm as the example that it is."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_tune import user_code
from kd_tune.catalog import build_student, check_trial
from kd_tune.data import Dataset
from kd_tune.engine import rehearse, train
from kd_tune.search_file import Source, parse_search_file
from kd_tune.trial_data import TrialData
from tests.searches import ROOT, toy_search
from tests.training import CPU, trial

PAGE = (ROOT / "docs" / "your_own.md").read_text(encoding="utf-8")


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's package, in the working directory."""
    (tmp_path / "acme").mkdir()
    for name, code in re.findall(r"```python\n# acme/(\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / "acme" / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    user_code.allow(["acme"])
    yield
    user_code.forbid_all()
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        del sys.modules[name]


def sections() -> dict[str, Any]:
    """The page's YAML, one section after another."""
    found: dict[str, Any] = {}
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        found |= {f"{key} {len(found)}": value for key, value in yaml.safe_load(block).items()}
    return found


@pytest.mark.parametrize("name", [name for name in sections() if not name.startswith("training")])
def test_every_section_on_the_page_checks_clean(name: str, acme: None) -> None:
    search = toy_search(**{f"trial.{name.split()[0]}": sections()[name]})
    if name.startswith("teacher") and sections()[name].get("mode") == "live":
        search["trial"]["training"] |= {"transform": "trivial_augment"}
    source = Source("x.yaml", {})
    assert check_trial(parse_search_file(search, source).trial, source) == []


def test_a_network_of_timms_is_trained(acme: None, toy_dataset: Dataset) -> None:
    student = {"name": "acme.networks:from_timm", "model": "resnet10t", "drop_rate": 0.1}
    config = trial(student=student, objective={"name": "cross_entropy"}, training={"num_epochs": 1})
    rehearse(config, toy_dataset)
    ((row, _),) = train(config, TrialData(toy_dataset, None, CPU), 0)
    assert row.num_parameters == sum(value.numel() for value in build_student(student, toy_dataset).parameters())
    assert not row.diverged


def test_the_pages_objective_is_an_objective(acme: None, toy_dataset: Dataset) -> None:
    objective = {"name": "acme.losses:MatchLogits", "alpha": 0.3}
    rehearse(trial(objective=objective) | {"teacher": {"name": "digits"}}, toy_dataset)


def source() -> str:
    """All of kd_tune's code, with strings that go on over lines in one."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "kd_tune").glob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_messages_on_the_faq_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    messages = [
        quoted for line in re.findall(r"^\*\*(.*)\*\*$", page, re.MULTILINE) for quoted in line.split("`")[1::2]
    ]
    assert len(messages) > 10
    code = source()
    for message in messages:
        parts = re.split(
            r"runs/a|\.\.\.|'[^']*'|\d+|\b(?:name|mine|data|auto|objective|teacher|onnx|onnxscript|onnxruntime)\b",
            message,
        )
        part = max(parts, key=len).strip(" :,;(")
        assert part in code, message
