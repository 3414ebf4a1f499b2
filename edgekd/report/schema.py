"""What `report.json` holds. Seconds and bytes are plain numbers; a metric is higher-is-better, accuracy is 0 to 1.

Fields marked `VARIES` hold times and what follows from them; all else is equal in two runs with one seed. `docs/report.md` has them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from edgekd.quant.precision import computes_in
from edgekd.report.figures import (
    VARIES,
    Agreement,
    BitPlan,
    Control,
    Flips,
    Latency,
    Layer,
    Parity,
    Part,
    Placement,
    Pruned,
    Ratio,
    Search,
    Share,
)

Verdict = Literal["chosen", "kept", "rejected", "reference", "simulated", "built", "failed"]


class Metric(Part):
    """What the score is."""

    name: str = Field(
        description='"accuracy", or the "module:function" of the recipe; of an ONNX file without labels "agreement" (top-1, with the '
        'float file) or, where outputs are no class scores, "fidelity" (1 − ‖y − r‖ / ‖r‖ of the worst output)'
    )
    reference: str = Field(description="version of the last float student before compression; drops count from it")


class Splits(Part):
    """Samples in each split."""

    train: NonNegativeInt = Field(description="what was trained on")
    validation: NonNegativeInt = Field(description="what selection and the budget read")
    test: NonNegativeInt = Field(description="what the figures are from; read once, by no selection")


class Budget(Part):
    """What the chosen engine must keep. Null: not limited."""

    metric_drop: NonNegativeFloat | None = Field(None, description="below the reference, on validation")
    latency_p90: PositiveFloat | None = Field(None, description="seconds")
    size: PositiveInt | None = Field(None, description="bytes of the engine")
    memory: PositiveInt | None = Field(None, description="bytes at most of the process, up to its first result")
    cold_start: PositiveFloat | None = Field(None, description="seconds from opening the engine to its first output")
    sqnr: PositiveFloat | None = Field(
        None, description="dB at least, of the outputs of an ONNX file's engine against the float file's, on validation"
    )


class LedgerRow(Part):
    """One state of the network on its way from the teacher to the engine, all scored on the same test samples."""

    row: str = Field(
        description='"teacher", "float student", "searched", "distilled", "pruned", "fake-quantized", "exported" or "simulated", "compiled"'
    )
    version: str = Field(description='"teacher", "student", or the stage that made it: "search", "distill", …')
    runs_in: str = Field(description="what computed the outputs: torch, or a runtime")
    metric: float = Field(description="score on the test split")
    metric_validation: float | None = Field(None, description="score on the validation split")
    agreement: Agreement | None = Field(None, description="with the teacher; null without a teacher")
    flips: Flips | None = Field(None, description="against the row before; gives the paired standard error")
    parameters: NonNegativeInt | None = Field(None, description="number of weights")
    macs: NonNegativeInt | None = Field(None, description="multiply-accumulates a sample")
    bytes: NonNegativeInt | None = Field(None, description="of the file")
    latency: Annotated[Latency | None, VARIES] = Field(None, description="of the engine; null for rows that are none")
    note: str = Field("", description="a remark")


class FirstLoss(Part):
    """The first row that lost more than its share of the allowed drop."""

    row: str = Field(description="its name in the ledger")
    lost: float = Field(description="score of the row before less its own")
    share: NonNegativeFloat = Field(description="the allowed drop over the number of rows after the reference")
    standard_error: NonNegativeFloat | None = Field(
        description="of `lost`: paired where `flips` are given, else binomial"
    )
    within_noise: bool | None = Field(description="whether `lost` is at most 1.96 standard errors")
    text: str = Field(description="the same as a sentence")


class Candidate(Part):
    """One engine for a target."""

    name: str = Field(description='version and backend: "quantize on onnxruntime"')
    version: str = Field(description="of the student (or teacher) it was compiled from")
    backend: str = Field(description="compiler and runtime")
    precision: str = Field(description='"float32", "int8"; simulated ones are "W4A4", …')
    grid: str = Field("none", description='number grid it was quantized on: "affine", …, or "none"')
    float_engine: str | None = Field(None, description="name of the candidate that `versus_float` compares with")
    bytes: NonNegativeInt | None = Field(None, description="of the engine; null if it was not made")
    latency: Annotated[Latency | None, VARIES] = Field(None, description="null if it was not measured")
    versus_float: Annotated[Ratio | None, VARIES] = Field(
        None, description="against the same student in float on the same runtime"
    )
    versus_teacher: Annotated[Ratio | None, VARIES] = Field(None, description="against the teacher's engine")
    metric: float | None = Field(None, description="score of the engine on the test split")
    metric_validation: float | None = Field(
        None, description="score of the engine on the validation split; the budget reads it"
    )
    agreement: Agreement | None = Field(None, description="with the teacher")
    parity: Parity | None = Field(None, description="with its program: in torch, or as the nodes of its file say")
    sqnr: float | None = Field(
        None, description="dB, of an ONNX file's engine: its worst output against the float file's, on the test split"
    )
    sqnr_validation: float | None = Field(None, description="the same on the validation split; the budget reads it")
    placement: Placement | None = Field(None, description="where a search placed integers; null where none was made")
    integer_nodes: NonNegativeInt | None = Field(None, description="nodes of the engine that compute in integers")
    float_nodes: NonNegativeInt | None = Field(None, description="nodes of the engine that compute in float")
    delegated_share: Share | None = Field(
        None,
        description="of the nodes with weights, those that compute in integers (int8), or that the delegate runs (float, "
        "where the runtime has one)",
    )
    note: str = Field(
        "", description="what to know of the engine: which nodes fell back to slower kernels, how it is run"
    )
    compile_seconds: Annotated[NonNegativeFloat | None, VARIES] = Field(
        None, description="that compiling it took, when it was compiled"
    )
    cold_start: Annotated[PositiveFloat | None, VARIES] = Field(
        None, description="seconds from opening it to its first output"
    )
    peak_memory: Annotated[PositiveInt | None, VARIES] = Field(None, description="bytes, of the process that ran it")
    energy: Annotated[NonNegativeFloat | None, VARIES] = Field(None, description="joules of a call; null: see `race`")
    verdict: Annotated[Verdict, VARIES] = Field("kept", description="what was decided, see below")
    reason: Annotated[str, VARIES] = Field("", description="why")

    @property
    def integer(self) -> bool:
        """Whether it computes in integers, so that it must be faster than float to be worth having."""
        return not computes_in(self.precision).startswith(("float", "bfloat"))


class Race(Part):
    """How latency was measured: every engine in each round, in random order, in fresh processes."""

    processes: PositiveInt = Field(description="fresh processes an engine")
    rounds: Annotated[PositiveInt, VARIES] = Field(description="rounds a process")
    busy: Annotated[NonNegativeFloat, VARIES] = Field(description="share of the machine that others used meanwhile")
    energy: Annotated[str, VARIES] = Field(
        "", description="what the joules of a call are of, or why they are not known"
    )
    notes: Annotated[tuple[str, ...], VARIES] = Field((), description="what to know before believing the figures")


class TargetReport(Part):
    """A device, its candidates and the choice."""

    name: str = Field(description="a file in `targets/`")
    chip: str = Field(description="the processor")
    threads: PositiveInt = Field(description="of each engine, pinned")
    candidates: tuple[Candidate, ...] = Field(description="every engine tried, failed ones too")
    chosen: str | None = Field(description="name of the engine in the bundle that keeps the budget, if one does")
    nearest: str | None = Field(None, description="where none does: the engine that comes nearest, bundled instead")
    reason: Annotated[str, VARIES] = Field(description="why this one, or why none")
    race: Race | None = Field(None, description="null if nothing was measured")
    samples_file: str | None = Field(None, description="beside the report: every raw sample in seconds")

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        names = [one.name for one in self.candidates]
        if len(set(names)) < len(names):
            raise ValueError(f"candidates of target {self.name} share a name")
        mentioned = [self.chosen, self.nearest, *(one.float_engine for one in self.candidates)]
        for name in mentioned:
            if name is not None and name not in names:
                raise ValueError(f'target {self.name} names "{name}", which is no candidate')
        return self

    def candidate(self, name: str | None) -> Candidate | None:
        """The candidate of that name, if any."""
        return next((one for one in self.candidates if one.name == name), None)

    @property
    def bundled_name(self) -> str | None:
        """Name of the engine in the bundle: the chosen one, else the nearest."""
        return self.chosen or self.nearest

    @property
    def bundled(self) -> Candidate | None:
        """The engine in the bundle."""
        return self.candidate(self.bundled_name)


class Step(Part):
    """One step of the plan."""

    step: str = Field(description="name: distill, prune, …")
    label: str = Field(description="what it does, in words")
    key: str = Field(description="sha256 of all that its result depends on")
    seconds: Annotated[NonNegativeFloat, VARIES] = Field(description="that it took when it was run")
    cached: Annotated[bool, VARIES] = Field(description="whether its result was in the store already")
    reads: tuple[str, ...] = Field((), description="what it reads besides the step before")


class CalibrationSet(Part):
    """What a stage calibrated on: the inputs that set the integer ranges."""

    version: str = Field(description="the student that was calibrated")
    recipe: str = Field(description="a file in `calibration/`, or beside the recipe")
    source: str = Field(description="a file in `edgekd/sources/`")
    synthetic: bool = Field(description="whether the inputs are made up, so that no data was read")
    count: PositiveInt = Field(description="inputs")
    seed: int = Field(description="that they were drawn or made by")
    shape: tuple[PositiveInt, ...] = Field(description="of one input")
    options: dict[str, bool | int | float | str] = Field(
        description="of the source, as the calibration recipe sets them"
    )
    observer: str = Field(description="that drew the ranges: a file in `edgekd/observers/`")
    seconds: Annotated[NonNegativeFloat, VARIES] = Field(description="that drawing or making them took")
    notes: tuple[str, ...] = Field((), description="what is odd about them")
    preview: str | None = Field(
        None, description="beside the report: a picture of up to 64; null if they are no images"
    )


class Sensitivity(Part):
    """What each layer of a quantized student costs its outputs alone, all else in float."""

    version: str = Field(description="the quantized student")
    measure: Literal["KL", "squared error"] = Field(
        description="of the loss: KL from the float student's outputs in nats, or ‖ŷ − y‖² / ‖y‖²"
    )
    samples: PositiveInt = Field(description="calibration samples that it was measured on")
    layers: tuple[Layer, ...] = Field(description="in the order of the network")
    control: Control | None = Field(None, description="null without `max_drop`")
    plan: BitPlan | None = Field(None, description="null without a budget for bits")


class Machine(Part):
    """The machine that compiled and measured."""

    chip: str = Field(description="the processor")
    cores: PositiveInt = Field(description="that the process may use")
    system: str = Field(description="operating system and architecture")
    python: str = Field(description="version")


class Provenance(Part):
    """What the result came from."""

    machine: Machine = Field(description="where it was made")
    versions: dict[str, str] = Field(description="packages that the result depends on")
    digests: dict[str, str] = Field(description="sha256 of recipe, data, teacher, …")
    made: Annotated[str, VARIES] = Field(description="time, ISO 8601")


class Report(Part):
    """The whole report."""

    schema_version: Literal[1] = Field(alias="schema", description="layout of this file; 1")
    edgekd: str = Field(description="version of edgekd")
    name: str = Field(description="of the recipe")
    seed: int = Field(description="of everything random")
    metric: Metric = Field(description="what the score is")
    splits: Splits = Field(description="samples in each split")
    budget: Budget = Field(Budget(), description="what the chosen engine must keep")
    ledger: tuple[LedgerRow, ...] = Field(description="where the score went, row by row")
    first_loss: FirstLoss | None = Field(description="null if no row lost more than its share")
    targets: tuple[TargetReport, ...] = Field(description="what was compiled for")
    calibration: tuple[CalibrationSet, ...] = Field((), description="what integer ranges were drawn from")
    search: tuple[Search, ...] = Field((), description="what was tried before a student or its losses were chosen")
    pruned: tuple[Pruned, ...] = Field((), description="what pruning under a budget predicted and measured")
    sensitivity: tuple[Sensitivity, ...] = Field((), description="what quantization costs, layer by layer")
    plan: tuple[Step, ...] = Field(description="what was run, in order")
    provenance: Provenance = Field(description="what the result came from")


def without_times(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report less all that holds a time or follows from one: what two runs with one seed must agree on.

    `chosen` and `nearest` stay: they are the product. Raises pydantic.ValidationError if it is not a report.
    """
    steady: dict[str, Any] = _steady(Report.model_validate(report))
    return steady


def _steady(value: Any) -> Any:
    if isinstance(value, Candidate) and value.placement is not None:  # made by measuring
        return {"name": value.name, "placement": _steady(value.placement)}
    if isinstance(value, Part):
        fields = {name: field for name, field in type(value).model_fields.items() if VARIES not in field.metadata}
        return {field.alias or name: _steady(getattr(value, name)) for name, field in fields.items()}
    return [_steady(one) for one in value] if isinstance(value, tuple) else value
