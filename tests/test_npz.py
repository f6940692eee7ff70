"""Data in an .npz file: what is read, how it is split, and what is said about a bad file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd_tune.data import cifar10, npz
from kd_tune.errors import ConfigError
from tests.data_files import Arrays, cifar10_arrays, grey_arrays, identities, opened, rgb_arrays, val_arrays, write_npz


def test_loading_leaves_the_test_set_unread_and_its_opening_is_logged_first(tmp_path: Path) -> None:
    """A file whose test part cannot be read loads all the same, and the attempt to open it is on record."""
    path = write_npz(tmp_path / "x.npz", grey_arrays() | {"test_images": np.zeros((30, 16, 16))})
    dataset, openings = npz(path), list[Any]()
    with pytest.raises(ConfigError, match="test_images are float64, but must be uint8"):
        dataset.open_test("a test", openings.append)
    assert len(openings) == 1


def test_a_file_without_test_images_says_so_when_they_are_asked_for(tmp_path: Path) -> None:
    arrays = {key: value for key, value in grey_arrays().items() if not key.startswith("test")}
    with pytest.raises(ConfigError, match=r"npz: the data set has no test images"):
        opened(npz(write_npz(tmp_path / "x.npz", arrays)))


@pytest.mark.parametrize(
    "bad",
    [{"test_labels": np.arange(30) % 4}, {"test_images": np.zeros((30, 20, 20), np.uint8)}],
    ids=["label", "size"],
)
def test_test_images_that_do_not_fit_the_training_images_are_refused(tmp_path: Path, bad: Arrays) -> None:
    with pytest.raises(ConfigError, match="test images' shape or labels do not fit"):
        opened(npz(write_npz(tmp_path / "x.npz", grey_arrays() | bad)))


def test_validation_is_a_tenth_of_every_class(tmp_path: Path) -> None:
    dataset = npz(write_npz(tmp_path / "x.npz", grey_arrays()))
    assert np.bincount(dataset.val.labels).tolist() == [3, 3, 3]
    assert len(dataset.train) == 81
    assert dataset.split == {"split_seed": 0, "train": 81, "num_val": 9}


def test_a_files_own_validation_images_are_taken_and_training_keeps_all_its_images(tmp_path: Path) -> None:
    arrays = val_arrays()
    dataset = npz(write_npz(tmp_path / "x.npz", arrays))
    assert np.array_equal(dataset.val.images[:, 0], arrays["val_images"])
    assert np.array_equal(dataset.train.images[:, 0], arrays["train_images"])
    assert dataset.split["val"] == "the file's own"


def test_split_seed_chooses_the_validation_images_and_nothing_else_changes_them(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", grey_arrays())
    base, fewer, other = npz(path), npz(path, num_train=30), npz(path, split_seed=1)
    assert identities(base.val) == identities(fewer.val)
    assert identities(base.val) != identities(other.val)
    assert identities(base.train) | identities(base.val) == identities(other.train) | identities(other.val)


def test_num_train_is_a_balanced_prefix(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", grey_arrays())
    small, large = npz(path, num_train=30), npz(path, num_train=60)
    assert np.bincount(small.train.labels).tolist() == [10, 10, 10]
    assert np.bincount(large.train.labels).tolist() == [20, 20, 20]
    assert np.array_equal(large.train.images[:30], small.train.images)
    assert not identities(small.train) & identities(small.val)


def test_num_train_above_what_there_is_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_train is 82, but there are 81 images to train on"):
        npz(write_npz(tmp_path / "x.npz", grey_arrays()), num_train=82)


def test_images_keep_their_labels_through_the_split(tmp_path: Path) -> None:
    arrays = grey_arrays()
    pairs = zip(arrays["train_images"], arrays["train_labels"], strict=True)
    label_of = {image.tobytes(): int(label) for image, label in pairs}
    dataset = npz(write_npz(tmp_path / "x.npz", arrays), num_train=50)
    for part in (dataset.train, dataset.val):
        assert [label_of[image.tobytes()] for image in part.images] == part.labels.tolist()


def test_colour_images_are_turned_to_channels_first(tmp_path: Path) -> None:
    arrays = rgb_arrays()
    dataset = npz(write_npz(tmp_path / "x.npz", arrays))
    originals = {image.transpose(2, 0, 1).tobytes() for image in arrays["train_images"]}
    assert identities(dataset.train) <= originals


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
    path = write_npz(tmp_path / "x.npz", arrays)
    with pytest.raises(ConfigError, match=message) as caught:
        npz(path)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)


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
    before = npz(write_npz(tmp_path / "a.npz", arrays)).fingerprint
    arrays[key] = arrays[key].copy()
    arrays[key][6] ^= 1  # label 0 becomes 1
    assert npz(write_npz(tmp_path / "b.npz", arrays)).fingerprint != before


def test_images_of_one_shade_are_not_divided_by_zero(tmp_path: Path) -> None:
    arrays = val_arrays() | {"train_images": np.full((90, 16, 16), 51, np.uint8)}
    normalisation = npz(write_npz(tmp_path / "x.npz", arrays)).normalisation
    assert normalisation == {"mean": [pytest.approx(0.2)], "std": [0.001]}


def test_cifar10_has_ten_classes_and_no_more(tmp_path: Path) -> None:
    arrays = cifar10_arrays() | {"train_labels": np.arange(200) % 11}
    with pytest.raises(ConfigError, match="train_labels run from 0 to 10, but must lie in 0 to 9"):
        cifar10(write_npz(tmp_path / "x.npz", arrays))


@pytest.mark.parametrize("even", [[0, 2], ["0", "2"]])
def test_groups_of_classes_are_told_by_number_and_change_nothing_else(tmp_path: Path, even: list[int | str]) -> None:
    path = write_npz(tmp_path / "x.npz", grey_arrays())
    plain = npz(path)
    assert plain.class_groups is None
    odd = [name for name in plain.class_names if name not in ("0", "2")]
    grouped = npz(path, groups={"even": even, "odd": odd})  # type: ignore[arg-type]
    assert grouped.class_groups == {"even": ["0", "2"], "odd": odd}
    assert grouped.identity == plain.identity


def test_groups_that_are_no_partition_are_refused_with_every_problem(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", grey_arrays())
    with pytest.raises(ConfigError) as caught:
        npz(path, groups={"some": [0, 1, 99], "others": [1], "none": []})
    text = str(caught.value)
    for problem in ("unknown class '99'; known: 0, 1", "'1' is named 2 times", "'2' is in no group", "'none' is empty"):
        assert f"{path}: groups: " in text
        assert problem in text


def test_cifar10_has_vehicles_and_animals(tmp_path: Path) -> None:
    dataset = cifar10(write_npz(tmp_path / "x.npz", cifar10_arrays()))
    assert dataset.class_groups is not None
    assert {name: len(classes) for name, classes in dataset.class_groups.items()} == {"vehicles": 4, "animals": 6}
