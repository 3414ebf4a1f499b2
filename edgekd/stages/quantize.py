"""Make the student an integer network: calibrated ranges, perhaps reconstructed weights, perhaps training with a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgekd import digest
from edgekd.errors import UserError
from edgekd.quant.bits import mixed
from edgekd.quant.methods import Bits, Qat, Reconstruction
from edgekd.quant.precision import FLOAT, Precision
from edgekd.stage import Context, Stage, Use, taught, uses

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule

    from edgekd.student import Student

__all__ = ["Quantize"]


@dataclass(frozen=True, kw_only=True)
class Quantize(Stage):
    """`calibration` names a recipe in `calibration/`, or the path of one; it names the observer, unless `observer` does.

    Activations get one scale a tensor, weights one a channel; which operators compute on integers is the grid's to say.
    `weights` and `activations` are bits, and those of the first and the last layer are `first_last` at least. Anything but 8
    by 8 is a simulation, judged in torch: no runtime here has kernels for it. Embedding tables have int8 rows, or stay in
    float with `embeddings = 32`. Before calibration, `equalize` makes the ranges
    of neighbouring layers alike (Nagel et al. 2019, arXiv 1906.04721) and `smooth` moves what is large behind a layer norm into
    the weights (Xiao et al. 2022, arXiv 2211.10438); after it, `correct_bias` takes back what rounding does to each channel's
    mean (Nagel et al. 2019). `reconstruction`: "none", "adaround", "block",
    or one of these with its options, `{ use = "block", iterations = 5000 }`.

    `sensitivity`: on how many calibration samples each layer is tried rounded alone (0: not), one forward a layer.
    `bits = { budget = { size = "60 kB" }, choices = [8, 4, 2] }` chooses each layer's bits together, by what its weight loses
    alone; with `{ latency = "0.7x" }`, of the float student's, which layers stay in float, by what each was measured to take.
    `max_drop`: how far below the float student the metric may fall on validation; the fewest layers that bring it back stay in
    float, and the report says what each costs in measured time. With `reconstruction` or `qat` the layers are found by putting
    them back one by one into what was learned; then all is learned anew around them.
    """

    takes = "student"
    gives = "quantized"
    calibration: str = "train-512"
    observer: str = ""
    weights: Annotated[int, Field(ge=2, le=8)] = 8
    activations: Annotated[int, Field(ge=2, le=16)] = 8
    embeddings: Literal[8, 32] = 8
    first_last: Annotated[int, Field(ge=2, le=8)] = 8
    equalize: bool = False
    smooth: bool = False
    correct_bias: bool = False
    reconstruction: Literal["none", "adaround", "block"] | Reconstruction = "none"
    bits: Bits | None = None
    max_drop: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    sensitivity: Annotated[int, Field(ge=0)] = 64
    qat: Qat | None = field(default=None)

    def __post_init__(self) -> None:
        folded = [name for name in ("equalize", "smooth", "correct_bias") if getattr(self, name)]
        folded += ["reconstruction"] if self.reconstructed is not None else []
        if self.qat is not None and folded:
            message = (
                f"quantize: {folded[0]} and qat exclude each other: one keeps the float network, the other trains it"
            )
            raise UserError(message, hint="leave one of them out")
        if self.correct_bias and self.reconstructed is not None:
            message = "quantize: correct_bias and reconstruction exclude each other: both take back what rounding did"
            raise UserError(message, hint="leave correct_bias out")
        if self.bits is not None and self.weights != Quantize.weights:
            message = "quantize: bits and weights exclude each other: both say how many bits a weight gets"
            raise UserError(message, hint="leave `weights` out")
        if self.timed and self.activations != Quantize.activations:
            message = (
                "quantize: bits.budget.latency is of engines, and none multiplies by activations of other than 8 bits"
            )
            raise UserError(message, hint="leave `activations` out, or give a budget of size")
        if self.bits is not None and self.max_drop is not None:
            message = "quantize: max_drop and bits exclude each other: both choose what each layer gets"
            raise UserError(message, hint="leave one of them out")
        if self.max_drop is not None and not self.sensitivity:
            message = "quantize: max_drop needs `sensitivity`: the most sensitive layers are left in float first"
            raise UserError(message, hint="sensitivity = 64")

    @property
    def controlled(self) -> bool:
        """Whether layers may be left in float, whose cost is then measured."""
        return self.max_drop is not None

    @property
    def timed(self) -> tuple[str, ...]:
        """What a layer may be beside quantized whole, where the time of that is to be measured."""
        return () if self.bits is None else self.bits.timed

    @property
    def precision(self) -> str:  # type: ignore[override]  # it depends on the bits
        offered = () if self.bits is None else self.bits.offered
        choices = {str(bits): bits for bits in offered if isinstance(bits, int)}
        return replace(self._precision(), layers=choices).name

    @property
    def reconstructed(self) -> Reconstruction | None:
        """The reconstruction with its options, if there is one."""
        asked = self.reconstruction
        if isinstance(asked, Reconstruction):
            return asked
        return None if asked == "none" else Reconstruction(use=asked)

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]  # it depends on qat and its losses
        """Post-training quantization reads the calibration samples only, unless the metric may fall so far and no further."""
        found = {"calibration", "target", *({"data"} if self.controlled else ())}
        if self.qat is not None:
            found |= {"data"}
            if taught(self.objective()[1]) and self.qat.teacher != "student":
                found |= {"teacher"}
        return frozenset(found)

    def objective(self) -> tuple[str, tuple[Use, ...]]:
        return "qat", uses(self.qat.losses, "quantize: qat.losses") if self.qat else ()

    def names(self) -> list[tuple[str, str, str]]:
        observer = [("observer", "observers", self.observer)] if self.observer else []
        return [*observer, *(("qat", "losses", use.use) for use in self.objective()[1])]

    def check(self) -> None:
        """Build the losses. Raises UserError for a wrong field, too small a batch, or a loss that divides a layer."""
        from edgekd.training.terms import check

        if self.qat is not None:
            check(self.objective()[1], self.qat.batch, traced=True)

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns the metric after calibration on the validation split, what each layer costs, and with QAT its history."""
        from edgekd.quant.layerwise import choose_bits, in_float_for_want_of_kernels, sensitivity
        from edgekd.quant.pt2e import state
        from edgekd.quant.sensitivity import float_weights
        from edgekd.student import save_next

        observer, precision = self.observer or context.observer, self._precision()
        batches = context.calibration()
        facts: dict[str, Any] = {"observer": observer, "samples": sum(len(batch) for batch in batches)}
        prepared = self._calibrated(student, context, batches, precision, facts)
        if floats := in_float_for_want_of_kernels(prepared, context):
            facts["without_kernels"] = floats
        if (bits := self.bits) is not None:
            plain = prepared
            given, facts["bits"] = context.world().agreed(
                lambda: choose_bits(plain, batches, bits, precision, observer, context)
            )
            precision = mixed(precision, given)
            prepared = self._calibrated(student, context, batches, precision, facts)
        if self.sensitivity:
            facts["sensitivity"] = sensitivity(prepared, batches, self.sensitivity, precision)
        weights = float_weights(prepared) if self.reconstructed is not None else {}
        self._finish(prepared, student, batches, context, facts)
        if self.max_drop is not None:
            precision, prepared = self._controlled(student, context, batches, precision, prepared, weights, facts)
        edit = {"edit": "quantize", "grid": context.grid, "observer": observer, "qat": self.qat is not None}
        save_next(out, student, state(prepared), {**edit, "precision": precision.to_json()})
        return facts

    def _controlled(
        self,
        student: Student,
        context: Context,
        batches: list[torch.Tensor],
        precision: Precision,
        prepared: GraphModule,
        floats: Mapping[str, torch.Tensor],
        facts: dict[str, Any],
    ) -> tuple[Precision, GraphModule]:
        """What becomes of a finished graph whose metric may be `max_drop` below the float student's and no more."""
        from edgekd.quant.layerwise import leave_in_float
        from edgekd.quant.sensitivity import put_back

        assert self.max_drop is not None
        learned = self.reconstructed is not None or self.qat is not None
        made: dict[frozenset[str], tuple[GraphModule, dict[str, Any]]] = {}

        def anew(layers: frozenset[str]) -> float:
            """With these in float; what is learned is kept in a folder of its own, so that a kill loses nothing finished."""
            said: dict[str, Any] = {}
            work = context.work / f"float-{digest.of_json(sorted(layers))[:16]}"
            work.mkdir(exist_ok=True)
            mixed = replace(precision, layers=dict.fromkeys(sorted(layers), FLOAT))
            graph = self._calibrated(student, context, batches, mixed, said)
            self._finish(graph, student, batches, replace(context, work=work), said)
            made.clear()
            made[layers] = graph, said
            return context.world().agreed(lambda: _validation(graph, context))  # type: ignore[no-any-return]  # JSON

        def put(layers: frozenset[str]) -> float:
            with put_back(prepared, layers, floats):
                return _validation(prepared, context)

        before, expected = _validation(prepared, context), _validation(student.network(), context)
        kept, facts["control"] = leave_in_float(
            facts["sensitivity"], before, expected, self.max_drop, anew, put if learned else None, context
        )
        if not kept:
            return precision, prepared
        if kept not in made:
            anew(kept)
        prepared, said = made[kept]
        facts |= said
        return replace(precision, layers=dict.fromkeys(sorted(kept), FLOAT)), prepared

    def _calibrated(
        self,
        student: Student,
        context: Context,
        batches: list[torch.Tensor],
        precision: Precision,
        facts: dict[str, Any],
    ) -> GraphModule:
        """The student prepared, its ranges made alike where that is asked for, and calibrated; in eval mode."""
        from edgekd.quant.equalize import equalize, smooth
        from edgekd.quant.grid import named
        from edgekd.quant.pt2e import calibrate, prepare
        from edgekd.quant.weight_only import round_alone

        observer, grid = self.observer or context.observer, named(context.grid)
        prepared = prepare(student.network(), student.example(2), grid, observer, self.qat is not None, precision)
        prepared.eval()
        if self.equalize:
            facts["equalized"] = equalize(prepared)
        if self.smooth:
            facts["smoothed"] = smooth(prepared, batches)
            if not facts["smoothed"]:
                context.progress.say("  smooth: no layer norm that only linear layers read, so nothing was moved")
        round_alone(prepared, precision.grouped)
        with context.progress.task("calibrate"):
            calibrate(prepared, batches)
        return prepared

    def _finish(
        self,
        prepared: GraphModule,
        student: Student,
        batches: list[torch.Tensor],
        context: Context,
        facts: dict[str, Any],
    ) -> None:
        """All that follows calibration, in place: biases corrected, rounding learned, training."""
        import torch

        from edgekd.quant.adapter import weights
        from edgekd.quant.bias import correct_biases
        from edgekd.quant.qat import train
        from edgekd.quant.reconstruct import reconstruct

        if self.correct_bias:
            facts["corrected"] = correct_biases(prepared, torch.cat(batches))
        facts["calibrated"] = _validation(prepared, context)
        if (options := self.reconstructed) is not None and weights(prepared):
            checkpoint, inputs = context.work / "reconstruction.checkpoint", torch.cat(batches)
            facts["reconstruction"] = reconstruct(prepared, inputs, options, context.seed, context.progress, checkpoint)
            facts["reconstructed"] = _validation(prepared, context)
        if self.qat is not None:
            facts["qat"] = train(prepared, student, self.qat, self.objective()[1], context)

    def _precision(self) -> Precision:
        stored = self.reconstructed is not None or (self.qat is not None and self.qat.step_size == "learned")
        return Precision(self.weights, self.activations, self.first_last, embeddings=self.embeddings, stored=stored)


def _validation(module: Any, context: Context) -> float:
    from edgekd.training.train import logits_of

    inputs, targets = context.data().validation
    return context.metric(logits_of(module, inputs).numpy(), targets.numpy())
