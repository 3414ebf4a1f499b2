"""TensorRT for RTX, built ahead of time: an engine for NVIDIA's RTX graphics cards, made without one and not run here.

It is a product of its own: its engine is no TensorRT engine, and TensorRT's is none of its. int8 programs come on the
symmetric grid, since its parser takes no zero points; the program's own scales and s8 weights go into the engine, biases as
floats. Half floats where the target lists float16 and the program is float32. The cards that it is built for are those of
the target's `compute_capabilities`, else all from Ampere on that this version knows: Turing lacks float matrix products there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn, final

from edgekd.backend import Backend, read_engine, share, write_engine
from edgekd.compilers.tensorrt_onnx import halved, prepared, refused, weighted_nodes
from edgekd.devices.build_tensorrt import parsed, quiet_logger
from edgekd.errors import EdgekdError, UserError

__all__ = ["TensorRtRtx"]

FILE = "model.plan"


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
        import tensorrt_rtx as trt

        lines = [*refused(program, target), *_unknown_cards(target)]
        return lines or parsed(trt, quiet_logger(trt), prepared(program, target).SerializeToString())[1]

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Raises EdgekdError with the builder's own words where it refuses the model."""
        import tensorrt_rtx as trt

        model = prepared(program, target)
        (builder, network, _parser), lines = parsed(trt, quiet_logger(trt), model.SerializeToString())
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
        (integer, weighted), half = weighted_nodes(model), halved(program, target)
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
    return [_card(asked) for asked in _asked(target)] or [name for name in known if name != "SM75"]


def _asked(target: Mapping[str, Any]) -> list[str]:
    return [str(one) for one in target.get("compute_capabilities") or ()]


def _card(capability: str) -> str:
    return f"SM{capability.replace('.', '')}"


def _unknown_cards(target: Mapping[str, Any]) -> list[str]:
    import tensorrt_rtx as trt

    return [
        f"compute capability {asked} is none of an RTX card that this version builds for"
        for asked in _asked(target)
        if not hasattr(trt.ComputeCapability, _card(asked))
    ]
