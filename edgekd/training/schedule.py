"""How long to train, and how fast: the fields that every training stage has, and the learning rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a recipe may set of any training: a stage inherits these fields, or holds them in a table."""

    epochs: Annotated[int, Field(ge=1)] = 12
    batch: Annotated[int, Field(ge=1)] = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum 0.9."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-3
    """The highest learning rate, reached after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Of weights; biases and normalisation have none."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.5
    clip: Annotated[float, Field(gt=0)] = 5.0
    """The largest L2 norm that a gradient may have; a longer one is scaled down."""
    views: Annotated[int, Field(ge=0)] = 4
    """Augmented copies of the training data, used in turn, the teacher asked once for each; 0: a new one each epoch."""
    balance: bool = False
    """The losses' weights are shares of the gradient, not factors of the values (edgekd/training/balance.py)."""
    mix: Literal["none", "mixup", "cutmix", "selfmix", "project"] = "none"
    """How some images, or texts, of each view are mixed (edgekd/training/mixing.py); with views, the teacher sees each mixture once."""
    mix_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of the training samples that are mixed."""
    select: Literal["all", "confidence", "gap", "difference", "coreset", "weight_aware"] = "all"
    """Which samples an epoch uses (edgekd/training/selection.py), judged by the teacher's answers, which `views` of 1 or more keep."""
    select_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The share of the training samples that are selected."""

    def used(self, count: int) -> int:
        """How many of `count` training samples an epoch uses.

        >>> Training().used(10), Training(select="confidence", select_share=0.25).used(10)
        (10, 2)
        """
        return count if self.select == "all" else max(round(self.select_share * count), 1)


def rate(step: int, steps: int, warmup: int, highest: float) -> float:
    """The learning rate at `step` of `steps`: a straight rise over `warmup` steps, then half a cosine down to almost zero.

    Sources: Loshchilov, Hutter 2017, arXiv 1608.03983, equation 5 (one cycle, to zero); Goyal et al. 2017, arXiv 1706.02677,
    section 2.2 (the warm-up).

    >>> [round(rate(step, 6, 2, 1.0), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest / 2 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
