"""Which engine goes into the bundle: the fastest that keeps the budget. An integer engine must be faster than float."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgekd.ledger import ROUNDING
from edgekd.report import words
from edgekd.report.figures import Ratio
from edgekd.report.schema import Candidate, Verdict

Compare = Callable[[str, str], Ratio | None]
"""(name, other name) -> latency of the one over the other's, raced side by side; None if they were not."""

GIVEN = ("failed", "simulated", "built", "rejected")
"""Verdicts that were known before there was a choice."""


class Limits(Protocol):
    """A budget: the recipe's or the report's. None: not limited."""

    @property
    def metric_drop(self) -> float | None: ...
    @property
    def latency_p90(self) -> float | None: ...
    @property
    def size(self) -> int | None: ...
    @property
    def memory(self) -> int | None: ...
    @property
    def cold_start(self) -> float | None: ...
    @property
    def sqnr(self) -> float | None: ...


@dataclass(frozen=True)
class Choice:
    """`chosen` keeps the budget; where none does it is None, and `nearest` names what to bundle instead, if anything.

    `candidates` are those given, in their order, with verdict and reason.
    """

    candidates: tuple[Candidate, ...]
    chosen: str | None
    nearest: str | None
    reason: str


@dataclass(frozen=True)
class _Limit:
    """One limit of the budget: how to read an engine against it, and how to say both."""

    name: str
    most: float
    read: Callable[[Candidate], float | None]
    say: Callable[[float], str]

    def __str__(self) -> str:
        return f"{self.name} ≤ {self.say(self.most)}"

    def excess(self, one: Candidate) -> float:
        """How many times the limit `one` has: 0 if that keeps it, infinite if it is not known."""
        value = self.read(one)
        if value is None:
            return math.inf
        if value <= self.most + ROUNDING:
            return 0.0
        return value / self.most if self.most else math.inf

    def complaint(self, one: Candidate) -> str:
        value = self.read(one)
        return (
            f"{self.name} is not known"
            if value is None
            else f"{self.name} {self.say(value)}, limit {self.say(self.most)}"
        )


def choose(
    candidates: Sequence[Candidate],
    budget: Limits,
    reference_metric: float,
    compare: Compare | None = None,
    metric: str = "accuracy",
    unmeasured: str = "",
) -> Choice:
    """The fastest engine by median latency that keeps the budget, and why each of the others is not it.

    `reference_metric` is the reference's score on the validation split. The teacher's engine is never chosen, nor one
    that failed, is simulated, could only be built or was not measured, nor an integer engine unless the interval of
    `versus_float` lies below 1. Engines that cannot be told from the fastest in speed (by `compare`; without it, where
    intervals of the medians overlap) are tied with it: of those the smallest file is chosen, then the higher validation
    score. Where this machine cannot measure for the target, `unmeasured` says why: then none is chosen, and the smallest
    that keeps the rest of the budget is the nearest.
    """
    limits = _limits(budget, reference_metric, metric)
    rivals = [one for one in candidates if one.verdict not in GIVEN and one.version != "teacher"]
    unfit = {one.name: why for one in rivals if (why := _unfit(one))}
    broken = {one.name: [limit for limit in limits if limit.excess(one)] for one in rivals}
    fit = [one for one in rivals if one.name not in unfit]
    keeping = [one for one in fit if not broken[one.name]]
    fastest = min(keeping, key=lambda one: (_median(one), one.name), default=None)
    tied = [one for one in keeping if fastest is not None and _tied(one, fastest, compare)]
    chosen = min(tied, key=_thrift, default=None)
    passed_over = [f"{name}: {why}" for name, why in unfit.items() if not broken[name]]

    def judged(one: Candidate) -> tuple[Verdict, str]:
        if one.verdict in GIVEN:
            return one.verdict, one.reason
        if one.version == "teacher":
            return "reference", "the teacher, to compare with"
        complaints = [limit.complaint(one) for limit in broken[one.name]]
        if one.name in unfit:
            complaints.insert(0, unfit[one.name])
        if complaints or chosen is None:
            return "rejected", "; ".join(complaints)
        if one is chosen:
            return "chosen", _praise(one, tied)
        return "kept", f"keeps the budget, {_lag(one, chosen, compare, tied)}"

    verdicts = [judged(one) for one in candidates]
    done = tuple(
        one.model_copy(update={"verdict": verdict, "reason": reason})
        for one, (verdict, reason) in zip(candidates, verdicts, strict=True)
    )
    if chosen is not None:
        kept = f"keeping the budget ({', '.join(map(str, limits))})" if limits else "the recipe sets no budget"
        reason = "; not ".join([f"{chosen.name} is {_praise(chosen, tied)}, {kept}", *passed_over])
        return Choice(done, chosen.name, None, f"{reason}.")
    if unmeasured:
        return Choice(done, None, *_untimed(rivals, limits, unmeasured))
    nearest = min(fit, key=lambda one: _distance(one, broken[one.name], reference_metric), default=None)
    built = {one.name: one.reason for one in candidates if one.verdict == "built"}
    return Choice(done, None, nearest.name if nearest else None, _why_none(fit, {**unfit, **built}, limits, nearest))


def _limits(budget: Limits, reference: float, metric: str) -> list[_Limit]:
    given: list[tuple[float | None, str, Callable[[Candidate], float | None], Callable[[float], str]]] = [
        (
            budget.metric_drop,
            f"{words.short(metric)} drop",
            lambda one: _drop(one, reference),
            lambda v: words.drop(v, metric),
        ),
        (budget.latency_p90, "latency p90", _p90, words.seconds),
        (budget.size, "size", lambda one: one.bytes, lambda v: words.size(round(v))),
        (budget.memory, "memory", _memory, lambda v: words.size(round(v))),
        (budget.cold_start, "cold start", _cold_start, words.seconds),
        (budget.sqnr and 10 ** (-budget.sqnr / 10), "noise", _noise, words.decibels),
    ]
    return [_Limit(name, most, read, say) for most, name, read, say in given if most is not None]


def _p90(one: Candidate) -> float | None:
    return one.latency.p90 if one.latency else None


def _memory(one: Candidate) -> float | None:
    return one.peak_memory


def _cold_start(one: Candidate) -> float | None:
    return one.cold_start


MEASURED = (_p90, _memory, _cold_start)
"""What is known of an engine that was timed only."""


def _noise(one: Candidate) -> float | None:
    """The share of the outputs' power that is noise, on validation."""
    return None if one.sqnr_validation is None else float(10 ** (-one.sqnr_validation / 10))


def _drop(one: Candidate, reference: float) -> float | None:
    return None if one.metric_validation is None else reference - one.metric_validation


def _unfit(one: Candidate) -> str:
    """Why it may not be chosen whatever the budget is; empty if it may."""
    if one.latency is None:
        return "its latency was not measured"
    if not one.integer or one.version == "student":  # a file that came quantized has no float to be faster than
        return ""
    if one.versus_float is None:
        return f"{one.precision} was not raced against float on {one.backend}, so nothing shows it faster"
    if one.versus_float.high >= 1:
        return f"{one.precision} is not faster than float on {one.backend}: {words.speed(one.versus_float)}"
    return ""


def _median(one: Candidate) -> float:
    assert one.latency is not None  # only engines that were measured are compared
    return one.latency.median


def _tied(one: Candidate, fastest: Candidate, compare: Compare | None) -> bool:
    ratio = compare(one.name, fastest.name) if compare and one is not fastest else None
    if ratio is not None:
        return ratio.low <= 1
    assert one.latency is not None
    assert fastest.latency is not None
    return one is fastest or one.latency.low <= fastest.latency.high


def _thrift(one: Candidate) -> tuple[float, float, float, str]:
    size = math.inf if one.bytes is None else one.bytes
    score = -math.inf if one.metric_validation is None else one.metric_validation
    return size, -score, _median(one), one.name


def _praise(one: Candidate, tied: Sequence[Candidate]) -> str:
    others = [rival.name for rival in tied if rival is not one]
    if not others:
        return f"the fastest, median {words.seconds(_median(one))}"
    return f"as fast as {', '.join(others)} (median {words.seconds(_median(one))}) and preferred for size, then score"


def _lag(one: Candidate, chosen: Candidate, compare: Compare | None, tied: Sequence[Candidate]) -> str:
    if one in tied:
        return f"as fast as the chosen one but larger or no better ({words.size(one.bytes)})"
    ratio = compare(one.name, chosen.name) if compare else None
    if ratio is not None:
        return words.speed(ratio, "the chosen one")
    return f"{words.times(_median(one) / _median(chosen))} the chosen one's median"


def _distance(one: Candidate, broken: Sequence[_Limit], reference: float) -> tuple[int, float, float, float, str]:
    """How far from the budget: limits broken, then the worst excess, then the drop, then the median."""
    drop = _drop(one, reference)
    worst = max((limit.excess(one) for limit in broken), default=0.0)
    return len(broken), worst, math.inf if drop is None else drop, _median(one), one.name


def _untimed(rivals: Sequence[Candidate], limits: Sequence[_Limit], why: str) -> tuple[str | None, str]:
    """What to bundle where nothing could be timed, and the reason."""
    said = f"No engine is chosen, since latency was not measured: {why}."
    if not rivals:
        return None, said
    rest = [limit for limit in limits if limit.read not in MEASURED]
    broken = {one.name: [limit for limit in rest if limit.excess(one)] for one in rivals}
    score = {one.name: -math.inf if one.metric_validation is None else one.metric_validation for one in rivals}
    nearest = min(rivals, key=lambda one: (len(broken[one.name]), one.bytes or math.inf, -score[one.name], one.name))
    kept = [limit for limit in rest if limit not in broken[nearest.name]]
    which = f"the smallest that keeps {', '.join(map(str, kept))}" if kept else "the smallest"
    missed = f", though {'; '.join(limit.complaint(nearest) for limit in broken[nearest.name])}"
    return nearest.name, f"{said} Nearest: {nearest.name}, {which}{missed if broken[nearest.name] else ''}."


def _why_none(
    fit: Sequence[Candidate], unfit: dict[str, str], limits: Sequence[_Limit], nearest: Candidate | None
) -> str:
    refused = [f"{name}: {why}" for name, why in unfit.items()]
    if nearest is None:
        return f"No engine could be chosen{': ' if refused else ''}{'; '.join(refused)}."
    parts = []
    for limit in limits:
        known = [(value, one.name) for one in fit if (value := limit.read(one)) is not None]
        keep = [one.name for one in fit if not limit.excess(one)]
        if not known:
            parts.append(f"{limit}: not known of any engine")
        elif not keep:
            value, name = min(known)
            parts.append(f"{limit}: the least reached is {limit.say(value)} ({name})")
        elif len(keep) < len(fit):
            parts.append(f"{limit}: kept by {', '.join(keep)} only")
    return f"No engine keeps the budget. {'; '.join([*parts, *refused])}. Nearest: {nearest.name}."
