"""The sections of a recipe, as pydantic reads them: typed, frozen, units parsed. Unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from edgekd import registry
from edgekd.units import parse_bytes, parse_seconds


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Made(Section):
    """A section whose `factory` is called with every further key as an argument: `full = true`, `width = 24`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    factory: str = Field(description='"module:function", beside the recipe or installed')

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class StudentSection(Made):
    """The network to ship: a torch factory, with `weights` a safetensors file to start from; or (`use = "onnx"`) a file."""

    use: Literal["module", "onnx"] = "module"
    factory: str = ""
    weights: str | None = None


class TeacherSection(Made):
    """Whom to learn from: a torch factory with weights, or (`use`) an ONNX file, a function, a command, several of them.

    Where its classes are not the student's, `classes` names for each class of the student the teacher's number of it, or
    several numbers; `resize` is the height and width of the images that it takes.
    """

    use: str = Field("module", description="a kind of teacher: see `edgekd list teachers`")
    factory: str = ""
    weights: str | None = Field(None, description="a safetensors file; of a kind that is made from a file, that file")
    members: tuple[TeacherSection, ...] = Field((), description='the teachers of `use = "ensemble"`')
    classes: tuple[int | tuple[int, ...], ...] = ()
    resize: tuple[int, int] | None = None

    @property
    def made_from(self) -> str:
        """What its kind is made from (edgekd/teachers/__init__.py), read without importing it."""
        return str(registry.constant("teachers", self.use, "made_from") or "network")

    @property
    def compiled(self) -> bool:
        """Whether an engine can be made of it that answers like it: of a network or an ONNX file that is taken as it is.

        A file that ends in a softmax would not give logits.
        """
        if self.classes or self.resize:
            return False
        return self.made_from == "network" or (self.use == "onnx" and not self.arguments.get("probabilities"))

    def drawn(self, seed: int) -> int:
        """The seed that what it says depends on: of one that has its weights always 0, so that every seed of a recipe shares it."""
        if self.made_from == "teachers":
            fixed = self.arguments.get("by") != "similarity" and not any(member.drawn(1) for member in self.members)
        else:
            fixed = self.weights is not None
        return 0 if fixed else seed


class DataSection(Made):
    """The data factory, the metric (higher is better), and files, or folders of them, that it reads behind Python's back.

    For a student that is an ONNX file there is no factory: `use = "noise"`, or "images" or "npz" with their `path`.
    """

    use: Literal["module", "noise", "images", "npz"] = "module"
    factory: str = ""
    path: str = Field("", description='the folder of "images", the file of "npz"')
    metric: str = Field("accuracy", description='"accuracy", or "module:function" taking (outputs, targets)')
    files: tuple[str, ...] = ()


def _unit(parse: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else _needs_unit(value))


def _needs_unit(value: Any) -> Any:
    raise ValueError(f'{value!r} has no unit; write it like "0.5 ms" or "200 kB"')


class TargetsSection(Section):
    """What to compile for: names in `targets/`, or paths of TOML files."""

    names: tuple[str, ...] = Field(("host",), min_length=1)
    backends: tuple[str, ...] = Field((), description="instead of the target's own list")
    threads: int = Field(1, ge=1, description="of each engine, pinned")
    preprocess: Literal["outside", "in_engine"] = Field(
        "outside",
        description='"in_engine": engines take bytes; scale, mean, std, layout, and resize with `from`, are their first nodes',
    )
    tune: int = Field(
        0, ge=0, description="trials of each engine's kernels, measured here by a backend that searches them (tvm)"
    )
    tuning: str = Field("", description="a folder with a database of such trials, to compile with and go on from")
    placement: bool = Field(
        True,
        description="search, by measuring, which operators run as integers, of a quantized student's program or of an ONNX "
        "file, and which rewrites of the file pay",
    )


class BudgetSection(Section):
    """What the chosen engine must keep. Nothing given, nothing required."""

    metric_drop: float | None = Field(
        None, ge=0, description="below the last float student before compression, on validation"
    )
    latency_p90: Annotated[float, _unit(parse_seconds)] | None = Field(None, description='"0.5 ms"')
    size: Annotated[int, _unit(parse_bytes)] | None = Field(None, description='"200 kB", of the engine')
    memory: Annotated[int, _unit(parse_bytes)] | None = Field(
        None, description='"60 MB", the most that the process held up to its first result, the runtime included'
    )
    cold_start: Annotated[float, _unit(parse_seconds)] | None = Field(
        None, description='"50 ms", from opening the engine to its first result, in a new process'
    )
    sqnr: float | None = Field(
        None, gt=0, description="dB at least, of an ONNX file: against the float file, on validation"
    )


class TrainSection(Section):
    """How the stages train. A stage's `batch` is what a step sees, however many share it, at once or one after another."""

    devices: int = Field(1, ge=1, description="processes of this machine that share each batch")
    precision: Literal["32", "bf16-mixed"] = Field(
        "32", description='"bf16-mixed": the student computes in bfloat16 where that is safe; its weights stay float32'
    )
    accumulate: int = Field(
        1, ge=1, description="parts in which a batch is computed one after another, where memory is short"
    )
    fused: bool = Field(False, description="the optimizer's steps in one kernel: other rounding, perhaps faster")


class MeasureSection(Section):
    """How long to measure. More seconds give narrower intervals."""

    processes: int = Field(3, ge=1)
    seconds: float = Field(2.0, gt=0, allow_inf_nan=False, description="an engine, in all processes together")
    wait: float = Field(5.0, ge=0, allow_inf_nan=False, description="seconds at most that a busy machine is waited for")


class Recipe(Section):
    """The whole recipe."""

    seed: int = Field(0, ge=0, lt=2**63, strict=True)
    student: StudentSection
    teacher: TeacherSection | None = None
    data: DataSection
    stage: tuple[dict[str, Any], ...] = Field((), description="in order; `use` names a file in edgekd/stages/")
    train: TrainSection = TrainSection()
    targets: TargetsSection = TargetsSection()
    budget: BudgetSection = BudgetSection()
    measure: MeasureSection = MeasureSection()
    preprocessing: dict[str, Any] = Field(
        {}, description="of the bundle, over what the data say: resize, crop, scale, mean …"
    )
    postprocessing: dict[str, Any] = Field({}, description="of the bundle: softmax or sigmoid, threshold, top")
