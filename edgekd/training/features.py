"""Features: the outputs of named modules, caught on their way through a network, and which of two networks belong together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from edgekd.errors import UserError, nearest
from edgekd.training.graph_modules import outputs_of, traced, watched

Shapes = Mapping[str, tuple[int, ...]]


@contextmanager
def capture(
    network: nn.Module, names: Sequence[str], whose: str, *, inputs: bool = False
) -> Iterator[dict[str, torch.Tensor]]:
    """While the block runs, keep the first output of each module called `names`; gradients flow through what is kept.

    `inputs`: keep what the module is given instead. In a graph of operators (edgekd/training/graph_modules.py) outputs are had,
    inputs are not.

    The first, since a network that looks at its input in several ways looks at it as it is before it turns or mirrors it.

    `whose` is "student" or "teacher", for the message. Raises UserError for a name that is no module's (naming the
    nearest), for a module that gives no tensor, and for one that the network never called.
    """
    if names:
        _modules(network, names, whose)
    caught: dict[str, torch.Tensor] = {}

    def keep(name: str, given: tuple[object, ...], output: object) -> None:
        found = next(iter(given), None) if inputs else output
        if not isinstance(found, torch.Tensor):
            verb = "is given" if inputs else "gives"
            raise UserError(f'the {whose}\'s module "{name}" {verb} a {type(found).__name__}, not a tensor')
        caught.setdefault(name, found)

    with _watched(network, names, keep):
        yield caught
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

    def keep(name: str, _given: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            caught.setdefault(name, output)

    with torch.no_grad(), _watched(network, modules, keep):
        seen = {id(network(inputs))}
    found = {}
    for name, output in reversed(caught.items()):
        if name in named or id(output) not in seen:
            found[name] = tuple(output.shape)
        seen.add(id(output))
    return dict(reversed(found.items()))


@contextmanager
def _watched(
    network: nn.Module, names: Sequence[str], keep: Callable[[str, tuple[object, ...], object], None]
) -> Iterator[None]:
    """While the block runs, keep(name, what it is given, what it gives) is called for each module called `names`."""
    if traced(network):
        with watched(network, names, lambda name, output: keep(name, (), output)):
            yield
        return
    modules = dict(network.named_modules())
    hooks = [
        modules[n].register_forward_hook(lambda _module, given, output, n=n: keep(n, given, output)) for n in names
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _modules(network: nn.Module, names: Collection[str], whose: str) -> list[str]:
    """The name of every module. Raises UserError where one of `names` is none of them."""
    which = "module in its graph that computes one tensor and is" if traced(network) else "module"
    modules = list(outputs_of(network)) if traced(network) else [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in modules:
            raise UserError(f'the {whose} has no {which} "{name}"', hint=nearest(name, modules))
    if traced(network) and not modules:
        raise UserError(f"the {whose} is a program that does not tell its modules", hint="use losses on logits")
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


def spread(own: Shapes) -> tuple[str, ...]:
    """Modules at several depths: the last of each size, or, where all have one size, those at a third, two thirds and the end.

    >>> spread({"stem": (2, 8, 12, 12), "block": (2, 8, 12, 12), "down": (2, 16, 6, 6), "flat": (2, 16)})
    ('block', 'down')
    >>> spread({f"layer{i}": (2, 49, 64) for i in range(6)})
    ('layer1', 'layer3', 'layer5')
    """
    same = [name for name, shape in own.items() if len(shape) == len(own[deepest(own)])]
    wide = [name for name in same if any(size > 1 for size in _positions(own[name]))] or same
    last = {_positions(own[name]): name for name in wide}
    if len(last) > 1:
        return tuple(last.values())
    return tuple(wide[place] for place in sorted({-(-len(wide) * third // 3) - 1 for third in (1, 2, 3)}))


def pair_several(
    own: Shapes, theirs: Shapes, student: tuple[str, ...] = (), teacher: tuple[str, ...] | str = ()
) -> tuple[tuple[str, ...], tuple[str, ...] | str]:
    """`pair` at several depths; for one module of the teacher's, a name or "", that of the student's last one.

    >>> pair_several({"a": (2, 8, 6, 6), "b": (2, 8, 3, 3)}, {"x": (2, 9, 6, 6), "y": (2, 9, 3, 3)})
    (('a', 'b'), ('x', 'y'))
    >>> pair_several({"a": (2, 8, 6, 6), "b": (2, 8, 3, 3)}, {"x": (2, 9, 6, 6), "y": (2, 9, 3, 3)}, teacher="")
    (('a', 'b'), 'y')
    """
    if isinstance(teacher, str):
        student = student or spread(own)
        return student, pair(own, theirs, student[-1], teacher)[1]
    student = student or tuple(pair(own, theirs, "", name)[0] for name in teacher) or spread(own)
    return student, teacher or tuple(pair(own, theirs, name)[1] for name in student)


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


def tokens(x: torch.Tensor) -> torch.Tensor:
    """[batch, positions, channels] of maps [batch, channels, height, width], tokens, or a vector, which has one position."""
    if x.dim() > 3:
        return x.flatten(2).transpose(1, 2)
    return x if x.dim() == 3 else x[:, None]


def aligned(loss: str, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as [batch, positions, channels], of as many positions: maps are averaged down to the smaller size.

    Raises UserError, naming the loss, for features whose positions do not belong together.
    """
    shapes = f"{list(student.shape)} and {list(teacher.shape)}"
    if student.dim() == teacher.dim() == 4:
        student, teacher = same_size(student, teacher)
    ours, theirs = tokens(student), tokens(teacher)
    if ours.shape[1] != theirs.shape[1]:
        hint = "pair two maps of an image, two lists of as many tokens, or two vectors"
        raise UserError(f"{loss}: the features {shapes} have other positions", hint=hint)
    return ours, theirs


def wide(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32: squares and sums of features would overflow at 65,504."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def regressor(loss: str, names: tuple[str, str], student: torch.Tensor, teacher: torch.Tensor) -> nn.Module:
    """From the student's number of channels to the teacher's: a 1 × 1 convolution for maps, else a linear layer.

    `names`: of the two modules, for the message. Raises UserError for features of different kinds.
    """
    if student.dim() != teacher.dim() or (student.dim() != 4 and student.shape[1:-1] != teacher.shape[1:-1]):
        shapes = f'"{names[0]}" gives {list(student.shape)}, "{names[1]}" gives {list(teacher.shape)}'
        raise UserError(f"{loss}: the student's {shapes}", hint="pair two maps of an image, or two vectors")
    if student.dim() == 4:
        return nn.Conv2d(student.shape[1], teacher.shape[1], 1)
    return nn.Linear(student.shape[-1], teacher.shape[-1])


def classifier(network: nn.Module, inputs: torch.Tensor) -> str:
    """The module that makes the logits: the last linear layer or convolution that is called. Raises UserError if there is none."""
    called: list[str] = []
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)}
    hooks = [m.register_forward_hook(lambda _m, _i, _o, n=n: called.append(n)) for n, m in layers.items()]
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise UserError("the student has no linear layer that makes its logits", hint='name the one: student = "…"')
    return called[-1]
