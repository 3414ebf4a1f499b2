"""The figures that a report is made of: latencies, ratios, agreement. Seconds and shares are plain numbers."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

VARIES: Final = "varies from run to run"
"""Marks a field that holds a time, or follows from one."""

Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Latency(Part):
    """Latency of one engine, in seconds a call."""

    median: PositiveFloat = Field(description="median of all calls")
    low: PositiveFloat = Field(description="lower end of the median's 95% interval")
    high: PositiveFloat = Field(description="upper end of the median's 95% interval")
    p90: PositiveFloat | None = Field(description="90th percentile; null below 64 calls")
    p90_low: PositiveFloat | None = Field(None, description="lower end of the p90's 95% interval")
    p90_high: PositiveFloat | None = Field(None, description="upper end of the p90's 95% interval")
    p99: PositiveFloat | None = Field(None, description="99th percentile; null below 662 calls")
    count: PositiveInt = Field(description="calls timed")


class Ratio(Part):
    """Latency of one engine over another's, raced side by side. Below 1 is faster."""

    point: PositiveFloat = Field(description="the ratio")
    low: PositiveFloat = Field(description="lower end of its 95% interval")
    high: PositiveFloat = Field(description="upper end of its 95% interval")


class Agreement(Part):
    """How far outputs are the teacher's, on the test split."""

    top1: Share = Field(description="share of samples where both name the same class")
    kl: float = Field(description="mean KL(teacher, ours) in nats; rounding can leave it just below 0")


class Parity(Part):
    """How far an engine's outputs are those of the program it was compiled from, run in torch."""

    top1: Share = Field(description="share of samples where both name the same class")
    steps: NonNegativeFloat = Field(description="largest difference, in steps of the output's scale")


class Flips(Part):
    """Samples whose answer changed against the row before."""

    better: NonNegativeInt = Field(description="wrong before, right now")
    worse: NonNegativeInt = Field(description="right before, wrong now")
