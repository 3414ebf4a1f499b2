"""The secret that a served device shares with who measures there: a file that only its owner reads, never on a command line."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from edgekd.errors import UserError

LEAST, MOST = 32, 4096  # bytes


def default_file() -> Path:
    """`served-token` in the user's configuration folder."""
    import platformdirs

    return Path(platformdirs.user_config_dir("edgekd", appauthor=False)) / "served-token"


def read(path: Path) -> bytes:
    """The token in a file, without the white space around it.

    Raises UserError if there is none, if others than the owner may read it, or if it is too short to be a secret.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            held = file.read(MOST + 1).strip()
    except FileNotFoundError:
        hint = "copy it from the device: `edgekd devices serve` says there which file it is"
        raise UserError(f"no token: {path} does not exist", hint=hint) from None
    except OSError as error:
        raise UserError(f"cannot read the token {path}: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UserError(
            f"{path}: others may read this token", hint=f"chmod 600 {path}; better: remove it and serve anew"
        )
    if not LEAST <= len(held) <= MOST:
        said = f"{path}: a token of {len(held)} bytes; it has {LEAST} to {MOST}"
        raise UserError(said, hint="remove the file: serve writes a new one; or: openssl rand -hex 32")
    return held


def read_or_make(path: Path) -> tuple[bytes, bool]:
    """The token in a file, which is made with 64 random hexadecimal digits where there is none; and whether it was made."""
    if path.exists():
        return read(path), False
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask says
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(scratch, path)  # whole, and never over another's
            made = True
        except FileExistsError:
            made = False
        finally:
            scratch.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write the token {path}: {error.strerror}", hint="name another: --token-file FILE"
        ) from None
    return read(path), made
