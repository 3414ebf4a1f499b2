"""Embedding tables as int8 rows: in the prepared graph, in the program, and in every runtime that is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from backends.test_contract import compiled_by, runnable
from torch import nn
from torch.fx import GraphModule

from edgekd.backend import load_engine, open_backend
from edgekd.pipeline.engines import write_program
from edgekd.quant import weight_only
from edgekd.quant.adapter import in_float
from edgekd.quant.grid import named
from edgekd.quant.onnx_tables import LEAST
from edgekd.quant.precision import FLOAT, Precision
from edgekd.quant.pt2e import calibrate, convert, prepare, restore, state
from edgekd.quant.tables import Rows, round_rows, with_integer_tables
from edgekd.quant.trace import trace

torch.set_num_threads(1)
ROWS, WIDTH, LENGTH = 400, 48, 6
SIGNATURE = {
    "inputs": [{"name": "tokens", "shape": [1, LENGTH], "dtype": "int64"}],
    "outputs": [{"name": "logits", "shape": [1, 5], "dtype": "float32"}],
    "preprocessing": {},
    "labels": [],
}


class Words(nn.Module):
    """tokens [n, 6] → logits [n, 5]: a table, places, two layers; `tied`: one more whose weight is the table's."""

    def __init__(self, tied: bool = False, places: int = LENGTH) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(ROWS, WIDTH, padding_idx=0), nn.Embedding(places, WIDTH)
        self.up, self.head = nn.Linear(WIDTH, 64), nn.Linear(64, 5)
        self.back = nn.Linear(WIDTH, ROWS, bias=False) if tied else None
        if self.back is not None:
            self.back.weight = self.words.weight
        self.register_buffer("order", torch.arange(LENGTH), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.words(x) + self.places(self.order)
        if self.back is not None:
            found = found + self.words(self.back(found).argmax(-1))
        return self.head(torch.relu(self.up(found)).mean(1))


class Normed(Words):
    """More places than a text has, and a norm behind the sum, so that no integers are added."""

    def __init__(self) -> None:
        super().__init__(places=512)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.up(self.norm(self.words(x) + self.places(self.order)))).mean(1))


def network(tied: bool = False) -> Words:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Words(tied).eval()


def written(model: Words, grid: str, folder: Path) -> Path:
    """The folder, with the program of the quantized network."""
    graph = prepare(model, tokens(2), named(grid), "minmax", qat=False)
    calibrate(graph, [tokens(32)])
    write_program(convert(graph), tokens(1), SIGNATURE, "int8", grid, folder)
    return folder


def tokens(count: int = 8) -> torch.Tensor:
    return torch.randint(0, ROWS, (count, LENGTH), generator=torch.Generator().manual_seed(1))


def prepared(model: Words, precision: Precision | None = None, qat: bool = False) -> GraphModule:
    graph = prepare(model, tokens(2), named("affine"), "minmax", qat, precision or Precision())
    calibrate(graph, [tokens(32)])
    return graph


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether no more differs than a step of the mean before the head in few places, as when a sum is rounded otherwise."""
    return bool((a - b).abs().mean() < 1e-4 and (a - b).abs().max() < 5e-3)


def tables(program: GraphModule) -> dict[str, torch.Tensor]:
    return {
        name: value for name, value in program.state_dict().items() if tuple(value.shape) in ((ROWS, WIDTH), (ROWS, 1))
    }


def test_a_row_is_127_steps_to_either_side() -> None:
    held = torch.zeros(5, WIDTH)
    held[1], held[2] = torch.linspace(-1.27, 1.27, WIDTH), torch.linspace(0, 0.0635, WIDTH)
    held[3, :4] = torch.tensor([0.004, 0.006, -0.0149, 1.27])
    held[4, :2] = torch.tensor([float("-inf"), 0.3])
    held.requires_grad_()
    found = Rows()(held)
    assert torch.count_nonzero(found[0]) == 0  # the row of padding
    steps = found[1] / 0.01
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert (steps.min().round(), steps.max().round()) == (-127, 127)
    assert torch.allclose(found[2], torch.round(torch.linspace(0, 127, WIDTH)) * 0.0005, atol=1e-7)
    assert torch.allclose(found[3, :4], torch.tensor([0.0, 0.01, -0.01, 1.27]), atol=1e-7)
    assert torch.equal(found[4], held[4])
    weight = torch.arange(5.0 * WIDTH).reshape(5, WIDTH)
    (found[:4] * weight[:4]).sum().backward()  # type: ignore[no-untyped-call]
    assert held.grad is not None
    assert torch.equal(held.grad[:4], weight[:4])  # straight through


def test_the_program_looks_up_what_the_prepared_graph_has_rounded() -> None:
    model, x = network(), tokens()
    graph = prepared(model)
    program = convert(graph)
    held = tables(program)
    assert sorted((str(v.dtype), tuple(v.shape)) for v in held.values()) == [
        ("torch.float32", (ROWS, 1)),
        ("torch.int8", (ROWS, WIDTH)),
    ]
    with torch.no_grad():
        assert near(program(x), graph.eval()(x))
        by_hand = network()
        weight = by_hand.words.weight
        scale = weight.abs().amax(1, keepdim=True) / 127
        weight.copy_(torch.round(weight / scale.clamp_min(1e-30)) * scale)
        plain = convert(prepared(by_hand, Precision(embeddings=FLOAT)))
        assert near(program(x), plain(x))
        assert not near(program(x), convert(prepared(model, Precision(embeddings=FLOAT)))(x))
    assert [v.dtype for v in tables(plain).values()] == [torch.float32]


def test_the_small_table_the_whole_float_student_and_what_is_not_finite_stay_in_float() -> None:
    for kept in (nn.Embedding(LEAST // (3 * WIDTH - 4), WIDTH), nn.Embedding(ROWS, WIDTH, dtype=torch.bfloat16)):
        small = network()
        small.words = kept
        graph = trace(small, tokens(2), train=False)
        round_rows(graph)
        assert not [module for module in graph.modules() if isinstance(module, Rows)]
    floats = Precision(layers={"up": FLOAT, "head": FLOAT})
    x = tokens()
    with torch.no_grad():
        assert torch.equal(convert(prepared(network(), floats))(x), network()(x))
    broken = network()
    with torch.no_grad():
        broken.words.weight[7, 3] = float("inf")
    graph = prepared(broken)
    program = convert(graph)
    assert [v.dtype for v in tables(program).values()] == [torch.float32]
    with torch.no_grad():
        assert 7 not in x
        assert near(program(x), graph.eval()(x))


def test_a_tied_layer_has_integers_of_its_own_or_keeps_the_table() -> None:
    program = convert(prepared(network(tied=True)))
    assert not [v for v in tables(program).values() if v.dtype == torch.float32 and v.shape[1] == WIDTH]
    kept = convert(prepared(network(tied=True), Precision(layers={"back": FLOAT})))
    assert [v.dtype for v in tables(kept).values()] == [torch.float32]


def test_training_rounds_what_it_looks_up_and_goes_on_from_the_floats() -> None:
    graph, x = prepared(network(), qat=True), tokens()
    with torch.no_grad():
        dict(graph.named_parameters())["words.weight"].mul_(1.001).add_(1e-4)
    again = prepare(network(), tokens(2), named("affine"), "minmax", True)
    restore(again, state(graph))
    assert all(torch.equal(value, state(graph)[name]) for name, value in state(again).items())
    with torch.no_grad():
        assert torch.equal(again.eval()(x), graph.eval()(x))
        assert near(again(x), convert(again)(x))
    before = dict(again.named_parameters())["words.weight"].detach().clone()
    optimizer = torch.optim.SGD(again.train().parameters(), 0.01)
    again(x).square().sum().backward()
    optimizer.step()
    moved = (dict(again.named_parameters())["words.weight"] - before).abs().amax(1) > 0
    assert sorted(moved.nonzero()[:, 0].tolist()) == sorted({*x.flatten().tolist()} - {0})  # and not the row of padding


def test_in_float_means_the_tables_too() -> None:
    graph, x = prepared(network()), tokens()
    with torch.no_grad(), in_float(graph):
        assert torch.allclose(graph(x), network()(x), atol=1e-6)


def test_weights_alone_are_integers_beside_the_rows_of_a_tied_table() -> None:
    graph = weight_only.traced(network(tied=True), tokens(2))
    program = weight_only.with_integers(graph, weight_only.layers(graph, 8, 16))
    round_rows(program)
    program = with_integer_tables(program)
    assert not [v for v in tables(program).values() if v.dtype == torch.float32 and v.shape[1] == WIDTH]
    with torch.no_grad():
        assert (program(tokens()) - network(tied=True)(tokens())).abs().max() < 0.02


@pytest.mark.parametrize("name", ["embedding", "words_weight_table", "embedding_rows"])
def test_a_layer_may_have_any_name(name: str) -> None:
    """Constants of the program are called after layers and tables: none takes another's name."""

    class Named(Words):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Linear(WIDTH, WIDTH))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.up(self.get_submodule(name)(self.words(x)))).mean(1))

    model, precision = Named().eval(), Precision(grouped={name: 8})
    program = weight_only.narrowed(convert(prepared(model, precision)), precision)
    assert sorted(str(v.dtype) for v in tables(program).values()) == ["torch.float32", "torch.int8"]
    with torch.no_grad():
        assert (program(tokens()) - model(tokens())).abs().max() < 0.02


@pytest.mark.parametrize("name", [name for name in runnable() if name not in ("null", "ncnn")])
def test_every_runtime_keeps_the_integers_and_looks_up_the_same(name: str, tmp_path: Path) -> None:
    x = tokens()
    sizes, found = {}, {}
    for kind, embeddings in (("integers", 8), ("floats", FLOAT)):
        program, engine = convert(prepared(network(), Precision(embeddings=embeddings))), tmp_path / f"{kind}-engine"
        for folder in (tmp_path / kind, engine):
            folder.mkdir()
        write_program(program, x[:1], SIGNATURE, "int8", "affine", tmp_path / kind)
        sizes[kind] = compiled_by(open_backend(name), tmp_path / kind, engine)["bytes"]
        with load_engine(engine) as session, torch.no_grad():
            found[kind] = np.concatenate([session.run([row[None].numpy()])[0] for row in x])
            assert np.abs(found[kind] - program(x).numpy()).max() < 0.02
    saved = ROWS * (WIDTH * 3 - 4)
    assert sizes["floats"] - sizes["integers"] > 0.8 * saved
