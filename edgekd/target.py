"""Targets and calibration recipes: data, one TOML each, shipped with edgekd or beside the user's recipe."""

from __future__ import annotations

import os
import platform
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from edgekd import registry
from edgekd.errors import UserError, nearest
from edgekd.reach import ALWAYS, Local, Reach, Remote, Shelled, TvmRpc, unmeasured
from edgekd.units import Bytes, parse_bytes

BACKENDS = ("coreml", "executorch", "litert", "ncnn", "onnxruntime", "openvino", "tensorrt", "torch", "tvm")
"""What a target may list though this edgekd lacks it: it is passed over, so that no target waits for a backend."""

DETECTED = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
"""Instruction sets that int8 kernels are chosen by, as Linux spells them in /proc/cpuinfo."""


def data_dir(kind: str) -> Path:
    """The folder `targets/` or `calibration/`: beside the package in a checkout, under `edgekd/share/` when installed."""
    shipped = Path(__file__).parent / "share" / kind
    return shipped if shipped.is_dir() else Path(__file__).parent.parent / kind


def _bytes(value: Any) -> Any:
    if isinstance(value, str):
        return parse_bytes(value)
    raise ValueError(f'{value!r} has no unit; write it like "8 GB"')


class Target(BaseModel):
    """A device to compile for. Schema: targets/README.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    chip: str
    triple: str
    isa: tuple[str, ...] = ()
    cores: int = Field(1, ge=1)
    memory: Annotated[Bytes, BeforeValidator(_bytes)] | None = None
    precisions: tuple[Literal["float32", "float16", "bfloat16", "int8"], ...] = ("float32", "int8")
    compute_capabilities: tuple[Annotated[str, Field(pattern=r"^\d+\.\d$")], ...] = ()
    timing_cache: str = ""
    channel_multiple: int = Field(1, ge=1)
    backends: tuple[str, ...] = Field(min_length=1)
    toolchain: str = ""
    package: str = ""
    clock: tuple[str, ...] = ()
    cooling: tuple[str, ...] = ()
    reach: Reach = Local()
    sources: dict[str, str] = Field(default_factory=dict)
    notes: str = ""
    _folder: Path = PrivateAttr(Path())

    @property
    def toolchain_path(self) -> Path:
        """The CMake file of its toolchain."""
        return toolchain_file(self.toolchain, self._folder)

    @property
    def usable(self) -> tuple[str, ...]:
        """Its backends that this edgekd has, in its order."""
        return tuple(name for name in self.backends if name in registry.names("backends"))

    @property
    def at_hand(self) -> tuple[str, ...]:
        """Of those, the ones that can compile here; where none can, all of them, so that each says what it lacks."""
        return tuple(name for name in self.usable if not _cure(name)) or self.usable

    @property
    def unmeasured(self) -> str:
        """Why latency on this target cannot be measured from here; empty if it is reached, or this machine is such a device.

        A machine with wider or other int8 instructions than the target's is another: runtimes would use them.
        """
        why = unmeasured(self.reach)
        if why or not isinstance(self.reach, Local):
            return why
        if self.triple != this_machine()["triple"]:
            return f"the device is {self.triple}, this machine is {this_machine()['triple']}"
        flags = _cpu()[1]
        lacking = [flag for flag in self.isa if flag not in flags]
        more = [flag for flag in DETECTED if self.isa and flag in flags and flag not in self.isa and flag != "asimd"]
        if lacking:
            return f"this machine has no {', '.join(lacking)}"
        return f"this machine has {', '.join(more)} too, which runtimes would use" if more else ""

    def times(self, backend: str) -> bool:
        """Whether engines of the backend are timed there: edgekd-bench, where it is the runner, is told of its runtime."""
        if self.unmeasured:
            return False
        reach = self.reach
        if isinstance(reach, TvmRpc):
            return backend == "tvm"
        return not isinstance(reach, Shelled) or bool(reach.python) or backend in ALWAYS or backend in reach.library

    def source_of(self, fact: str) -> str:
        """The page that a fact is from; empty if none is named."""
        return next((page for facts, page in self.sources.items() if fact in _facts(facts)), "")

    def remarks(self, chosen: tuple[str, ...] = ()) -> list[str]:
        """What to know before compiling for it; `chosen` are the recipe's own backends, if it names any."""
        absent = [name for name in self.backends if name not in self.usable] if not chosen else []
        said = [f"{self.name}: this edgekd has no backend {', '.join(absent)}"] if absent else []
        lacking = [] if chosen else [name for name in self.usable if name not in self.at_hand]
        if lacking:
            cures = ", ".join(f"{name} ({_cure(name)})" for name in lacking)
            said.append(f"{self.name}: passed over, since not installed: {cures}")
        if self.unmeasured:
            said.append(
                f"{self.name}: {self.unmeasured}: its engines are compiled and scored here, "
                "their latency is not measured, and none is chosen"
            )
        elif isinstance(self.reach, Remote):
            said.append(
                f"{self.name}: its engines are compiled and scored here, and measured on the device (by {self.reach.kind})"
            )
        return said


def _cure(name: str) -> str:
    """The command that adds what a backend lacks here; empty if nothing."""
    from edgekd.backend import open_backend

    return open_backend(name).missing()


def _facts(key: str) -> list[str]:
    """A key of `sources` names one fact, or several with commas between."""
    return [fact.strip() for fact in key.split(",")]


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
    """The target called `name`, or that the TOML file at this path describes. Facts of "detected" are filled in.

    Raises UserError naming file and key for whatever is wrong with it.
    """
    path, facts = _read("targets", name, folder)
    if facts.get("chip") == "detected":
        facts = {**facts, **this_machine()}
    fields = [field for field in Target.model_fields if field != "name"]
    try:
        target = Target(**{**facts, "name": path.stem})
    except ValidationError as error:
        first = error.errors()[0]
        where, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        hint = nearest(where, fields) if first["type"] == "extra_forbidden" and where in facts else ""
        raise UserError(f"{path}: {where}: {said}", hint=hint or "see targets/README.md") from None
    try:
        here = {"reach": target.reach.placed(path.parent), "timing_cache": _placed(target.timing_cache, path.parent)}
        target = target.model_copy(update=here)
        target._folder = path.parent
    except ValueError as error:
        raise UserError(f"{path}: {error}", hint="paths are relative to the target's file") from None
    if "name" in facts:
        raise UserError(f"{path}: name: the file's name is the target's", hint="leave the key out")
    known = sorted({*registry.names("backends"), *BACKENDS})
    for backend in target.backends:
        if backend not in known:
            raise UserError(f'{path}: backends: no backend named "{backend}"', hint=nearest(backend, known))
    for key in target.sources:
        for fact in _facts(key):
            if fact not in fields:
                raise UserError(f'{path}: sources: no fact named "{fact}"', hint=nearest(fact, fields))
    if target.toolchain and not toolchain_file(target.toolchain, path.parent).is_file():
        shipped = [place.stem for place in (data_dir("targets") / "toolchains").glob("*.cmake")]
        hint = f"{nearest(target.toolchain, shipped)}; or the path of a CMake toolchain file"
        raise UserError(f'{path}: toolchain: no toolchain "{target.toolchain}"', hint=hint)
    return target


def _placed(cache: str, folder: Path) -> str:
    """The absolute path of a timing cache; empty where there is none. Raises ValueError for one that is not there."""
    place = (folder / Path(cache).expanduser()).absolute()
    if cache and not place.is_file():
        raise ValueError(f"timing_cache: {place} does not exist")
    return str(place) if cache else ""


def find_device(name: str, folder: Path) -> Target:
    """The target whose device measures. Raises UserError where that is not reached from here."""
    target = find_target(name, folder)
    if why := target.unmeasured:
        raise UserError(f"{target.name}: {why}", hint="write a target of your own with its [reach]: targets/README.md")
    return target


def toolchain_file(name: str, folder: Path) -> Path:
    """The CMake file of a toolchain: one in `targets/toolchains/`, or a path relative to the target's file."""
    return folder / name if name.endswith(".cmake") else data_dir("targets") / "toolchains" / f"{name}.cmake"


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


def this_machine() -> dict[str, Any]:
    """What this machine says of itself: chip, triple, instruction sets, cores."""
    chip, flags = _cpu()
    return {
        "chip": chip,
        "triple": f"{platform.machine()}-{platform.system().lower()}",
        "isa": tuple(flag for flag in DETECTED if flag in flags),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    }


def cpu_flags() -> frozenset[str]:
    """All instruction sets of this machine's processor, as Linux spells them."""
    return _cpu()[1]


@cache
def _cpu() -> tuple[str, frozenset[str]]:
    """The processor's name, and its instruction sets where Linux tells them."""
    chip, flags = platform.processor() or platform.machine(), frozenset[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                chip = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = frozenset(value.split())
    except OSError:
        pass
    return chip, flags
