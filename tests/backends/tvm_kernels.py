"""Libraries as TVM's backend writes them, of a kernel that raises: x [1, 1, 8, 8] to y [1, 5], an error where x begins above 1."""

from pathlib import Path

import pytest

pytest.importorskip("tvm")
from tvm import relax
from tvm.script import tirx as T  # its name in every TVM script
from tvm.target import Target

from edgekd.compilers.llvm_target import described, linker
from edgekd.compilers.relax_module import built


@T.prim_func(s_tir=True)
def serial(x: T.Buffer((1, 1, 8, 8), "float32"), y: T.Buffer((1, 5), "float32")) -> None:
    for i in T.serial(5):
        assert x[0, 0, 0, 0] <= T.float32(1), "raised on purpose"
        y[0, i] = x[0, 0, 0, i]


@T.prim_func(s_tir=True)
def parallel(x: T.Buffer((1, 1, 8, 8), "float32"), y: T.Buffer((1, 5), "float32")) -> None:
    for i in T.parallel(5):
        assert x[0, 0, 0, 0] <= T.float32(1), "raised on purpose"
        y[0, i] = x[0, 0, 0, i]


KERNELS = {"serial": serial, "parallel": parallel}


def raising(kind: str, threads: int, out: Path) -> None:
    """Write the library of a program that is this kernel alone."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 1, 8, 8), "float32"))
    with builder.function("main", [x]):
        kernel = builder.add_func(KERNELS[kind], "kernel")
        with builder.dataflow():
            y = builder.emit_output(relax.call_tir(kernel, [x], relax.TensorType((1, 5), "float32")))
        builder.emit_func_output(y)
    built(builder.get(), Target(described({}, threads)), linker({}), out)
