"""Training that was interrupted goes on to the same bits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from short_training import HINT, KL, LABELS, NOISY, SHORT, run, same, stop_at
from tiny import tiny_context, tiny_data, tiny_student
from torch import nn

from edgekd.data import Dataset
from edgekd.training import checkpoint
from edgekd.training.schedule import Training
from edgekd.training.train import logits_of


@pytest.mark.parametrize(
    ("training", "losses", "data"),
    [
        (SHORT, [KL], tiny_data()),
        (replace(SHORT, views=2), [KL, LABELS], NOISY),
        (replace(SHORT, views=0, optimizer="sgd", lr=0.05), [KL, HINT], NOISY),
    ],
    ids=["adamw", "views", "sgd-fresh-hint"],
)
def test_interrupted_it_goes_on_to_the_same_bits(
    tmp_path: Path, training: Training, losses: list[dict[str, Any]], data: Dataset
) -> None:
    whole, history = run(tiny_context(tmp_path / "whole", data=data), training, *losses)
    context = tiny_context(tmp_path / "cut", data=data)
    for stop in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(context, training, *losses, on_epoch=stop_at(stop))
    torch.manual_seed(99)  # what happened in this process before does not matter
    seen: list[int] = []
    resumed, resumed_history = run(context, training, *losses, on_epoch=seen.append)
    assert seen == [2]
    assert same(whole, resumed)
    assert history == resumed_history
    finished, finished_history = run(context, training, *losses, on_epoch=stop_at(0))
    assert same(whole, finished)
    assert history == finished_history


def test_what_losses_learn_remember_and_draw_goes_on_too(tmp_path: Path) -> None:
    """A schedule, a memory of samples, projectors with parametrizations, a branch, and random draws."""
    names = ("taid", "self_progressive", "crd", "orthogonal", "ofa", "permuted_dark", "sampled")
    losses = [{"use": name, **({"negatives": 16, "width": 8} if name == "crd" else {})} for name in names]
    whole, history = run(tiny_context(tmp_path / "whole", data=NOISY), SHORT, *losses)
    context = tiny_context(tmp_path / "cut", data=NOISY)
    with pytest.raises(KeyboardInterrupt):
        run(context, SHORT, *losses, on_epoch=stop_at(2))
    torch.manual_seed(99)
    seen: list[int] = []
    resumed, resumed_history = run(context, SHORT, *losses, on_epoch=seen.append)
    assert seen == [2]
    assert same(whole, resumed)
    assert history == resumed_history
    assert history["pairs"] == {"crd": ("down", "down"), "orthogonal": ("down", "down"), "ofa": ("down", "logits")}
    tensors, _ = checkpoint.read(context.work / "distill.checkpoint") or ({}, {})
    assert float(tensors["learned/state.taid.t"]) > 0.4
    assert tensors["learned/state.self_progressive.answers"].sum(1).allclose(torch.ones(256))


ON_MODULES = [
    *[
        {"use": name}
        for name in ("adaptive_mask", "auxiliary_heads", "cross_attention", "cross_head", "dual_head", "ladder")
    ],
    *[{"use": name} for name in ("local_structure", "masked_partial", "structured", "task_filter")],
    {"use": "cross_attention", "by": "groups"},
    {"use": "layer_distribution", "layers": 1},
    {"use": "prototype", "prototypes": 4},
    {"use": "task_units", "student": "block", "teacher": "down", "observe": 0.4},
]


def test_filters_prototypes_masks_and_heads_go_on_too(tmp_path: Path) -> None:
    """Projectors, what is watched first and used later, heads, random patches and layers: in one training, cut in its middle."""
    few = Dataset(
        *(tuple(x[:96] for x in split) for split in (NOISY.train, NOISY.validation, NOISY.test)), augment=NOISY.augment
    )
    losses = [LABELS, *ON_MODULES]
    training = replace(SHORT, epochs=2)
    whole, history = run(tiny_context(tmp_path / "whole", data=few), training, *losses)
    context = tiny_context(tmp_path / "cut", data=few)
    with pytest.raises(KeyboardInterrupt):
        run(context, training, *losses, on_epoch=stop_at(1))
    torch.manual_seed(99)
    seen: list[int] = []
    resumed, resumed_history = run(context, training, *losses, on_epoch=seen.append)
    assert seen == [1]
    assert same(whole, resumed)
    assert history == resumed_history
    assert history["pairs"]["structured"] == ("block, down", "block, down")
    assert history["pairs"]["dual_head"] == ("head", "logits")
    assert history["pairs"]["auxiliary_heads"] == ("block, down", "")
    tensors, _ = checkpoint.read(context.work / "distill.checkpoint") or ({}, {})
    for key in ("state.task_units.sums", "classifiers.prototype.centres", "projector.structured.projectors.1.weight"):
        assert tensors[f"learned/{key}"].abs().sum() > 0
    assert whole.state_dict().keys() == tiny_student().state_dict().keys()


def test_a_damaged_checkpoint_or_another_runs_is_ignored(tmp_path: Path) -> None:
    context = tiny_context(tmp_path)
    whole, _ = run(context)
    path = context.work / "distill.checkpoint"
    path.write_bytes(path.read_bytes()[:-1])
    seen: list[int] = []
    again, _ = run(context, on_epoch=seen.append)
    assert same(whole, again)
    run(context, replace(SHORT, lr=2e-2), on_epoch=seen.append)
    run(context, replace(SHORT, lr=2e-2), LABELS, on_epoch=seen.append)
    run(context, replace(SHORT, lr=2e-2), LABELS, model=tiny_student(seed=3), on_epoch=seen.append)
    assert seen == [0, 1, 2] * 4


def test_a_graph_of_fake_quantized_operators_resumes_too(tmp_path: Path) -> None:
    from edgekd.quant.grid import named
    from edgekd.quant.pt2e import calibrate, freeze_batch_norm, prepare, restore

    inputs = tiny_data().train[0]

    def trained(folder: str, on_epoch: Callable[[int], None]) -> tuple[nn.Module, dict[str, Any]]:
        graph = prepare(tiny_student(trained=True), inputs[:2], named("affine"), "minmax", qat=True)
        calibrate(graph, [inputs[:64]])
        return run(
            tiny_context(tmp_path / folder),
            model=graph,
            load=restore,
            on_epoch=lambda e: on_epoch(e) or frozen(graph, e),
        )

    def frozen(graph: Any, epoch: int) -> None:
        if epoch >= 1:
            freeze_batch_norm(graph)

    whole, history = trained("whole", lambda epoch: None)
    with pytest.raises(KeyboardInterrupt):
        trained("cut", stop_at(2))
    resumed, resumed_history = trained("cut", lambda epoch: None)
    assert same(whole, resumed)
    assert history == resumed_history
    assert torch.equal(logits_of(whole, inputs), logits_of(resumed, inputs))
