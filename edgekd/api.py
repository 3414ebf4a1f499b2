"""`edgekd.compile(...)`: what the command does, from Python."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.errors import UserError
from edgekd.pipeline.plan import COMPILE_TIMEOUT, Plan
from edgekd.progress import Progress
from edgekd.recipe import Loaded
from edgekd.recipe import load as load_recipe
from edgekd.store import Store, default_folder


def prepare(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    backends: Sequence[str] = (),
    store: str | Path | None = None,
    quiet: bool = False,
    compile_timeout: float = COMPILE_TIMEOUT,
) -> Plan:
    """Read a recipe and plan it; nothing is made yet. Raises UserError for whatever is wrong with the recipe.

    `backends`: only these, whatever recipe and target list.
    """
    narrowed = [f"targets.backends={json.dumps(list(backends))}"] if backends else []
    loaded: Loaded = load_recipe(Path(recipe), [*overrides, *narrowed])
    progress = Progress(quiet=quiet)
    plan = Plan(loaded, Store(Path(store) if store else default_folder()), progress, compile_timeout)
    for target in plan.targets:
        for remark in target.remarks(loaded.values.targets.backends):
            progress.say(f"  note: {remark}")
    return plan


def compile(
    recipe: str | Path,
    out: str | Path = "out",
    *,
    overrides: Sequence[str] = (),
    backends: Sequence[str] = (),
    store: str | Path | None = None,
    quiet: bool = True,
    fresh: bool = False,
    compile_timeout: float = COMPILE_TIMEOUT,
) -> dict[str, Any]:
    """Run a recipe and write its report and bundles into `out`; returns the report. `fresh` makes every step again.

    `backends`: only these. `compile_timeout`: seconds for one engine; one that takes longer is a failed candidate.
    Raises UserError for the user's mistakes (before any work where they can be known), EdgekdError for what failed.
    """
    from edgekd.output import write_output
    from edgekd.pipeline.results import report_of
    from edgekd.pipeline.run import run

    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write into {folder}: {error.strerror}", hint="choose another folder with --out"
        ) from None
    if not os.access(folder, os.W_OK) or not _writable(folder):
        raise UserError(f"cannot write into {folder}", hint="choose another folder with --out")
    plan = prepare(
        recipe, overrides=overrides, backends=backends, store=store, quiet=quiet, compile_timeout=compile_timeout
    )
    outcome = run(plan, fresh)
    report = report_of(plan, outcome)
    write_output(folder, plan, report)
    return report


def _writable(folder: Path) -> bool:
    probe = folder / f".edgekd-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
