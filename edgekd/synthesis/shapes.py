"""Which inputs can be made up, and of whom a teacher can be asked: checked, with what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from edgekd.errors import UserError

if TYPE_CHECKING:
    from edgekd.source import Given
    from edgekd.student import Student
    from edgekd.target import Calibration

REAL = 'a few real samples can: source = "images", "npz" or "coreset"'


def floating(student: Student, recipe: Calibration) -> tuple[int, ...]:
    """Shape of one input, without the batch. Raises UserError for inputs that are no floats: tokens, indices."""
    spec = student.signature["inputs"][0]
    if not str(spec["dtype"]).startswith("float"):
        message = f'calibration "{recipe.name}": source "{recipe.source}" cannot make up {spec["dtype"]} inputs'
        raise UserError(message, hint=REAL)
    return tuple(spec["shape"][1:])


def image_like(shape: tuple[int, ...], recipe: Calibration) -> None:
    """Raises UserError unless `shape` is [channels, height, width]."""
    if len(shape) != 3:
        message = f'calibration "{recipe.name}": source "{recipe.source}" makes images, the inputs are {list(shape)}'
        raise UserError(message, hint="images are [channels, height, width]; without options, bn_statistics makes any")


def no_teacher(recipe: Calibration) -> UserError:
    message = f'calibration "{recipe.name}": source "{recipe.source}" asks the teacher, the recipe has none'
    return UserError(message, hint="add a [teacher] section")


def black_box(recipe: Calibration) -> UserError:
    message = (
        f'calibration "{recipe.name}": source "{recipe.source}" needs gradients, which an ONNX teacher has none of'
    )
    return UserError(message, hint=f"use a torch teacher; {REAL}")


def trainable_teacher(given: Given, recipe: Calibration) -> nn.Module:
    """The teacher's network. Raises UserError where there is no teacher, or one without gradients."""
    if given.teacher is None:
        raise no_teacher(recipe)
    network = getattr(given.teacher(), "network", None)
    if not isinstance(network, nn.Module):
        raise black_box(recipe)
    return network
