"""The teacher of a recipe: what of it is kept in the store, and how it is opened from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd import registry
from edgekd.adapted import Adapted
from edgekd.errors import EdgekdError, UserError
from edgekd.student import Student, load_weights, read_weights, save

if TYPE_CHECKING:
    from edgekd.recipe import Loaded
    from edgekd.sections import TeacherSection
    from edgekd.teacher import Teacher

Make = Callable[["TeacherSection"], nn.Module]
"""The network that the section's factory returns."""


def keep(recipe: Loaded, section: TeacherSection, out: Path, make: Make, about: Callable[[nn.Module], Any]) -> None:
    """Write into the folder `out` what the teacher is made from. `about(network)` gives the signature of a network.

    Raises UserError for what cannot be read, naming the member where there are several.
    """
    kind = section.made_from
    if kind == "teachers":
        for number, member in enumerate(section.members):
            (out / str(number)).mkdir()
            with _Member(number):
                keep(recipe, member, out / str(number), make, about)
    elif kind == "file":
        name = str(registry.constant("teachers", section.use, "kept"))
        registry.find("teachers", section.use).keep(recipe.file(section.weights or ""), out / name)
    elif kind == "network":
        network = make(section)
        if section.weights:
            path = recipe.file(section.weights)
            load_weights(network, read_weights(path), str(path))
        origin = {"factory": section.factory, "arguments": section.arguments}
        save(out, network.state_dict(), [], about(network.eval()), origin)


def opened(recipe: Loaded, section: TeacherSection, folder: Path, make: Make) -> Teacher:
    """The teacher that `keep` wrote. Raises UserError for a field that its kind does not have."""
    found, kind = registry.find("teachers", section.use), section.made_from
    first: Any
    if kind == "network":
        first = Student(folder, lambda: make(section)).network()
    elif kind == "function":
        first = recipe.factory(section)(**section.arguments)
    elif kind == "teachers":
        first = tuple(_members(recipe, section, folder, make))
    elif kind == "file":
        first = folder / str(registry.constant("teachers", section.use, "kept"))
    elif kind == "folder":
        first = recipe.folder
    else:
        raise UserError(f"{registry.file_of('teachers', section.use)}: `made_from` is {kind!r}")
    try:
        teacher = found(first, **({} if kind in ("network", "function") else _fields(section)))
    except TypeError as error:  # a field that is a word where it should be a number
        raise UserError(f'the teacher "{section.use}": {error}', hint=f"edgekd list teachers {section.use}") from None
    return Adapted(teacher, section.classes, section.resize) if section.classes or section.resize else teacher


def _members(recipe: Loaded, section: TeacherSection, folder: Path, make: Make) -> list[Teacher]:
    found = []
    for number, member in enumerate(section.members):
        with _Member(number):
            found.append(opened(recipe, member, folder / str(number), make))
    return found


def _fields(section: TeacherSection) -> dict[str, Any]:
    """The section's further keys as a kind's fields: TOML's lists become tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in section.arguments.items()}


class _Member:
    """Names the member of an ensemble in whatever is wrong with it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, EdgekdError):
            raise UserError(f"teacher {self.number + 1}: {error.message}", hint=error.hint) from None


class BlackBox(nn.Module):
    """A teacher as a network, for those who judge it: inputs [batch, ...] → logits [batch, classes]."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.teacher.outputs(inputs)
