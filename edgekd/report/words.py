"""How figures are written in a report. A missing one is a dash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgekd.report.schema import Ratio

NONE = "–"
MINUS = "\N{MINUS SIGN}"


def score(value: float | None, metric: str) -> str:
    """A score: accuracy in percent, any other metric to four digits.

    >>> score(0.93214, "accuracy"), score(0.5, "my:f1"), score(None, "accuracy")
    ('93.21%', '0.5', '–')
    """
    if value is None:
        return NONE
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4g}".replace("-", MINUS)


def change(value: float | None, metric: str) -> str:
    """A signed difference of two scores; of accuracies, in points.

    >>> change(-0.0025, "accuracy"), change(0.5, "my:f1"), change(-1e-9, "accuracy")
    ('−0.25', '+0.5', '0.00')
    """
    if value is None:
        return NONE
    text = f"{value * 100:+.2f}" if metric == "accuracy" else f"{value:+.3g}"
    return text.lstrip("+-") if not text.strip("+-0.") else text.replace("-", MINUS)


def amount(value: float, metric: str) -> str:
    """The size of a difference of two scores, with its unit.

    >>> amount(0.0025, "accuracy"), amount(0.01, "accuracy"), amount(0.5, "my:f1")
    ('0.25 points', '1.00 point', '0.5')
    """
    if metric != "accuracy":
        return f"{abs(value):.3g}"
    text = f"{abs(value) * 100:.2f}"
    return f"{text} point{'' if text == '1.00' else 's'}"


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


def speed(ratio: Ratio) -> str:
    """A ratio of latencies in words, with its interval.

    >>> from edgekd.report.schema import Ratio
    >>> speed(Ratio(point=0.5, low=0.4, high=0.625)), speed(Ratio(point=1.29, low=1.21, high=1.35))
    ('2.00× faster (1.60–2.50)', '1.29× slower (1.21–1.35)')
    >>> speed(Ratio(point=0.99, low=0.97, high=1.02))
    'not distinguishable, 0.99× (0.97–1.02)'
    """
    if ratio.low <= 1 <= ratio.high:
        return f"not distinguishable, {times(ratio.point)} {span(ratio.low, ratio.high)}"
    if ratio.high < 1:
        return f"{times(1 / ratio.point)} faster {span(1 / ratio.high, 1 / ratio.low)}"
    return f"{times(ratio.point)} slower {span(ratio.low, ratio.high)}"


def span(low: float, high: float) -> str:
    """An interval of factors, with as many digits as tell its ends from each other and from 1.

    >>> span(1.21, 1.35), span(10.02, 12.71), span(0.9961, 0.9979)
    ('(1.21–1.35)', '(10.0–12.7)', '(0.996–0.998)')
    """
    digits = 1 if low >= 9.95 else 2
    if round(low, digits) == round(high, digits) or 1 in (round(low, digits), round(high, digits)):
        digits += 1
    return f"({low:.{digits}f}–{high:.{digits}f})"


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


def size(value: int | None) -> str:
    """A number of bytes, or a dash."""
    return NONE if value is None else format_bytes(value)


def share(value: float | None) -> str:
    """A share of samples in percent, or a dash."""
    return NONE if value is None else f"{value:.2%}"
