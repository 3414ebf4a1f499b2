"""The objective: the weighted sum of the losses that a recipe names, for one batch of a student and its teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import nn

from edgekd import registry
from edgekd.companions import Companions
from edgekd.errors import EdgekdError, UserError, nearest
from edgekd.features import capture, deepest, pair, shapes
from edgekd.stage import Use
from edgekd.world import World

if TYPE_CHECKING:
    from edgekd.teacher import Teacher

WANTS = ("labels", "logits", "members", "features", "branch")
ALSO = ("labels", "progress", "samples")
MODULES = ("features", "branch")
"""What is wanted of a module of the student, not of its logits."""
ALONE = World()
PEER = "peer"
"""What a peer's own losses are called."""


class Loss(Protocol):
    """The contract of a file in `edgekd/losses/`, told there."""

    wants: ClassVar[str]

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor: ...


def build(losses: Sequence[Use]) -> dict[str, tuple[tuple[float, float], Any]]:
    """{name: (weight at the beginning and at the end, loss)}; the second use of "kl" is called "kl 2".

    Raises UserError for a loss that does not exist, a field of it that is wrong, or a file that breaks the contract.
    """
    terms: dict[str, tuple[tuple[float, float], Any]] = {}
    for name, use in _named(losses).items():
        loss = registry.build("losses", use.use, use.fields)
        for field, value, known in (
            *[("wants", getattr(loss, "wants", None), WANTS)],
            *[("also", name, ALSO) for name in getattr(loss, "also", ())],
        ):
            if value not in known:
                message = f"{registry.file_of('losses', use.use)}: `{field}` is {value!r}"
                raise UserError(message, hint=nearest("", known))
        if use.of != "teacher" and loss.wants != "logits":
            message = f'the loss "{name}" wants {loss.wants}: it cannot learn from the student\'s {use.of}'
            raise UserError(message, hint='`from` is for losses on logits, as in { use = "kl", from = "peer" }')
        terms[name] = use.weight, loss
    return terms


def _named(losses: Sequence[Use]) -> dict[str, Use]:
    found: dict[str, Use] = {}
    for use in losses:
        count = sum(name.partition(" ")[0] == use.use for name in found)
        found[f"{use.use} {count + 1}" if count else use.use] = use
    return found


def check(losses: Sequence[Use], batch: int, *, modules: bool = True) -> None:
    """What can be said of a recipe's losses without a network. `modules`: whether the student will have any.

    Raises UserError as `build` does, for a batch too small for a loss, and for what needs modules where there are none.
    """
    for name, (_, loss) in build(losses).items():
        if batch < (least := getattr(loss, "least", 1)):
            message = f'the loss "{name}" compares the samples of a batch, {least} at least; batch is {batch}'
            raise UserError(message, hint="a larger batch, or a loss on single samples")
        if loss.wants in MODULES and not modules:
            message = f'the loss "{name}" wants features, and a quantized program keeps no modules'
            raise UserError(message, hint="use losses on logits")
    for name, use in _named(losses).items():
        if use.of != "teacher" and not modules:
            message = f'the loss "{name}" learns from the student\'s {use.of}, which a quantized program has not'
            raise UserError(message, hint='teacher = "student" in qat learns from the float student')


class Objective:
    """Made once for a stage, called for each batch. `learned` holds what its losses learn or remember, which ends with it.

    `losses`: what `stage.uses` reads from a recipe. `teacher` is called only where a loss wants what is not given; `peer`
    makes a new student from a seed, where a loss learns from one. Raises UserError as `build` does.
    """

    def __init__(
        self, losses: Sequence[Use], teacher: Callable[[], Teacher], peer: Callable[[int], nn.Module] | None = None
    ) -> None:
        self.terms = build(losses)
        self.of = {name: (use.of, use.decay) for name, use in _named(losses).items() if use.of != "teacher"}
        self.learned = nn.ModuleDict({"projector": nn.ModuleDict(), "state": nn.ModuleDict()})
        self.companions = Companions()
        if self.of:
            self.learned["companions"] = self.companions
        self.least = max(getattr(loss, "least", 1) for _, loss in self.terms.values())
        self.pairs: dict[str, tuple[str, str]] = {}
        self._teacher, self._peer = teacher, peer
        self._count = 0

    def wants(self, kind: str) -> bool:
        """Whether some loss wants the teacher's "logits" or "features", or each "members" of several."""
        kinds = ("logits", "branch") if kind == "logits" else (kind,)
        return any(loss.wants in kinds for name, (_, loss) in self.terms.items() if name not in self.of)

    def gradients(self, model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of what is run on a process's rows alone, and of what every process runs on the whole batch."""
        rows = [*model.parameters(), *self.companions.parameters()]
        return rows, [p for kind in ("projector", "state") for p in self.learned[kind].parameters()]

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
            peer = self._peer
            self.companions.make(dict(self.of.values()), model, lambda: peer(seed) if peer else copy.deepcopy(model))
            self.companions.eval()
            self._pair(model, inputs)
            terms = self(model, inputs, targets if targets.is_floating_point() else targets.clamp(min=0))
            trained = [p for p in model.parameters() if p.requires_grad]
            for name, value in terms.items():
                if name != PEER and (not trained or not _reached(value, trained)):
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
        with capture(model, self._modules("student", MODULES), "student") as own, world.forward():
            logits = model(inputs)
            answers = self.companions.answers(inputs)
        logits = world.whole(logits, count)
        own = {name: world.whole(value, count) for name, value in own.items()}
        answers = {name: world.whole(value, count) for name, value in answers.items()}
        known, members, features = self._asked(inputs, teacher, members, world, count)
        for said in (known, None if members is None else members[:, 0]):
            if said is not None and said.shape != logits.shape:
                shapes = f"the teacher gives logits {list(said.shape)}, the student {list(logits.shape)}"
                raise UserError(shapes, hint="both need the same classes, in the same order")
        also: dict[str, Any] = {
            "labels": targets,
            "progress": progress,
            "samples": torch.arange(count) if samples is None else samples,
        }
        theirs: dict[str, Any] = {"labels": targets, "logits": known, "branch": known, "members": members}
        theirs |= {f"features/{name}": value for name, value in features.items()}
        found = self._terms(logits, own, {**theirs, **{name: x.detach() for name, x in answers.items()}}, also)
        if "peer" in answers:
            turned = self._terms(answers["peer"], {}, {**theirs, "peer": logits.detach()}, also, learns=False)
            found[PEER] = torch.stack(list(turned.values())).sum()
        return found

    def _terms(
        self,
        logits: torch.Tensor,
        own: dict[str, torch.Tensor],
        theirs: dict[str, Any],
        also: dict[str, Any],
        *,
        learns: bool = True,
    ) -> dict[str, torch.Tensor]:
        """The losses of a student with these logits and features, or (not `learns`) those that a peer has too: on labels and
        logits, from the teacher and from the student, without anything learned.
        """
        targets, progress = also["labels"], also["progress"]
        labelled = None if targets.is_floating_point() or int(targets.min()) >= 0 else targets >= 0
        found = {}
        for name, ((first, last), loss) in self.terms.items():
            of = self.of.get(name, ("teacher", 0.0))[0]
            if not learns and (loss.wants not in ("labels", "logits") or hasattr(loss, "state") or of == "average"):
                continue
            least = getattr(loss, "least", 1)
            if len(targets) < least:
                message = f'the loss "{name}" needs a batch of {least} or more, this one has {len(targets)}'
                raise UserError(message, hint="more training samples, or a loss on single samples")
            ours = own[loss.student] if loss.wants in MODULES else logits
            side = theirs[of if of != "teacher" else self._side(loss)]
            given = also
            if labelled is not None and (loss.wants == "labels" or "labels" in getattr(loss, "also", ())):
                if int(labelled.sum()) < least:
                    found[name] = 0.0 * ours.sum()
                    continue
                ours, side = ours[labelled], side[labelled]
                given = {**also, "labels": targets[labelled], "samples": also["samples"][labelled]}
            found[name] = (first + (last - first) * progress) * self._value(name, loss, ours, side, given)
            if torch.is_grad_enabled() and not found[name].requires_grad:
                raise _no_gradient(name)
        return found

    @staticmethod
    def _side(loss: Any) -> str:
        return f"features/{loss.teacher}" if loss.wants == "features" else str(loss.wants)

    def _value(self, name: str, loss: Any, ours: torch.Tensor, theirs: Any, also: dict[str, Any]) -> torch.Tensor:
        given = {key: also[key] for key in getattr(loss, "also", ())}
        if hasattr(loss, "state"):
            given["state"] = self._made("state", name, lambda: loss.state(ours, theirs, self._count or len(ours)))
        if hasattr(loss, "projector"):
            ours = self._made("projector", name, lambda: loss.projector(ours, theirs))(ours)
        value: torch.Tensor = loss(ours, theirs, **given)
        return value

    def _made(self, kind: str, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """The projector or state of a loss; in eval mode until training begins, so that a trial leaves it as it was."""
        parts = self.learned[kind]
        assert isinstance(parts, nn.ModuleDict)
        if name not in parts:
            parts[name] = make().eval()
        return parts[name]

    def _asked(
        self,
        inputs: torch.Tensor,
        known: torch.Tensor | None,
        members: torch.Tensor | None,
        world: World,
        count: int,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, dict[str, torch.Tensor]]:
        """The teacher's logits, each member's, and features [count, …]: what is wanted and not known is asked of it."""
        features: dict[str, torch.Tensor] = {}
        if self.wants("features"):
            logits, features = self._teacher().features(inputs, self._modules("teacher", ("features",)))
            known = world.whole(logits, count) if known is None else known
            features = {name: world.whole(value, count) for name, value in features.items()}
        elif self.wants("logits") and known is None:
            known = world.whole(self._teacher().outputs(inputs), count)
        if self.wants("members") and members is None:
            members = world.whole(self._teacher().each(inputs), count)
        told = {"logits are": known, "members' logits are": members}
        for what, x in {**{f'output of "{name}" is': x for name, x in features.items()}, **told}.items():
            if x is not None and not bool(torch.isfinite(x).all()):
                raise UserError(f"the teacher's {what} NaN or infinite", hint="check its weights, and its inputs")
        return known, members, features

    def _modules(self, whose: str, kinds: Sequence[str]) -> list[str]:
        return sorted({getattr(loss, whose) for _, loss in self.terms.values() if loss.wants in kinds})

    def _pair(self, model: nn.Module, inputs: torch.Tensor) -> None:
        """Name the modules that the recipe leaves open; `pairs` says which they are."""
        for name, (weight, loss) in self.terms.items():
            if loss.wants not in MODULES or all(getattr(loss, whose, "-") for whose in ("student", "teacher")):
                continue
            own = shapes(model, inputs, "student", [loss.student] if loss.student else [])
            chosen = {"student": loss.student or deepest(own)}
            if loss.wants == "features":
                theirs = self._teacher().shapes(inputs, [loss.teacher] if loss.teacher else [])
                chosen = dict(zip(("student", "teacher"), pair(own, theirs, loss.student, loss.teacher), strict=True))
            self.terms[name] = weight, replace(loss, **chosen)
            self.pairs[name] = chosen["student"], chosen.get("teacher", "logits")


def _reached(value: torch.Tensor, parameters: list[nn.Parameter]) -> bool:
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in gradients)


def _no_gradient(name: str) -> EdgekdError:
    message = f'the loss "{name}" has no gradient: nothing that it reads of the student can be trained'
    return UserError(message, hint="name a later module, or train the one that it reads")
