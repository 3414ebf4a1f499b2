"""A program as TVM's Relax module: imported from ONNX, its operators fused into kernels, scheduled by a database, linked.

TVM's ONNX importer takes quantize/dequantize pairs as they stand and has no rule that turns them into integer products: an
int8 program computes in float, between values that are rounded to its grid; weights become floats when constants are folded.
TVM rounds ties away from zero where ONNX and torch round them to even, so the quantizing kernel here is not its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.compilers.shared_library import linked
from edgekd.errors import EdgekdError
from edgekd.onnx.nodes import refused_nodes
from edgekd.onnx.slim import slimmed
from edgekd.signature import Signature

if TYPE_CHECKING:
    import onnx

__all__ = ["built", "fused", "imported", "kernels", "laid_out", "prepared", "refused", "said", "scheduled"]

DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Whose operators the importer knows; it looks at an operator's name alone, so that another's would be taken for these."""
NOT_SUPPORTED = re.compile(r"not supported for frontend ONNX: (.*)")
CHANNELS_LAST = {"relax.nn.conv2d": ["NHWC", "OHWI"], "relax.nn.conv2d_transpose": ["NCHW", "IOHW"]}


def prepared(model: onnx.ModelProto, signature: Signature, precision: str) -> onnx.ModelProto:
    """The model as it is imported: a float one slimmed, which folds batch norms; ports in the order of the signature.

    Raises EdgekdError if its ports are not the signature's.
    """
    import onnx.inliner

    if precision == "float32":
        model = slimmed(model, signature.feed(0))
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    held = {tensor.name for tensor in copied.graph.initializer}
    for side, values, ports in (
        ("inputs", copied.graph.input, signature.inputs),
        ("outputs", copied.graph.output, signature.outputs),
    ):
        named = {value.name: value for value in values if side == "outputs" or value.name not in held}
        wanted = [port.name for port in ports]
        if sorted(named) != sorted(wanted):
            raise EdgekdError(f"the model's {side} are {sorted(named)}, signature.json says {wanted}")
        ordered = [named[name] for name in wanted]
        del values[:]
        values.extend(ordered)
    return copied


def refused(model: onnx.ModelProto) -> list[str]:
    """A line for each node that the importer has no rule for, or one with its words if it cannot say which."""

    def lines(names: Sequence[str], why: str) -> list[str]:
        nodes = [node for node in model.graph.node if node.op_type in names]
        return [f"{_told(node)}: {why}" for node in nodes]

    others = [node for node in model.graph.node if node.domain not in DOMAINS]
    if others:
        return [f"{_told(node)}: TVM's importer knows no operators of {node.domain}" for node in others]
    try:
        imported(model)
    except EdgekdError as error:
        listed = NOT_SUPPORTED.search(error.message)
        if listed:
            return lines(
                [name.strip() for name in listed[1].split(",")], "TVM's importer has no rule for this operator"
            )
        found = [f"{_told(node)}: {why}" for node, why in refused_nodes(model, _opens)]
        return found or [f"the whole graph: {error.message}"]
    return []


def _told(node: onnx.NodeProto) -> str:
    return f"node {node.name or node.output[0]} ({node.domain or 'ai.onnx'} {node.op_type})"


def _opens(model: onnx.ModelProto) -> str:
    """Empty if the importer takes the model, else why not."""
    try:
        imported(model)
    except EdgekdError as error:
        return error.message
    return ""


def imported(model: onnx.ModelProto) -> Any:
    """The model as a Relax module, weights inside. Raises EdgekdError with the importer's words."""
    from tvm.relax.frontend.onnx import from_onnx

    try:
        return from_onnx(model, dtype_dict=None, keep_params_in_input=False)
    except Exception as error:  # Python's own errors, TVM's, and what it asserts
        raise EdgekdError(f"TVM's importer refuses the model: {said(error)}") from None


def said(error: Exception) -> str:
    """What an error of TVM says, without its trace through TVM's sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("File ", "Traceback", "at ")) and "Stack trace" not in line]
    return (own or lines or [type(error).__name__])[0][:400]


def fused(module: Any, target: Any, channels_last: bool = False) -> Any:
    """The module as kernels: batch norms folded or decomposed, constants computed, what can be one loop nest fused.

    Weights may be laid out anew by the schedule of the kernel that reads them, since they are constants. `channels_last`: so are
    images between 2-d convolutions, their channels innermost: a vector of these fits where rows are 7 or 14 wide.
    """
    import tvm
    from tvm.relax import transform

    passes = [
        transform.FoldBatchnormToConv2D(),
        transform.DecomposeOpsForInference(),
        transform.CanonicalizeBindings(),
        *([transform.ConvertLayout(CHANNELS_LAST)] if channels_last else []),
        transform.LegalizeOps({"relax.quantize": _quantize}),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.AttachAttrLayoutFreeBuffers(),
    ]
    found = _passed(module, target, tvm.transform.Sequential(passes))
    return fused(module, target) if channels_last and _left(found) else found


def _left(module: Any) -> bool:
    """Whether an operator on images is no kernel: TVM has it in ONNX's layout only."""
    from tvm.ir import Op
    from tvm.relax import Call, analysis

    names: list[str] = []

    def see(node: Any) -> None:
        if isinstance(node, Call) and isinstance(node.op, Op):
            names.append(str(node.op.name))

    analysis.post_order_visit(module["main"], see)
    return any(name.startswith(("relax.nn.", "relax.image.")) for name in names)


def _passed(module: Any, target: Any, passes: Any) -> Any:
    import tvm

    with target, tvm.transform.PassContext(opt_level=3):
        return passes(module)


def _quantize(builder: Any, call: Any) -> Any:
    """relax.quantize as ONNX's QuantizeLinear defines it: saturate(round(x / scale) + zero), ties to even."""
    from tvm import te
    from tvm.relax.transform.legalize_ops.common import _try_convert_to_scalar_const

    axis, dtype = int(call.attrs.axis), str(call.attrs.out_dtype)
    bounds = np.iinfo(dtype)

    def at(held: Any, index: Sequence[Any]) -> Any:
        if not isinstance(held, te.Tensor):
            return held
        single = all(int(size) == 1 for size in held.shape)
        return held(*(0 for _ in held.shape)) if single else held(index[axis])

    def quantized(data: Any, scale: Any, zero: Any) -> Any:
        def one(*index: Any) -> Any:
            whole = te.nearbyint(data(*index) / at(scale, index)) + at(zero, index).astype(data.dtype)
            least, most = (te.const(float(bound), data.dtype) for bound in (bounds.min, bounds.max))
            return te.max(te.min(whole, most), least).astype(dtype)

        return te.compute(data.shape, one, name="quantized")

    held = (_try_convert_to_scalar_const(argument) for argument in call.args[1:3])
    return builder.call_te(quantized, call.args[0], *held, primfunc_name_hint="quantize")


def kernels(module: Any) -> tuple[dict[str, int], int, int]:
    """How many kernels of each kind a fused module has; how many in all, and of these how many a database scheduled."""
    from tvm.tirx import PrimFunc

    found = {name.name_hint: function for name, function in module.functions.items() if isinstance(function, PrimFunc)}
    tuned = sum(bool(f.attrs and f.attrs.get("tirx.is_scheduled", False)) for f in found.values())
    kinds = Counter(re.sub(r"\d+$", "", name) for name in found)
    return dict(sorted(kinds.items())), len(found), tuned


def scheduled(module: Any, target: Any, database: Any) -> Any:
    """The fused module with the best schedule that the database has for each kernel; others stay as they are."""
    from tvm.relax import transform

    with target, database:  # the pass itself asks for the target as soon as it is made
        return _passed(module, target, transform.MetaScheduleApplyDatabase())


def laid_out(module: Any, target: Any) -> Any:
    """The scheduled module with its weights laid out as the schedules want them, once and for all."""
    import tvm
    from tvm.relax import transform

    passes = [transform.SplitLayoutRewritePreproc(), transform.FoldConstant(), transform.DeadCodeElimination()]
    return _passed(module, target, tvm.transform.Sequential(passes))


def built(module: Any, target: Any, compiler: str, out: Path) -> None:
    """Write the module as a library of machine code with the bytecode of TVM's virtual machine inside.

    Raises EdgekdError with the compiler's words if the library cannot be linked.
    """
    import tvm
    from tvm import relax

    try:
        with tvm.transform.PassContext(opt_level=3):
            relax.build(module, target=target).export_library(str(out), fcompile=linked(compiler))
    except EdgekdError:
        raise
    except Exception as error:
        raise EdgekdError(f"tvm cannot compile the program: {said(error)}") from None
