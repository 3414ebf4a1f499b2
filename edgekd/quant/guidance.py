"""The float student as the teacher of its quantized self, alone or beside the recipe's teacher."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch

from edgekd.stage import Context
from edgekd.teacher import Teacher
from edgekd.teachers.module import Module

if TYPE_CHECKING:
    from edgekd.student import Student

__all__ = ["with_student"]


@dataclass(frozen=True, eq=False)
class _Both(Teacher):
    """The mean of two teachers' logits; features are the first one's."""

    first: Teacher
    second: Teacher

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        return (self.first.outputs(inputs) + self.second.outputs(inputs)) / 2

    def each(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.first.each(inputs), self.second.each(inputs)], 1)

    def features(self, inputs: torch.Tensor, names: Sequence[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits, caught = self.first.features(inputs, names)
        return (logits + self.second.outputs(inputs)) / 2, caught

    def shapes(self, inputs: torch.Tensor, named: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
        return self.first.shapes(inputs, named)

    def partial(self, inputs: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        return self.first.partial(inputs, names)

    def embeddings(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.first.embeddings(inputs)

    def onwards(self, inputs: torch.Tensor, name: str, features: torch.Tensor) -> torch.Tensor:
        return self.first.onwards(inputs, name, features)


def with_student(context: Context, student: Student, *, alone: bool) -> Context:
    """The context with the float student as its teacher, or with the mean of both teachers' logits.

    The mean of logits is the geometric mean of what both predict. Source: Hinton et al. 2015, arXiv 1503.02531, section 2.
    """
    own = Module(student.network())

    @cache
    def teacher() -> Teacher:
        return own if alone else _Both(context.teacher(), own)

    known: dict[tuple[str, bool], torch.Tensor] = {}

    def answers(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([own.outputs(part) for part in rows.split(256)])

    def logits(name: str, inputs: Callable[[], torch.Tensor], each: bool = False) -> torch.Tensor:
        if (name, each) not in known:
            mine = context.world().shared(answers, inputs())
            if each:
                others = [] if alone else [context.teacher_logits(name, inputs, each=True)]
                known[name, each] = torch.cat([*others, mine[:, None]], 1)
            else:
                known[name, each] = mine if alone else (context.teacher_logits(name, inputs) + mine) / 2
        return known[name, each]

    return replace(context, teacher=teacher, teacher_logits=logits)
