"""A whole small project on disk, as a user would have it: the one that `edgekd new` writes, measured briefly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from edgekd.scaffold import write_project

BRIEF = ["--set", "measure.seconds=0.3", "--set", "measure.processes=2", "--set", "measure.wait=0"]


def new_project(folder: Path) -> Path:
    """The recipe of a new project."""
    return write_project(folder)[0]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edgekd", *map(str, arguments)]


def edgekd(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does; stdout and stderr as text."""
    return subprocess.run(
        command(*arguments), check=False, capture_output=True, text=True, env={**os.environ, **environment}, timeout=600
    )
