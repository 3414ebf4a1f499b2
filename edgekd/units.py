"""Units at the edge: seconds and bytes inside, "0.5 ms" and "200 kB" where a person reads or writes them."""

from __future__ import annotations

import re

Seconds = float
Bytes = int

SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
BYTES = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3}


def _parse(text: str, units: dict[str, float] | dict[str, int], example: str) -> float:
    match = re.fullmatch(r"\s*([0-9.]+(?:e-?[0-9]+)?)\s*([A-Za-zµ]+)\s*", text)
    if not match or match[2] not in units:
        raise ValueError(f'"{text}" is not a quantity in {", ".join(units)}; write it like "{example}"')
    try:
        value = float(match[1]) * units[match[2]]
    except ValueError:
        raise ValueError(f'"{match[1]}" is not a number; write it like "{example}"') from None
    if value <= 0:
        raise ValueError(f'"{text}" is not more than zero')
    return value


def parse_seconds(text: str) -> Seconds:
    """Seconds of a text with a unit.

    >>> parse_seconds("0.5 ms")
    0.0005
    """
    return _parse(text, SECONDS, "0.5 ms")


def parse_bytes(text: str) -> Bytes:
    """Bytes of a text with a unit.

    >>> parse_bytes("200 kB")
    200000
    """
    return round(_parse(text, BYTES, "200 kB"))


def format_seconds(seconds: Seconds) -> str:
    """Three significant digits in the unit that fits.

    >>> format_seconds(0.0001234), format_seconds(0.0123), format_seconds(75), format_seconds(7380)
    ('123 µs', '12.3 ms', '1 min 15 s', '2 h 3 min')
    """
    if seconds >= 3599.5:
        return f"{int(seconds + 30) // 3600} h {int(seconds + 30) // 60 % 60} min"
    if seconds >= 59.95:
        return f"{int(seconds + 0.5) // 60} min {int(seconds + 0.5) % 60} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size * 0.9995:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds / 1e-9)} ns"


def format_bytes(size: float) -> str:
    """Three significant digits in decimal units.

    >>> format_bytes(160_123), format_bytes(12)
    ('160 kB', '12 B')
    """
    for unit in ("GB", "MB", "kB"):
        if size >= BYTES[unit] * 0.9995:
            return f"{_three_digits(size / BYTES[unit])} {unit}"
    return f"{size:.0f} B"


def format_joules(joules: float) -> str:
    """Three significant digits in the unit that fits.

    >>> format_joules(0.00123), format_joules(2.5), format_joules(4.2e-5)
    ('1.23 mJ', '2.50 J', '42.0 µJ')
    """
    for unit, size in (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6)):
        if joules >= size * 0.9995:
            return f"{_three_digits(joules / size)} {unit}"
    return f"{_three_digits(joules / 1e-9)} nJ"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
