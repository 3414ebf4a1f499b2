"""What the recipe brings: the teacher, the student and the data as they are given, checked before any work."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd import data as datasets
from edgekd import metric as metrics
from edgekd.errors import UserError
from edgekd.factory import Factory
from edgekd.pipeline import teachers
from edgekd.student import Student, load_weights, read_weights, save

if TYPE_CHECKING:
    from edgekd.data import Dataset
    from edgekd.recipe import Loaded
    from edgekd.sections import Made, TeacherSection
    from edgekd.teacher import Teacher


CLASSES_HINT = "both need one output for each class; [teacher] classes = […] names the student's among the teacher's"


class Roots:
    """The recipe's factories, called at most once each."""

    def __init__(self, recipe: Loaded) -> None:
        self.recipe = recipe
        self.values = recipe.values
        self.data: Callable[[], Dataset] = cache(self._data)

    def _data(self) -> Dataset:
        section = self.values.data
        return datasets.check(self.recipe.factory(section)(**section.arguments), section.factory)

    def metric(self) -> Callable[[Any, Any], float]:
        """(outputs [n, classes], targets [n]) -> score; the user's own may raise what it likes: it is named then."""
        name = self.values.data.metric
        if ":" not in name:
            return metrics.accuracy
        factory = Factory(name, self.recipe.folder)

        def score(outputs: Any, targets: Any) -> float:
            found = factory(outputs, targets)
            try:
                number = float(found)
            except (TypeError, ValueError):
                message = f'metric "{name}" returned a {type(found).__name__}'
                raise UserError(message, hint="return one number, higher is better") from None
            if not math.isfinite(number):
                raise UserError(f'metric "{name}" is {number}', hint="return a finite number, whatever the outputs are")
            return number

        return score

    def student_factory(self, seed: int | None = None, /, **arguments: Any) -> nn.Module:
        """A fresh student, its random weights from `seed`, else from the recipe's; `arguments` over those of its section."""
        return self._network(self.values.student, seed, arguments)

    def student_with(self, arguments: Mapping[str, Any], seed: int | None = None) -> nn.Module:
        """A fresh student with other arguments of the factory; its random weights from `seed`, or else the recipe's."""
        return self._network(self.values.student, seed, arguments)

    def own_arguments(self) -> dict[str, Any]:
        """The arguments of the recipe's student: those that it gives, and the defaults of the factory's signature."""
        section = self.values.student
        signature = inspect.signature(self.recipe.factory(section).function())
        defaults = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty}
        return {**defaults, **section.arguments}

    def _network(self, section: Made, seed: int | None = None, arguments: Mapping[str, Any] | None = None) -> nn.Module:
        torch.manual_seed(self.values.seed if seed is None else seed)
        network = self.recipe.factory(section)(**{**section.arguments, **(arguments or {})})
        if not isinstance(network, nn.Module):
            raise UserError(f'"{section.factory}" returned a {type(network).__name__}', hint="return a torch.nn.Module")
        return network

    def _taught_by(self, section: TeacherSection) -> nn.Module:
        """The network of a teacher; what of it is drawn, and no weights say, is the same for every seed."""
        return self._network(section, section.drawn(self.values.seed))

    def make_student(self, out: Path, teacher: Teacher | None) -> dict[str, Any]:
        """Write the student as given; refuse one that cannot be traced, trained on this data or compared to the teacher."""
        section = self.values.student
        network = self._network(section)
        if section.weights:
            path = self.recipe.file(section.weights)
            load_weights(network, read_weights(path), str(path))
        network.eval()
        _check_weights(network, section.factory)
        data = self.data()
        outputs = _forward(network, data.train[0][:2], section.factory)
        datasets.check_targets(data, outputs.shape[1], self.values.data.factory)
        if teacher is not None and (theirs := teacher.outputs(data.train[0][:2])).shape != outputs.shape:
            message = f"the teacher's outputs are [batch, {theirs.shape[1]}], the student's [batch, {outputs.shape[1]}]"
            raise self.recipe.error(["student", "factory"], message, CLASSES_HINT)
        _traced(network, data.train[0][:1], section.factory)
        origin = {"factory": section.factory, "arguments": section.arguments}
        save(out, network.state_dict(), [], signature(data, outputs), origin)
        return {"splits": {name: len(data.split(name)[0]) for name in datasets.SPLITS}}

    def make_teacher(self, out: Path) -> dict[str, Any]:
        """Write the teacher; refuse one whose outputs cannot be compared to the student's."""
        section = self.values.teacher
        assert section is not None
        data = self.data()

        def about(network: nn.Module) -> dict[str, Any]:
            return signature(data, _forward(network, data.train[0][:2], section.factory))

        teachers.keep(self.recipe, section, out, self._taught_by, about)
        return teachers.weighed(self.recipe, section, out, self._taught_by, data, self.values.seed)

    def teacher(self, folder: Path) -> Teacher:
        """The teacher that `make_teacher` wrote."""
        assert self.values.teacher is not None
        return teachers.opened(self.recipe, self.values.teacher, folder, self._taught_by)

    def teacher_student(self, folder: Path) -> Student:
        """The teacher seen as a student, so that it is exported and compiled like one."""
        assert self.values.teacher is not None
        return Student(folder, partial(self._taught_by, self.values.teacher))


def signature(data: Dataset, outputs: torch.Tensor) -> dict[str, Any]:
    """Names, shapes (batch of one) and dtypes of input and output, and what an app needs to use them."""
    inputs = data.train[0]
    return {
        "inputs": [
            {"name": "input", "shape": [1, *inputs.shape[1:]], "dtype": str(inputs.dtype).removeprefix("torch.")}
        ],
        "outputs": [{"name": "output", "shape": [1, *outputs.shape[1:]], "dtype": "float32"}],
        "preprocessing": _plain(data.preprocessing),
        "labels": list(data.labels),
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(values))))
    except TypeError as error:
        raise UserError(
            f"the data's `preprocessing` is not plain values: {error}", hint="numbers, strings, lists, tables"
        ) from None


def _check_weights(network: nn.Module, spec: str) -> None:
    """Raises UserError naming the first weight that is not float32: training, quantization and every runtime start from that."""
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if value.is_floating_point() and value.dtype != torch.float32:
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(f'"{spec}": the weight "{name}" is {kind}', hint="return network.float()")


def _forward(network: nn.Module, inputs: torch.Tensor, spec: str) -> torch.Tensor:
    """Outputs [batch, classes] of a batch of two. Raises UserError for a network that cannot take it, or gives another form."""
    try:
        with torch.no_grad():
            outputs = network(inputs)
    except Exception as error:
        raise UserError(
            f'"{spec}" cannot run on inputs {list(inputs.shape)}: {type(error).__name__}: {error}'
        ) from error
    if not isinstance(outputs, torch.Tensor):
        raise UserError(f'"{spec}" gives a {type(outputs).__name__}', hint="return one tensor [batch, classes]")
    if outputs.dim() != 2 or len(outputs) != len(inputs):
        raise UserError(
            f'"{spec}" gives {list(outputs.shape)} for inputs {list(inputs.shape)}',
            hint="return logits [batch, classes]",
        )
    return outputs


def _traced(network: nn.Module, inputs: torch.Tensor, spec: str) -> None:
    """Raises UserError, naming module and line, for a network that torch.export cannot trace."""
    try:
        torch.export.export(network, (inputs,))
    except Exception as error:
        frames = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\n\s*(.*)', str(error))
        own = [f for f in frames if "site-packages" not in f[0]]
        where = f"{own[-1][0]}:{own[-1][1]}: in {own[-1][2]}: {own[-1][3].strip()}" if own else ""
        first = str(error).strip().partition("\n")[0]
        inside = _module_at(network, own[-1][0], int(own[-1][1])) if own else ""
        module = f' (module "{inside}")' if inside else ""
        hint = "torch.export must trace it: replace control flow that depends on values, with torch.where or torch.cond"
        raise UserError(f'"{spec}" cannot be traced{module}: {where or first}', hint=hint) from error


def _module_at(network: nn.Module, file: str, line: int) -> str:
    """Name of the module whose `forward` holds that line: of those that begin above it, the one nearest."""
    begins = {}
    for name, module in network.named_modules():
        code = type(module).forward.__code__
        if name and code.co_filename == file and code.co_firstlineno <= line:
            begins[name] = code.co_firstlineno
    return max(begins, key=lambda name: begins[name], default="")
