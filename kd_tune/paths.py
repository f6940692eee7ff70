"""Where things lie, and how files come to be: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kd_tune.errors import ConfigError

CACHE_VARIABLE = "KD_TUNE_CACHE"


def cache_folder() -> Path:
    """Where data, teachers and soft targets are kept between searches: `$KD_TUNE_CACHE`, or `~/.cache/kd_tune`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "kd_tune")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A temporary path to write a file or folder to, which takes `target`'s name only if the body succeeds.

    A file replaces an older one. A folder replaces an older folder, which is moved aside first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        if target.is_dir():
            old = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.old"
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.replace(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_json(target: Path, content: Any) -> None:
    """Writes one JSON file, indented."""
    with written_whole(target) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ConfigError: there is none, or something else; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a JSON object")
    return content
