"""Trials whose own code breaks in every way, each with its end and its word in the ledger, and neighbours unharmed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kd_tune.ledger import replay
from tests.searches import SearchProcess, complaints, toy_search, write_search

PARTIAL = 4
NUM_EPOCHS = 6
FAULTS = ["none", "raises", "dies", "memory", "hangs"]

NETWORKS = '''
import ctypes, time
import torch
from torch import nn


class Faulty(nn.Module):
    """Breaks in its third epoch: 108 training images are four batches."""

    def __init__(self, num_classes, in_channels, image_size, fault="none"):
        super().__init__()
        self.last = nn.Linear(in_channels * image_size**2, num_classes)
        self.register_buffer("batches", torch.zeros(()))
        self.fault = fault

    def forward(self, images):
        if self.training:
            self.batches += 1
        if self.training and self.batches > 9:
            if self.fault == "raises":
                raise KeyError("no such weights")
            if self.fault == "dies":
                ctypes.string_at(0)  # in this thread, unlike a signal that is sent
            if self.fault == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            if self.fault == "hangs":
                time.sleep(1e6)
        return self.last(images.flatten(1))
'''

EXPECTED = {
    "raises": ("crash", "KeyError: 'no such weights'"),
    "dies": ("crash", "its process died: killed, out of memory, or an error in native code"),
    "memory": ("out of memory", "out of memory on its GPU: a smaller training.batch_size"),
    "hangs": ("hang", "no epoch in 0:00:30 (resources.epoch_seconds may allow more), last seen in "),
}


@pytest.mark.slow
@pytest.mark.parametrize("stack", [1, 5])
def test_what_breaks_a_trial_is_tried_again_and_said_and_harms_no_other(
    stack: int, tmp_path: Path, toy_npz: Path
) -> None:
    """In processes of their own, two at a time, and all at one host, which dies of some of them."""
    package = tmp_path / "acme_faults"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "networks.py").write_text(NETWORKS)
    changes = {
        "search.num_trials": len(FAULTS),
        "search.points": [{"student.fault": fault} for fault in FAULTS],
        "search.scheduler": {"name": "none"},
        "search.max_failures": 1,
        "resources.cpus_per_trial": (os.cpu_count() or 1) if stack > 1 else 1,
        "resources.stack": stack,
        "resources.epoch_seconds": 30,
        "trial.student": {"name": "acme_faults.networks:Faulty", "fault": {"choice": FAULTS}},
        "trial.objective.alpha": 0.5,
        "trial.optimizer.lr": 0.05,
    }
    write_search(tmp_path, toy_search(**changes))
    launch = SearchProcess(tmp_path, "toy.yaml", "--data", str(toy_npz), "--name", "toy", "--allow-code", "acme_faults")
    assert launch.wait(seconds=500) == PARTIAL, launch.log.read_text()
    run = tmp_path / "runs" / "toy"
    trials = replay(run).trials.values()
    ends = {trial.draw["student.fault"]: trial for trial in trials}
    for fault, (what, said) in EXPECTED.items():
        own = [event for event in ends[fault].failures if event["what"] != "lost"]
        assert ends[fault].end == "failed"
        assert [event["what"] for event in own] == [what, what], launch.log.read_text()
        assert all(said in event["error"] for event in own)
        assert ends[fault].epoch == 2
    assert ends["none"].end == "completed"
    assert {event["what"] for event in ends["none"].failures} <= ({"lost"} if stack > 1 else set())
    assert [line for line in complaints(run, len(FAULTS), NUM_EPOCHS) if "from the beginning" in line] == []
    page = (run / "report" / "report.md").read_text()
    assert "### Failures" in page
    assert "no such weights" in page


GROWING = '''
import torch
from torch import nn

from kd_tune import memory

memory.NEARLY_ALL, memory.MUCH = 0.0, 0.01  # as if memory were short, on whatever machine this is


class Growing(nn.Module):
    """Keeps half a gigabyte more in every batch from its third epoch on, if it is told to: 108 images are four."""

    def __init__(self, num_classes, in_channels, image_size, grows=False):
        super().__init__()
        self.last = nn.Linear(in_channels * image_size**2, num_classes)
        self.grows, self.batches, self.kept = grows, 0, []

    def forward(self, images):
        self.batches += self.training
        if self.training and self.grows and self.batches > 8:
            self.kept.append(torch.ones(125_000_000))
        return self.last(images.flatten(1))
'''


@pytest.mark.slow
def test_a_trial_whose_memory_grows_ends_and_harms_no_other(tmp_path: Path, toy_npz: Path) -> None:
    package = tmp_path / "acme_growing"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "networks.py").write_text(GROWING)
    changes = {
        "search.num_trials": 2,
        "search.points": [{"student.grows": True}, {"student.grows": False}],
        "search.scheduler": {"name": "none"},
        "search.max_failures": 0,
        "resources.stack": 1,
        "trial.student": {"name": "acme_growing.networks:Growing", "grows": {"choice": [True, False]}},
        "trial.objective.alpha": 0.5,
        "trial.optimizer.lr": 0.05,
    }
    write_search(tmp_path, toy_search(**changes))
    launch = SearchProcess(
        tmp_path, "toy.yaml", "--data", str(toy_npz), "--name", "toy", "--allow-code", "acme_growing"
    )
    assert launch.wait(seconds=300) == PARTIAL, launch.log.read_text()
    growing, steady = replay(tmp_path / "runs" / "toy").trials.values()
    assert growing.draw["student.grows"]
    assert growing.end == "failed"
    assert [event["what"] for event in growing.failures] == ["out of memory"]
    assert "its process has grown by " in str(growing.error)
    assert growing.epoch == 2
    assert steady.end == "completed"
    assert steady.failures == []
