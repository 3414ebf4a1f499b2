"""The data that a recipe brings: three splits, checked before any work, and digested by what they were read from."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest
from edgekd.errors import UserError

if TYPE_CHECKING:
    import torch

    from edgekd.factory import Factory
    from edgekd.store import Store

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """What a data factory returns. Each split is (inputs [n, ...], targets [n]), as tensors.

    Selection (best epoch, pruning, calibration, choice of the engine) reads train and validation; `test` is read once,
    for the report. A training target of −1 stands for a sample without a label. `augment(inputs, generator)` returns
    inputs of the same shape. `labels` names the classes and `preprocessing` says how raw data became these inputs
    (edgekd/processing.py); both go into the bundle.
    """

    train: tuple[torch.Tensor, torch.Tensor]
    validation: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None
    labels: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    def split(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = getattr(self, name)
        return inputs, targets


def check(data: Any, spec: str) -> Dataset:
    """The same data, if it can be trained on. Raises UserError naming the factory, the split and what is wrong."""
    import torch

    if not isinstance(data, Dataset):
        raise UserError(f'"{spec}" returned a {type(data).__name__}', hint="return an edgekd.Dataset")
    for name in SPLITS:
        pair = getattr(data, name)
        where = f'"{spec}": split "{name}"'
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise UserError(f"{where} is not a pair", hint="give (inputs, targets)")
        for kind, value in zip(("inputs", "targets"), pair, strict=True):
            if not isinstance(value, torch.Tensor):
                raise UserError(
                    f"{where}: {kind} are a {type(value).__name__}", hint="give tensors; class labels as int64"
                )
        inputs, targets = pair
        if len(inputs) == 0:
            raise UserError(f"{where} is empty")
        if len(inputs) != len(targets):
            raise UserError(f"{where} has {len(inputs)} inputs and {len(targets)} targets")
        if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
            first = int((~torch.isfinite(inputs.flatten(1))).any(1).nonzero()[0])
            raise UserError(
                f"{where}: input {first} has NaN or infinite values",
                hint="look for a division by zero in preprocessing",
            )
        if inputs.shape[1:] != data.train[0].shape[1:]:
            raise UserError(
                f"{where}: inputs are {list(inputs.shape[1:])}, in train they are {list(data.train[0].shape[1:])}"
            )
    return data


def check_targets(data: Dataset, classes: int, spec: str) -> None:
    """Raises UserError if class labels do not fit outputs [n, classes]."""
    for name in SPLITS:
        targets = data.split(name)[1]
        if targets.is_floating_point():
            continue
        low, high = int(targets.min()), int(targets.max())
        if name == "train" and low == -1:
            low = 0
        if low < 0 or high >= classes:
            hint = f"labels go from 0 to {classes - 1}, one for each output of the student"
            raise UserError(
                f'"{spec}": split "{name}" has labels from {low} to {high}, the student has {classes} outputs',
                hint=hint,
            )
    if data.labels and len(data.labels) != classes:
        raise UserError(f'"{spec}" names {len(data.labels)} labels, the student has {classes} outputs')


def digest_of(
    factory: Factory,
    arguments: Mapping[str, Any],
    files: list[Path],
    store: Store,
    loader: Callable[[], Callable[[], object]] | None = None,
) -> str:
    """What the data depends on: the factory's source and arguments, the files that it read, by content, and what the folders that
    it listed hold, by name.

    The first call runs the factory and remembers what it opened; later calls look at that alone, and read a file only if its size or
    time of change is another, so a cached run need not load the data. Once something is another, the factory runs again: it may now
    open other files. Files that a library reads behind Python's back are not seen: name them, or their folder, in the recipe,
    `files = [...]`. `loader` gives what calls the factory and keeps its data, so that a first run loads them once.
    """
    source = digest.of_json([factory.spec, str(factory.folder), factory.digest(), dict(arguments)])
    note = store.note(f"data-{source}") or {}
    seen, known = note.get("seen"), note.get("states", {})
    now = {} if seen is None else _states(seen, files, known)
    if seen is None or _contents(now) != _contents(known):
        load = loader() if loader else partial(factory, **arguments)
        with _watched() as (opened, listed):
            load()
        seen = {"files": sorted(opened), "folders": sorted(listed)}
        now = _states(seen, files, now)
    if (seen, now) != (note.get("seen"), known):
        store.set_note(f"data-{source}", {"seen": seen, "states": now})
    return digest.of_json([factory.digest(), dict(arguments), _contents(now)])


def _states(seen: Mapping[str, list[str]], files: list[Path], known: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """{path: [bytes, time of change, digest]} of each file that is there; of a folder, {path/: [names, 0, their digest]}."""
    named = [p for path in files for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()]
    found: dict[str, list[Any]] = {}
    for name in sorted({*seen["files"], *map(str, named)}):
        try:
            state = os.stat(name)
        except OSError:
            continue
        stamp = [state.st_size, state.st_mtime_ns]
        old = known.get(name)
        found[name] = old if old and old[:2] == stamp else [*stamp, digest.of_file(Path(name))]
    for name in seen["folders"]:
        with suppress(OSError):
            held = sorted(one for one in os.listdir(name) if not _is_code(one))
            found[os.path.join(name, "")] = [len(held), 0, digest.of_json(held)]
    return found


def _contents(states: Mapping[str, list[Any]]) -> list[Any]:
    return [state[2] for state in states.values()]


def _is_code(name: str) -> bool:
    return name.endswith((".py", ".pyc", "__pycache__"))


@contextmanager
def _watched() -> Iterator[tuple[set[str], set[str]]]:
    """The files opened for reading and the folders listed while the block runs, without code, what is installed and the system's.

    A folder that modules are found in, as that of the recipe, does not count as listed: Python lists it, and results lie there too.
    """
    opened: set[str] = set()
    listed: set[str] = set()
    watching = True
    packages = {path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")}
    own = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    aside = (*(os.path.join(os.path.realpath(path), "") for path in packages | own), "/proc/", "/sys/", "/dev/")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching or event not in ("open", "os.listdir", "os.scandir"):
            return
        given = arguments[0] if event == "open" or arguments[0] is not None else "."
        if not isinstance(given, str | bytes | os.PathLike):
            return
        path = os.path.realpath(os.fsdecode(given))
        if os.path.join(path, "").startswith(aside) or _is_code(path):
            return
        if event != "open":
            if path not in map(os.path.realpath, sys.path):  # Python lists those itself
                listed.add(path)
        elif not isinstance(arguments[2], int) or arguments[2] & os.O_ACCMODE != os.O_WRONLY:
            opened.add(path)

    sys.addaudithook(hook)
    try:
        yield opened, listed
    finally:
        watching = False
        opened.intersection_update(p for p in tuple(opened) if os.path.isfile(p))
