"""ExecuTorch's profile: its ETDump, to what each operator takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

EXECUTE = "Method::execute"  # logged when a call ends, behind all that happened in it
FRAMES = {"OPERATOR_CALL", "DELEGATE_CALL"}  # around what is logged by its own name


def operators_of(dump: Any, calls: int) -> list[dict[str, Any]]:
    """Rows of `Backend.profile` from the last `calls` calls in an ETDump, as executorch.devtools reads it.

    XNNPACK names each operator that it runs, and numbers those of one name; an operator outside it has its kernel's name.
    Times are nanoseconds, XNNPACK's whole microseconds.
    """
    took: dict[str, list[float]] = {}
    for events in list(_calls(dump))[-calls:]:
        for event in events:
            if label := _label(event):
                took.setdefault(label, []).append((event.end_time - event.start_time) * 1e-9)
    return [{"operator": name, "nodes": len(s) / calls, "seconds": sum(s) / calls} for name, s in took.items()]


def _calls(dump: Any) -> Iterator[Sequence[Any]]:
    """The profiling events of each call."""
    seen: list[Any] = []
    for run in dump.run_data:
        for event in run.events or ():
            if event.profile_event is None:
                continue
            if event.profile_event.name == EXECUTE:
                yield seen
                seen = []
            else:
                seen.append(event.profile_event)


def _label(event: Any) -> str:
    """The operator's name; empty for what is around operators, or outside a call."""
    if event.delegate_debug_id_str:
        return re.sub(r" #\d+$", "", str(event.delegate_debug_id_str))
    name = str(event.name or "")
    return "" if name in FRAMES or "::" in name.partition("native_call_")[0] else name.removeprefix("native_call_")
