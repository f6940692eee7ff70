"""Two searches that share a cache: the second waits for what the first makes, says so, and does not make it again."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from rich.console import Console

from kd_tune import cli, prepare, soft_targets, teacher
from kd_tune.data import Dataset, image_folder
from kd_tune.derived_banks import from_file
from kd_tune.errors import ExitCode
from kd_tune.paths import CACHE_VARIABLE, taking_turns
from kd_tune.turns import lock_of, turn
from tests.data_files import write_parts
from tests.training import CPU

Result = TypeVar("Result")
SECONDS = 60.0


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def beside(lock: Path, work: Callable[[Console], Result], first: Callable[[], object]) -> tuple[Result, str]:
    """What work in another thread comes to, and says, if this one holds its lock and does something before it."""
    said = io.StringIO()
    with ThreadPoolExecutor(1) as pool, taking_turns(lock):
        result = pool.submit(work, Console(file=said, width=400))
        until(lambda: "waiting for it" in said.getvalue() or result.done())
        assert not result.done()
        first()
    return result.result(), said.getvalue()


def until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_bank_that_another_process_fills_is_waited_for(
    tmp_path: Path, toy_dataset: Dataset, save_teacher: Callable[..., Path]
) -> None:
    asked = teacher.load(save_teacher(tmp_path / "teacher", toy_dataset), toy_dataset)
    other = teacher.load(tmp_path / "teacher", toy_dataset)
    bank = soft_targets.folder_of(asked, toy_dataset)
    found, said = beside(
        bank / soft_targets.LOCK,
        lambda console: prepare.fill_bank(asked, toy_dataset, 2, console),
        lambda: soft_targets.fill(bank, other, toy_dataset, 2, CPU),
    )
    assert found == bank
    assert f"another process is filling {bank}; waiting for it" in said
    assert f"soft targets: 2 views in {bank}" in said
    assert "answers in" not in said, "it asked again"


def test_a_bank_that_another_process_did_not_finish_is_filled(
    tmp_path: Path, toy_dataset: Dataset, save_teacher: Callable[..., Path]
) -> None:
    asked = teacher.load(save_teacher(tmp_path / "teacher", toy_dataset), toy_dataset)
    other = teacher.load(tmp_path / "teacher", toy_dataset)
    bank = soft_targets.folder_of(asked, toy_dataset)
    _, said = beside(
        bank / soft_targets.LOCK,
        lambda console: prepare.fill_bank(asked, toy_dataset, 3, console),
        lambda: soft_targets.fill(bank, other, toy_dataset, 2, CPU),
    )
    assert f"soft targets: {len(toy_dataset.train)} answers in" in said


def test_a_teacher_that_another_process_trains_is_waited_for(
    toy_dataset: Dataset, toy_npz: Path, save_teacher: Callable[..., Path]
) -> None:
    architecture = {"name": "digits"}
    folder = teacher.folder_of(architecture, toy_dataset)
    found, said = beside(
        lock_of(folder),
        lambda console: prepare.find_or_train_teacher(architecture, {"name": "npz"}, toy_dataset, toy_npz, console),
        lambda: save_teacher(folder, toy_dataset),
    )
    assert found.folder == folder
    assert f"another process is training {folder}; waiting for it" in said
    assert "training it now" not in said


def test_a_training_by_command_waits_and_then_replaces_no_teacher(
    tmp_path: Path,
    toy_dataset: Dataset,
    toy_npz: Path,
    save_teacher: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "mine"

    def train(_: Console) -> None:
        arguments = ["teacher", "train", "digits", "--dataset", "npz", "--data", str(toy_npz), "--out", str(out)]
        cli.main(arguments)

    with ThreadPoolExecutor(1) as pool, taking_turns(lock_of(out)):
        result = pool.submit(train, Console())
        shown = ""
        while "waiting for it" not in shown and not result.done():
            shown += capsys.readouterr().out
        assert f"another process is training {out}; waiting for it" in shown
        save_teacher(out, toy_dataset)
    with pytest.raises(SystemExit) as stop:
        result.result()
    assert stop.value.code == ExitCode.USAGE
    assert f"{out}: there is a teacher already; --again trains a new one" in capsys.readouterr().err


def test_images_that_another_process_decodes_are_waited_for(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_parts(tmp_path / "images", "train", "test")
    fingerprint = image_folder(root, image_size=16).fingerprint
    (lock,) = (cache / "images").glob("*.lock")
    decoded = lock.with_suffix("")
    decoded.rename(tmp_path / "elsewhere")
    with ThreadPoolExecutor(1) as pool, taking_turns(lock):
        again = pool.submit(image_folder, root, image_size=16)
        shown = ""
        while "waiting for it" not in shown and not again.done():
            shown += capsys.readouterr().err
        assert f"another process is decoding the images of {root}; waiting for it" in shown
        before = (tmp_path / "elsewhere").stat().st_ino
        (tmp_path / "elsewhere").rename(decoded)
    assert again.result().fingerprint == fingerprint
    assert decoded.stat().st_ino == before, "it decoded again"


@pytest.mark.parametrize("made", ["shipped", "random", "logits"])
def test_what_takes_a_moment_is_made_once_by_all_who_want_it(
    tmp_path: Path, toy_dataset: Dataset, cache: Path, made: str
) -> None:
    """Without turns one would find that another has made it meanwhile, and end with an error."""
    file = tmp_path / "logits.npy"
    shape = toy_dataset.num_before_split, toy_dataset.num_classes
    np.save(file, np.random.RandomState(0).standard_normal(shape).astype(np.float32))
    (shipped,) = teacher.SHIPPED.glob("compact-*")
    section = {"name": "random", "network": "digits"}

    def make(together: threading.Barrier) -> Path:
        together.wait()
        if made == "shipped":
            return teacher.writable(shipped)
        if made == "random":
            return prepare._random(section, toy_dataset).folder
        return from_file(file, toy_dataset, views=1)

    together = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        (folder,) = set(pool.map(make, [together] * 8))
    assert [path for path in folder.parent.iterdir() if path != lock_of(folder)] == [folder]


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    said: list[str] = []
    ready = threading.Event()

    def hold() -> None:
        with taking_turns(tmp_path / "lock"):
            ready.set()
            until(lambda: bool(said))
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: len(said) == 2)

    holder = threading.Thread(target=hold)
    holder.start()
    ready.wait()
    with pytest.raises(KeyboardInterrupt), turn(tmp_path / "lock", "at work", said.append):
        pytest.fail("the lock was held")
    said.append("stopped")
    holder.join()
    assert said == ["another process is at work; waiting for it", "stopped"]
