"""TVM on the CPU: machine code by Relax and LLVM, for this processor or another's, tuned where that was asked for.

The engine is one library, model.so: the kernels, the weights, and bytecode that TVM's virtual machine runs. It IS machine code,
which opening it loads into the process: take such an engine only from whom you would take a program.

An int8 program computes in float, between values rounded to its grid: TVM's ONNX importer has no integer products for
quantize/dequantize pairs (edgekd/compilers/relax_module.py), so it is slower than float and reports no integer node.

A kernel runs as its loops were written until it is tuned, many times slower than other runtimes', and on one thread: `targets.tune`
in a recipe measures schedules, `targets.tuning` names a database of those that were measured (edgekd/compilers/relax_tuning.py).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from edgekd.backend import Array, Backend, Session, Signature, read_engine, read_json, share, write_engine
from edgekd.errors import EdgekdError, UserError
from edgekd.quiet import quiet
from edgekd.refusals import fixed_shapes, refused_bare_metal, refused_grid, refused_precision
from edgekd.tuner import Tuner

__all__ = ["Tvm"]

FILE = "model.so"
GRIDS = ("affine", "symmetric")
# Operators that multiply and add.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention"})
# DLPack's number of the CPU; the virtual machine's allocator that keeps what it freed; threads go to whatever core.
CPU, POOLED, ANY_CORE = 1, 2, 0
ALIGNED = 64  # bytes that the compiled code counts on for every input


class TvmSession(Session):
    """One virtual machine. Inputs are copied to places that are aligned as its code wants; outputs are copied out."""

    def __init__(self, signature: Signature, file: Path, threads: int) -> None:
        super().__init__(signature)
        tvm_ffi = loaded_runtime()
        self._tensor, self._threads, self._configured = tvm_ffi.Tensor, threads, threading.local()
        self._configure = tvm_ffi.get_global_func("runtime.config_threadpool")
        self._places = [_aligned(port.concrete(1), port.dtype) for port in signature.inputs]
        self._lent = [tvm_ffi.from_dlpack(place) for place in self._places]
        try:
            self._library = tvm_ffi.load_module(str(file), keep_module_alive=False)
            self._machine = self._library["vm_load_executable"]()
            self._machine["vm_initialization"](CPU, 0, POOLED)
            self._main = self._machine["main"]
        except Exception as error:  # OSError and RuntimeError of its own making, AttributeError for a missing function
            raise EdgekdError(f"{file}: tvm refuses the engine: {_first_line(error)}") from None

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        if getattr(self._configured, "threads", 0) != self._threads:  # it has a pool for each thread that calls
            self._configure(ANY_CORE, self._threads, ["0"] * self._threads)  # the list's length is the pool's size
            self._configured.threads = self._threads
        for place, value in zip(self._places, inputs, strict=True):
            np.copyto(place, value)
        try:
            found = self._main(*self._lent)
        except Exception as error:
            raise EdgekdError(f"tvm cannot run the engine: {_first_line(error)}") from None
        outputs = [found] if isinstance(found, self._tensor) else list(found)
        return [np.array(np.from_dlpack(output)) for output in outputs]

    def release(self) -> None:
        self._main = self._machine = self._library = None
        self._lent, self._places = [], []


@final
class Tvm(Tuner, Backend):
    """Apache TVM, Relax and LLVM."""

    name: ClassVar[str] = "tvm"
    packages: ClassVar[Mapping[str, str]] = {"tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi", "onnx": "onnx"}
    opens_with: ClassVar[tuple[str, ...]] = ("tvm", "tvm_ffi")
    optional: ClassVar[Mapping[str, str]] = {"onnxslim": "onnxslim"}

    def grid(self, target: Mapping[str, Any]) -> str:
        return "affine"

    def foreign(self, target: Mapping[str, Any]) -> str:
        from edgekd.compilers.llvm_target import foreign

        return foreign(target)

    def holds(self, target: Mapping[str, Any]) -> dict[str, Any]:
        from edgekd.compilers.llvm_target import holds

        return holds(target)

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        """What the program and the target tell, or else each node that the importer has no rule for."""
        from edgekd.compilers.llvm_target import refused_system

        bare = refused_bare_metal(target, "its virtual machine needs an operating system")
        lines = [
            *(bare or refused_system(target)),
            *refused_precision(program, target),
            *refused_grid(program, GRIDS),
            *fixed_shapes(program),
        ]
        if lines:
            return lines
        from edgekd.compilers.relax_module import refused

        loaded_compiler()
        with quiet():
            try:
                return refused(_model(program))
            except EdgekdError as error:
                return [f"the whole graph: {error.message}"]

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Raises EdgekdError where TVM or the linker refuses the program, naming the nodes if they are the reason."""
        from edgekd.compilers.llvm_target import described, linker, refused_system
        from edgekd.compilers.relax_module import built, kernels, laid_out
        from edgekd.compilers.relax_tuning import scheduled

        if lines := refused_system(target):
            raise EdgekdError(lines[0])
        about, kind = read_json(program / "program.json"), described(target, threads)
        with quiet():
            model, module, llvm = self._fused(program, kind)
            module, tuning = scheduled(module, llvm, target.get("tuning"))
            kinds, total, tuned = kernels(module)
            built(laid_out(module, llvm), llvm, linker(target), out / FILE)
        weighted = sum(node.op_type in WEIGHTED for node in model.graph.node)
        facts = {
            "backend": self.name,
            "file": FILE,
            "versions": self.versions(),
            "threads": threads,
            "integer_nodes": 0,
            "float_nodes": weighted,
            "delegated_share": share(0, weighted) if about["precision"] == "int8" else None,
            "kernels": kinds,
            "llvm": kind,
            "tuning": {**tuning, "tuned": tuned, "kernels": total},
            "note": _note(tuning, tuned, total),
            "options": {"threads": threads},
        }
        return write_engine(program, out, facts)

    def load(self, engine: Path) -> TvmSession:
        """Raises UserError for a library that is shorter or longer than it was: opening half of one ends the process."""
        facts, file = read_engine(engine, self.name)
        if (size := file.stat().st_size) != facts["bytes"]:
            raise UserError(f"{file} has {size} bytes, engine.json says {facts['bytes']}", hint="compile it again")
        return TvmSession(Signature.read(engine), file, int(facts["options"]["threads"]))

    def tune(
        self,
        program: Path,
        target: Mapping[str, Any],
        threads: int,
        trials: int,
        work: Path,
        out: Path,
        tell: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        """Raises UserError where a package is missing that it needs for that, EdgekdError for a program that it refuses."""
        from edgekd.compilers.llvm_target import described, linker, refused_system
        from edgekd.compilers.relax_tuning import tune

        if lines := refused_system(target):
            raise EdgekdError(lines[0])
        with quiet():
            _, module, llvm = self._fused(program, described(target, threads))
            return tune(module, llvm, linker(target), trials, work, out, tell)

    def _fused(self, program: Path, kind: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """The ONNX model as it is imported, the module of its kernels, and the target.

        An int8 program keeps ONNX's layout: TVM knows none of a quantizing pair, and would transpose before and behind each.
        """
        loaded_compiler()
        from tvm.target import Target

        from edgekd.compilers.relax_module import fused, imported

        model, llvm = _model(program), Target(dict(kind))
        is_float = read_json(program / "program.json")["precision"] == "float32"
        return model, fused(imported(model), llvm, channels_last=is_float), llvm


def _model(program: Path) -> Any:
    import onnx

    from edgekd.compilers.relax_module import prepared

    about = read_json(program / "program.json")
    return prepared(onnx.load(program / "model.onnx"), Signature.read(program), about["precision"])


def _note(tuning: Mapping[str, Any], tuned: int, total: int) -> str:
    if not tuned:
        return f"untuned: {total} kernels as they were written"
    return f"{tuned} of {total} kernels tuned, {tuning['trials']} trials in {tuning['seconds']:.0f} s"


def _aligned(shape: tuple[int, ...], dtype: str) -> Array:
    """An array that begins on a multiple of 64 bytes."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    held = np.zeros(size + ALIGNED, np.uint8)
    start = -held.ctypes.data % ALIGNED
    return held[start : start + size].view(dtype).reshape(shape)


def loaded_runtime() -> Any:
    """The module tvm_ffi with TVM's runtime loaded: neither its compiler, of 260 MB, nor torch, which it would import."""
    if "tvm_ffi" not in sys.modules:
        os.environ.setdefault("TVM_BIND_THREADS", "0")  # whoever times or embeds it says which cores are its own
        with _absent("torch"):
            import_module("tvm_ffi")
    tvm_ffi = sys.modules["tvm_ffi"]
    if tvm_ffi.get_global_func("runtime.config_threadpool", allow_missing=True) is None:
        spec = find_spec("tvm")
        assert spec and spec.submodule_search_locations
        library = Path(spec.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"
        try:
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise EdgekdError(
                f"tvm's runtime cannot be loaded: {error}", hint="pip install --force-reinstall apache-tvm"
            ) from None
    return tvm_ffi


def loaded_compiler() -> None:
    """TVM imported whole, without torch."""
    loaded_runtime()
    with _absent("torch"):
        import_module("tvm")


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Inside, importing `module` fails as if it were not installed, unless it was imported before."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        del sys.modules[module]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:400]
