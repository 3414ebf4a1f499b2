"""ExecuTorch with the XNNPACK delegate: the torch program lowered to one .pte file; the int8 program keeps its integers.

XNNPACK takes the program's s8 activations and s8 weights per channel as they are. It multiplies integers into floats only where
it rounds the activations itself, at each call: so it does for a large linear layer whose output stays float, with the program's
integer weights; a small one (the logits of ten classes) is computed in float from the values that those stand for. What the
delegate does not take runs on ExecuTorch's portable kernels; engine.json names it.

It rounds as the program does but for ties: in a residual block, one value of 6,000 differs by a step; behind the spatial
mean, the operator that differs most, one of 600. Its integers on aarch64 are those on x86: docs/emulated-arm.md.

Its Python runtime hands tensors over as torch's, so loading an engine imports torch; an app in C++ needs none of it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

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
from edgekd.quiet import quiet
from edgekd.refusals import (
    GROUPS_OF_WEIGHTS,
    fixed_shapes,
    refused_bare_metal,
    refused_graph,
    refused_grid,
    refused_precision,
)

if TYPE_CHECKING:
    from torch import fx

__all__ = ["ExecuTorch"]

FILE = "model.pte"
GRIDS = ("affine", "symmetric")
# Operators that its kernels cannot run whatever their arguments are, and why.
REFUSED = {
    "aten.conv3d": "its convolutions have one or two spatial dimensions",
    GROUPS_OF_WEIGHTS: "XNNPACK multiplies such weights only by activations that it rounds to 8 bits at each call",
}
# Operators that XNNPACK runs in integers where pairs stand around them.
INTEGERS = frozenset({"Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "AveragePool", "Sigmoid", "MaxPool", "Reshape"})
WEIGHTED = frozenset(
    {"aten.convolution.default", "aten.linear.default", "aten.addmm.default", "aten.mm.default", "aten.bmm.default"}
)


class ExecuTorchSession(Session):
    """One loaded method. Inputs are lent without a copy; outputs are copied out of the memory that the method planned."""

    def __init__(self, signature: Signature, program: Any, method: Any) -> None:
        super().__init__(signature)
        from torch import from_numpy

        self._program, self._method, self._tensor = program, method, from_numpy  # the method reads the program's memory

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        try:
            found = self._method([self._tensor(lent(value)) for value in inputs], clone_outputs=True)
        except RuntimeError as error:
            raise EdgekdError(f"executorch cannot run the engine: {error}") from None
        return [output.numpy() for output in found]

    def write_dump(self, file: Path) -> None:
        """The ETDump of all calls, where the program was opened to keep one."""
        self._program.write_etdump_result_to_file(str(file))

    def release(self) -> None:
        self._method = self._program = None


@final
class ExecuTorch(Backend):
    """ExecuTorch, XNNPACK delegate."""

    name: ClassVar[str] = "executorch"
    packages: ClassVar[Mapping[str, str]] = {"executorch": "executorch", "torch": "torch"}
    integers: ClassVar[frozenset[str]] = INTEGERS
    of_graph: ClassVar[bool] = True

    def grid(self, target: Mapping[str, Any]) -> str:
        return "affine"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        """What the program itself tells; an operator without any kernel is only known, and named, by the lowering."""
        return [
            *refused_bare_metal(target, "XNNPACK and ExecuTorch's loader need an operating system"),
            *refused_precision(program, target),
            *refused_grid(program, GRIDS),
            *fixed_shapes(program),
            *refused_graph(program, REFUSED),
        ]

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Raises EdgekdError naming the nodes that neither the delegate nor a portable kernel can run."""
        about, signature = read_json(program / "program.json"), Signature.read(program)
        with quiet():
            lowered = _lowered(program, signature)
            nodes = _nodes(lowered.exported_program().graph_module)
            try:
                (out / FILE).write_bytes(lowered.to_executorch().buffer)
            except RuntimeError as error:
                raise EdgekdError(f"executorch has no kernel for a node of the program: {error}") from None
        fallback = Counter(name for name, where in nodes if where == "portable")
        counts = Counter(where for name, where in nodes if name in WEIGHTED)
        weighted = counts.total()
        quantized = about["precision"] == "int8"
        facts = {
            "backend": self.name,
            "file": FILE,
            "versions": self.versions(),
            "threads": threads,
            "integer_nodes": counts["integer"],
            "float_nodes": weighted - counts["integer"],
            "delegated_share": share(counts["integer"] if quantized else weighted - counts["portable"], weighted),
            "fallback": dict(sorted(fallback.items())),
            "note": _note(fallback),
            "options": {"threads": threads},
        }
        with self._open(out / FILE, signature, threads) as session:
            session.run(signature.noise(0))
        return write_engine(program, out, facts)

    def load(self, engine: Path) -> ExecuTorchSession:
        facts, file = read_engine(engine, self.name)
        return self._open(file, Signature.read(engine), int(facts["options"]["threads"]))

    def profile(self, engine: Path, inputs: Sequence[Array], calls: int) -> list[dict[str, Any]]:
        """ExecuTorch's own ETDump, after as many calls to warm up."""
        from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc

        from edgekd.compilers.etdump import operators_of

        facts, file = read_engine(engine, self.name)
        threads, signature = int(facts["options"]["threads"]), Signature.read(engine)
        with tempfile.TemporaryDirectory() as folder, self._open(file, signature, threads, traced=True) as session:
            for _ in range(2 * calls):
                session.run(inputs)
            dump = Path(folder) / "etdump"
            session.write_dump(dump)
            with quiet():
                found = deserialize_from_etdump_flatcc(dump.read_bytes())
        return operators_of(found, calls)

    def _open(self, file: Path, signature: Signature, threads: int, traced: bool = False) -> ExecuTorchSession:
        """The extension module itself: `executorch.runtime` imports the whole compiler for it, seconds and 130 MB."""
        import torch  # noqa: F401  loads the libraries that the extension links to

        runtime = import_module("executorch.extension.pybindings._C")
        if runtime._threadpool_get_thread_count() != threads:
            runtime._unsafe_reset_threadpool(threads)
        try:
            check = runtime.Verification.InternalConsistency
            program = runtime._load_program(str(file), enable_etdump=traced, program_verification=check)
            method = program.load_method("forward")
        except RuntimeError as error:
            raise EdgekdError(f"{file}: executorch refuses the program: {error}") from None
        return ExecuTorchSession(signature, program, method)


def _lowered(program: Path, signature: Signature) -> Any:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from edgekd.quant.torch_graph import read_graph
    from edgekd.quant.torch_rewrite import rewrite, round_inputs

    example = tuple(torch.from_numpy(value) for value in signature.noise(0))
    graph = rewrite(read_graph(program), example, whole=False)
    round_inputs(graph)
    with torch.no_grad():
        exported = torch.export.export(graph, example)
    return to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])


def _nodes(module: fx.GraphModule) -> list[tuple[str, str]]:
    """(operator, "integer", "float" or "portable") of each node, those inside the delegate included."""
    found = []
    for node in module.graph.nodes:
        if node.op == "get_attr" and hasattr(held := getattr(module, str(node.target)), "original_module"):
            inside = [inner for inner in held.original_module.graph.nodes if _computes(inner)]
            found += [(_name(inner), "integer" if _reads_integers(inner) else "float") for inner in inside]
        elif _computes(node):
            found.append((_name(node), "portable"))
    return found


def _computes(node: fx.Node) -> bool:
    return node.op == "call_function" and hasattr(node.target, "_schema")


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _reads_integers(node: fx.Node) -> bool:
    """Whether a weighted node of the delegate multiplies integers: its weight is one that is dequantized."""
    return _name(node) in WEIGHTED and any(
        "dequantize_per_channel" in str(source.target) for source in node.all_input_nodes
    )


def _note(fallback: Mapping[str, int]) -> str:
    listed = ", ".join(f"{n} × {name}" for name, n in fallback.items())
    return f"on portable kernels: {listed}" if listed else ""
