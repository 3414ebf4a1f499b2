"""Which modules a loss compares, where the recipe leaves that open: by depth and shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd.training.compared import Names, listed
from edgekd.training.features import classifier, deepest, pair, pair_several, shapes, spread

if TYPE_CHECKING:
    from edgekd.teacher import Teacher


def chosen(loss: Any, model: nn.Module, inputs: torch.Tensor, teacher: Callable[[], Teacher]) -> dict[str, Any]:
    """{"student": …, "teacher": …}: the modules of a loss, those that it names among them.

    Raises UserError for a name that is no module's, and where nothing fits.
    """
    if loss.wants == "head":
        return {"student": classifier(model, inputs)}
    own = shapes(model, inputs, "student", listed(loss.student))
    several = isinstance(loss.student, tuple)
    if not hasattr(loss, "teacher"):
        return {"student": loss.student or (spread(own) if several else deepest(own))}
    theirs = teacher().shapes(inputs, listed(loss.teacher))
    found: tuple[Names, Names] = (
        pair(own, theirs, loss.student, loss.teacher)
        if not several
        else (pair_several(own, theirs, loss.student, loss.teacher))
    )
    return {"student": found[0], "teacher": found[1]}
