"""What a terminal shows at the end: the ledger as a table, then the verdict. Made for 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekd.ledger import losses
from edgekd.report import words
from edgekd.report.bars import ordered
from edgekd.report.headline import headline
from edgekd.report.schema import Report, Sensitivity, TargetReport

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text


SHOWN = 3
"""Layers that are named in a terminal."""


def summary(report: Mapping[str, Any]) -> Group:
    """The report in short, for a rich console. Raises pydantic.ValidationError if it is not what the schema says."""
    from rich.console import Group
    from rich.text import Text

    read = Report.model_validate(report)
    parts: list[Table | Text] = [_ledger(read)]
    if read.first_loss is not None:
        parts += [Text(), Text(read.first_loss.text)]
    for shown in read.sensitivity:
        parts += [Text(), *_layers(read, shown)]
    for target in read.targets:
        parts += [Text(), *_verdict(read, target)]
    return Group(*parts)


def _ledger(report: Report) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("state", overflow="fold")
    heads = (words.short(report.metric.name), "change", "as teacher", "parameters", "size", "latency")
    for head in heads:
        table.add_column(Text(head), justify="right", no_wrap=True)
    lost = report.first_loss.row if report.first_loss else None
    found = losses(report.ledger, report.metric.reference, report.splits.test)
    for row, change in zip(report.ledger, found, strict=True):
        cells = [
            words.score(row.metric, report.metric.name),
            words.change(-change.lost if change else None, report.metric.name),
            words.share(row.agreement.top1 if row.agreement else None),
            words.count(row.parameters),
            words.size(row.bytes),
            words.seconds(row.latency.median if row.latency else None),
        ]
        table.add_row(Text(row.row), *map(Text, cells), style="red" if row.row == lost else None)
    return table


def _layers(report: Report, shown: Sensitivity) -> list[Text]:
    """The most sensitive layers, and what became of them."""
    from rich.text import Text

    unit = "nats" if shown.measure == "KL" else "of the power"
    first = [f"{one.layer} {words.loss(one.loss)}" for one in ordered(shown)[:SHOWN]]
    more = f" and {len(shown.layers) - SHOWN} more" if len(shown.layers) > SHOWN else ""
    lines = [f"{shown.version}, each layer alone, {unit} lost: {', '.join(first)}{more}"]
    lines += [words.control(shown, report.metric.name), words.bit_plan(shown), *words.costs(shown)]
    return [Text(line, "dim") for line in lines if line]


def _verdict(report: Report, target: TargetReport) -> list[Text]:
    from rich.text import Text

    found = headline(report, target)
    name = found.engine.name if found.engine else "no engine"
    first = Text.assemble((f"{target.name}: ", "dim"), (name, "bold green" if found.keeps else "bold yellow"))
    if found.engine is not None and not found.keeps:
        first.append(f" (nearest; {found.failing})")
    failed = [one for one in target.candidates if one.verdict == "failed"]
    why = [Text(f"{one.name}: {one.reason.splitlines()[0]}", "red") for one in failed if one.reason]
    return [first, Text(found.sentence), Text(target.reason, "dim"), *why]
