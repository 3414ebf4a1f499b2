"""Train the teacher on the whole of Fashion-MNIST and write `teacher.safetensors` (half precision, under 1 MB).

    apt-get install dataset-fashion-mnist
    python train_teacher.py                # about an hour on 2 cores; goes on from its last epoch if stopped

SGD with flips, shifts and erased squares (Zhong 2017, arXiv 1708.04896), in cycles: in each the learning rate rises and
falls once, the next begins at the averaged weights (warm restarts: Loshchilov 2016, arXiv 1608.03983); the last sees whole
images only, as they will be met. The weights written are the exponential moving average. The validation split judges each
epoch; the test split is read once, at the end.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from fashion import HERE, MEAN, STD, augment, debian, teacher, tensors
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

CYCLES = ((22, 0.2, True), (12, 0.1, True), (6, 0.03, False))  # epochs, highest learning rate, squares erased or not


def erase(images: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Paint a black square of `size` pixels at a random place of every second image or so, in place."""
    corner = torch.randint(0, 28 - size + 1, (len(images), 2), generator=generator)
    span = torch.arange(28)
    rows = (span >= corner[:, :1]) & (span < corner[:, :1] + size)
    columns = (span >= corner[:, 1:]) & (span < corner[:, 1:] + size)
    chosen = torch.rand(len(images), 1, 1, generator=generator) < 0.5
    return images.masked_fill_((rows.unsqueeze(2) & columns.unsqueeze(1) & chosen).unsqueeze(1), -MEAN / STD)


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True))
    return hits / len(labels)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=HERE / "teacher.safetensors")
    args = options.parse_args()

    data = {split: tensors(*arrays) for split, arrays in debian().items()}
    for cycle in range(len(CYCLES)):
        finished = args.out.with_suffix(f".cycle{cycle}")
        if not finished.is_file():
            weights = load_file(args.out.with_suffix(f".cycle{cycle - 1}")) if cycle else None
            save_file(train(data["train"], data["validation"], cycle, weights, args), finished)
    half = load_file(finished)
    save_file(half, args.out)
    final = teacher()
    final.load_state_dict(widened(half))
    print(f"test {accuracy(final, *data['test']):.2%}, from the weights as written")


def widened(half: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in half.items()}


def train(
    training: tuple[torch.Tensor, torch.Tensor],
    validation: tuple[torch.Tensor, torch.Tensor],
    cycle: int,
    weights: dict[str, torch.Tensor] | None,
    args: argparse.Namespace,
) -> dict[str, torch.Tensor]:
    """One cycle: the learning rate rises to `peak` and falls to nothing. Returns the averaged weights in half precision."""
    torch.manual_seed(args.seed)
    epochs, peak, erased = CYCLES[cycle]
    images, labels = training
    batch = 128
    steps = len(images) // batch
    model = teacher().to(memory_format=torch.channels_last)
    if weights is not None:
        model.load_state_dict(widened(weights))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=epochs * steps, pct_start=0.25)
    parts = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    checkpoint = args.out.with_suffix(".checkpoint")
    first = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        first = state.pop("epoch")
        for name, part in parts.items():
            part.load_state_dict(state[name])

    for epoch in range(first, epochs):
        started = time.time()
        generator = torch.Generator().manual_seed(args.seed * 1000 + cycle * 100 + epoch)
        model.train()
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator)[: steps * batch].view(steps, batch):
            x = augment(images[chosen], generator)
            x = erase(x, 8, generator) if erased else x
            loss = nn.functional.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += loss.item()
        torch.save({"epoch": epoch + 1, **{k: p.state_dict() for k, p in parts.items()}}, f"{checkpoint}.part")
        os.replace(f"{checkpoint}.part", checkpoint)
        score = accuracy(average, *validation)
        seconds = time.time() - started
        print(
            f"cycle {cycle + 1} epoch {epoch + 1}: loss {total / steps:.4f} validation {score:.2%} {seconds:.0f} s",
            flush=True,
        )

    checkpoint.unlink()
    averaged = average.module.state_dict()
    return {k: v.half().contiguous() if v.is_floating_point() else v for k, v in averaged.items()}


if __name__ == "__main__":
    main()
