"""Successive halving over losses: many are trained for a short time, the better third for thrice as long, and so on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekd import digest
from edgekd.errors import EdgekdError, StoreError
from edgekd.search.budget import LossBudget
from edgekd.search.losses import Table, propose, said, usual
from edgekd.search.study import optuna
from edgekd.store import write_whole

THIRD = 3
STARTUP = 8
"""Tries that are drawn by chance before any are proposed by what was learned."""
AGAIN = 50
"""So many proposals in a row that were tried before, and there is nothing new to try."""
WORST = -1e9
"""What losses that cannot be trained with are told to be worth."""

Trained = Callable[[list[Table], int, int], float]
"""(losses, number of the try, epochs) → the metric on validation, higher is better, after training for so long from the start."""


@dataclass(frozen=True)
class Try:
    """Losses that were tried, the most epochs that they were trained for, and the metric on validation after those."""

    losses: list[Table]
    number: int
    epochs: int = 0
    validation: float | None = None
    verdict: str = "stopped"
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the report tells it."""
        return {"what": said(self.losses), **{k: v for k, v in asdict(self).items() if k not in ("losses", "number")}}


def rungs(epochs: int) -> list[int]:
    """For how long each step of the ladder trains, the last for all `epochs`.

    >>> rungs(12), rungs(2), rungs(30)
    ([1, 4, 12], [1, 2], [3, 10, 30])
    """
    return sorted({max(epochs // THIRD**2, 1), max(epochs // THIRD, 1), epochs})


def halve(
    trained: Trained, budget: LossBudget, epochs: int, pairs: list[tuple[str, str]], work: Path, seed: int
) -> tuple[list[Try], int]:
    """(all that was tried, epochs spent). Each answer is kept in `work`, so that a search goes on after a kill as if there was none.

    A step up trains anew, with a whole schedule of its own: a learning rate that is not yet low says little of where it ends.
    Losses go up if they are among the best third that came as far; Optuna's TPE proposes the next by all before.
    Sources: Jamieson, Talwalkar 2016, arXiv 1502.07943; one at a time as in Li et al. 2020, arXiv 1810.05934, algorithm 2; TPE:
    Bergstra et al. 2011, "Algorithms for hyper-parameter optimization".
    """
    made, ladder = optuna('losses = "auto"'), rungs(epochs)
    informed = made.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=STARTUP)
    chance = made.samplers.RandomSampler(seed=seed % 2**32)
    study = made.create_study(
        direction="maximize",
        pruner=made.pruners.SuccessiveHalvingPruner(min_resource=ladder[0], reduction_factor=THIRD),
    )
    study.enqueue_trial(usual(budget), skip_if_exists=False)
    found: dict[str, Try] = {}
    spent = again = 0
    while spent + ladder[0] <= budget.epochs and again < AGAIN:
        study.sampler = chance if again else informed  # which proposes the same again where little is known
        trial = study.ask()
        losses = propose(trial, budget, pairs)
        key = digest.of_json(losses)
        if key in found:
            again += 1
            study.tell(trial, state=made.trial.TrialState.FAIL)
            continue
        again, one = 0, Try(losses, len(found))
        for step in ladder:
            if spent + step > budget.epochs:
                break
            spent += step
            one = _answer(work, one, step, trained)
            if one.validation is None:
                break
            trial.report(one.validation, step)
            if step < ladder[-1] and trial.should_prune():
                break
        if one.validation is not None and one.epochs == ladder[-1]:
            one = replace(one, verdict="trained")
        found[key] = one
        state = made.trial.TrialState
        if one.validation is None:
            trial.report(WORST, ladder[0])
            study.tell(trial, state=state.PRUNED)  # a failed trial would tell the sampler nothing
        elif one.epochs < ladder[-1]:
            study.tell(trial, state=state.PRUNED)
        else:
            study.tell(trial, one.validation)
    return list(found.values()), spent


def _answer(work: Path, one: Try, epochs: int, trained: Trained) -> Try:
    """The try after so many epochs: from `work`, or else trained now."""
    path = work / f"tried-{digest.of_json([one.losses, epochs])[:32]}.json"
    try:
        kept = json.loads(path.read_text("utf-8"))
        return replace(one, **{key: kept[key] for key in ("epochs", "validation", "verdict", "reason")})
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        found = replace(one, epochs=epochs, validation=trained(one.losses, one.number, epochs))
    except StoreError:
        raise
    except EdgekdError as error:  # a loss that these modules or this data do not fit, or that does not stay finite
        reason = error.message.partition("\n")[0]
        found = replace(one, epochs=epochs, validation=None, verdict="failed", reason=reason)
    write_whole(path, json.dumps(asdict(found)).encode())
    return found


def best(tried: list[Try]) -> Try | None:
    """Of those that came farthest, the one with the best metric; None where all failed."""
    able = [one for one in tried if one.validation is not None]
    return max(able, key=lambda one: (one.epochs, one.validation or 0.0), default=None)
