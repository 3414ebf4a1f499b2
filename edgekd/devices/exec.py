"""A device whose programs a command here runs: a simulator as qemu-user, or a board's own loader. Files stay on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar, final

from edgekd.devices.local import ShellHere
from edgekd.errors import UserError
from edgekd.reach import Exec
from edgekd.store import default_folder


@final
class ExecLink(ShellHere):
    """Each program is given to the command behind its own words: `qemu-aarch64 -L /usr/aarch64-linux-gnu ./program`."""

    kind: ClassVar[str] = "exec"

    def __init__(self, reach: Exec, name: str) -> None:
        first, *words = reach.command
        found = shutil.which(first)
        if found is None:
            raise UserError(f"{name}: [reach] command: {first} is not here", hint="install it, or give its path")
        self.root = str(Path(reach.folder or default_folder() / "device" / name).absolute())
        self.label = f"{name} ({first})"
        self.prefix = (str(Path(found).absolute()) if "/" in first else first, *words)  # it is run in another folder
