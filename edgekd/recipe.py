"""The recipe: one TOML file, read into typed, frozen values. Whatever is wrong with it is said before any work starts.

Each error names the file, the key and the line, with the nearest valid name as a hint.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from edgekd import registry
from edgekd.errors import EdgekdError, UserError, nearest
from edgekd.factory import Factory
from edgekd.onnx import recipe as onnx_recipe
from edgekd.overrides import apply
from edgekd.sections import (
    BudgetSection,
    Made,
    MeasureSection,
    Recipe,
    TargetsSection,
    TeacherSection,
    TrainSection,
)

if TYPE_CHECKING:
    from edgekd.stage import Stage


NEEDED = {"factory": '"module:function"', "weights": '"teacher.onnx"', "members": "[{ … }, { … }]"}
"""How a teacher's section says what its kind is made from."""
Wrong = Callable[..., UserError]
"""(key, message, hint) → the error, with its place in the recipe."""


class Loaded:
    """A recipe with what it was read from: `values` is typed, `stages` are built, paths are resolved."""

    def __init__(self, path: Path, text: str, values: Recipe, raw: dict[str, Any]) -> None:
        self.path, self.text, self.values, self.raw = path, text, values, raw
        self.folder = path.parent
        self.name = path.stem if path.suffix == onnx_recipe.SUFFIX else self.folder.name
        self.stages: tuple[Stage, ...] = tuple(self._stage(i, table) for i, table in enumerate(values.stage))
        self._check()

    def factory(self, section: Made) -> Factory:
        return Factory(section.factory, self.folder)

    def file(self, name: str) -> Path:
        """A path of the recipe, relative to the recipe."""
        return (self.folder / name).resolve()

    def error(self, keys: Sequence[str | int], message: str, hint: str = "") -> UserError:
        line = line_of(self.text, keys)
        shown = ".".join(str(k) for k in keys)
        return UserError(f"{self.path}{f':{line}' if line else ''}: {shown}: {message}", hint=hint)

    def wrong_setting(self, error: EdgekdError) -> UserError:
        """The error of a setting, which begins with its key, with the recipe's file and line."""
        where, _, said = error.message.partition(": ")
        if not said or " " in where:
            return self.error([error.message.split()[0]], error.message, error.hint)
        return self.error(where.split("."), said, error.hint)

    def _stage(self, index: int, table: Mapping[str, Any]) -> Stage:
        keys: list[str | int] = ["stage", index]
        if "use" not in table:
            raise self.error(keys, "has no `use`", hint=nearest("", trainable()))
        if table["use"] not in trainable():
            raise self.error(
                [*keys, "use"], f'no stage named "{table["use"]}"', hint=nearest(str(table["use"]), trainable())
            )
        fields = {k: v for k, v in table.items() if k != "use"}
        try:
            stage: Stage = registry.build("stages", table["use"], fields)
        except UserError as error:
            key = next((k for k in fields if re.search(rf'(^|field "|: ){re.escape(k)}\b', error.message)), None)
            raise self.error([*keys, *([key] if key else [])], error.message, error.hint) from None
        for key, folder, name in stage.names():
            try:
                registry.file_of(folder, name)
            except UserError as error:
                raise self.error([*keys, key], error.message, error.hint) from None
        return stage

    def _check(self) -> None:
        """Everything that can be known without importing what the user wrote."""
        from edgekd.search.space import check_given
        from edgekd.target import find_calibration, find_target

        values = self.values
        key: list[str | int] = []
        if values.student.use == "onnx":
            onnx_recipe.check(self)
        for name in ("student", "data") if values.student.use != "onnx" else ():
            section = getattr(values, name)
            if not section.factory:
                raise self.error([name, "factory"], "is missing")
            self._check_arguments(section, None, lambda key, *said, name=name: self.error([name, key], *said))
        if values.student.weights is not None and not self.file(values.student.weights).is_file():
            raise self.error(["student", "weights"], *absent(self.file(values.student.weights)))
        if values.teacher is not None:
            self._check_teacher(values.teacher, lambda key, *said: self.error(["teacher", key], *said))
        for name in values.data.files:
            if not self.file(name).exists():
                raise self.error(["data", "files"], *absent(self.file(name)))
        self._check_processing()
        try:
            key = ["data", "metric"]
            if ":" in values.data.metric:
                Factory(values.data.metric, self.folder).parameters()
            elif values.data.metric != "accuracy":
                raise UserError(f'no metric named "{values.data.metric}"', hint='"accuracy", or "module:function"')
            key = ["targets", "names"]
            for name in values.targets.names:
                target = find_target(name, self.folder)
                if not values.targets.backends and not target.usable:
                    message = f'this edgekd has no backend of "{name}": {", ".join(target.backends)}'
                    raise UserError(message, hint="name one in targets.backends; `edgekd list backends` shows them")
            key = ["targets", "backends"]
            for backend in values.targets.backends:
                registry.file_of("backends", backend)
            key = ["targets", "tuning"]
            if values.targets.tuning and not list(self.file(values.targets.tuning).glob("database_*.json")):
                hint = "a run with targets.tune writes one into its --out, as tuning/TARGET"
                raise UserError(f"{self.file(values.targets.tuning)} holds no tuning database", hint=hint)
            for index, stage in enumerate(self.stages):
                key = ["stage", index, "calibration"]
                if stage.calibration:
                    find_calibration(stage.calibration, self.folder)
                key = ["stage", index, "arguments"]
                if stage.varied and values.student.use != "onnx":
                    factory = self.factory(values.student)
                    check_given(stage.varied, values.student.arguments, factory.parameters(), factory.spec)
        except UserError as error:
            raise self.error(key, error.message, error.hint) from None
        given = "file" if values.student.use == "onnx" else "student"
        for index, stage in enumerate(self.stages):
            if stage.takes != given:
                before = values.stage[index - 1]["use"] if index else "[student]"
                message = f'"{values.stage[index]["use"]}" takes a {stage.takes}, "{before}" gives a {given}'
                hint = (
                    f'put it before "{before}"' if index else f'an ONNX file is quantized by "{onnx_recipe.STAGE}" only'
                )
                raise self.error(["stage", index, "use"], message, hint=hint)
            given = stage.gives
            if "teacher" in stage.reads and values.teacher is None:
                raise self.error(["stage", index, "use"], "needs a teacher", hint="add a [teacher] section")

    def _check_teacher(self, section: TeacherSection, error: Wrong) -> None:
        """A teacher, or a member of one: it has what its kind is made from, and no other keys."""
        try:
            registry.file_of("teachers", section.use)
        except UserError as wrong:
            raise error("use", wrong.message, wrong.hint) from None
        kind = section.made_from
        needed = {"network": "factory", "function": "factory", "file": "weights", "teachers": "members"}.get(
            kind, "use"
        )
        if not getattr(section, needed):
            raise error("use", f'"{section.use}" needs `{needed}`', f"{needed} = {NEEDED[needed]}")
        if self.values.student.use != "onnx":
            own = kind not in ("network", "function")
            self._check_arguments(section, registry.parameters("teachers", section.use) if own else None, error)
        if section.weights is not None and not self.file(section.weights).is_file():
            raise error("weights", *absent(self.file(section.weights)))
        for number, member in enumerate(section.members, 1):
            self._check_teacher(
                member, lambda key, said, *hint, n=number: error("members", f"teacher {n}: {key}: {said}", *hint)
            )

    def _check_arguments(self, section: Made, known: list[str] | None, error: Wrong) -> None:
        """Its further keys are in `known`, or else arguments of its factory."""
        try:
            known = known if known is not None else self.factory(section).parameters()
        except UserError as wrong:
            raise error("factory", wrong.message, wrong.hint) from None
        for argument in section.arguments:
            if known is not None and argument not in known:
                raise error(argument, "unknown key", nearest(argument, [*type(section).model_fields, *known]))

    def _check_processing(self) -> None:
        """What the recipe says of preprocessing and postprocessing, as far as it can be told without the data's part."""
        from edgekd import processing, tokenizer

        known = sorted({*processing.IMAGE, *processing.SOUND, *processing.TEXT})
        for key in self.values.preprocessing:
            if key not in known:
                raise self.error(["preprocessing", key], "unknown key", hint=nearest(key, known))
        try:
            processing.check(self.values.preprocessing, self.values.postprocessing)
            files = {name: self.file(name) for name in tokenizer.files_of(self.values.preprocessing)}
        except UserError as error:
            raise self.wrong_setting(error) from None
        for file in files.values():
            if not file.is_file():
                raise self.error(["preprocessing", "tokenizer"], *absent(file))
        try:
            tokenizer.resolve(self.values.preprocessing, files)
        except UserError as error:
            raise self.error(["preprocessing", "tokenizer"], error.message, hint=error.hint) from None


def absent(file: Path) -> tuple[str, str]:
    """What is said of a file that a recipe names and that is not there; the hint names one beside it, if one is near."""
    beside = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
    near = get_close_matches(file.name, beside, n=1)
    return f"{file} does not exist", nearest(file.name, near) if near else "paths are relative to the recipe"


def trainable() -> list[str]:
    """Stages that a recipe lists; the others (export, compile, …) follow by themselves."""
    return ["search", "distill", "puzzle", "prune", "quantize", "quantize_weights", onnx_recipe.STAGE]


def load(path: Path, overrides: Sequence[str] = (), of_file: Mapping[str, Any] | None = None) -> Loaded:
    """Read a recipe, with `--set` overrides such as "distill.epochs=2". Raises UserError for whatever is wrong with it.

    `of_file`: the recipe that an ONNX file at `path` stands for, as `onnx_recipe.table` gives it.
    """
    if of_file is not None:
        return _loaded(path, "", dict(of_file), overrides)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = ""
        if isinstance(error, FileNotFoundError | IsADirectoryError):
            held = sorted((path if path.is_dir() else path.parent).glob("*.toml"))
            hint = f"there is {held[0]}" if held else "edgekd new NAME writes one to start from"
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}", hint=hint) from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    return _loaded(path, text, raw, overrides)


def _loaded(path: Path, text: str, raw: dict[str, Any], overrides: Sequence[str]) -> Loaded:
    for override in overrides:
        apply(raw, override)
    try:
        values = Recipe.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        keys = [k for k in first["loc"] if isinstance(k, str | int)]
        message, hint = first["msg"].removeprefix("Value error, "), ""
        if first["type"] == "extra_forbidden":
            message, hint = "unknown key", nearest(str(keys[-1]), _fields_at(keys[:-1]))
        elif first["type"] == "missing":
            message = "is missing"
        line = line_of(text, keys)
        shown = ".".join(str(k) for k in keys)
        raise UserError(f"{path}{f':{line}' if line else ''}: {shown}: {message}", hint=hint) from None
    return Loaded(path.resolve(), text, values, raw)


def _fields_at(keys: Sequence[str | int]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "targets": TargetsSection,
        "budget": BudgetSection,
        "measure": MeasureSection,
        "train": TrainSection,
    }
    return list((sections[str(keys[0])] if keys and keys[0] in sections else Recipe).model_fields)


def line_of(text: str, keys: Sequence[str | int]) -> int | None:
    """The line of a key in TOML text, or of the table that should hold it; None if neither is there.

    >>> line_of('seed = 1\\n[[stage]]\\nuse = "prune"\\n[[stage]]\\nratio = 2', ["stage", 1, "ratio"])
    5
    """
    names = [k for k in keys if isinstance(k, str)]
    index = next((k for k in keys if isinstance(k, int)), 0)
    if not names:
        return None
    section, count, found = "", -1, None
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[(\[?)\s*([\w.\"-]+)\s*\]", line)
        if header:
            section = header[2]
            if section == names[0]:
                count += 1
                if not header[1] or count == index:
                    found = found or number
        inside = section == names[0] and (count == index or (count <= 0 and index == 0))
        key = re.match(r"\s*([\w-]+)\s*=", line)
        if key and inside and key[1] in names[1:]:
            return number
        if key and not section and key[1] == names[0]:
            return number
    return found
