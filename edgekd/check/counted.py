"""Instructions a call of both engines, here or on a device: hardly a run differs from the next, so the gate is tight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import worker
from edgekd.check import gates
from edgekd.check.gates import Gate
from edgekd.check.pair import SIMULATED, Side
from edgekd.errors import EdgekdError, UserError
from edgekd.latency import instructions
from edgekd.latency.machine import choose_cores
from edgekd.pipeline.engines import plugins

if TYPE_CHECKING:
    from edgekd.devices.device import Device

TIMEOUT = 600.0


def judged(
    candidate: Side, baseline: Side, inputs: Path | None, allowed: Mapping[str, float], device: Device | None
) -> Gate:
    """The signal's verdict; where instructions are not counted, its note says why. Raises UserError."""
    tolerance, counts, note = allowed.get("instructions"), [], ""
    if candidate.backend == SIMULATED:
        note = instructions.SIMULATED
    elif device is None:
        note = instructions.unavailable()
    for side in (baseline, candidate) if not note else ():
        try:
            found, note = _counted(side, inputs, device)
        except UserError:
            raise
        except EdgekdError as error:
            found, note = None, error.message.splitlines()[0]
        if found is None:
            break
        counts.append(found)
    if len(counts) == 2:
        return gates.judge("instructions", counts[0], counts[1], tolerance, note)
    return gates.judge("instructions", None, None, tolerance, f"not counted: {note}")


def _counted(side: Side, inputs: Path | None, device: Device | None) -> tuple[float | None, str]:
    """Instructions of one call, and who counted them if not the processor; or None, and why."""
    if device is not None:
        return device.instructions(side.engine, [inputs] if inputs else None, side.threads)
    request: dict[str, Any] = {"engine": str(side.engine), "inputs": [str(inputs)] if inputs else None}
    request |= {"cores": choose_cores(side.threads), "plugins": plugins()}
    answer = worker.call("instructions", request, env=worker.thread_env(side.threads), timeout=TIMEOUT)
    return answer["instructions"], "" if answer["instructions"] is not None else "perf failed"
