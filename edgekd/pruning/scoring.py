"""Scores of a network's groups by a criterion, over calibration samples where it needs a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from edgekd.errors import EdgekdError, UserError
from edgekd.pruning.branches import Branch
from edgekd.pruning.groups import Group
from edgekd.stage import Context
from edgekd.training.added import Added
from edgekd.training.train import derive

if TYPE_CHECKING:
    from edgekd.pruning.held import Held

NEEDS = ("weights", "task_gradient", "teacher_gradient", "masks", "training")
ALIKE = 1e-6
"""Nats; below it, what is left of a divergence in float32 is rounding."""

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""inputs [batch, ...], targets [batch], and the teacher's logits [batch, classes] where they are needed."""


@runtime_checkable
class Criterion(Protocol):
    """The contract of a file in `edgekd/criteria/`, told there."""

    needs: ClassVar[str]

    def __call__(self, group: Group) -> torch.Tensor: ...


class Learner(Protocol):
    """The contract of one that needs "masks", told there as well."""

    needs: ClassVar[str]
    steps: int
    batch: int

    def learn(
        self, network: nn.Module, groups: Sequence[Group], batches: Iterable[Batch]
    ) -> dict[str, torch.Tensor]: ...


class Trainer(Protocol):
    """The contract of one that needs "training"."""

    needs: ClassVar[str]
    epochs: int

    def train(
        self,
        network: nn.Module,
        groups: Sequence[Group],
        branches: Sequence[Branch],
        inputs: torch.Tensor,
        multiple: int,
        seed: int,
        fit: Callable[[Added], dict[str, Any]],
        held: Held | None,
    ) -> tuple[dict[str, list[int]], list[Branch], dict[str, Any]]: ...


def scores(
    network: nn.Module, groups: Sequence[Group], criterion: Criterion | Learner, batches: Iterable[Batch]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """({group: scores [channels], larger = keep}, {group: why the criterion cannot score it}). `network` is in eval mode.

    A gradient is that of the mean loss of one batch, with batch norm on its running statistics: pruning is judged on the
    network as it is deployed. The scores of batches are averaged, a smaller last batch counting by its size. `batches` is not
    read for a criterion of weights alone.

    Raises UserError where a student that already computes what its teacher does leaves no gradient to go by, and EdgekdError
    for a score that is not finite.
    """
    if not isinstance(criterion, Criterion):
        return _finite(criterion.learn(network, groups, batches) if groups else {}), {}
    able, unable = [], {}
    for group in groups:  # whether a criterion can score a group does not depend on gradients
        try:
            criterion(group)
            able.append(group)
        except UserError as error:
            unable[group.name] = error.message
    if criterion.needs == "weights" or not able:
        return _finite({group.name: criterion(group) for group in able}), unable
    found = {group.name: torch.zeros(group.channels) for group in able}
    count, gap = 0, 0.0
    for inputs, targets, teacher in batches:
        network.zero_grad()
        loss = _loss(criterion.needs, network(inputs), targets, teacher)
        loss.backward()
        for group in able:
            found[group.name] += criterion(group) * len(inputs)
        count, gap = count + len(inputs), max(gap, float(loss.detach()))
    network.zero_grad()
    if criterion.needs == "teacher_gradient" and gap < ALIKE:
        message = (
            f"the student already computes what the teacher does (KL {gap:.1e} nats): no gradient tells channels apart"
        )
        raise UserError(message, hint='criterion = "taylor" or "magnitude"')
    return _finite({name: total / count for name, total in found.items()}), unable


def _loss(needs: str, logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
    """Mean over the batch, in nats: cross entropy with the labels, or KL(teacher ‖ student) at temperature 1."""
    if needs == "task_gradient":
        return cross_entropy(logits, targets)
    assert teacher is not None
    return kl_div(log_softmax(logits, 1), log_softmax(teacher, 1), reduction="batchmean", log_target=True)


def _finite(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for name, values in found.items():
        if not bool(torch.isfinite(values).all()):
            message = f'the criterion gives a NaN or infinite score in the group "{name}"'
            raise EdgekdError(message, hint="look at its weights and at the calibration samples")
    return found


def samples_of(criterion: Criterion | Learner, name: str, count: int, context: Context) -> Iterable[Batch]:
    """`count` samples of the training split one by one, the same for the same seed; the teacher is asked only if it is needed.

    A criterion that learns masks gets a batch of them, drawn anew, for each of its steps. `name` is what progress calls it.
    """
    inputs, targets = context.data().train
    generator = torch.Generator().manual_seed(derive(context.seed, "prune samples"))
    order = torch.randperm(len(inputs), generator=generator)
    if criterion.needs == "task_gradient" and not targets.is_floating_point():
        order = order[targets[order] >= 0]  # those that have a label
    chosen = order[:count]
    if not isinstance(criterion, Criterion):
        learner = criterion

        def drawn() -> Iterator[Batch]:
            with context.progress.task(f"prune: {name}", learner.steps) as task:
                for _ in range(learner.steps):
                    rows = chosen[torch.randint(len(chosen), (learner.batch,), generator=generator)]
                    yield inputs[rows], targets[rows], None
                    task.advance()

        return drawn()
    logits = None
    if criterion.needs == "teacher_gradient":
        logits = context.teacher_logits(f"prune {len(chosen)} seed {context.seed}", lambda: inputs[chosen])

    def one_by_one() -> Iterator[Batch]:
        with context.progress.task(f"prune: {name}", len(chosen)) as task:
            for row, sample in enumerate(chosen.tolist()):
                teacher = None if logits is None else logits[row : row + 1]
                yield inputs[sample : sample + 1], targets[sample : sample + 1], teacher
                task.advance()

    return one_by_one()
