"""Which operators cost the difference: the profiles of both engines, side by side, by kind and shape of output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import worker
from edgekd.check.pair import Side
from edgekd.errors import EdgekdError

if TYPE_CHECKING:
    from edgekd.devices.device import Device

CALLS = 60  # a side and turn: a check that found a slowdown should not take long to say where
TIMEOUT = 120.0
NOTHING: Mapping[str, Any] = {"nodes": 0, "seconds": 0.0}


@dataclass(frozen=True)
class Operator:
    """What one kind of operator costs a call in each engine: nodes, and seconds."""

    name: str
    baseline_nodes: float
    candidate_nodes: float
    baseline: float
    candidate: float

    @property
    def added(self) -> float:
        return self.candidate - self.baseline


def difference(baseline: Iterable[Mapping[str, Any]], candidate: Iterable[Mapping[str, Any]]) -> list[Operator]:
    """Rows {"operator", "nodes", "seconds"} of both profiles, joined by operator; what adds most comes first.

    An operator whose shape is in one engine only is joined with the next such of its kind: "Conv 1×8×8×8 → 1×16×8×8".

    >>> [(o.name, round(o.added, 6)) for o in difference([{"operator": "Conv", "nodes": 1, "seconds": 1e-4}],
    ...     [{"operator": "Conv", "nodes": 1, "seconds": 3e-4}, {"operator": "Relu", "nodes": 1, "seconds": 5e-5}])]
    [('Conv', 0.0002), ('Relu', 5e-05)]
    """
    sides = [{row["operator"]: row for row in rows} for rows in (baseline, candidate)]
    pairs = [(name, name) for name in sides[1] if name in sides[0]]
    left = [[name for name in side if name not in sides[1 - i]] for i, side in enumerate(sides)]
    for name in left[1]:
        kind = name.partition(" ")[0]
        old = next((n for n in left[0] if n.partition(" ")[0] == kind), "")
        left[0] = [n for n in left[0] if n != old]
        pairs.append((old, name))
    found = []
    for was, now in [*pairs, *((name, "") for name in left[0])]:
        old, new = (side.get(name, NOTHING) for side, name in zip(sides, (was, now), strict=True))
        name = f"{was} → {now.partition(' ')[2]}" if was and now and was != now else now or was
        found.append(Operator(name, old["nodes"], new["nodes"], old["seconds"], new["seconds"]))
    return sorted(found, key=lambda one: -one.added)


def blamed(operators: Sequence[Operator], share: float = 0.8, most: int = 5) -> list[Operator]:
    """The fewest operators that together add `share` of all that was added, at most `most`."""
    slower = [one for one in operators if one.added > 0]
    whole, found, so_far = sum(one.added for one in slower), [], 0.0
    for one in slower[:most]:
        if so_far >= share * whole:
            break
        found.append(one)
        so_far += one.added
    return found


def profiles(
    candidate: Side, baseline: Side, inputs: Path | None, plugins: Sequence[str], device: Device | None = None
) -> list[Operator] | None:
    """Profile both engines in fresh processes, here or on the device. None where there is no profiler, or it failed.

    Turns are taken twice and the faster one of each operator kept: a profile is seconds, and the machine is not quiet.
    """
    found: list[list[dict[str, Any]]] = []
    for side in (baseline, candidate):
        turns = []
        for _ in range(2):
            try:
                rows = _rows(side, inputs, plugins, device)
            except EdgekdError:
                return None
            if rows is None:
                return None
            turns.append({row["operator"]: row for row in rows})
        best = [min((t[name] for t in turns if name in t), key=lambda row: float(row["seconds"])) for name in turns[0]]
        found.append(best)
    return difference(*found)


def _rows(
    side: Side, inputs: Path | None, plugins: Sequence[str], device: Device | None
) -> list[dict[str, Any]] | None:
    files = [inputs] if inputs else None
    if device is not None:
        return device.profile(side.engine, files, CALLS, TIMEOUT)
    request = {"engine": str(side.engine), "inputs": [str(f) for f in files] if files else None, "calls": CALLS}
    request |= {"plugins": list(plugins)}
    answer = worker.call("profile", request, env=worker.thread_env(side.threads), timeout=TIMEOUT)
    rows: list[dict[str, Any]] | None = answer["operators"]
    return rows
