"""The evolution of a student: generations of arguments, each scored untrained and raced as compiled engines."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import EdgekdError, UserError
from edgekd.search.space import Arguments, Space, Variants, said
from edgekd.search.study import optuna
from edgekd.store import write_whole

if TYPE_CHECKING:
    from torch import nn

    from edgekd.latency.table import Kind, Measured
    from edgekd.progress import Progress

WORST = 1e9
"""What a candidate that could not be made is told to be."""
PATIENCE = 4
"""So many times the generations may pass: candidates that were seen before cost nothing."""
DRAWN = 20
"""Draws for each choice that was not tried yet."""


@dataclass(frozen=True)
class Candidate:
    """A student of the factory. `seconds` of its fastest engine, with the ends of its interval; `failed`: why it has none.

    `score`: similarity to the teacher, untrained, at most 0. `validation`: after it was distilled, if it was.
    """

    arguments: dict[str, Any]
    score: float | None = None
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    engine: str = ""
    parameters: int | None = None
    failed: str = ""
    validation: float | None = None


Assess = Callable[[int, Sequence[dict[str, Any]]], list[Candidate]]
"""(number of the generation, arguments not seen before) → candidates, in the same order."""


def evolve(
    space: Space,
    own: Arguments,
    assess: Assess,
    allowed: Callable[[], float],
    *,
    population: int,
    generations: int,
    seed: int,
) -> list[Candidate]:
    """All candidates that were tried, `own` first. `allowed()` is asked after the first generation, in seconds.

    A space no larger than all generations together is tried whole. In a larger one, latency and score are two objectives of
    NSGA-II, the latency as far as it is beyond what is allowed: all that is fast enough is equally good, so the evolution
    climbs in score along the budget, until `population` × `generations` different candidates were tried.
    Source: Deb et al. 2002, doi 10.1109/4235.996017; strangers keep it from narrowing: Grefenstette 1992, "Genetic algorithms for
    changing environments"; evolution by similarity: Dong et al. 2023, arXiv 2303.15678, algorithm 1.
    """
    if small(space, population, generations):
        first = {name: own[name] for name in space}
        every = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
        every = [first, *(one for one in every if one != first)]
        parts = [every[start : start + population] for start in range(0, len(every), population)]
        return [one for number, part in enumerate(parts) for one in assess(number, part)]
    made = optuna("search")
    sampler = made.samplers.NSGAIISampler(population_size=population, seed=seed % 2**32)
    study = made.create_study(directions=("minimize", "maximize"), sampler=sampler)
    study.enqueue_trial({name: values.index(own[name]) for name, values in space.items()})
    choices = {name: made.distributions.IntDistribution(0, len(values) - 1) for name, values in space.items()}
    known: dict[str, Candidate] = {}
    chance = random.Random(seed)  # noqa: S311  which student to try next is no secret
    for generation in range(PATIENCE * generations):
        if len(known) >= population * generations:
            break
        trials = [study.ask(choices) for _ in range(population)]
        drawn = [{name: space[name][trial.params[name]] for name in space} for trial in trials]
        new = {_key(one): one for one in drawn if _key(one) not in known}
        known |= dict(zip(new, assess(generation, list(new.values())), strict=True))
        for trial, one in zip(trials, drawn, strict=True):
            study.tell(trial, _objectives(known[_key(one)], allowed()))
        for stranger in _strangers(space, known, population - len(new), chance):
            study.enqueue_trial({name: space[name].index(value) for name, value in stranger.items()})
    return list(known.values())


def _strangers(space: Space, known: Mapping[str, Candidate], count: int, chance: random.Random) -> list[dict[str, Any]]:
    """Up to so many choices drawn by chance among those not tried: what the next generation gets for each repetition in this one."""
    found: dict[str, dict[str, Any]] = {}
    for _ in range(DRAWN * count):
        one = {name: chance.choice(values) for name, values in space.items()}
        if _key(one) not in known and len(found) < count:
            found[_key(one)] = one
    return list(found.values())


def small(space: Space, population: int, generations: int) -> bool:
    """Whether every choice can be tried."""
    return math.prod(len(values) for values in space.values()) <= population * generations


def _key(arguments: Arguments) -> str:
    return json.dumps(arguments, sort_keys=True)


def _objectives(candidate: Candidate, allowed: float) -> tuple[float, float]:
    if candidate.seconds is None or candidate.score is None:
        return WORST, -WORST
    return max(candidate.seconds / allowed, 1.0), candidate.score


@dataclass
class Assessor:
    """Scores and races the candidates of a generation, together with the recipe's own student, to which each is compared.

    `own`: its arguments, those that are searched. `suits(arguments)` is a student's score; where `spread` is given it scores many at
    once, on other machines. What a generation gave is a file in `work`, there whole or not at all.
    """

    variants: Variants
    own: Arguments
    suits: Callable[[Arguments], float]
    work: Path
    progress: Progress
    whole: dict[str, float] | None = None
    """Seconds of the recipe's own student by kind of engine, from the first race: later ones only say shares of it."""
    spread: Callable[[Sequence[dict[str, Any]]], list[Candidate]] | None = None

    def __call__(self, generation: int, drawn: Sequence[dict[str, Any]]) -> list[Candidate]:
        """The candidates, in order. Raises UserError where not even the recipe's own student can be made and measured."""
        if not drawn:
            return []
        path = self.work / f"generation-{generation}.json"
        kept = _read(path, drawn)
        if kept is None:
            label = f"search: generation {generation + 1}"
            found = self._timed(self._scored(drawn, f"{label}, score"), label)
            kept = {"whole": self.whole, "candidates": [asdict(one) for one in found]}
            write_whole(path, json.dumps(kept).encode())
        self.whole = kept["whole"]
        return [Candidate(**one) for one in kept["candidates"]]

    def allowed(self, seconds: Callable[[float], float]) -> float:
        """What a budget allows, known once the first generation was raced."""
        assert self.whole is not None
        return seconds(min(self.whole.values()))

    def _scored(self, drawn: Sequence[dict[str, Any]], label: str) -> list[Candidate]:
        if self.spread is not None:
            with self.progress.task(f"{label}, on the cluster"):
                return self.spread(drawn)
        found = []
        with self.progress.task(label, len(drawn)) as task:
            for arguments in drawn:
                found.append(scored(arguments, self.suits, self.variants))
                task.advance(1, said(arguments))
        return found

    def _timed(self, scored: list[Candidate], label: str) -> list[Candidate]:
        own = dict(self.own)
        if self.whole is None and scored[0].failed:
            raise UserError(f"search: the recipe's own student cannot be compared: {scored[0].failed}")
        others = [one for one in scored if not one.failed and one.arguments != own]
        if not others and self.whole is not None:
            return scored
        raced, failed = self.variants.race([own, *(one.arguments for one in others)], label)
        whole = self.whole or {kind.name: measured.seconds for kind, measured in raced[0].items()}
        self.whole = whole
        found = []
        for one in scored:
            place = 1 + others.index(one) if one in others else 0
            if one.failed or place in failed:
                found.append(replace(one, failed=one.failed or failed[place]))
            else:
                found.append(replace(one, **fastest(raced[place], whole)))
        return found


def scored(arguments: dict[str, Any], suits: Callable[[Arguments], float], variants: Variants) -> Candidate:
    """A candidate with its score and its parameters, or why it has none."""
    try:
        score = suits(arguments)
        failed = "" if math.isfinite(score) else f"its similarity to the teacher is {score}"
        count = _parameters(variants.make(arguments, 0))
        return Candidate(arguments, score=None if failed else score, parameters=count, failed=failed)
    except OSError:
        raise
    except Exception as error:  # the user's factory, or a network that cannot run, with these arguments
        return Candidate(arguments, failed=_reason(error))


def fastest(measured: Mapping[Kind, Measured], whole: Mapping[str, float]) -> dict[str, Any]:
    """Of a candidate's engines the fastest, in seconds: its share of the own student's, times what that took in the first race.

    Why it has none, where it was raced only as kinds of engines that the first race did not have.
    """
    both = [(kind, one) for kind, one in measured.items() if kind.name in whole]
    if not both:
        had, has = (", ".join(sorted(names)) or "none" for names in (whole, (kind.name for kind in measured)))
        return {"failed": f"the first race had engines of {had}, this one's are of {has}"}
    kind, one = min(both, key=lambda pair: pair[1].share * whole[pair[0].name])
    base = whole[kind.name]
    return {"engine": kind.name, "seconds": one.share * base, "low": one.low * base, "high": one.high * base}


def _read(path: Path, drawn: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What a generation gave before a kill; None where it is not there, or of other candidates."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return kept if [one["arguments"] for one in kept["candidates"]] == list(drawn) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _reason(error: Exception) -> str:
    message = error.message if isinstance(error, EdgekdError) else f"{type(error).__name__}: {error}"
    return message.strip().partition("\n")[0]
