"""Layers that a loss divides into parts while it trains, as two heads of one, and that are whole again afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from edgekd.errors import UserError

__all__ = ["divide", "unite"]

PARTS = ("weight", "bias")


def divide(model: nn.Module, losses: Mapping[str, Any], averaged: bool) -> None:
    """Before training: give the layers that a loss divides the parameters that it trains. `averaged`: whether the student has an
    average of its own. Raises UserError for a layer that two losses divide, and where an average could not follow.
    """
    for name, loss in losses.items():
        if not hasattr(loss, "divided"):
            continue
        if averaged:
            message = f'the loss "{name}" divides a layer, which an average of the student cannot follow'
            raise UserError(message, hint='leave out from = "average"')
        layer = model.get_submodule(loss.student)
        if parametrize.is_parametrized(layer, "weight"):
            message = f'the loss "{name}" divides the layer "{loss.student}", whose weight is parametrised already'
            raise UserError(message, hint="name the loss once")
        for part in PARTS:
            if isinstance(getattr(layer, part, None), torch.Tensor):
                parametrize.register_parametrization(layer, part, loss.divided())


def unite(model: nn.Module, losses: Iterable[Any]) -> None:
    """After training: such layers keep what their parts were together."""
    for loss in losses:
        layer = model.get_submodule(loss.student) if hasattr(loss, "divided") else nn.Identity()
        for part in PARTS:
            if parametrize.is_parametrized(layer, part):
                parametrize.remove_parametrizations(layer, part)
