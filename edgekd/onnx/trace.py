"""ONNX Runtime's profile: its trace of events, to what each operator takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def operators_of(events: Sequence[Mapping[str, Any]], calls: int) -> list[dict[str, Any]]:
    """Rows of `Backend.profile` from the trace events of twice `calls` calls, the first half of which is left out."""
    took: dict[str, list[float]] = {}
    each: dict[str, dict[str, list[float]]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            (shape,) = event["args"]["output_type_shape"][:1] or [{"": []}]
            label = [event["args"]["op_name"], "×".join(map(str, *shape.values()))]
            seconds, name = event["dur"] * 1e-6, str(event["name"]).removesuffix("_kernel_time")
            took.setdefault(" ".join(label), []).append(seconds)
            each.setdefault(" ".join(label), {}).setdefault(name, []).append(seconds)
    half = {label: s[len(s) // 2 :] for label, s in took.items()}
    nodes = {label: {n: _middle(s[len(s) // 2 :], calls) for n, s in those.items()} for label, those in each.items()}
    return [
        {"operator": k, "nodes": len(s) // calls, "seconds": sum(s) / calls, "each": nodes[k]} for k, s in half.items()
    ]


def _middle(seconds: Sequence[float], calls: int) -> float:
    """What a node takes in a call: its times' mean without the fastest and the slowest quarter, times how often it ran."""
    kept = sorted(seconds)[len(seconds) // 4 : len(seconds) - len(seconds) // 4]
    return sum(kept) / len(kept) * len(seconds) / calls
