"""LiteRT on the CPU, by XNNPACK: the torch program as one .tflite file, int8 with the program's own integers.

litert-torch converts, in an environment of its own; what it made runs beside everything else, without torch. The program's
quantize/dequantize pairs become the file's quantized tensors, with its scales and zero points and its s8 weights per channel;
inputs and outputs stay floats, as the signature says. A linear layer whose output stays float keeps the program's integer weights
where it is large, and its inputs are rounded at each call; a small one (the logits of ten classes) is computed in float, from the
values that its weights stand for. What XNNPACK does not take runs on LiteRT's own kernels; engine.json names it.

Its convolutions gave the program's values exactly (204,800 of them); behind the spatial mean, one of 800 differs by a step.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

from edgekd.backend import Array, Backend, Session, Signature, read_engine, read_json, share, write_engine
from edgekd.environment import Environment
from edgekd.errors import EdgekdError
from edgekd.quiet import quiet
from edgekd.refusals import (
    GROUPS_OF_WEIGHTS,
    fixed_shapes,
    refused_bare_metal,
    refused_graph,
    refused_grid,
    refused_precision,
)

__all__ = ["LiteRt"]

FILE = "model.tflite"
GRIDS = ("affine", "symmetric")
REFUSED = {GROUPS_OF_WEIGHTS: "litert-torch has no lowering for weights in groups"}
DELEGATE = "DELEGATE"  # what the runtime calls a node that stands for many which XNNPACK took
# Operators that XNNPACK runs in integers where pairs stand around them.
INTEGERS = frozenset({"Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "AveragePool", "Sigmoid", "MaxPool", "Reshape"})
WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "FULLY_CONNECTED", "BATCH_MATMUL"})


class LiteRtSession(Session):
    """One interpreter. Inputs are copied into the memory that it planned, outputs out of it."""

    def __init__(self, signature: Signature, interpreter: Any) -> None:
        super().__init__(signature)
        found = interpreter.get_signature_runner()
        self._inputs = [found.get_input_details()[port.name]["index"] for port in signature.inputs]
        self._outputs = [found.get_output_details()[port.name]["index"] for port in signature.outputs]
        self._interpreter = interpreter

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        for index, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, value)
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise EdgekdError(f"litert cannot run the engine: {error}") from None
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def release(self) -> None:
        self._interpreter = None


@final
class LiteRt(Backend):
    """LiteRT (TensorFlow Lite), XNNPACK delegate."""

    name: ClassVar[str] = "litert"
    packages: ClassVar[Mapping[str, str]] = {"ai_edge_litert": "ai-edge-litert", "flatbuffers": "flatbuffers"}
    opens_with: ClassVar[tuple[str, ...]] = ("ai_edge_litert",)
    integers: ClassVar[frozenset[str]] = INTEGERS
    of_graph: ClassVar[bool] = True
    optional: ClassVar[Mapping[str, str]] = {"torch": "torch"}  # edgekd has it; engines are opened without
    #: The whole of what litert-torch needs to convert a graph; what it needs for language models is left out.
    environment = Environment(
        "litert_torch",
        (
            "litert-torch==0.10.0",
            "litert-converter==0.5.0",
            "ai-edge-quantizer==0.10.0",
            "jax==0.10.2",
            "jaxlib==0.10.2",
            "absl-py==2.5.1",
            "immutabledict==4.2.1",
            "opt-einsum==3.4.0",
        ),
        660_000_000,
    )

    def grid(self, target: Mapping[str, Any]) -> str:
        return "affine"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        """What the program itself tells; an operator without a lowering is only known, and named, by the conversion."""
        return [
            *refused_bare_metal(target, "LiteRT for microcontrollers is another runtime, without XNNPACK"),
            *refused_precision(program, target),
            *refused_grid(program, GRIDS),
            *fixed_shapes(program),
            *refused_graph(program, REFUSED),
        ]

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Raises EdgekdError naming the nodes that litert-torch has no lowering for."""
        from edgekd.compilers.tflite_file import with_ports

        signature = Signature.read(program)
        quantized = read_json(program / "program.json")["precision"] == "int8"
        content, held = _converted(program, signature, quantized)
        (out / FILE).write_bytes(with_ports(content, signature, held))
        nodes = _nodes(_interpreter(out / FILE, threads))
        counts = Counter(where for kind, where in nodes if kind in WEIGHTED)
        own = Counter(kind for kind, where in nodes if where.startswith("own"))
        integers = counts["integer"] + counts["own integer"]
        facts = {
            "backend": self.name,
            "file": FILE,
            "versions": self.versions(),
            "threads": threads,
            "integer_nodes": integers,
            "float_nodes": counts.total() - integers,
            "delegated_share": share(counts["integer"] + (0 if quantized else counts["float"]), counts.total()),
            "kernels": dict(sorted(Counter(f"{kind} {where}" for kind, where in nodes).items())),
            "fallback": dict(sorted(own.items())),
            "note": f"on LiteRT's own kernels: {', '.join(f'{n} × {kind}' for kind, n in sorted(own.items()))}"
            if own
            else "",
            "options": {"num_threads": threads},
        }
        with _opened(out / FILE, signature, threads) as session:
            session.run(signature.noise(0))
        return write_engine(program, out, facts)

    def load(self, engine: Path) -> LiteRtSession:
        facts, file = read_engine(engine, self.name)
        return _opened(file, Signature.read(engine), int(facts["options"]["num_threads"]))


def _converted(program: Path, signature: Signature, quantized: bool) -> tuple[bytes, list[tuple[Array, Array]]]:
    """The .tflite file as litert-torch makes it: ports are numbered, and quantized where what is behind them is.

    And (integers, a scale for each row) of the weights that stand in it as floats and need not.
    """
    import torch

    from edgekd.quant.torch_graph import read_graph
    from edgekd.quant.torch_rewrite import fold_float_weights, pair_constants, products, rewrite

    example = tuple(torch.from_numpy(value) for value in signature.noise(0))
    with quiet(), torch.no_grad():
        import litert_torch
        from litert_torch.quantize import pt2e_quantizer, quant_config

        graph = rewrite(read_graph(program), example, whole=False)
        layers: list[Any] = products(graph)
        grids = [layer.args[1].args[:2] for layer in layers]
        held = [(getattr(graph, q.target).numpy(), getattr(graph, scale.target).numpy()) for q, scale in grids]
        fold_float_weights(graph)
        pair_constants(graph)
        # The quantizer is asked nothing: that it is static has the converter take the pairs for what they are.
        static = pt2e_quantizer.PT2EQuantizer().set_global(pt2e_quantizer.get_symmetric_quantization_config())
        config = quant_config.QuantConfig(pt2e_quantizer=static) if quantized else None
        try:
            model = litert_torch.convert(graph, example, quant_config=config, enable_x64=True)
            return bytes(model.model_content()), held
        except Exception as error:  # MLIR's, torch's and its own have no base class in common
            lacking = re.search(r"Lowering not found: (\S+)", str(error))
            nodes = read_json(program / "graph.json")["nodes"] if lacking else []
            named = [name for name, operator, *_ in nodes if lacking and operator == lacking[1]]
            said = " ".join(str(error).split()).partition(" While executing ")[0][:400]
            where = f" (node {', '.join(named[:3])})" if named else ""
            raise EdgekdError(f"litert-torch cannot convert the program: {said}{where}") from None


def _interpreter(file: Path, threads: int) -> Any:
    """Raises EdgekdError with the runtime's own words where it refuses the file."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(file), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise EdgekdError(f"{file}: litert refuses the model: {' '.join(str(error).split())}") from None
    return interpreter


def _opened(file: Path, signature: Signature, threads: int) -> LiteRtSession:
    interpreter = _interpreter(file, threads)
    try:
        return LiteRtSession(signature, interpreter)
    except (KeyError, ValueError) as error:
        known = interpreter.get_signature_list()
        raise EdgekdError(f"{file}: the model's ports are {known}, signature.json says other ones: {error}") from None


def _nodes(interpreter: Any) -> list[tuple[str, str]]:
    """(operator, "integer", "float", "own integer" or "own float") of each node; an own one is not XNNPACK's.

    The runtime keeps the nodes that a delegate took, and adds one whose inputs and outputs are those of the part taken.
    """
    nodes = interpreter._get_ops_details()
    plain = [node for node in nodes if node["op_name"] != DELEGATE]
    made_by = {int(output): node for node in plain for output in node["outputs"]}
    taken: set[int] = set()
    for delegate in (node for node in nodes if node["op_name"] == DELEGATE):
        outside, left = {int(given) for given in delegate["inputs"]}, [int(made) for made in delegate["outputs"]]
        while left:
            node = made_by.get(left.pop())
            if node is not None and node["index"] not in taken:
                taken.add(node["index"])
                left += [int(given) for given in node["inputs"] if int(given) not in outside]
    found = []
    for node in plain:
        kind = "integer" if "int8" in [t.__name__ for t in node["operand_types"][:2]] else "float"
        found.append((node["op_name"], kind if node["index"] in taken else f"own {kind}"))
    return found
