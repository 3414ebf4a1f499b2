"""The two bundles of a check: found, whole, and comparable. Whatever is wrong is said before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import bundle, registry
from edgekd.backend import open_backend, read_json
from edgekd.errors import UserError, nearest

SIMULATED = "null"


@dataclass(frozen=True, eq=False)
class Side:
    """A bundle: its folder, its manifest, and its engine's facts."""

    folder: Path
    manifest: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def engine(self) -> Path:
        return self.folder / "engine"

    @property
    def backend(self) -> str:
        return str(self.facts.get("backend"))

    @property
    def target(self) -> Mapping[str, Any]:
        """Name, chip and threads of what it was compiled for; empty where the manifest does not say."""
        found = self.manifest.get("target")
        return found if isinstance(found, dict) else {}

    @property
    def threads(self) -> int:
        return int(self.facts.get("threads") or 1)

    def golden(self) -> dict[str, np.ndarray]:
        """Golden inputs and the outputs that the engine gave for them where it was compiled; whichever the bundle holds."""
        with np.load(self.folder / "golden.npz", allow_pickle=False) as held:
            return {name: held[name] for name in ("inputs", "outputs") if name in held.files}


def find_bundle(path: Path, target: str | None) -> Path:
    """The bundle at `path`: the folder itself, or in a folder that `edgekd compile` wrote, that of `target`.

    Raises UserError where there are several and none is named, or where the one named is not there.
    """
    if not (path / "bundles").is_dir():
        return path
    held = sorted(p.name for p in (path / "bundles").iterdir() if (p / bundle.MANIFEST).is_file())
    if target is None and len(held) == 1:
        return path / "bundles" / held[0]
    if target is None:
        raise UserError(f"{path} holds {len(held)} bundles: {', '.join(held)}", hint="choose one with --target")
    if target not in held:
        raise UserError(f"{path / 'bundles'} holds no bundle for {target}", hint=nearest(target, held))
    return path / "bundles" / target


def open_side(path: Path, target: str | None) -> Side:
    """A bundle whose every file is what it was when written. Raises UserError if not, or if it is for another target."""
    folder = find_bundle(path, target)
    side = Side(folder, bundle.read(folder), read_json(folder / "engine" / "engine.json"))
    named = side.target.get("name")
    if target is not None and named is not None and named != target:
        raise UserError(f"{folder} is for the target {named}, not {target}", hint=f"--target {named}")
    return side


def comparable(candidate: Side, baseline: Side, here: bool = True) -> list[str]:
    """Remarks on what differs but can be compared. `here`: this machine opens them, not a device.

    Raises UserError if the bundles take other inputs or give other outputs, are for other targets or thread counts, or
    have no backend here that opens them.
    """
    for kind in ("inputs", "outputs"):
        ports = [[(p["shape"], p["dtype"]) for p in side.manifest["signature"][kind]] for side in (candidate, baseline)]
        if ports[0] != ports[1]:
            shown = [", ".join(f"{dtype} {shape}" for shape, dtype in found) for found in ports]
            message = f"{kind} differ: {candidate.folder} has {shown[0]}, {baseline.folder} has {shown[1]}"
            raise UserError(message, hint="a baseline is an earlier bundle of the same task")
    names = [side.target.get("name") for side in (candidate, baseline)]
    if None not in names and names[0] != names[1]:
        message = f"targets differ: {candidate.folder} is for {names[0]}, {baseline.folder} for {names[1]}"
        raise UserError(message, hint=f"compare with the bundle for {names[0]}: bundles/{names[0]} of the earlier run")
    if candidate.threads != baseline.threads:
        message = f"{candidate.folder} runs {candidate.threads} thread(s), {baseline.folder} {baseline.threads}"
        raise UserError(message, hint="compile both with the same [targets] threads")
    for side in (candidate, baseline) if here else ():
        _openable(side)
    simulated = {side.backend == SIMULATED for side in (candidate, baseline)}
    if len(simulated) == 2:
        message = f"no common backend: {candidate.backend} and {baseline.backend} do not run by the same clock"
        raise UserError(message, hint="compare engines of real runtimes, or two simulated ones")
    return _remarks(candidate, baseline, "this machine" if here else "the device")


def _openable(side: Side) -> None:
    known = registry.names("backends")
    if side.backend not in known:
        message = f"no backend here opens {side.folder}: it was compiled by {side.backend}"
        raise UserError(message, hint=nearest(side.backend, known))
    if command := open_backend(side.backend).missing():
        raise UserError(f"no backend here opens {side.folder}: {side.backend} is not installed", hint=command)


def _remarks(candidate: Side, baseline: Side, where: str) -> list[str]:
    found = []
    if candidate.backend != baseline.backend:
        found.append(f"the backend changed: {baseline.backend} → {candidate.backend}")
    versions = [dict(side.facts.get("versions") or {}) for side in (baseline, candidate)]
    for package in sorted({*versions[0], *versions[1]}):
        old, new = (v.get(package, "none") for v in versions)
        if old != new:
            found.append(f"compiled with another {package}: {old} → {new}")
    chips = [side.target.get("chip") for side in (baseline, candidate)]
    if None not in chips and chips[0] != chips[1]:
        found.append(f"compiled on another chip: {chips[0]} → {chips[1]}; both are measured on {where}")
    if candidate.manifest["files"] == baseline.manifest["files"]:
        found.append("the two bundles hold the same files")
    return found
