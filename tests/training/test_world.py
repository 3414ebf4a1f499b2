"""Several processes train like one; one that is killed loses nothing."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rank_functions import again, mixed, trained
from safetensors.torch import load_file
from short_training import KL, LABELS, run, same, stop_at
from tiny import accuracy, tiny_context, tiny_data, tiny_student
from torch import nn
from torch.nn.functional import batch_norm

from edgekd.errors import EdgekdError, UserError
from edgekd.training import checkpoint
from edgekd.training.batch_statistics import WholeBatch, needs_two
from edgekd.training.schedule import Training
from edgekd.training.train import batches, logits_of
from edgekd.training.world import World
from edgekd.workers import INSTALL, LOST, call_all

ABSENT = find_spec("lightning_fabric") is None
needs_fabric = pytest.mark.skipif(ABSENT, reason=INSTALL)
HERE = {
    "PYTHONPATH": str(Path(__file__).parent.parent),
    "MASTER_ADDR": "127.0.0.1",
    "NODE_RANK": "0",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two real processes trained once to the end, and once until one of them was killed in the second epoch."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        here = {**HERE, "MASTER_PORT": str(probe.getsockname()[1])}
    requests = [{"folder": str(folder), "rank": rank, "size": 2} for rank in range(2)]
    environments = [{**here, "LOCAL_RANK": str(rank)} for rank in range(2)]
    with pytest.raises(EdgekdError) as caught:
        call_all("rank_functions:train", requests, environments, "distill", lambda message: None)
    (folder / "said").write_text(str(caught.value))
    return folder


@needs_fabric
def test_one_that_is_killed_is_named_and_the_other_ends_and_says_so(folder: Path) -> None:
    said = (folder / "said").read_text()
    assert said.startswith("distill: process 2 of 2 crashed: signal 9 (SIGKILL)")
    assert "goes on from the last finished epoch" in said
    assert f"process 1 of 2 {LOST}" in (folder / "error").read_text()
    assert not list((folder / "cut").glob("*.st"))


@needs_fabric
def test_two_processes_end_where_one_ends_and_one_goes_on_where_two_were_killed(folder: Path, tmp_path: Path) -> None:
    """Batch norm, a smaller last batch, a loss over the batch, a projector, a queue: all as in one process."""
    alone = trained(tmp_path / "one", World.alone())
    resumed = trained(folder / "cut", World.alone())
    both = json.loads((folder / "0.json").read_text())
    assert (alone["seen"], both["seen"], resumed["seen"]) == ([0, 1], [0, 1], [1])
    assert json.loads((folder / "1.json").read_text())["history"] == both["history"]
    for found in (both, resumed):
        for epoch, one in zip(found["history"]["epochs"], alone["history"]["epochs"], strict=True):
            assert epoch["terms"] == pytest.approx(one["terms"], rel=2e-3)
            assert epoch["validation"] == pytest.approx(one["validation"], abs=0.03)
            assert epoch["lr"] == one["lr"]
    first, second = (load_file(folder / "whole" / f"{rank}.st") for rank in range(2))
    again = load_file(folder / "cut" / "0.st")
    for name, value in load_file(tmp_path / "one" / "0.st").items():
        assert torch.equal(first[name], second[name]), name
        for found in (first, again):
            torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3)
    places = (folder / "whole", folder / "cut", tmp_path / "one")
    kept = [checkpoint.read(place / "work" / "distill.checkpoint") for place in places]
    queues = [found[0]["learned/state.similarity_queue.held"] for found in kept if found]
    for queue in queues[:2]:
        torch.testing.assert_close(queue, queues[2], rtol=1e-3, atol=1e-4)


@needs_fabric
def test_losses_that_run_parts_of_networks_again_are_those_of_one_process(folder: Path) -> None:
    """Eleven samples, six of them in the first process: losses, gradients, and the student's running statistics."""
    alone = again(World.alone())
    assert {"masked_partial", "cross_head", "task_units", "of stem.0.weight", "stem.1.running_mean"} <= alone.keys()
    for rank in range(2):
        found = load_file(folder / f"{rank}-again.st")
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


def of(rank: int, size: int) -> World:
    """A process among several, as far as it counts rows."""
    return World(SimpleNamespace(global_rank=rank, world_size=size))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_processes_have_each_row_of_an_epoch_once_and_in_its_order(size: int) -> None:
    seen: list[int] = []
    for batch in batches(23, 7, seed=3, least=size):
        shares = [of(rank, size).own(batch) for rank in range(size)]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert torch.equal(torch.cat(shares), batch)
        seen.extend(batch.tolist())
    assert sorted(seen) == (sorted(range(23)) if size < 3 else sorted(seen))
    assert len(seen) == (23 if size < 3 else 21)  # a last batch of two cannot be shared by three


def test_a_batch_that_cannot_be_shared_is_said(tmp_path: Path) -> None:
    context = tiny_context(tmp_path, world=lambda: of(0, 4))
    with pytest.raises(UserError, match="distill: a batch of 3 cannot be shared by 4 processes"):
        run(context, Training(epochs=1, batch=3))


def test_a_loss_whose_gradient_would_count_twice_is_refused(tmp_path: Path) -> None:
    context = tiny_context(tmp_path, world=lambda: of(0, 2))
    with pytest.raises(
        UserError, match='the loss "dual_head" reads weights of the student, which 2 processes would count'
    ):
        run(context, Training(epochs=1), {"use": "dual_head"})


def test_what_is_not_a_batch_cannot_be_gathered() -> None:
    with pytest.raises(UserError, match=r"what 2 samples give is \[3, 5\]: its first dimension is not the batch"):
        of(0, 2).whole(torch.zeros(3, 5), 4)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 5)])
def test_statistics_over_the_batch_are_those_of_torch(shape: tuple[int, ...]) -> None:
    """One process has all rows: the same output, gradients and running statistics as torch's own, in module and graph."""
    torch.manual_seed(0)
    x = torch.randn(shape) * 3 + 1
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    own, theirs = kind(3, momentum=0.3), kind(3, momentum=0.3)
    graph = [torch.zeros(3), torch.ones(3)]
    gradients = []
    for module, whole in ((own, True), (theirs, False)):
        given = x.clone().requires_grad_()
        if whole:
            with WholeBatch(lambda values: values):
                out = module(given)
                again = torch.ops.aten.batch_norm.default(
                    given, module.weight, module.bias, *graph, True, 0.3, 1e-5, False
                )
            torch.testing.assert_close(again, out)
        else:
            out = module(given)
        out.square().mul(torch.arange(out.numel()).view(shape)).sum().backward()
        gradients.append((out, given.grad, module.weight.grad, module.bias.grad))
    for ours, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-3)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value)
    torch.testing.assert_close(graph, [own.running_mean, own.running_var])


def test_statistics_of_shares_are_those_of_the_whole() -> None:
    """Two shares of unlike size: what each adds to the sums is the other's too."""
    torch.manual_seed(1)
    x = torch.randn(7, 2, 3)
    mean, var = torch.zeros(2), torch.ones(2)
    expected = batch_norm(x, mean, var, training=True, momentum=0.5)
    own, other = x[:3], x[3:]
    about = torch.cat([other.sum((0, 2)), torch.tensor([12.0])])
    spread = (other - x.mean((0, 2)).view(1, 2, 1)).square().sum((0, 2))
    sums = iter([about, spread])

    def total(values: torch.Tensor) -> torch.Tensor:
        return values + next(sums)

    running = [torch.zeros(2), torch.ones(2)]
    with WholeBatch(total):
        found = batch_norm(own, *running, training=True, momentum=0.5)
    torch.testing.assert_close(found, expected[:3])
    torch.testing.assert_close(running, [mean, var])


def test_what_does_not_train_is_left_alone() -> None:
    def never(values: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked for a sum")

    module = nn.BatchNorm1d(2).eval()
    x = torch.randn(3, 2)
    with WholeBatch(never):
        found = module(x)
    assert torch.equal(found, module(x))


def test_a_batch_of_one_is_refused_where_batch_norm_finds_one_value_in_a_channel(tmp_path: Path) -> None:
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(UserError, match="distill: in a batch of one, batch norm has no variance\nhint: a batch of 2"):
        run(tiny_context(tmp_path), Training(epochs=1, batch=1), model=narrow)
    x = torch.randn(1, 1, 12, 12)
    graph = torch.export.export(narrow.eval(), (x,)).module(check_guards=False)
    assert needs_two(narrow, x) and needs_two(graph, x)
    assert not needs_two(tiny_student().eval(), x)  # its batch norms see maps


class Plain(nn.Module):
    """A student without batch norm: the mean over a batch is that over its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_a_batch_in_parts_trains_like_the_batch_at_once(tmp_path: Path) -> None:
    training = Training(epochs=2, batch=50, lr=0.05, optimizer="sgd")
    found = []
    for accumulate in (1, 3):
        torch.manual_seed(2)
        model, sizes = Plain(), []
        model.register_forward_pre_hook(
            lambda module, given, sizes=sizes: sizes.append(len(given[0])) if module.training else None
        )
        context = tiny_context(tmp_path / str(accumulate), accumulate=accumulate)
        _, history = run(context, training, KL, LABELS, model=model)
        found.append((model.state_dict(), history, sizes))
    (once, history, whole), (parts, same_history, split) = found
    assert whole[:6] == [50] * 5 + [6]
    assert split[:6] == [17, 17, 16] * 2
    assert split[15:18] == [2, 2, 2]
    for name, value in once.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)
    for one, other in zip(history["epochs"], same_history["epochs"], strict=True):
        assert other["terms"] == pytest.approx(one["terms"], rel=1e-5)


@needs_fabric
def test_mixed_precision_learns_and_its_weights_are_float32(tmp_path: Path) -> None:
    model, history = mixed(tmp_path)
    inputs, targets = tiny_data().validation
    assert accuracy(logits_of(model, inputs).numpy(), targets.numpy()) > 0.6
    assert history["epochs"][-1]["loss"] < history["epochs"][0]["loss"]
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
    kinds = []
    model.stem[0].register_forward_hook(lambda module, given, output: kinds.append(output.dtype))
    world = World.alone("bf16-mixed")
    with world.forward():
        answer = model(inputs)
    assert kinds == [torch.bfloat16]
    assert world.whole(answer, len(inputs)).dtype == torch.float32
    with world.exact().forward():
        model(inputs)
    assert kinds[-1] == torch.float32


@pytest.mark.skipif(not ABSENT, reason="Lightning Fabric is installed")
def test_without_fabric_the_command_that_installs_it_is_said() -> None:
    with pytest.raises(UserError, match="precision bf16-mixed needs Lightning Fabric") as caught:
        World.alone("bf16-mixed")
    assert caught.value.hint == INSTALL


def test_in_one_process_nothing_is_asked_of_fabric(tmp_path: Path) -> None:
    world = World.alone()
    x = torch.randn(3, 2, requires_grad=True)
    assert world.whole(x, 3) is x and world.own(x) is x and world.first
    assert world.agreed(lambda: (1, 2)) == (1, 2)
    context = replace(tiny_context(tmp_path), world=lambda: world)
    assert run(context)[1] == run(tiny_context(tmp_path / "b"))[1]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_fused_optimizer_makes_the_same_student_and_goes_on_too(tmp_path: Path, optimizer: str) -> None:
    training = Training(epochs=3, batch=64, lr=0.01, optimizer=optimizer)  # type: ignore[arg-type]
    plain, _ = run(tiny_context(tmp_path / "plain"), training)
    fused, history = run(tiny_context(tmp_path / "fused", fused=True), training)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], value, rtol=2e-2, atol=2e-3)
    context = tiny_context(tmp_path / "cut", fused=True)
    with pytest.raises(KeyboardInterrupt):
        run(context, training, on_epoch=stop_at(2))
    resumed, same_history = run(context, training)
    assert same(fused, resumed)
    assert same_history == history
