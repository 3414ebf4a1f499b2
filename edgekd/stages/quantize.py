"""Make the student an integer network: calibrated ranges, perhaps reconstructed weights, perhaps training with a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgekd.errors import UserError
from edgekd.quant.bits import Bits
from edgekd.quant.precision import Precision
from edgekd.stage import Context, Stage, Use, taught, uses
from edgekd.training.schedule import Training

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgekd.student import Student

__all__ = ["Quantize"]


@dataclass(frozen=True, kw_only=True)
class Qat(Training):
    """Quantization-aware training, from the calibrated network. `losses` as in distill, on modules too; the teacher guides.

    `teacher`: whom to learn from: the recipe's teacher, the float student itself, or both (the mean of their logits, which is
    the geometric mean of what they predict: Hinton et al. 2015, arXiv 1503.02531, section 2). `step_size = "learned"` trains
    the grids' steps with the weights (Esser et al. 2020, arXiv 1902.08153). `freeze`: the last part of the epochs, as a
    share, in which batch norm keeps its statistics (Krishnamoorthi 2018, arXiv 1806.08342, section 3.2.2), so that what is
    folded into the integer weights no longer moves.
    """

    losses: tuple[dict[str, Any], ...]
    lr: Annotated[float, Field(gt=0)] = 1e-3
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.1
    freeze: Annotated[float, Field(ge=0, le=1)] = 0.5
    step_size: Literal["calibrated", "learned"] = "calibrated"
    teacher: Literal["teacher", "student", "both"] = "teacher"

    def __post_init__(self) -> None:
        if not uses(self.losses, "quantize: qat.losses"):
            raise UserError(
                "quantize: qat.losses: there is none", hint='as in losses = [{ use = "kl", temperature = 2.0 }]'
            )


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Learn which way each weight is rounded, on the calibration samples, so that outputs stay those of the float network.

    `use = "adaround"`: one layer after another, steps and ranges as calibrated (Nagel et al. 2020, arXiv 2004.10568).
    `use = "block"`: one residual unit after another (Li et al. 2021, arXiv 2102.05426), rounding and steps together (Jeon et
    al. 2023, arXiv 2212.04780), a share `drop` of activations left in float at random (Wei et al. 2022, arXiv 2203.05740).
    """

    use: Literal["adaround", "block"]
    iterations: Annotated[int, Field(ge=1)] = 2000
    """For each layer or block."""
    batch: Annotated[int, Field(ge=1)] = 32
    lr: Annotated[float, Field(gt=0)] = 1e-2
    """Of the rounding, in units of the variable behind a sigmoid."""
    step_lr: Annotated[float, Field(ge=0)] = 1e-3
    """Of the steps, relative: how much of itself a step may change in an iteration. For "block"."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """For "block"."""
    regularization: Annotated[float, Field(ge=0)] = 0.01
    """Weight of what drives each rounding to one side."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the iterations before that begins."""


@dataclass(frozen=True, kw_only=True)
class Quantize(Stage):
    """`calibration` names a recipe in `calibration/`, or the path of one; it names the observer, unless `observer` does.

    Activations get one scale a tensor, weights one a channel; which operators compute on integers is the grid's to say.
    `weights` and `activations` are bits, and those of the first and the last layer are `first_last` at least. Anything but 8
    by 8 is a simulation, judged in torch: no runtime here has kernels for it. Before calibration, `equalize` makes the ranges
    of neighbouring layers alike (Nagel et al. 2019, arXiv 1906.04721) and `smooth` moves what is large behind a layer norm into
    the weights (Xiao et al. 2022, arXiv 2211.10438); after it, `correct_bias` takes back what rounding does to each channel's
    mean (Nagel et al. 2019). `reconstruction`: "none", "adaround", "block",
    or one of these with its options, `{ use = "block", iterations = 5000 }`.

    `sensitivity`: on how many calibration samples each layer is tried rounded alone (0: not), one forward a layer.
    `bits = { budget = { size = "60 kB" }, choices = [8, 4, 2] }` chooses each layer's bits together, by what its weight loses
    alone. `max_drop`: how far below the float student the metric may fall on validation; the fewest layers that bring it
    back stay in float, and the report says what each costs in measured time.
    """

    takes = "student"
    gives = "quantized"
    calibration: str = "train-512"
    observer: str = ""
    weights: Annotated[int, Field(ge=2, le=8)] = 8
    activations: Annotated[int, Field(ge=2, le=16)] = 8
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
        trained = [
            name for name, there in (("qat", self.qat), ("reconstruction", self.reconstructed)) if there is not None
        ]
        trained += ["bits"] if self.bits is not None else []
        if self.max_drop is not None and trained:
            message = f"quantize: max_drop and {trained[0]} exclude each other: layers are left in float where nothing else helps"
            raise UserError(message, hint="leave one of them out")
        if self.max_drop is not None and not self.sensitivity:
            message = "quantize: max_drop needs `sensitivity`: the most sensitive layers are left in float first"
            raise UserError(message, hint="sensitivity = 64")

    @property
    def controlled(self) -> bool:
        """Whether layers may be left in float, whose cost is then measured."""
        return self.max_drop is not None

    @property
    def precision(self) -> str:  # type: ignore[override]  # it depends on the bits
        choices = {} if self.bits is None else {str(bits): bits for bits in self.bits.choices}
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
        from edgekd.quant.layerwise import choose_bits, leave_in_float, sensitivity
        from edgekd.quant.pt2e import state
        from edgekd.student import save_next

        observer, precision = self.observer or context.observer, self._precision()
        batches = context.calibration()
        facts: dict[str, Any] = {"observer": observer, "samples": sum(len(batch) for batch in batches)}

        def calibrated(layers: Mapping[str, int], said: dict[str, Any]) -> GraphModule:
            return self._calibrated(student, context, batches, replace(precision, layers=dict(layers)), said)

        if self.bits is not None:
            plain = calibrated({}, {})
            bits = self.bits
            layers, facts["bits"] = context.world().agreed(
                lambda: choose_bits(plain, batches, bits, precision, observer, context)
            )
            precision = replace(precision, layers=layers)
        prepared = calibrated(precision.layers, facts)
        if self.sensitivity:
            facts["sensitivity"] = sensitivity(prepared, batches, self.sensitivity, precision)
        self._correct(prepared, batches, facts)
        facts["calibrated"] = _validation(prepared, context)
        if self.max_drop is not None:

            def scored(layers: Mapping[str, int]) -> float:
                return _validation(self._correct(calibrated(layers, {}), batches, {}), context)

            expected = _validation(student.network(), context)
            layers, facts["control"] = leave_in_float(facts, expected, self.max_drop, scored, context)
            if layers:
                precision = replace(precision, layers=layers)
                prepared = self._correct(calibrated(layers, facts), batches, facts)
        if self.reconstructed is not None:
            facts["reconstruction"] = self._reconstruct(prepared, batches, self.reconstructed, context)
            facts["reconstructed"] = _validation(prepared, context)
        if self.qat is not None:
            facts["qat"] = self._train(prepared, student, self.qat, context)
        edit = {"edit": "quantize", "grid": context.grid, "observer": observer, "qat": self.qat is not None}
        save_next(out, student, state(prepared), {**edit, "precision": precision.to_json()})
        return facts

    def _calibrated(
        self, student: Student, context: Context, batches: list[Any], precision: Precision, facts: dict[str, Any]
    ) -> GraphModule:
        """The student prepared, its ranges made alike where that is asked for, and calibrated; in eval mode."""
        from edgekd.quant.equalize import equalize, smooth
        from edgekd.quant.grid import named
        from edgekd.quant.pt2e import calibrate, prepare

        observer, grid = self.observer or context.observer, named(context.grid)
        prepared = prepare(student.network(), student.example(2), grid, observer, self.qat is not None, precision)
        prepared.eval()
        if self.equalize:
            facts["equalized"] = equalize(prepared)
        if self.smooth:
            facts["smoothed"] = smooth(prepared, batches)
        with context.progress.task("calibrate"):
            calibrate(prepared, batches)
        return prepared

    def _correct(self, prepared: GraphModule, batches: list[Any], facts: dict[str, Any]) -> GraphModule:
        if self.correct_bias:
            import torch

            from edgekd.quant.bias import correct_biases

            facts["corrected"] = correct_biases(prepared, torch.cat(batches))
        return prepared

    def _precision(self) -> Precision:
        stored = self.reconstructed is not None or (self.qat is not None and self.qat.step_size == "learned")
        return Precision(self.weights, self.activations, self.first_last, stored=stored)

    def _reconstruct(
        self, prepared: Any, batches: list[Any], options: Reconstruction, context: Context
    ) -> list[dict[str, Any]]:
        import torch

        from edgekd.quant.reconstruct import reconstruct

        checkpoint = context.work / "reconstruction.checkpoint"
        return reconstruct(prepared, torch.cat(batches), options, context.seed, context.progress, checkpoint)

    def _train(self, prepared: Any, student: Student, qat: Qat, context: Context) -> dict[str, Any]:
        from edgekd.quant.pt2e import freeze_batch_norm, learn_steps, restore, settle_steps
        from edgekd.training.objective import Objective
        from edgekd.training.train import train

        first_frozen = round(qat.epochs * (1 - qat.freeze))

        def on_epoch(epoch: int) -> None:
            if epoch >= first_frozen:
                freeze_batch_norm(prepared)

        if qat.teacher != "teacher":
            from edgekd.quant.guidance import with_student

            context = with_student(context, student, alone=qat.teacher == "student")
        if qat.step_size == "learned":
            learn_steps(prepared)
        exact = context.world().exact()  # the grids' steps are finer than what bfloat16 tells apart
        context = replace(context, world=lambda: exact)
        objective = Objective(self.objective()[1], context.teacher)
        history = train(
            prepared,
            objective,
            context,
            qat,
            label="quantize",
            on_epoch=on_epoch,
            load=lambda _, tensors: restore(prepared, tensors),
        )
        settle_steps(prepared)
        return history


def _validation(module: Any, context: Context) -> float:
    from edgekd.training.train import logits_of

    inputs, targets = context.data().validation
    return context.metric(logits_of(module, inputs).numpy(), targets.numpy())
