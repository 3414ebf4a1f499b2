"""OpenVINO on the CPU: the program as OpenVINO IR; float in f32, int8 re-based to the grid that its kernels take.

The engine is model.xml and model.bin, as portable as the program is. What the runtime compiles them to when it opens them
holds layouts and machine code of one processor, so it is looked at (which nodes became integer kernels) and thrown away:
no cache of it is in the engine.

Where it rounds differently from the program: a convolution whose quantized output is then added to another tensor becomes
one kernel with the addition, which adds the sum that was not yet rounded to the convolution's own grid. In a residual block
of 8 channels 29% of the outputs differ for that, by one step; all else differs in one of 5,000 values or less.
"""

from __future__ import annotations

import re
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
    lent,
    read_engine,
    read_json,
    share,
    write_engine,
)
from edgekd.errors import EdgekdError
from edgekd.refusals import refused_grid, refused_precision

if TYPE_CHECKING:
    import onnx

__all__ = ["OpenVino"]

FILE, WEIGHTS = "model.xml", "model.bin"
DEVICE = "CPU"
GRIDS = ("affine", "symmetric")
# Kinds of nodes that multiply and add, by their names in the runtime's own graph, and how that says that they do in integers.
WEIGHTED = frozenset(
    {"Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNCell", "RNNSeq", "ScaledDotProductAttention"}
)
INTEGERS = frozenset({"u8", "i8"})
# ONNX operators that it runs in integers where quantize/dequantize pairs stand around them.
PAIRED = frozenset(
    {"Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "MaxPool"}
    | {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
)


class OpenVinoSession(Session):
    """One infer request. Inputs are lent to it without a copy; outputs are copied, for the next call overwrites them."""

    def __init__(self, signature: Signature, compiled: Any) -> None:
        super().__init__(signature)
        from openvino import Tensor

        self._inputs = _positions(compiled.inputs, [port.name for port in signature.inputs], "inputs")
        self._outputs = _positions(compiled.outputs, [port.name for port in signature.outputs], "outputs")
        self._tensor, self._request = Tensor, compiled.create_infer_request()

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        held = [lent(value) for value in inputs]  # until it has run: the tensors do not keep what they look at
        for position, value in zip(self._inputs, held, strict=True):
            self._request.set_input_tensor(position, self._tensor(value, shared_memory=True))
        self._request.infer()
        return [np.array(self._request.get_output_tensor(position).data) for position in self._outputs]

    def counters(self) -> Sequence[Any]:
        """What the runtime counted of each node, where it was compiled to count."""
        found: Sequence[Any] = self._request.get_profiling_info()
        return found

    def release(self) -> None:
        self._request = None


@final
class OpenVino(Backend):
    """OpenVINO Runtime, CPU plugin."""

    name: ClassVar[str] = "openvino"
    packages: ClassVar[Mapping[str, str]] = {"openvino": "openvino", "onnx": "onnx"}
    opens_with: ClassVar[tuple[str, ...]] = ("openvino",)
    integers: ClassVar[frozenset[str]] = PAIRED

    def grid(self, target: Mapping[str, Any]) -> str:
        return "affine"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        """The nodes that its ONNX reader has no rule for, or else those that the CPU plugin has no kernel for."""
        lines = [*refused_precision(program, target), *refused_grid(program, GRIDS)]
        model = _program(program)
        try:
            read = _read(model)
        except EdgekdError as error:
            return lines + (_unread(model, error.message) or [f"the whole graph: {error.message}"])
        from openvino import Core

        taken = Core().query_model(read, DEVICE, {})
        nodes = {node.get_friendly_name(): node.get_type_name() for node in read.get_ordered_ops()}
        refused = [f"node {name} ({kind}): no kernel on {DEVICE}" for name, kind in nodes.items() if name not in taken]
        return lines + refused

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Raises EdgekdError if OpenVINO refuses the file, or its inputs and outputs are not the signature's."""
        about, signature = read_json(program / "program.json"), Signature.read(program)
        _write(_read(_program(program)), out)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # its own choice for float, bf16 where the processor has that, was slower
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": "NO",  # whoever times or embeds it says which cores are its own
        }
        compiled = _compiled(out / FILE, options)
        OpenVinoSession(signature, compiled).close()
        kernels = _kernels(compiled)
        weighted = {kind: sum(n for (op, k), n in kernels.items() if op in WEIGHTED and k == kind) for kind in KINDS}
        total = sum(weighted.values())
        facts = {
            "backend": self.name,
            "file": FILE,
            "versions": self.versions(),
            "threads": threads,
            "integer_nodes": weighted["integer"],
            "float_nodes": weighted["float"],
            "delegated_share": share(weighted["integer"], total) if about["precision"] == "int8" else None,
            "kernels": {f"{op} {kind}": n for (op, kind), n in sorted(kernels.items())},
            "options": options,
        }
        return write_engine(program, out, facts)

    def load(self, engine: Path) -> OpenVinoSession:
        facts, file = read_engine(engine, self.name)
        return OpenVinoSession(Signature.read(engine), _compiled(file, facts["options"]))

    def profile(self, engine: Path, inputs: Sequence[Array], calls: int) -> list[dict[str, Any]]:
        """The CPU plugin's own counters, in whole microseconds: a node's mean over all calls, twice as many as asked for."""
        facts, file = read_engine(engine, self.name)
        compiled = _compiled(file, {**facts["options"], "PERF_COUNT": "YES"})
        shapes = {
            node.get_friendly_name(): "×".join(map(str, node.get_output_partial_shape(0)))
            for node in compiled.get_runtime_model().get_ordered_ops()
            if node.get_output_size()
        }
        took: dict[str, list[float]] = {}
        with OpenVinoSession(Signature.read(engine), compiled) as session:
            for _ in range(2 * calls):
                session.run(inputs)
            for node in session.counters():
                if node.status.name == "EXECUTED" and node.node_type not in UNCOUNTED:
                    label = f"{node.node_type} {shapes.get(node.node_name, '')}".strip()
                    took.setdefault(label, []).append(node.real_time.total_seconds())
        return [{"operator": name, "nodes": len(s), "seconds": sum(s)} for name, s in took.items()]


UNCOUNTED = ("Const", "Input", "Output", "Parameter", "Result")
KINDS = ("integer", "float")


def _program(program: Path) -> onnx.ModelProto:
    """The program's model without what a runtime does not read; int8 on the grid that x86 has integer kernels for."""
    import onnx

    from edgekd.quant.rebase import rebase, strip

    model = onnx.load(program / "model.onnx")
    return strip(rebase(model) if read_json(program / "program.json")["precision"] == "int8" else model)


def _read(model: onnx.ModelProto) -> Any:
    """The model as OpenVINO's own, folded as its converter does; quantization stays written in it."""
    from openvino import Core
    from openvino._offline_transformations import apply_fused_names_cleanup, apply_moc_transformations

    try:
        read = Core().read_model(model.SerializeToString(), b"")
        apply_moc_transformations(read, True)
        apply_fused_names_cleanup(read)
    except RuntimeError as error:
        raise EdgekdError(f"openvino cannot read the model: {_said(error)}") from None
    return read


def _write(model: Any, out: Path) -> None:
    """model.xml and model.bin, the same bytes for the same model: names that count what the process made are replaced."""
    from openvino import serialize

    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"n{number}")
    serialize(model, str(out / FILE), str(out / WEIGHTS))
    indented = (out / FILE).read_bytes()
    (out / FILE).write_bytes(re.sub(rb">\s+<", b"><", indented))


def _compiled(file: Path, options: Mapping[str, str]) -> Any:
    from openvino import Core

    try:
        return Core().compile_model(str(file), DEVICE, dict(options))
    except RuntimeError as error:
        raise EdgekdError(f"{file}: openvino refuses the model: {_said(error)}") from None


def _kernels(compiled: Any) -> dict[tuple[str, str], int]:
    """How many nodes of each kind the runtime executes, in integers and in float, as its own graph says."""
    found: Counter[tuple[str, str]] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        kind, precision = (about[key].astype(str) for key in ("layerType", "runtimePrecision"))
        if kind not in UNCOUNTED:
            found[kind, KINDS[precision not in INTEGERS]] += 1
    return dict(found)


def _positions(ports: Sequence[Any], names: Sequence[str], side: str) -> list[int]:
    """Where each named port is among the model's. Raises EdgekdError where the names are others."""
    known = {name: position for position, port in enumerate(ports) for name in port.get_names()}
    if len(ports) != len(names) or any(name not in known for name in names):
        raise EdgekdError(f"the model's {side} are {sorted(known)}, signature.json says {list(names)}")
    return [known[name] for name in names]


def _unread(model: onnx.ModelProto, said: str) -> list[str]:
    """A line for each node of an operator that the reader's error lists, as "Det-22, com.example.Wobble"."""
    listed = re.search(r"No conversion rule found for operations: (.*)", said)
    names = {re.sub(r"-\d+$", "", name.strip()) for name in listed[1].split(",")} if listed else set()
    return [
        f"node {node.name or node.output[0]} ({node.domain or 'ai.onnx'} {node.op_type}): openvino cannot read this operator"
        for node in model.graph.node
        if f"{node.domain}.{node.op_type}".removeprefix(".") in names
    ]


def _said(error: Exception) -> str:
    """What its error says, without the places in its sources and the advice behind it."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(
        line for line in lines if line and not line.startswith(("Exception from", "Check ", "To facilitate"))
    )
