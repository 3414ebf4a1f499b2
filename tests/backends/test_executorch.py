"""ExecuTorch: the int8 program stays integers inside the delegate, what is not delegated is named, shapes are fixed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from backends.folders import float_model, int8_model, unoptimised, write_program
from quant.zoo import Products
from torch import nn

from edgekd.backend import Signature, load_engine, open_backend
from edgekd.compilers.etdump import operators_of
from edgekd.errors import EdgekdError
from edgekd.metric import sqnr
from edgekd.pipeline import engines
from edgekd.quant.grid import AFFINE
from edgekd.quant.pt2e import calibrate, convert, prepare
from edgekd.quant.torch_graph import read_graph

BACKEND = open_backend("executorch")
needs_executorch = pytest.mark.skipif(bool(BACKEND.missing()), reason=f"executorch is an extra: {BACKEND.missing()}")


def with_node(program: Path, operator: str, *arguments: object) -> Path:
    """The program with a node between its first ReLU and what reads that."""
    graph = json.loads((program / "graph.json").read_text())
    at = next(i for i, node in enumerate(graph["nodes"]) if node[0] == "r1") + 1
    text = json.dumps(graph["nodes"][at:]).replace('{"node": "r1"}', '{"node": "new"}')
    new = ["new", operator, [{"node": "r1"}, *arguments], {"table": {}}]
    graph["nodes"] = [*graph["nodes"][:at], new, *json.loads(text)]
    (program / "graph.json").write_text(json.dumps(graph))
    return program


@needs_executorch
def test_an_int8_engine_multiplies_integers_and_names_what_fell_back(tmp_path: Path) -> None:
    """With a flip between the convolutions, which XNNPACK has no kernel for: the mirrored net, mirrored back in the weights."""
    model = int8_model()
    program = with_node(write_program(tmp_path / "program", model, "int8"), "aten.flip.default", [3])
    out = tmp_path / "engine"
    out.mkdir()
    facts = BACKEND.compile(program, out, {"name": "host"}, 1)
    assert facts["fallback"] == {"aten.flip.default": 1}
    assert facts["note"] == "on portable kernels: 1 × aten.flip.default"
    assert (facts["integer_nodes"], facts["float_nodes"]) == (
        1,
        2,
    )  # the flip cuts the first pattern; the logits are float
    weights = {t.name: t for t in model.graph.initializer}
    mirrored = np.frombuffer(weights["w2_i"].raw_data, np.int8).reshape(weights["w2_i"].dims)[..., ::-1]
    weights["w2_i"].raw_data = mirrored.tobytes()
    with load_engine(out) as session:
        for seed in range(20):
            x = np.random.default_rng(seed).standard_normal((1, 1, 8, 8)).astype(np.float32)
            np.testing.assert_allclose(session.run([x])[0], unoptimised(model, x), atol=0.02)  # one step of the pool


def with_products(folder: Path) -> tuple[Path, nn.Module, torch.Tensor]:
    """(a program in 8 bits with large linear layers whose outputs stay float, its float network, images)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, images = Products().eval(), torch.randn(8, 1, 28, 28)
    prepared = prepare(network, images, AFFINE, "minmax", qat=False)
    calibrate(prepared, [images])
    ports = {"inputs": [{"name": "x", "shape": [1, 1, 28, 28], "dtype": "float32"}]}
    ports["outputs"] = [{"name": "y", "shape": [1, 10], "dtype": "float32"}]
    folder.mkdir()
    engines.write_program(convert(prepared), images[:1], ports, "int8", "affine", folder)
    return folder, network, images


def near_both(engine: Path, program: Path, network: nn.Module, images: torch.Tensor) -> None:
    """The engine's outputs are the program's but for some roundings, and no further from the float network."""
    graph = read_graph(program)
    with load_engine(engine) as session, torch.no_grad():
        found = np.concatenate([session.run([image[None].numpy()])[0] for image in images])
        written, wanted = torch.cat([graph(image[None])[0] for image in images]).numpy(), network(images).numpy()
    assert sqnr(found, written) > 30
    assert sqnr(found, wanted) > sqnr(written, wanted) - 1


@needs_executorch
def test_large_products_into_floats_are_of_integers(tmp_path: Path) -> None:
    """XNNPACK rounds their inputs at each call; ten logits are computed in float, and nothing of it is portable but the norm."""
    program, network, images = with_products(tmp_path / "program")
    out = tmp_path / "engine"
    out.mkdir()
    facts = BACKEND.compile(program, out, {"name": "host"}, 1)
    assert (facts["integer_nodes"], facts["float_nodes"]) == (4, 1)
    assert facts["fallback"] == {"aten.native_layer_norm.default": 1}
    assert (out / "model.pte").stat().st_size < 1.5 * sum(weight.numel() for weight in network.parameters())
    near_both(out, program, network, images)


@needs_executorch
def test_a_damaged_engine_and_a_closed_session(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text(
        json.dumps({"format": 1, "backend": "executorch", "file": "model.pte", "options": {"threads": 1}})
    )
    (tmp_path / "signature.json").write_text('{"inputs": [], "outputs": []}')
    (tmp_path / "model.pte").write_bytes(b"not a program" * 100)
    with pytest.raises(EdgekdError, match=r"model\.pte: executorch refuses the program"):
        load_engine(tmp_path)


def test_what_it_cannot_take_is_known_before_compiling(tmp_path: Path) -> None:
    program = write_program(tmp_path / "bare")
    (line,) = BACKEND.unsupported(program, {"triple": "thumbv8.1m.main-none"})
    assert line.startswith("the target is thumbv8.1m.main-none, without an operating system: XNNPACK")
    assert BACKEND.unsupported(program, {"triple": "aarch64-linux"}) == []
    program = write_program(tmp_path / "dynamic", float_model("batch"))
    (line,) = BACKEND.unsupported(program, {})
    assert line.startswith("input \"x\" has the dynamic shape ['batch', 1, 8, 8]")
    program = with_node(write_program(tmp_path / "volume"), "aten.conv3d.default", {"node": "w1"})
    (line,) = BACKEND.unsupported(program, {})
    assert line == "node new (aten.conv3d.default): its convolutions have one or two spatial dimensions"
    (program / "graph.json").write_text(json.dumps({"format": 1, "refused": ["node cond: a subgraph"]}))
    assert BACKEND.unsupported(program, {}) == ["node cond: a subgraph"]


def test_what_is_missing_names_the_extra_and_its_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.backend.find_spec", lambda name: None if name == "executorch" else name)
    assert BACKEND.missing() == "pip install 'edgekd[executorch]' executorch==1.5.1"


def test_an_etdump_is_read_by_hand() -> None:
    """Three calls of which the last two count: twice a convolution, 20 + 10 and 30 + 20 µs, and once a kernel outside, 3 and 5."""

    def event(name: str | None, took: int, inside: str | None = None) -> SimpleNamespace:
        about = SimpleNamespace(name=name, delegate_debug_id_str=inside, start_time=1000, end_time=1000 + 1000 * took)
        return SimpleNamespace(profile_event=about)

    runs = [SimpleNamespace(events=None), SimpleNamespace(events=[event("Program::load_method", 9)])]
    for first, second, outside in ((900, 900, 900), (20, 10, 3), (30, 20, 5)):
        inside = [
            event(None, first, "Convolution (NHWC, F32) IGEMM #1"),
            event(None, second, "Convolution (NHWC, F32) IGEMM #2"),
        ]
        own = [event("native_call_mean.out", outside), event("OPERATOR_CALL", outside + 1)]
        runs.append(SimpleNamespace(events=[*inside, event("DELEGATE_CALL", 99), *own, event("Method::execute", 999)]))
    runs[2].events.insert(0, SimpleNamespace(profile_event=None))
    found = operators_of(SimpleNamespace(run_data=runs), 2)
    assert [(row["operator"], row["nodes"]) for row in found] == [("Convolution (NHWC, F32) IGEMM", 2), ("mean.out", 1)]
    assert [row["seconds"] for row in found] == pytest.approx([40e-6, 4e-6])


@needs_executorch
def test_a_real_profile_names_what_was_compiled(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    BACKEND.compile(write_program(tmp_path / "program"), engine, {}, 1)
    found = BACKEND.profile(engine, Signature.read(engine).noise(0), 4)
    assert found is not None
    assert sum(row["nodes"] for row in found if row["operator"].startswith("Convolution ")) == 2, found
    assert all(0 <= row["seconds"] < 1 for row in found)
