"""One check: two bundles, or a bundle and a stored report, to a result with every signal's verdict."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekd import __version__, worker
from edgekd.check import counted, gates, lock, operators, session, starts, stored
from edgekd.check.gates import Gate
from edgekd.check.operators import Operator
from edgekd.check.pair import SIMULATED, Side, comparable, open_side
from edgekd.check.session import Session
from edgekd.check.verdict import Rule
from edgekd.errors import EdgekdError, UserError
from edgekd.latency.turn import ColdStart, time_limit
from edgekd.pipeline.engines import plugins
from edgekd.progress import Progress
from edgekd.reach import Remote
from edgekd.target import Target

if TYPE_CHECKING:
    from edgekd.devices.device import Device

Verdict = Literal["pass", "regressed", "inconclusive"]
EXIT = {"pass": 0, "regressed": 1, "inconclusive": 3}
TIMEOUT = 600.0


@dataclass(frozen=True)
class Asked:
    """One check as asked for. `allowed`: tolerances of other signals than latency; NaN is not gated.

    `device`: where both engines are run, if not here.
    """

    candidate: Path
    baseline: Path
    name: str = ""
    target: str | None = None
    rule: Rule = field(default_factory=Rule)
    allowed: Mapping[str, float] = field(default_factory=dict)
    max_seconds: float = session.MAX_SECONDS
    seed: int = 0
    device: Target | None = None

    def __post_init__(self) -> None:
        """Raises UserError for numbers that mean nothing."""
        if not 0 < self.rule.tolerance < 10:
            raise UserError(f"--tolerance {self.rule.tolerance:g} is not a share above 0", hint="as in --tolerance 5%")
        if not 0 <= self.rule.floor < 1e6:
            raise UserError(f"--floor {self.rule.floor:g} s is not a time of at least 0", hint="as in --floor 20us")
        if not 0 < self.max_seconds < 1e6:
            raise UserError(f"--max-seconds {self.max_seconds:g} is not a time above 0", hint="as in --max-seconds 90")

    @property
    def title(self) -> str:
        return self.name or str(self.candidate)


@dataclass(frozen=True, eq=False)
class Result:
    """What a check found. `latency` is None where it was not gated (a stored baseline)."""

    asked: Asked
    candidate: Side
    latency: Session | None
    gates: tuple[Gate, ...]
    operators: tuple[Operator, ...] | None
    notes: tuple[str, ...]
    seconds: float
    latency_verdict: Verdict | None

    @property
    def verdict(self) -> Verdict:
        """Regressed if anything is; else inconclusive if latency is."""
        if self.latency_verdict == "regressed" or any(gate.state == "regressed" for gate in self.gates):
            return "regressed"
        return self.latency_verdict or "pass"

    def to_json(self) -> dict[str, Any]:
        """Plain values, seconds and bytes. Raw samples are in `race`, as `edgekd measure` has them."""
        found: dict[str, Any] = {
            "name": self.asked.title,
            "verdict": self.verdict,
            "candidate": str(self.candidate.folder),
            "baseline": str(self.asked.baseline),
            "target": self.candidate.target.get("name"),
            "device": self.asked.device.name if self.asked.device else None,
            "tolerance": self.asked.rule.tolerance,
            "floor": self.asked.rule.floor,
            "latency": None,
            "gates": [asdict(gate) for gate in self.gates],
            "operators": None if self.operators is None else [asdict(one) for one in self.operators],
            "notes": list(self.notes),
            "seconds": self.seconds,
        }
        if self.latency is not None:
            found["latency"] = {
                "verdict": self.latency_verdict,
                "reason": self.latency.reason,
                "advice": self.latency.advice,
                "p": self.latency.p,
                "looks": [asdict(one) for one in self.latency.looks],
                "seconds": self.latency.seconds,
                "race": self.latency.race.to_json() if self.latency.race else None,
            }
        return found


def check(asked: Asked, progress: Progress) -> Result:
    """Run one check. Raises UserError for bundles that are damaged or cannot be compared, before anything is measured."""
    candidate = open_side(asked.candidate, asked.target)
    if asked.baseline.suffix == ".json":
        return _stored(asked, candidate)
    baseline = baseline_of(asked, candidate)
    notes = comparable(candidate, baseline, here=asked.device is None)
    started = time.perf_counter()
    scratch = Path(tempfile.mkdtemp(prefix="edgekd-check-"))
    try:
        with _held(asked.device, candidate.threads, progress) as device:
            return _measured(asked, candidate, baseline, notes, scratch, progress, started, device)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def baseline_of(asked: Asked, candidate: Side) -> Side:
    """The baseline's bundle; of several in a folder that for the candidate's target. Raises UserError."""
    target = asked.target or (candidate.target.get("name") if (asked.baseline / "bundles").is_dir() else None)
    return open_side(asked.baseline, target)


@contextmanager
def _held(target: Target | None, threads: int, progress: Progress) -> Iterator[Device | None]:
    """This measurement alone on the device: None for this machine. Another's end is waited for, and that is said."""
    if target is not None and isinstance(target.reach, Remote):
        from edgekd.devices.device import reached

        with reached(target, progress, threads) as device:
            yield device
        return

    def waiting(path: Path) -> None:
        progress.say(f"  waiting: another check measures on this device ({path})")

    with lock.device("local", waiting):
        yield None


def _measured(
    asked: Asked,
    candidate: Side,
    baseline: Side,
    notes: list[str],
    scratch: Path,
    progress: Progress,
    started: float,
    device: Device | None,
) -> Result:
    sides, allowed = (baseline, candidate), asked.allowed
    fed = _inputs(candidate, scratch)
    found = [*gates.recorded([s.manifest for s in sides], allowed), *gates.built([s.facts for s in sides], allowed)]
    if fed is None:
        notes.append("outputs were not compared: the candidate's bundle holds no golden inputs")
    else:
        found += _outputs(candidate, baseline, fed, scratch, allowed, notes, device)
    measured = session.run(
        candidate,
        baseline,
        asked.rule,
        inputs=fed,
        max_seconds=asked.max_seconds,
        seed=asked.seed,
        plugins=plugins(),
        progress=progress,
        device=device,
    )
    simulated = candidate.backend == SIMULATED
    found += [counted.judged(candidate, baseline, fed, allowed, device)]
    by_name = dict(zip(starts.SIDES, sides, strict=True))

    def start(name: str) -> ColdStart:
        side = by_name[name]
        if device is None:
            return starts.here(side, inputs=fed, seed=asked.seed)
        return device.cold_start(side.engine, [fed] if fed else None, asked.seed, side.threads, time_limit(1, 1.0))

    found += starts.judged(measured.cold, allowed, start, seed=asked.seed, simulated=simulated)
    profile = None
    if measured.verdict == "regressed":
        profile = operators.profiles(candidate, baseline, fed, plugins(), device)
    order = list(gates.SIGNALS)
    return Result(
        asked,
        candidate,
        measured,
        tuple(sorted(found, key=lambda gate: order.index(gate.name))),
        None if profile is None else tuple(profile),
        tuple(notes),
        time.perf_counter() - started,
        measured.verdict,
    )


def _stored(asked: Asked, candidate: Side) -> Result:
    started = time.perf_counter()
    manifest, facts = stored.read(asked.baseline, str(candidate.target.get("name")))
    found = [
        *gates.recorded([manifest, candidate.manifest], asked.allowed),
        *gates.built([facts, candidate.facts], asked.allowed),
    ]
    scratch, notes = Path(tempfile.mkdtemp(prefix="edgekd-check-")), [stored.NOTE]
    try:
        fed, golden = _inputs(candidate, scratch), candidate.golden()
        if fed is not None:
            outputs = _run(candidate, fed, scratch, None)
            within, tolerance = candidate.manifest.get("tolerance") or {}, asked.allowed.get("parity")
            found.append(gates.parity(outputs, golden.get("outputs"), within, tolerance))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Result(asked, candidate, None, tuple(found), None, tuple(notes), time.perf_counter() - started, None)


def _inputs(side: Side, scratch: Path) -> Path | None:
    """The golden inputs as a .npy file, for an engine with one input."""
    held = side.golden().get("inputs")
    if held is None or len(side.manifest["signature"]["inputs"]) != 1:
        return None
    np.save(scratch / "golden.npy", held)
    return scratch / "golden.npy"


def _run(side: Side, fed: Path, scratch: Path, device: Device | None) -> np.ndarray:
    """The first output of an engine for the golden inputs, in a fresh process, on the device where there is one."""
    if device is not None:
        return device.outputs(side.engine, [np.load(fed, allow_pickle=False)])[0]
    files = [str(scratch / f"outputs-{i}.npy") for i in range(len(side.manifest["signature"]["outputs"]))]
    request = {"engine": str(side.engine), "inputs": [str(fed)], "outputs": files, "plugins": plugins()}
    worker.call("evaluate", request, env=worker.thread_env(side.threads), timeout=TIMEOUT)
    found: np.ndarray = np.load(files[0], allow_pickle=False)
    return found


def _outputs(
    candidate: Side,
    baseline: Side,
    fed: Path,
    scratch: Path,
    allowed: Mapping[str, float],
    notes: list[str],
    device: Device | None,
) -> list[Gate]:
    """Parity of the candidate with its golden outputs, and agreement of both engines. An engine that fails has neither."""
    try:
        ours = _run(candidate, fed, scratch, device)
        theirs = _run(baseline, fed, scratch, device)
    except UserError:
        raise
    except EdgekdError as error:
        notes.append(f"outputs were not compared: {error.message.splitlines()[0]}")
        return []
    within, golden = candidate.manifest.get("tolerance") or {}, candidate.golden().get("outputs")
    return [
        gates.parity(ours, golden, within, allowed.get("parity")),
        gates.agreement(ours, theirs, allowed.get("agreement")),
    ]


def to_json(results: Sequence[Result], verdict: Verdict) -> dict[str, Any]:
    """A whole run of the command."""
    return {
        "schema": 1,
        "edgekd": __version__,
        "verdict": verdict,
        "exit": EXIT[verdict],
        "checks": [result.to_json() for result in results],
    }
