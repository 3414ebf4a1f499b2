"""What is gated besides latency: one row a signal, each with its own tolerance. Those not measured here are deterministic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np

from edgekd.errors import UserError, nearest
from edgekd.latency.turn import ColdStart
from edgekd.metric import same_class

State = Literal["pass", "regressed", "unknown", "off"]
Kind = Literal["growth", "rise", "fall"]
# Kernels that compute nothing: they turn values into another layout or type for the kernel beside them.
REFORMATS = frozenset(
    (
        *("quantizelinear", "dequantizelinear", "cast", "transpose", "reorderinput", "reorderoutput"),  # ONNX Runtime
        *("reorder", "convert", "fakequantize"),  # OpenVINO, which says "Reorder float"
        *("packing", "permute", "quantize", "dequantize", "requantize"),  # ncnn, Core ML
    )
)
STARTS_ALPHA = 0.005  # probability that starts drawn alike are called larger
FEW, OVERLAP = NOT_SURE = ("too few starts to tell", "single starts overlap")


@dataclass(frozen=True)
class Signal:
    """What is compared. `kind`: a share of the baseline's by which it may grow, or an amount by which it may rise or fall.

    `floor`: a difference of at most so much never counts.
    """

    name: str
    kind: Kind
    unit: str
    tolerance: float
    about: str
    floor: float = 0.0
    measured: bool = False


SIGNALS = {
    signal.name: signal
    for signal in (
        Signal("metric", "fall", "share", 0.005, "score on the test split, as each bundle's compile recorded it"),
        Signal("teacher", "fall", "share", 0.01, "top-1 agreement with the teacher on the test split, as recorded"),
        Signal("parity", "rise", "times", 0.0, "largest distance to the golden outputs, over what the bundle allows"),
        Signal("agreement", "fall", "share", 0.25, "golden inputs for which both engines name the same class"),
        Signal("bytes", "growth", "bytes", 0.01, "size of the engine"),
        Signal("delegated", "fall", "share", 0.02, "share of the engine's nodes that compute in integers"),
        Signal("reformats", "rise", "count", 2, "nodes that only change layout or type"),
        Signal("instructions", "growth", "count", 0.005, "instructions a call", measured=True),
        Signal("cold_start", "growth", "seconds", 0.25, "from a new process to a first result", 0.02, measured=True),
        Signal("peak_memory", "growth", "bytes", 0.10, "what a first result adds to a process", 2e6, measured=True),
    )
}


@dataclass(frozen=True)
class Gate:
    """One signal's verdict. `baseline` and `candidate` in the signal's unit; None: not known, and `note` says why."""

    name: str
    state: State
    baseline: float | None
    candidate: float | None
    tolerance: float
    note: str = ""


def judge(name: str, baseline: float | None, candidate: float | None, tolerance: float | None, note: str = "") -> Gate:
    """Whether the candidate is within `tolerance` of the baseline (NaN: is not gated; None: the signal's own)."""
    signal = SIGNALS[name]
    allowed = signal.tolerance if tolerance is None else tolerance
    state: State = "pass"
    if math.isnan(allowed):
        state, note = "off", "not gated, as asked"
    elif baseline is None or candidate is None:
        state, note = "unknown", note or "not recorded in both"
    else:
        worse = baseline - candidate if signal.kind == "fall" else candidate - baseline
        most = allowed * baseline if signal.kind == "growth" else allowed
        if worse > max(most, signal.floor) + 1e-12 * abs(baseline):
            state = "regressed"
    return Gate(name, state, baseline, candidate, 0.0 if math.isnan(allowed) else allowed, note)


def read_tolerances(given: Sequence[str]) -> dict[str, float]:
    """Signal to tolerance from lines like "bytes=2%", "metric=0.01" and "cold_start=off" (NaN). Raises UserError."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in SIGNALS:
            raise UserError(f'--allow {text}: no signal called "{name}"', hint=nearest(name, SIGNALS))
        share = SIGNALS[name].kind == "growth"
        found[name] = math.nan if value == "off" else read_share(value, f"--allow {text}", least=0.0, share=share)
    return found


def read_share(text: str, where: str, least: float = math.ulp(0.0), *, share: bool = True) -> float:
    """A share from "5%" or "0.05". Raises UserError if it is none, or less than `least`.

    Of a `share` so is 1 or more without a "%", which allows twice as much: whoever writes "5" means 5%.

    >>> read_share("5%", "--tolerance"), read_share("0.1", "--tolerance")
    (0.05, 0.1)
    """
    try:
        value = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        wanted = "of at least 0" if least == 0 else "above 0"
        raise UserError(f'{where}: "{text}" is not a share {wanted}', hint='write it like "5%" or "0.05"')
    if share and value >= 1 and "%" not in text:
        raise UserError(f'{where}: "{text}" is {value:.0%}', hint=f'write "{text.strip()}%", or "{value:.0%}"')
    return value


def recorded(manifests: Sequence[Mapping[str, Any]], allowed: Mapping[str, float]) -> list[Gate]:
    """Metric and agreement with the teacher, from the facts of the baseline's and the candidate's compile.

    They compare only where both were scored on the same data.
    """
    old, new = (m.get("promised") or {} for m in manifests)
    data = [(m.get("digests") or {}).get("data") for m in manifests]
    other = "scored on other data" if data[0] != data[1] else ""
    top1 = [(p.get("agreement") or {}).get("top1") for p in (old, new)]
    pairs = {"metric": (old.get("metric"), new.get("metric")), "teacher": (top1[0], top1[1])}
    return [judge(k, *((None, None) if other else pair), allowed.get(k), other) for k, pair in pairs.items()]


def built(facts: Sequence[Mapping[str, Any]], allowed: Mapping[str, float]) -> list[Gate]:
    """Bytes, delegated share and reformats, from the facts (engine.json) of the baseline's and the candidate's engine."""
    rows: dict[str, list[float | None]] = {
        "bytes": [f.get("bytes") for f in facts],
        "delegated": [delegated(f) for f in facts],
        "reformats": [_reformats(f) for f in facts],
    }
    return [judge(name, old, new, allowed.get(name)) for name, (old, new) in rows.items()]


def delegated(facts: Mapping[str, Any]) -> float | None:
    """Share of integer nodes among those that multiply and add; None where the facts do not tell.

    >>> delegated({"integer_nodes": 3, "float_nodes": 1})
    0.75
    """
    integer, floating = facts.get("integer_nodes"), facts.get("float_nodes")
    if integer is None or floating is None or integer + floating == 0:
        return None
    return float(integer / (integer + floating))


def _reformats(facts: Mapping[str, Any]) -> float | None:
    kernels = facts.get("kernels")
    if kernels is None:
        return None
    return float(sum(count for kind, count in kernels.items() if kind.split()[0].lower() in REFORMATS))


def parity(outputs: np.ndarray, golden: np.ndarray | None, within: Mapping[str, Any], tolerance: float | None) -> Gate:
    """The candidate's outputs here against those it gave where it was compiled, in units of what its bundle allows.

    1 is as far as it may: its largest difference over the allowed one, or, where classes differ, infinitely far.
    """
    if golden is None:
        return judge("parity", None, None, tolerance, "the bundle holds no golden outputs")
    if outputs.shape != golden.shape:
        return judge("parity", 1.0, 1e9, tolerance, f"outputs {list(outputs.shape)}, golden ones {list(golden.shape)}")
    absolute, top1 = float(within.get("absolute", 1e-4)), float(within.get("top1", 1.0))
    difference = float(np.abs(outputs.astype(np.float64) - golden).max())
    same = same_class(outputs, golden)
    note = f"largest difference {difference:.3g}, allowed {absolute:g}"
    if same < top1 or not math.isfinite(difference):
        return judge("parity", 1.0, 1e9, tolerance, f"the same class for {same:.0%} of the golden inputs; {note}")
    times = difference / absolute if absolute else 1e9 * (difference > 0)  # constant outputs: nothing is allowed
    return judge("parity", 1.0, times, tolerance, note)


def agreement(outputs: np.ndarray, others: np.ndarray, tolerance: float | None) -> Gate:
    """The candidate's outputs [n, …] against the baseline's on the same golden inputs."""
    if not np.isfinite(outputs).all():
        return judge("agreement", 1.0, 0.0, tolerance, "the candidate's outputs are not finite")
    spread = float(np.abs(outputs.astype(np.float64) - others).max())
    note = f"{len(outputs)} golden inputs; largest difference {spread:.3g}"
    return judge("agreement", 1.0, same_class(outputs, others), tolerance, note)


def started(
    baseline: Sequence[ColdStart], candidate: Sequence[ColdStart], allowed: Mapping[str, float], simulated: bool
) -> list[Gate]:
    """Cold start and peak memory, medians of several new processes each.

    Single starts vary by more than what is allowed, so it is regressed only if chance would give starts so much larger than
    what is allowed once in 200 (`rank_p`). Where that is not sure it passes, and the note says why: `starts.py` measures
    more then. Of simulated engines the memory is this machine's and says nothing.
    """
    gates = []
    for name, read in (("cold_start", lambda c: c.seconds), ("peak_memory", lambda c: float(c.peak - c.base))):
        old, new = list(map(read, baseline)), list(map(read, candidate))
        if not old or not new or (simulated and name == "peak_memory"):
            gates.append(judge(name, None, None, allowed.get(name), "simulated" if simulated else "not measured"))
            continue
        gate = judge(name, float(np.median(old)), float(np.median(new)), allowed.get(name))
        if gate.state == "regressed":
            floor = SIGNALS[name].floor
            limits = [value + max(gate.tolerance * value, floor) for value in old]
            few = math.comb(len(old) + len(new), len(old)) * STARTS_ALPHA < 1
            if few or rank_p(limits, new) > STARTS_ALPHA:
                gate = replace(gate, state="pass", note=FEW if few else OVERLAP)
        gates.append(gate)
    return gates


def rank_p(lower: Sequence[float], upper: Sequence[float]) -> float:
    """Probability, if both were drawn alike, that `upper` ranks as high above `lower` as it does: exact, ties count half.

    Source: Mann, Whitney 1947, doi 10.1214/aoms/1177730491: the recurrence of the number of orders with a given U.

    >>> round(rank_p([1, 2, 3], [4, 5, 6]), 3), rank_p([1], [1])
    (0.05, 1.0)
    """
    u = math.floor(sum((b > a) + 0.5 * (b == a) for a in lower for b in upper))
    m, n = len(lower), len(upper)

    @cache
    def orders(u: int, m: int, n: int) -> int:
        """How many orders of m and n values have exactly u pairs in which the one of the n is larger."""
        if u < 0 or u > m * n:
            return 0
        if m == 0 or n == 0:
            return int(u == 0)
        return orders(u - m, m, n - 1) + orders(u, m - 1, n)

    return sum(orders(k, m, n) for k in range(u, m * n + 1)) / math.comb(m + n, n)
