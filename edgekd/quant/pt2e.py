"""PTQ and QAT on torchao's PT2E: prepare, calibrate, perhaps train, convert to quantize/dequantize pairs.

    prepared = prepare(student, example, AFFINE, "percentile", qat=False)
    calibrate(prepared, batches)
    program = convert(prepared)

The batch dimension is free, so one prepared graph trains with batches of 128 and is exported with a batch of one. Prepared
and calibrated, it computes what the integer engine will compute, up to float rounding; so evaluate it for the ledger's
fake-quantized row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from types import MethodType

import torch
from torch import nn
from torch.fx import GraphModule

from edgekd import registry
from edgekd.errors import EdgekdError, UserError
from edgekd.quant.adapter import Observer, activations, weights
from edgekd.quant.fold import fold_batch_norm, settle_weights
from edgekd.quant.grid import Grid
from edgekd.quant.precision import FLOAT, Precision
from edgekd.quant.quantizer import BATCH_NORM, WEIGHTED, GridQuantizer
from edgekd.quant.step import PerChannelStep
from edgekd.quant.tables import round_rows, with_integer_tables
from edgekd.quant.torchao import convert_pt2e, insert_adapters, quiet, scopes_of
from edgekd.quant.trace import set_training, trace

__all__ = [
    "calibrate",
    "convert",
    "fit_weights",
    "freeze_batch_norm",
    "learn_steps",
    "prepare",
    "restore",
    "settle_steps",
    "state",
]

FROZEN = "edgekd_batch_norm_frozen"
INT8 = Precision()


def prepare(
    model: nn.Module,
    example: torch.Tensor,
    grid: Grid,
    observer: str | Callable[[], Observer],
    qat: bool,
    precision: Precision = INT8,
) -> GraphModule:
    """A copy of `model` as a graph with an adapter at each tensor that `grid` quantizes; `model` is untouched.

    `example` [batch, …] gives shapes and dtype; only its first row is used. `observer` is a name of the registry or
    anything that makes one, as `functools.partial(Percentile, percentile=99.9)`. With `qat`, batch norms stay in the graph
    and train; without, they are folded first. `precision` says how many bits each tensor gets.
    `.train()` and `.eval()` of the result work as a module's do.

    Raises UserError for a student that cannot be exported, or an observer that does not exist.
    """
    factory = registry.find("observers", observer) if isinstance(observer, str) else observer
    graph = trace(model, example, train=qat)
    if not qat:
        fold_batch_norm(graph)
        graph = GraphModule(graph, graph.graph)
    quantizer = GridQuantizer(grid, factory, precision)
    scopes = scopes_of(graph)
    with quiet():
        quantizer.annotate(graph)
        prepared: GraphModule = insert_adapters(graph, scopes, is_qat=qat)
    if precision.embeddings < FLOAT and (activations(prepared) or weights(prepared)):
        round_rows(prepared)
    fit_weights(prepared)
    prepared.train = MethodType(_train, prepared)  # type: ignore[method-assign]
    prepared.train(qat)
    return prepared


def _train(self: GraphModule, mode: bool = True) -> GraphModule:
    set_training(self, mode, frozen=frozenset({BATCH_NORM} if self.meta.get(FROZEN) else ()))
    return self


def calibrate(prepared: GraphModule, batches: Iterable[torch.Tensor]) -> None:
    """Show the batches [n, …] to fresh observers, in eval mode without gradients, and take the ranges that they find.

    Weights are quantized meanwhile, as they will be. Nothing else moves a range: QAT trains inside the ranges that the
    chosen observer found. A moving average of the extremes, scaled to keep what the observer clips, was tried and was
    worse in four of four trials (Fashion-MNIST, 3 epochs, one seed, KL to the float student · 10⁴: 3.4, 3.8, 2.8, 3.4
    against 2.8, 3.2, 2.5, 3.0). Where training has moved the activations far, call this again after freezing batch norm.

    The mode is restored. Raises EdgekdError for no batches, or for values that are not finite; the earlier ranges then stay.
    """
    adapters = activations(prepared)
    training = prepared.training
    prepared.eval()
    try:
        for adapter in adapters:
            adapter.observe()
        with torch.no_grad():
            for batch in batches:
                prepared(batch)
        found = [adapter.open.range() for adapter in adapters if adapter.open is not None]
        for adapter, (low, high) in zip(adapters, found, strict=True):
            adapter.take(low, high)
    finally:
        for adapter in adapters:
            adapter.open = None
        prepared.train(training)


def convert(prepared: GraphModule) -> GraphModule:
    """The quantized program: int8 weights and tables, quantize/dequantize pairs, batch norms folded; `prepared` can go on training.

    Raises EdgekdError where it was neither calibrated nor restored.
    """
    if any(adapter.grid is None for adapter in activations(prepared)):
        raise EdgekdError("the prepared student has no activation ranges", hint="calibrate it, or restore its state")
    with quiet():
        graph = copy.deepcopy(prepared)
        set_training(graph, False)
        settle_steps(graph)
        fold_batch_norm(graph)
        settle_weights(graph)
        return with_integer_tables(convert_pt2e(graph))  # without the float weights, which nothing reads now


def fit_weights(prepared: GraphModule) -> None:
    """Take the steps that are state of their own from the weights as they are now."""
    for layer in prepared.graph.nodes:
        if layer.op != "call_function" or layer.target not in WEIGHTED or layer.args[1].op != "call_module":
            continue
        adapter, held = prepared.get_submodule(str(layer.args[1].target)), layer.args[1].args[0]
        if isinstance(adapter, PerChannelStep):
            adapter.fit(prepared.get_parameter(str(held.target)))


def learn_steps(prepared: GraphModule) -> None:
    """Make every calibrated step a parameter, so that training learns it; weights need `stored` steps.

    Source: Esser et al. 2020, arXiv 1902.08153; ranges start where calibration left them, not at 2⟨|v|⟩ / √Q_P.
    """
    for activation in activations(prepared):
        activation.learn()
    for weight in weights(prepared):
        if isinstance(weight, PerChannelStep):
            weight.learn()


def settle_steps(prepared: GraphModule) -> None:
    """Make the learned steps ranges and scales again; nothing where none are learned."""
    for activation in activations(prepared):
        activation.settle_step()
    for weight in weights(prepared):
        if isinstance(weight, PerChannelStep):
            weight.settle_step()


def freeze_batch_norm(prepared: GraphModule) -> None:
    """Batch norm uses its running statistics from now on, in training too; its γ and β still train.

    Source: Krishnamoorthi 2018, arXiv 1806.08342, section 3.2.2.
    """
    prepared.meta[FROZEN] = True
    prepared.train(prepared.training)


def state(prepared: GraphModule) -> dict[str, torch.Tensor]:
    """Everything that `restore` needs: parameters, running statistics, activation ranges; copies, contiguous."""
    return {name: value.detach().clone().contiguous() for name, value in prepared.state_dict().items()}


def restore(prepared: GraphModule, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load what `state` gave into a student prepared in the same way (same model, grid and `qat`), in place.

    Raises UserError, naming the tensor, where names or shapes differ.
    """
    own = prepared.state_dict()
    if differing := sorted(own.keys() ^ tensors.keys()):
        first, hint = differing[0], "restore into a student prepared with the same model, grid and qat"
        problem = "lacks the" if first in own else "has an unknown"
        raise UserError(f'the quantized state {problem} tensor "{first}", one of {len(differing)}', hint=hint)
    for name, value in own.items():
        given = tensors[name].shape
        if value.shape != given:
            raise UserError(f'the quantized state\'s "{name}" has shape {list(given)}, not {list(value.shape)}')
    prepared.load_state_dict(dict(tensors))
    for adapter in activations(prepared):
        adapter.settle()
