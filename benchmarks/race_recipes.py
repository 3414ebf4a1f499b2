"""Each runtime's own recipe, as its manual says: what `race.py` compares edgekd's engines with. Run in worker processes.

A function takes {"net", "program", "out", "threads"}, the folder of edgekd's float program among them, and leaves in `out` an
engine that edgekd's session of that runtime opens, so that all are timed alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekd.backend import Signature, open_backend, write_engine

CALIBRATED = 128


def samples(net: str) -> Iterator[np.ndarray]:
    import race_nets

    inputs = race_nets.data(net).train[0][:CALIBRATED].numpy()
    yield from (inputs[i : i + 1] for i in range(len(inputs)))


def onnxruntime(request: dict[str, Any], _: Any) -> dict[str, Any]:
    """`quant_pre_process`, then `quantize_static` with its defaults for x86: QDQ, u8 activations, s8 weights per channel.

    Symbolic shapes are skipped, as its own message advises where it cannot follow them: all shapes are fixed here.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    program, out = Path(request["program"]), Path(request["out"])
    (port,) = Signature.read(program).inputs
    batches = samples(request["net"])

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {port.name: batch}

    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean.onnx"
        quant_pre_process(str(program / "model.onnx"), str(clean), skip_symbolic_shape=True)
        quantize_static(
            clean,
            out / "model.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    options = {"intra_op_num_threads": request["threads"], "inter_op_num_threads": 1, "entries": {}}
    options |= {"enable_cpu_mem_arena": True, "enable_mem_pattern": True}
    return write_engine(program, out, _facts(request, "onnxruntime", "model.onnx", options))


def openvino(request: dict[str, Any], _: Any) -> dict[str, Any]:
    """NNCF's post-training quantization of the model as OpenVINO reads it, saved as IR."""
    import nncf
    from openvino import Core, save_model

    program, out = Path(request["program"]), Path(request["out"])
    model = Core().read_model(str(program / "model.onnx"))
    dataset = nncf.Dataset(list(samples(request["net"])))
    quantized = nncf.quantize(model, dataset, subset_size=CALIBRATED)
    save_model(quantized, str(out / "model.xml"), compress_to_fp16=False)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
    options |= {"INFERENCE_NUM_THREADS": str(request["threads"]), "ENABLE_CPU_PINNING": "NO"}
    return write_engine(program, out, _facts(request, "openvino", "model.xml", options))


def executorch(request: dict[str, Any], _: Any) -> dict[str, Any]:
    """PT2E with the XNNPACK quantizer that comes with it, lowered to its delegate."""
    import race_nets
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    program, out = Path(request["program"]), Path(request["out"])
    network = race_nets.network(request["net"])
    example = (torch.from_numpy(next(samples(request["net"]))),)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(network, example).module(), quantizer)
    for batch in samples(request["net"]):
        prepared(torch.from_numpy(batch))
    exported = torch.export.export(convert_pt2e(prepared), example)
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    (out / "model.pte").write_bytes(lowered.to_executorch().buffer)
    return write_engine(program, out, _facts(request, "executorch", "model.pte", {"threads": request["threads"]}))


def litert(request: dict[str, Any], _: Any) -> dict[str, Any]:
    """litert-torch's float model, quantized by ai-edge-quantizer's recipe for static int8."""
    import litert_torch
    import race_nets
    import torch
    from ai_edge_quantizer import quantizer, recipe

    from edgekd.compilers.tflite_file import with_ports

    program, out = Path(request["program"]), Path(request["out"])
    example = (torch.from_numpy(next(samples(request["net"]))),)
    plain = litert_torch.convert(race_nets.network(request["net"]), example, enable_x64=True).model_content()
    ours = quantizer.Quantizer(plain, recipe.static_wi8_ai8())
    found = ours.calibrate({"serving_default": [{"args_0": batch} for batch in samples(request["net"])]})
    content = bytes(ours.quantize(found).quantized_model)
    (out / "model.tflite").write_bytes(with_ports(content, Signature.read(program)))
    return write_engine(program, out, _facts(request, "litert", "model.tflite", {"num_threads": request["threads"]}))


def as_exported(request: dict[str, Any], _: Any) -> dict[str, Any]:
    """ONNX Runtime on the float model as it was exported."""
    program, out = Path(request["program"]), Path(request["out"])
    onnx.save(onnx.load(program / "model.onnx"), out / "model.onnx")
    options = {"intra_op_num_threads": request["threads"], "inter_op_num_threads": 1, "entries": {}}
    options |= {"enable_cpu_mem_arena": True, "enable_mem_pattern": True}
    return write_engine(program, out, _facts(request, "onnxruntime", "model.onnx", options))


def _facts(request: dict[str, Any], backend: str, file: str, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "backend": backend,
        "file": file,
        "versions": open_backend(backend).versions(),
        "precision": "int8",
        "grid": "affine",
        "threads": request["threads"],
        "options": options,
    }


RECIPES = {
    "onnxruntime": ("quantize_static", "onnxruntime"),
    "openvino": ("NNCF", "nncf"),
    "executorch": ("PT2E and XNNPACK", "executorch"),
    "litert": ("ai-edge-quantizer", "ai_edge_litert"),
}
"""Backend → (what its recipe is called, the package that it needs)."""
