"""A whole small project on disk, as a user would have it: the one that `edgekd new` writes, measured briefly."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from edgekd.cli import main
from edgekd.pipeline.plan import Plan
from edgekd.scaffold import write_project

BRIEF = ["--set", "measure.seconds=0.3", "--set", "measure.processes=2", "--set", "measure.wait=0"]


def new_project(folder: Path) -> Path:
    """The recipe of a new project, for one runtime, without a search: whatever else is installed, the test is as quick."""
    recipe = write_project(folder)[0]
    recipe.write_text(recipe.read_text("utf-8").replace("# backends = [", "placement = false\nbackends = ["), "utf-8")
    return recipe


def rewritten(folder: Path, recipe: str) -> Path:
    """A new project with a recipe of another text, in which {module} stands for its module."""
    path = new_project(folder)
    path.write_text(recipe.format(module=folder.name), "utf-8")
    return path


def made(plan: Plan, *names: str) -> Plan:
    """The plan with these steps made, one after another."""
    for name in names:
        step = plan.steps[name]
        plan.entries[name] = plan.store.make(step.key, step.label, step.make)
    return plan


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


PRELOADED = ("edgekd.cli", "edgekd.pipeline.run", "edgekd.pipeline.context", "edgekd.pipeline.judge", "edgekd.pipeline.engines",
             "edgekd.pruning.groups", "edgekd.quant.layerwise", "edgekd.quant.student", "edgekd.quant.onnx_export",
             "edgekd.quant.torch_graph", "edgekd.report.html", "edgekd.output")  # fmt: skip
"""What a run imports, torch with it, sooner or later."""


class Warm:
    """The same command in a process of its own that is forked from one which has imported all it needs: it begins at once.

    For runs that are stopped by a signal and begun again. What it says is in `said`.
    """

    def __init__(self, said: Path, *arguments: str | Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        self.said = said
        self.process = context.Process(target=_commanded, args=(str(said), list(map(str, arguments))))
        self.process.start()

    def stop(self, with_signal: signal.Signals) -> None:
        assert self.process.pid
        os.kill(self.process.pid, with_signal)

    def ended(self, timeout: float = 600) -> int:
        """Its exit code, below 0 for a signal."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, self.said.read_text()
        return self.process.exitcode


def _commanded(said: str, arguments: list[str]) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["edgekd", *arguments]
    main()
