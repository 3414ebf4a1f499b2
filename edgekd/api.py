"""`edgekd.compile(...)`: what the command does, from Python."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.errors import UserError, nearest
from edgekd.onnx import recipe as onnx_recipe
from edgekd.pipeline.place_steps import left_as_it_came
from edgekd.pipeline.plan import COMPILE_TIMEOUT, Plan
from edgekd.progress import Progress
from edgekd.recipe import Loaded
from edgekd.recipe import load as load_recipe
from edgekd.store import Store, default_folder, write_whole

DEBUGS = ("parity",)


def prepare(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    backends: Sequence[str] = (),
    store: str | Path | None = None,
    quiet: bool = False,
    compile_timeout: float = COMPILE_TIMEOUT,
    calibration: str | Path | None = None,
    teacher: str | Path | None = None,
    targets: Sequence[str] = (),
    ray: str | None = None,
) -> Plan:
    """Read a recipe and plan it; nothing is made yet. Raises UserError for whatever is wrong with the recipe.

    `backends`: only these, whatever recipe and target list; `targets` likewise. `recipe` may be an ONNX file: `calibration`
    ("zero-shot", a folder, an .npz file) and `teacher` (another one) are for that alone. `ray`: as in `compile`.
    """
    path = Path(recipe)
    narrowed = [f"targets.{k}={json.dumps(list(v))}" for k, v in (("backends", backends), ("names", targets)) if v]
    of_file = None
    if path.suffix == onnx_recipe.SUFFIX:
        of_file = onnx_recipe.table(
            path, str(calibration or onnx_recipe.ZERO_SHOT), None if teacher is None else Path(teacher)
        )
    elif calibration is not None or teacher is not None:
        raise UserError(f"{path}: a recipe names its own calibration and teacher", hint="they are for an ONNX file")
    loaded: Loaded = load_recipe(path, [*overrides, *narrowed], of_file)
    progress = Progress(quiet=quiet)
    plan = Plan(loaded, Store(Path(store) if store else default_folder()), progress, compile_timeout, ray or "")
    for target in plan.targets:
        remarks = [*target.remarks(loaded.values.targets.backends), left_as_it_came(plan, target)]
        for remark in filter(None, remarks):
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
    calibration: str | Path | None = None,
    teacher: str | Path | None = None,
    targets: Sequence[str] = (),
    debug: str | None = None,
    ray: str | None = None,
) -> dict[str, Any]:
    """Run a recipe and write its report and bundles into `out`; returns the report. `fresh` makes every step again.

    `recipe` may be an ONNX file; `calibration` and `teacher` are for that: see `prepare`. `backends`, `targets`: only these.
    `compile_timeout`: seconds for one engine; one that takes longer is a failed candidate.
    `debug` "parity" compares each engine with its program, tensor by tensor, and writes that as parity.json.
    `ray`: the address of a Ray cluster, whose machines measure on the devices that they have, where a target reaches one, and score
    and race the candidates of a search.
    Raises UserError for the user's mistakes (before any work where they can be known), EdgekdError for what failed.
    """
    from edgekd.output import write_output
    from edgekd.pipeline.ranks import of_torchrun
    from edgekd.pipeline.results import report_of
    from edgekd.pipeline.run import run

    if debug not in (None, *DEBUGS):
        raise UserError(f'nothing to debug is called "{debug}"', hint=nearest(str(debug), DEBUGS))
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
        recipe, overrides=overrides, backends=backends, store=store, quiet=quiet, compile_timeout=compile_timeout,
        calibration=calibration, teacher=teacher, targets=targets, ray=ray,
    )  # fmt: skip
    with of_torchrun(plan):
        outcome = run(plan, fresh)
    report = report_of(plan, outcome)
    write_output(folder, plan, report)
    if debug == "parity":
        from edgekd.pipeline.parity import compare

        with plan.progress.task("compare engines with their programs"):
            found = compare(plan)
        write_whole(folder / "parity.json", (json.dumps(found, indent=1) + "\n").encode())
    return report


def _writable(folder: Path) -> bool:
    probe = folder / f".edgekd-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
