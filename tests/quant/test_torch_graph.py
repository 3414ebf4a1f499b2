"""The program as a graph for torch: the same outputs after writing and reading, and nothing in it but operators."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends.folders import float_model, int8_model, unoptimised, write_program
from tiny import tiny_student
from torch import nn

from edgekd.errors import UserError
from edgekd.quant.onnx_export import exported
from edgekd.quant.torch_graph import read_graph, write_graph

X = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)


@pytest.mark.parametrize(("model", "precision"), [(float_model(), "float32"), (int8_model(), "int8")])
def test_a_graph_made_by_hand_gives_what_onnx_runtime_gives(model: Any, precision: str, tmp_path: Path) -> None:
    graph = read_graph(write_program(tmp_path, model, precision))
    with torch.no_grad():
        (y,) = graph(torch.from_numpy(X))
    np.testing.assert_allclose(y.numpy(), unoptimised(model, X), rtol=1e-5, atol=1e-5)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    network = tiny_student(trained=True).eval()
    x = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    write_graph(exported(network, x), tmp_path)
    with torch.no_grad():
        (y,) = read_graph(tmp_path)(x)
        torch.testing.assert_close(y, network(x))  # its batch norms run as another kernel on some processors
    first = [(tmp_path / name).read_bytes() for name in ("graph.json", "weights.safetensors")]
    write_graph(exported(network, x), tmp_path)
    assert first == [(tmp_path / name).read_bytes() for name in ("graph.json", "weights.safetensors")]


class Odd(nn.Module):
    """Arguments that JSON has no word for, and a constant that is no parameter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clamp(-math.inf, 2.0).to(torch.float64).masked_fill(x > 1.5, -math.inf)
        first, second = x.to(torch.float32).contiguous(memory_format=torch.contiguous_format).split(2, 1)
        return first + second * torch.tensor([2.0]) + torch.zeros(1, device="cpu", dtype=torch.float32)


def test_every_kind_of_argument(tmp_path: Path) -> None:
    x = torch.tensor([[0.5, 1.75, -3.0, 1.0]])
    write_graph(exported(Odd(), x), tmp_path)
    (y,) = read_graph(tmp_path)(x)
    assert y.tolist() == [[0.5 - 6.0, -math.inf]]  # by hand: 0.5 + 2 (−3), −∞ + 2


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))


def test_what_is_no_plain_operator_is_named_and_refused(tmp_path: Path) -> None:
    write_graph(exported(Branch(), torch.ones(1, 2)), tmp_path)
    refused = json.loads((tmp_path / "graph.json").read_text())["refused"]
    assert any("cond" in line for line in refused)
    with pytest.raises(UserError, match="cond"):
        read_graph(tmp_path)


def change(at: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        graph = json.loads((folder / "graph.json").read_text())
        at(graph)
        (folder / "graph.json").write_text(json.dumps(graph))

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (change(lambda g: g["nodes"][1].__setitem__(1, "os.system.default")), "no operator of aten"),
        (change(lambda g: g["nodes"][1].__setitem__(1, "aten.from_file.default")), "no operator of aten"),
        (change(lambda g: g["nodes"][1].__setitem__(1, "aten.__class__.mro")), "not a graph"),
        (change(lambda g: g["nodes"][1].__setitem__(0, "x): import os; (y")), "is no name"),
        (change(lambda g: g["inputs"].__setitem__(0, "x=__import__('os')")), "is no name"),
        (change(lambda g: g["nodes"][1].__setitem__(2, [{"dtype": "load"}])), "is no dtype"),
        (change(lambda g: g["nodes"][1].__setitem__(2, [{"node": "nowhere"}])), "KeyError"),
        (change(lambda g: g["nodes"][1].__setitem__(2, [{"eval": "1"}])), "KeyError"),
        (change(lambda g: g.update(format=2)), "format 2, this edgekd reads 1"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"cut"), "cannot be read"),
        (lambda folder: (folder / "graph.json").unlink(), "does not exist"),
    ],
)
def test_a_changed_graph_is_refused(damage: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    write_program(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=".") as caught:
        read_graph(tmp_path)
    assert says in caught.value.message
