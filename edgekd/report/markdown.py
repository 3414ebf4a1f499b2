"""`report.md`: the same report as text that a code host shows. What users wrote is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from edgekd.ledger import Change, losses
from edgekd.report import foretold, words
from edgekd.report.figures import Tried
from edgekd.report.headline import headline
from edgekd.report.schema import Candidate, LedgerRow, Report, TargetReport


def render(report: Mapping[str, Any]) -> str:
    """The report as Markdown. Raises pydantic.ValidationError if it is not what the schema says."""
    read = Report.model_validate(report)
    parts = [f"# {plain(read.name)}: edgekd report"]
    for target in read.targets:
        parts += _verdict(read, target)
    parts += _ledger(read)
    for target in read.targets:
        parts += _candidates(read, target)
    parts += _searches(read)
    parts += _pruned(read)
    parts += _layers(read)
    parts += _calibration(read)
    parts += _plan(read)
    parts += _provenance(read)
    return "\n\n".join(parts) + "\n"


def plain(text: object) -> str:
    r"""Text that Markdown shows as it is, on one line.

    >>> print(plain("a|b <i> *c* `d`\n# e"))
    a\|b &lt;i> \*c\* \`d\` \# e
    """
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", one_line).replace("&", "&amp;").replace("<", "&lt;")


def table(head: str, align: str, rows: Iterable[Iterable[str]]) -> str:
    """A table. `head` names its columns, with "_" for a space in a name; `align` has "l" or "r" for each."""
    heads = [cell.replace("_", " ") for cell in head.split()]
    rules = [":--" if side == "l" else "--:" for side in align]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, rules, *map(list, rows)])


def _verdict(report: Report, target: TargetReport) -> list[str]:
    found = headline(report, target)
    engine = f"**{plain(found.engine.name)}**" if found.engine else "nothing"
    said = engine if found.keeps else f"{found.failing}; nearest: {engine}"
    figures = [
        [plain(figure.label), f"**{plain(figure.value)}**", "; ".join(map(plain, figure.details))]
        for figure in found.figures
    ]
    parts = [f"## {plain(target.name)}: {said}", f"{plain(target.chip)}. {plain(found.sentence)}", plain(target.reason)]
    return [*parts, table("Figure Value Compared", "lrl", figures)] if figures else parts


def _ledger(report: Report) -> list[str]:
    metric = report.metric.name
    lost = losses(report.ledger, report.metric.reference, report.splits.test)
    said = f"Scored on the same {report.splits.test:,} test samples, which nothing was selected by."
    if report.first_loss is not None:
        said += f" {plain(report.first_loss.text)}"
    head = f"State In {plain(words.short(metric)).replace(' ', '_')} Change Teacher's_class KL Parameters MACs Size Latency Note"
    return [
        f"## Where the {plain(words.short(metric))} went",
        said,
        table(head, "llrrrrrrrrl", [_ledger_row(*pair, metric) for pair in zip(report.ledger, lost, strict=True)]),
    ]


def _ledger_row(row: LedgerRow, change: Change | None, metric: str) -> list[str]:
    return [
        plain(row.row),
        plain(row.runs_in),
        words.score(row.metric, metric),
        words.change(-change.lost if change else None, metric),
        words.share(row.agreement.top1 if row.agreement else None),
        f"{row.agreement.kl:.4f}" if row.agreement else words.NONE,
        words.count(row.parameters),
        words.count(row.macs),
        words.size(row.bytes),
        words.seconds(row.latency.median if row.latency else None),
        plain(row.note),
    ]


def _candidates(report: Report, target: TargetReport) -> list[str]:
    metric = report.metric.name
    head = f"Engine Verdict Median p90 Size {plain(words.short(metric)).replace(' ', '_')}"
    head += " Against_float Against_teacher Delegated Compiled_in Why"
    rows = [_candidate(one, metric) for one in target.candidates]
    return [f"## Candidates for {plain(target.name)}", table(head, "llrrrrrrrrl", rows)]


def _candidate(one: Candidate, metric: str) -> list[str]:
    median, p90 = (one.latency.median, one.latency.p90) if one.latency else (None, None)
    return [
        f"**{plain(one.name)}**" if one.verdict == "chosen" else plain(one.name),
        one.verdict,
        words.seconds(median),
        words.seconds(p90),
        words.size(one.bytes),
        words.score(one.metric, metric),
        words.speed(one.versus_float) if one.versus_float else words.NONE,
        words.speed(one.versus_teacher) if one.versus_teacher else words.NONE,
        words.share(one.delegated_share),
        words.seconds(one.compile_seconds),
        plain("; ".join(filter(None, [one.reason, one.note]))),
    ]


def _searches(report: Report) -> list[str]:
    parts = ["## What was tried before choosing"] if report.search else []
    for shown in report.search:
        parts.append(plain(words.search(shown)))
        score = "−KL" if shown.kind == "blocks" else "Similarity"
        head = f"Tried Verdict {score} Latency Engine Parameters Epochs Validation Why"
        parts.append(table(head, "llrrlrrrl", [_tried(one, report.metric.name) for one in shown.tried]))
    return parts


def _tried(one: Tried, metric: str) -> list[str]:
    return [
        f"**{plain(one.what)}**" if one.verdict == "chosen" else plain(one.what),
        one.verdict,
        words.similarity(one.score),
        words.seconds(one.latency),
        plain(one.engine) or words.NONE,
        words.count(one.parameters),
        words.NONE if one.epochs is None else str(one.epochs),
        words.score(one.validation, metric),
        plain(one.reason),
    ]


def _pruned(report: Report) -> list[str]:
    lines = [f"- {plain(line)}" for shown in report.pruned for line in foretold.said(shown)]
    return [f"## {foretold.HEADING}", "\n".join(lines)] if lines else []


def _layers(report: Report) -> list[str]:
    parts = ["## What quantization costs, layer by layer"] if report.sensitivity else []
    for shown in report.sensitivity:
        unit = "KL, nats" if shown.measure == "KL" else "squared error"
        parts.append(
            f"Loss of the outputs ({unit}) with one layer of {plain(shown.version)} quantized and all others in float, on "
            f"{shown.samples} calibration samples."
        )
        said = [words.control(shown, report.metric.name), words.bit_plan(shown)]
        parts += [plain(one) for one in said if one]
        if shown.control is not None and shown.control.note:
            parts.append(plain(shown.control.note))
        rows = [
            [
                plain(one.layer),
                words.loss(one.loss),
                words.bits(one.bits),
                words.size(one.bytes),
                words.speed(one.cost, "with it quantized") if one.cost else words.NONE,
            ]
            for one in shown.layers
        ]
        parts.append(table("Layer Loss Weight Size In_float_it_is", "lrrrl", rows))
    return parts


def _calibration(report: Report) -> list[str]:
    parts = ["## What the integer ranges were drawn from"] if report.calibration else []
    for shown in report.calibration:
        parts.append(plain(words.calibration(shown)))
        parts += [f"- {plain(note)}" for note in shown.notes]
        if shown.preview:
            parts.append(f"![inputs that {plain(shown.version)} was calibrated on](<{shown.preview}>)")
    return parts


def _plan(report: Report) -> list[str]:
    rows = [
        [
            plain(step.step),
            plain(step.label),
            plain(", ".join(step.reads)) or words.NONE,
            words.seconds(step.seconds) + (", from the store" if step.cached else ""),
            f"`{step.key[:12]}`" if step.key.isalnum() else plain(step.key),
        ]
        for step in report.plan
    ]
    return ["## Plan", table("Step What Reads Time Key", "lllrl", rows)]


def _provenance(report: Report) -> list[str]:
    source = report.provenance
    machine = source.machine
    facts = [
        f"machine: {machine.chip}, {machine.cores} cores, {machine.system}, Python {machine.python}",
        f"seed: {report.seed}",
        f"samples: {report.splits.train:,} train, {report.splits.validation:,} validation, {report.splits.test:,} test",
        f"versions: {', '.join(f'{name} {version}' for name, version in source.versions.items())}",
        *(f"{name}, sha256: {digest}" for name, digest in source.digests.items()),
        f"made: {source.made}, by edgekd {report.edgekd}",
    ]
    return ["## Provenance", "\n".join(f"- {plain(fact)}" for fact in facts)]
