"""torch itself, as its users run a model today: by torch.compile where there is a C++ compiler, else eagerly.

The baseline that the other runtimes are compared with. An int8 program runs as it is written, quantize/dequantize pairs
around float operators, so its nodes count as float. The engine is the program's graph; torch.compile translates it
whenever it is opened, which the cold start shows, and caches that outside the engine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

from edgekd.backend import (
    Array,
    Backend,
    Session,
    Signature,
    lent,
    read_engine,
    read_json,
    share,
    write_engine,
)
from edgekd.refusals import fixed_shapes, refused_graph, refused_precision

__all__ = ["Torch"]

FILES = ("graph.json", "weights.safetensors")
COMPILED, EAGER = "torch.compile", "eager"
# No pool of compiling processes. Weights are constants, folded and packed. An int8 program is compiled as it is written:
# torch 2.13's own patterns for quantize/dequantize pairs put operators into it that its CPU build does not have
# (onednn.qconv_prepack, quantized_max_pool2d).
OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {"compile_threads": 1, "freezing": True},
    "int8": {"compile_threads": 1, "pattern_matcher": False},
}
WEIGHTED = ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul", "mm", "bmm", "addmm")


class TorchSession(Session):
    """A graph of ATen operators, run without gradients."""

    def __init__(self, signature: Signature, run: Any) -> None:
        super().__init__(signature)
        import torch

        self._run, self._torch = run, torch

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        tensors = [self._torch.from_numpy(lent(value)) for value in inputs]
        with self._torch.no_grad():
            found = self._run(*tensors)
        return [output.numpy() for output in found]

    def release(self) -> None:
        self._run = None


@final
class Torch(Backend):
    """torch.compile (inductor), or torch's own operators one by one."""

    name: ClassVar[str] = "torch"
    packages: ClassVar[Mapping[str, str]] = {"torch": "torch", "safetensors": "safetensors"}

    def grid(self, target: Mapping[str, Any]) -> str:
        return "affine"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        return [*refused_precision(program, target), *fixed_shapes(program), *refused_graph(program, {})]

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        about, signature = read_json(program / "program.json"), Signature.read(program)
        for name in FILES:
            shutil.copyfile(program / name, out / name)
        options = {"threads": threads, "inductor": OPTIONS.get(about["precision"], OPTIONS["int8"])}
        why = "" if cpp_compiler() else "no C++ compiler was found (g++, clang++ or $CXX)"
        if not why:
            try:
                _open(out, signature, {**options, "mode": COMPILED}).close()
            except Exception as error:  # inductor's errors have no base class of their own
                why = f"torch.compile failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        nodes = read_json(out / FILES[0])["nodes"]
        weighted = sum(operator.split(".")[1] in WEIGHTED for _, operator, *_ in nodes if "." in operator)
        facts = {
            "backend": self.name,
            "file": FILES[0],
            "versions": self.versions(),
            "threads": threads,
            "integer_nodes": 0,
            "float_nodes": weighted,
            "delegated_share": share(0, weighted) if about["precision"] == "int8" else None,
            "note": f"run eagerly: {why}" if why else "run by torch.compile",
            "options": {**options, "mode": EAGER if why else COMPILED},
        }
        return write_engine(program, out, facts)

    def load(self, engine: Path) -> TorchSession:
        facts, _ = read_engine(engine, self.name)
        return _open(engine, Signature.read(engine), facts["options"])


def cpp_compiler() -> str:
    """Path of the C++ compiler that torch.compile would call, or nothing."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), "") or ""


def _open(engine: Path, signature: Signature, options: Mapping[str, Any]) -> TorchSession:
    """Compiled for one thread count, so that is set first; run once, so that what is timed later is compiled."""
    import torch

    from edgekd.quant.torch_graph import read_graph

    torch.set_num_threads(int(options["threads"]))
    graph = read_graph(engine)
    if options["mode"] == EAGER or not cpp_compiler():
        return TorchSession(signature, graph)
    compiled = torch.compile(graph, fullgraph=True, dynamic=False, options=dict(options["inductor"]))
    session = TorchSession(signature, compiled)
    session.compute(signature.noise(0))
    return session
