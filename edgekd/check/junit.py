"""What a check says as JUnit's XML, which build servers read: a suite a check, a case a signal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from edgekd.check.gate import Result
from edgekd.check.told import Row, advice, culprits, rows, sentence

# Regressed is a failure, inconclusive an error (nothing was found out), what is not known or not gated is skipped.
KINDS = {"regressed": "failure", "inconclusive": "error", "unknown": "skipped", "off": "skipped"}


def render(results: Sequence[Result]) -> str:
    """The document: a <testsuite> for each check, seconds as its time."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<testsuites name="edgekd check">']
    for result in results:
        cases = [row for row in rows(result) if row.signal.strip() == row.signal]
        counts = {kind: sum(KINDS.get(row.state) == kind for row in cases) for kind in ("failure", "error", "skipped")}
        lines.append(
            f"  <testsuite name={_quoted(result.asked.title)} tests={_quoted(len(cases))} failures={_quoted(counts['failure'])}"
            f" errors={_quoted(counts['error'])} skipped={_quoted(counts['skipped'])} time={_quoted(f'{result.seconds:.3f}')}>"
        )
        for row in cases:
            lines += _case(result, row)
        lines.append("  </testsuite>")
    return "\n".join([*lines, "</testsuites>", ""])


def _case(result: Result, row: Row) -> list[str]:
    seconds = result.latency.seconds if result.latency is not None and row.signal == "latency" else 0.0
    start = f"    <testcase classname={_quoted(result.asked.title)} name={_quoted(row.signal)} time={_quoted(f'{seconds:.3f}')}"
    kind = KINDS.get(row.state)
    if kind is None:
        return [f"{start}/>"]
    said = f"{row.baseline} to {row.candidate}, {row.change}; allowed {row.allowed}. {row.note}".strip()
    if row.signal == "latency":
        named = culprits(result.operators) if result.operators else []
        said = ". ".join(filter(None, [sentence(result), advice(result), *named]))
    return [f"{start}>", f"      <{kind} message={_quoted(said)}/>", "    </testcase>"]


def _quoted(value: object) -> str:
    """An attribute's value; letters that XML 1.0 cannot hold are replaced."""
    return quoteattr(
        re.sub(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]", "\N{REPLACEMENT CHARACTER}", str(value))
    )
