"""Prepare, calibrate, train, convert, and the way back from a file of tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from quant.zoo import ZOO, inputs, warm
from safetensors.torch import load_file, save_file
from torch import nn
from torch.fx import GraphModule

from edgekd.errors import EdgekdError, UserError
from edgekd.quant.grid import AFFINE, SYMMETRIC
from edgekd.quant.pt2e import calibrate, convert, freeze_batch_norm, prepare, restore, state


def calibrated(name: str, qat: bool = False, observer: str = "minmax") -> GraphModule:
    prepared = prepare(warm(name), inputs(1), AFFINE, observer, qat)
    calibrate(prepared, [inputs(16, seed) for seed in range(3)])
    return prepared


@torch.no_grad()
def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, in standard deviations of b."""
    return ((a - b).abs().max() / b.std()).item()


@pytest.mark.parametrize("qat", [False, True], ids=["ptq", "qat"])
@pytest.mark.parametrize("name", ZOO)
def test_the_program_computes_what_the_prepared_graph_does(name: str, qat: bool) -> None:
    model, prepared, x = warm(name), calibrated(name, qat), inputs(6, 1)
    prepared.eval()
    program = convert(prepared)
    assert gap(prepared(x), model(x)) < 0.15
    assert gap(program(x), prepared(x)) < 0.05  # one step of the output's grid is 0.04
    assert gap(program(x[:1]), program(x)[:1]) < 1e-5
    held = [v for v in program.state_dict().values() if v.ndim > 1]
    assert {v.dtype for v in held} == {torch.int8}  # no float weight is left
    assert min(v.min() for v in held) >= -127


@pytest.mark.parametrize("observer", ["percentile", "mse", "entropy"])
def test_every_observer_gives_a_program_near_the_float_student(observer: str) -> None:
    x = inputs(64, 9)
    program, model = convert(calibrated("residual", observer=observer)), warm("residual")
    assert (program(x).argmax(1) == model(x).argmax(1)).double().mean() > 0.9


def test_the_symmetric_grid_has_no_zero_points() -> None:
    prepared = prepare(warm("residual"), inputs(1), SYMMETRIC, "minmax", qat=False)
    calibrate(prepared, [inputs(16)])
    nodes = convert(prepared).graph.nodes
    points = [n.args[2:5] for n in nodes if str(n.target) == "quantized_decomposed.quantize_per_tensor.default"]
    assert len(points) == 11
    assert set(points) == {(0, -127, 127)}


def test_training_lowers_the_loss_and_leaves_the_students_own_weights() -> None:
    prepared, model, x = calibrated("odd", qat=True), warm("odd"), inputs(32)
    target = torch.arange(32) % 10
    optimizer = torch.optim.SGD(prepared.parameters(), 0.05)
    losses = []
    torch.manual_seed(0)  # dropout
    for _ in range(20):
        loss = nn.functional.cross_entropy(prepared(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prepared.parameters())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    prepared.eval()
    assert gap(convert(prepared)(x), prepared(x)) < 0.03
    assert gap(prepared(x), model(x)) > 0.3


def test_modes_and_frozen_batch_norm() -> None:
    prepared, x = calibrated("odd", qat=True), inputs(8, 5)
    mean = dict(prepared.named_buffers())["norm.running_mean"]

    def moves() -> bool:
        before = mean.clone()
        prepared(x)
        return not torch.equal(before, mean)

    assert prepared.training
    assert moves()
    assert not torch.equal(prepared(x), prepared(x))  # dropout
    prepared.eval()
    assert not moves()
    assert torch.equal(prepared(x), prepared(x))
    freeze_batch_norm(prepared)
    assert not prepared.training
    prepared.train()
    assert not moves()
    assert not torch.equal(prepared(x), prepared(x))


def test_calibrating_keeps_the_mode_and_moves_only_ranges() -> None:
    prepared = calibrated("odd", qat=True)
    before = state(prepared)
    calibrate(prepared, [inputs(8, 77) * 3])
    changed = {
        name.rpartition(".")[2] for name, value in state(prepared).items() if not torch.equal(value, before[name])
    }
    assert prepared.training
    assert changed == {"minimum", "maximum"}


@pytest.mark.parametrize("qat", [False, True], ids=["ptq", "qat"])
def test_restored_it_converts_to_the_same_bits(qat: bool) -> None:
    prepared, x = calibrated("odd", qat), inputs(4, 3)
    if qat:
        prepared(inputs(8)).sum().backward()
        torch.optim.SGD(prepared.parameters(), 0.01).step()
    fresh = prepare(warm("odd", seed=1), inputs(1), AFFINE, "minmax", qat)
    restore(fresh, state(prepared))
    assert torch.equal(convert(fresh)(x), convert(prepared)(x))
    prepared.eval(), fresh.eval()
    assert torch.equal(fresh(x), prepared(x))


def test_a_fresh_process_rebuilds_the_same_program(tmp_path: Path) -> None:
    prepared = calibrated("residual", qat=True)
    save_file(state(prepared), tmp_path / "state.safetensors")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from quant.test_pt2e import *\n"
        "fresh = prepare(ZOO['residual'](), inputs(1), AFFINE, 'minmax', True)\n"
        "restore(fresh, load_file(sys.argv[2] + '/state.safetensors'))\n"
        "save_file({'y': convert(fresh)(inputs(4)).detach()}, sys.argv[2] + '/out.safetensors')"
    )
    tests = Path(__file__).parent.parent
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tests), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""  # none of torchao's chatter
    assert torch.equal(load_file(tmp_path / "out.safetensors")["y"], convert(prepared)(inputs(4)))


def test_what_does_not_fit_is_named() -> None:
    prepared = calibrated("dense")
    good = state(prepared)
    some = min(good)
    with pytest.raises(UserError, match=f'lacks the tensor "{some}", one of 1'):
        restore(prepared, {k: v for k, v in good.items() if k != some})
    with pytest.raises(UserError, match='has an unknown tensor "zzz"'):
        restore(prepared, {**good, "zzz": torch.zeros(1)})
    with pytest.raises(UserError, match=r'"1.weight" has shape \[3\], not \[32, 784\]'):
        restore(prepared, {**good, "1.weight": torch.zeros(3)})


def test_nothing_to_calibrate_with() -> None:
    prepared = prepare(warm("dense"), inputs(1), AFFINE, "minmax", qat=False)
    with pytest.raises(EdgekdError, match="no activation ranges"):
        convert(prepared)
    with pytest.raises(EdgekdError, match="no values were observed"):
        calibrate(prepared, [])


def test_bad_values_leave_the_ranges_that_were() -> None:
    prepared = calibrated("dense")
    before = state(prepared)
    with pytest.raises(EdgekdError, match="NaN or infinite"):
        calibrate(prepared, [inputs(4) * 50, inputs(1) * float("nan")])
    assert all(torch.equal(value, before[name]) for name, value in state(prepared).items())
    assert gap(convert(prepared)(inputs(2)), prepared(inputs(2))) < 0.03


def test_an_unknown_observer_names_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "percentile"'):
        prepare(warm("dense"), inputs(1), AFFINE, "percentil", qat=False)
