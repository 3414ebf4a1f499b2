"""The teacher of a recipe: what of it is kept in the store, and how it is opened from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd import registry
from edgekd.adapted import Adapted
from edgekd.errors import EdgekdError, UserError
from edgekd.members import parc, shares_by
from edgekd.student import Student, load_weights, read_weights, save

if TYPE_CHECKING:
    from edgekd.data import Dataset
    from edgekd.recipe import Loaded
    from edgekd.sections import TeacherSection
    from edgekd.teacher import Teacher

SHARES = "shares.json"
PROBE = 500
"""Samples by which teachers are weighed."""
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
    fields = {} if kind in ("network", "function") else _fields(section)
    if (folder / SHARES).is_file():
        fields["shares"] = tuple(json.loads((folder / SHARES).read_text("utf-8"))["shares"])
    try:
        teacher = found(first, **fields)
    except TypeError as error:  # a field that is a word where it should be a number
        raise UserError(f'the teacher "{section.use}": {error}', hint=f"edgekd list teachers {section.use}") from None
    return Adapted(teacher, section.classes, section.resize) if section.classes or section.resize else teacher


def weighed(
    recipe: Loaded, section: TeacherSection, folder: Path, make: Make, data: Dataset, seed: int
) -> dict[str, Any]:
    """Write the shares of an ensemble `by` similarity into what `keep` wrote, and return them with the similarities.

    Each teacher is compared with the labels of the same training samples, as the data gives them: `PROBE` drawn from `seed`.
    What it gives stands for what the method's authors take, the features before its last layer, which a black box has not.
    Raises UserError for data without classes, and for a teacher that is alike to none.
    """
    if section.made_from != "teachers" or section.arguments.get("by") != "similarity":
        return {}
    inputs, targets = data.train
    if targets.is_floating_point():
        raise UserError(
            "teachers are weighed by similarity with classes, the targets are numbers", hint='by = "shares"'
        )
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    chosen = order[targets[order] >= 0][:PROBE]
    found = []
    for number, member in enumerate(_members(recipe, section, folder, make)):
        with _Member(number):
            said = torch.cat([member.outputs(part) for part in inputs[chosen].split(member.chunk)])
            found.append(parc(said.numpy(), targets[chosen].numpy()))
    facts = {"similarity": found, "shares": list(shares_by(found, float(section.arguments.get("power", 1.0))))}
    (folder / SHARES).write_text(json.dumps(facts), "utf-8")
    return facts


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
