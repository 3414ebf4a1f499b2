"""Targets and calibration recipes: data, one TOML each, shipped with edgekd or beside the user's recipe."""

from __future__ import annotations

import os
import platform
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekd import registry
from edgekd.errors import UserError, nearest


def data_dir(kind: str) -> Path:
    """The folder `targets/` or `calibration/`: beside the package in a checkout, under `edgekd/share/` when installed."""
    shipped = Path(__file__).parent / "share" / kind
    return shipped if shipped.is_dir() else Path(__file__).parent.parent / kind


class Target(BaseModel):
    """A device to compile for. Schema: targets/README.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    chip: str
    triple: str
    isa: tuple[str, ...] = ()
    cores: int = Field(1, ge=1)
    memory: str = ""
    precisions: tuple[str, ...] = ("float32", "int8")
    channel_multiple: int = Field(1, ge=1)
    backends: tuple[str, ...]
    reach: str = "local"
    source: str = Field(description="where the facts come from, with a date")
    notes: str = ""


class Calibration(BaseModel):
    """What a student looks at while its ranges are set. Schema: calibration/README.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    source: str
    count: int = Field(ge=1)
    seed: int = Field(0, ge=0, lt=2**63, strict=True)
    observer: str = "minmax"
    split: str = "train"
    path: str = ""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    notes: str = ""

    @property
    def inputs(self) -> dict[str, Any]:
        """What the inputs depend on, of all that the file says; of a `path`, its content counts instead."""
        return self.model_dump(include={"source", "count", "seed", "split", "options"})


def names(kind: str) -> list[str]:
    return sorted(p.stem for p in data_dir(kind).glob("*.toml"))


def _read(kind: str, name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    path = data_dir(kind) / f"{name}.toml"
    if name.endswith(".toml"):
        path = folder / name
    if not path.is_file():
        raise UserError(
            f'no {kind.removesuffix("s")} "{name}"', hint=f"{nearest(name, names(kind))}; or the path of a TOML file"
        )
    try:
        return path, tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML: {error}") from None


def find_target(name: str, folder: Path) -> Target:
    """The target called `name`, or that the TOML file at this path describes. Facts of "detected" are filled in."""
    path, facts = _read("targets", name, folder)
    if facts.get("chip") == "detected":
        facts = {**facts, **_this_machine()}
    try:
        target = Target(name=path.stem, **facts)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}", hint="see targets/README.md"
        ) from None
    for backend in target.backends:
        registry.file_of("backends", backend)
    return target


def find_calibration(name: str, folder: Path) -> Calibration:
    """The calibration recipe called `name`, or that the TOML file at this path describes; its `path` is made absolute.

    Raises UserError for whatever is wrong with it that can be known without importing the source.
    """
    path, facts = _read("calibration", name, folder)
    try:
        recipe = Calibration(name=path.stem, **facts)
    except ValidationError as error:
        first = error.errors()[0]
        where, hint = ".".join(map(str, first["loc"])), "see calibration/README.md"
        if first["type"] == "extra_forbidden":
            hint = nearest(where, Calibration.model_fields)
        raise UserError(f"{path}: {where}: {first['msg']}", hint=hint) from None
    try:
        known = registry.fields_of("sources", recipe.source)
        registry.file_of("observers", recipe.observer)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", hint=error.hint) from None
    for option in recipe.options:
        if option not in known:
            message = f'{path}: options.{option}: source "{recipe.source}" has no such option'
            raise UserError(message, hint=nearest(option, known) if known else "it has no options")
    if not recipe.path:
        return recipe
    place = (path.parent / recipe.path).resolve()
    if not place.exists():
        raise UserError(f"{path}: path: {place} does not exist", hint="paths are relative to the calibration recipe")
    return recipe.model_copy(update={"path": str(place)})


def _this_machine() -> dict[str, Any]:
    """What this machine says of itself: chip, triple, instruction sets, cores."""
    chip, flags = platform.processor() or platform.machine(), set()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                chip = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    except OSError:
        pass
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "chip": chip,
        "triple": f"{platform.machine()}-{platform.system().lower()}",
        "isa": tuple(f for f in known if f in flags),
        "cores": cores,
    }
