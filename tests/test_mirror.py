"""A run's copy: whole, owned by one launch at a time, fetched by another machine; nothing is lost with the storage."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from kd_tune import mirror as mirror_module
from kd_tune import records
from kd_tune.errors import ConfigError, ExitCode, StorageLost
from kd_tune.ledger import Run, replay
from kd_tune.mirror import Mirror, discard, fetch, mirrored, newest_checkpoint, remember, storage_for, storage_of
from kd_tune.storage import Storage
from tests.object_store import Gate
from tests.searches import ledger_text, toy_manifest

ADVICE = "go on with: the same"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "PERIOD", 0.05)
    monkeypatch.setattr(mirror_module, "WATCH", 0.3)
    monkeypatch.setattr(mirror_module, "PATIENCE", 0.5)
    monkeypatch.setattr(mirror_module, "LAST_PATIENCE", 1.0)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        return (tmp_path / "storage").as_uri()
    gate: Gate = request.getfixturevalue("s3")
    return Storage(gate.url).child(tmp_path.name).url


def new_run(folder: Path, url: str) -> Path:
    """A run with two trials, which was not copied yet."""
    storage = storage_for(url, folder)
    with closing(Run.create(folder, "trial: {}\n", toy_manifest())) as run:
        remember(folder, storage)
        run.record(records.STARTED, quota={"distil": 4}, slots=1)
        for number in range(2):
            run.record(records.PROPOSED, trial=number, arm="distil", draw={})
    return folder


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fill(folder: Path) -> None:
    for name in ("report/report.md", "confirmation/plan.json", "ray/launch_01/progress.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for name in ("checkpoints/0001/epoch_0003", "confirmation/checkpoints/0001", ".report.1234.tmp"):
        (folder / name).mkdir(parents=True)
        (folder / name / "trial.json").touch()
    (folder / "link").symlink_to("/etc/hostname")


def test_a_copy_has_what_the_launcher_wrote(url: str, tmp_path: Path, console: Console) -> None:
    folder = new_run(tmp_path / "runs" / "toy", url)
    fill(folder)
    with mirrored(folder, console, ADVICE):
        pass
    copy = Storage(url).child("toy")
    names = {"search.yaml", "manifest.json", "ledger/00000.jsonl", "report/report.md", "confirmation/plan.json"}
    assert set(copy.files()) == names | {"owner.json"}
    assert all(copy.read(name) == (folder / name).read_bytes() for name in names)
    assert console.file.getvalue() == f"storage: {copy.url}\n"  # type: ignore[attr-defined]


def test_what_is_written_meanwhile_is_copied_within_a_period(url: str, tmp_path: Path, console: Console) -> None:
    folder = new_run(tmp_path / "toy", url)
    copy = Storage(url).child("toy")
    with closing(Run(folder)) as run, mirrored(folder, console, ADVICE):
        run.record(records.PROPOSED, trial=2, arm="distil", draw={})
        wait_for(lambda: copy.read("ledger/00001.jsonl") == (folder / "ledger" / "00001.jsonl").read_bytes())
        (folder / "search.yaml").write_text("changed")
        wait_for(lambda: copy.read("search.yaml") == b"changed")


def test_only_what_has_changed_is_copied_again(tmp_path: Path, console: Console) -> None:
    folder = new_run(tmp_path / "runs" / "toy", str(tmp_path / "storage"))
    copy = tmp_path / "storage" / "toy"
    with mirrored(folder, console, ADVICE):
        pass
    (folder / "search.yaml").write_text("changed")
    times = {path.name: path.stat().st_mtime_ns for path in copy.rglob("*.*")}
    with mirrored(folder, console, ADVICE):
        pass
    changed = {path.name for path in copy.rglob("*.*") if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {"search.yaml", "owner.json"}


def test_another_machine_goes_on_with_what_it_fetches(url: str, tmp_path: Path, console: Console) -> None:
    here = new_run(tmp_path / "here" / "toy", url)
    fill(here)
    with mirrored(here, console, ADVICE):
        pass
    there = fetch(Storage(url).child("toy").url, tmp_path / "there", console)
    assert there == tmp_path / "there" / "toy"
    assert ledger_text(there) == ledger_text(here)
    assert not (there / "checkpoints").exists()
    with closing(Run(there)) as run, mirrored(there, console, ADVICE):
        run.record(records.PROPOSED, trial=2, arm="distil", draw={})
    with (
        pytest.raises(ConfigError, match=r"here/toy: has gone on elsewhere, last on .*--resume '.*toy"),
        mirrored(here, console, ADVICE),
    ):
        pass
    again = fetch(Storage(url).child("toy").url, tmp_path / "again", console)
    assert len(replay(again).trials) == 3


def test_a_run_that_somebody_is_running_is_not_fetched(url: str, tmp_path: Path, console: Console) -> None:
    folder = new_run(tmp_path / "here" / "toy", url)
    with mirrored(folder, console, ADVICE), pytest.raises(ConfigError, match="is running this search"):
        fetch(Storage(url).child("toy").url, tmp_path / "there", console)
    assert not (tmp_path / "there" / "toy").exists()


def test_a_copy_of_the_folder_is_not_run_beside_it(url: str, tmp_path: Path, console: Console) -> None:
    folder = new_run(tmp_path / "here" / "toy", url)
    with mirrored(folder, console, ADVICE) as mirror:
        shutil.copytree(folder, tmp_path / "there" / "toy")
        with (
            pytest.raises(ConfigError, match="is running this search"),
            mirrored(tmp_path / "there" / "toy", console, ADVICE),
        ):
            pass
        time.sleep(0.2)
        assert mirror is not None
        assert mirror.problem is None


def test_a_launch_that_was_lost_is_watched_and_then_followed(tmp_path: Path, console: Console) -> None:
    folder = new_run(tmp_path / "here" / "toy", str(tmp_path / "storage"))
    with mirrored(folder, console, ADVICE):
        shutil.copytree(tmp_path / "storage", tmp_path / "left")  # as its machine's end would leave it
        shutil.copytree(folder, tmp_path / "same" / "toy")
    shutil.rmtree(tmp_path / "storage")
    shutil.copytree(tmp_path / "left", tmp_path / "storage")
    with mirrored(tmp_path / "same" / "toy", console, ADVICE):
        assert "has not let go of this run; watching" in console.file.getvalue()  # type: ignore[attr-defined]
    shutil.rmtree(tmp_path / "storage")
    shutil.copytree(tmp_path / "left", tmp_path / "storage")
    fetched = fetch((tmp_path / "storage" / "toy").as_uri(), tmp_path / "there", console)
    assert ledger_text(fetched) == ledger_text(folder)


def test_who_was_taken_for_lost_stops_and_overwrites_nothing(
    url: str, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = new_run(tmp_path / "here" / "toy", url)
    copy = Storage(url).child("toy")
    monkeypatch.setattr(mirror_module, "PERIOD", 1.0)  # too slow a launch
    mirror = Mirror(here, console)
    there = fetch(copy.url, tmp_path / "there", console)
    with mirrored(there, console, ADVICE):
        (there / "search.yaml").write_text("there")
    (here / "search.yaml").write_text("here")
    wait_for(lambda: mirror.problem)
    with pytest.raises(ConfigError, match="goes on with this run now, so it is stopped here") as caught:
        mirror.end(ADVICE)
    assert caught.value.code == ExitCode.USAGE
    assert copy.read("search.yaml") == b"there"


def test_nothing_is_lost_with_the_storage(s3: Gate, tmp_path: Path, console: Console) -> None:
    url = Storage(s3.url).child(tmp_path.name).url
    folder = new_run(tmp_path / "toy", url)
    with closing(Run(folder)) as run:
        mirror = Mirror(folder, console)
        s3.always = 503
        run.record(records.PROPOSED, trial=2, arm="distil", draw={})
        wait_for(lambda: mirror.problem)
        assert "HTTP status 503" in str(mirror.problem)
        with pytest.raises(StorageLost, match=rf"Nothing is lost: the run is in .*; {ADVICE}") as caught:
            mirror.end(ADVICE)
        assert caught.value.code == ExitCode.RESUMABLE
        s3.always = None
        with mirrored(folder, console, ADVICE):
            pass
    assert Storage(url).child("toy").read("ledger/00001.jsonl") == (folder / "ledger" / "00001.jsonl").read_bytes()


def test_what_passes_is_no_problem(s3: Gate, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "PATIENCE", 60.0)
    url = Storage(s3.url).child(tmp_path.name).url
    folder = new_run(tmp_path / "toy", url)
    with mirrored(folder, console, ADVICE) as mirror:
        assert mirror is not None
        for failure in (503, "reset", 500, 0.2) * 3:
            s3.failures.append(failure)
            time.sleep(0.05)
        wait_for(lambda: not s3.failures)
        (folder / "search.yaml").write_text("changed")
        wait_for(lambda: Storage(url).child("toy").read("search.yaml") == b"changed")
        assert mirror.problem is None


def test_a_look_at_the_test_images_is_recorded_there_before_it_is_taken(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "PERIOD", 1000.0)
    folder = new_run(tmp_path / "runs" / "toy", str(tmp_path / "storage"))
    with closing(Run(folder)) as run, mirrored(folder, console, ADVICE) as mirror:
        assert mirror is not None
        run.listeners.append(mirror)
        run.record(records.PROPOSED, trial=2, arm="distil", draw={})
        assert len(replay(tmp_path / "storage" / "toy").trials) == 2
        run.record(records.TEST_OPENED)
        assert len(replay(tmp_path / "storage" / "toy").test_openings) == 1


def test_useless_checkpoints_are_deleted_after_the_ledger_was_copied(
    url: str, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_run(tmp_path / "toy", url)
    copy = Storage(url).child("toy")
    for number in range(3):
        copy.write(f"checkpoints/{number:04d}/epoch_0001/trial.json", b"{}")
    with mirrored(folder, console, ADVICE) as mirror:
        assert mirror is not None
        order: list[str] = []
        monkeypatch.setattr(
            Storage,
            "write",
            lambda self, name, content, write=Storage.write: (order.append(name), write(self, name, content)),
        )
        monkeypatch.setattr(
            Storage, "delete", lambda self, name, delete=Storage.delete: (order.append(name), delete(self, name))
        )
        with (folder / "ledger" / "00000.jsonl").open("a") as ledger:
            ledger.write("\n")
        mirror.forget([0, 2, 5])
        wait_for(lambda: "checkpoints/0002" in order)
    assert copy.folders("checkpoints") == ["0001"]
    assert order.index("ledger/00000.jsonl") < order.index("checkpoints/0000")


def test_a_name_that_is_taken_there_is_refused(url: str, tmp_path: Path, console: Console) -> None:
    folder = new_run(tmp_path / "here" / "toy", url)
    with mirrored(folder, console, ADVICE):
        pass
    with pytest.raises(ConfigError, match=r"there is a run of this name; take another --name, or go on with --resume"):
        storage_for(url, tmp_path / "there" / "toy")
    assert storage_for(url, tmp_path / "there" / "other").name == "other"


def test_a_run_that_came_to_nothing_is_deleted_by_its_owner_alone(url: str, tmp_path: Path, console: Console) -> None:
    folder = new_run(tmp_path / "here" / "toy", url)
    with mirrored(folder, console, ADVICE):
        pass
    copy = Storage(url).child("toy")
    there = fetch(copy.url, tmp_path / "there", console)
    discard(folder, url)
    assert copy.files()
    discard(there, url)
    assert not copy.files()


def test_a_run_in_its_own_storage_is_refused(tmp_path: Path, console: Console) -> None:
    with pytest.raises(ConfigError, match="the run itself lies there"):
        storage_for(str(tmp_path), tmp_path / "toy")
    folder = new_run(tmp_path / "runs" / "toy", str(tmp_path / "storage"))
    with mirrored(folder, console, ADVICE):
        pass
    copy = tmp_path / "storage" / "toy"
    with (
        pytest.raises(ConfigError, match=rf"fetch it first: --resume {copy.as_uri()}$"),
        mirrored(copy, console, ADVICE),
    ):
        pass


def test_fetching_what_is_no_run_or_is_here_is_refused(url: str, tmp_path: Path, console: Console) -> None:
    with pytest.raises(ConfigError, match=r"toy.*: no run there"):
        fetch(Storage(url).child("toy").url, tmp_path / "there", console)
    assert not (tmp_path / "there" / "toy").exists()
    folder = new_run(tmp_path / "here" / "toy", url)
    with pytest.raises(ConfigError, match=rf"is there already; .*--resume {folder}; .*--runs"):
        fetch(Storage(url).child("toy").url, tmp_path / "here", console)


def test_a_damaged_owner_is_named(url: str, tmp_path: Path, console: Console) -> None:
    folder = new_run(tmp_path / "toy", url)
    Storage(url).child("toy").write("owner.json", b'{"token": 3')
    with pytest.raises(ConfigError, match=r"/owner\.json: not a valid record"):
        Mirror(folder, console)


def test_a_run_without_storage_has_no_copy(tmp_path: Path, console: Console) -> None:
    Run.create(tmp_path / "toy", "trial: {}\n", toy_manifest()).close()
    with mirrored(tmp_path / "toy", console, ADVICE) as mirror:
        assert mirror is None
    assert storage_of(tmp_path / "toy") is None
    assert newest_checkpoint(tmp_path / "toy", 0) is None


def test_checkpoints_of_a_run_and_its_confirmation_are_fetched_when_they_are_needed(url: str, tmp_path: Path) -> None:
    folder = new_run(tmp_path / "toy", url)
    for run, place in ((folder, "checkpoints"), (folder / "confirmation", "confirmation/checkpoints")):
        for name in ("epoch_0002/trial.json", "epoch_0009/trial.json", "epoch_0010/weights"):
            Storage(url).child("toy").write(f"{place}/0003/{name}", name.encode())
        assert newest_checkpoint(run, 3) == run / "checkpoints" / "0003" / "epoch_0009"
        assert (run / "checkpoints" / "0003" / "epoch_0009" / "trial.json").read_text() == "epoch_0009/trial.json"
        Storage(url).child("toy").delete(place)
        assert newest_checkpoint(run, 3) == run / "checkpoints" / "0003" / "epoch_0009"


def test_a_launch_that_was_killed_while_it_took_over_knows_its_predecessors_token(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_run(tmp_path / "runs" / "toy", str(tmp_path / "storage"))
    with mirrored(folder, console, ADVICE):
        pass

    class KilledError(Exception):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(mirror_module, "_write_owner", killed)
        with pytest.raises(KilledError):
            Mirror(folder, console)
    with mirrored(folder, console, ADVICE) as mirror:
        assert mirror is not None


def test_a_storage_that_was_emptied_is_filled_again(url: str, tmp_path: Path, console: Console) -> None:
    folder = new_run(tmp_path / "toy", url)
    copy = Storage(url).child("toy")
    with mirrored(folder, console, ADVICE):
        before = copy.files()
    Storage(url).delete("toy")
    with mirrored(folder, console, ADVICE):
        assert copy.files() == before
