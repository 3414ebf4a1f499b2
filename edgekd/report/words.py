"""How figures are written in a report. A missing one is a dash."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekd.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgekd.report.figures import Ratio, Search
    from edgekd.report.schema import CalibrationSet, Candidate, Sensitivity

NONE = "–"
MINUS = "\N{MINUS SIGN}"
FLOAT = 32
"""The bits of a weight in float."""
SHARES = ("accuracy", "agreement")
"""Metrics that are shares of the test samples."""


def score(value: float | None, metric: str) -> str:
    """A score: accuracy in percent, any other metric to four digits.

    >>> score(0.93214, "accuracy"), score(0.5, "my:f1"), score(None, "accuracy")
    ('93.21%', '0.5', '–')
    """
    if value is None:
        return NONE
    return f"{value:.2%}" if metric in SHARES else f"{value:.4g}".replace("-", MINUS)


def change(value: float | None, metric: str) -> str:
    """A signed difference of two scores; of accuracies, in points.

    >>> change(-0.0025, "accuracy"), change(0.5, "my:f1"), change(-1e-9, "accuracy")
    ('−0.25', '+0.5', '0.00')
    """
    if value is None:
        return NONE
    text = f"{value * 100:+.2f}" if metric in SHARES else f"{value:+.3g}"
    return text.lstrip("+-") if not text.strip("+-0.") else text.replace("-", MINUS)


def amount(value: float, metric: str) -> str:
    """The size of a difference of two scores, with its unit.

    >>> amount(0.0025, "accuracy"), amount(0.01, "accuracy"), amount(0.5, "my:f1")
    ('0.25 points', '1.00 point', '0.5')
    """
    if metric not in SHARES:
        return f"{abs(value):.3g}"
    text = f"{abs(value) * 100:.2f}"
    return f"{text} point{'' if text == '1.00' else 's'}"


def drop(value: float, metric: str) -> str:
    """How far a score fell; a rise has a minus.

    >>> drop(0.0153, "accuracy"), drop(-0.002, "accuracy")
    ('1.53 points', '−0.20 points')
    """
    return f"{MINUS if value < 0 else ''}{amount(value, metric)}"


def versus(value: float, metric: str) -> str:
    """A difference of two scores in words.

    >>> versus(-0.0025, "accuracy"), versus(0.0, "accuracy")
    ('0.25 points below', 'equal to')
    """
    if not change(value, metric).strip("+-0."):
        return "equal to"
    return f"{amount(value, metric)} {'below' if value < 0 else 'above'}"


def times(value: float) -> str:
    """A factor, with a digit more where it is close to 1.

    >>> times(12.34), times(1.294), times(1.003)
    ('12.3×', '1.29×', '1.003×')
    """
    if 0 < abs(value - 1) < 0.005:
        return f"{value:.3f}×"
    return f"{value:.0f}×" if value >= 99.5 else f"{value:.1f}×" if value >= 9.95 else f"{value:.2f}×"


def speed(ratio: Ratio, other: str = "") -> str:
    """A ratio of latencies in words, with its interval; `other` is what it compares with.

    >>> from edgekd.report.figures import Ratio
    >>> speed(Ratio(point=0.5, low=0.4, high=0.625)), speed(Ratio(point=1.29, low=1.21, high=1.35), "float")
    ('2.00× faster (1.60–2.50)', '1.29× slower than float (1.21–1.35)')
    >>> speed(Ratio(point=0.99, low=0.97, high=1.02), "float")
    'not distinguishable from float, 0.99× (0.97–1.02)'
    """
    than = f" than {other}" if other else ""
    if ratio.low <= 1 <= ratio.high:
        return f"not distinguishable{than.replace(' than', ' from', 1)}, {times(ratio.point)} {span(ratio.low, ratio.high)}"
    if ratio.high < 1:
        return f"{times(1 / ratio.point)} faster{than} {span(1 / ratio.high, 1 / ratio.low)}"
    return f"{times(ratio.point)} slower{than} {span(ratio.low, ratio.high)}"


def span(low: float, high: float) -> str:
    """An interval of factors, with as many digits as tell its ends from each other and from 1.

    >>> span(1.21, 1.35), span(10.02, 12.71), span(0.9961, 0.9979)
    ('(1.21–1.35)', '(10.0–12.7)', '(0.996–0.998)')
    """
    digits = 1 if low >= 9.95 else 2
    if round(low, digits) == round(high, digits) or 1 in (round(low, digits), round(high, digits)):
        digits += 1
    return f"({low:.{digits}f}–{high:.{digits}f})"


def between(low: float, high: float) -> str:
    """An interval of times, the unit once where both have it.

    >>> between(1.29e-4, 1.331e-4), between(9.9e-4, 1.01e-3)
    ('129–133 µs', '990 µs – 1.01 ms')
    """
    first, last = format_seconds(low).split(" ", 1), format_seconds(high)
    return f"{first[0]}–{last}" if last.endswith(f" {first[1]}") else f"{' '.join(first)} – {last}"


def count(value: int | None) -> str:
    """A number of parameters or operations.

    >>> count(78_123), count(11_300_000), count(512)
    ('78.1 k', '11.3 M', '512')
    """
    if value is None:
        return NONE
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size * 0.9995:
            shown = value / size
            return (
                f"{shown:.0f} {unit}"
                if shown >= 99.95
                else f"{shown:.1f} {unit}"
                if shown >= 9.995
                else f"{shown:.2f} {unit}"
            )
    return str(value)


def seconds(value: float | None) -> str:
    """A time, or a dash."""
    return NONE if value is None else format_seconds(value)


def tick(value: float) -> str:
    """A round time on an axis.

    >>> tick(0.0002), tick(0.001)
    ('200 µs', '1 ms')
    """
    number, unit = format_seconds(value).split(" ", 1)
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def size(value: int | None) -> str:
    """A number of bytes, or a dash."""
    return NONE if value is None else format_bytes(value)


def decibels(power: float) -> str:
    """A ratio of powers in decibels.

    >>> decibels(0.01), decibels(0.05)
    ('−20.0 dB', '−13.0 dB')
    """
    return f"{10 * math.log10(power) if power > 0 else -math.inf:.1f} dB".replace("-", MINUS)


def share(value: float | None) -> str:
    """A share of samples in percent, or a dash."""
    return NONE if value is None else f"{value:.2%}"


def short(metric: str) -> str:
    """A metric's name without its module.

    >>> short("metrics:f1")
    'f1'
    """
    return metric.rpartition(":")[2]


def program(one: Candidate) -> str:
    """What an engine's parity is with."""
    of_nodes = one.placement is not None or one.sqnr is not None
    return "the nodes that it was made from" if of_nodes else "the program in torch"


def calibration(shown: CalibrationSet) -> str:
    """What a stage calibrated on, in a sentence."""
    made = "made up by" if shown.synthetic else "from"
    options = ", ".join(f"{name} {value}" for name, value in shown.options.items())
    return (
        f'"{shown.version}": {shown.count:,} input{"" if shown.count == 1 else "s"} {made} {shown.source}'
        f" (calibration recipe {shown.recipe}{f': {options}' if options else ''}; seed {shown.seed})"
        f" in {seconds(shown.seconds)}; ranges by {shown.observer}."
        f"{' No data was read for them.' if shown.synthetic else ''}"
    )


def loss(value: float | None) -> str:
    """What the outputs lose: KL in nats, or a share of their power.

    >>> loss(0.01234), loss(1.5e-7), loss(None)
    ('0.0123', '1.5e-07', '–')
    """
    return NONE if value is None else f"{value:.3g}"


def bits(value: int) -> str:
    """How many bits a weight has.

    >>> bits(4), bits(32)
    ('4 bits', 'float')
    """
    return "float" if value == FLOAT else f"{value} bits"


def control(shown: Sensitivity, metric: str) -> str:
    """What `max_drop` came to, in a sentence; empty without it."""
    found = shown.control
    if found is None:
        return ""
    allowed = f"of the {amount(found.allowed, metric)} that may be lost"
    if not found.reverted:
        return f"Every layer is quantized: {drop(found.expected - found.after, metric)} lost on validation, {allowed}."
    names = ", ".join(found.reverted)
    lost = f"{drop(found.expected - found.before, metric)} lost with every layer quantized"
    left = f"{drop(found.expected - found.after, metric)} lost so, {allowed}"
    return f"In float: {names}. On validation, {lost}; {left}."


def bit_plan(shown: Sensitivity) -> str:
    """What a budget for bits came to, in a sentence; empty without one."""
    found = shown.plan
    if found is None:
        return ""
    ends = f"{format_bytes(found.least)} to {format_bytes(found.most)}"
    of = "" if found.budget is None else f" of {format_bytes(found.budget)}"
    said = (
        f"Bits chosen together: {format_bytes(found.bytes)}{of} for weights, scales and biases "
        f"(the choices allow {ends}), {loss(found.loss)} lost by prediction."
    )
    time = found.latency
    if time is None:
        return said
    ends = f"{seconds(time.quantized)} with every layer quantized, {seconds(time.whole)} in float"
    told = f"{seconds(time.measured)} measured, {seconds(time.predicted)} predicted, {seconds(time.allowed)} allowed"
    return f"{said} On {time.backend}, {told} ({ends})."


def costs(shown: Sensitivity) -> list[str]:
    """What each layer in float costs in time, a line each."""
    return [
        f"{one.layer} in float: {speed(one.cost, 'with it quantized')}" for one in shown.layers if one.cost is not None
    ]


def similarity(value: float | None) -> str:
    """How like the teacher a student is, or a dash.

    >>> similarity(-0.02413), similarity(None)
    ('−0.0241', '–')
    """
    return NONE if value is None else f"{value:.3g}".replace("-", MINUS)


def search(shown: Search) -> str:
    """What a search had and what it did, in a sentence or two."""
    trained = sum(one.validation is not None for one in shown.tried)
    if shown.kind == "losses":
        told = f'"{shown.version}": {len(shown.tried)} sets of losses tried within {shown.budget}; validation chose.'
        return told + (f" The recipe with what was found is {shown.found}." if shown.found else "")
    if shown.kind == "blocks":
        chosen = sum(one.verdict == "chosen" for one in shown.tried)
        return (
            f'"{shown.version}": {len(shown.tried)} alternatives to blocks, each trained on its block alone, scored by the divergence '
            f"of the outputs on validation and timed in its place. {chosen} chosen together within {shown.budget} "
            f"({seconds(shown.allowed)}): predicted {seconds(shown.predicted)}, measured {seconds(shown.measured)}."
        )
    return (
        f'"{shown.version}": {len(shown.tried)} students tried within a latency of {shown.budget} ({seconds(shown.allowed)}), each '
        f"scored by its similarity to the teacher before any training; {trained} of them distilled briefly; validation chose."
        f"{f' The recipe with what was found is {shown.found}.' if shown.found else ''}"
    )
