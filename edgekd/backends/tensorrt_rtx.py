"""TensorRT for RTX, built ahead of time: an engine for NVIDIA's RTX graphics cards, made without one and not run here.

It is a product of its own: its engine is no TensorRT engine, and TensorRT's is none of its. int8 programs come on the
symmetric grid, since its parser takes no zero points; the program's own scales and s8 weights go into the engine, biases as
floats. Half floats where the target lists float16 and the program is float32. The cards that it is built for are those of
the target's `isa` ("sm_86", …), else all from Ampere on that this version knows: Turing lacks float matrix products there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, final

from edgekd.backend import Backend, Signature, read_engine, read_json, share, write_engine
from edgekd.errors import EdgekdError, UserError
from edgekd.refusals import fixed_shapes, refused_grid, refused_precision

if TYPE_CHECKING:
    import onnx

__all__ = ["TensorRtRtx"]

FILE = "model.plan"
GRIDS = ("symmetric",)
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
CAPABILITY = re.compile(r"sm_?(\d+)", re.IGNORECASE)


@final
class TensorRtRtx(Backend):
    """TensorRT for RTX: built here, run where an RTX card is."""

    name: ClassVar[str] = "tensorrt_rtx"
    packages: ClassVar[Mapping[str, str]] = {
        "tensorrt_rtx": "tensorrt-rtx",
        "onnx": "onnx",
        "onnxruntime": "onnxruntime",
    }
    compile_only: ClassVar[str] = (
        "TensorRT for RTX runs on an RTX graphics card; edgekd builds for it and does not run it"
    )

    def grid(self, target: Mapping[str, Any]) -> str:
        return "symmetric"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        """What the program tells, and what the parser says of its model, node by node."""
        lines = [
            *refused_precision(program, target),
            *refused_grid(program, GRIDS),
            *fixed_shapes(program),
            *_unknown_cards(target),
        ]
        return lines or _parsed(_prepared(program, target).SerializeToString())[1]

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Raises EdgekdError with the builder's own words where it refuses the model."""
        import tensorrt_rtx as trt

        model = _prepared(program, target)
        (builder, network, _parser), lines = _parsed(model.SerializeToString())
        if lines:
            raise EdgekdError(f"tensorrt_rtx cannot parse the program: {'; '.join(lines[:3])}")
        builder.max_threads = threads
        config, cards = builder.create_builder_config(), _cards(target)
        config.num_compute_capabilities = len(cards)
        for index, card in enumerate(cards):
            config.set_compute_capability(getattr(trt.ComputeCapability, card), index)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EdgekdError(f"tensorrt_rtx builds no engine for {', '.join(cards)}: {builder.logger.said()}")
        (out / FILE).write_bytes(bytes(plan))
        kinds = Counter(node.op_type for node in model.graph.node)
        integer, weighted = _integer(model), sum(kinds[kind] for kind in WEIGHTED)
        half = _halved(program, target)
        facts = {
            "backend": self.name,
            "file": FILE,
            "versions": self.versions(),
            "threads": threads,
            "integer_nodes": integer,
            "float_nodes": weighted - integer,
            "delegated_share": share(integer, weighted) if integer else None,
            "note": "computes in half floats" if half else "",
            "options": {"compute_capabilities": cards, "half": half},
        }
        return write_engine(program, out, facts)

    def load(self, engine: Path) -> NoReturn:
        """Raises UserError, always."""
        _, file = read_engine(engine, self.name)
        raise UserError(f"{file}: {self.compile_only}", hint="open it there with tensorrt_rtx.Runtime")


def _cards(target: Mapping[str, Any]) -> list[str]:
    """Compute capabilities to build for, as this version names them: SM86."""
    import tensorrt_rtx as trt

    known = sorted(name for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name))
    return [f"SM{number}" for number in _asked(target)] or [name for name in known if name != "SM75"]


def _asked(target: Mapping[str, Any]) -> list[str]:
    return [found[1] for flag in target.get("isa") or () if (found := CAPABILITY.fullmatch(str(flag)))]


def _unknown_cards(target: Mapping[str, Any]) -> list[str]:
    import tensorrt_rtx as trt

    return [
        f"compute capability sm_{number} is none of an RTX card that this version builds for"
        for number in _asked(target)
        if not hasattr(trt.ComputeCapability, f"SM{number}")
    ]


def _halved(program: Path, target: Mapping[str, Any]) -> bool:
    return read_json(program / "program.json")["precision"] == "float32" and "float16" in (
        target.get("precisions") or ()
    )


def _prepared(program: Path, target: Mapping[str, Any]) -> onnx.ModelProto:
    """The program's model as the parser takes it: a float one slimmed, and in half floats if asked; ports stay as they are."""
    import onnx

    model = onnx.load(program / "model.onnx")
    if read_json(program / "program.json")["precision"] == "int8":
        return model
    from edgekd.onnx_slim import slimmed

    model = slimmed(model, Signature.read(program).feed(0))
    if not _halved(program, target):
        return model
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return halved


def _parsed(content: bytes) -> tuple[tuple[Any, Any, Any], list[str]]:
    """(builder, network, parser), which must live as long as the network; and a line for each thing that the parser refuses."""
    import tensorrt_rtx as trt

    class Quiet(trt.ILogger):  # type: ignore[misc]  # the package has no types
        """Keeps the runtime's errors instead of printing them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.lines.append(" ".join(message.split()))

        def said(self) -> str:
            return "; ".join(self.lines[-3:]) or "it gives no reason"

    builder = trt.Builder(Quiet())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    if parser.parse(content):
        return (builder, network, parser), []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [f"node {e.node_name() or e.node()} ({e.node_operator()}): {e.desc()}" for e in errors]
    return (builder, network, parser), lines or [builder.logger.said()]


def _integer(model: onnx.ModelProto) -> int:
    """Weighted nodes of which input and weight are both dequantized."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return sum(node.op_type in WEIGHTED and set(node.input[:2]) <= dequantized for node in model.graph.node)
