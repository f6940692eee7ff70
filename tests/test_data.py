"""One suite over the data sets and the formats that they come in; splits, messages, and the guarded test set."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets as torchvision_datasets

from kd_tune.data import DATASETS, Dataset, Images, cifar10, download, mnist5k, npz
from kd_tune.errors import ConfigError

Arrays = dict[str, Any]


def noise(labels: np.ndarray, *shape: int, seed: int = 0) -> np.ndarray:
    """A random image for every label; no two are alike."""
    return np.random.RandomState(seed).randint(0, 256, (len(labels), *shape)).astype(np.uint8)


def grey_arrays() -> Arrays:
    train, test = np.arange(90) % 3, np.arange(30) % 3
    return {
        "train_images": noise(train, 16, 16),
        "train_labels": train.astype(np.uint8),
        "test_images": noise(test, 16, 16, seed=1),
        "test_labels": test.astype(np.uint8),
    }


def rgb_arrays() -> Arrays:
    """Labels `[N, 1]`, as MedMNIST has them."""
    arrays = grey_arrays()
    for part in ("train", "test"):
        labels = arrays[f"{part}_labels"][:, None]
        arrays |= {f"{part}_labels": labels, f"{part}_images": noise(labels, 16, 16, 3, seed=len(labels))}
    return arrays


def val_arrays() -> Arrays:
    labels = np.arange(12) % 3
    return grey_arrays() | {"val_images": noise(labels, 16, 16, seed=2), "val_labels": labels}


def cifar_arrays() -> Arrays:
    train, test = np.arange(200) % 10, np.arange(40) % 10
    return {
        "train_images": noise(train, 32, 32, 3),
        "train_labels": train,
        "test_images": noise(test, 32, 32, 3, seed=1),
        "test_labels": test,
    }


def write(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def torchvision_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of CIFAR-10 as torchvision unpacks them, with forty images in each of five batches."""
    root = tmp_path_factory.mktemp("torchvision")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    arrays = cifar_arrays()
    rows = {part: arrays[f"{part}_images"].transpose(0, 3, 1, 2).reshape(-1, 3072) for part in ("train", "test")}
    batches = {f"data_batch_{n + 1}": ("train", slice(40 * n, 40 * (n + 1))) for n in range(5)}
    for name, (part, chosen) in (batches | {"test_batch": ("test", slice(None))}).items():
        batch = {"data": rows[part][chosen], "labels": arrays[f"{part}_labels"][chosen].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, protocol=2))
    return root


@pytest.fixture
def torchvision_files(torchvision_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with torchvision's list of checksums replaced by that of these files."""
    folder = torchvision_root / "cifar-10-batches-py"

    def with_md5(names: list[str]) -> list[list[str]]:
        return [[name, hashlib.md5((folder / name).read_bytes()).hexdigest()] for name in names]

    published = torchvision_datasets.CIFAR10
    monkeypatch.setattr(published, "train_list", with_md5([f"data_batch_{n}" for n in range(1, 6)]))
    monkeypatch.setattr(published, "test_list", with_md5(["test_batch"]))
    monkeypatch.setattr(published, "meta", published.meta | {"md5": with_md5(["batches.meta"])[0][1]})
    return torchvision_root


FORMATS: dict[str, Callable[[Path, pytest.FixtureRequest], Dataset]] = {
    "mnist5k": lambda folder, request: mnist5k(),
    "npz grey": lambda folder, request: npz(write(folder / "x.npz", grey_arrays())),
    "npz colour": lambda folder, request: npz(write(folder / "x.npz", rgb_arrays())),
    "npz with its own val": lambda folder, request: npz(write(folder / "x.npz", val_arrays())),
    "cifar10 from npz": lambda folder, request: cifar10(write(folder / "x.npz", cifar_arrays())),
    "cifar10 from torchvision": lambda folder, request: cifar10(request.getfixturevalue("torchvision_files")),
}


@pytest.fixture(params=FORMATS)
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    return FORMATS[request.param](tmp_path, request)


def test_every_data_set_of_the_table_is_in_this_suite() -> None:
    assert {name.split()[0] for name in FORMATS} == set(DATASETS)


def identities(part: Images) -> set[bytes]:
    return {image.tobytes() for image in part.images}


def opened(dataset: Dataset) -> Images:
    return dataset.open_test("a test", lambda opening: None)


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


def test_no_image_is_in_two_parts(dataset: Dataset) -> None:
    train, val, test = map(identities, (dataset.train, dataset.val, opened(dataset)))
    assert not train & val
    assert not train & test
    assert not val & test


def test_classes_are_in_balance(dataset: Dataset) -> None:
    for part in (dataset.train, dataset.val):
        counts = np.bincount(part.labels, minlength=dataset.num_classes)
        assert counts.max() == counts.min()


def test_the_same_split_comes_every_time(dataset: Dataset, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    name = request.node.callspec.params["dataset"]
    again = FORMATS[name](tmp_path, request)
    assert again.fingerprint == dataset.fingerprint
    assert np.array_equal(again.train.images, dataset.train.images)
    assert np.array_equal(opened(again).images, opened(dataset).images)
    assert again.split == dataset.split


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


def test_loading_leaves_the_test_set_unread_and_its_opening_is_logged_first(tmp_path: Path) -> None:
    """A file whose test part cannot be read loads all the same, and the attempt to open it is on record."""
    path = write(tmp_path / "x.npz", grey_arrays() | {"test_images": np.zeros((30, 16, 16))})
    dataset, openings = npz(path), list[Any]()
    with pytest.raises(ConfigError, match="test_images are float64, but must be uint8"):
        dataset.open_test("a test", openings.append)
    assert len(openings) == 1


def test_a_file_without_test_images_says_so_when_they_are_asked_for(tmp_path: Path) -> None:
    arrays = {key: value for key, value in grey_arrays().items() if not key.startswith("test")}
    with pytest.raises(ConfigError, match=r"npz: the data set has no test images"):
        opened(npz(write(tmp_path / "x.npz", arrays)))


@pytest.mark.parametrize(
    "bad",
    [{"test_labels": np.arange(30) % 4}, {"test_images": np.zeros((30, 20, 20), np.uint8)}],
    ids=["label", "size"],
)
def test_test_images_that_do_not_fit_the_training_images_are_refused(tmp_path: Path, bad: Arrays) -> None:
    with pytest.raises(ConfigError, match="test images' shape or labels do not fit"):
        opened(npz(write(tmp_path / "x.npz", grey_arrays() | bad)))


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


def test_validation_is_a_tenth_of_every_class(tmp_path: Path) -> None:
    dataset = npz(write(tmp_path / "x.npz", grey_arrays()))
    assert np.bincount(dataset.val.labels).tolist() == [3, 3, 3]
    assert len(dataset.train) == 81
    assert dataset.split == {"split_seed": 0, "train": 81, "num_val": 9}


def test_a_files_own_validation_images_are_taken_and_training_keeps_all_its_images(tmp_path: Path) -> None:
    arrays = val_arrays()
    dataset = npz(write(tmp_path / "x.npz", arrays))
    assert np.array_equal(dataset.val.images[:, 0], arrays["val_images"])
    assert np.array_equal(dataset.train.images[:, 0], arrays["train_images"])
    assert dataset.split["val"] == "the file's own"


def test_split_seed_chooses_the_validation_images_and_nothing_else_changes_them(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", grey_arrays())
    base, fewer, other = npz(path), npz(path, num_train=30), npz(path, split_seed=1)
    assert identities(base.val) == identities(fewer.val)
    assert identities(base.val) != identities(other.val)
    assert identities(base.train) | identities(base.val) == identities(other.train) | identities(other.val)


def test_num_train_is_a_balanced_prefix(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", grey_arrays())
    small, large = npz(path, num_train=30), npz(path, num_train=60)
    assert np.bincount(small.train.labels).tolist() == [10, 10, 10]
    assert np.bincount(large.train.labels).tolist() == [20, 20, 20]
    assert np.array_equal(large.train.images[:30], small.train.images)
    assert not identities(small.train) & identities(small.val)


def test_num_train_above_what_there_is_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_train is 82, but there are 81 images to train on"):
        npz(write(tmp_path / "x.npz", grey_arrays()), num_train=82)


def test_images_keep_their_labels_through_the_split(tmp_path: Path) -> None:
    arrays = grey_arrays()
    pairs = zip(arrays["train_images"], arrays["train_labels"], strict=True)
    label_of = {image.tobytes(): int(label) for image, label in pairs}
    dataset = npz(write(tmp_path / "x.npz", arrays), num_train=50)
    for part in (dataset.train, dataset.val):
        assert [label_of[image.tobytes()] for image in part.images] == part.labels.tolist()


def test_colour_images_are_turned_to_channels_first(tmp_path: Path) -> None:
    arrays = rgb_arrays()
    dataset = npz(write(tmp_path / "x.npz", arrays))
    originals = {image.transpose(2, 0, 1).tobytes() for image in arrays["train_images"]}
    assert identities(dataset.train) <= originals


def test_torchvisions_files_and_an_npz_hold_the_same_data(tmp_path: Path, torchvision_files: Path) -> None:
    pickled, packed = cifar10(torchvision_files), cifar10(write(tmp_path / "x.npz", cifar_arrays()))
    assert pickled.fingerprint == packed.fingerprint
    assert np.array_equal(opened(pickled).images, opened(packed).images)
    assert np.array_equal(opened(pickled).labels, opened(packed).labels)
    assert pickled.class_names == packed.class_names
    assert pickled.class_names[3] == "cat"


def test_damaged_torchvision_files_are_refused_with_what_to_do(torchvision_root: Path) -> None:
    """Nothing is unpickled from files that are not the published ones: here torchvision's own checksums hold."""
    with pytest.raises(
        ConfigError, match=r"no CIFAR-10 here, or its files are damaged; `kd-tune data download cifar10`"
    ):
        cifar10(torchvision_root)


def test_missing_cifar10_is_told_with_its_usual_place(own_cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"no CIFAR-10 here.*--data") as caught:
        cifar10()
    assert str(caught.value).startswith(str(own_cache / "data" / "cifar10"))


def test_a_data_set_that_cannot_be_downloaded_says_which_can(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="npz cannot be downloaded; known: cifar10"):
        download("npz", tmp_path)


def test_npz_needs_a_file() -> None:
    with pytest.raises(ConfigError, match=r"the data set npz needs --data FILE\.npz"):
        npz()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": None}, "the keys train_images are missing; it holds test_images, test_labels, train_labels"),
        ({"train_images": None, "train_labels": None}, "the keys train_images, train_labels are missing"),
        ({"test_labels": None}, "the keys test_labels are missing"),
        ({"val_images": np.zeros((9, 16, 16), np.uint8)}, "the keys val_labels are missing"),
        ({"train_images": np.zeros((90, 16, 16))}, "train_images are float64, but must be uint8"),
        ({"train_images": np.zeros((90, 256), np.uint8)}, r"train_images have shape \(90, 256\), but must be"),
        ({"train_images": np.zeros((90, 16, 16, 4), np.uint8)}, r"shape \(90, 16, 16, 4\), but must be"),
        ({"train_images": np.zeros((90, 16, 20), np.uint8)}, r"images are \(16, 20\) pixels, but must be square"),
        ({"train_images": np.zeros((89, 16, 16), np.uint8)}, "89 train_images but 90 train_labels"),
        ({"train_labels": np.zeros(90)}, r"train_labels are float64 \(90,\), but must be whole numbers"),
        ({"train_labels": np.zeros((90, 2), int)}, r"train_labels are int64 \(90, 2\), but must be whole numbers"),
        ({"train_labels": np.arange(90) - 1}, "train_labels run from -1 to 88, but must be class numbers from 0"),
        ({"train_labels": np.arange(90) + 10_000}, "train_labels run from 10000 to 10089, but must be class numbers"),
        ({"train_labels": np.zeros(90, int)}, "only one class in train_labels"),
        ({"train_labels": np.zeros(0, int), "train_images": np.zeros((0, 16, 16), np.uint8)}, "no train images"),
        ({"train_labels": np.array([{}] * 90, dtype=object)}, "train images or labels cannot be read: Object arrays"),
        (
            {"val_images": np.zeros((9, 16, 16), np.uint8), "val_labels": np.arange(9) % 4},
            "val_labels run from 0 to 3, but must lie in 0 to 2",
        ),
        (
            {"val_images": np.zeros((9, 20, 20), np.uint8), "val_labels": np.arange(9) % 3},
            r"train images are \(1, 16, 16\), val images \(1, 20, 20\)",
        ),
    ],
)
def test_a_bad_file_is_told_with_its_name_what_it_holds_and_what_it_must(
    tmp_path: Path, changes: Arrays, message: str
) -> None:
    arrays = {key: value for key, value in (grey_arrays() | changes).items() if value is not None}
    path = write(tmp_path / "x.npz", arrays)
    with pytest.raises(ConfigError, match=message) as caught:
        npz(path)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)


def test_cifar10_has_ten_classes_and_no_more(tmp_path: Path) -> None:
    arrays = cifar_arrays() | {"train_labels": np.arange(200) % 11}
    with pytest.raises(ConfigError, match="train_labels run from 0 to 10, but must lie in 0 to 9"):
        cifar10(write(tmp_path / "x.npz", arrays))


def test_a_file_that_is_not_there_or_not_a_zip_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.npz: no such file"):
        npz(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"PK but not a zip file")
    with pytest.raises(ConfigError, match=r"x\.npz: not an \.npz file"):
        npz(tmp_path / "x.npz")
    with pytest.raises(ConfigError, match=r"not an \.npz file"):
        npz(tmp_path)


@pytest.mark.parametrize("packed", [False, True], ids=["stored", "deflated"])
def test_a_file_with_a_damaged_middle_is_told_by_name(tmp_path: Path, packed: bool) -> None:
    path, arrays = tmp_path / "x.npz", grey_arrays()
    arrays["train_images"] //= 64  # four shades, so that there is something to deflate
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    content = bytearray(path.read_bytes())
    content[1000:1200] = bytes(255 - byte for byte in content[1000:1200])
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.npz: train images or labels cannot be read"):
        npz(path)


@pytest.mark.parametrize("key", ["train_images", "train_labels"])
def test_the_fingerprint_tells_one_changed_pixel_or_label(tmp_path: Path, key: str) -> None:
    arrays = val_arrays()
    before = npz(write(tmp_path / "a.npz", arrays)).fingerprint
    arrays[key] = arrays[key].copy()
    arrays[key][6] ^= 1  # label 0 becomes 1
    assert npz(write(tmp_path / "b.npz", arrays)).fingerprint != before


def test_images_of_one_shade_are_not_divided_by_zero(tmp_path: Path) -> None:
    arrays = val_arrays() | {"train_images": np.full((90, 16, 16), 51, np.uint8)}
    normalisation = npz(write(tmp_path / "x.npz", arrays)).normalisation
    assert normalisation == {"mean": [pytest.approx(0.2)], "std": [0.001]}


def test_real_cifar10_is_split_and_normalised_as_published(cifar10_npz: Path) -> None:
    dataset = cifar10(cifar10_npz)
    assert (len(dataset.train), len(dataset.val)) == (45_000, 5_000)
    assert np.bincount(dataset.train.labels).tolist() == [4_500] * 10
    assert np.bincount(dataset.val.labels).tolist() == [500] * 10
    # The published figures are those of all 50,000 images; 45,000 of them come within a thousandth.
    assert dataset.normalisation["mean"] == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)
    assert dataset.normalisation["std"] == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-3)
