"""Make the student an integer network: calibrated ranges, perhaps reconstructed weights, perhaps training with a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgekd.errors import UserError
from edgekd.quant.precision import Precision
from edgekd.schedule import Training
from edgekd.stage import Context, Stage, Use, taught, uses

if TYPE_CHECKING:
    from edgekd.student import Student

__all__ = ["Quantize"]


@dataclass(frozen=True, kw_only=True)
class Qat(Training):
    """Quantization-aware training, from the calibrated network. `losses` as in distill; the teacher guides.

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

    @property
    def precision(self) -> str:  # type: ignore[override]  # it depends on the bits
        return self._precision().name

    @property
    def reconstructed(self) -> Reconstruction | None:
        """The reconstruction with its options, if there is one."""
        asked = self.reconstruction
        if isinstance(asked, Reconstruction):
            return asked
        return None if asked == "none" else Reconstruction(use=asked)

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]  # it depends on qat and its losses
        """Post-training quantization reads the calibration samples only."""
        found = {"calibration", "target"}
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
        """Build the losses. Raises UserError for a wrong field, too small a batch, or a loss on features: none are kept."""
        from edgekd.objective import check

        if self.qat is not None:
            check(self.objective()[1], self.qat.batch, modules=False)

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns the metric after calibration on the validation split and, with QAT, its history."""
        import torch

        from edgekd.quant.bias import correct_biases
        from edgekd.quant.equalize import equalize, smooth
        from edgekd.quant.grid import named
        from edgekd.quant.pt2e import calibrate, prepare, state
        from edgekd.student import save_next

        observer, precision = self.observer or context.observer, self._precision()
        batches = context.calibration()
        prepared = prepare(
            student.network(), student.example(2), named(context.grid), observer, self.qat is not None, precision
        )
        prepared.eval()
        facts: dict[str, Any] = {"observer": observer, "samples": sum(len(batch) for batch in batches)}
        if self.equalize:
            facts["equalized"] = equalize(prepared)
        if self.smooth:
            facts["smoothed"] = smooth(prepared, batches)
        with context.progress.task("calibrate"):
            calibrate(prepared, batches)
        if self.correct_bias:
            facts["corrected"] = correct_biases(prepared, torch.cat(batches))
        facts["calibrated"] = _validation(prepared, context)
        if self.reconstructed is not None:
            facts["reconstruction"] = self._reconstruct(prepared, batches, self.reconstructed, context)
            facts["reconstructed"] = _validation(prepared, context)
        if self.qat is not None:
            facts["qat"] = self._train(prepared, student, self.qat, context)
        edit = {"edit": "quantize", "grid": context.grid, "observer": observer, "qat": self.qat is not None}
        save_next(out, student, state(prepared), {**edit, "precision": precision.to_json()})
        return facts

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
        from edgekd.objective import Objective
        from edgekd.quant.pt2e import freeze_batch_norm, learn_steps, restore, settle_steps
        from edgekd.training import train

        first_frozen = round(qat.epochs * (1 - qat.freeze))

        def on_epoch(epoch: int) -> None:
            if epoch >= first_frozen:
                freeze_batch_norm(prepared)

        if qat.teacher != "teacher":
            from edgekd.quant.guidance import with_student

            context = with_student(context, student, alone=qat.teacher == "student")
        if qat.step_size == "learned":
            learn_steps(prepared)
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
    from edgekd.training import logits_of

    inputs, targets = context.data().validation
    return context.metric(logits_of(module, inputs).numpy(), targets.numpy())
