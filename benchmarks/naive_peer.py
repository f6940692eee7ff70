"""The peer that kd_tune is measured against: distillation as one puts it together from the documentation of Ray Tune.

How: PIL images through torchvision's transforms in a DataLoader with one worker; a teacher with random weights (as
slow as a trained one) that is asked about every batch of every trial; Optuna proposes, ASHA may prune only at the last
epoch, so that every trial trains all its epochs. One CPU a trial.

Prints one JSON line with the seconds of every epoch, training and validation, as the trials measured them: what Ray
needs to start and what a trial does before its first epoch is left out.

    python benchmarks/naive_peer.py --data cifar10.npz
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import ray
import torch
import torch.nn.functional as F
from PIL import Image
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

Loader = DataLoader[Any]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class CifarImages(Dataset[tuple[Tensor, int]]):
    """CIFAR-10 images as a DataLoader wants them.

    Args:
        images: `[N, 32, 32, 3]` uint8.
        labels: `[N]`.
        augment: crop and flip at random.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, augment: bool) -> None:
        self.images = images
        self.labels = labels
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if augment else []
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class StudentNet(nn.Module):
    """The student of width 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(x)))
        return logits


def make_teacher(name: str) -> nn.Module:
    """`vgg13_bn` changed for CIFAR-10, or kd_tune's `compact`; random weights, frozen, in evaluation mode."""
    if name == "compact":
        from kd_tune.models import TEACHERS

        return TEACHERS["compact"]().eval().requires_grad_(False)
    network = models.vgg13_bn(weights=None, num_classes=10)
    network.avgpool = nn.AdaptiveAvgPool2d((1, 1))
    network.classifier[0] = nn.Linear(512, 4096)
    frozen: nn.Module = network.eval().requires_grad_(False)
    return frozen


def loaders(path: str, num_images: int, batch_size: int) -> tuple[Loader, Loader]:
    """Training images, and a ninth as many to validate on: the proportion of 45,000 to 5,000."""
    with np.load(path) as archive:
        images, labels = archive["train_images"], archive["train_labels"].reshape(-1)
    end = num_images + max(1, num_images // 9)
    train = CifarImages(images[:num_images], labels[:num_images], augment=True)
    val = CifarImages(images[num_images:end], labels[num_images:end], augment=False)
    return (
        DataLoader(train, batch_size=batch_size, shuffle=True, num_workers=1),
        DataLoader(val, batch_size=500),
    )


def mixed_target_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, temperature: float
) -> Tensor:
    """Cross entropy between a mixture of soft and hard target, and the student at the same temperature."""
    soft = F.softmax(teacher_logits / temperature, dim=1)
    hard = F.one_hot(labels, num_classes=10).float()
    return F.cross_entropy(logits / temperature, alpha * soft + (1 - alpha) * hard)


def train_epoch(
    student: nn.Module,
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Loader,
    config: dict[str, Any],
) -> None:
    student.train()
    for images, labels in loader:
        with torch.no_grad():
            teacher_logits = teacher(images)
        loss = mixed_target_loss(student(images), teacher_logits, labels, config["alpha"], config["temperature"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(student: nn.Module, loader: Loader) -> float:
    student.eval()
    right = total = 0
    for images, labels in loader:
        right += int((student(images).argmax(dim=1) == labels).sum())
        total += len(labels)
    return right / total


def train_trial(config: dict[str, Any], settings: dict[str, Any]) -> None:
    """One trial: reports accuracy and seconds of every epoch."""
    train_loader, val_loader = loaders(settings["data"], settings["images"], settings["batch_size"])
    teacher = make_teacher(settings["teacher"])
    student = StudentNet()
    optimizer = torch.optim.SGD(student.parameters(), lr=config["lr"], momentum=0.9)
    for _ in range(settings["epochs"]):
        began = time.perf_counter()
        train_epoch(student, teacher, optimizer, train_loader, config)
        figure = accuracy(student, val_loader)
        seconds = time.perf_counter() - began
        tune.report({"accuracy": figure, "seconds": seconds, "threads": torch.get_num_threads()})


def run(settings: dict[str, Any], num_trials: int, num_concurrent: int, storage: str) -> tune.ResultGrid:
    """The whole search."""
    trainable = tune.with_resources(tune.with_parameters(train_trial, settings=settings), {"cpu": 1})
    tuner = tune.Tuner(
        trainable,
        param_space={
            "alpha": tune.uniform(0.0, 1.0),
            "temperature": tune.loguniform(1.0, 20.0),
            "lr": tune.loguniform(0.005, 0.1),
        },
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            search_alg=OptunaSearch(),
            scheduler=ASHAScheduler(max_t=settings["epochs"], grace_period=settings["epochs"]),
            num_samples=num_trials,
            max_concurrent_trials=num_concurrent,
        ),
        run_config=tune.RunConfig(storage_path=storage, verbose=0),
    )
    return tuner.fit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as an .npz file")
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--teacher", choices=["vgg13_bn", "compact"], default="vgg13_bn")
    arguments = parser.parse_args()
    if not 9 <= arguments.images <= 45_000:
        parser.error("--images: 9 to 45000, because a ninth as many validate")
    settings = {
        "data": str(arguments.data.resolve()),
        "images": arguments.images,
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "teacher": arguments.teacher,
    }
    ray.init(include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(prefix="naive_peer_") as storage:
        results = run(settings, arguments.trials, arguments.concurrent, storage)
        if results.errors:
            raise SystemExit(f"{len(results.errors)} trials failed; the first: {results.errors[0]}")
        found = (results[number].metrics_dataframe for number in range(len(results)))
        tables = [table for table in found if table is not None]
        seconds = [[round(value, 4) for value in table["seconds"]] for table in tables]
    made = {name: value for name, value in vars(arguments).items() if name != "data"}
    print(json.dumps({"seconds": seconds, "threads": int(tables[0]["threads"].iloc[0]), "arguments": made}))


if __name__ == "__main__":
    main()
