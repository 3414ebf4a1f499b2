"""A whole small project on disk, as a user would have it: the one that `edgekd new` writes, measured briefly."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from edgekd.cli import main
from edgekd.scaffold import write_project

BRIEF = ["--set", "measure.seconds=0.3", "--set", "measure.processes=2", "--set", "measure.wait=0"]


def new_project(folder: Path) -> Path:
    """The recipe of a new project, for one runtime: whatever else is installed, the test is as quick."""
    recipe = write_project(folder)[0]
    recipe.write_text(recipe.read_text("utf-8").replace("# backends = [", "backends = ["), "utf-8")
    return recipe


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edgekd", *map(str, arguments)]


def edgekd(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does; stdout and stderr as text."""
    return subprocess.run(
        command(*arguments), check=False, capture_output=True, text=True, env={**os.environ, **environment}, timeout=600
    )


def here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same command in this process, which has torch already: for the many runs whose process is not what is tested.

    The user's modules, which lie beside the recipe, are forgotten afterwards.
    """
    said, talk, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["edgekd", *map(str, arguments)]
    try:
        with redirect_stdout(said), redirect_stderr(talk), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # as Python does for a command
            main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.argv = before
        beside = {Path(argument).resolve().parent for argument in arguments}
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").parent in beside:
                del sys.modules[name]
    return subprocess.CompletedProcess(list(map(str, arguments)), code, said.getvalue(), talk.getvalue())
