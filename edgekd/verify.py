"""`edgekd verify`: a bundle's golden inputs through its engine, and what came out against what the bundle promises.

The same test as `edgekd-bench --verify` makes on the device and `Student::self_test()` in the app (cmake/src/self_test.cpp).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd import bundle, signing
from edgekd.backend import Array, load_engine, open_backend
from edgekd.errors import UserError
from edgekd.latency.clock import no_collection, time_block
from edgekd.units import format_seconds

if TYPE_CHECKING:
    from edgekd.backend import Session

WARM_CALLS = 10
FEWEST_CALLS, MOST_CALLS = 5, 200
MOST_SECONDS = 1.0  # for all timed calls together


@dataclass(frozen=True)
class Verification:
    """What was found; times in seconds. `reason` is empty where all is as promised;
    `signed_by` is the id of the key that was asked for.

    `top1`: share of samples whose largest output is the golden one's. `difference`: largest |output − golden output|.
    """

    bundle: str
    backend: str
    runtime: str
    ok: bool
    reason: str
    samples: int
    top1: float
    difference: float | None
    tolerance: Mapping[str, float]
    calls: int
    median: float
    promised: float
    signed_by: str


def verify(folder: Path, slowdown: float = 0.0, public_key: Path | None = None) -> Verification:
    """Verify one bundle here. `slowdown`, above 0: the median may be at most so many times the promised one.

    `public_key`: the file of the key that must have signed it. Raises UserError for a bundle that was changed, is not signed
    by that, carries no golden data, or whose runtime is not installed.
    """
    manifest = bundle.read(folder, public_key)
    signed_by = signing.check(folder, (folder / bundle.MANIFEST).read_bytes(), public_key) if public_key else ""
    tolerance, promised = _promises(folder, manifest)
    with load_engine(folder / "engine") as session:
        samples, expected = _golden(folder, session)
        found = [session.run(inputs) for inputs in samples]
        calls, median = _timed(session, samples[0])
    top1, difference = _compared(found, expected)
    reason = ""
    if not (top1 >= tolerance["top1"] and difference <= tolerance["absolute"]):
        reason = (
            f"the outputs are not the golden ones: top-1 agreement {top1:.4g} of at least {tolerance['top1']:.4g}, "
            f"largest difference {difference:.4g} of at most {tolerance['absolute']:.4g}"
        )
    elif slowdown > 0 and promised > 0 and median > slowdown * promised:
        reason = (
            f"too slow: median {format_seconds(median)}, promised {format_seconds(promised)} "
            f"and at most {slowdown:g} times that"
        )
    backend = str(manifest.get("backend", ""))
    return Verification(
        bundle=str(folder),
        backend=backend,
        runtime=_version(backend),
        ok=not reason,
        reason=reason,
        samples=len(samples),
        top1=top1,
        difference=difference if np.isfinite(difference) else None,
        tolerance=tolerance,
        calls=calls,
        median=median,
        promised=promised,
        signed_by=signed_by,
    )


def _promises(folder: Path, manifest: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """The tolerance, and the promised median in seconds: 0 where the bundle promises none."""
    try:
        tolerance = {key: float(manifest["tolerance"][key]) for key in ("top1", "absolute")}
    except (KeyError, TypeError, ValueError):
        message = f"{folder / bundle.MANIFEST} says no tolerance"
        raise UserError(message, hint="compile the bundle again") from None
    promised = (manifest.get("promised") or {}).get("latency") or {}
    return tolerance, float(promised.get("median") or 0.0)


def _golden(folder: Path, session: Session) -> tuple[list[list[Array]], list[Array]]:
    """The inputs of each sample, and each output's golden array [samples, ...]."""
    signature = session.signature
    try:
        with np.load(folder / "golden.npz", allow_pickle=False) as stored:
            inputs = [stored[name] for name in bundle.golden_names("inputs", signature.inputs)]
            outputs = [stored[name] for name in bundle.golden_names("outputs", signature.outputs)]
    except (OSError, ValueError, KeyError) as error:
        message = f"{folder / 'golden.npz'}: {error}"
        raise UserError(message, hint="a bundle that `edgekd compile` wrote has golden inputs and outputs") from None
    sizes = {len(array) for array in (*inputs, *outputs)}
    if len(sizes) != 1 or not min(sizes):
        raise UserError(f"{folder / 'golden.npz'}: its arrays hold different numbers of samples: {sorted(sizes)}")
    return [
        [
            np.array(x[i]) if x.ndim > len(port.shape) else x[i : i + 1]
            for x, port in zip(inputs, signature.inputs, strict=True)
        ]
        for i in range(len(inputs[0]))
    ], outputs


def _timed(session: Session, inputs: Sequence[Array]) -> tuple[int, float]:
    """How many calls were timed, and their median."""
    with no_collection():
        guess = statistics.median(time_block(session, inputs, WARM_CALLS))
        fitting = int(MOST_SECONDS / guess) if guess > 0 else MOST_CALLS
        calls = max(FEWEST_CALLS, min(fitting, MOST_CALLS))
        return calls, statistics.median(time_block(session, inputs, calls))


def _compared(found: Sequence[Sequence[Array]], expected: Sequence[Array]) -> tuple[float, float]:
    """Top-1 agreement of the first output, and the largest difference of any; infinity where one alone is NaN."""
    same_class, largest = 0, 0.0
    for index, outputs in enumerate(found):
        for number, (output, golden) in enumerate(zip(outputs, expected, strict=True)):
            b = golden[index].astype(np.float64).ravel()
            a = np.asarray(output if np.ndim(output) == golden[index].ndim else output[0]).astype(np.float64).ravel()
            if number == 0:
                same_class += int(a.argmax() == b.argmax())
            with np.errstate(invalid="ignore"):
                apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
            largest = max(largest, float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0)))
    return same_class / len(found), largest


def _version(backend: str) -> str:
    return open_backend(backend).versions().get(backend, "")
