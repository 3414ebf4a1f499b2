"""Residual branches: the attention or the feed-forward layers that a residual sum adds, which can be taken out whole.

What is left in a branch's place is zero, a scalar: only a sum takes that, so a branch that is not added to anything fails the
proof, in which the network without it must compute what it computes with that branch's last layer giving zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from edgekd.errors import UserError
from edgekd.pruning.edits import replay
from edgekd.pruning.groups import HEADS, Group, Member
from edgekd.pruning.proof import disproof


@dataclass(frozen=True, eq=False)
class Branch:
    """`group`: the heads, or the channels, inside it. `last`: the layer whose output is added to the residual stream."""

    group: Group
    last: Member
    removed: Mapping[str, int]
    """What an edit records as `removed` to take it out."""

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def attention(self) -> bool:
        """Whether it mixes tokens; a feed-forward branch does not."""
        return self.group.what == HEADS

    @property
    def unit(self) -> Group:
        """The branch as a group of one channel, for a criterion: the last layer reads it, the group's layers make it."""

        def joined(member: Member) -> Member:
            return Member(member.name, member.layer, member.side, (tuple(p for c in member.positions for p in c),))

        members = tuple(joined(m) for m in (*self.group.producers, *self.group.consumers))
        return Group(f"{self.name} as a whole", 1, members, what="its outputs")


def branches(network: nn.Module, groups: Sequence[Group], inputs: torch.Tensor) -> tuple[Branch, ...]:
    """The branches that hold nothing but one of the `groups`, proved on `inputs` [batch, ...]. The network is not changed."""
    given = _outputs(network, [group.name for group in groups if group.what == HEADS], inputs)
    found = []
    for group in groups:
        linear = all(isinstance(m.layer, nn.Linear) for m in (*group.producers, *group.consumers))
        if len(group.consumers) != 1 or not linear or len(group.producers) == 0:
            continue
        (last,) = group.consumers
        if sum(map(len, last.positions)) != last.width or not all(map(_whole, group.producers)):
            continue
        for removed in _removals(network, group, last, given, inputs):
            if not disproof(network, inputs, {"kept": {}, "removed": removed}, _silencing(last.name), "its outputs"):
                found.append(Branch(group, last, removed))
                break
    return tuple(found)


def least(able: Sequence[Branch], scores: Mapping[str, torch.Tensor], count: int) -> set[str]:
    """The names of the `count` branches that are missed least, by {unit: its score [1]}.

    Raises UserError where so many cannot go, or where the criterion tells none from another.
    """
    found = {branch.name: float(scores[branch.unit.name]) for branch in able if branch.unit.name in scores}
    if len(found) < count:
        message = f"prune: layers: {count} cannot go, of {len(found)} residual branches that can be scored"
        raise UserError(message, hint="attention and feed-forward layers that a sum adds to what goes past them")
    if count and len(found) > 1 and len(set(found.values())) == 1:
        message = "prune: layers: the criterion gives all of them the same score"
        raise UserError(message, hint='criterion = "teacher_gap", "taylor" or "fisher"')
    return set(sorted(found, key=lambda name: found[name])[:count])


def _whole(member: Member) -> bool:
    """Whether the group is all that there is on this side."""
    return sum(map(len, member.positions)) == member.width


def _removals(
    network: nn.Module, group: Group, last: Member, given: Mapping[str, int], inputs: torch.Tensor
) -> Iterator[dict[str, int]]:
    """What to put zero in the place of: the layers of the branch, with whatever feeds nothing else, or without that."""
    if group.name in given:  # an attention, with what it gives
        parts = {group.name: given[group.name]}
        parts |= {} if last.name.startswith(f"{group.name}.") else {last.name: 0}
    else:
        parts = {m.name: 0 for m in (*group.producers, last)}
    idle = _idle(network, parts, inputs)
    if idle:
        yield parts | dict.fromkeys(idle, 0)
    yield parts


def _silencing(last: str) -> Callable[[nn.Module], None]:
    """What makes a linear layer give zero."""

    def silence(network: nn.Module) -> None:
        for value in network.get_submodule(last).parameters():
            value.zero_()

    return silence


def _idle(network: nn.Module, parts: Mapping[str, int], inputs: torch.Tensor) -> list[str]:
    """Layers that nothing reads any more without these parts, as the norm before a branch."""
    without = copy.deepcopy(network).eval()
    before = _reached(without, inputs)
    try:
        replay(without, {"edit": "prune", "kept": {}, "removed": dict(parts)})
        after = _reached(without, inputs)
    except Exception:  # the proof tells why
        return []
    found = []
    for name, layer in without.named_modules():
        own = {f"{name}.{n}" for n, _ in layer.named_parameters()}
        if own and not list(layer.children()) and own <= before and not own & after:
            found.append(name)
    return found


def _reached(network: nn.Module, inputs: torch.Tensor) -> set[str]:
    """The parameters that the output depends on."""
    network.requires_grad_(True)
    with torch.enable_grad():
        values = dict(network.named_parameters())
        found = torch.autograd.grad(network(inputs).sum(), list(values.values()), allow_unused=True)
    return {name for name, gradient in zip(values, found, strict=True) if gradient is not None}


@torch.no_grad()
def _outputs(network: nn.Module, names: Sequence[str], inputs: torch.Tensor) -> dict[str, int]:
    """How many things each module gives: 0 for a tensor by itself. Those that give anything else are left out."""
    found: dict[str, int] = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, torch.Tensor):
            found[name] = 0
        elif isinstance(output, tuple):
            found[name] = len(output)

    hooks = [network.get_submodule(n).register_forward_hook(lambda _m, _i, output, n=n: note(n, output)) for n in names]
    try:
        network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
