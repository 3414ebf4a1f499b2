"""The whole way to ONNX Runtime: integer kernels from end to end, and torch's numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from quant.zoo import inputs, warm
from torch import nn

from edgekd.quant.grid import AFFINE
from edgekd.quant.onnx_export import export_onnx
from edgekd.quant.pt2e import calibrate, convert, prepare
from edgekd.quant.rebase import rebase, strip

SAMPLES = 60


def session(path: Path, optimized: Path | None = None, **entries: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs(path: Path, x: torch.Tensor) -> np.ndarray:
    opened = session(path)
    return np.concatenate([opened.run(["output"], {"input": row[None].numpy()})[0] for row in x])


def exported(name: str, folder: Path, *, qat: bool) -> tuple[nn.Module, Path]:
    prepared = prepare(warm(name), inputs(1), AFFINE, "minmax", qat)
    calibrate(prepared, [inputs(32, seed) for seed in range(3)])
    program = convert(prepared)
    export_onnx(program, inputs(1), folder / "s8.onnx")
    onnx.save(strip(rebase(onnx.load(folder / "s8.onnx"))), folder / "u8.onnx")
    return program, folder / "u8.onnx"


INTEGER = {
    "residual": {"QLinearConv": 6, "QLinearAdd": 2, "NhwcMaxPool": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1},
    "mobile": {"QLinearConv": 6, "QLinearAdd": 1, "NhwcMaxPool": 1, "QGemm": 1},
    "odd": {
        "QLinearConv": 4, "QLinearConcat": 1, "QLinearAdd": 1, "QLinearMul": 1, "QLinearSigmoid": 1,
        "QLinearAveragePool": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1,
    },
}  # fmt: skip
MOVES = {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Flatten"}


def test_layers_of_tokens_whose_sums_are_in_float_run_on_integers(tmp_path: Path) -> None:
    """[n, length, width]: torch exports a product and an addition. Behind one stands a ReLU, behind the other a float sum."""

    class FeedForward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.norm(
                x + nn.functional.dropout(self.down(self.up(x).relu()), training=self.training)
            )
            return found

    torch.manual_seed(0)
    x = torch.randn(20, 4, 8)
    prepared = prepare(FeedForward().eval(), x[:1], AFFINE, "minmax", False)
    calibrate(prepared, [x])
    program = convert(prepared)
    export_onnx(program, x[:1], tmp_path / "s8.onnx")
    path = tmp_path / "u8.onnx"
    onnx.save(strip(rebase(onnx.load(tmp_path / "s8.onnx"))), path)
    session(path, tmp_path / "optimized.onnx")
    kernels = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert {kind: count for kind, count in kernels.items() if kind not in MOVES} == {
        "QGemm": 2,
        "SkipLayerNormalization": 1,
    }
    opened = session(path)
    (name,) = [port.name for port in opened.get_inputs()]
    found = np.concatenate([opened.run(None, {name: row[None].numpy()})[0] for row in x])
    with torch.no_grad():
        assert np.abs(found - program(x).numpy()).max() < 0.02


@pytest.mark.parametrize(("name", "qat"), [("residual", True), ("mobile", False), ("odd", True)])
def test_onnx_runtime_computes_on_integers_what_torch_says(
    name: str, qat: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program, path = exported(name, tmp_path, qat=qat)
    assert capfd.readouterr() == ("", "")  # the exporter's chatter is kept back
    session(path, tmp_path / "optimized.onnx")
    kernels = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kernels["QuantizeLinear"] == 1  # the input; from there on integers
    assert {kind: count for kind, count in kernels.items() if kind not in MOVES} == INTEGER[name]

    x = inputs(SAMPLES, seed=99)
    with torch.no_grad():
        expected = program(x).numpy()
    found = outputs(path, x)
    assert (found.argmax(1) == expected.argmax(1)).all()
    # Float sums in torch against exact ones: now and then a value next to a half rounds the other way, one step of one
    # activation; behind it the difference spreads. Most samples are equal to float rounding, none is far.
    worst = np.abs(found - expected).max(1) / expected.std()
    assert (worst < 1e-4).mean() > 0.8
    assert worst.max() < 0.05


def test_it_opens_where_weights_must_become_u8_too(tmp_path: Path) -> None:
    """What a CPU without VNNI needs; the values stay, up to the rounding of ties."""
    _, path = exported("residual", tmp_path, qat=False)
    precise = session(path, x64quantprecision="1")
    for row in inputs(5, seed=97):
        found = precise.run(["output"], {"input": row[None].numpy()})[0]
        assert np.allclose(found, outputs(path, row[None]), atol=1e-5)


def test_an_image_out_is_equal_to_one_step(tmp_path: Path) -> None:
    program, path = exported("segments", tmp_path, qat=False)
    step = next(n.args[1] for n in reversed(program.graph.nodes) if "dequantize_per_tensor" in str(n.target))
    x = inputs(8, seed=98)
    with torch.no_grad():
        gap = np.abs(outputs(path, x) - program(x).numpy())
    assert gap.max() < 1.01 * step
    assert (gap > step / 2).mean() < 1e-3


def test_an_integer_file_is_little_more_than_its_weights(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 40, 3), nn.ReLU(), nn.Conv2d(40, 120, 3), nn.ReLU(), nn.Flatten(), nn.Linear(120, 10)
    )
    x = torch.randn(2, 1, 5, 5)
    prepared = prepare(model, x, AFFINE, "minmax", qat=False)
    calibrate(prepared, [x])
    export_onnx(convert(prepared), x[:1], tmp_path / "a.onnx", input_name="image", output_name="scores")
    small = strip(rebase(onnx.load(tmp_path / "a.onnx")))
    weights = sum(p.numel() for p in model.parameters())
    assert weights < small.ByteSize() < 1.1 * weights
    assert ([v.name for v in small.graph.input], [v.name for v in small.graph.output]) == (["image"], ["scores"])
    assert [d.dim_value for d in small.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 5, 5]


def test_a_float_student_exports_too(tmp_path: Path) -> None:
    model = warm("dense")
    export_onnx(model, inputs(1), tmp_path / "float.onnx")
    with torch.no_grad():
        assert np.allclose(outputs(tmp_path / "float.onnx", inputs(3)), model(inputs(3)).numpy(), atol=1e-5)
