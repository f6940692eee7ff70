"""The user's own networks and objectives: `package.module:callable`, where a table's name could stand.

A file is not allowed to choose what code runs here. A reference is imported only if its top package was allowed on
the command line (`--allow-code mypackage`); a worker is told what its driver was allowed.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kd_tune.errors import ConfigError

FORM = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"  # package.module:callable, as JSON Schema has it, too
_allowed: set[str] = set()


def allow(packages: Iterable[str], places: Iterable[str] | None = None) -> None:
    """Lets names out of these top packages be imported by this process.

    Args:
        packages: their names.
        places: folders to find them in, after those that Python looks in anyway; None: the working directory.

    Raises:
        ConfigError: there is no such package.
    """
    for package in packages:
        if package.isidentifier() and not _is_there(package):
            sys.path += [place for place in places or [str(Path.cwd())] if place not in sys.path]
        if not package.isidentifier() or not _is_there(package):
            raise ConfigError(
                f"--allow-code {package}: no such package here; give the top name of what can be imported from "
                f"{Path.cwd()} or is installed"
            )
        _allowed.add(package)


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # __main__ has no specification
        return False


def allowed() -> tuple[str, ...]:
    """What this process may import, to be told to its workers."""
    return tuple(sorted(_allowed))


def forbid_all() -> None:
    """Takes every permission back."""
    _allowed.clear()


def is_reference(name: str) -> bool:
    """Whether a name points outside kd_tune's tables."""
    return ":" in name


def load(reference: str) -> Callable[..., Any]:
    """The callable that `package.module:callable` names.

    Raises:
        ConfigError: not of that form, its package was not allowed, it cannot be imported, or is not there.
    """
    if not re.fullmatch(FORM, reference):
        raise ConfigError(f"'{reference}' must look like package.module:callable")
    module_name, _, attribute = reference.partition(":")
    package = module_name.partition(".")[0]
    if package not in _allowed:
        raise ConfigError(
            f"'{reference}' is code from outside kd_tune, which runs only if you allow its package: "
            f"--allow-code {package}"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigError(
            f"'{reference}': {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        near = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(f"'{reference}': {module_name} has no callable {attribute}; it has: {', '.join(near)}")
    return found


def search_path() -> tuple[str, ...]:
    """The folders in which this process found what was allowed, for its workers."""
    return tuple(sorted({str(Path(place).parent) for place in _locations()}))


def sent_along() -> list[str]:
    """Packages and modules that were allowed, apart from installed ones: what other nodes must be sent."""
    return [place for place in _locations() if "site-packages" not in Path(place).parts]


def _locations() -> list[str]:
    """The folder of every allowed package, the file of every allowed module."""
    found: list[str] = []
    for package in sorted(_allowed):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        found += list(spec.submodule_search_locations or [spec.origin or ""])
    return [place for place in found if place]
