"""The processes that train together: one as a rule, or several that share each batch, on one machine or on many.

What several compute is what one would: each looks at its rows of the batch, the student's answers are gathered, and every
process computes the losses on the whole batch, so that a loss which compares samples, or remembers them, sees what it would
see alone. Gradients of the student are summed over the processes. Statistics of batch norm are those of the whole batch
(edgekd/training/batch_statistics.py). Only the first process writes files. docs/decisions/0012 says why it is so.

Lightning Fabric starts the group of processes and computes in mixed precision; one process in float32 does without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Literal, final

import torch
from torch import distributed, nn

from edgekd.errors import EdgekdError, UserError
from edgekd.quiet import quiet
from edgekd.workers import INSTALL, LOST

Precision = Literal["32", "bf16-mixed"]

PATIENCE = timedelta(days=7)
"""One that ends is noticed at once; this long may one work while the others wait for it."""


@final
class World:
    """`rank` counts from 0, of `size` processes. Made by `alone`, or in each process of several by `joined`."""

    def __init__(self, fabric: Any = None, precision: Precision = "32") -> None:
        self._fabric, self.precision = fabric, precision
        self.rank = 0 if fabric is None else int(fabric.global_rank)
        self.size = 1 if fabric is None else int(fabric.world_size)
        self._draws: int | None = None

    @classmethod
    def alone(cls, precision: Precision = "32") -> World:
        """One process. Raises UserError where mixed precision needs a package that is not installed."""
        return cls(None if precision == "32" else _fabric(1, 1, precision, None), precision)

    @classmethod
    def joined(cls, rank: int, size: int, here: int, precision: Precision) -> World:
        """This process among `size` others, `here` of them on this machine; waits until all have come.

        The environment says where they meet: MASTER_ADDR, MASTER_PORT, LOCAL_RANK, NODE_RANK. Raises UserError as `alone`
        does, and for a number of processes that is not the same on every machine.
        """
        if size % here or rank >= size:
            message = f"process {rank + 1} of {size}, with {here} on this machine"
            raise UserError(f"{message}: the machines run different numbers of processes", hint="as many on each")
        with _noticed(rank, size):
            return cls(_fabric(here, size // here, precision, int(os.environ["LOCAL_RANK"])), precision)

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def exact(self) -> World:
        """The same processes, computing in float32."""
        return World(self._fabric if self.size > 1 else None)

    def bounds(self, count: int) -> tuple[int, int]:
        """The first and the last but one of this process's rows, of `count`; the first processes have one more."""
        each, more = divmod(count, self.size)
        begin = self.rank * each + min(self.rank, more)
        return begin, begin + each + (self.rank < more)

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """This process's part of [count, ...]: together the processes have all, in order, and none twice."""
        begin, end = self.bounds(len(rows))
        return rows if self.size == 1 else rows[begin:end]

    def whole(self, own: torch.Tensor, count: int) -> torch.Tensor:
        """[count, ...] from the parts of all processes; the gradient of the own part goes back through it.

        Of a tensor with several rows a sample, these must follow each other. Raises UserError for any other.
        """
        if self.precision != "32" and own.is_floating_point():
            own = own.float()
        if self.size == 1:
            return own
        begin, end = self.bounds(count)
        times, rest = divmod(len(own), end - begin)
        if rest or not times:
            message = f"what {end - begin} samples give is {list(own.shape)}: its first dimension is not the batch"
            raise UserError(message, hint="train it in one process, or name another module")
        with self._noticed():
            gathered: torch.Tensor = _Gathered.apply(  # type: ignore[no-untyped-call]
                own, begin * times, count * times
            )
        return gathered

    def shared(self, compute: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """compute(inputs) [n, ...] for inputs [n, ...], each process computing its part; no gradient."""
        if self.size == 1 or len(inputs) < self.size:
            return compute(inputs)
        with torch.no_grad():
            return self.whole(compute(self.own(inputs)), len(inputs))

    def agreed(self, make: Callable[[], Any]) -> Any:
        """make() of the first process, a value of JSON, in all of them; the others do not call it."""
        if self.size == 1:
            return make()
        said = json.dumps(make()).encode() if self.first else b""
        with self._noticed():
            length = torch.tensor([len(said)])
            distributed.broadcast(length, 0)
            content = torch.zeros(int(length), dtype=torch.uint8)
            if self.first:
                content.copy_(torch.frombuffer(bytearray(said), dtype=torch.uint8))
            distributed.broadcast(content, 0)
        return json.loads(bytes(content.tolist()))

    def same(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The first process's tensors, in all of them. Raises EdgekdError where names or shapes differ."""
        if self.size == 1:
            return dict(tensors)
        about = {name: list(value.shape) for name, value in tensors.items()}
        if self.agreed(lambda: about) != about:
            message = f"process {self.rank + 1} of {self.size} made another network than the first"
            raise EdgekdError(message, hint="the same recipe, files and packages on every machine")
        found = {}
        for name, value in tensors.items():
            held = value.detach().clone(memory_format=torch.contiguous_format)
            with self._noticed():
                distributed.broadcast(held.view(torch.uint8) if held.dtype == torch.bool else held, 0)
            found[name] = held
        return found

    def draw(self, seed: int) -> None:
        """What is drawn at random from now on follows from `seed`: in a forward (dropout) it differs from process to process,
        what losses draw is the same in all. Nothing where there is one process.
        """
        if self.size > 1:
            self._draws = seed
            torch.manual_seed(seed)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The student's forward runs within this: in mixed precision, and with batch norm over all rows of the batch."""
        if self._fabric is None:
            yield
            return
        from edgekd.training.batch_statistics import WholeBatch

        drawn = torch.get_rng_state()
        if self._draws is not None:
            torch.manual_seed(self._draws + 1 + self.rank)
        mixed = self._fabric.autocast() if self.precision != "32" else nullcontext()
        with mixed, WholeBatch(self.total) if self.size > 1 else nullcontext():
            yield
        if self._draws is not None:
            torch.set_rng_state(drawn)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, whose results all depend on it: so does its gradient, which is summed too."""
        with self._noticed():
            found: torch.Tensor = _Summed.apply(values)  # type: ignore[no-untyped-call]
        return found

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of this process's part."""
        with self._noticed():
            if self._fabric is None:
                loss.backward()
            else:
                self._fabric.backward(loss)

    def reduce(self, summed: Iterable[nn.Parameter], averaged: Iterable[nn.Parameter]) -> None:
        """Gradients of all processes: of what sees a part of the batch the sum, of what sees all of it the mean."""
        if self.size == 1:
            return
        pairs = [(p.grad, 1.0) for p in summed if p.grad is not None]
        pairs += [(p.grad, 1 / self.size) for p in averaged if p.grad is not None]
        flat = torch.cat([share * gradient.flatten() for gradient, share in pairs])
        with self._noticed():
            distributed.all_reduce(flat)
        for (gradient, _), part in zip(pairs, flat.split([g.numel() for g, _ in pairs]), strict=True):
            gradient.copy_(part.view(gradient.shape))

    def leave(self) -> None:
        """The end of this process's part."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def _noticed(self) -> Any:
        return _noticed(self.rank, self.size)


@contextmanager
def _noticed(rank: int, size: int) -> Iterator[None]:
    """Says it plainly where another process has ended: the connection to it is then closed."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        lost = isinstance(error, distributed.DistError | ConnectionError) or "gloo" in str(error).lower()
        if size == 1 or not (lost or "peer" in str(error)):
            raise
        message = f"process {rank + 1} of {size} {LOST}: {str(error).partition(chr(10))[0]}"
        raise EdgekdError(message, hint="the same command goes on from the last finished epoch") from error


class _Gathered(torch.autograd.Function):
    """Rows of all processes. Each computes the same loss of all of them, so that the gradient of its own is its own."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, begin: int, count: int) -> torch.Tensor:
        ctx.rows = slice(begin, begin + len(own))
        whole = own.new_zeros(count, *own.shape[1:])
        whole[ctx.rows] = own
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradient[ctx.rows], None, None


class _Summed(torch.autograd.Function):
    """The sum over the processes. The loss depends on it through what each of them makes of it."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _fabric(devices: int, nodes: int, precision: Precision, local: int | None) -> Any:
    """A launched Fabric; `local`: this process's number on its machine, None where it is alone."""
    try:
        with quiet():
            from lightning_fabric import Fabric
            from lightning_fabric.plugins.environments import LightningEnvironment
            from lightning_fabric.strategies import DDPStrategy
    except ImportError:
        what = "several processes" if local is not None else f"precision {precision}"
        raise UserError(f"training with {what} needs Lightning Fabric", hint=INSTALL) from None
    asked: dict[str, Any] = {"accelerator": "cpu", "devices": devices, "precision": _NAMED[precision]}
    if local is not None:
        strategy = DDPStrategy(
            cluster_environment=LightningEnvironment(), process_group_backend="gloo", timeout=PATIENCE
        )
        asked |= {"strategy": strategy, "num_nodes": nodes}
    with quiet():
        fabric = Fabric(**asked)
        fabric.launch()
    return fabric


_NAMED = {"32": "32-true", "bf16-mixed": "bf16-mixed"}
