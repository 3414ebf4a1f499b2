"""Features: the outputs of named modules, caught on their way through a network, and which of two networks belong together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from edgekd.errors import UserError, nearest

Shapes = Mapping[str, tuple[int, ...]]


@contextmanager
def capture(network: nn.Module, names: Sequence[str], whose: str) -> Iterator[dict[str, torch.Tensor]]:
    """While the block runs, keep the first output of each module called `names`; gradients flow through what is kept.

    The first, since a network that looks at its input in several ways looks at it as it is before it turns or mirrors it.

    `whose` is "student" or "teacher", for the message. Raises UserError for a name that is no module's (naming the
    nearest), for a module that gives no tensor, and for one that the network never called.
    """
    modules = _modules(network, names, whose) if names else {}
    caught: dict[str, torch.Tensor] = {}

    def keep(name: str, output: object) -> None:
        if not isinstance(output, torch.Tensor):
            raise UserError(f'the {whose}\'s module "{name}" gives a {type(output).__name__}, not a tensor')
        caught.setdefault(name, output)

    hooks = [modules[n].register_forward_hook(lambda _module, _inputs, output, n=n: keep(n, output)) for n in names]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        if name not in caught:
            raise UserError(f'the {whose}\'s module "{name}" is not called when it runs', hint="name a module that is")


def shapes(
    network: nn.Module, inputs: torch.Tensor, whose: str, named: Collection[str] = ()
) -> dict[str, tuple[int, ...]]:
    """The shape of what each module gives for `inputs`, in the order in which they finish.

    Of modules that give the same tensor only the outermost is listed, and none that gives the network's own output, unless
    it is in `named`. Raises UserError as `capture` does.
    """
    modules = _modules(network, named, whose)
    caught: dict[str, torch.Tensor] = {}

    def keep(name: str, output: object) -> None:
        if isinstance(output, torch.Tensor):
            caught.setdefault(name, output)

    hooks = [m.register_forward_hook(lambda _m, _i, output, n=n: keep(n, output)) for n, m in modules.items()]
    try:
        with torch.no_grad():
            seen = {id(network(inputs))}
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for name, output in reversed(caught.items()):
        if name in named or id(output) not in seen:
            found[name] = tuple(output.shape)
        seen.add(id(output))
    return dict(reversed(found.items()))


def _modules(network: nn.Module, names: Collection[str], whose: str) -> dict[str, nn.Module]:
    """Every module by name. Raises UserError where one of `names` is none of them."""
    flat = isinstance(network, torch.fx.GraphModule)
    modules = {name: module for name, module in network.named_modules() if name}
    for name in names:
        if name not in modules:
            hint = "a quantized program keeps no modules: use losses on logits" if flat else nearest(name, modules)
            raise UserError(f'the {whose} has no module "{name}"', hint=hint)
    if flat and not names:
        raise UserError(f"the {whose} is a quantized program, which keeps no modules", hint="use losses on logits")
    return modules


def deepest(own: Shapes) -> str:
    """The last module that gives more than one position, or else the last one.

    >>> deepest({"stem": (2, 8, 12, 12), "down": (2, 16, 6, 6), "pool": (2, 16, 1, 1), "flat": (2, 16)})
    'down'
    """
    wide = [name for name, shape in own.items() if any(size > 1 for size in _positions(shape))]
    if not own:
        raise UserError("the student has no modules whose features could be compared", hint="use losses on logits")
    return (wide or list(own))[-1]


def pair(own: Shapes, theirs: Shapes, student: str = "", teacher: str = "") -> tuple[str, str]:
    """Names of a student's and a teacher's module that belong together; one that is given stays.

    A module's partner gives a tensor of as many dimensions and, where there is such a one, of the same height and width (or
    number of tokens); of several, the one whose place among its like is the same. Without any name the student's deepest
    features are paired. Raises UserError where nothing has as many dimensions.

    >>> pair({"a": (2, 8, 6, 6), "b": (2, 8, 3, 3)}, {"x": (2, 32, 6, 6), "y": (2, 32, 6, 6), "z": (2, 64, 3, 3)})
    ('b', 'z')
    >>> pair({"a": (2, 8, 6, 6), "b": (2, 8, 3, 3)}, {"x": (2, 32, 6, 6), "y": (2, 32, 6, 6), "z": (2, 64, 3, 3)}, "a")
    ('a', 'y')
    """
    if not student:
        student = _partner(theirs, teacher, own, "student") if teacher else deepest(own)
    return student, teacher or _partner(own, student, theirs, "teacher")


def _partner(given: Shapes, name: str, among: Shapes, whose: str) -> str:
    like = _like(given[name], among)
    if not like:
        message = f'no module of the {whose} gives features like those of "{name}", {list(given[name])}'
        raise UserError(message, hint=f'name it: {whose} = "…", or use losses on logits')
    peers = _like(given[name], given)
    depth = (peers.index(name) + 1) / len(peers)
    return min(reversed(like), key=lambda n: abs((like.index(n) + 1) / len(like) - depth))


def _like(shape: tuple[int, ...], among: Shapes) -> list[str]:
    """Modules whose output has as many dimensions; of these, those of the same positions, if any."""
    same = [name for name, other in among.items() if len(other) == len(shape)]
    return [name for name in same if _positions(among[name]) == _positions(shape)] or same


def _positions(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of [batch, channels, height, width], tokens of [batch, tokens, channels], none of a vector."""
    return shape[2:] if len(shape) > 3 else shape[1:-1]


def vectors(x: torch.Tensor) -> torch.Tensor:
    """[batch, channels]: maps [batch, channels, height, width] and tokens [batch, tokens, channels] are averaged over positions."""
    if x.dim() > 3:
        return x.flatten(2).mean(2)
    return x.mean(1) if x.dim() == 3 else x


class Pool(nn.Module):
    """`vectors`, as a layer of a projector."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return vectors(x)


def same_size(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature maps [batch, channels, height, width] averaged down to the smaller height and the smaller width of the two.

    >>> wide, tall = same_size(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 4, 16))
    >>> list(wide.shape), list(tall.shape)
    ([1, 3, 4, 8], [1, 5, 4, 8])
    """
    height, width = (min(a, b) for a, b in zip(first.shape[2:], second.shape[2:], strict=True))

    def fit(x: torch.Tensor) -> torch.Tensor:
        return x if x.shape[2:] == (height, width) else adaptive_avg_pool2d(x, (height, width))

    return fit(first), fit(second)


def wide(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32: squares and sums of features would overflow at 65,504."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
