"""Make the student an integer network: calibrated ranges, then, if asked, training with fake-quantization and a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from edgekd.errors import UserError
from edgekd.schedule import Training
from edgekd.stage import Context, Stage, Use, taught, uses

if TYPE_CHECKING:
    from edgekd.student import Student

__all__ = ["Quantize"]


@dataclass(frozen=True, kw_only=True)
class Qat(Training):
    """Quantization-aware training, from the calibrated network. `losses` as in distill; the teacher guides.

    `freeze`: the last part of the epochs, as a share, in which batch norm keeps its statistics (Krishnamoorthi 2018,
    arXiv 1806.08342, section 3.2.2), so that what is folded into the integer weights no longer moves.
    """

    losses: tuple[dict[str, Any], ...]
    lr: Annotated[float, Field(gt=0)] = 1e-3
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.1
    freeze: Annotated[float, Field(ge=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        if not uses(self.losses, "quantize: qat.losses"):
            raise UserError(
                "quantize: qat.losses: there is none", hint='as in losses = [{ use = "kl", temperature = 2.0 }]'
            )


@dataclass(frozen=True, kw_only=True)
class Quantize(Stage):
    """`calibration` names a recipe in `calibration/`, or the path of one; it names the observer, unless `observer` does.

    Activations get one scale a tensor, weights one a channel; which operators compute on integers is the grid's to say.
    """

    takes = "student"
    gives = "quantized"
    calibration: str = "train-512"
    observer: str = ""
    qat: Qat | None = field(default=None)

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]  # it depends on qat and its losses
        """Post-training quantization reads the calibration samples only."""
        found = {"calibration", "target"}
        if self.qat is not None:
            found |= {"data"}
            if taught(self.objective()[1]):
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
        from edgekd.quant.grid import named
        from edgekd.quant.pt2e import calibrate, prepare, state
        from edgekd.student import save_next

        observer = self.observer or context.observer
        batches = context.calibration()
        prepared = prepare(student.network(), student.example(2), named(context.grid), observer, self.qat is not None)
        with context.progress.task("calibrate"):
            calibrate(prepared, batches)
        facts: dict[str, Any] = {"observer": observer, "samples": sum(len(batch) for batch in batches)}
        prepared.eval()
        facts["calibrated"] = _validation(prepared, context)
        if self.qat is not None:
            facts["qat"] = self._train(prepared, self.qat, context)
        edit = {"edit": "quantize", "grid": context.grid, "observer": observer, "qat": self.qat is not None}
        save_next(out, student, state(prepared), edit)
        return facts

    def _train(self, prepared: Any, qat: Qat, context: Context) -> dict[str, Any]:
        from edgekd.objective import Objective
        from edgekd.quant.pt2e import freeze_batch_norm, restore
        from edgekd.training import train

        first_frozen = round(qat.epochs * (1 - qat.freeze))

        def on_epoch(epoch: int) -> None:
            if epoch >= first_frozen:
                freeze_batch_norm(prepared)

        objective = Objective(self.objective()[1], context.teacher)
        return train(
            prepared,
            objective,
            context,
            qat,
            label="quantize",
            on_epoch=on_epoch,
            load=lambda _, tensors: restore(prepared, tensors),
        )


def _validation(module: Any, context: Context) -> float:
    from edgekd.training import logits_of

    inputs, targets = context.data().validation
    return context.metric(logits_of(module, inputs).numpy(), targets.numpy())
