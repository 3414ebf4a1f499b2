"""What a search over losses may spend, and which losses it may choose from, as a recipe writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from edgekd import registry
from edgekd.errors import UserError

AMONG = ("cross_entropy", "kl", "dkd", "dist", "js", "hint", "attention_map", "rkd")


@dataclass(frozen=True)
class LossBudget:
    """`epochs` of training for all that is tried; `among`: the losses to choose from, one of each kind at a time."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    epochs: Annotated[int, Field(ge=1)]
    among: tuple[str, ...] = AMONG

    def __post_init__(self) -> None:
        if not self.among:
            raise UserError("budget.among: there is none", hint=f"as in among = {list(AMONG[:3])}")

    @property
    def never(self) -> str | None:
        """The first of the losses that no try would have; None if each may be tried."""
        return next(
            (name for name in self.among if name not in self.of("labels", "logits", "features", "branch")), None
        )

    def of(self, *wants: str) -> list[str]:
        """Those of the losses that want one of these, read from their files without importing them."""
        return [name for name in self.among if registry.constant("losses", name, "wants") in wants]
