"""Weights alone as integers, of torch students: the same integers in torch and in ONNX, and a recipe from student to engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgekd import api, registry
from edgekd.backend import open_backend
from edgekd.errors import UserError
from edgekd.pipeline.engines import write_program
from edgekd.quant.onnx_weights import grouped, unpacked
from edgekd.quant.torch_graph import read_graph
from edgekd.quant.weight_only import errors, folded, layers, traced, with_integers

torch.set_num_threads(1)
SIGNATURE = {
    "inputs": [{"name": "tokens", "shape": [None, 6], "dtype": "int64"}],
    "outputs": [{"name": "logits", "shape": [None, 4], "dtype": "float32"}],
    "preprocessing": {},
    "labels": [],
}


class Words(nn.Module):
    """tokens [n, 6] → logits [n, 4]: three dimensions, a weight that an embedding shares, a batch norm, too small a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 48)
        self.up, self.norm, self.down = nn.Linear(48, 80, bias=False), nn.BatchNorm1d(80), nn.Linear(80, 48)
        self.tied, self.head = nn.Linear(48, 40), nn.Linear(8, 4)
        self.tied.weight = self.words.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens)
        x = x + self.down(torch.relu(self.norm(self.up(x).transpose(1, 2)).transpose(1, 2)))
        return self.head(self.tied(x).mean(1).unflatten(1, (5, 8)).mean(1))


def words() -> Words:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Words()
        network.train()
        for _ in range(3):
            network(torch.randint(0, 40, (32, 6)))
    return network.eval()


def tokens(count: int = 5) -> torch.Tensor:
    return torch.randint(0, 40, (count, 6), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bits", [4, 8])
def test_values_and_integers_compute_the_same_to_the_bit(bits: int) -> None:
    network, x = words(), tokens()
    packed = layers(traced(network, x[:2]), bits, 32)
    assert list(packed) == ["up", "down", "tied"]
    assert packed["up"].columns % 32  # so its last group is filled
    integers = with_integers(traced(network, x[:2]), packed)
    values, found = folded(integers)
    assert [one.packed.tobytes() for one in found] == [one.packed.tobytes() for one in packed.values()]
    assert [one.zeros.tobytes() for one in found] == [one.zeros.tobytes() for one in packed.values()]
    with torch.no_grad():
        assert torch.equal(values(x), integers(x))
        assert (values(x) - network(x)).abs().max() < (0.2 if bits == 4 else 0.02)
        by_hand = words()
        for name in ("up", "down"):
            weight = by_hand.get_parameter(f"{name}.weight")
            weight.copy_(torch.from_numpy(unpacked(*grouped(weight.numpy(), bits, 32), bits, weight.shape[1])))
        tied = by_hand.tied.weight.numpy()
        by_hand.tied.weight = nn.Parameter(torch.from_numpy(unpacked(*grouped(tied, bits, 32), bits, 48)))
        assert torch.allclose(by_hand(x), values(x), atol=1e-5)  # the embedding keeps its floats
    held = dict(integers.named_buffers())
    assert held["up_integers"].dtype == torch.uint8
    assert int(held["up_integers"].max()) == 2**bits - 1
    assert not [n for n, value in integers.state_dict().items() if value.ndim == 2 and value.dtype == torch.float32
                and tuple(value.shape) in ((80, 48), (48, 80))]  # fmt: skip


def test_what_rounding_costs_is_that_of_the_integers() -> None:
    network = words()
    found = errors(traced(network, tokens(2)), 4, 32)
    weight = network.down.weight.detach().double().numpy()
    rounded = unpacked(*grouped(weight.astype(np.float32), 4, 32), 4, 80)
    assert found["down"] == pytest.approx(((rounded - weight) ** 2).sum() / (weight**2).sum(), rel=1e-6)
    assert max(errors(traced(network, tokens(2)), 8, 32).values()) < min(found.values()) / 50


@pytest.fixture(scope="module", params=[4, 8])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("program")
    graph = traced(words(), tokens(2))
    module = with_integers(graph, layers(graph, request.param, 32))
    write_program(module, tokens(1), SIGNATURE, f"W{request.param}A32", "none", out)
    return out


def test_onnx_holds_the_integers_of_torch_and_computes_what_it_does(program: Path) -> None:
    model = onnx.load(program / "model.onnx")
    packed = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert len(packed) == 3
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    bits = json.loads((program / "program.json").read_text())["precision"][1]
    ours = layers(traced(words(), tokens(2)), int(bits), 32)
    stored = {held[node.input[1]].tobytes() for node in packed}
    assert stored == {one.packed.tobytes() for one in ours.values()}
    graph, session = read_graph(program), onnxruntime.InferenceSession(str(program / "model.onnx"))
    for row in tokens(8).split(1):
        with torch.no_grad():
            (expected,) = graph(row)
        (found,) = session.run(None, {"tokens": row.numpy()})
        assert np.allclose(found, expected.numpy(), atol=2e-5)


def test_a_runtime_without_such_kernels_names_the_node_and_why(program: Path) -> None:
    for backend, why in (("executorch", "rounds to 8 bits at each call"), ("litert", "no lowering")):
        lines = open_backend(backend).unsupported(program, {"name": "host", "precisions": ["float32"]})
        nodes = [line for line in lines if line.startswith("node")]
        assert len(nodes) == 3
        assert all("dequantize_per_channel_group" in line and why in line for line in nodes)


CODE = """
import torch
from torch import nn
import edgekd

def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 96), nn.ReLU(), nn.Linear(96, 4))

def data():
    draw = torch.Generator().manual_seed(0)
    def split(count):
        targets = torch.arange(count) % 4
        images = 0.5 * torch.randn(count, 1, 16, 16, generator=draw)
        for image, target in zip(images, targets.tolist()):
            image[0, target * 4 : target * 4 + 4] += 1.0
        return images, targets
    return edgekd.Dataset(split(256), split(64), split(64))
"""
RECIPE = """
[student]
factory = "{module}:student"
[data]
factory = "{module}:data"
[[stage]]
use = "distill"
epochs = 8
batch = 32
lr = 1e-2
losses = [{{ use = "cross_entropy" }}]
[[stage]]
use = "quantize_weights"
weights = 4
[targets]
backends = ["onnxruntime"]
[measure]
seconds = 0.1
processes = 1
wait = 0
"""


def test_a_recipe_makes_an_engine_with_packed_weights(tmp_path: Path) -> None:
    (tmp_path / "packed_words.py").write_text(CODE)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(module="packed_words"))
    found = api.compile(tmp_path / "recipe.toml", tmp_path / "out", store=tmp_path / "store")
    engines = {one["name"]: one for one in found["targets"][0]["candidates"]}
    narrow, whole = engines["quantize_weights on onnxruntime"], engines["distill on onnxruntime"]
    assert (narrow["precision"], narrow["grid"]) == ("W4A32", "none")
    assert narrow["bytes"] < 0.25 * whole["bytes"]
    assert narrow["float_engine"] == whole["name"]
    assert narrow["latency"]["median"] > 0
    assert narrow["verdict"] in ("chosen", "kept")
    assert narrow["parity"]["top1"] == 1.0
    assert narrow["metric"] >= whole["metric"] - 0.05
    rows = {row["row"]: row for row in found["ledger"]}
    assert rows["fake-quantized"]["metric"] == rows["exported"]["metric"]
    assert "calibration for quantize_weights" not in [step["step"] for step in found["plan"]]


def test_a_student_without_wide_linear_layers_is_told_what_it_has() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(UserError, match=r"16 inputs or more: 3 has 8") as error:
        layers(traced(network, torch.zeros(2, 1, 8, 8)), 4, 16)
    assert "quantize" in error.value.hint
    with pytest.raises(UserError, match="there is none"):
        layers(traced(nn.Sequential(nn.Conv2d(1, 8, 3)), torch.zeros(2, 1, 8, 8)), 4, 16)


@pytest.mark.parametrize("fields", [{"weights": 2}, {"weights": 4, "group": 24}, {"calibration": "train-512"}])
def test_wrong_fields(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match="quantize_weights"):
        registry.build("stages", "quantize_weights", fields)
