"""A .tflite file with the ports of a signature: its names, in its order, in its types. Needs the schema, no runtime, no torch.

A converter that reads quantize/dequantize pairs makes a port integer where what is behind it is. Here such a port becomes
float again, with a QUANTIZE behind it or a DEQUANTIZE before it: the same values, computed in the engine instead of the app.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekd.errors import EdgekdError
from edgekd.signature import Array, Port, Signature

__all__ = ["with_ports"]

IDENTIFIER = b"TFL3"
HYBRID = 12  # of FULLY_CONNECTED, the version that takes floats and integer weights with a scale for each row
ALIGNMENT = 16  # of the schema's Buffer.data, which the generated code does not keep


def with_ports(content: bytes, signature: Signature, weights: Sequence[tuple[Array, Array]] = ()) -> bytes:
    """The model in `content`, of one graph whose ports are numbered args_0, … and output_0, …, as `signature` has it.

    `weights`: (integers [rows, columns], a scale for each row) of linear layers whose floats in the file are their products.
    Tensors lose their names and the file what the converter says of itself, so that equal models are equal bytes.
    Raises EdgekdError where the ports are not the signature's in number or type.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    graph, (named,) = model.subgraphs[0], model.signatureDefs
    for buffer in model.buffers:
        if buffer.offset > 1:  # its data lie behind the tables, not in them
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    _integer_weights(schema, model, weights)
    for number, tensor in enumerate(graph.tensors):
        tensor.name = f"t{number}"
    for prefix, maps, ports, kind in (
        ("args", named.inputs, signature.inputs, schema.BuiltinOperator.QUANTIZE),
        ("output", named.outputs, signature.outputs, schema.BuiltinOperator.DEQUANTIZE),
    ):
        if len(maps) != len(ports):
            raise EdgekdError(f"the converted model has {len(maps)} {prefix}, signature.json says {len(ports)}")
        order = {f"{prefix}_{number}": port for number, port in enumerate(ports)}
        if {entry.name.decode() for entry in maps} != set(order):
            raise EdgekdError(f"the converted model's {prefix} are {[entry.name.decode() for entry in maps]}")
        for entry in maps:
            port = order[entry.name.decode()]
            index = (
                _float_port(schema, model, entry.tensorIndex, kind) if port.dtype == "float32" else entry.tensorIndex
            )
            _check(schema, graph.tensors[index], port)
            entry.name, entry.tensorIndex = port.name, index
            graph.tensors[index].name = port.name
        maps.sort(key=lambda entry: [port.name for port in ports].index(entry.name))
        setattr(graph, "inputs" if prefix == "args" else "outputs", [entry.tensorIndex for entry in maps])
    return _packed(schema, model)


def _integer_weights(schema: Any, model: Any, weights: Sequence[tuple[Array, Array]]) -> None:
    """Fully connected layers of these floats get their integers: the kernel rounds what they read at each call."""
    by_value = {(q.astype(np.float32) * scale.reshape(-1, 1)).tobytes(): (q, scale) for q, scale in weights}
    graph, readers, left = model.subgraphs[0], dict[int, list[Any]](), set[int]()
    for operator in graph.operators:
        for index in operator.inputs:
            readers.setdefault(int(index), []).append(operator)
    for index, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        found = by_value.get(b"" if data is None else np.asarray(data, np.uint8).tobytes())
        if found is None or not all(
            _takes_floats(schema, model, operator, index) for operator in readers.get(index, ())
        ):
            continue
        buffer, grid = schema.BufferT(), schema.QuantizationParametersT()
        buffer.data = np.frombuffer(found[0].tobytes(), np.uint8)
        grid.scale, grid.zeroPoint = found[1].astype(np.float32), np.zeros(len(found[1]), np.int64)
        model.buffers.append(buffer)
        left.add(tensor.buffer)
        tensor.type, tensor.buffer, tensor.quantization = schema.TensorType.INT8, len(model.buffers) - 1, grid
        for operator in readers.get(index, ()):
            operator.builtinOptions.asymmetricQuantizeInputs = True
            code = model.operatorCodes[operator.opcodeIndex]
            code.version = max(code.version, HYBRID)
    for number in left - {tensor.buffer for tensor in graph.tensors}:
        model.buffers[number].data = None


def _takes_floats(schema: Any, model: Any, operator: Any, weight: int) -> bool:
    """Whether an operator is a fully connected layer of this weight that reads floats."""
    full = model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.FULLY_CONNECTED
    kind = model.subgraphs[0].tensors[operator.inputs[0]].type
    return bool(full and operator.inputs[1] == weight and kind == schema.TensorType.FLOAT32)


def _float_port(schema: Any, model: Any, index: int, kind: int) -> int:
    """The tensor that stands for the port `index` in float: itself if it is, else a new one beside a conversion."""
    graph = model.subgraphs[0]
    inner = graph.tensors[index]
    if inner.type != schema.TensorType.INT8:
        return index
    outer = schema.TensorT()
    outer.shape, outer.shapeSignature, outer.hasRank = inner.shape, inner.shapeSignature, inner.hasRank
    outer.type, outer.buffer = schema.TensorType.FLOAT32, 0
    graph.tensors.append(outer)
    made = len(graph.tensors) - 1
    operator = schema.OperatorT()
    operator.opcodeIndex = _code(schema, model, kind)
    reads = kind == schema.BuiltinOperator.QUANTIZE
    operator.inputs, operator.outputs = ([made], [index]) if reads else ([index], [made])
    graph.operators.insert(0 if reads else len(graph.operators), operator)
    return made


def _code(schema: Any, model: Any, kind: int) -> int:
    """The place of an operator in the model's table of them, added where it lacks it."""
    for number, code in enumerate(model.operatorCodes):
        if code.builtinCode == kind:
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = 2 if kind == schema.BuiltinOperator.DEQUANTIZE else 1  # of the kernels that take int8
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _check(schema: Any, tensor: Any, port: Port) -> None:
    names = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    found = names.get(tensor.type, "?")
    shape = tuple(map(int, tensor.shape)) if tensor.shape is not None else ()
    if found != port.dtype or shape != port.concrete(1):
        wanted = f"{port.dtype} {list(port.shape)}"
        raise EdgekdError(
            f'the converted model\'s "{port.name}" is {found} {list(shape)}, signature.json says {wanted}'
        )


def _packed(schema: Any, model: Any) -> bytes:
    import flatbuffers

    model.description, model.metadata, model.metadataBuffer = b"", [], []
    for graph in model.subgraphs:
        graph.name = b"main"
    aligned = _aligned(schema)
    model.buffers = [aligned(buffer.data) for buffer in model.buffers]
    builder = flatbuffers.Builder(sum(0 if b.data is None else len(b.data) for b in model.buffers) + 65_536)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _aligned(schema: Any) -> type:
    class Aligned(schema.BufferT):  # type: ignore[misc]  # the schema has no types
        """A buffer whose data begin at a multiple of 16 bytes."""

        def Pack(self, builder: Any) -> Any:  # noqa: N802  the generated code's name
            data = None
            if self.data is not None:
                content = np.asarray(self.data, dtype=np.uint8).tobytes()
                builder.StartVector(1, len(content), ALIGNMENT)
                builder.head -= len(content)
                builder.Bytes[builder.head : builder.head + len(content)] = content
                data = builder.EndVector()
            schema.BufferStart(builder)
            if data is not None:
                schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    return Aligned
