"""CoFi: gates of layers, heads, channels and the residual stream, learned with the weights to a size or a latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from edgekd.errors import UserError

if TYPE_CHECKING:
    from edgekd.pruning.branches import Branch
    from edgekd.pruning.groups import Group
    from edgekd.pruning.held import Held
    from edgekd.training.added import Added

__all__ = ["Cofi"]

TOLERANCE = 0.05  # of all weights; beyond it the size that was reached is told
HINT = "more `epochs` or a higher `lr` of the gates, or a smaller channel multiple"


@dataclass(frozen=True)
class Cofi:
    """For encoders. Each attention and feed-forward branch, head, feed-forward channel and channel of the residual stream has a gate
    z, a hard concrete variable; the weights that read it are multiplied by it. Gates and weights are trained together for `epochs`, on

        the stage's losses  +  λ₁ (s − t) + λ₂ (s − t)²  +  `layerwise` · Σ_i MSE(W H_s^m(i), H_t^i)

    s is the expected share of the branches' weights whose gates are not 0; t falls from 1 to `density` while the share `rising` of the
    training is done; the multipliers λ ascend. H_t are layers of the student as it came, H_s those under gates, matched anew at
    each step. Gates and multipliers are learned at the rate `lr`. Then as many gates stay as are expected to, with their values
    multiplied into the weights; the rest is cut away, and the stage goes on to recovery.

    `density` is the share of the weights to be kept: the prune stage fills it in from `ratio`. Under a `budget` of latency s is the
    expected share of the whole student's latency instead, by the engines of some two dozen students pruned in various ways, and
    what stays is then compiled, measured and corrected, before the weights take their gates' values.
    Source: Xia, Zhong, Chen 2022, arXiv 2204.00408, sections 3.1 and 3.2, on the gates of Louizos et al. 2018, arXiv 1712.01312. There
    hidden gates scale the stream itself, here the weights that read it, which is the same for a gate of 0 and needs no change
    to a user's forward pass; their layers lose the norm behind a branch that goes, here it stays.
    """

    needs: ClassVar[str] = "training"

    density: Annotated[float, Field(gt=0, lt=1)] = 0.5
    epochs: Annotated[int, Field(ge=1)] = 10
    rising: Annotated[float, Field(gt=0, le=1)] = 0.5
    lr: Annotated[float, Field(gt=0)] = 0.1
    layerwise: Annotated[float, Field(ge=0)] = 1.0

    def train(
        self,
        network: nn.Module,
        groups: Sequence[Group],
        branches: Sequence[Branch],
        inputs: torch.Tensor,
        multiple: int,
        seed: int,
        fit: Callable[[Added], dict[str, Any]],
        held: Held | None = None,
    ) -> tuple[dict[str, list[int]], list[Branch], dict[str, Any]]:
        """({group: channels to keep}, branches to take out, facts). `network` is trained in place and left whole, its gates in
        its weights. `fit(added)` trains it on the stage's losses and what `added` makes of each batch; `held`: the latency that
        what stays must keep, `density` being its share of the whole network's.

        Raises UserError for a network without branches.
        """
        from edgekd.pruning.gates import Gates
        from edgekd.pruning.gating import gated
        from edgekd.pruning.lagrangian import Lagrangian
        from edgekd.pruning.size import Size

        if not branches:
            message = "cofi: the student has no attention or feed-forward layers in a residual stream that could go"
            raise UserError(message, hint='criterion = "teacher_gap", for networks that are no encoders')
        gates, size = Gates(groups, branches, multiple, seed), Size(groups, branches)
        cost, settings = (size, repr(self)) if held is None else (held.price, f"{self!r} {held.price!r}")
        added = Lagrangian(gates, cost, self.density, self.rising, self.lr, self.layerwise, settings)
        with added.watching(network, inputs), gated(network, gates):
            facts: dict[str, Any] = {"masks": fit(added)}
            facts |= held.settle(gates) if held else {}
        keep, gone = gates.keep(), gates.gone()
        left = size.expected(
            lambda group: torch.tensor([float(c in keep[group.name]) for c in range(group.channels)]),
            lambda branch: torch.tensor(float(branch not in gone)),
        )
        reached = float(left) / size.whole
        if held is not None:
            facts["latency"]["expected"] = added.facts()["expected"] * held.price.whole
            return keep, gone, {**facts, "density": {"reached": reached}}
        facts["density"] = {**added.facts(), "reached": reached}
        if abs(reached - self.density) > TOLERANCE:
            facts["note"] = f"cofi: {reached:.0%} of the weights are left, {self.density:.0%} were asked for: {HINT}"
        return keep, gone, facts
