"""What every test shares: one thread, a cache of its own, and data small enough to train on in a test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from rich.console import Console
from torch import nn

from kd_tune import soft_targets, teacher
from kd_tune.catalog import build_network
from kd_tune.data import Dataset, npz
from kd_tune.models import STUDENTS
from kd_tune.paths import CACHE_VARIABLE
from kd_tune.search import Launch, start
from kd_tune.search_file import load_search_file
from tests.imports import Weights, fitted_weights, load_toy, write_toy_cifar10
from tests.object_store import CREDENTIALS, Gate, gate_to, s3_server
from tests.searches import toy_search, write_search
from tests.stripes import write_stripes
from tests.training import CPU, VIEWS, Forgetful

# Derandomised: a verdict follows from the code alone. No deadline: a loaded machine is no failure.
settings.register_profile("kd_tune", max_examples=30, deadline=None, derandomize=True)
settings.load_profile("kd_tune")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data, teachers and banks of a test session go to a folder of its own; torch computes on one thread."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder))
        for name, value in CREDENTIALS.items():  # for S3, before Ray hands them on to its workers
            patch.setenv(name, value)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Ctrl-C is heard, by the commands that tests start too: what is started in the background begins without."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cifar10_npz() -> Path:
    """All of CIFAR-10 as one .npz file, where a checkout has it beside itself."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10.npz"
    if not path.exists():
        pytest.skip("CIFAR-10 is not beside this checkout (../shared/data/cifar10.npz)")
    return path


@pytest.fixture(scope="session")
def toy_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training and 40 test images, grey, 16 x 16: lying stripes, standing stripes, and a chessboard, under noise.

    Shifts and mirror images keep the class, so a student can learn it from any view.
    """
    return write_stripes(tmp_path_factory.mktemp("toy") / "toy.npz")


@pytest.fixture(scope="session")
def toy_dataset(toy_npz: Path) -> Dataset:
    """The toy, split: 108 images to train on, 12 to validate."""
    return npz(toy_npz)


@pytest.fixture(scope="session")
def save_teacher() -> Callable[..., Path]:
    """Writes an untrained `digits` network as a data set's teacher: `save_teacher(folder, dataset, seed)`.

    Its batch norms have seen the data once: with their first statistics it would answer nearly alike to every image,
    and a comparison of answers would prove nothing.
    """

    def save(folder: Path, dataset: Dataset, seed: int = 0) -> Path:
        architecture = {"name": "digits"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(architecture, **dataset.input_shape)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # the statistics of this batch alone
        mean, std = (torch.tensor(dataset.normalisation[key]).view(-1, 1, 1) for key in ("mean", "std"))
        with torch.no_grad():
            network.train()((torch.from_numpy(dataset.train.images) / 255 - mean) / std)
        record = {
            "architecture": architecture,
            "input": dataset.input_shape,
            "normalisation": dataset.normalisation,
            "val_accuracy": None,
        }
        teacher.save(folder, network, record)
        return folder

    return save


@pytest.fixture(scope="session")
def bank_folder(
    tmp_path_factory: pytest.TempPathFactory, toy_dataset: Dataset, save_teacher: Callable[..., Path]
) -> Path:
    """The toy's bank: the answers of an untrained teacher to the first `VIEWS` views."""
    found = teacher.load(save_teacher(tmp_path_factory.mktemp("engine") / "teacher", toy_dataset), toy_dataset)
    folder = tmp_path_factory.mktemp("engine") / "bank"
    soft_targets.fill(folder, found, toy_dataset, VIEWS, CPU)
    return folder


@pytest.fixture(scope="session")
def toy_cifar10_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured tiles in CIFAR-10's shape, with validation images of their own."""
    return write_toy_cifar10(tmp_path_factory.mktemp("cifar10") / "toy.npz")


@pytest.fixture(scope="session")
def toy_cifar10(toy_cifar10_npz: Path) -> Dataset:
    """They loaded as CIFAR-10."""
    return load_toy(toy_cifar10_npz)


@pytest.fixture(scope="session")
def digits_weights(toy_cifar10: Dataset) -> Weights:
    """Those of a small teacher that does well on them; nobody published a figure for it."""
    return fitted_weights("digits", toy_cifar10, toy_cifar10.normalisation)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A student more in the table, for the test that asks for it."""
    monkeypatch.setitem(STUDENTS, "forgetful", Forgetful)


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """An S3 server for all tests."""
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(s3_port: int) -> Iterator[Gate]:
    """The way to it, which can be made to fail."""
    with gate_to(s3_port) as gate:
        yield gate


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for all tests that search in this process."""
    import ray

    from kd_tune.cluster import start_here

    start_here(num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, toy_npz: Path, ray_cluster: None) -> Path:
    """A search over the toy that has ended: two kinds of objective, three arms, a trial that diverges."""
    search = toy_search(
        **{
            "search.arms": ["distil", "cross_entropy", "label_smoothing"],
            "search.points": [{"optimizer.lr": 1e9}],
            "trial.optimizer.lr": {"choice": [0.02, 0.05, 0.1, 1e9]},
            "trial.training.batch_size": 16,
            "search.num_trials": 8,
            "trial.objective": {
                "choice": [
                    {"name": "hinton", "alpha": {"float": [0.1, 1.0]}, "temperature": 4.0},
                    {"name": "mixed_target", "alpha": 0.5, "temperature": {"float": [1.0, 8.0], "log": True}},
                ]
            },
        }
    )
    folder = tmp_path_factory.mktemp("finished")
    file = load_search_file(write_search(folder, search))
    run = folder / "run"
    with (folder / "log.txt").open("w") as log:
        state = start(file, run, Launch(source=toy_npz), Console(file=log, width=120))
    assert not state.unfinished()
    return run
