"""Post-training quantization of an ONNX model by ONNX Runtime's own quantizer: pairs written into the graph. No torch.

Weights are s8, per channel, symmetric. Activations are u8 with a zero point on the affine grid, what x86 multiplies by s8
fastest, and s8 around zero on the symmetric one.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekd.backend import Array
from edgekd.errors import RefusedError
from edgekd.onnx.file import inputs as inputs_of
from edgekd.onnx.file import quantizable
from edgekd.onnx.slim import slimmed
from edgekd.quant.onnx_tables import integer_tables, lookups
from edgekd.quant.rewrite import biases_to_vectors

OPERATORS = [
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "Relu", "Clip", "LeakyRelu", "Concat"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
]
"""What has weights, and what only moves values. Not Add, Mul, Sqrt, Softmax and the like: a normalisation or a spectrum in
8 bits loses most of what a file computes, and sums of a residual net stay in float for it."""
OPTIONS = {
    "WeightSymmetric": True,
    "QDQDisableWeightAdjustForInt32Bias": True,  # version 1.31 fails in it on a bias behind a MatMul of several channels
}
WITHOUT = 'compile it in float, with a recipe without the stage: [student] use = "onnx", weights = "model.onnx"'


def feeds(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The samples one by one, as the model takes them: arrays [n, ...], with a dimension more where they are whole inputs."""
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in inputs_of(model)}
    for i in range(len(next(iter(arrays.values())))):
        yield {k: np.array(x[i] if x.ndim > ranks[k] else x[i : i + 1]) for k, x in arrays.items()}


def quantize(
    model: onnx.ModelProto, arrays: Mapping[str, Array], grid: str, observer: str = "minmax", tables: bool = True
) -> onnx.ModelProto:
    """The model with quantize/dequantize pairs, calibrated on `arrays` [n, ...] by input name; `tables`: embeddings as int8, too.

    Raises RefusedError for a model without a weighted node, or one that the quantizer cannot take, with its words.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    if not quantizable(model):
        kinds = ", ".join(sorted({node.op_type for node in model.graph.node}))
        message = f"nothing to quantize: none of its operators has weights that integers could hold ({kinds})"
        raise RefusedError(message, hint=WITHOUT)
    symmetric = grid == "symmetric"
    made = onnx.ModelProto()
    made.CopyFrom(slimmed(model, next(feeds(model, arrays))))
    biases_to_vectors(made)
    apart = lookups(made)  # its own tables have one scale for all rows
    for index, node in enumerate(apart):
        node.name = node.name or f"edgekd_lookup_{index}"
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    with tempfile.TemporaryDirectory() as folder, quiet():
        out = Path(folder) / "model.onnx"
        try:
            quantize_static(
                made,
                out,
                reader(feeds(made, arrays)),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=OPERATORS,
                nodes_to_exclude=[node.name for node in apart],
                per_channel=True,
                calibrate_method=methods[observer],
                extra_options={**OPTIONS, "ActivationSymmetric": symmetric},
            )
        except Exception as error:  # it raises whatever its parts raise
            message = f"ONNX Runtime's quantizer cannot take it: {' '.join(str(error).split()) or type(error).__name__}"
            raise RefusedError(message, hint=WITHOUT) from error
        found = onnx.load(out)
    return integer_tables(found) if tables else found


def reader(samples: Iterator[dict[str, Array]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def get_next(self) -> dict[str, Array] | None:
            return next(samples, None)

    return Reader()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the quantizer's advice on the root logger."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
