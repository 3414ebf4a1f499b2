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

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np

from edgekd import registry
from edgekd.engine import BUILD, own_files, read_engine, write_engine
from edgekd.errors import UserError, nearest
from edgekd.json_file import read_json, write_json
from edgekd.signature import Array, Port, Signature, check_inputs

if TYPE_CHECKING:
    from edgekd.environment import Environment
    from edgekd.processing import Class
    from edgekd.progress import Progress
    from edgekd.tokenizer import Tokenizer

__all__ = [
    "BUILD",
    "Array",
    "Backend",
    "Port",
    "Session",
    "Signature",
    "lent",
    "load_engine",
    "open_backend",
    "own_files",
    "read_engine",
    "read_json",
    "share",
    "write_engine",
    "write_json",
]


class Session(ABC):
    """An opened engine. `run` checks what it is given; `clock` reads nanoseconds, and is what latency is timed with.

    Threads may share one: their calls take turns. `tokenizer`: of a bundle whose student takes text.
    """

    def __init__(self, signature: Signature, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.signature = signature
        self.clock = clock
        self.tokenizer: Tokenizer | None = None
        self._closed = False
        self._turn = Lock()

    @abstractmethod
    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, in the signature's order, for inputs that were checked; not asked of a closed session."""

    @abstractmethod
    def release(self) -> None:
        """Let go of the engine; called once."""

    @final
    def close(self) -> None:
        """Let go of the engine, once a call that is under way has ended; a second call does nothing."""
        with self._turn:
            if not self._closed:
                self._closed = True
                self.release()

    @final
    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, in the signature's order.

        Raises UserError if an input is not what the signature says, or the session was closed.
        """
        check_inputs(self.signature.inputs, inputs)
        with self._turn:
            if self._closed:
                raise UserError("this session was closed", hint="open the engine again")
            return self.compute(inputs)

    @final
    def preprocess(self, raw: Array) -> Array:
        """The input for an image [height, width, channels] or a sound [samples]; see `edgekd.processing.preprocess`."""
        from edgekd.processing import preprocess

        return preprocess(self.signature, raw)

    @final
    def tokenize(self, text: str | bytes, pair: str | bytes | None = None) -> list[Array]:
        """What the inputs are for a text, or for two read together; see `edgekd.tokenizer.Tokenizer`, and what that raises."""
        from edgekd.tokenizer import Tokenizer

        reader = self.tokenizer or Tokenizer.of(self.signature.preprocessing, {})
        return reader.inputs(self.signature.inputs, text, pair)

    @final
    def run_text(self, text: str | bytes, pair: str | bytes | None = None) -> list[Array]:
        """The outputs for a text, or for two. Raises UserError as `tokenize` and `run`."""
        return self.run(self.tokenize(text, pair))

    @final
    def postprocess(self, outputs: Sequence[Array]) -> list[Class]:
        """The classes that the first output names, the most likely first; see `edgekd.processing.postprocess`."""
        from edgekd.processing import postprocess

        return postprocess(self.signature, outputs[0])

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
    `environment` holds those that it compiles with and that cannot live beside the others: `unsupported` and `compile` are
    asked in a worker that sees them. `opens_with` are the import names that opening an engine needs, where compiling needs
    more: what a device installs. `compile_only` says why its engines run nowhere that edgekd reaches; they are built, and
    neither scored nor timed. `on_device`: its compiler runs on the target's device, and what that needs, with the command.
    `integers`: the operators, as ONNX calls them, that pairs turn into integer kernels; `of_graph`: it compiles graph.json, so
    that pairs are placed there; `rewrites`: those of `rewrites/` to try.
    """

    name: ClassVar[str]
    packages: ClassVar[Mapping[str, str]]
    opens_with: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[Mapping[str, str]] = {}
    environment: ClassVar[Environment | None] = None
    compile_only: ClassVar[str] = ""
    on_device: ClassVar[str] = ""
    integers: ClassVar[frozenset[str]] = frozenset()
    of_graph: ClassVar[bool] = False
    rewrites: ClassVar[tuple[str, ...]] = ()

    @final
    def missing(self, *, to_open: bool = False) -> str:
        """Empty when this backend can be used here (`to_open`: can open engines), else the command that adds what is missing.

        Imports nothing.
        """
        needed = self.opens_with if to_open and self.opens_with else tuple(self.packages)
        absent = [
            package for module, package in self.packages.items() if module in needed and find_spec(module) is None
        ]
        if absent:
            from edgekd.environment import wanted

            return f"pip install {' '.join(dict.fromkeys(spec for package in absent for spec in wanted(package)))}"
        lacking = not to_open and self.environment is not None and not self.environment.made(self._installed())
        return f"edgekd doctor --fix {self.name}" if lacking else ""

    @final
    def versions(self) -> dict[str, str]:
        """Version of each installed distribution that it uses, read without importing: belongs in a cache key."""
        found = self._installed()
        return {**found, **(self.environment.versions(found) if self.environment else {})}

    @final
    def variables(self) -> dict[str, str]:
        """Environment variables for the worker in which `unsupported` and `compile` are asked."""
        return self.environment.variables(self._installed()) if self.environment else {}

    @final
    def fix(self, progress: Progress) -> None:
        """Make its environment, where it has one. Raises what `Environment.make` raises."""
        if self.environment:
            self.environment.make(self._installed(), progress)

    def _installed(self) -> dict[str, str]:
        from importlib import metadata  # slow to import, and not needed to open an engine

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

    def foreign(self, target: Mapping[str, Any]) -> str:
        """Why its engines for `target` cannot be opened here; empty where they can. They are scored by twins for this machine."""
        return ""

    def holds(self, target: Mapping[str, Any]) -> dict[str, Any]:
        """Facts of this machine, beside the target's, that its engines hold: belong in a cache key."""
        return {}

    @abstractmethod
    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Write the engine of `program` into the folder `out`, for `threads` threads; return engine.json's facts."""

    @abstractmethod
    def load(self, engine: Path) -> Session:
        """Open the engine in the folder `engine`, with the options that it was compiled for."""

    def profile(self, engine: Path, inputs: Sequence[Array], calls: int) -> list[dict[str, Any]] | None:
        """Rows of {"operator", "nodes", "seconds"}, means of a call; None without a profiler. `operator`: kind and shape.

        `nodes` have that name. Under "each", a row may have the seconds of every node by its name in the engine.
        """
        return None

    def tensors(
        self, program: Path, target: Mapping[str, Any], threads: int, samples: Sequence[Sequence[Array]], written: bool
    ) -> dict[str, Array] | None:
        """What an engine of `program` computes inside, [samples, ...] by name, or (`written`) its nodes; None: not shown."""
        return None


def open_backend(name: str) -> Backend:
    """The backend called `name`. Raises UserError, naming the nearest, if there is none."""
    found = registry.find("backends", name)()
    if not isinstance(found, Backend):
        raise UserError(f"{registry.file_of('backends', name)}: exports no Backend")
    return found


def lent(value: Array) -> Array:
    """The array as a runtime may take it over without a copy: contiguous and writable. Any other one is copied."""
    return np.require(value, requirements=["C", "W"])


def share(part: int, whole: int) -> float | None:
    """`part` of `whole`, from 0 to 1; None of nothing."""
    return part / whole if whole else None


def load_engine(engine: Path) -> Session:
    """Open an engine folder with the backend that its engine.json names. Never runs code from the folder."""
    name = read_json(engine / "engine.json").get("backend")
    own = str(name).isidentifier() and (Path(__file__).parent / "backends" / f"{name}.py").is_file()
    if not own and name not in (known := registry.names("backends")):  # asking for all that is installed takes a while
        raise UserError(f"{engine / 'engine.json'}: no backend named {name!r}", hint=nearest(str(name), known))
    backend = open_backend(str(name))
    if command := backend.missing(to_open=True):
        raise UserError(f'the backend "{name}" is not installed', hint=command)
    return backend.load(engine)
