"""Folders of image files: layouts, decoding, the cache, and what is said about bad folders."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets as torchvision_datasets
from torchvision import transforms

from kd_tune.catalog import check_trial, load_dataset
from kd_tune.data import decoded, image_folder
from kd_tune.errors import ConfigError
from kd_tune.paths import CACHE_VARIABLE, taking_turns
from kd_tune.search_file import Source
from tests.data_files import ANIMALS, identities, opened, read_images, write_images, write_parts
from tests.training import trial


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, so that it shows what was decoded."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_parts(tmp_path / "images", "train", "test")


def caches(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


def test_classes_without_parts_train_and_validate_and_there_is_no_test_set(tmp_path: Path) -> None:
    flat = write_images(tmp_path / "flat", np.arange(60) % 3, 16, 16, 3)
    dataset = image_folder(flat, image_size=16)
    assert dataset.class_names == ANIMALS
    assert (len(dataset.train), len(dataset.val)) == (54, 6)
    with pytest.raises(ConfigError, match="image_folder: the data set has no test images"):
        opened(dataset)


def test_own_validation_images_are_taken_and_training_keeps_all_its_images(tmp_path: Path) -> None:
    root = write_parts(tmp_path / "images", "train", "val")
    dataset = image_folder(root, image_size=16)
    assert np.array_equal(dataset.val.images, read_images(root / "val"))
    assert identities(dataset.train) == {image.tobytes() for image in read_images(root / "train")}
    assert dataset.split == {"split_seed": 0, "val": "the folder's own", "train": 60, "num_val": 12}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 40])
def test_images_are_torchvisions_resized_by_the_shorter_side_and_cut_in_the_middle(
    size: int, channels: int, tmp_path: Path
) -> None:
    root = write_images(tmp_path / "wide", np.arange(9) % 3, 20, 31, 3)
    write_images(tmp_path / "wide", np.arange(9, 18) % 3, 40, 17, 3, seed=1)
    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()]
    reference = torchvision_datasets.ImageFolder(
        str(root), transforms.Compose([transforms.Grayscale(), *steps] if channels == 1 else steps)
    )
    dataset = image_folder(root, image_size=size, channels=channels)
    for part, positions in ((dataset.train, dataset.train_positions), (dataset.val, dataset.val_positions)):
        expected = [reference[position] for position in positions]
        assert np.array_equal(part.images, np.stack([image.numpy() for image, _ in expected]))
        assert part.labels.tolist() == [label for _, label in expected]


def test_what_is_kept_of_the_decoding_is_what_the_images_in_memory_would_give(root: Path) -> None:
    dataset = image_folder(root, image_size=16)
    held = replace(dataset, mapped=None)
    assert dataset.fingerprint == held.fingerprint
    assert dataset.normalisation == held.normalisation


def test_images_are_decoded_once(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = image_folder(root, image_size=16)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoded, "_read", refuse)
    assert image_folder(root, image_size=16).fingerprint == first.fingerprint
    assert len(image_folder(root, image_size=16, num_train=9).train) == 9
    assert len(caches(cache)) == 1
    with pytest.raises(AssertionError, match="decoded again"):
        opened(first)  # the test part is decoded when it is opened


@pytest.mark.parametrize("change", [{"image_size": 8}, {"channels": 1}, {"split_seed": 1}])
def test_other_sizes_channels_and_splits_have_caches_of_their_own(
    change: dict[str, Any], root: Path, cache: Path
) -> None:
    image_folder(root, image_size=16)
    image_folder(root, **({"image_size": 16} | change))
    assert len(caches(cache)) == 2


def test_a_changed_file_is_decoded_again_and_tells_another_fingerprint(root: Path, cache: Path) -> None:
    before = image_folder(root, image_size=16).fingerprint
    path = next((root / "train" / "bee").iterdir())
    times = path.stat()
    Image.open(path).rotate(90).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert image_folder(root, image_size=16).fingerprint != before
    assert len(caches(cache)) == 2


def test_a_moved_folder_is_not_decoded_again(root: Path, cache: Path) -> None:
    before = image_folder(root, image_size=16).fingerprint
    moved = root.rename(root.with_name("moved"))
    assert image_folder(moved, image_size=16).fingerprint == before
    assert len(caches(cache)) == 1


def test_copied_images_of_another_date_have_the_same_fingerprint(root: Path, tmp_path: Path) -> None:
    """So a teacher and its soft targets are found again."""
    before = image_folder(root, image_size=16).fingerprint
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert image_folder(tmp_path / "copy", image_size=16).fingerprint == before


def test_a_decoding_that_was_killed_leaves_nothing_that_counts(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = image_folder(root, image_size=16)
    (name,) = caches(cache)
    orphan = cache / f".{name}.0badcafe.tmp"
    shutil.rmtree(cache / name)
    orphan.mkdir()
    (orphan / "train.u8").write_bytes(b"half")
    assert image_folder(root, image_size=16).fingerprint == whole.fingerprint
    assert caches(cache) == {name}, "what the killed process left is deleted"


def test_nobody_waits_for_images_that_are_decoded_already(root: Path, cache: Path) -> None:
    image_folder(root, image_size=16)
    (name,) = caches(cache)
    with taking_turns(cache / f"{name}.lock"):
        image_folder(root, image_size=16)


def test_a_full_disk_is_noticed_before_the_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=10_000)
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match=r"the decoded images take 0\.0 GB, but 0\.0 GB are free"):
        image_folder(root, image_size=16)


def test_a_long_decoding_tells_how_far_it_is_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))  # an image a second
    monkeypatch.setattr(decoded.time, "monotonic", lambda: next(clock))
    progress = decoded._Progress(12)
    for _ in range(12):
        progress.advance()
    assert capsys.readouterr().err.splitlines() == [
        "decoding images, once: 5/12, 7 s left",
        "decoding images, once: 10/12, 2 s left",
    ]


def test_a_damaged_cache_is_told_by_name(root: Path, cache: Path) -> None:
    image_folder(root, image_size=16)
    (name,) = caches(cache)
    with (cache / name / "train.u8").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match=r"train\.u8: is damaged: it holds 41473 bytes, not 41472; delete the folder"):
        image_folder(root, image_size=16)
    (cache / name / "images.json").write_text(json.dumps({"fingerprint": 3}))
    with pytest.raises(ConfigError, match=r"images\.json: not a valid record: fingerprint"):
        image_folder(root, image_size=16)


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut off"])
def test_a_file_that_cannot_be_decoded_is_told_by_name_and_leaves_nothing(
    content: bytes | None, root: Path, cache: Path
) -> None:
    path = root / "train" / "bee" / "001.png"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(ConfigError, match=r"train/bee/001\.png: cannot be decoded: ") as caught:
        image_folder(root, image_size=16)
    assert len(caught.value.problems) == 1
    assert not caches(cache)


def test_a_link_to_nowhere_is_told_by_name(root: Path) -> None:
    (root / "train" / "bee" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(ConfigError, match=r"bee/gone\.png: cannot be read: No such file"):
        image_folder(root)


def test_a_name_that_is_no_text_is_told(root: Path) -> None:
    os.mkdir(os.fsencode(root / "train") + b"/\xff")
    shutil.copy(root / "train" / "bee" / "001.png", os.fsencode(root / "train").decode() + "/\udcff/1.png")
    with pytest.raises(ConfigError, match=r"train/\\udcff/1\.png: the name is not UTF-8"):
        image_folder(root)


def test_a_class_without_images_is_told(root: Path) -> None:
    (root / "train" / "dog").mkdir()
    (root / "train" / "dog" / "note.txt").write_text("to come")
    with pytest.raises(ConfigError, match="train: Found no valid file for the classes dog"):
        image_folder(root)


def test_parts_with_other_classes_are_told_all_at_once(tmp_path: Path) -> None:
    root = write_parts(tmp_path / "images", "train", "val", "test")
    shutil.rmtree(root / "val" / "cat")
    (root / "test" / "ant").rename(root / "test" / "dog")
    with pytest.raises(ConfigError) as caught:
        image_folder(root)
    assert [problem.removeprefix(f"{root}/") for problem in caught.value.problems] == [
        "test: the classes ant of train are missing",
        "test: the classes dog are not those of train",
        "val: the classes cat of train are missing",
    ]


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    root = write_images(tmp_path / "flat", np.array([0, 0, 1, 2, 2]), 16, 16, 3)
    with pytest.raises(ConfigError, match=r"only one image of bee; one of each class validates"):
        image_folder(root)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    root = write_images(tmp_path / "flat", np.zeros(5, int), 16, 16, 3)
    with pytest.raises(ConfigError, match="holds the class ant alone; a classifier needs two"):
        image_folder(root)


def test_a_folder_that_is_not_there_is_empty_or_of_both_layouts_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the data set image_folder needs --data FOLDER"):
        image_folder()
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        image_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: Couldn't find any class folder"):
        image_folder(tmp_path / "empty")
    (root / "bus").mkdir()
    with pytest.raises(ConfigError, match="holds train, so beside it only val and test may lie, not bus"):
        image_folder(root)


@pytest.mark.parametrize("names", [("test", "training"), ("Train", "VALID"), ("ant", "validation"), ("bee", "testing")])
def test_parts_by_other_names_are_not_taken_for_classes(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        write_images(tmp_path / "photos" / name, np.arange(9) % 3, 16, 16, 3)
    parts = ", ".join(sorted(set(names) - set(ANIMALS)))
    with pytest.raises(ConfigError, match=f"photos: holds {parts} but no train; .*rename .* to train, val and test"):
        image_folder(tmp_path / "photos", image_size=16)


def test_parts_within_a_class_are_refused(root: Path) -> None:
    (root / "train" / "bee" / "Test").mkdir()
    (root / "train" / "bee" / "001.png").rename(root / "train" / "bee" / "Test" / "001.png")
    with pytest.raises(ConfigError, match="train/bee/Test: is within a class; lay parts out as FOLDER/train/CLASS"):
        image_folder(root, image_size=16)


def test_within_train_a_class_may_have_the_name_of_a_part(tmp_path: Path) -> None:
    names = ("invalid", "valid")
    write_images(tmp_path / "photos" / "train", np.arange(20) % 2, 16, 16, 3, names=names)
    assert image_folder(tmp_path / "photos", image_size=16).class_names == names


def test_its_arguments_are_checked_as_a_search_file_gives_them(root: Path) -> None:
    section = {"name": "image_folder", "image_size": 7, "channels": 2, "folder": "x"}
    problems = check_trial(trial(dataset=section), Source("x.yaml", {}))
    assert len(problems) == 3
    assert "trial.dataset.image_size: 7 must be greater than or equal to 8" in problems[0]
    assert "trial.dataset.channels: 2 must be 1 or 3" in problems[1]
    assert "image_folder has no such argument" in problems[2]
    dataset = load_dataset({"name": "image_folder", "image_size": 24, "channels": 1, "flips": False}, root)
    assert (dataset.image_size, dataset.in_channels, dataset.flips) == (24, 1, False)


def test_groups_of_classes_are_told_by_name_before_anything_is_decoded(root: Path, cache: Path) -> None:
    first, *rest = ANIMALS
    assert image_folder(root, image_size=16, groups={"one": [first], "rest": [*rest]}).class_groups == {
        "one": [first],
        "rest": rest,
    }
    shutil.rmtree(cache)
    with pytest.raises(ConfigError, match=f"{root}: groups: class '{first}' is in no group"):
        image_folder(root, image_size=16, groups={"rest": [*rest]})
    assert not cache.exists()
