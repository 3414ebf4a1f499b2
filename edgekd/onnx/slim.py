"""A float ONNX model after onnxslim's folding, if ONNX Runtime computes the same from it. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx

from edgekd.backend import Array

CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def slimmed(model: onnx.ModelProto, feed: Mapping[str, Array]) -> onnx.ModelProto:
    """The folded model, if onnxslim is installed and gives the same outputs for `feed`; else the model as it came."""
    if find_spec("onnxslim") is None:
        return model
    try:
        slim: onnx.ModelProto | None = import_module("onnxslim").slim(_copy(model))
        if slim is None:
            return model
        same = computes_the_same(slim, model, feed)
    except Exception:  # whatever a third party's folding or the runtime raises: the model as it came is as good
        return model
    return slim if same else model


def computes_the_same(model: onnx.ModelProto, reference: onnx.ModelProto, feed: Mapping[str, Array]) -> bool:
    """Whether ONNX Runtime gives the same outputs, but for float32's rounding. Raises what it raises."""
    names = [value.name for value in reference.graph.output]
    (before,), (after,) = (outputs_of(one, names, [feed]) for one in (reference, model))
    return all(np.allclose(a, b, **CLOSE, equal_nan=True) for a, b in zip(before, after, strict=True))


def outputs_of(
    model: onnx.ModelProto, names: Sequence[str], feeds: Iterable[Mapping[str, Array]]
) -> Iterator[list[Array]]:
    """What ONNX Runtime computes of the named tensors for each feed, one at a time."""
    import onnxruntime as ort

    settings: Any = ort.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    for feed in feeds:
        found: list[Array] = session.run(list(names), dict(feed))
        yield found


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
