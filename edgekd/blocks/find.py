"""Blocks of a network that cheaper ones could stand for: found by what its modules are given and give, not by their names.

In a network of images a block is the smallest module with more than a chain of such modules in it: a residual unit, an
inverted residual, a convolution with its batch norm. In one of tokens it is what mixes positions (an attention), what does not
(a feed-forward network), or two linear layers of a module that hold one between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edgekd.blocks.calls import first, one_by_one, record
from edgekd.errors import UserError, nearest
from edgekd.pruning.groups import Group, Groups, is_depthwise
from edgekd.pruning.groups import find as find_groups

LOOKED_FOR = (
    "looked for modules that make one tensor of one: images of images, with a convolution inside, or tokens "
    "[batch, positions, width] of tokens, with linear layers inside"
)
MIXES = 1e-5
"""A change at one position moves others by more than this share of the largest output, where positions are mixed."""


@dataclass(frozen=True, eq=False)
class Block:
    """`host`: the module whose output a stand-in learns to give; `site`: the modules that are changed for it, mostly the host.

    `form`: "image" [batch, channels, height, width], "attention" and "feed-forward" [batch, positions, width], or "pair":
    linear layers of the host, the site, of which the last reads the others. `groups`: channels of its own, that nothing outside it sees.
    """

    name: str
    form: Literal["image", "attention", "feed-forward", "pair"]
    host: str
    site: tuple[str, ...]
    groups: tuple[Group, ...]


@dataclass
class _Seen:
    """What a module was first called with and gave, the tensors themselves: who gave what to whom can be told by identity.

    `shapes`: of the first tensor given and of the output, of all calls.
    """

    given: tuple[torch.Tensor, ...] = ()
    output: torch.Tensor | None = None
    shapes: set[tuple[torch.Size, torch.Size]] = field(default_factory=set)

    @property
    def form(self) -> int:
        """4 for images to images, 3 for tokens to tokens, 0 for what cannot be a block."""
        if len(self.shapes) != 1 or self.output is None:
            return 0
        x, y = self.given[0], self.output
        same = x.dim() == y.dim() and len(x) == len(y) and x.is_floating_point() and y.is_floating_point()
        floats = {id(one) for one in self.given if one.dim() == x.dim() and len(one) == len(x)}
        return x.dim() if same and x.dim() in (3, 4) and len(floats) == 1 else 0


def find(network: nn.Module, inputs: torch.Tensor, names: Sequence[str] = ()) -> list[Block]:
    """The blocks of a network in eval mode, in the network's own order, told from inputs [n ≥ 2, ...]; or those called `names`.

    Raises UserError, saying what was looked for, where there is none, or where one of `names` is no block.
    """
    seen = _watched(network, inputs[:2])
    groups, mixing = _groups(network, inputs[:2]), _mixing(network, seen, inputs[:2])

    def block(host: str) -> Block:
        return Block(host, _form(host, seen, mixing), host, (host,), _within(groups, host))

    hosts = [*_images("", network, seen), *_tokens("", network, seen, mixing)]
    every = {one.name: one for one in [*map(block, hosts), *_pairs(groups, hosts, seen)]}
    known = dict(network.named_modules())
    for name in names:
        if name not in known:
            raise UserError(f'puzzle: blocks: the student has no module "{name}"', hint=nearest(name, known))
        if name not in every and not (name in seen and seen[name].form):
            raise UserError(f'puzzle: blocks: "{name}" is no block that could be replaced', hint=LOOKED_FOR)
        if inner := next((other for other in names if other.startswith(f"{name}.")), None):
            raise UserError(f'puzzle: blocks: "{inner}" lies within "{name}"', hint="name one of the two")
    found = [every.get(name) or block(name) for name in names or every]
    if not found:
        raise UserError(
            "puzzle: the student has no block that could be replaced", hint=f'{LOOKED_FOR}; or blocks = ["…"]'
        )
    order = {name: place for place, name in enumerate(known)}
    return sorted(found, key=lambda one: order[one.site[0]])


def _watched(network: nn.Module, inputs: torch.Tensor) -> dict[str, _Seen]:
    """Every module that is called, in the order in which they begin."""
    seen: dict[str, _Seen] = {}

    def before(name: str) -> None:
        seen.setdefault(name, _Seen())

    def after(name: str, arguments: Any, output: Any) -> None:
        several = isinstance(output, tuple | list) and len(output) > 0 and isinstance(output[0], torch.Tensor)
        given = tuple(leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor))
        if not given or not (several or isinstance(output, torch.Tensor)):
            return
        one, found = seen[name], first(output)
        if not one.shapes:
            one.given, one.output = given, found
        one.shapes.add((given[0].shape, found.shape))

    hooks = []
    for name, module in network.named_modules():
        if name:
            hooks += [
                module.register_forward_pre_hook(lambda _, __, n=name: before(n)),
                module.register_forward_hook(lambda _, a, k, y, n=name: after(n, (a, k), y), with_kwargs=True),
            ]
    try:
        with torch.no_grad(), one_by_one():
            outputs = network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: one for name, one in seen.items() if one.output is not outputs}


def _children(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(f"{name}.{own}" if name else own, child) for own, child in module.named_children()]


def _images(name: str, module: nn.Module, seen: Mapping[str, _Seen]) -> list[str]:
    """Blocks of images within a module."""
    found = []
    for path, child in _children(name, module):
        convs = [one for one in child.modules() if isinstance(one, nn.Conv2d)]
        if path not in seen or seen[path].form != 4 or not convs:
            found += _images(path, child, seen)
        elif isinstance(child, nn.Conv2d):
            found += [path] if max(child.kernel_size) > 1 and not is_depthwise(child) else []
        elif _chain_of_blocks(path, child, seen):
            found += _images(path, child, seen)
        else:
            found.append(path)
    return found


def _chain_of_blocks(path: str, module: nn.Module, seen: Mapping[str, _Seen]) -> bool:
    """Whether the module only calls its children one after another, and blocks are among them rather than it being one.

    With one convolution it is a block itself; and so it is with a depth-wise one, which is nothing without its neighbours.
    """
    given: torch.Tensor | None = seen[path].given[0]
    children = dict(_children(path, module))
    links = [name for name in seen if name in children]
    for name in links:
        one = seen[name]
        if not one.given or one.given[0] is not given:
            return False
        given = one.output
    if given is not seen[path].output:
        return False
    convs = [[m for m in children[name].modules() if isinstance(m, nn.Conv2d)] for name in links]
    if any(within and all(is_depthwise(m) for m in within) for within in convs):
        return False
    wide = [name for name, within in zip(links, convs, strict=True) if within]
    return len(wide) > 1 or any(not isinstance(children[name], nn.Conv2d) for name in wide)


def _tokens(name: str, module: nn.Module, seen: Mapping[str, _Seen], mixing: Iterable[str]) -> list[str]:
    """Blocks of tokens within a module: the innermost that mix positions, and the outermost that do not."""
    found = []
    for path, child in _children(name, module):
        one, linear = seen.get(path), [m for m in child.modules() if isinstance(m, nn.Linear)]
        same = one is not None and one.form == 3 and one.output is not None and one.given[0].shape == one.output.shape
        innermost = path in mixing and not any(other.startswith(f"{path}.") for other in mixing)
        apart = path not in mixing and len(linear) > 1
        if same and (innermost or apart):
            found.append(path)
        else:
            found += _tokens(path, child, seen, mixing)
    return found


def _mixing(network: nn.Module, seen: Mapping[str, _Seen], inputs: torch.Tensor) -> set[str]:
    """Modules of tokens in which what is given at one position changes what is found at others, by trying."""
    found = set()
    for name, one in seen.items():
        if one.form != 3 or not any(isinstance(m, nn.Linear) for m in network.get_submodule(name).modules()):
            continue
        calls = record(network, name, inputs)
        other = calls.x.clone()
        other[:, 0] = other[:, 0].flip(-1) + 1.0
        with torch.no_grad(), one_by_one():
            moved = (calls.call(network.get_submodule(name), slice(None), other) - calls.output)[:, 1:]
        if moved.numel() and float(moved.abs().max()) > MIXES * float(calls.output.abs().max()):
            found.add(name)
    return found


def _form(name: str, seen: Mapping[str, _Seen], mixing: Iterable[str]) -> Literal["image", "attention", "feed-forward"]:
    if seen[name].form == 4:
        return "image"
    return "attention" if name in mixing else "feed-forward"


def _groups(network: nn.Module, inputs: torch.Tensor) -> tuple[Group, ...]:
    """Coupled channels that can be narrowed, heads apart, which `attention.py` leaves out; none where the network cannot be followed:
    its blocks are then replaced only.
    """
    try:
        found: Groups = find_groups(network, inputs)
    except UserError:
        return ()
    return tuple(group for group in found.prunable if not group.sizes)


def _within(groups: Iterable[Group], path: str) -> tuple[Group, ...]:
    """The groups that lie inside a module: its own width on the outside is none of them."""
    return tuple(g for g in groups if g.consumers and all(m.name.startswith(f"{path}.") for m in g.members))


def _pairs(groups: Iterable[Group], hosts: Sequence[str], seen: Mapping[str, _Seen]) -> list[Block]:
    """A linear layer of tokens that alone reads another, or several that are joined (as gates are), outside of all other blocks."""
    found: list[Block] = []
    for group in groups:
        readers = [member.name for member in group.consumers]
        names = (*(member.name for member in group.producers), *readers)
        linear = len(names) == len(group.members) and all(isinstance(m.layer, nn.Linear) for m in group.members)
        taken = {name for block in found for name in block.site}
        if (
            not linear
            or len(readers) != 1
            or taken & {*names}
            or any(f"{name}.".startswith(f"{h}.") for name in names for h in hosts)
        ):
            continue
        ways = [name.split(".")[:-1] for name in names]
        shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*ways, strict=False))
        host = ".".join(parts[0] for parts in shared)
        if host in seen and seen[host].form == 3:
            found.append(Block(names[0], "pair", host, names, (group,)))
    return found
