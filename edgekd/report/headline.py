"""What a report says first: which engine, how much smaller and faster, at what score, against the teacher and float."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.report import words
from edgekd.report.schema import Candidate, LedgerRow, Report, TargetReport


@dataclass(frozen=True)
class Figure:
    """One figure with what it is and what it compares to."""

    label: str
    value: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class Headline:
    """The verdict on one target. `keeps` says whether the engine keeps the budget; `engine` is None if there is none."""

    target: TargetReport
    engine: Candidate | None
    keeps: bool
    sentence: str
    figures: tuple[Figure, ...]

    @property
    def failing(self) -> str:
        """Why the engine is not the chosen one, in few words."""
        unmeasured = self.engine is not None and self.engine.latency is None
        return "no engine was measured" if unmeasured else "no engine keeps the budget"


def headline(report: Report, target: TargetReport) -> Headline:
    """The headline of one target, from its bundled engine."""
    engine = target.bundled
    if engine is None:
        return Headline(target, None, False, "There is no engine to bundle.", ())
    float_engine = target.candidate(engine.float_engine)
    teachers = [one for one in target.candidates if one.version == "teacher" and one.verdict != "failed"]
    teacher = next((one for one in teachers if one.backend == engine.backend), None)
    latency = _latency(target, engine)
    size = _size(engine, teacher, float_engine)
    score = _score(report, engine, teacher)
    figures = [latency, size, score, _agreement(engine)]
    sentence = _sentence(report, engine, teacher, float_engine)
    return Headline(
        target, engine, target.chosen is not None, sentence, tuple(one for one in figures if one is not None)
    )


def reference(report: Report) -> LedgerRow | None:
    """The ledger row that drops count from."""
    return next((row for row in report.ledger if row.version == report.metric.reference), None)


def _against_reference(report: Report, engine: Candidate) -> str:
    """How the engine's score compares with the reference's; empty if it was not compressed."""
    row = reference(report)
    if row is None or engine.metric is None or engine.version == row.version:
        return ""
    return f'{words.versus(engine.metric - row.metric, report.metric.name)} "{row.row}"'


def _latency(target: TargetReport, engine: Candidate) -> Figure | None:
    if engine.latency is None:
        return None
    threads = f"{target.threads} thread{'' if target.threads == 1 else 's'}"
    details = [f"median; p90 {words.seconds(engine.latency.p90)}; {threads}"]
    for ratio, other in ((engine.versus_teacher, "the teacher"), (engine.versus_float, "float")):
        if ratio is not None:
            details.append(words.speed(ratio, other))
    return Figure("Latency", words.seconds(engine.latency.median), tuple(details))


def smaller(one: int, other: int) -> str:
    """How the size of one compares to another's, in words.

    >>> smaller(100, 350), smaller(300, 200), smaller(1001, 1000)
    ('3.50× smaller', '1.50× larger', 'no smaller')
    """
    if not one or not other:
        return "not comparable"
    if abs(one / other - 1) < 0.005:
        return "no smaller"
    return f"{words.times(other / one)} smaller" if one <= other else f"{words.times(one / other)} larger"


def _size(engine: Candidate, teacher: Candidate | None, float_engine: Candidate | None) -> Figure | None:
    if engine.bytes is None:
        return None
    pairs = [(teacher, "the teacher"), (float_engine, "float")]
    details = [f"{smaller(engine.bytes, one.bytes)} than {name}" for one, name in pairs if one and one.bytes]
    return Figure("Size", words.size(engine.bytes), ("the engine's file", *details))


def _score(report: Report, engine: Candidate, teacher: Candidate | None) -> Figure | None:
    if engine.metric is None:
        return None
    name = report.metric.name
    details = [f"on {report.splits.test:,} test samples"]
    if teacher is not None and teacher.metric is not None:
        details.append(f"{words.versus(engine.metric - teacher.metric, name)} the teacher")
    if below := _against_reference(report, engine):
        details.append(below)
    return Figure(_capital(words.short(name)), words.score(engine.metric, name), tuple(details))


def _agreement(engine: Candidate) -> Figure | None:
    if engine.agreement is None:
        return None
    details = ["of test samples in the teacher's class"]
    if engine.parity is not None:
        details.append(f"{words.share(engine.parity.top1)} as {words.program(engine)}")
    return Figure("Agreement", words.share(engine.agreement.top1), tuple(details))


def _sentence(report: Report, engine: Candidate, teacher: Candidate | None, float_engine: Candidate | None) -> str:
    against = [
        (engine.versus_teacher, teacher, "the teacher"),
        (engine.versus_float, float_engine, "the same student in float"),
    ]
    clauses = []
    for ratio, other, name in against:
        said = []
        if ratio is not None and not ratio.low <= 1 <= ratio.high:
            said.append(words.speed(ratio).partition(" (")[0])
        if other is not None and other.bytes and engine.bytes:
            said.append(smaller(engine.bytes, other.bytes))
        if said:
            clauses.append(f"{' and '.join(said)} than {name}")
    if engine.metric is not None:
        text = f"{words.short(report.metric.name)} {words.score(engine.metric, report.metric.name)}"
        below = _against_reference(report, engine)
        text += f", {below}" if below else ""
        clauses.append(text)
    return _capital(f"{'; '.join(clauses)}.") if clauses else "Nothing of it was measured."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
