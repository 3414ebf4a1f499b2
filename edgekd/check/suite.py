"""Several models and targets in one TOML file, checked one after the other, latency corrected for how many they are.

tolerance = "5%"              of all checks that say nothing else, as are floor, max_seconds, seed and [allow]

[[check]]
bundle = "new/out"            a bundle, or a folder that `edgekd compile` wrote; relative to this file
baseline = "old/out"          an earlier one, or its report.json
targets = ["host"]            of such folders; each is a check of its own
name = "digits"
device = "pi.toml"            a target whose device measures; relative to this file, or a name; else this machine does
tolerance = "3%"

[check.allow]
bytes = "2%"
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.check.gate import Asked, Result, Verdict, baseline_of, check
from edgekd.check.gates import read_share, read_tolerances
from edgekd.check.pair import comparable, open_side
from edgekd.check.session import MAX_SECONDS
from edgekd.check.verdict import ALPHA, Rule, holm
from edgekd.errors import UserError, nearest
from edgekd.progress import Progress
from edgekd.target import find_device
from edgekd.units import parse_seconds

Each = Callable[[Sequence[Asked], Progress], list[Result]]
"""Makes every check, and gives their results in the same order."""

SHARED = {"tolerance", "floor", "max_seconds", "seed", "allow"}
OWN = SHARED | {"bundle", "baseline", "targets", "name", "device"}


def read(path: Path) -> list[Asked]:
    """The checks that a suite asks for. Raises UserError naming file, check and key."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", hint="a suite is a TOML file of [[check]] tables") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    tables = found.pop("check", None)
    _known(found, SHARED, str(path))
    if not isinstance(tables, list) or not tables:
        raise UserError(f"{path}: no checks", hint='begin one with [[check]] and name its bundle = "…", baseline = "…"')
    asked = [one for i, table in enumerate(tables) for one in _asked(path, f"{path}: check {i + 1}", found, table)]
    titles = [one.title for one in asked]
    if twice := next((t for t in titles if titles.count(t) > 1), None):
        raise UserError(f"{path}: two checks are called {twice}", hint='tell them apart: name = "…"')
    return asked


def _known(table: dict[str, Any], keys: set[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise UserError(f'{where}: unknown key "{key}"', hint=nearest(key, keys))


def _asked(path: Path, where: str, shared: dict[str, Any], table: Any) -> list[Asked]:
    if not isinstance(table, dict):
        raise UserError(f"{where}: is not a table", hint="write [[check]] on a line of its own")
    _known(table, OWN, where)
    for key in ("bundle", "baseline"):
        if not isinstance(table.get(key), str):
            raise UserError(f"{where}: {key} is missing, or no text", hint=f'{key} = "out/bundles/host"')
    values = {**shared, **table}
    targets = values.get("targets", [None])
    if not isinstance(targets, list) or not targets or not all(t is None or isinstance(t, str) for t in targets):
        raise UserError(f"{where}: targets is not a list of names", hint='targets = ["host"]')
    allow = {**shared.get("allow", {}), **table.get("allow", {})}
    name, folder = str(values.get("name", table["bundle"])), path.parent
    seconds, seed = values.get("max_seconds", MAX_SECONDS), values.get("seed", 0)
    if not isinstance(seconds, int | float) or not isinstance(seed, int):
        raise UserError(f"{where}: max_seconds and seed are numbers", hint="max_seconds = 90")
    try:
        made = Asked(
            candidate=folder / table["bundle"],
            baseline=folder / table["baseline"],
            rule=read_rule(str(values.get("tolerance", "5%")), str(values.get("floor", "20us"))),
            allowed=read_tolerances([f"{key}={value}" for key, value in allow.items()]),
            max_seconds=float(seconds),
            seed=seed,
            device=find_device(table["device"], folder) if "device" in table else None,
        )
    except UserError as error:
        raise UserError(f"{where}: {error.message}", hint=error.hint) from None
    several = len(targets) > 1
    return [replace(made, target=t, name=f"{name} on {t}" if several else name) for t in targets]


def read_rule(tolerance: str, floor: str) -> Rule:
    """A rule from "5%" and "20us"; the floor may be 0. Raises UserError."""
    share = read_share(tolerance, "--tolerance")
    if floor.strip() in ("0", "0s", "0us", "0ms"):
        return Rule(share, 0.0)
    try:
        return Rule(share, parse_seconds(floor))
    except ValueError as error:
        raise UserError(f"--floor: {error}", hint="as in --floor 20us, or 0") from None


def run(asked: Sequence[Asked], progress: Progress, each: Each | None = None) -> tuple[list[Result], Verdict]:
    """Every check, and the verdict over all. What is wrong with any of them is raised before the first is measured.

    `each` makes them, by default one after the other. Each is measured until it is decided at its share of the error
    (Bonferroni's, which Holm's procedure always grants); then Holm's procedure over all p-values decides whose latency has
    regressed.
    """
    for one in asked:
        candidate = open_side(one.candidate, one.target)
        if one.baseline.suffix != ".json":
            comparable(candidate, baseline_of(one, candidate), here=one.device is None)
    shared = [replace(one, rule=replace(one.rule, alpha=ALPHA / len(asked))) for one in asked]
    results = corrected((each or in_turn)(shared, progress))
    verdicts = [result.verdict for result in results]
    worst: Verdict = next((v for v in ("regressed", "inconclusive") if v in verdicts), "pass")
    return results, worst


def in_turn(asked: Sequence[Asked], progress: Progress) -> list[Result]:
    """One check after the other, from here."""
    results = []
    for number, one in enumerate(asked, 1):
        if len(asked) > 1:
            progress.say(f"{number} of {len(asked)}: {one.title}")
        results.append(check(one, progress))
    return results


def corrected(results: Sequence[Result]) -> list[Result]:
    """The results with latency's verdicts by Holm's procedure: what only the looser levels of it reject regresses too."""
    measured = [r for r in results if r.latency is not None]
    rejected = dict(zip(map(id, measured), holm([r.latency.p for r in measured if r.latency]), strict=True))
    return [replace(r, latency_verdict="regressed") if rejected.get(id(r)) else r for r in results]
