"""The training loop: what it learns, what it keeps, what it says."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from short_training import KL, LABELS, NOISY, SHORT, run, same, stop_at
from tiny import TinyNet, noisy, tiny_context, tiny_data, tiny_student
from torch import nn

from edgekd.data import Dataset
from edgekd.errors import EdgekdError
from edgekd.progress import Progress, Task
from edgekd.teachers.module import Module
from edgekd.training.schedule import Training
from edgekd.training.train import batches, derive, fastest_layout, logits_of, view


def test_it_learns_and_tells_its_history(tmp_path: Path) -> None:
    context = tiny_context(tmp_path)
    model, history = run(context, replace(SHORT, epochs=8, batch=32, lr=2e-2), KL, {**LABELS, "weight": 0.5})
    epochs = history["epochs"]
    inputs, targets = tiny_data().validation
    assert context.metric(logits_of(model, inputs).numpy(), targets.numpy()) > 0.8
    assert epochs[-1]["loss"] < epochs[0]["loss"] / 2
    assert epochs[0]["terms"].keys() == {"kl", "cross_entropy"}
    assert epochs[0]["loss"] == pytest.approx(sum(epochs[0]["terms"].values()))
    assert epochs[-1]["lr"] < 1e-3 < epochs[0]["lr"] <= 2e-2
    assert not model.training


def test_the_seed_decides_and_nothing_else(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first, _ = run(tiny_context(tmp_path / "a", data=NOISY))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    second, _ = run(tiny_context(tmp_path / "b", data=NOISY))
    other, _ = run(tiny_context(tmp_path / "c", data=NOISY, seed=1))
    assert same(first, second)
    assert not same(first, other)


def asked_for(
    tmp_path: Path, data: Dataset, training: Training, *losses: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Names of the views that a run asked the teacher's logits of, and of those that it had to make."""
    asked, made = [], []
    context = tiny_context(tmp_path, data=data)

    def logits(name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        asked.append(name)
        return context.teacher_logits(name, lambda: made.append(name) or make())

    run(replace(context, teacher_logits=logits), training, *losses)
    return asked, made


def test_the_teacher_sees_each_view_once(tmp_path: Path) -> None:
    training = replace(SHORT, epochs=5, views=2)
    zero, one = "train view 0 seed 0", "train view 1 seed 0"
    assert asked_for(tmp_path / "a", NOISY, training) == ([zero, one, zero, one, zero], [zero, one])
    assert asked_for(tmp_path / "b", tiny_data(), training) == (["train"] * 5, ["train"])
    assert asked_for(tmp_path / "c", NOISY, replace(training, views=0)) == ([], [])
    assert asked_for(tmp_path / "d", NOISY, training, LABELS) == ([], [])


def test_known_logits_are_those_of_the_same_samples(tmp_path: Path) -> None:
    """With a view for each epoch, the teacher's stored logits train like the teacher itself."""

    def forgetful(name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        return context.teacher().outputs(make())

    context = tiny_context(tmp_path / "a", data=NOISY)
    stored, _ = run(context)
    again, _ = run(tiny_context(tmp_path / "b", data=NOISY, teacher_logits=forgetful))
    for first, second in zip(stored.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_a_view_is_augmented_in_chunks_of_512_in_order() -> None:
    inputs = torch.arange(600.0).unsqueeze(1)
    split = (inputs, torch.zeros(600, dtype=torch.int64))
    generator = torch.Generator().manual_seed(3)
    expected = torch.cat([noisy(inputs[:512], generator), noisy(inputs[512:], generator)])
    assert torch.equal(view(Dataset(split, split, split, augment=noisy), 3), expected)
    assert view(Dataset(split, split, split), 3) is inputs


def test_batches_hold_every_sample_once_in_an_order_of_the_seed() -> None:
    assert sorted(torch.cat(list(batches(10, 4, 0))).tolist()) == list(range(10))
    assert [b.tolist() for b in batches(10, 4, 0)] == [b.tolist() for b in batches(10, 4, 0)]
    assert [b.tolist() for b in batches(10, 4, 0)] != [b.tolist() for b in batches(10, 4, 1)]
    assert [len(b) for b in batches(3, 128, 0)] == [3]
    assert [len(b) for b in batches(1, 128, 0)] == [1]
    assert [len(b) for b in batches(3, 1, 0)] == [1, 1, 1]


def test_every_epoch_has_its_own_order(tmp_path: Path) -> None:
    inputs = tiny_data().train[0]
    model, seen = tiny_student(), []
    model.register_forward_pre_hook(
        lambda module, given: seen.extend(given[0][:, 0, 0, 0].tolist()) if module.training else None
    )
    run(tiny_context(tmp_path), replace(SHORT, epochs=2), model=model)
    first, second = seen[:256], seen[256:]
    assert sorted(first) == sorted(second) == sorted(inputs[:, 0, 0, 0].tolist())
    assert first != second


def test_weights_decay_and_normalisation_does_not(tmp_path: Path) -> None:
    model = tiny_student()
    run(tiny_context(tmp_path), Training(epochs=2, batch=64, lr=1e-3, weight_decay=500.0), model=model)
    assert model.block.conv1.weight.abs().max() < 0.05
    assert model.block.bn1.weight.min() > 0.9


def test_derived_seeds_stay_what_they_are() -> None:
    """A change here would change every trained student. sha256("0/epoch/3"), first seven bytes, by sha256sum."""
    assert derive(0, "epoch", 3) == 0x06F7C67EB9840F
    assert derive(0, "epoch", 4) != derive(0, "epoch", 3) != derive(1, "epoch", 3)


def test_few_samples_train_too(tmp_path: Path) -> None:
    few = tuple(x[:5] for x in tiny_data().train)
    context = tiny_context(tmp_path, data=Dataset(few, few, few))
    assert math.isfinite(run(context)[1]["epochs"][-1]["loss"])
    assert math.isfinite(run(context, replace(SHORT, batch=4))[1]["epochs"][-1]["loss"])


def test_a_loss_that_is_not_finite_stops_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(EdgekdError, match=r'distill: epoch 1, step \d: the loss "kl" is (nan|inf)\nhint: a lower lr'):
        run(tiny_context(tmp_path), replace(SHORT, lr=1e30, optimizer="sgd", warmup_epochs=0))


def test_a_teacher_that_is_not_finite_is_said(tmp_path: Path) -> None:
    broken = tiny_student(16)
    broken.head.bias.data[0] = math.nan
    with pytest.raises(EdgekdError, match="the teacher's logits are NaN or infinite"):
        run(tiny_context(tmp_path, teacher=Module(broken)), SHORT, LABELS, KL)


def test_the_best_epoch_is_kept_and_of_equals_the_first(tmp_path: Path) -> None:
    scores = iter([0.1, 0.9, 0.9, 0.5])
    after: list[dict[str, torch.Tensor]] = []
    model = tiny_student()

    def remember(epoch: int) -> None:
        after.append({name: value.clone() for name, value in model.state_dict().items()})

    context = tiny_context(tmp_path, metric=lambda outputs, targets: next(scores))
    _, history = run(context, replace(SHORT, epochs=4), model=model, on_epoch=remember)
    assert history["best"] == 1
    assert [e["validation"] for e in history["epochs"]] == [0.1, 0.9, 0.9, 0.5]
    assert all(torch.equal(value, after[2][name]) for name, value in model.state_dict().items())


def test_a_metric_that_is_not_finite_stops(tmp_path: Path) -> None:
    with pytest.raises(EdgekdError, match="distill: the validation metric is nan"):
        run(tiny_context(tmp_path, metric=lambda outputs, targets: math.nan))


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    """One step of SGD without momentum's past moves weights by at most lr · clip (1 + momentum, Nesterov)."""
    model = tiny_student()
    before = [p.detach().clone() for p in model.parameters()]
    training = Training(epochs=1, batch=256, optimizer="sgd", lr=1.0, clip=1e-3, warmup_epochs=0, weight_decay=0.0)
    run(tiny_context(tmp_path), training, model=model)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(1.9e-3, rel=1e-3)


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    model = tiny_student()
    model.stem.requires_grad_(False)
    before = model.stem[0].weight.clone()
    run(tiny_context(tmp_path), model=model)
    assert torch.equal(model.stem[0].weight, before)


class Viewed(nn.Module):
    """A student whose `view` counts on rows after channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 3, 3, bias=False), nn.Linear(300, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).view(-1, 300))


def test_a_student_that_cannot_be_channels_last_is_left_as_it_is(tmp_path: Path) -> None:
    inputs = tiny_data().train[0][:2]
    assert fastest_layout(Viewed(), inputs) == torch.contiguous_format
    assert fastest_layout(TinyNet(), inputs) == torch.channels_last
    assert fastest_layout(nn.Linear(3, 2), torch.zeros(2, 3)) == torch.contiguous_format
    model, _ = run(tiny_context(tmp_path), model=Viewed())
    assert model.conv.weight.is_contiguous()


def test_a_model_may_have_its_own_way_to_change_mode(tmp_path: Path) -> None:
    modes: list[bool] = []

    def set_mode(model: nn.Module, training: bool) -> None:
        modes.append(training)
        model.train(training)

    run(tiny_context(tmp_path), set_mode=set_mode)
    assert modes == [False, *[True, False] * 3, False]


def test_progress_counts_every_step_and_says_loss_and_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, notes = [], []

    def advance(self: Task, amount: float = 1.0, note: str | None = None) -> None:
        steps.append((self.total, amount))
        notes.append(note)

    monkeypatch.setattr(Task, "advance", advance)
    context = tiny_context(tmp_path, progress=Progress(quiet=True))
    with pytest.raises(KeyboardInterrupt):
        run(context, on_epoch=stop_at(1))
    steps.clear()
    run(context)
    assert {total for total, _ in steps} == {18}
    assert sum(amount for _, amount in steps) == 18
    assert notes[-1].startswith("loss ")
    assert "validation" in notes[-1]


def test_logits_of_does_not_depend_on_the_batch() -> None:
    model, inputs = tiny_student(trained=True).eval(), tiny_data().test[0]
    whole = logits_of(model, inputs)
    assert whole.shape == (96, 4)
    assert not whole.requires_grad
    torch.testing.assert_close(logits_of(model, inputs, batch=7), whole, rtol=1e-5, atol=1e-5)
