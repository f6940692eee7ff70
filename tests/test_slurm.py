"""The SLURM launch file, run on this machine: stand-ins for srun, scontrol and Ray; a search that ends as told."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.searches import complaints, epochs_of, toy_search, write_search
from tests.slurm_stand_ins import OWN_PROCESSES, Slurm, make_real, make_slurm


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return make_slurm(tmp_path)


def test_a_search_that_ends_ends_the_job(slurm: Slurm) -> None:
    code, output = slurm.run("0")
    assert code == 0, output
    assert slurm.note("search") == [
        f"toy.yaml --runs {slurm.shared}/runs --name toy --or-resume --address node0:{20000 + 484 * 16}"
    ]
    assert slurm.note("scontrol") == ["show hostnames node0,node1"]


def test_a_second_start_resumes(slurm: Slurm) -> None:
    slurm.run("75")
    code, _ = slurm.run("0")
    assert code == 0
    first, second = slurm.note("search")
    assert first == second


def test_options_reach_start_and_resume(tmp_path: Path) -> None:
    slurm = make_slurm(tmp_path, edits={"options": "(--data '/a folder')"})
    slurm.run("75")
    slurm.run("0")
    assert [line.endswith(" --data /a folder") for line in slurm.note("search")] == [True, True]


def test_every_node_starts_one_ray_of_the_same_cluster(slurm: Slurm) -> None:
    slurm.run("0")
    assert slurm.note("ray.0") == slurm.note("ray.1")
    (arguments,) = slurm.note("ray.1")
    assert arguments.startswith("symmetric-run --address node0:27744 --min-nodes 2 --node-manager-port=27745 ")
    assert "--dashboard-host=127.0.0.1" in arguments
    assert "--ntasks-per-node=1" in slurm.note("srun")[0]


def ports(slurm: Slurm) -> set[int]:
    """What the job's Ray listens on by number."""
    (arguments,) = slurm.note("ray.0")
    ray_only = arguments.partition(" -- ")[0]
    found = re.findall(r"--address \S+:(\d+)|--\S+-port=(\d+)", ray_only)
    return {int(first or second) for first, second in found} - {0}


def test_jobs_share_no_port(tmp_path: Path) -> None:
    used: list[set[int]] = []
    for job in (7, 8, 749, 4_000_000_750):
        slurm = make_slurm(tmp_path / str(job), job=job, nodes=1)
        slurm.run("0")
        used.append(ports(slurm))
    assert [len(one) for one in used] == [9] * 4
    assert len(set().union(*used)) == 4 * 9
    assert all(1024 < port < 32768 for port in set().union(*used))  # Linux gives out 32768 and above by itself


def test_the_token_is_the_jobs_alone_and_goes_with_it(slurm: Slurm) -> None:
    slurm.run("75")
    assert slurm.note("token_mode") == ["600"]
    assert slurm.note("token_length") == ["64"]
    assert "RAY_AUTH_MODE=token" in slurm.note("environment")
    assert f"RAY_AUTH_TOKEN_PATH={slurm.shared}/jobs/1234/token" in slurm.note("environment")
    assert not list((slurm.shared / "jobs").iterdir())


def test_exit_code_75_requeues_the_job(slurm: Slurm) -> None:
    code, _ = slurm.run("75")
    assert code == 75
    assert slurm.note("scontrol")[-1] == "requeue 1234"


@pytest.mark.parametrize("limit", ["hours", "device_hours"])
def test_a_search_that_stops_at_its_users_limit_is_not_requeued(slurm: Slurm, limit: str) -> None:
    code, output = slurm.run(limit)
    assert code == 75
    assert f"stopped by --max-{limit.replace('_', '-')} " in output
    assert "go on with: sbatch cluster/slurm.sh" in output
    assert "requeue 1234" not in slurm.note("scontrol")


@pytest.mark.parametrize("pause", ["storage", "signal"])
def test_a_search_that_pauses_for_another_reason_is_requeued(slurm: Slurm, pause: str) -> None:
    assert slurm.run(pause)[0] == 75
    assert slurm.note("scontrol")[-1] == "requeue 1234"


def test_a_limit_that_stopped_an_earlier_start_does_not_count(slurm: Slurm) -> None:
    slurm.run("hours")
    assert slurm.run("early")[0] == 75
    assert slurm.note("scontrol")[-1] == "requeue 1234"


@pytest.mark.parametrize("code", ["1", "2", "3"])
def test_other_codes_end_the_job(slurm: Slurm, code: str) -> None:
    assert slurm.run(code)[0] == int(code)
    assert "requeue 1234" not in slurm.note("scontrol")


def test_a_search_that_stops_again_and_again_is_given_up(slurm: Slurm) -> None:
    slurm.environment["SLURM_RESTART_COUNT"] = "100"
    code, output = slurm.run("75")
    assert code == 75
    assert "restarted 100 times already" in output
    assert "requeue 1234" not in slurm.note("scontrol")


def test_a_lost_worker_does_not_hide_how_the_search_ended(slurm: Slurm) -> None:
    (slurm.notes / "worker_code").write_text("137")
    assert slurm.run("75")[0] == 75
    assert slurm.note("scontrol")[-1] == "requeue 1234"


def test_ray_that_does_not_start_fails_the_job(slurm: Slurm) -> None:
    (slurm.notes / "ray_does_not_start").touch()
    code, output = slurm.run("0")
    assert code == 5
    assert "error: the search was not run to an end: Ray did not start" in output
    assert not slurm.note("search")


def test_what_a_killed_start_left_does_not_count(slurm: Slurm) -> None:
    left = slurm.shared / "jobs" / "1234"
    left.mkdir(parents=True)
    (left / "exit_code").write_text("0\n")
    (slurm.notes / "ray_does_not_start").touch()
    assert slurm.run("0")[0] == 5


def test_exit_code_0_without_a_recorded_end_fails_the_job(slurm: Slurm) -> None:
    code, output = slurm.run("silent")
    assert code == 5
    assert "the ledger does not say that the search has ended" in output


def wait_until(condition: Callable[[], bool], job: subprocess.Popen[str], seconds: float) -> None:
    """Waits; fails with what the job said where it ends first, or takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if job.poll() is not None or time.monotonic() > deadline:
            job.kill()
            raise AssertionError(job.communicate()[0])
        time.sleep(0.05)


def test_the_signal_before_the_limit_reaches_the_search_alone(slurm: Slurm) -> None:
    (slurm.notes / "ends").write_text("wait 0")
    job = slurm.start()
    wait_until((slurm.notes / "waits").exists, job, 30)
    job.send_signal(signal.SIGTERM)  # to the batch shell, as --signal=B:TERM does
    output, _ = job.communicate(timeout=30)
    assert job.returncode == 75, output
    assert "the search is told to save and to stop" in output
    assert slurm.note("scontrol")[-1] == "requeue 1234"
    assert slurm.run("0")[0] == 0


@pytest.fixture
def real(tmp_path: Path, toy_npz: Path) -> Iterator[Slurm]:
    """The toy search on a real Ray."""
    if subprocess.run([*OWN_PROCESSES, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a namespace of processes")
    job = os.getpid()
    write_search(tmp_path, toy_search(**{"resources.cpus_per_trial": os.cpu_count()}))
    yield make_real(tmp_path, job, f"(--data '{toy_npz}')")
    shutil.rmtree(f"/tmp/ray_{job}", ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # two starts of Ray; 570 s on two cores under a load of 20
def test_a_real_search_saves_at_the_signal_and_resumes_with_its_token(real: Slurm) -> None:
    run = real.shared / "runs" / "toy"
    first = real.start()
    wait_until(lambda: len(epochs_of(run)) >= 4, first, 500)
    (script,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(int(script), signal.SIGTERM)
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 75, output
    assert real.note("scontrol")[-1].startswith("requeue ")
    second = real.start()
    output, _ = second.communicate(timeout=500)
    assert second.returncode == 0, output
    assert complaints(run, 6, 6) == []
    assert not list((real.shared / "jobs").iterdir())
