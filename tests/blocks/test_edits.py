"""Replace edits: what they build, that a student with them is remade to the bit, and edits that do not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from blocks.networks import WIDTH, encoder
from tiny import CLASSES, tiny_data, tiny_saved, tiny_student
from torch import nn

from edgekd.blocks import edits
from edgekd.errors import UserError
from edgekd.quant.onnx_export import export_onnx, exported
from edgekd.quant.torch_graph import read_graph, write_graph
from edgekd.student import Student, replay, save_next

CONV = {"use": "conv", "inputs": 8, "outputs": 8, "kernel": 3, "stride": [1, 1], "relu": True}
SEPARABLE = {"use": "separable", "inputs": 8, "outputs": 16, "stride": [2, 2], "relu": False}


def edit(**blocks: Any) -> dict[str, Any]:
    return {"edit": "replace", "blocks": {name.replace("__", "."): kind for name, kind in blocks.items()}}


@pytest.mark.parametrize(
    "made",
    [
        [edit(block={"use": "same"}, down=SEPARABLE)],
        [edit(block=CONV)],
        [edit(block={**SEPARABLE, "outputs": 8, "stride": [1, 1], "residual": True, "relu": True})],
        [
            {
                "edit": "prune",
                "kept": {"block.conv1": {"out": [1]}, "block.bn1": {"out": [1]}, "block.conv2": {"in": [1]}},
            },
            edit(down=SEPARABLE),
        ],
    ],
    ids=["same", "conv", "separable", "after-prune"],
)
def test_a_student_is_remade_from_its_edits_to_the_bit(tmp_path: Path, made: list[dict[str, Any]]) -> None:
    parent = tiny_saved(tmp_path / "in", trained=True)
    network = parent.network()
    replay(network, made)
    torch.manual_seed(5)
    for value in network.parameters():
        nn.init.normal_(value, std=0.3)
    network.eval()
    (tmp_path / "out").mkdir()
    save_next(tmp_path / "out", parent, network.state_dict(), *made)
    again = Student(tmp_path / "out", parent.factory)
    assert again.edits == made
    inputs = tiny_data().test[0][:5]
    assert torch.equal(again.network()(inputs), network(inputs)) and network(inputs).shape == (5, CLASSES)


def test_what_the_kinds_compute() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    zeros = edits.Nothing(outputs=5).module()(x)
    assert zeros.shape == (2, 3, 5) and not zeros.any()
    y, beside = edits.Linear(inputs=8, outputs=6, call="pair").module()(x, x, x, need_weights=False)
    assert y.shape == (2, 3, 6) and beside is None
    assert edits.Same(call="tensor").module()(x, mask=None) is x
    narrow = edits.Separable(inputs=4, outputs=6, stride=[2, 1], relu=False).module()
    assert narrow(torch.zeros(1, 4, 7, 7)).shape == (1, 6, 4, 7)
    assert sum(p.numel() for p in narrow.parameters()) == 4 * 9 + 2 * 4 + 4 * 6 + 2 * 6
    summed = edits.Separable(inputs=4, outputs=4, stride=[1, 1], relu=False, residual=True).module().eval()
    nn.init.zeros_(summed[0].body[4].weight)  # the scale of its last batch norm
    image = torch.randn(1, 4, 5, 5)
    assert torch.equal(summed(image), image)


def test_attention_against_loops() -> None:
    torch.manual_seed(0)
    attention = edits.SelfAttention(6, heads=2, head_width=2)
    x = torch.randn(1, 3, 6)
    q, k, v = (layer(x)[0].tolist() for layer in (attention.query, attention.key, attention.value))
    joined = []
    for place in range(3):
        row: list[float] = []
        for head in (0, 2):
            e = [
                math.exp(sum(q[place][head + i] * k[other][head + i] for i in (0, 1)) / math.sqrt(2))
                for other in range(3)
            ]
            row += [sum(e[other] * v[other][head + i] for other in range(3)) / sum(e) for i in (0, 1)]
        joined.append(row)
    assert torch.allclose(attention(x)[0], attention.out(torch.tensor(joined)), atol=1e-6)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (edit(blcok=CONV), 'names the module "blcok", which the student has not'),
        (edit(block=CONV, block__conv1=CONV), 'names "block" and, within it, "block.conv1"'),
        (edit(block={"use": "conv", "inputs": "8"}), "malformed: blocks.block.conv.inputs"),
        (edit(block={"use": "os.system"}), "malformed: blocks.block"),
        (edit(block={**CONV, "run": "me"}), "malformed: blocks.block.conv.run"),
        (edit(block={"use": "linear", "inputs": 1 << 40, "outputs": 1}), "malformed: blocks.block.linear.inputs"),
        ({"edit": "replace", "blocks": {}}, "malformed: blocks"),
    ],
)
def test_an_edit_that_does_not_fit_changes_nothing(tmp_path: Path, made: dict[str, Any], message: str) -> None:
    network = tiny_saved(tmp_path).network()
    before = [name for name, _ in network.named_modules()]
    with pytest.raises(UserError, match=message):
        replay(network, [made])
    assert [name for name, _ in network.named_modules()] == before


def test_torchs_own_layer_computes_with_another_attention() -> None:
    """Without gradients it would rather compute around its attention."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).eval()
    network = nn.Sequential(layer)
    x = torch.randn(2, 5, 16)
    replay(network, [edit(**{"0__self_attn": {"use": "nothing", "outputs": 16, "call": "pair"}})])
    with torch.no_grad():
        expected = layer.norm2((y := layer.norm1(x)) + layer.linear2(layer.linear1(y).relu()))
        assert torch.allclose(network(x), expected, atol=1e-6)
    assert encoder()(torch.zeros(2, 1, 12, 12)).shape == (2, 4)


NONE = {"use": "nothing", "outputs": WIDTH}
ALL_OF_TOKENS = edit(
    layers__0__attention={"use": "attention", "width": WIDTH, "heads": 2, "head_width": 4, "call": "tensor"},
    layers__0__mlp={"use": "linear", "inputs": WIDTH, "outputs": WIDTH},
    layers__1__attention={**NONE, "call": "pair"},
    layers__1__first={"use": "same"},
    layers__1__second=NONE,
)
ALL_OF_IMAGES = edit(
    stem={**SEPARABLE, "inputs": 1, "outputs": 8, "stride": [1, 1], "relu": True}, block=CONV, down=SEPARABLE
)


@pytest.mark.parametrize(
    ("make", "made"), [(encoder, ALL_OF_TOKENS), (tiny_student, ALL_OF_IMAGES)], ids=["tokens", "images"]
)
def test_every_kind_runs_on_onnx_runtime_as_in_torch(tmp_path: Path, make: Any, made: dict[str, Any]) -> None:
    network, inputs = make().eval(), tiny_data().test[0][:1]
    replay(network, [made])
    network.eval()
    export_onnx(network, inputs, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": inputs.numpy()})
    assert torch.allclose(torch.from_numpy(found), network(inputs), atol=1e-5)
    write_graph(exported(network, inputs), tmp_path)
    assert torch.allclose(read_graph(tmp_path)(inputs)[0], network(inputs), atol=1e-5)
