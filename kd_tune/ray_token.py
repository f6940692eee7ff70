"""Ray's token: where it lies; made where there is none, for its owner's eyes alone. Loads no Ray.

Whoever has the token of a cluster runs code on it. Ray takes it from `RAY_AUTH_TOKEN`, else from the file that
`RAY_AUTH_TOKEN_PATH` names, else from `~/.ray/auth_token`. Ray makes that file too, but as the umask has it: in most
places readable for everybody.
"""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kd_tune.errors import ConfigError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def token_file(environ: Mapping[str, str]) -> Path | None:
    """Where Ray looks for its token, whether or not one lies there; None: the environment holds the token itself."""
    if environ.get(TOKEN):
        return None
    return Path(environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def has_token(environ: Mapping[str, str]) -> bool:
    """Whether Ray would find a token."""
    path = token_file(environ)
    return path is None or path.exists()


def make_token(environ: Mapping[str, str]) -> None:
    """Makes `~/.ray/auth_token`, mode 0600, unless Ray has a token, is told of another place, or to do without.

    Raises:
        ConfigError: it cannot be written.
    """
    path = token_file(environ)
    if path is None or path.exists() or environ.get(TOKEN_PATH) or environ.get(MODE, "token").lower() != "token":
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_hex(32), encoding="ascii")
            with suppress(FileExistsError):  # another search was faster; a link leaves its token alone, renaming not
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path}: Ray's token cannot be written: {error.strerror}; name another place in {TOKEN_PATH}"
        ) from None
