"""The objective: the weighted sum of the losses that a recipe names, for one batch of a student and its teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import nn
from torch.nn.utils import parametrize

from edgekd import registry
from edgekd.compared import MODULES, TARGETS, Batch, Masked, Names, listed
from edgekd.errors import EdgekdError, UserError, nearest
from edgekd.features import capture, classifier, deepest, pair, pair_several, shapes, spread
from edgekd.partway import untouched, upto
from edgekd.stage import Use

if TYPE_CHECKING:
    from edgekd.teacher import Teacher

WANTS = ("labels", "logits", "features", "branch", "self", "masked", "head")
ALSO = ("labels", "targets", "progress", "samples", "own", "logits", "tail", "layer")


class Loss(Protocol):
    """The contract of a file in `edgekd/losses/`, told there."""

    wants: ClassVar[str]

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor: ...


def build(losses: Sequence[Use]) -> dict[str, tuple[tuple[float, float], Any]]:
    """{name: (weight at the beginning and at the end, loss)}; the second use of "kl" is called "kl 2".

    Raises UserError for a loss that does not exist, a field of it that is wrong, or a file that breaks the contract.
    """
    terms: dict[str, tuple[tuple[float, float], Any]] = {}
    for use in losses:
        loss = registry.build("losses", use.use, use.fields)
        for field, value, known in (
            *[("wants", getattr(loss, "wants", None), WANTS)],
            *[("also", name, ALSO) for name in getattr(loss, "also", ())],
        ):
            if value not in known:
                message = f"{registry.file_of('losses', use.use)}: `{field}` is {value!r}"
                raise UserError(message, hint=nearest("", known))
        count = sum(name.partition(" ")[0] == use.use for name in terms)
        terms[f"{use.use} {count + 1}" if count else use.use] = use.weight, loss
    return terms


def check(losses: Sequence[Use], batch: int, *, modules: bool = True) -> None:
    """What can be said of a recipe's losses without a network. `modules`: whether the student will have any.

    Raises UserError as `build` does, for a batch too small for a loss, and for a loss on features where there are none.
    """
    for name, (_, loss) in build(losses).items():
        if batch < (least := getattr(loss, "least", 1)):
            message = f'the loss "{name}" compares the samples of a batch, {least} at least; batch is {batch}'
            raise UserError(message, hint="a larger batch, or a loss on single samples")
        if loss.wants in MODULES and not modules:
            message = f'the loss "{name}" wants features, and a quantized program keeps no modules'
            raise UserError(message, hint="use losses on logits")


class Objective:
    """Made once for a stage, called for each batch. `learned` holds what its losses learn or remember, which ends with it.

    `losses`: what `stage.uses` reads from a recipe. `teacher` is called only where a loss wants what is not given.
    Raises UserError as `build` does.
    """

    def __init__(self, losses: Sequence[Use], teacher: Callable[[], Teacher]) -> None:
        self.terms = build(losses)
        self.learned = nn.ModuleDict({kind: nn.ModuleDict() for kind in ("projector", "state", "classifiers")})
        self.least = max(getattr(loss, "least", 1) for _, loss in self.terms.values())
        self.pairs: dict[str, tuple[str, str]] = {}
        self._teacher = teacher
        self._count = 0

    def wants(self, kind: str) -> bool:
        """Whether some loss wants the teacher's "logits" or "features"."""
        kinds = ("logits", "branch", "head") if kind == "logits" else (kind,)
        return any(loss.wants in kinds or kind in getattr(loss, "also", ()) for _, loss in self.terms.values())

    def prepare(
        self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, seed: int, count: int | None = None
    ) -> None:
        """Run once on a few samples [n, ...] of a training split of `count`: pair modules that the recipe does not name, make
        what the losses learn, from `seed`, and find what does not fit.

        Raises UserError as a call does, and for a loss that nothing of the model has a gradient of.
        """
        self._count = count or len(inputs)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            self._pair(model, inputs)
            terms = self(model, inputs, targets if targets.is_floating_point() else targets.clamp(min=0))
            trained = [p for p in model.parameters() if p.requires_grad]
            for name, value in terms.items():
                if not trained or not _reached(value, trained):
                    raise _no_gradient(name)
        self.learned.train()

    def __call__(
        self,
        model: nn.Module,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        teacher: torch.Tensor | None = None,
        *,
        progress: float = 0.0,
        samples: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """{loss: weight times its value} for inputs [batch, ...], targets [batch]; `teacher`: its logits if already known.

        `progress` and `samples` are told to the losses that want them; without `samples` they are the first of the split.
        A target of −1 is of a sample without a label: losses that want labels see the others, and where these are too few
        for one, it counts zero.
        Raises UserError where teacher and student do not fit each other, where the teacher's output is not finite, where the
        batch is too small, and for a loss without a gradient.
        """
        with (
            capture(model, self._modules("student", ("features", "branch", "self")), "student") as own,
            capture(model, self._modules("student", ("head",)), "student", inputs=True) as fed,
        ):
            logits = model(inputs)
        known, features = self._asked(inputs, teacher)
        if known is not None and known.shape != logits.shape:
            shapes = f"the teacher gives logits {list(known.shape)}, the student {list(logits.shape)}"
            raise UserError(shapes, hint="both need the same classes, in the same order")
        samples = torch.arange(len(inputs)) if samples is None else samples
        batch = Batch(inputs, targets, samples, logits, known, own, fed, features)
        labelled = None if targets.is_floating_point() or int(targets.min()) >= 0 else targets >= 0
        found = {}
        for name, ((first, last), loss) in self.terms.items():
            least = getattr(loss, "least", 1)
            if len(inputs) < least:
                message = f'the loss "{name}" needs a batch of {least} or more, this one has {len(inputs)}'
                raise UserError(message, hint="more training samples, or a loss on single samples")
            some = batch
            if labelled is not None and (loss.wants in TARGETS or "labels" in getattr(loss, "also", ())):
                if int(labelled.sum()) < least:
                    found[name] = 0.0 * logits.sum()
                    continue
                some = batch.of(labelled)
            value = self._value(name, loss, model, some, progress)
            found[name] = (first + (last - first) * progress) * value
            if torch.is_grad_enabled() and not found[name].requires_grad:
                raise _no_gradient(name)
        return found

    def divide(self, model: nn.Module) -> None:
        """Before training: give the layers that a loss divides the parameters that it trains. Raises UserError for two at one."""
        for name, (_, loss) in self.terms.items():
            if not hasattr(loss, "divided"):
                continue
            layer = model.get_submodule(loss.student)
            if parametrize.is_parametrized(layer, "weight"):
                message = f'the loss "{name}" divides the layer "{loss.student}", whose weight is parametrised already'
                raise UserError(message, hint="name the loss once")
            for part in ("weight", "bias"):
                if isinstance(getattr(layer, part, None), torch.Tensor):
                    parametrize.register_parametrization(layer, part, loss.divided())

    def unite(self, model: nn.Module) -> None:
        """After training: such layers keep what their parts were together."""
        for _, loss in self.terms.values():
            layer = model.get_submodule(loss.student) if hasattr(loss, "divided") else nn.Identity()
            for part in ("weight", "bias"):
                if parametrize.is_parametrized(layer, part):
                    parametrize.remove_parametrizations(layer, part)

    def _value(self, name: str, loss: Any, model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        ours, theirs = self._masked(loss, model, batch.inputs) if loss.wants == "masked" else batch.compared(loss)
        known = batch.known(progress)
        if "tail" in (also := getattr(loss, "also", ())):
            known["tail"] = partial(self._teacher().onwards, batch.inputs, loss.teacher)
        if "layer" in also:
            known["layer"] = model.get_submodule(loss.student)
        given = {key: known[key] for key in also}
        count, classes = self._count or len(batch.inputs), batch.logits.shape[1]
        if hasattr(loss, "state"):
            given["state"] = self._made("state", name, lambda: loss.state(ours, theirs, count))
        if hasattr(loss, "classifiers"):
            given["classifiers"] = self._made("classifiers", name, lambda: loss.classifiers(ours, theirs, classes))
        if hasattr(loss, "projector"):
            ours = self._made("projector", name, lambda: loss.projector(ours, theirs))(ours)
        value: torch.Tensor = loss(ours, theirs, **given)
        return value

    def _made(self, kind: str, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """The projector, state or classifiers of a loss; in eval mode until training begins, so that a trial leaves it as it was."""
        parts = self.learned[kind]
        assert isinstance(parts, nn.ModuleDict)
        if name not in parts:
            parts[name] = make().eval()
        return parts[name]

    def _masked(self, loss: Any, model: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, Masked]:
        """What both modules give where a part of the inputs is hidden."""
        hidden = loss.mask(inputs)
        shown = inputs.masked_fill(hidden, 0)
        with untouched(model):
            ours = upto(model, loss.student, shown, "student")
        theirs = self._teacher().partial(shown, loss.teacher)
        _finite({f'output of "{loss.teacher}" is': theirs})
        return ours, Masked(theirs, inputs, hidden)

    def _asked(
        self, inputs: torch.Tensor, known: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """The teacher's logits and features: what is wanted and not yet known is asked of the teacher."""
        features: dict[str, torch.Tensor] = {}
        if self.wants("features"):
            logits, features = self._teacher().features(inputs, self._modules("teacher", ("features",)))
            known = logits if known is None else known
        elif self.wants("logits") and known is None:
            known = self._teacher().outputs(inputs)
        _finite({**{f'output of "{name}" is': x for name, x in features.items()}, "logits are": known})
        return known, features

    def _modules(self, whose: str, kinds: Sequence[str]) -> list[str]:
        wanting = (loss for _, loss in self.terms.values() if loss.wants in kinds)
        return sorted({name for loss in wanting for name in listed(getattr(loss, whose)) or [""]})

    def _pair(self, model: nn.Module, inputs: torch.Tensor) -> None:
        """Name the modules that the recipe leaves open; `pairs` says which they are."""
        for name, (weight, loss) in self.terms.items():
            if loss.wants not in MODULES or all(getattr(loss, whose, "-") for whose in ("student", "teacher")):
                continue
            chosen = self._chosen(loss, model, inputs)
            self.terms[name] = weight, replace(loss, **chosen)
            other = "" if loss.wants == "self" else "logits"
            own, theirs = chosen["student"], chosen.get("teacher", other)
            self.pairs[name] = ", ".join(listed(own)), ", ".join(listed(theirs))

    def _chosen(self, loss: Any, model: nn.Module, inputs: torch.Tensor) -> dict[str, Any]:
        """{"student": …, "teacher": …}: the modules of a loss, those that it names among them."""
        if loss.wants == "head":
            return {"student": classifier(model, inputs)}
        own = shapes(model, inputs, "student", listed(loss.student))
        several = isinstance(loss.student, tuple)
        if not hasattr(loss, "teacher"):
            return {"student": loss.student or (spread(own) if several else deepest(own))}
        theirs = self._teacher().shapes(inputs, listed(loss.teacher))
        found: tuple[Names, Names] = (
            pair(own, theirs, loss.student, loss.teacher)
            if not several
            else (pair_several(own, theirs, loss.student, loss.teacher))
        )
        return {"student": found[0], "teacher": found[1]}


def _finite(outputs: dict[str, torch.Tensor | None]) -> None:
    for what, x in outputs.items():
        if x is not None and not bool(torch.isfinite(x).all()):
            raise UserError(f"the teacher's {what} NaN or infinite", hint="check its weights, and its inputs")


def _reached(value: torch.Tensor, parameters: list[nn.Parameter]) -> bool:
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in gradients)


def _no_gradient(name: str) -> EdgekdError:
    message = f'the loss "{name}" has no gradient: nothing that it reads of the student can be trained'
    return UserError(message, hint="name a later module, or train the one that it reads")
