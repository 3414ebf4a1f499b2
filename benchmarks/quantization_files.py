"""ONNX files for benchmarks/quantization.py: two from packages, six exported here; each compiled, raced, and compared."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd import api
from edgekd.errors import EdgekdError

PACKAGED = {
    "Magika": ("magika", "models/**/model.onnx", "pip install magika"),
    "Silero VAD": ("silero_vad", "data/silero_vad.onnx", "pip install silero-vad"),
}
FLOAT = TensorProto.FLOAT


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """He-scaled normal weights."""
    return (np.random.default_rng(seed).standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)


def port(name: str, shape: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def model(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], held: dict[str, np.ndarray]
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(value, name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def convolutions(last: bool = False) -> onnx.ModelProto:
    """image [1, 3, 64, 64] (`last`: [1, 64, 64, 3]) through six convolutions to scores [1, 10]."""
    shape = [1, 64, 64, 3] if last else [1, 3, 64, 64]
    nodes = [helper.make_node("Transpose", ["image"], ["x0"], perm=[0, 3, 1, 2])] if last else []
    held, before, channels = {}, "x0" if last else "image", 3
    for index, wide in enumerate((16, 32, 32, 64, 64, 128)):
        held[f"w{index}"] = weight(wide, channels, 3, 3, seed=index)
        strides = [2, 2] if index % 2 else [1, 1]
        nodes.append(helper.make_node("Conv", [before, f"w{index}"], [f"c{index}"], pads=[1] * 4, strides=strides))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        before, channels = f"r{index}", wide
    held["head"] = weight(channels, 10, seed=9) * 3
    nodes.append(helper.make_node("GlobalAveragePool", [before], ["p"]))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"]))
    nodes.append(helper.make_node("MatMul", ["f", "head"], ["scores"]))
    return model(nodes, [port("image", shape)], [port("scores", [1, 10])], held)


def two_inputs() -> onnx.ModelProto:
    held = {"a": weight(256, 128), "b": weight(128, 128, seed=1), "c": weight(128, 16, seed=2)}
    nodes = [
        helper.make_node("MatMul", ["left", "a"], ["l"]),
        helper.make_node("MatMul", ["right", "b"], ["r"]),
        helper.make_node("Add", ["l", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["h"]),
        helper.make_node("MatMul", ["h", "c"], ["scores"]),
    ]
    return model(nodes, [port("left", [1, 256]), port("right", [1, 128])], [port("scores", [1, 16])], held)


def two_outputs() -> onnx.ModelProto:
    found = convolutions()
    found.graph.initializer.append(numpy_helper.from_array(weight(128, 4, seed=11), "box"))
    found.graph.node.append(helper.make_node("MatMul", ["f", "box"], ["boxes"]))
    found.graph.output.append(port("boxes", [1, 4]))
    return found


def recurrent() -> onnx.ModelProto:
    """frames [32, 1, 40] through a GRU of 64 to scores [32, 8]."""
    held = {"w": weight(1, 192, 40), "r": weight(1, 192, 64, seed=1), "head": weight(64, 8, seed=2)}
    held["shape"] = np.array([32, 64], np.int64)
    nodes = [
        helper.make_node("GRU", ["frames", "w", "r"], ["states", ""], hidden_size=64),
        helper.make_node("Reshape", ["states", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "head"], ["scores"]),
    ]
    return model(nodes, [port("frames", [32, 1, 40])], [port("scores", [32, 8])], held)


def in_constants() -> onnx.ModelProto:
    found = convolutions()
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in found.graph.initializer]
    nodes = [*constants, *found.graph.node]
    del found.graph.node[:], found.graph.initializer[:]
    found.graph.node.extend(nodes)
    return found


OWN: dict[str, Callable[[], onnx.ModelProto]] = {
    "two inputs": two_inputs,
    "two outputs": two_outputs,
    "NHWC": lambda: convolutions(last=True),
    "recurrent": recurrent,
    "weights in Constant nodes": in_constants,
    "external data": convolutions,
}


def packaged(name: str) -> Path | str:
    """The file, or why it is not there."""
    package, pattern, command = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return f"not installed: {command}"
    return next(iter(sorted(Path(spec.origin).parent.glob(pattern))), f"{package} holds no {pattern}")


def tones(folder: Path) -> Path:
    """Samples of Silero VAD: 36 ms of harmonics that fade in noise, a state of small numbers, 16 kHz."""
    random, t = np.random.default_rng(0), np.arange(576) / 16000
    pitch, loud, phase = (random.uniform(*ends, (128, 1)) for ends in ((80, 300), (0.02, 0.6), (0, 6.28)))
    voice = sum(np.sin(2 * np.pi * k * pitch * t + k * phase) / k for k in range(1, 9))
    noise = random.standard_normal((128, 576)) * random.uniform(0.001, 0.05, (128, 1))
    state = random.standard_normal((128, 2, 1, 128)) * 0.3
    path = folder / "tones.npz"
    sound = (loud * voice / 2 + noise).astype(np.float32)
    np.savez(path, input=sound[:, None], state=state.astype(np.float32), sr=np.full(128, 16000))
    return path


def written(name: str, folder: Path) -> Path:
    path = folder / f"{name.replace(' ', '-')}.onnx"
    if name == "external data":
        onnx.save_model(OWN[name](), path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=1024)
    else:
        onnx.save(OWN[name](), path)
    return path


def files(work: Path, end: float, smoke: bool) -> dict[str, dict[str, Any]]:
    """A row for each file: the integer engine's verdict, agreement with the float file, its speed, and what was chosen."""
    folder = work / "files"
    folder.mkdir(exist_ok=True)
    brief = ["measure.seconds=0.05", "measure.processes=1", "measure.wait=0"] if smoke else []
    found = {}
    backends = ["onnxruntime"] if smoke else []
    for name in [*PACKAGED, *OWN]:
        path = packaged(name) if name in PACKAGED else written(name, folder)
        if isinstance(path, str) or time.monotonic() > end:
            found[name] = {"why": path if isinstance(path, str) else "not reached"}
            continue
        try:
            report = api.compile(
                path,
                folder / path.stem,
                overrides=brief,
                backends=backends,
                store=work / "store",
                calibration=tones(folder) if name == "Silero VAD" else None,
            )
        except EdgekdError as error:
            found[name] = {"why": error.message.splitlines()[0]}
            continue
        (target,) = report["targets"]
        engines = [one for one in target["candidates"] if one["version"] == "quantize_onnx"]
        if not engines:
            found[name] = {"verdict": "none was made", "score": "–", "ratio": "–", "chosen": target["chosen"] or "–"}
            continue
        best = min(engines, key=lambda one: one["latency"]["median"] if one.get("latency") else float("inf"))
        ratio = best.get("versus_float")
        score = best.get("metric")
        found[name] = {
            "verdict": best["verdict"],
            "score": f"{report['metric']['name']} {score:.3f}" if score is not None else "–",
            "ratio": f"{ratio['point']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else "–",
            "chosen": target["chosen"] or "–",
        }
    return found
