"""One suite over every format of every data set; then what is special about the published ones."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd_tune.data import DATASETS, Dataset, cifar10, cifar100, download, fashion_mnist, mnist, mnist5k
from kd_tune.errors import ConfigError
from tests.data_files import (
    FORMATS,
    Source,
    accept,
    cifar10_arrays,
    identities,
    is_mapped,
    mnist_arrays,
    opened,
    write_cifar10,
    write_cifar100,
    write_mnist,
    write_npz,
)


@pytest.fixture(params=FORMATS)
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    return FORMATS[request.param](tmp_path, monkeypatch)


@pytest.fixture
def dataset(source: Source) -> Dataset:
    return source.load()


def test_every_data_set_of_the_table_is_in_this_suite() -> None:
    assert {name.split()[0] for name in FORMATS} == set(DATASETS)


def test_images_are_uint8_channels_first_and_labels_are_class_numbers(dataset: Dataset) -> None:
    for part in (dataset.train, dataset.val, opened(dataset)):
        size = dataset.image_size
        assert part.images.shape == (len(part), dataset.in_channels, size, size)
        assert part.images.dtype == np.uint8
        assert part.images.flags.c_contiguous
        assert part.labels.shape == (len(part),)
        assert part.labels.dtype == np.int64
        assert set(np.unique(part.labels)) == set(range(dataset.num_classes))
        assert int(part.images.max()) > 200, "the values run to 255, not to 1"


def test_test_images_are_counted_without_an_opening(dataset: Dataset) -> None:
    assert dataset.num_test == len(opened(dataset))


def test_images_lie_in_memory_or_are_mapped_as_the_data_set_says(dataset: Dataset) -> None:
    for part in (dataset.train, dataset.val):
        assert is_mapped(part.images) != dataset.resident
    assert dataset.resident == (dataset.name != "image_folder")


def test_no_image_is_in_two_parts(dataset: Dataset) -> None:
    train, val, test = map(identities, (dataset.train, dataset.val, opened(dataset)))
    assert not train & val
    assert not train & test
    assert not val & test


def test_classes_are_in_balance(dataset: Dataset) -> None:
    for part in (dataset.train, dataset.val):
        counts = np.bincount(part.labels, minlength=dataset.num_classes)
        assert counts.max() == counts.min()


def test_the_same_split_comes_every_time(source: Source) -> None:
    dataset, again = source.load(), source.load()
    assert again.fingerprint == dataset.fingerprint
    assert np.array_equal(again.train.images, dataset.train.images)
    assert np.array_equal(opened(again).images, opened(dataset).images)
    assert again.split == dataset.split


def test_another_seed_gives_another_split_of_the_same_images(source: Source) -> None:
    if "split_seed" not in inspect.signature(source.load).parameters:
        pytest.skip("its split is fixed")
    first, second = source.load(), source.load(split_seed=1)
    if "val" not in first.split:
        assert identities(first.val) != identities(second.val)
        assert first.fingerprint != second.fingerprint
    assert identities(first.train) | identities(first.val) == identities(second.train) | identities(second.val)
    assert np.array_equal(opened(first).images, opened(second).images)


def test_a_number_of_training_images_is_a_balanced_prefix(source: Source) -> None:
    if "num_train" not in inspect.signature(source.load).parameters:
        pytest.skip("its split is fixed")
    everything = source.load()
    count = 3 * everything.num_classes
    small, large = source.load(num_train=count), source.load(num_train=2 * count)
    assert np.bincount(small.train.labels).tolist() == [3] * everything.num_classes
    assert np.array_equal(large.train.images[:count], small.train.images)
    assert identities(small.val) == identities(everything.val)
    assert len({each.fingerprint for each in (small, large, everything)}) == 3
    with pytest.raises(ConfigError, match=f"num_train is 5000, but there are {len(everything.train)} images"):
        source.load(num_train=5000)


def test_positions_lead_from_the_data_sets_own_order_to_its_parts(source: Source) -> None:
    small = {"num_train": 10} if "num_train" in inspect.signature(source.load).parameters else {}
    for dataset in (source.load(), source.load(**small)):
        for part, positions in ((dataset.train, dataset.train_positions), (dataset.val, dataset.val_positions)):
            assert positions.dtype == np.int64
            assert np.array_equal(source.raw[positions], part.images)


def test_normalisation_is_numpys_mean_and_deviation(dataset: Dataset) -> None:
    pixels = dataset.train.images.astype(np.float64) / 255
    assert dataset.normalisation["mean"] == pytest.approx(pixels.mean((0, 2, 3)))
    assert dataset.normalisation["std"] == pytest.approx(pixels.std((0, 2, 3)))


def test_opening_the_test_set_is_logged_with_purpose_and_data(dataset: Dataset) -> None:
    openings: list[dict[str, Any]] = []
    dataset.open_test("the last word", openings.append)
    expected = {"purpose": "the last word", "dataset": dataset.name, "data_fingerprint": dataset.fingerprint}
    assert openings == [expected]


def test_test_images_are_not_read_before_their_opening_is_logged(dataset: Dataset) -> None:
    """Without a record there are no images."""

    def refuse(opening: dict[str, Any]) -> None:
        raise PermissionError("the record cannot be written")

    with pytest.raises(PermissionError, match="cannot be written"):
        dataset.open_test("in secret", refuse)


def test_mnist5k_is_split_as_documented() -> None:
    digits = mnist5k()
    assert (len(digits.train), len(digits.val), len(opened(digits))) == (3000, 1000, 1000)
    assert (digits.in_channels, digits.image_size, digits.num_classes) == (1, 32, 10)
    assert not digits.flips
    border = digits.train.images[:, :, [0, 1, 30, 31], :]
    assert not border.any(), "28 x 28 digits lie in the middle"


def test_mnist5k_is_the_data_set_that_results_were_made_on() -> None:
    assert mnist5k().fingerprint == "bcac4d2a5d3ed938"


def test_mnist5k_takes_no_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mnist5k is embedded"):
        mnist5k(tmp_path)


def test_torchvisions_files_and_an_npz_hold_the_same_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(write_cifar10(tmp_path), "CIFAR10", monkeypatch)
    pickled, packed = cifar10(tmp_path), cifar10(write_npz(tmp_path / "x.npz", cifar10_arrays()))
    assert pickled.class_groups == packed.class_groups
    assert pickled.fingerprint == packed.fingerprint
    assert np.array_equal(opened(pickled).images, opened(packed).images)
    assert np.array_equal(opened(pickled).labels, opened(packed).labels)
    assert pickled.class_names == packed.class_names
    assert pickled.class_names[3] == "cat"


def test_cifar100_has_its_fine_labels_and_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(write_cifar100(tmp_path), "CIFAR100", monkeypatch)
    dataset = cifar100(tmp_path)
    assert (dataset.num_classes, dataset.class_names[99], dataset.flips) == (100, "fine 99", True)


@pytest.mark.parametrize(("load", "reader", "flips"), [(mnist, "MNIST", False), (fashion_mnist, "FashionMNIST", True)])
def test_the_mnists_are_padded_and_mirrored_where_that_keeps_the_class(
    load: Any, reader: str, flips: bool, tmp_path: Path
) -> None:
    dataset = load(write_mnist(tmp_path, reader))
    assert dataset.flips == flips
    assert dataset.class_names[9] == ("Ankle boot" if flips else "9 - nine")
    images, labels = mnist_arrays()["train_images"], mnist_arrays()["train_labels"]
    assert np.array_equal(dataset.train.images[:, 0, 2:30, 2:30], images[dataset.train_positions])
    assert np.array_equal(dataset.train.labels, labels[dataset.train_positions])
    assert not dataset.train.images[:, :, [0, 1, 30, 31], :].any()


@pytest.mark.parametrize(("load", "write"), [(cifar10, write_cifar10), (cifar100, write_cifar100)])
def test_cifar_files_that_are_not_the_published_ones_are_refused(load: Any, write: Any, tmp_path: Path) -> None:
    """Nothing is unpickled from them: here torchvision's own checksums hold."""
    with pytest.raises(
        ConfigError, match=r"no CIFAR-10+ here, or its files are damaged; `kd-tune data download cifar10"
    ):
        load(write(tmp_path))


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("left", [0, 7, 100])
def test_cut_off_mnist_files_are_refused(file: str, left: int, tmp_path: Path) -> None:
    path = write_mnist(tmp_path) / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ConfigError, match="no MNIST here, or its files are damaged; `kd-tune data download mnist`"):
        mnist(tmp_path)


def test_fewer_mnist_labels_than_images_are_refused(tmp_path: Path) -> None:
    raw = write_mnist(tmp_path) / "MNIST" / "raw"
    (raw / "train-labels-idx1-ubyte").write_bytes((raw / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(ConfigError, match="no MNIST here, or its files are damaged"):
        mnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "title", "folder"),
    [
        ("cifar10", "CIFAR-10", "cifar-10-batches-py"),
        ("cifar100", "CIFAR-100", "cifar-100-python"),
        ("mnist", "MNIST", "MNIST"),
        ("fashion_mnist", "Fashion-MNIST", "FashionMNIST"),
    ],
)
def test_missing_data_are_told_with_their_usual_place(name: str, title: str, folder: str, own_cache: Path) -> None:
    with pytest.raises(ConfigError, match=f"no {title} here.*download {name}`.*--data.*{folder}") as caught:
        DATASETS[name]()
    assert str(caught.value).startswith(str(own_cache / "data" / name))


def test_a_data_set_that_cannot_be_downloaded_says_which_can(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="npz cannot be downloaded; known: cifar10, cifar100, mnist, fashion_mnist"):
        download("npz", tmp_path)


def test_a_download_that_finds_its_files_there_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(write_cifar100(tmp_path), "CIFAR100", monkeypatch)
    assert download("cifar100", tmp_path) == tmp_path
    assert download("fashion_mnist", write_mnist(tmp_path, "FashionMNIST")) == tmp_path


def test_real_cifar10_is_split_and_normalised_as_published(cifar10_npz: Path) -> None:
    dataset = cifar10(cifar10_npz)
    assert (len(dataset.train), len(dataset.val)) == (45_000, 5_000)
    assert np.bincount(dataset.train.labels).tolist() == [4_500] * 10
    assert np.bincount(dataset.val.labels).tolist() == [500] * 10
    # The published figures are those of all 50,000 images; 45,000 of them come within a thousandth.
    assert dataset.normalisation["mean"] == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)
    assert dataset.normalisation["std"] == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-3)
