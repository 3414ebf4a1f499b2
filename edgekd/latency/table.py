"""A latency table: what engines of one student at many widths were measured to take, by one race, on one machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import digest
from edgekd.backend import read_json
from edgekd.errors import UserError
from edgekd.latency import predictor
from edgekd.latency.design import Space, Widths
from edgekd.latency.race import Race, Runner

FORMAT = 2
FILE, RACE, PICTURE = "table.json", "race.json", "table.svg"
FIELDS = {"latency": "seconds", "size": "bytes", "memory": "memory"}
"""What a budget may be of, and the field of `Measured` that tells it."""


@dataclass(frozen=True)
class Kind:
    """Engines that compare: of one backend, at one precision."""

    backend: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.precision} on {self.backend}"


@dataclass(frozen=True)
class Measured:
    """Seconds, and `share` of what the whole student's engine took in the same race, with its 95% interval.

    `bytes` of the engine's files; `memory`: bytes at most of a new process up to its first result, where that was measured.
    """

    seconds: float
    share: float
    low: float
    high: float
    bytes: int | None = None
    memory: int | None = None


def engine_name(index: int, kind: Kind) -> str:
    """What a race calls the engine of the plan at `index`."""
    return f"{index} {kind.name}"


def measured_by(race: Race, kind: Kind, plans: int) -> list[Measured]:
    """What a race says of the plans' engines, the first being the whole student. Seconds follow from the share, paired by round."""
    whole = engine_name(0, kind)
    seconds = race.runners[whole].latency(race.seed).median
    found = [Measured(seconds, 1.0, 1.0, 1.0, *bytes_of(race.runners[whole]))]
    for index in range(1, plans):
        name = engine_name(index, kind)
        ratio = race.ratio(name, whole)
        found.append(Measured(seconds * ratio.point, ratio.point, ratio.low, ratio.high, *bytes_of(race.runners[name])))
    return found


def bytes_of(runner: Runner) -> tuple[int | None, int | None]:
    """(of the engine's files, at most of a new process)."""
    peaks = [cold.peak for cold in runner.cold_start]
    return runner.facts.get("bytes"), round(statistics.median(peaks)) if peaks else None


@dataclass(frozen=True, eq=False)
class Table:
    """`rows` by kind, aligned with `plans`, the first of which is the whole student. `machine` is what it was measured on.

    `failed`: kinds whose engines could not be compiled, with the reason. `disturbed`: others used the machine meanwhile.
    """

    space: Space
    machine: Mapping[str, Any]
    plans: tuple[Widths, ...]
    rows: Mapping[Kind, tuple[Measured, ...]]
    failed: Mapping[str, str]
    disturbed: bool = False

    def taken(self, kind: Kind, quantity: str = "latency") -> list[float]:
        """Of each plan, seconds or bytes. Raises UserError for what the table does not tell."""
        found = [getattr(row, FIELDS[quantity]) for row in self.rows[kind]]
        if not all(found):
            raise UserError(f"the latency table does not tell the {quantity} of {kind.name}", hint="another backend")
        return [float(value) for value in found]

    def whole(self, kind: Kind, quantity: str = "latency") -> float:
        """What the whole student takes."""
        return self.taken(kind, quantity)[0]

    def predictor(self, kind: Kind, quantity: str = "latency") -> predictor.Predictor:
        return predictor.fit(self.space, self.plans, self.taken(kind, quantity))

    def alone(self, kind: Kind, group: str) -> list[tuple[int, Measured]]:
        """What was measured of a group narrowed alone: (width, measured), ascending, its own width last."""
        whole = self.space.whole
        widths = {
            plan[group]: row
            for plan, row in zip(self.plans, self.rows[kind], strict=True)
            if plan == {**whole, group: plan[group]}
        }
        return sorted(widths.items())

    def idle(self, kind: Kind) -> dict[str, str]:
        """Groups whose narrowing buys no measured time, with the reason: at no width is the interval of the share below 1.

        A layer's cost that rises with both widths is cut most where the other groups are whole, as they are here.
        """
        found = {}
        for group in self.space.narrowable:
            rows = self.alone(kind, group)[:-1]
            if not any(row.high < 1 for _, row in rows):
                width, row = min(rows, key=lambda pair: pair[1].share)
                found[group] = (
                    f"narrowing it buys no measured time: {row.share:.3f} ({row.low:.3f} to {row.high:.3f}) of the whole at {width}"
                )
        return found

    def check(self, machine: Mapping[str, Any], command: str) -> None:
        """Raises UserError, with the command that measures again, if the table was measured on another machine than `machine`."""
        if digest.of_json(self.machine) == digest.of_json(machine):
            return
        names = sorted({*self.machine, *machine})
        name = next(name for name in names if self.machine.get(name) != machine.get(name))
        message = f"the latency table was measured on another machine: {name} {self.machine.get(name)!r}, here {machine.get(name)!r}"
        raise UserError(message, hint=f"measure it again: {command}")

    def to_json(self) -> dict[str, Any]:
        kinds = [
            {"backend": kind.backend, "precision": kind.precision, "rows": [vars(row) for row in rows]}
            for kind, rows in self.rows.items()
        ]
        return {
            "format": FORMAT,
            "space": self.space.to_json(),
            "machine": dict(self.machine),
            "plans": list(self.plans),
            "kinds": kinds,
            "failed": dict(self.failed),
            "disturbed": self.disturbed,
        }

    @classmethod
    def read(cls, path: Path) -> Table:
        """Raises UserError for a file that is no latency table of this format."""
        found = read_json(path)
        if found.get("format") != FORMAT:
            raise UserError(f"{path}: a latency table of format {found.get('format')}, this edgekd reads {FORMAT}")
        try:
            rows = {
                Kind(k["backend"], k["precision"]): tuple(Measured(**row) for row in k["rows"]) for k in found["kinds"]
            }
            space, plans = Space.from_json(found["space"]), tuple(found["plans"])
            return cls(space, found["machine"], plans, rows, found["failed"], found["disturbed"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not a latency table: {error!r}") from None


@dataclass(frozen=True)
class Pricing:
    """What a stage that prunes under a latency is given: the table, the kinds that count, and a way to measure a plan now."""

    table: Table
    kinds: tuple[Kind, ...]
    measure: Callable[[Widths], dict[Kind, Measured]]
