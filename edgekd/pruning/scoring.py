"""Scores of a network's groups by a criterion, over calibration batches where it needs a gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from edgekd.errors import EdgekdError, UserError
from edgekd.pruning.groups import Group

NEEDS = ("weights", "task_gradient", "teacher_gradient", "masks")
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
