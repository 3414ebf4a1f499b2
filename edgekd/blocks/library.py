"""The library: every alternative to every block, trained and scored once, and from then on found in the store."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd.blocks.alternatives import Alternative, alternatives, merged
from edgekd.blocks.calls import Record, record
from edgekd.blocks.find import Block, find
from edgekd.blocks.local import Steps, distilled, divergence, of_site
from edgekd.errors import UserError
from edgekd.pipeline.judge import size
from edgekd.student import Edit, Student, read_weights, replay, write_tensors
from edgekd.training.train import derive, logits_of

if TYPE_CHECKING:
    from edgekd.progress import Task
    from edgekd.stage import Context

FEW = 16
"""Samples that tell which blocks there are and what fits them."""
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, eq=False)
class Learned:
    """An alternative with its weights, by their names in the network, and what is known of it.

    `facts`: "kl" (of the whole network's outputs with it alone in place, in nats, on validation), "before" and "error" (of the
    block's output, untrained and trained), "parameters" and "macs" of the whole network.
    """

    block: Block
    alternative: Alternative
    weights: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]


def library(
    student: Student, context: Context, names: Sequence[str], samples: int, steps: Steps
) -> list[tuple[Block, list[Learned]]]:
    """The blocks of a student, those called `names` or all, with their alternatives, each trained on `samples` inputs.

    Raises UserError where there is no block, or nothing that computes less than one.
    """
    parent, inputs = student.network(), context.data().train[0]
    draw = torch.Generator().manual_seed(derive(context.seed, "puzzle samples"))
    inputs = inputs[torch.randperm(len(inputs), generator=draw)[:samples]]
    found = []
    for block in find(parent, inputs[:FEW], names):
        calls = record(parent, block.host, inputs[:FEW])
        of = alternatives(parent, block, calls, student.example(), context.channel_multiple)
        found.append((block, of))
        context.progress.say(
            f"  puzzle: {block.name} ({block.form}): {', '.join(one.name for one in of) or 'nothing computes less'}"
        )
    total = sum(len(of) for _, of in found)
    if not total:
        said = ", ".join(f'"{block.name}"' for block, _ in found)
        raise UserError(
            f"puzzle: nothing that fits computes less than {said}",
            hint="lower the target's channel_multiple, or leave it out",
        )
    count = steps.count(len(inputs))
    with context.progress.task("puzzle: blocks", total=total * count) as task:
        school = _School(student, parent, inputs, context, steps)
        learned = []
        for block, of in found:
            learned.append((block, [school.learned(block, one, task) for one in of]))
    return learned


def assembled(student: Student, chosen: Sequence[Learned]) -> tuple[nn.Module, list[Edit]]:
    """The student with these in their blocks' places, in eval mode, and the edits that make it."""
    network, edits = student.network(), merged([edit for one in chosen for edit in one.alternative.edits])
    replay(network, edits)
    weights = {name: value for one in chosen for name, value in one.weights.items()}
    network.load_state_dict({**network.state_dict(), **weights})
    return network.eval(), edits


class _School:
    """Trains one alternative after the other; what the parent gives is computed when it is first needed."""

    def __init__(
        self, student: Student, parent: nn.Module, inputs: torch.Tensor, context: Context, steps: Steps
    ) -> None:
        self.student, self.parent, self.inputs, self.context, self.steps = student, parent, inputs, context, steps
        self.validation = context.data().validation[0]
        self.outputs: torch.Tensor | None = None
        self.calls: tuple[str, Record, Record] | None = None

    def learned(self, block: Block, one: Alternative, task: Task) -> Learned:
        """The alternative, trained now or found in the store."""
        key = {
            "block": block.name,
            "host": block.host,
            "site": block.site,
            "edits": one.edits,
            "samples": len(self.inputs),
        }
        key |= {"seed": self.context.seed, **asdict(self.steps)}
        done = []

        def make(out: Path) -> dict[str, Any]:
            done.append(one.name)
            return self._trained(block, one, task, out)

        entry = self.context.kept(f"puzzle: {block.name}: {one.name}", key, make)
        if not done:
            task.advance(self.steps.count(len(self.inputs)), f"{block.name}: {one.name}: kept")
        facts = {name: entry.facts[name] for name in ("kl", "before", "error", "parameters", "macs")}
        return Learned(block, one, read_weights(entry.path / WEIGHTS), facts)

    def _trained(self, block: Block, one: Alternative, task: Task, out: Path) -> dict[str, Any]:
        """Train, write the weights into `out`, and score it in the parent."""
        if self.outputs is None:
            self.outputs = logits_of(self.parent, self.validation)
        if self.calls is None or self.calls[0] != block.host:
            calls, seen = (record(self.parent, block.host, x) for x in (self.inputs, self.validation))
            self.calls = block.host, calls, seen
        network = copy.deepcopy(self.parent)
        facts = distilled(network, block, one, *self.calls[1:], self.steps, self.context.seed, task)
        write_tensors(out / WEIGHTS, of_site(network.state_dict(), block))
        sizes = size(network, self.student.example())
        kl = divergence(self.outputs, network, self.validation)
        return {**facts, "kl": kl, "parameters": sizes["parameters"], "macs": sizes["macs"]}
