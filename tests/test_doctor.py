"""`kd-tune doctor`: versions, a search file's data and teachers, the nodes of a cluster, exit codes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kd_tune import cli, teacher
from kd_tune.config import ResourcesConfig
from kd_tune.data import Dataset
from kd_tune.doctor import Setup, check_cluster, check_nodes, check_requirements, examine
from kd_tune.findings import Finding, Verdict
from kd_tune.node_checks import Folder
from kd_tune.nodes import marked
from kd_tune.paths import CACHE_VARIABLE
from kd_tune.prepare import fill_bank
from kd_tune.search_file import load_search_file
from kd_tune.search_findings import check_places, check_search, check_teacher
from tests.object_store import Gate
from tests.searches import toy_search, write_search

PASS, WARN, FAIL = Verdict
FOUND = {
    "python": "3.12.1",
    "commit": "abc",
    "kd-tune": "0.1",
    "ray": "2.60.3",
    "torch": "2.12.0+cpu",
    "optuna": "5.0.1",
}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home, a cache and a working directory of this test alone."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    umask = os.umask(0o077)
    yield tmp_path
    os.umask(umask)


@pytest.mark.parametrize(
    ("name", "required", "verdict"),
    [
        ("ray", "==2.60.*", PASS),
        ("torch", ">=2.11", PASS),
        ("python", ">=3.11", PASS),
        ("ray", "==2.61.*", FAIL),
        ("torch", ">=2.12.1", FAIL),
        ("python", "<3.12", FAIL),
        ("pandas", ">=9", PASS),  # not among the versions that results depend on
    ],
)
def test_versions_are_held_against_what_kd_tune_asks_for(name: str, required: str, verdict: Verdict) -> None:
    finding = check_requirements({name: required}, FOUND)
    assert finding.verdict is verdict
    assert (f"{name} {FOUND.get(name)}, but kd_tune asks for {name}{required}" in finding.found) == (verdict is FAIL)


def test_a_missing_package_fails_and_an_unknown_kd_tune_is_warned_of() -> None:
    missing = check_requirements({"optuna": "==5.0.*"}, FOUND | {"optuna": None})
    assert (missing.verdict, missing.found) == (FAIL, "optuna missing, but kd_tune asks for optuna==5.0.*")
    assert check_requirements(None, FOUND).verdict is WARN


def verdicts(findings: list[Finding]) -> dict[str, Verdict]:
    return {f"{finding.check} {finding.node}".strip(): finding.verdict for finding in findings}


def test_a_search_file_is_followed_to_its_data_and_teachers(tmp_path: Path, toy_npz: Path) -> None:
    file = load_search_file(write_search(tmp_path, toy_search()))
    assert verdicts(check_search(file, toy_npz)) == {"search file": PASS, "data": PASS, "teacher digits": WARN}
    assert verdicts(check_search(file, tmp_path / "no.npz")) == {"search file": PASS, "data": FAIL}
    broken = load_search_file(write_search(tmp_path, toy_search(**{"trial.student.width": -1})))
    findings = check_search(broken, toy_npz)
    assert verdicts(findings) == {"search file": FAIL}
    assert "trial.student.width: -1 must be greater than 0" in findings[0].found


def test_a_teachers_answers_are_counted_and_verified(
    toy_dataset: Dataset, save_teacher: Callable[..., Path], machine: Path
) -> None:
    folder = save_teacher(teacher.folder_of({"name": "digits"}, toy_dataset), toy_dataset)
    section = {"name": "digits"}
    finding = check_teacher(section, toy_dataset, views=2)
    assert finding.verdict is WARN
    assert f"{2 * len(toy_dataset.train) + len(toy_dataset.val)} answers are missing for 2 views" in finding.found
    loaded = teacher.load(folder, toy_dataset)
    bank = fill_bank(loaded, toy_dataset, 2, Console(quiet=True))
    finding = check_teacher(section, toy_dataset, views=2)
    assert (finding.verdict, loaded.fingerprint in finding.found) == (PASS, True)
    assert check_teacher(section | {"mode": "live"}, toy_dataset, views=9).verdict is PASS
    content = bytearray((bank / "logits.f16").read_bytes())
    content[7] ^= 1
    (bank / "logits.f16").write_bytes(content)
    finding = check_teacher(section, toy_dataset, views=2)
    assert (finding.verdict, "view 0 of the bank is damaged" in finding.found) == (FAIL, True)
    (folder / teacher.WEIGHTS).write_bytes(b"")
    assert "content has changed" in check_teacher(section, toy_dataset, views=2).found


@pytest.mark.parametrize(
    ("section", "verdict"),
    [
        ({"name": "random", "network": "digits"}, PASS),
        ({"name": "permuted", "of": "digits"}, WARN),
        ({"name": "digits", "weights": "weights.pt"}, PASS),
        ({"name": "digits", "weights": "missing.pt"}, FAIL),
        ({"name": "logits", "file": "weights.pt"}, PASS),
        ({"name": "logits", "file": "missing.npy"}, FAIL),
    ],
    ids=str,
)
def test_teachers_that_are_made_later_need_what_they_are_made_of(
    section: dict[str, Any], verdict: Verdict, toy_dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "weights.pt").touch()
    assert check_teacher(section, toy_dataset, views=1).verdict is verdict


def test_a_trial_that_fits_nowhere_fails() -> None:
    assert check_places(ResourcesConfig()).verdict is PASS
    finding = check_places(ResourcesConfig(cpus_per_trial=5000))
    assert (finding.verdict, "asks for 5000 CPUs" in finding.found) == (FAIL, True)


def test_this_machine_is_examined_and_nothing_is_made(tmp_path: Path) -> None:
    findings = verdicts(examine(Setup(tmp_path / "runs")))
    assert {"versions", "runs folder", "cache folder", "token", "telemetry", "dashboard"} <= findings.keys()
    assert findings["token"] is findings["dashboard"] is PASS
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("bits", [0o600, 0o644])
def test_a_failure_is_exit_code_5_with_its_mend(
    machine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    token = machine / "token"
    token.write_text("0" * 64)
    token.chmod(bits)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    failures = [line for line in lines if line.startswith("FAIL")]
    assert lines[-1].startswith(f"{len(lines) - 1} checks: {len(failures)} failed, ")
    assert stop.value.code == (5 if failures else 0)
    assert any(line.endswith(f"mend: chmod 600 {token}") for line in failures) == (bits != 0o600)


def test_a_cluster_that_cannot_be_reached_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fails(**_: Any) -> None:
        raise ConnectionError("nobody\n answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    (finding,) = check_cluster("10.0.0.1:6379", [], None)
    assert finding.verdict is FAIL
    assert finding.found == "--address 10.0.0.1:6379: no Ray cluster there: nobody answers"


def test_folders_are_marked_while_nodes_are_asked(tmp_path: Path) -> None:
    there, missing = (Folder("runs", str(path), str(path)) for path in (tmp_path, tmp_path / "missing"))
    with marked([there, missing]) as shared:
        assert [folder.name for folder in shared] == ["runs"]
        assert os.listdir(tmp_path) == [shared[0].marker]
    assert os.listdir(tmp_path) == []


def test_every_node_answers_for_itself(tmp_path: Path, ray_cluster: None) -> None:
    import ray

    with marked([Folder("runs", str(tmp_path), str(tmp_path))]) as shared:
        found = verdicts(check_nodes([*shared, Folder("data", "/nowhere", "/nowhere")]))
    node = ray.nodes()[0]["NodeManagerAddress"]
    assert found[f"versions {node}"] is found[f"runs folder {node}"] is PASS
    assert found[f"data folder {node}"] is FAIL
    assert found[f"telemetry {node}"] is PASS
    assert os.listdir(tmp_path) == []


def test_every_node_must_write_a_storage(s3: Gate, ray_cluster: None) -> None:
    import ray

    of_node = f"storage {ray.nodes()[0]['NodeManagerAddress']}"
    assert verdicts(check_nodes([], storage=s3.url))[of_node] is PASS
    s3.always = 403
    assert verdicts(check_nodes([], storage=s3.url))[of_node] is FAIL


def test_a_shared_folder_as_storage_is_marked_like_one(tmp_path: Path) -> None:
    findings = examine(Setup(tmp_path / "runs", storage=str(tmp_path)))
    assert verdicts(findings)["storage folder"] is PASS
    assert "storage" not in verdicts(findings)


def test_a_node_on_which_the_checks_break_fails(ray_cluster: None) -> None:
    no_path: Any = None
    (finding,) = check_nodes([Folder("runs", "", no_path)])
    assert finding.verdict is FAIL
    assert "the checks broke there: TypeError: " in finding.found


def test_kd_tunes_own_ray_listens_on_loopback_alone_and_wants_a_token(ray_cluster: None) -> None:
    import ray

    (node,) = ray.nodes()
    assert node["NodeManagerAddress"] == "127.0.0.1"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    own = socket.gethostbyname(socket.gethostname())
    gcs = int(ray.get_runtime_context().gcs_address.rpartition(":")[2])
    for port in (node["NodeManagerPort"], node["ObjectManagerPort"], gcs):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        if not own.startswith("127."):
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((own, port), timeout=5)
