"""Re-basing and stripping change no value; small graphs, run by onnx's own reference implementation."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekd.quant.rebase import rebase, strip
from edgekd.quant.rewrite import biases_to_int32, reductions_to_pools, s8_to_u8

SCALE, ZERO = 0.25, -3


def model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int], rank: int
) -> onnx.ModelProto:
    """A graph from input x [shape] to output y of that rank."""
    graph = helper.make_graph(
        nodes,
        "a graph with a long name",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], producer_name="test")
    onnx.checker.check_model(made, full_check=True)
    return made


def run(made: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(made, full_check=True)
    return ReferenceEvaluator(made).run(None, {"x": x})[0]


def pair(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{target}_q"]),
        helper.make_node("DequantizeLinear", [f"{target}_q", "scale", "zero"], [target]),
    ]


def copied(made: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(made)
    return other


def types(made: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in made.graph.initializer}


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-128, 127),
    st.floats(2**-13, 1024, width=32),
    st.lists(st.floats(-(2**16), 2**16, width=32), min_size=1, max_size=30),
)
def test_u8_dequantizes_to_what_s8_did(zero: int, scale: float, values: list[float]) -> None:
    made = model(pair("x", "y"), {"scale": np.float32(scale), "zero": np.int8(zero)}, [len(values)], 1)
    x = np.array(values, np.float32)
    rebased = rebase(made)
    assert np.array_equal(run(rebased, x), run(made, x))
    assert set(types(rebased).values()) == {TensorProto.FLOAT, TensorProto.UINT8}
    assert set(types(made).values()) == {TensorProto.FLOAT, TensorProto.INT8}  # the given model is untouched


def linear(bias: np.ndarray) -> onnx.ModelProto:
    nodes = [
        *pair("x", "a"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["b"], axis=0),
        helper.make_node("Gemm", ["a", "b", "bias"], ["y"], transB=1, alpha=1.0),
    ]
    constants = {
        "scale": np.float32(SCALE),
        "zero": np.int8(ZERO),
        "w": np.array([[1, -2, 3], [4, 5, -127]], np.int8),
        "w_scale": np.array([0.5, 0.125], np.float32),
        "w_zero": np.zeros(2, np.int8),
        "bias": bias,
    }
    return model(nodes, constants, [4, 3], 2)


def test_a_bias_on_the_accumulators_grid_becomes_int32() -> None:
    made = linear(np.array([0.25 * 0.5 * 7, -0.25 * 0.125 * 1000], np.float32))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    rebased = rebase(made)
    held = {t.name: numpy_helper.to_array(t) for t in rebased.graph.initializer}
    assert next(v for v in held.values() if v.dtype == np.int32 and v.any()).tolist() == [7, -1000]
    assert np.array_equal(held["w"], numpy_helper.to_array(made.graph.initializer[2]))
    assert held["w"].dtype == np.int8  # weights stay signed
    assert np.array_equal(run(rebased, x), run(made, x))


@pytest.mark.parametrize(
    "bias", [[0.25 * 0.5 * 7.3, 0.0], [0.25 * 0.5 * 2**33, 0.0]], ids=["off the grid", "too large"]
)
def test_a_bias_that_does_not_fit_stays_float(bias: list[float]) -> None:
    made = linear(np.array(bias, np.float32))
    changed = copied(made)
    biases_to_int32(changed)
    assert changed == made


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(("kind", "pool"), [("ReduceMean", "GlobalAveragePool"), ("ReduceMax", "MaxPool")])
def test_a_spatial_reduction_becomes_a_pool(kind: str, pool: str, keep: int) -> None:
    reduce = helper.make_node(kind, ["a", "axes"], ["r"], keepdims=keep)
    constants = {"scale": np.float32(SCALE), "zero": np.int8(ZERO), "axes": np.array([-1, 2])}
    made = model([*pair("x", "a"), reduce, *pair("r", "y")], constants, [2, 3, 5, 4], 4 if keep else 2)
    x = np.random.default_rng(1).normal(size=(2, 3, 5, 4)).astype(np.float32)
    changed = copied(made)
    reductions_to_pools(changed)
    operators = [node.op_type for node in changed.graph.node]
    both = ["QuantizeLinear", "DequantizeLinear"]
    assert operators == [*both, pool, *([] if keep else [*both, "Flatten"]), *both]
    assert np.array_equal(run(changed, x), run(made, x))


@pytest.mark.parametrize(("axes", "shape"), [([1, 2], [2, 3, 5, 4]), ([2], [2, 3, 5, 4]), ([1, 2], [2, 3, 5])])
def test_other_reductions_stay(axes: list[int], shape: list[int]) -> None:
    reduce = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)
    made = model([reduce], {"axes": np.array(axes)}, shape, len(shape))
    changed = copied(made)
    reductions_to_pools(changed)
    assert changed == made


def test_a_zero_point_that_a_weight_shares_is_not_rebased_for_it() -> None:
    weight = helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["b"])
    add = helper.make_node("Add", ["a", "b"], ["y"])
    constants = {"scale": np.float32(SCALE), "zero": np.int8(ZERO), "w": np.array([1, -128], np.int8)}
    made = model([*pair("x", "a"), weight, add], constants, [3, 2], 2)
    changed = copied(made)
    s8_to_u8(changed)
    x = np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)
    assert np.array_equal(run(changed, x), run(made, x))
    assert types(changed)["zero"] == TensorProto.INT8


def test_stripping_keeps_values_and_the_names_of_inputs_and_outputs() -> None:
    made = linear(np.zeros(2, np.float32))
    made.graph.initializer.append(numpy_helper.from_array(np.ones(1000, np.float32), "nobody_reads_this"))
    made.graph.doc_string = made.graph.node[0].doc_string = "words " * 100
    made.metadata_props.add(key="exporter", value="notes " * 100)
    for node in made.graph.node:
        node.name = f"node_of_a_module_path/{node.op_type}"
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File …" * 50)
    made.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [4, 3]))
    small, x = strip(made), np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
    assert np.array_equal(run(small, x), run(made, x))
    assert ([v.name for v in small.graph.input], [v.name for v in small.graph.output]) == (["x"], ["y"])
    assert small.ByteSize() < 700 < 8000 < made.ByteSize()
    assert strip(small) == small
    gemm = small.graph.node[-1]
    assert [attribute.name for attribute in gemm.attribute] == ["transB"]  # alpha = 1 is what the schema says


def test_short_names_never_meet_a_kept_one() -> None:
    nodes = [helper.make_node("Neg", ["t1"], ["middle"]), helper.make_node("Neg", ["middle"], ["t2"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("t1", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("t2", TensorProto.FLOAT, [1])],
    )
    small = strip(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    names = [*small.graph.node[0].input, *small.graph.node[0].output, *small.graph.node[1].output]
    assert len(set(names)) == 3
    assert (names[0], names[2]) == ("t1", "t2")


def branching() -> onnx.ModelProto:
    """A mean over both spatial axes that the next pair reads, and an If: its branches read it, constants, and hold a further If."""

    def branch(nodes: list[onnx.NodeProto], result: str, constants: dict[str, float]) -> onnx.GraphProto:
        held = [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()]
        output = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        return helper.make_graph(nodes, "a branch with a long name", [], [output], held)

    then = branch([helper.make_node("Mul", ["mean", "ten"], ["t1"], doc_string="words" * 50)], "t1", {"unread": 7.0})
    deeper = branch([helper.make_node("Sub", ["mean", "only_read_inside"], ["deepest"])], "deepest", {})
    nested = helper.make_node("If", ["large"], ["either"], then_branch=deeper, else_branch=copied_graph(deeper, "_"))
    other = branch([nested, helper.make_node("Add", ["either", "own"], ["t0"])], "t0", {"own": 0.5})
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        *pair("mean", "quantized"),
        helper.make_node("ReduceMax", ["x", "all_axes"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "ten"], ["large"]),
        helper.make_node("If", ["large"], ["chosen"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["quantized", "chosen"], ["y"]),
    ]
    floats = {name: np.float32(value) for name, value in {"ten": 10, "only_read_inside": 3, "scale": SCALE}.items()}
    constants = {**floats, "zero": np.int8(ZERO), "axes": np.array([2, 3]), "all_axes": np.arange(4)}
    return model(nodes, constants, [1, 2, 3, 3], 2)


def copied_graph(graph: onnx.GraphProto, suffix: str) -> onnx.GraphProto:
    other = onnx.GraphProto()
    other.CopyFrom(graph)
    other.node[0].output[0] += suffix
    other.output[0].name += suffix
    return other


def test_what_graphs_inside_nodes_read_stays_and_keeps_its_value() -> None:
    made = branching()
    small, rebased = strip(made), rebase(made)
    assert small.ByteSize() < 0.7 * made.ByteSize() and b"unread" not in small.SerializeToString()
    for largest in (4.0, 40.0):  # one branch, then the other
        x = np.random.default_rng(6).uniform(0, 3, [1, 2, 3, 3]).astype(np.float32)
        x[0, 1, 2, 0] = largest
        expected = run(made, x)
        assert np.array_equal(run(small, x), expected)
        assert np.array_equal(run(rebased, x), expected) and np.array_equal(run(strip(rebased), x), expected)


def s8(shape: list[int], seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def foreign(kind: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A quantized file as another tool writes it, with integers where edgekd's own programs have none; and its inputs."""
    constants = {
        "scale": np.float32(SCALE),
        "zero": np.int8(ZERO),
        "w": s8([3, 2]),
        "w_scale": np.float32(0.5),
        "w_zero": np.int8(0),
    }
    floats = {"x": np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)}
    if kind == "integers come in":
        nodes = [helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["y"])]
        fed, kept = {"x": s8([4, 3])}, ("scale", "zero")
    elif kind == "integers go out":
        nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])]
        fed, kept = floats, ("scale", "zero")
    elif kind == "an integer operator reads them":
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node(
                "QLinearMatMul", ["q", "scale", "zero", "w", "w_scale", "w_zero", "scale", "zero"], ["product"]
            ),
            helper.make_node("DequantizeLinear", ["product", "scale", "zero"], ["y"]),
        ]
        fed, kept = floats, tuple(constants)
    elif kind == "they are moved as integers":
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("Transpose", ["q"], ["moved"], perm=[1, 0]),
            helper.make_node("DequantizeLinear", ["moved", "scale", "zero"], ["y"]),
        ]
        fed, kept = floats, ("scale", "zero")
    else:
        nodes = [
            helper.make_node("QuantizeLinear", ["v", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            helper.make_node("MatMul", ["x", "d"], ["y"]),
        ]
        fed, kept = floats, ("scale", "zero")
        constants["v"] = np.random.default_rng(6).normal(size=(3, 2)).astype(np.float32)
        kept = ("scale", "zero", "v")
    element = helper.np_dtype_to_tensor_dtype(fed["x"].dtype)
    last = TensorProto.INT8 if kind == "integers go out" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", element, [4, 3])],
        [helper.make_tensor_value_info("y", last, [None, None])],
        [numpy_helper.from_array(np.asarray(constants[name]), name) for name in kept],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made, fed


@pytest.mark.parametrize(
    "kind",
    [
        "integers come in",
        "integers go out",
        "an integer operator reads them",
        "they are moved as integers",
        "a weight is quantized when the file is opened",
    ],
)
def test_integers_that_others_see_stay_signed(kind: str) -> None:
    import onnxruntime

    made, fed = foreign(kind)
    rebased = rebase(made)
    onnx.checker.check_model(rebased, full_check=True)
    assert TensorProto.UINT8 not in types(rebased).values()
    found = [onnxruntime.InferenceSession(m.SerializeToString()).run(None, fed)[0] for m in (made, rebased)]
    assert np.array_equal(*found)
    assert found[0].dtype == found[1].dtype


def test_a_pair_beside_a_foreign_one_is_rebased_on_its_own() -> None:
    """Both share a zero point; only the integers between a QuantizeLinear and a DequantizeLinear change their type."""
    nodes = [*pair("x", "a"), helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["y"])]
    constants = {"scale": np.float32(SCALE), "zero": np.int8(ZERO)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    rebased, x = rebase(made), np.array([-40.0, 0.3, 7.0], np.float32)
    assert sorted(types(rebased).values()) == [TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8]
    assert np.array_equal(run(rebased, x), run(made, x))


@pytest.mark.parametrize("shape", [[2], [1, 2]])
def test_a_bias_beside_a_weight_of_one_scale_keeps_its_values(shape: list[int]) -> None:
    made = linear(np.array([0.25 * 0.5 * 7, -0.25 * 0.5 * 1000], np.float32).reshape(shape))
    held = {tensor.name: tensor for tensor in made.graph.initializer}
    held["w_scale"].CopyFrom(numpy_helper.from_array(np.float32(0.5), "w_scale"))
    held["w_zero"].CopyFrom(numpy_helper.from_array(np.int8(0), "w_zero"))
    changed, x = copied(made), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    biases_to_int32(changed)
    assert np.array_equal(run(changed, x), run(made, x))
    assert (TensorProto.INT32 in types(changed).values()) == (len(shape) == 1)


def test_two_layers_may_read_one_bias() -> None:
    """As the exporter leaves them where both biases hold the same values."""
    made = linear(np.array([0.25 * 0.5 * 7, -0.25 * 0.125 * 1000], np.float32))
    first, y = made.graph.node[-1], made.graph.output[0].name
    assert first.op_type == "Gemm"
    second = made.graph.node.add()
    second.CopyFrom(first)
    first.output[0], second.output[0] = "first", "second"
    made.graph.node.append(helper.make_node("Add", ["first", "second"], [y]))
    rebased, x = rebase(made), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert (
        list(types(rebased).values()).count(TensorProto.INT32)
        == list(types(made).values()).count(TensorProto.INT32) + 4
    )
    assert np.array_equal(run(strip(rebased), x), run(made, x))
