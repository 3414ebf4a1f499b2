"""How what a compiler made becomes a library that a process opens. Imports little: processes that only link import it, too."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from edgekd.errors import EdgekdError

__all__ = ["linked"]

LINK = ("-shared", "-fPIC", "-Wl,--build-id=none", "-s")
"""Without names and numbers that differ from one link to the next."""


def linked(compiler: str) -> Callable[..., None]:
    """What TVM calls with a library's path and its objects; it raises EdgekdError with the words of `compiler`, which links."""

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        command = [compiler, *LINK, "-o", output, *objects]
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if ran.returncode != 0:
            raise EdgekdError(f"{compiler} cannot link the engine: {ran.stderr.strip()[-400:]}")

    return link
