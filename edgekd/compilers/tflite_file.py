"""A .tflite file with the ports of a signature: its names, in its order, in its types. Needs the schema, no runtime, no torch.

A converter that reads quantize/dequantize pairs makes a port integer where what is behind it is. Here such a port becomes
float again, with a QUANTIZE behind it or a DEQUANTIZE before it: the same values, computed in the engine instead of the app.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.errors import EdgekdError
from edgekd.signature import Port, Signature

__all__ = ["with_ports"]

IDENTIFIER = b"TFL3"
ALIGNMENT = 16  # of the schema's Buffer.data, which the generated code does not keep


def with_ports(content: bytes, signature: Signature) -> bytes:
    """The model in `content`, of one graph whose ports are numbered args_0, … and output_0, …, as `signature` has it.

    Tensors lose their names and the file what the converter says of itself, so that equal models are equal bytes.
    Raises EdgekdError where the ports are not the signature's in number or type.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    graph, (named,) = model.subgraphs[0], model.signatureDefs
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
