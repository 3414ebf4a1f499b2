"""What a check says, in rows and words, and as a small picture made of letters, which shows wherever text does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.check.gate import Result
from edgekd.check.gates import SIGNALS, Gate
from edgekd.check.operators import Operator, blamed
from edgekd.check.verdict import Look
from edgekd.report import words
from edgekd.units import format_bytes, format_seconds

HEADS = ("signal", "baseline", "candidate", "change", "allowed", "verdict")
WIDTH = 37


@dataclass(frozen=True)
class Row:
    """One signal, as text; `state` is its verdict, `note` what to know of it."""

    signal: str
    baseline: str
    candidate: str
    change: str
    allowed: str
    state: str
    note: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        return self.signal, self.baseline, self.candidate, self.change, self.allowed, self.state


def rows(result: Result) -> list[Row]:
    """Latency, its control, and every other signal."""
    found = []
    if result.latency is not None:
        found.append(_latency(result))
        last = result.latency.last
        if last is not None:
            fits = "fits" if last.control_fits else "too wide"
            ratio = f"{last.control.point:.3f}× {words.span(last.control.low, last.control.high)}"
            found.append(Row("  control (A/A)", "", "", ratio, f"{last.limit:.3g}×", fits))
    return [*found, *(_row(gate) for gate in result.gates)]


def _latency(result: Result) -> Row:
    assert result.latency is not None
    last, state = result.latency.last, str(result.latency_verdict)
    if last is None:
        return Row("latency", words.NONE, words.NONE, words.NONE, words.NONE, state, result.latency.reason)
    ratio = f"{last.ratio.point:.3f}× {words.span(last.ratio.low, last.ratio.high)}"
    seconds = [format_seconds(s) for s in (last.baseline, last.candidate)]
    return Row("latency", seconds[0], seconds[1], ratio, f"{last.limit:.3g}×", state)


def _row(gate: Gate) -> Row:
    signal = SIGNALS[gate.name]
    shown = [words.NONE if v is None else _value(v, signal.unit) for v in (gate.baseline, gate.candidate)]
    change = words.NONE
    if gate.baseline is not None and gate.candidate is not None:
        added = gate.candidate - gate.baseline
        change = {
            "growth": f"{added / gate.baseline:+.1%}" if gate.baseline else words.NONE,
            "fall": f"{words.change(added, 'accuracy')} points",
            "rise": f"{added:+.3g}",
        }[signal.kind].replace("-", words.MINUS)
    name = {
        "growth": f"+{gate.tolerance:.3g}",
        "fall": f"−{gate.tolerance * 100:.3g} points",
        "rise": f"+{gate.tolerance:.3g}",
    }
    allowed = f"+{gate.tolerance:.3%}".rstrip("0%").rstrip(".") + "%" if signal.kind == "growth" else name[signal.kind]
    if signal.unit == "times":
        change, allowed = words.NONE, f"{1 + gate.tolerance:.3g}×"
    return Row(gate.name.replace("_", " "), shown[0], shown[1], change, allowed, gate.state, gate.note)


def _value(value: float, unit: str) -> str:
    if unit == "seconds":
        return format_seconds(value)
    if unit == "bytes":
        return format_bytes(value)
    if unit == "share":
        return f"{value:.2%}"
    if unit == "times":
        return "other classes" if value >= 1e9 else f"{value:.2g}×"
    return words.count(round(value))


def sentence(result: Result) -> str:
    """The verdict in a sentence: what decided it."""
    parts = []
    worse = [gate.name.replace("_", " ") for gate in result.gates if gate.state == "regressed"]
    if result.latency is not None and (result.latency_verdict == result.verdict or not worse):
        parts.append(result.latency.reason)
    if worse:
        parts.append(f"beyond what is allowed: {', '.join(worse)}")
    if not parts:
        parts.append("every signal that could be compared is within what is allowed")
    return "; ".join(parts)


def advice(result: Result) -> str:
    """What to do; empty where there is nothing."""
    return result.latency.advice if result.latency is not None and result.latency_verdict == "inconclusive" else ""


def culprits(operators: Sequence[Operator]) -> list[str]:
    """The operators that cost the difference, a line each."""
    found = []
    for one in blamed(operators):
        nodes = f"{one.baseline_nodes:g} → {one.candidate_nodes:g} node(s)"
        found.append(f"{one.name}: {_time(one.baseline)} → {_time(one.candidate)} a call, {nodes}")
    return found


def _time(seconds: float) -> str:
    return "0" if seconds == 0 else format_seconds(seconds)


def picture(last: Look, width: int = WIDTH) -> str:
    """The interval of the ratio on a line, the limit as ┃ and 1 as ┊, on a scale of logarithms.

    >>> from edgekd.latency.statistics import Ratio
    >>> picture(Look(1, 6, 1e-3, 1.15e-3, Ratio(1.15, 1.12, 1.18), Ratio(1, 0.99, 1.01), 1.05, 0.0, "regressed"), 25)
    '   ┊    ┃      ├──●──┤   '
    """
    marks = (1.0, last.limit, last.ratio.low, last.ratio.high)
    low, high = math.log(min(marks)), math.log(max(marks))
    edge = 0.15 * (high - low)

    def at(value: float) -> int:
        return round((math.log(value) - low + edge) / (high - low + 2 * edge) * (width - 1))

    line = [" "] * width
    for value, letter in ((1.0, "┊"), (last.limit, "┃")):
        line[at(value)] = letter
    start, end = at(last.ratio.low), at(last.ratio.high)
    line[start : end + 1] = ["─"] * (end + 1 - start)
    if end > start:
        line[start], line[end] = "├", "┤"
    if start < at(last.limit) < end:
        line[at(last.limit)] = "╂"
    line[at(last.ratio.point)] = "●"
    return "".join(line)
