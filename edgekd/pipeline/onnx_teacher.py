"""A teacher that came as an ONNX file: how large it is, and as the program that its engine is made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper

from edgekd import registry

FILE = str(registry.constant("teachers", "onnx", "kept"))


def export(file: Path, out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write the program of a teacher: one input, its first output, a free batch dimension fixed to one.

    `about` is the student's signature; what it says of preprocessing and labels holds for the teacher too.
    """
    model = onnx.load(file)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    del model.graph.output[1:]
    for value in (*inputs, *model.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        if not batch.dim_value:
            batch.dim_value = 1
    (out / "model.onnx").write_bytes(model.SerializeToString())
    facts = {"precision": "float32", "grid": "none"}
    signature = {**about, "inputs": [_port(v) for v in inputs], "outputs": [_port(v) for v in model.graph.output]}
    refused = {"format": 1, "refused": ["the teacher came as an ONNX file: there is no graph for torch"]}
    (out / "graph.json").write_text(json.dumps(refused), "utf-8")
    (out / "program.json").write_text(json.dumps(facts), "utf-8")
    (out / "signature.json").write_text(json.dumps(signature), "utf-8")
    return {**facts, "bytes": (out / "model.onnx").stat().st_size}


def size(file: Path) -> dict[str, int | None]:
    """Numbers in its weights, and its bytes; multiply-accumulates are not counted in a file."""
    model = onnx.load(file)
    weights = [t for t in model.graph.initializer if t.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    parameters = sum(int(torch.Size(tensor.dims).numel()) for tensor in weights)
    return {"parameters": parameters, "macs": None, "bytes": file.stat().st_size}


def _port(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return {"name": value.name, "shape": [d.dim_value or d.dim_param for d in tensor.shape.dim], "dtype": dtype}
