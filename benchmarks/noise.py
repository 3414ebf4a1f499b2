"""Simulated machines, to find out how often the gate is wrong: block medians with a known truth, no engine, no waiting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.check.verdict import RUNNERS, Look, Rule, look, settled, wanted

ROUNDS = 20


@dataclass(frozen=True)
class Machine:
    """Spreads of the log of a block's median.

    `modes`: an engine, opened, is slow or fast by so much each way, half of the times each. `session`: and normal with this
    deviation. `process`, `round`: common to all engines of a process, of a round. `block`: each block's own. `disturbed`:
    the probability that a neighbour takes a part of a block, which then takes up to `by` longer, in half of all processes.
    """

    modes: float = 0.0
    session: float = 0.003
    process: float = 0.03
    round: float = 0.01
    block: float = 0.01
    disturbed: float = 0.0
    by: float = 1.0


QUIET = Machine(modes=0.01)
BIMODAL = Machine(modes=0.04, session=0.005)
NOISY = Machine(modes=0.03, session=0.01, round=0.05, block=0.03, disturbed=0.4)


def samples(
    machine: Machine, truth: float, seconds: float, processes: int, random: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Block medians `[process, round, 1]` of the four runners; the candidate takes `truth` times the baseline's `seconds`."""
    shape = (processes, ROUNDS, 1)
    shared = random.normal(0, machine.process, (processes, 1, 1)) + random.normal(0, machine.round, shape)
    busy = random.random((processes, 1, 1)) < 0.5
    found = {}
    for name in RUNNERS:
        own = random.choice([-machine.modes, machine.modes], (processes, 1, 1))
        own = own + random.normal(0, machine.session, (processes, 1, 1)) + random.normal(0, machine.block, shape)
        hit = busy & (random.random(shape) < machine.disturbed)
        own = own + np.where(hit, np.log1p(machine.by * random.random(shape)), 0.0)
        found[name] = seconds * (truth if name.startswith("candidate") else 1.0) * np.exp(shared + own)
    return found


def judged(machine: Machine, truth: float, rule: Rule, most: int, seed: int, seconds: float = 1e-3) -> tuple[str, Look]:
    """One whole check on a simulated machine with time for `most` processes: its verdict, and the look that gave it."""
    whole = samples(machine, truth, seconds, most, np.random.default_rng(seed))
    number = 0
    while True:
        number += 1
        processes = int(min(wanted(number), most))
        last = look({name: values[:processes] for name, values in whole.items()}, rule, number, seed)
        if last.state != "undecided" or processes == most:
            return settled(last), last


def rates(machine: Machine, truth: float, rule: Rule, most: int, runs: int, seed: int = 0) -> Mapping[str, float]:
    """Shares of `runs` checks that passed, regressed or were inconclusive, and the mean number of processes that they took."""
    found = [judged(machine, truth, rule, most, seed * 1_000_003 + run) for run in range(runs)]
    counted = {
        state: sum(verdict == state for verdict, _ in found) / runs for state in ("pass", "regressed", "inconclusive")
    }
    return {**counted, "processes": math.fsum(last.processes for _, last in found) / runs}
