"""Core ML, compiled and not run: the torch program as an .mlpackage, int8 with the program's own integers.

Half floats where the target lists float16 (the Neural Engine computes in nothing wider), else f32. An int8 program keeps its
quantize/dequantize pairs and its s8 weights per channel as Core ML's own operators (iOS 17, macOS 14); in half floats the
scales are rounded to those. What of it the device runs as integers, and where, it decides when an app opens the package.

coremltools runs what it converted on macOS only, so this backend has no session: its engines are built, not measured.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn, final

from edgekd.backend import Backend, Port, Signature, read_engine, read_json, share, write_engine
from edgekd.errors import EdgekdError, UserError
from edgekd.quiet import quiet
from edgekd.refusals import GROUPS_OF_WEIGHTS, fixed_shapes, refused_graph, refused_grid, refused_precision

__all__ = ["CoreMl"]

FILE = "model.mlpackage"
MODEL, WEIGHTS = "com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"
GRIDS = ("affine", "symmetric")
REFUSED = {GROUPS_OF_WEIGHTS: "coremltools has no rule for weights in groups"}
WEIGHTED = frozenset({"conv", "conv_transpose", "linear", "matmul", "einsum", "lstm", "gru", "rnn"})
DTYPES = ("float32", "float16", "int32")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: What says when and from what it was made, so that equal programs are equal bytes; the versions are in engine.json.
DATED = tuple(f"com.github.apple.coremltools.{name}" for name in ("conversion_date", "source", "version"))


@final
class CoreMl(Backend):
    """Core ML through coremltools: compiled here, run on Apple's systems only."""

    name: ClassVar[str] = "coreml"
    packages: ClassVar[Mapping[str, str]] = {"coremltools": "coremltools", "torch": "torch"}
    compile_only: ClassVar[str] = "Core ML runs on Apple's systems only; edgekd compiles for it and does not run it"

    def grid(self, target: Mapping[str, Any]) -> str:
        return "affine"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        """What the program itself tells; an operator without a rule is only known, and named, by the conversion."""
        return [
            *refused_precision(program, target),
            *refused_grid(program, GRIDS),
            *fixed_shapes(program),
            *_refused_ports(Signature.read(program)),
            *refused_graph(program, REFUSED),
        ]

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Core ML counts its own threads. Raises EdgekdError naming the operator that coremltools has no rule for."""
        about, signature = read_json(program / "program.json"), Signature.read(program)
        half = "float16" in (target.get("precisions") or ())
        with _converted(program, signature, half) as (spec, weights):
            operations = _operations(spec)
            _write(spec, weights, out / FILE)
        integer = sum(kind in WEIGHTED and reads_integers for kind, reads_integers in operations)
        weighted = sum(kind in WEIGHTED for kind, _ in operations)
        quantized = about["precision"] == "int8"
        facts = {
            "backend": self.name,
            "file": FILE,
            "versions": self.versions(),
            "threads": threads,
            "integer_nodes": integer,
            "float_nodes": weighted - integer,
            "delegated_share": share(integer, weighted) if quantized else None,
            "kernels": dict(sorted(Counter(kind for kind, _ in operations).items())),
            "note": "computes in half floats" if half else "",
            "options": {"compute_precision": "float16" if half else "float32", "minimum_deployment_target": "iOS17"},
        }
        return write_engine(program, out, facts)

    def load(self, engine: Path) -> NoReturn:
        """Raises UserError, always."""
        _, file = read_engine(engine, self.name)
        raise UserError(f"{file}: {self.compile_only}", hint="add the folder to an Xcode project: Xcode compiles it")


def _refused_ports(signature: Signature) -> list[str]:
    ports = [*signature.inputs, *signature.outputs]
    lines = [
        f'"{port.name}" is {port.dtype}; Core ML takes and gives {", ".join(DTYPES)}'
        for port in ports
        if port.dtype not in DTYPES
    ]
    return lines + [
        f'"{port.name}" is no name in Core ML: letters, digits and _' for port in ports if not NAME.fullmatch(port.name)
    ]


@contextmanager
def _converted(program: Path, signature: Signature, half: bool) -> Iterator[tuple[Any, Path]]:
    """The model as coremltools describes it and the folder of its weights, which goes away afterwards."""
    import torch

    from edgekd.quant.torch_graph import read_graph

    example = tuple(torch.from_numpy(value) for value in signature.noise(0))
    with quiet(), _scratch() as scratch, torch.no_grad():
        import coremltools as ct

        graph = read_graph(program)
        exported = torch.export.export(graph, example).run_decompositions({})
        try:
            converted = ct.convert(
                exported,
                source="pytorch",
                outputs=[ct.TensorType(name=port.name, dtype=_dtype(port)) for port in signature.outputs],
                convert_to="mlprogram",
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                minimum_deployment_target=ct.target.iOS17,
                skip_model_load=True,
                package_dir=str(scratch / FILE),
            )
        except (ValueError, RuntimeError, NotImplementedError, TypeError, KeyError, AssertionError) as error:
            traceback.clear_frames(error.__traceback__)  # they hold temporary folders, to be gone before ours is
            raise EdgekdError(f"coremltools cannot convert the program: {_said(error)}") from None
        spec = converted.get_spec()
        _name(spec, signature)
        yield spec, scratch / FILE / "Data" / WEIGHTS


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for all that coremltools leaves in the temporary one until the process ends, which a worker's does not tidily."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="edgekd-coreml-", ignore_cleanup_errors=True) as scratch:
        tempfile.tempdir = scratch
        try:
            yield Path(scratch)
        finally:
            tempfile.tempdir = before


def _dtype(port: Port) -> Any:
    import numpy as np

    return np.dtype(port.dtype).type


def _name(spec: Any, signature: Signature) -> None:
    """Call the model's inputs and outputs what the signature calls them, in its order."""
    from coremltools.models.utils import rename_feature

    for side, features, ports in (
        ("inputs", spec.description.input, signature.inputs),
        ("outputs", spec.description.output, signature.outputs),
    ):
        found = [feature.name for feature in features]
        if len(found) != len(ports):
            raise EdgekdError(f"the package's {side} are {found}, signature.json says {[port.name for port in ports]}")
        for index, (old, port) in enumerate(zip(found, ports, strict=True)):
            if old != port.name:
                taken = [f"port_{index}_" + feature.name for feature in features if feature.name == port.name]
                for clash in taken:
                    rename_feature(spec, port.name, clash, side == "inputs", side == "outputs")
                rename_feature(spec, old, port.name, side == "inputs", side == "outputs")


def _operations(spec: Any) -> list[tuple[str, bool]]:
    """(kind, whether it reads quantized values and a quantized weight) of each operation but the constants."""
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    made_by = {output.name: operation.type for operation in block.operations for output in operation.outputs}

    def reads(operation: Any, key: str) -> str:
        return (
            next((made_by.get(a.name, "") for a in operation.inputs[key].arguments), "")
            if key in operation.inputs
            else ""
        )

    return [
        (op.type, reads(op, "x") == "dequantize" and reads(op, "weight") == "constexpr_affine_dequantize")
        for op in block.operations
        if op.type != "const"
    ]


def _write(spec: Any, weights: Path, package: Path) -> None:
    """The package, the same bytes for the same model: its items are named by what they are, not by chance."""
    for entry in DATED:
        spec.description.metadata.userDefined.pop(entry, None)
    items = {"model": ("model.mlmodel", MODEL, "Specification"), "weights": ("weights", WEIGHTS, "Weights")}
    ids = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, path)) for key, (_, path, _) in items.items()}
    about = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            ids[key]: {"author": "com.apple.CoreML", "description": f"CoreML Model {what}", "name": name, "path": path}
            for key, (name, path, what) in items.items()
            if key == "model" or weights.is_dir()
        },
        "rootModelIdentifier": ids["model"],
    }
    (package / "Data" / MODEL).parent.mkdir(parents=True)
    (package / "Data" / MODEL).write_bytes(spec.SerializeToString(deterministic=True))
    if weights.is_dir():
        shutil.copytree(weights, package / "Data" / WEIGHTS)
    (package / "Manifest.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def _said(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:400]
