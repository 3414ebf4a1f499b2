"""A temperature and a noise for each sample, the higher the more the teacher seems to know that sample by heart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import kl_div, log_softmax, softmax

from edgekd.errors import UserError

__all__ = ["DynamicTemperature"]


class _Noise(nn.Module):
    """One draw for each training sample and class: a new one in each epoch would average out."""

    drawn: torch.Tensor

    def __init__(self, count: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("drawn", torch.randn(count, classes))


@dataclass(frozen=True)
class DynamicTemperature:
    """τ² · KL(p ‖ q), with p = softmax(teacher / τ_i + `noise` · d_i · n_i) and q = softmax(student / τ_i), for sample i.

    d_i in [0, 1): how private a sample is; τ_i = τ + (`hottest` − τ) · d_i, with τ the `temperature`; n_i: standard normal, drawn
    once for each sample. No gradient goes through them. What a small student cannot say of a sample though its teacher is sure, the
    teacher likely learned by heart: d_i = max(0, 1 − q(c) / p(c)) at temperature 1, c the teacher's first class. A sample that the
    student has understood has d_i = 0 and is distilled as by the loss kl. It remembers [training samples, classes].
    Source: Li et al. 2022, arXiv 2212.08349 (Swing distillation): a temperature by how likely data are private, and noise in the
    soft targets. It finds private tokens in a text by other means; the ratio of the two models' likelihoods as a sign of what was
    memorised is that of Carlini et al. 2021, arXiv 2012.07805, section 5. This is no differential privacy.
    """

    wants: ClassVar[str] = "logits"
    also: ClassVar[tuple[str, ...]] = ("samples",)
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    hottest: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 8.0
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def __post_init__(self) -> None:
        if self.hottest < self.temperature:
            message = f"dynamic_temperature: temperature is {self.temperature}, hottest is {self.hottest}"
            raise UserError(message, hint="hottest at or above temperature, as in 8.0 and 2.0")

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> _Noise:
        """The noise of each training sample, drawn from torch's generator."""
        return _Noise(count, teacher.shape[1])

    def __call__(
        self, student: torch.Tensor, teacher: torch.Tensor, *, samples: torch.Tensor, state: _Noise
    ) -> torch.Tensor:
        """Logits [batch, classes] of both, samples [batch] → mean over the batch, in nats times τ²."""
        private = self._private(student.detach(), teacher)
        heat = self.temperature + (self.hottest - self.temperature) * private
        shift = self.noise * private * state.drawn[samples].to(teacher.dtype)
        p = log_softmax(teacher / heat + shift, dim=1)
        q = log_softmax(student / heat, dim=1)
        return self.temperature**2 * kl_div(q, p, reduction="batchmean", log_target=True)

    def _private(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """d [batch, 1]."""
        q, p = softmax(student, dim=1), softmax(teacher, dim=1)
        first = p.argmax(1, keepdim=True)
        return (1 - q.gather(1, first) / p.gather(1, first)).clamp(min=0)
