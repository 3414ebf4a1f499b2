"""The objective: the weighted sum of the losses that a recipe names, for one batch of a student and its teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd.errors import UserError
from edgekd.stage import Use
from edgekd.training.added import Added
from edgekd.training.balance import Balance
from edgekd.training.companions import Companions
from edgekd.training.compared import MODULES, TARGETS, Batch, Masked, listed
from edgekd.training.features import capture
from edgekd.training.modules import chosen
from edgekd.training.partway import untouched, upto
from edgekd.training.terms import build, named, no_gradient, peers_arguments
from edgekd.training.world import World

if TYPE_CHECKING:
    from edgekd.teacher import Teacher

ALONE = World()
PEER = "peer"
"""What a peer's own losses are called."""
PARTS = ("projector", "state", "classifiers")
"""What a loss may learn or remember."""


class Objective:
    """Made once for a stage, called for each batch. `learned` holds what its losses learn or remember, which ends with it.

    `losses`: what `stage.uses` reads from a recipe. `teacher` is called only where a loss wants what is not given; `peer`
    makes a new student from a seed and other arguments, where a loss learns from one; `added` is called for terms of its own.
    Raises UserError as `build` does.
    """

    def __init__(
        self,
        losses: Sequence[Use],
        teacher: Callable[[], Teacher],
        peer: Callable[..., nn.Module] | None = None,
        added: Added | None = None,
    ) -> None:
        self.terms = build(losses)
        self.of = {name: (use.of, use.decay) for name, use in named(losses).items() if use.of != "teacher"}
        self.arguments = peers_arguments(losses)
        self.learned = nn.ModuleDict({kind: nn.ModuleDict() for kind in PARTS})
        self.companions = Companions()
        self.balanced: Balance | None = None
        if self.of:
            self.learned["companions"] = self.companions
        self.added = added
        if added is not None:
            self.learned["added"] = added
        self.least = max(getattr(loss, "least", 1) for _, loss in self.terms.values())
        self.pairs: dict[str, tuple[str, str]] = {}
        self._teacher, self._peer = teacher, peer
        self._count = 0

    def balance(self, wanted: bool = True) -> None:
        """From now on the losses' weights are shares of the gradient, if that is wanted: edgekd/training/balance.py."""
        if wanted:
            self.learned["balance"] = self.balanced = Balance(list(self.terms)).eval()

    def wants(self, kind: str) -> bool:
        """Whether some loss wants the teacher's "logits" or "features", or each "members" of several."""
        kinds = ("logits", "branch", "head") if kind == "logits" else (kind,)
        return any(
            (loss.wants in kinds and name not in self.of) or kind in getattr(loss, "also", ())
            for name, (_, loss) in self.terms.items()
        )

    @property
    def losses(self) -> dict[str, Any]:
        """By name, without their weights."""
        return {name: loss for name, (_, loss) in self.terms.items()}

    def gradients(self, model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of what is run on a process's rows alone, and of what every process runs on the whole batch."""
        rows = [*model.parameters(), *self.companions.parameters()]
        return rows, [p for kind in PARTS for p in self.learned[kind].parameters()]

    def prepare(
        self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, seed: int, count: int | None = None
    ) -> None:
        """Run once on a few samples [n, ...] of a training split of `count`: pair modules that the recipe does not name, make
        what the losses learn and whom the student learns with, from `seed`, and find what does not fit.

        Raises UserError as a call does, and for a loss that nothing of the model has a gradient of.
        """
        self._count = count or len(inputs)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            peer = self._peer or (lambda _seed, **_arguments: copy.deepcopy(model))
            self.companions.make(dict(self.of.values()), model, lambda: peer(seed, **self.arguments))
            self.companions.eval()
            self._pair(model, inputs)
            known = self._teacher().outputs(inputs) if self.wants("features") else None  # they are to fit, too
            terms = self(model, inputs, targets if targets.is_floating_point() else targets.clamp(min=0), known)
            trained = [p for p in model.parameters() if p.requires_grad]
            for name, value in terms.items():
                if name in self.terms and (not trained or not _reached(value, trained)):
                    raise no_gradient(name)
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
        members: torch.Tensor | None = None,
        world: World = ALONE,
    ) -> dict[str, torch.Tensor]:
        """{loss: weight times its value} for inputs [batch, ...], targets [batch]; `teacher`, `members`: its logits and those
        of each of several teachers, if already known. A peer's own losses are summed as "peer".

        `progress` and `samples` are told to the losses that want them; without `samples` they are the first of the split.
        Of several processes (`world`) each gives its own rows as `inputs`, and all else of the whole batch; the losses are
        of the whole batch, in all of them the same.
        A target of −1 is of a sample without a label: losses that want labels see the others, and where these are too few
        for one, it counts zero.
        Raises UserError where teacher and student do not fit each other, where the teacher's output is not finite, where the
        batch is too small, and for a loss without a gradient.
        """
        count = len(targets)
        with (
            capture(model, self._modules("student", ("features", "branch", "self")), "student") as own,
            capture(model, self._modules("student", ("head",)), "student", inputs=True) as fed,
            world.forward(),
        ):
            logits = model(inputs)
            answers = self.companions.answers(inputs)

        def whole(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: world.whole(value, count) for name, value in found.items()}

        logits, answers = world.whole(logits, count), whole(answers)
        known, members, features = self._asked(inputs, teacher, members, world, count)
        for who, said in (("teacher", known), ("teacher", members), *answers.items()):
            if said is not None and (shape := [len(said), said.shape[-1]]) != list(logits.shape):
                shapes = f"the {who} gives logits {shape}, the student {list(logits.shape)}"
                raise UserError(shapes, hint="both need the same classes, in the same order")
        samples = torch.arange(count) if samples is None else samples
        batch = Batch(
            inputs=world.whole(inputs, count) if any(map(_again, self.losses.values())) else None,
            targets=targets,
            samples=samples,
            logits=logits,
            teacher=known,
            own=whole(own),
            fed=whole(fed),
            features=features,
            members=members,
            answers={name: value.detach() for name, value in answers.items()},
        )
        found = self._terms(model, batch, progress, world)
        if "peer" in answers:
            turned = replace(batch, logits=answers["peer"], answers={"peer": logits.detach()})
            found[PEER] = torch.stack(list(self._terms(model, turned, progress, world, learns=False).values())).sum()
        if self.added is not None:
            found |= self.added(inputs, progress)
        return found

    def _terms(
        self, model: nn.Module, batch: Batch, progress: float, world: World, *, learns: bool = True
    ) -> dict[str, torch.Tensor]:
        """The losses of a student that made this of a batch, or (not `learns`) those that a peer has too: on labels and
        logits, from the teacher and from the student, without anything learned.
        """
        targets = batch.targets
        labelled = None if targets.is_floating_point() or int(targets.min()) >= 0 else targets >= 0
        values = {}
        for name, (_, loss) in self.terms.items():
            of = self.of.get(name, ("teacher", 0.0))[0]
            stays = loss.wants in ("labels", "logits") and not any(hasattr(loss, part) for part in PARTS)
            if not learns and (not stays or of == "average"):
                continue
            least = getattr(loss, "least", 1)
            if len(targets) < least:
                message = f'the loss "{name}" needs a batch of {least} or more, this one has {len(targets)}'
                raise UserError(message, hint="more training samples, or a loss on single samples")
            some = batch
            if labelled is not None and (loss.wants in TARGETS or "labels" in getattr(loss, "also", ())):
                if int(labelled.sum()) < least:
                    values[name] = 0.0 * batch.logits.sum()
                    continue
                some = batch.of(labelled)
            values[name] = self._value(name, loss, model, some, progress, world, of)
            if torch.is_grad_enabled() and not values[name].requires_grad:
                raise no_gradient(name)
        if self.balanced is not None and learns and self.balanced.training:
            self.balanced.look(values, model.parameters(), world)
        factors = {} if self.balanced is None else self.balanced.factors()
        weights = {name: first + (last - first) * progress for name, ((first, last), _) in self.terms.items()}
        return {name: weights[name] * factors.get(name, 1.0) * value for name, value in values.items()}

    def _value(
        self, name: str, loss: Any, model: nn.Module, batch: Batch, progress: float, world: World, of: str
    ) -> torch.Tensor:
        also = getattr(loss, "also", ())
        inputs: Any = batch.inputs
        ours, theirs = self._masked(loss, model, inputs, world) if loss.wants == "masked" else batch.compared(loss, of)
        known = batch.known(progress)
        if "tail" in also:
            known["tail"] = partial(self._teacher().onwards, inputs, loss.teacher)
        if "layer" in also:
            known["layer"] = model.get_submodule(loss.student)
        given = {key: known[key] for key in also}
        count, classes = self._count or len(batch.samples), batch.logits.shape[1]
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

    def _masked(self, loss: Any, model: nn.Module, inputs: Any, world: World) -> tuple[torch.Tensor, Masked]:
        """What both modules give where a part of the inputs is hidden; each process runs its own rows."""
        hidden = loss.mask(inputs)
        shown = world.own(inputs.masked_fill(hidden, 0))
        with untouched(model), world.forward():
            ours = upto(model, [loss.student], shown, "student")[loss.student]
        theirs = world.whole(self._teacher().partial(shown, [loss.teacher])[loss.teacher], len(inputs))
        _finite({f'output of "{loss.teacher}" is': theirs})
        return world.whole(ours, len(inputs)), Masked(theirs, inputs, hidden)

    def _asked(
        self, inputs: torch.Tensor, known: torch.Tensor | None, members: torch.Tensor | None, world: World, count: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, dict[str, torch.Tensor]]:
        """The teacher's logits, each member's, and features [count, …]: what is wanted and not known is asked of it."""
        features: dict[str, torch.Tensor] = {}
        names = self._modules("teacher", ("features",)) if self.wants("features") else []
        if known is None and self.wants("logits"):
            ask = self._teacher()
            logits, features = ask.features(inputs, names) if names else (ask.outputs(inputs), {})
            known = world.whole(logits, count)
        elif names:
            features = self._teacher().partial(inputs, names)
        features = {name: world.whole(value, count) for name, value in features.items()}
        if self.wants("members") and members is None:
            members = world.whole(self._teacher().each(inputs), count)
        told = {"logits are": known, "members' logits are": members}
        _finite({**{f'output of "{name}" is': x for name, x in features.items()}, **told})
        return known, members, features

    def _modules(self, whose: str, kinds: Sequence[str]) -> list[str]:
        wanting = (loss for _, loss in self.terms.values() if loss.wants in kinds)
        return sorted({name for loss in wanting for name in listed(getattr(loss, whose)) or [""]})

    def _pair(self, model: nn.Module, inputs: torch.Tensor) -> None:
        """Name the modules that the recipe leaves open; `pairs` says which they are."""
        for name, (weight, loss) in self.terms.items():
            if loss.wants not in MODULES or all(getattr(loss, whose, "-") for whose in ("student", "teacher")):
                continue
            found = chosen(loss, model, inputs, self._teacher)
            self.terms[name] = weight, replace(loss, **found)
            other = "" if loss.wants == "self" else "logits"
            own, theirs = found["student"], found.get("teacher", other)
            self.pairs[name] = ", ".join(listed(own)), ", ".join(listed(theirs))


def _again(loss: Any) -> bool:
    """Whether it runs a part of a network again, for which the inputs of the whole batch are needed."""
    return loss.wants == "masked" or "tail" in getattr(loss, "also", ())


def _finite(outputs: dict[str, torch.Tensor | None]) -> None:
    for what, x in outputs.items():
        if x is not None and not bool(torch.isfinite(x).all()):
            raise UserError(f"the teacher's {what} NaN or infinite", hint="check its weights, and its inputs")


def _reached(value: torch.Tensor, parameters: list[nn.Parameter]) -> bool:
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in gradients)
