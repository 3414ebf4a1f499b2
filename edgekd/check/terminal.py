"""What a terminal shows of checks: a table each, then the verdict. Made for 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekd.check.gate import Result
from edgekd.check.told import HEADS, advice, culprits, picture, rows, sentence
from edgekd.check.verdict import LOOKS_AT

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

STYLES = {"pass": "green", "regressed": "bold red", "inconclusive": "yellow", "too wide": "yellow"}


def summary(results: Sequence[Result]) -> Group:
    """Every check for a rich console."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Table | Text] = []
    for result in results:
        if parts:
            parts.append(Text())
        parts += [Text(f"{result.asked.title} against {result.asked.baseline}", "bold"), Text(), _table(result)]
        parts += _said(result)
    if len(results) > 1:
        counts = {v: sum(r.verdict == v for r in results) for v in ("pass", "regressed", "inconclusive")}
        told = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
        parts += [Text(), Text(f"{len(results)} checks: {told} (latency with Holm's correction)")]
    return Group(*parts)


def _table(result: Result) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for head in HEADS:
        left = head in ("signal", "verdict")
        table.add_column(head, justify="left" if left else "right", no_wrap=head != "change")
    for row in rows(result):
        table.add_row(*(Text(cell) for cell in row.cells[:-1]), Text(row.state, STYLES.get(row.state, "dim")))
    return table


def _said(result: Result) -> list[Text]:
    from rich.text import Text

    found = [Text()]
    if result.latency is not None and result.latency.last is not None:
        last = result.latency.last
        found.append(Text(f"  {picture(last)}   ┊ 1   ┃ {last.limit:.3g}× allowed", "dim"))
        looks = f"{last.processes} processes" + (f", {last.number} looks" if last.processes > LOOKS_AT[0] else "")
        found += [Text(f"  {looks}, {result.latency.seconds:.1f} s", "dim"), Text()]
    found.append(Text.assemble((result.verdict, STYLES[result.verdict]), f": {sentence(result)}"))
    if todo := advice(result):
        found.append(Text(f"what to do: {todo}"))
    if result.operators is not None:
        lines = culprits(result.operators)
        found += [Text("operators that cost the difference:"), *(Text(f"  {line}") for line in lines)] if lines else []
    elif result.latency_verdict == "regressed":
        found.append(Text("which operators cost it is not known: the backend has no profiler", "dim"))
    noted = [f"{row.signal}: {row.note}" for row in rows(result) if row.note and row.state != "pass"]
    return found + [Text(f"note: {note}", "dim") for note in [*noted, *result.notes]]
