"""What a search for a placement found, as the report has it and in words. No runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgekd.units import format_seconds

if TYPE_CHECKING:
    from edgekd.cuts import Keep
    from edgekd.latency.statistics import Ratio
    from edgekd.placement import Found
    from edgekd.quant.sites import Site

NO_PAIR = "no quantize/dequantize pair pays"
SETTLED = "its pairs stay as they are: by profiles in float and in integers, taking out any saves next to nothing"


def placement(found: Found, sites: Sequence[Site]) -> dict[str, Any]:
    """The placement, as the report has it."""
    kinds = {site.name: site.kind for site in sites}
    keep = [name for name in kinds if name in found.keep or found.keep - kinds.keys()]
    islands = [
        {"operators": _counted(kinds, one.sites), "seconds": one.bought, "without": asdict(one.without)}
        for one in found.islands
    ]
    return {
        "operators": _counted(kinds, kinds),
        "integers": _counted(kinds, keep),
        "islands": islands,
        "for_quality": len(found.barred),
        "engines": len(found.tried) + (1 if found.versus_given is None else 2),
    }


def unchanged(sites: Sequence[Site]) -> dict[str, Any]:
    """All of a program's operators in integers, as they were: two engines were profiled."""
    kinds = {site.name: site.kind for site in sites}
    every = _counted(kinds, kinds)
    return {"operators": every, "integers": every, "islands": [], "for_quality": 0, "engines": 2}


def _counted(kinds: Mapping[str, str], names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds[name] for name in names).items()))


def note(found: Found, sites: Sequence[Site]) -> str:
    """As: integers: 12 of 20 Conv, 1 of 1 Gemm; islands bought 31.2 µs (12 Conv), 0.4 µs (1 Gemm)."""
    said = placement(found, sites)
    parts = [f"{said['integers'].get(kind, 0)} of {count} {kind}" for kind, count in said["operators"].items()]
    islands = [f"{_seconds(one['seconds'])} ({_listed(one['operators'])})" for one in said["islands"]]
    quiet = f"; {said['for_quality']} left in float for their noise" if said["for_quality"] else ""
    bought = f"; {_ratio(found.versus_given, 'the whole program')}" if found.versus_given else ""
    return f"integers: {', '.join(parts)}{'; islands bought ' if islands else ''}{', '.join(islands)}{quiet}{bought}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _seconds(value: float) -> str:
    return format_seconds(value) if value >= 0 else f"\N{MINUS SIGN}{format_seconds(-value)}"


def _ratio(ratio: Ratio, other: str) -> str:
    return f"{ratio.point:.2f}× {other} ({ratio.low:.2f} to {ratio.high:.2f})"


def why_not(found: Found, least: float, given: Keep) -> str:
    """Why there is no such engine; empty where there is one. `least` and `given`: as the search was asked."""
    if not found.tried:
        return f"every placement loses more than {least:g} dB allow"
    best = f"the best of {len(found.tried)} placements takes"
    if not found.keep:
        fastest = min(seconds for _, seconds, _ in found.tried)
        return f"{NO_PAIR}: {best} {format_seconds(fastest)}, float {format_seconds(found.float_seconds)}"
    if found.versus_float.high >= 1:
        return f"{NO_PAIR}: {best} {_ratio(found.versus_float, 'float')}"
    if found.versus_given is not None and (found.keep == given or found.versus_given.high >= 1):
        return f"no pair of the program is worth taking out: {best} {_ratio(found.versus_given, 'the whole one')}"
    return ""
