"""Ray's token: found where Ray looks for it, and made for its owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kd_tune.errors import ConfigError
from kd_tune.ray_token import MODE, TOKEN, TOKEN_PATH, has_token, make_token, token_file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_token_is_made_for_its_owner_alone_whatever_the_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        make_token({})
    finally:
        os.umask(before)
    path = home / ".ray" / "auth_token"
    assert [stat.S_IMODE(made.stat().st_mode) for made in (path, path.parent)] == [0o600, 0o700]
    assert len(bytes.fromhex(path.read_text())) == 32
    assert os.listdir(path.parent) == ["auth_token"]


def test_a_token_that_is_there_stays(home: Path) -> None:
    make_token({})
    first = token_file({})
    assert first is not None
    token, touched = first.read_text(), first.parent.stat().st_mtime_ns
    make_token({})
    assert first.read_text() == token
    assert first.parent.stat().st_mtime_ns == touched  # a home that cannot be written does, if it has a token


def test_another_search_that_was_faster_keeps_its_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = home / ".ray" / "auth_token", os.link

    def late(source: Path, target: Path) -> None:
        path.write_text("the other's")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    make_token({})
    assert path.read_text() == "the other's"
    assert os.listdir(path.parent) == ["auth_token"]


@pytest.mark.parametrize("environ", [{TOKEN: "secret"}, {TOKEN_PATH: "/nowhere/token"}, {MODE: "disabled"}], ids=str)
def test_no_token_is_made_where_ray_is_told_otherwise(home: Path, environ: dict[str, str]) -> None:
    make_token(environ)
    assert os.listdir(home) == []


def test_a_home_that_cannot_be_written_is_said(home: Path) -> None:
    (home / ".ray").write_text("a file")
    with pytest.raises(ConfigError, match=r"auth_token: Ray's token cannot be written: .*; name another place in RAY"):
        make_token({})


def test_rays_order_of_places_is_kept(home: Path) -> None:
    elsewhere = home / "elsewhere"
    elsewhere.touch()
    assert token_file({TOKEN: "secret", TOKEN_PATH: str(elsewhere)}) is None
    assert token_file({TOKEN: "", TOKEN_PATH: str(elsewhere)}) == elsewhere
    assert token_file({}) == home / ".ray" / "auth_token"
    assert [has_token(environ) for environ in ({TOKEN: "x"}, {TOKEN_PATH: str(elsewhere)}, {})] == [True, True, False]
