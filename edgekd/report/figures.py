"""The figures that a report is made of: latencies, ratios, agreement. Seconds and shares are plain numbers."""

from __future__ import annotations

from typing import Annotated, Final, Literal

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


class Layer(Part):
    """One layer of a quantized student."""

    layer: str = Field(description="its name in the network")
    loss: NonNegativeFloat | None = Field(
        description="of the outputs, with this layer alone quantized; null: not tried"
    )
    bits: PositiveInt = Field(description="of its weight; 32: it stays in float")
    bytes: NonNegativeInt | None = Field(
        None, description="of its weight, scales and bias, where a budget chose the bits"
    )
    cost: Annotated[Ratio | None, VARIES] = Field(
        None, description="of a layer in float: latency as it is over latency with this layer quantized as well"
    )


class Control(Part):
    """What `max_drop` did: the metric on validation, and which layers stay in float for it."""

    allowed: NonNegativeFloat = Field(description="drop of the metric below the float student")
    expected: float = Field(description="metric of the float student")
    before: float = Field(description="metric with every layer quantized")
    after: float = Field(description="metric as it is")
    tried: NonNegativeInt = Field(description="sets of layers that were calibrated and scored")
    reverted: tuple[str, ...] = Field(
        description="layers that stay in float; of those found without learning anew, none can be quantized"
    )
    backend: str | None = Field(None, description="that the cost of each was measured on; null: it was not")
    note: Annotated[str, VARIES] = Field("", description="why a cost is not known")


class BitTime(Part):
    """What a latency allowed all layers together: which of them stay in float."""

    budget: str = Field(description="as the recipe gives it")
    backend: Annotated[str, VARIES] = Field(
        description="whose engines were timed: the fastest with every layer quantized"
    )
    allowed: Annotated[PositiveFloat, VARIES] = Field(description="seconds")
    whole: Annotated[PositiveFloat, VARIES] = Field(description="seconds of the float student there")
    quantized: Annotated[PositiveFloat, VARIES] = Field(description="seconds with every layer quantized")
    predicted: Annotated[PositiveFloat, VARIES] = Field(description="seconds of the plan, by what each layer takes")
    measured: Annotated[PositiveFloat, VARIES] = Field(
        description="seconds of the plan, raced against the float student"
    )
    tried: Annotated[PositiveInt, VARIES] = Field(description="plans that were measured")


class BitPlan(Part):
    """The bits that a budget chose, of all layers together."""

    budget: PositiveInt | None = Field(description="bytes; null: none were given")
    bytes: PositiveInt = Field(description="of all weights, scales and biases")
    least: PositiveInt = Field(description="bytes at the narrowest choices")
    most: PositiveInt = Field(description="bytes at the widest choices")
    loss: NonNegativeFloat = Field(description="predicted: the sum of what each layer loses alone")
    latency: Annotated[BitTime | None, VARIES] = Field(None, description="null without a latency")


class Island(Part):
    """Operators that hang together in integers, and what they bought."""

    operators: dict[str, PositiveInt] = Field(description="how many of each kind")
    seconds: Annotated[float, VARIES] = Field(description="that a call would take more without them")
    without: Annotated[Ratio, VARIES] = Field(description="the engine without them, over the engine with them")


class Placement(Part):
    """Which operators run as integers, as a search by measured cost found it."""

    operators: dict[str, PositiveInt] = Field(description="that could, of each kind")
    integers: Annotated[dict[str, PositiveInt], VARIES] = Field(description="that do, of each kind")
    islands: Annotated[tuple[Island, ...], VARIES] = Field((), description="the largest, and what each bought")
    for_quality: Annotated[NonNegativeInt, VARIES] = Field(
        0, description="operators left in float since they lose too much"
    )
    engines: Annotated[PositiveInt, VARIES] = Field(
        description="placements that were compiled, float and a program's own among them"
    )


class Tried(Part):
    """One student, one set of losses, or one alternative to a block, that a search tried."""

    what: str = Field(
        description="arguments of the student's factory, losses with their weights, or a block and what replaced it"
    )
    score: float | None = Field(
        None,
        description="similarity of an untrained student to the teacher, at most 0; of an alternative to a block −KL of the "
        "outputs from the parent's, in nats; null: none",
    )
    latency: PositiveFloat | None = Field(None, description="seconds, median of its fastest engine; null: not measured")
    low: PositiveFloat | None = Field(None, description="lower end of the latency's 95% interval")
    high: PositiveFloat | None = Field(None, description="upper end of the latency's 95% interval")
    engine: str = Field("", description="the fastest: precision and backend")
    parameters: NonNegativeInt | None = Field(None, description="number of weights")
    epochs: NonNegativeInt | None = Field(None, description="that it was trained for; null: it was not")
    validation: float | None = Field(None, description="metric on validation after that training")
    verdict: Literal["chosen", "trained", "stopped", "kept", "too slow", "failed"] = Field(
        description='what became of it; "kept": within the budget, and not trained; "stopped": others were better as soon; of an '
        'alternative "kept": it could have been chosen, "too slow": it buys no measured time'
    )
    reason: str = Field("", description="why it failed, or could not be chosen")


class Search(Part):
    """What a stage tried before it chose, all of it judged on validation."""

    version: str = Field(description="the stage")
    kind: Literal["student", "losses", "blocks"] = Field(description="what was searched for")
    budget: str = Field(description="as the recipe gives it")
    allowed: Annotated[PositiveFloat | None, VARIES] = Field(None, description="seconds of latency; null for losses")
    predicted: Annotated[PositiveFloat | None, VARIES] = Field(
        None, description="seconds that the blocks chosen were predicted to take together; null for others"
    )
    measured: Annotated[PositiveFloat | None, VARIES] = Field(
        None, description="seconds that their engine was measured to take"
    )
    tried: Annotated[tuple[Tried, ...], VARIES] = Field(description="in the order in which it was tried")
    found: str | None = Field(
        None, description="beside the report: a recipe with what was found in place of the search"
    )


class Limit(Part):
    """One quantity that a budget limited, of the whole student and of the plan that was chosen. Seconds, or bytes."""

    quantity: Literal["latency", "size", "memory"] = Field(description="what is limited")
    budget: str = Field(description="as the recipe gives it")
    allowed: Annotated[PositiveFloat, VARIES] = Field(description="at most")
    whole: Annotated[PositiveFloat, VARIES] = Field(description="what the whole student takes")
    predicted: Annotated[PositiveFloat, VARIES] = Field(description="of the plan, before it was compiled")
    measured: Annotated[PositiveFloat, VARIES] = Field(description="of its engine")
    error: Annotated[NonNegativeFloat, VARIES] = Field(
        description="median relative error of predictions, of measured engines that the fit had not seen"
    )
    largest: Annotated[NonNegativeFloat, VARIES] = Field(description="the largest of these errors")


class Pruned(Part):
    """Whether what a pruned student was predicted to take is what it was measured to take."""

    version: str = Field(description="the stage")
    engine: Annotated[str, VARIES] = Field(description="precision and backend that keep the limits best")
    plans: Annotated[PositiveInt, VARIES] = Field(description="that were compiled and measured until one kept them")
    limits: Annotated[tuple[Limit, ...], VARIES] = Field(description="each quantity that the budget limited")
