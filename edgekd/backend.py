"""What a backend is: a compiler and its runtime behind one protocol, and the two folders that pass through it.

    program/   model.onnx      float, or int8 as QuantizeLinear/DequantizeLinear pairs with s8 activations
               graph.json      the same for torch, its constants in weights.safetensors (edgekd/quant/torch_graph.py)
               program.json    {"precision": "float32" | "int8", "grid": "none" | "affine" | …}
               signature.json  inputs, outputs, preprocessing, labels
    engine/    engine.json     facts of the compilation, and the options that `load` opens it with
               signature.json  copied from the program
               …               the engine's own files

A backend is one file in `edgekd/backends/`. Importing it imports no runtime; `load` and what it returns need numpy and
the runtime; torch only where that is the runtime, or a part of it.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from edgekd import registry
from edgekd.errors import UserError, nearest

Array = NDArray[Any]
FORMAT = 1
ABOUT = ("engine.json", "signature.json", "entry.json")  # the last is the store's


@dataclass(frozen=True)
class Port:
    """One input or output: `shape` holds an int per fixed dimension and a name per dynamic one."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def concrete(self, dynamic: int) -> tuple[int, ...]:
        """The shape with every dynamic dimension set to `dynamic`."""
        return tuple(size if isinstance(size, int) else dynamic for size in self.shape)


@dataclass(frozen=True)
class Signature:
    """`signature.json`: what goes in, what comes out, how to preprocess, what the classes are called."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Signature:
        """Raises UserError if `folder/signature.json` is missing or not a signature."""
        file = folder / "signature.json"
        found = read_json(file)
        try:
            ports = {side: tuple(_port(port) for port in found[side]) for side in ("inputs", "outputs")}
            labels = tuple(str(label) for label in found.get("labels") or ())
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file}: not a signature: {type(error).__name__}: {error}") from None
        return cls(**ports, preprocessing=found.get("preprocessing") or {}, labels=labels)

    def noise(self, seed: int) -> list[Array]:
        """One batch of legal inputs: standard normal floats; 0 or 1 for integers and bool. A dynamic dimension is 1."""
        random = np.random.default_rng(seed)
        made: list[Array] = []
        for port in self.inputs:
            floating = np.issubdtype(np.dtype(port.dtype), np.floating)
            shape = port.concrete(1)
            values = random.standard_normal(shape) if floating else random.integers(0, 2, shape)
            made.append(np.asarray(values).astype(port.dtype))
        return made

    def feed(self, seed: int) -> dict[str, Array]:
        """The same noise by name of the input."""
        return {port.name: value for port, value in zip(self.inputs, self.noise(seed), strict=True)}


def _port(found: Mapping[str, Any]) -> Port:
    shape = tuple(n if isinstance(n, int) and n > 0 else str(n) for n in found["shape"])
    return Port(str(found["name"]), shape, np.dtype(found["dtype"]).name)


def check_inputs(ports: Sequence[Port], inputs: Sequence[Array]) -> None:
    """Raises UserError naming the first input whose count, type, shape or dtype is not the signature's."""
    if len(inputs) != len(ports):
        names = ", ".join(port.name for port in ports)
        raise UserError(f"the engine takes {len(ports)} input(s) ({names}), got {len(inputs)}")
    for port, value in zip(ports, inputs, strict=True):
        if not isinstance(value, np.ndarray):
            raise UserError(f'input "{port.name}" is a {type(value).__name__}, not a numpy array')
        if value.dtype != port.dtype:
            raise UserError(
                f'input "{port.name}" has dtype {value.dtype}, the engine takes {port.dtype}',
                hint=f'convert it: x.astype("{port.dtype}")',
            )
        fits = value.ndim == len(port.shape) and all(
            n == size for n, size in zip(value.shape, port.shape, strict=True) if isinstance(size, int)
        )
        if not fits:
            raise UserError(f'input "{port.name}" has shape {list(value.shape)}, the engine takes {list(port.shape)}')


class Session(ABC):
    """An opened engine. `run` checks what it is given; `clock` reads nanoseconds, and is what latency is timed with."""

    def __init__(self, signature: Signature, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.signature = signature
        self.clock = clock

    @abstractmethod
    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, in the signature's order, for inputs that were checked."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the engine; a second call does nothing."""

    @final
    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, in the signature's order. Raises UserError if an input is not what the signature says."""
        check_inputs(self.signature.inputs, inputs)
        return self.compute(inputs)

    @final
    def __enter__(self) -> Self:
        return self

    @final
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(ABC):
    """A compiler and its runtime.

    `packages` are the distributions that it needs, by import name; `optional` those that it uses where they are installed.
    `compile_only` says why its engines run nowhere that edgekd reaches; they are built, and neither scored nor timed.
    `integers`: the ONNX operators that pairs turn into integer kernels; `rewrites`: those of `rewrites/` to try.
    """

    name: ClassVar[str]
    packages: ClassVar[Mapping[str, str]]
    optional: ClassVar[Mapping[str, str]] = {}
    compile_only: ClassVar[str] = ""
    integers: ClassVar[frozenset[str]] = frozenset()
    rewrites: ClassVar[tuple[str, ...]] = ()

    @final
    def missing(self) -> str:
        """Empty when this backend can be used here, else the pip command for what it lacks. Imports nothing."""
        absent = [package for module, package in self.packages.items() if find_spec(module) is None]
        wanted = dict.fromkeys(spec for package in absent for spec in _wanted(package))
        return f"pip install {' '.join(wanted)}" if wanted else ""

    @final
    def versions(self) -> dict[str, str]:
        """Version of each installed distribution that it uses, read without importing: belongs in a cache key."""
        found: dict[str, str] = {}
        for package in (*self.packages.values(), *self.optional.values()):
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return found

    @abstractmethod
    def grid(self, target: Mapping[str, Any]) -> str:
        """The name of the number grid that its fast kernels take on `target` ("affine", …)."""

    @abstractmethod
    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        """One line per node (or other reason) of the program that it cannot take; asked before compiling."""

    @abstractmethod
    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Write the engine of `program` into the folder `out`, for `threads` threads; return engine.json's facts."""

    @abstractmethod
    def load(self, engine: Path) -> Session:
        """Open the engine in the folder `engine`, with the options that it was compiled for."""

    def profile(self, engine: Path, inputs: Sequence[Array], calls: int) -> list[dict[str, Any]] | None:
        """What each operator takes, if the runtime has a profiler: rows of {"operator", "nodes", "seconds"}, means of a call.

        `operator` names kind and shape, to compare engines; `nodes` have that name. Under "each", a row may have the seconds
        of every node by its name in the engine.
        """
        return None


def _wanted(package: str) -> list[str]:
    """What to install for `package`, quoted for a shell: the smallest extra of edgekd that has it, and the versions asked for."""
    try:
        split = [line.partition(";") for line in metadata.requires("edgekd") or []]
    except metadata.PackageNotFoundError:
        return [package]
    specs = [(spec.replace(" ", ""), re.search(r"extra *== *[\"']([\w-]+)", marker)) for spec, _, marker in split]
    found = [(spec, extra) for spec, extra in specs if re.split(r"[<>=!~\[]", spec)[0] == package]
    if not found:
        return [package]
    sizes = Counter(extra[1] for _, extra in specs if extra)
    spec, extra = min(found, key=lambda one: sizes[one[1][1]] if one[1] else 0)
    return [*([shlex.quote(f"edgekd[{extra[1]}]")] if extra else []), shlex.quote(spec)]


def open_backend(name: str) -> Backend:
    """The backend called `name`. Raises UserError, naming the nearest, if there is none."""
    found = registry.find("backends", name)()
    if not isinstance(found, Backend):
        raise UserError(f"{registry.file_of('backends', name)}: exports no Backend")
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`. Raises UserError if it is missing, not JSON or not an object."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds no JSON object")
    return found


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Sorted keys and a final newline, so that equal facts are equal bytes."""
    file.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", "utf-8")


def lent(value: Array) -> Array:
    """The array as a runtime may take it over without a copy: contiguous and writable. Any other one is copied."""
    return np.require(value, requirements=["C", "W"])


def share(part: int, whole: int) -> float | None:
    """`part` of `whole`, from 0 to 1; None of nothing."""
    return part / whole if whole else None


def own_files(engine: Path) -> list[Path]:
    """What the backend wrote into an engine's folder: what an app must carry, beside the two files that describe it."""
    return sorted(p for p in engine.rglob("*") if p.is_file() and p.relative_to(engine).as_posix() not in ABOUT)


def write_engine(program: Path, out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the program's signature and write engine.json, with format and the bytes of all the engine's own files added."""
    Signature.read(program)
    (out / "signature.json").write_bytes((program / "signature.json").read_bytes())
    size = sum(file.stat().st_size for file in own_files(out))
    whole = {**facts, "format": FORMAT, "bytes": size}
    write_json(out / "engine.json", whole)
    return whole


def read_engine(engine: Path, backend: str) -> tuple[dict[str, Any], Path]:
    """engine.json and the engine's file (or the folder that a runtime opens like one).

    Raises UserError if the engine is another backend's, of another format, or names a file outside its folder.
    """
    facts = read_json(engine / "engine.json")
    if facts.get("format") != FORMAT:
        raise UserError(f"{engine}: engine of format {facts.get('format')}, this edgekd reads {FORMAT}")
    if facts.get("backend") != backend:
        raise UserError(f'{engine}: an engine of the backend "{facts.get("backend")}", not of "{backend}"')
    name = facts.get("file")
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise UserError(f"{engine / 'engine.json'}: file {name!r} is not the name of a file in this folder")
    if not (engine / name).exists():
        raise UserError(f"{engine / name} does not exist")
    return facts, engine / name


def load_engine(engine: Path) -> Session:
    """Open an engine folder with the backend that its engine.json names. Never runs code from the folder."""
    name = read_json(engine / "engine.json").get("backend")
    known = registry.names("backends")
    if name not in known:
        raise UserError(f"{engine / 'engine.json'}: no backend named {name!r}", hint=nearest(str(name), known))
    backend = open_backend(name)
    if command := backend.missing():
        raise UserError(f'the backend "{name}" is not installed', hint=command)
    return backend.load(engine)
