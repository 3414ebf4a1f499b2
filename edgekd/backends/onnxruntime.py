"""ONNX Runtime on the CPU: float models slimmed, int8 models re-based to the grid that its kernels take.

The engine is one portable .onnx file. The graph that the runtime optimises it to holds layouts of one machine, so it is
looked at (which nodes became integer kernels) and thrown away.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from edgekd.backend import (
    Array,
    Backend,
    Session,
    Signature,
    read_engine,
    read_json,
    share,
    write_engine,
)
from edgekd.errors import EdgekdError
from edgekd.refusals import refused_grid, refused_precision

if TYPE_CHECKING:
    import onnx

__all__ = ["OnnxRuntime"]

FILE = "model.onnx"
PROVIDER = "CPUExecutionProvider"
GRIDS = ("affine", "symmetric")
QUIET_LOG = 3
# Kernels that multiply and add in integers, and those that do so in float, by their names in the optimised graph.
INTEGER_WEIGHTED = frozenset(
    {"QLinearConv", "QLinearMatMul", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}
    | {"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
)
INTEGER_PREFIX = "QLinear"
# Operators that it turns into those where quantize/dequantize pairs stand around them, and those that only move integers.
INTEGERS = frozenset(
    {
        "Conv",
        "Gemm",
        "MatMul",
        "Add",
        "Mul",
        "Concat",
        "Sigmoid",
        "LeakyRelu",
        "Softmax",
        "AveragePool",
        "GlobalAveragePool",
    }
    | {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
    | {"LSTM"}  # as its own dynamic one
)
FLOAT = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Einsum"}
    | {"LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention", "MatMulNBits"}
)


class OnnxRuntimeSession(Session):
    """An `onnxruntime.InferenceSession` fed in the signature's order."""

    def __init__(self, signature: Signature, session: Any) -> None:
        super().__init__(signature)
        self._session: Any = session
        self._inputs = [port.name for port in signature.inputs]
        self._outputs = [port.name for port in signature.outputs]

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        found: list[Array] = self._session.run(self._outputs, dict(zip(self._inputs, inputs, strict=True)))
        return found

    def release(self) -> None:
        self._session = None


@final
class OnnxRuntime(Backend):
    """ONNX Runtime, CPUExecutionProvider."""

    name: ClassVar[str] = "onnxruntime"
    packages: ClassVar[Mapping[str, str]] = {"onnxruntime": "onnxruntime", "onnx": "onnx"}
    opens_with: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    optional: ClassVar[Mapping[str, str]] = {"onnxslim": "onnxslim"}
    integers: ClassVar[frozenset[str]] = INTEGERS
    rewrites: ClassVar[tuple[str, ...]] = ("flat", "fusions")

    def grid(self, target: Mapping[str, Any]) -> str:
        return "affine"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        """Each distinct node is opened as a model of its own, so the runtime itself says what it has kernels for."""
        import onnx

        from edgekd.onnx.nodes import refused_nodes

        lines = [*refused_precision(program, target), *refused_grid(program, GRIDS)]
        model = onnx.load(program / FILE)
        refused = [
            f"node {node.name or node.output[0]} ({node.domain or 'ai.onnx'} {node.op_type}): {reason}"
            for node, reason in refused_nodes(model, _opens)
        ]
        if not refused and (reason := _opens(model)):
            refused.append(f"the whole graph: {reason}")
        return lines + refused

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Raises EdgekdError if ONNX Runtime refuses the file, or its inputs and outputs are not the signature's."""
        import onnx

        from edgekd.quant.rebase import strip

        about, signature = read_json(program / "program.json"), Signature.read(program)
        model = onnx.load(program / FILE)
        model = _lowered(model, about["precision"], signature)
        onnx.save(strip(model), out / FILE)
        options = _options(target, threads, about["precision"])
        kernels = self._kernels(out / FILE, options, signature)
        weighted = sum(n for op, n in kernels.items() if op in INTEGER_WEIGHTED)
        moved = sum(n for op, n in kernels.items() if op.startswith(INTEGER_PREFIX) and op not in INTEGER_WEIGHTED)
        floats = sum(n for op, n in kernels.items() if op in FLOAT)
        facts = {
            "backend": self.name,
            "file": FILE,
            "versions": self.versions(),
            "threads": threads,
            "integer_nodes": weighted + moved,
            "float_nodes": floats,
            "delegated_share": share(weighted, weighted + floats) if about["precision"] == "int8" else None,
            "kernels": kernels,
            "options": options,
        }
        return write_engine(program, out, facts)

    def _kernels(self, file: Path, options: Mapping[str, Any], signature: Signature) -> dict[str, int]:
        """How many nodes of each kind the runtime's own optimised graph holds."""
        import onnx

        with tempfile.TemporaryDirectory() as folder:
            seen = Path(folder) / "optimised.onnx"
            session = _open(file, options, seen)
            for side, ports, found in (
                ("inputs", signature.inputs, session.get_inputs()),
                ("outputs", signature.outputs, session.get_outputs()),
            ):
                named, given = [port.name for port in ports], [port.name for port in found]
                if sorted(named) != sorted(given):
                    raise EdgekdError(f"{file}: the model's {side} are {given}, signature.json says {named}")
            return dict(sorted(Counter(node.op_type for node in onnx.load(seen).graph.node).items()))

    def load(self, engine: Path) -> OnnxRuntimeSession:
        facts, file = read_engine(engine, self.name)
        return OnnxRuntimeSession(Signature.read(engine), _open(file, facts["options"]))

    def tensors(
        self, program: Path, target: Mapping[str, Any], threads: int, samples: Sequence[Sequence[Array]], written: bool
    ) -> dict[str, Array]:
        """What the nodes of the runtime's own optimised graph give.

        On x86 and Arm it also lays tensors out anew, under names of its own. So the graph is looked at fused, without that,
        for the tensors in between, and as it is run, for all that kept their names there.
        """
        import onnx

        about, signature = read_json(program / "program.json"), Signature.read(program)
        model, options = onnx.load(program / FILE), _options(target, threads, about["precision"])
        if written:
            return _inside(model, signature, options, samples)
        lowered = _lowered(model, about["precision"], signature).SerializeToString()
        found: dict[str, Array] = {}
        with tempfile.TemporaryDirectory() as folder:
            for layouts in (False, True):
                seen = Path(folder) / f"{layouts}.onnx"
                _open(lowered, {**options, "layouts": layouts}, seen)
                found |= _inside(onnx.load(seen), signature, options, samples)
        return found

    def profile(self, engine: Path, inputs: Sequence[Array], calls: int) -> list[dict[str, Any]]:
        """ONNX Runtime's own profiler, after as many calls to warm up; the shape is that of the first output."""
        from edgekd.onnx.trace import operators_of

        facts, file = read_engine(engine, self.name)
        feed = {port.name: value for port, value in zip(Signature.read(engine).inputs, inputs, strict=True)}
        with tempfile.TemporaryDirectory() as folder:
            session = _open(file, {**facts["options"], "profile": Path(folder) / "profile"})
            for _ in range(2 * calls):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        return operators_of(events, calls)


def _open(model: Path | bytes, options: Mapping[str, Any], optimised: Path | None = None) -> Any:
    """An InferenceSession. Raises EdgekdError with the runtime's own words if it refuses the model."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = QUIET_LOG
    settings.intra_op_num_threads = int(options["intra_op_num_threads"])
    settings.inter_op_num_threads = int(options["inter_op_num_threads"])
    settings.enable_cpu_mem_arena = bool(options["enable_cpu_mem_arena"])
    settings.enable_mem_pattern = bool(options["enable_mem_pattern"])
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    for key, value in options["entries"].items():
        settings.add_session_config_entry(key, value)
    if not options.get("optimise", True):
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    elif not options.get("layouts", True):
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if optimised:
        settings.optimized_model_filepath = str(optimised)
    if "profile" in options:
        settings.enable_profiling, settings.profile_file_prefix = True, str(options["profile"])
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, settings, providers=[PROVIDER])
    except Exception as error:  # its exceptions have no base class of their own
        where = "" if isinstance(model, bytes) else f"{model}: "
        raise EdgekdError(f"{where}onnxruntime refuses the model: {' '.join(str(error).split())}") from None


def _inside(
    model: onnx.ModelProto, signature: Signature, options: Mapping[str, Any], samples: Sequence[Sequence[Array]]
) -> dict[str, Array]:
    """What every node gives, as it stands, [samples, ...] by name."""
    from edgekd.onnx.tensors import exposed

    session = _open(exposed(model).SerializeToString(), {**options, "optimise": False})
    names = [port.name for port in session.get_outputs()]
    feeds = [{port.name: x for port, x in zip(signature.inputs, one, strict=True)} for one in samples]
    found = [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
    return {name: np.stack([one[name] for one in found]) for name in names if isinstance(found[0][name], np.ndarray)}


def _lowered(model: onnx.ModelProto, precision: str, signature: Signature) -> onnx.ModelProto:
    """The program's model as it is handed to the runtime, but for its names."""
    from edgekd.onnx.slim import slimmed
    from edgekd.quant.rebase import rebase

    if precision == "int8":
        return rebase(model)
    return slimmed(model, signature.feed(0)) if precision == "float32" else model


def _options(target: Mapping[str, Any], threads: int, precision: str) -> dict[str, Any]:
    """What the engine is opened with."""
    return {
        "intra_op_num_threads": threads,
        "inter_op_num_threads": 1,
        "enable_cpu_mem_arena": True,
        "enable_mem_pattern": True,
        "entries": _entries(target, threads, precision),
    }


def _entries(target: Mapping[str, Any], threads: int, precision: str) -> dict[str, str]:
    """Session entries. x86 without VNNI multiplies u8 by s8 in sums of 16 bits, which overflow: there the exact kernels."""
    entries = {"session.intra_op.allow_spinning": "0" if threads == 1 else "1"}
    isa = set(target.get("isa") or ())
    old_x86 = (
        str(target.get("triple", "")).startswith("x86_64") and isa and not isa & {"avx512_vnni", "avx_vnni", "amx_int8"}
    )
    return {**entries, "session.x64quantprecision": "1"} if precision == "int8" and old_x86 else entries


PLAIN = {
    "intra_op_num_threads": 1,
    "inter_op_num_threads": 1,
    "enable_cpu_mem_arena": False,
    "enable_mem_pattern": False,
    "entries": {},
}


def _opens(model: onnx.ModelProto) -> str:
    """Empty if the runtime opens the model, else why not."""
    try:
        _open(model.SerializeToString(), PLAIN)
    except EdgekdError as error:
        return error.message
    return ""
