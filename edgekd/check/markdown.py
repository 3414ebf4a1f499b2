"""What a check says as Markdown, for a comment on a pull request: the verdict first, a table, the rest folded away."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.check.gate import Result
from edgekd.check.told import HEADS, advice, culprits, picture, rows, sentence

SIGNS = {"pass": "✅", "regressed": "❌", "inconclusive": "⚠️"}


def render(results: Sequence[Result]) -> str:
    """All checks as one Markdown page."""
    lines = []
    if len(results) > 1:
        lines += ["| check | verdict | latency | |", "|---|---|---|---|"]
        for result in results:
            last = result.latency.last if result.latency else None
            ratio = f"{last.ratio.point:.3f}×" if last else "–"
            drawn = f"`{picture(last, 25)}`" if last else ""
            name = escaped(result.asked.title)
            lines.append(f"| {name} | {SIGNS[result.verdict]} {result.verdict} | {ratio} | {drawn} |")
        lines += ["", "Latency verdicts are corrected for their number (Holm).", ""]
    for result in results:
        lines += [*_check(result), ""]
    return "\n".join(lines)


def _check(result: Result) -> list[str]:
    lines = [
        f"### {SIGNS[result.verdict]} {escaped(result.asked.title)}: {result.verdict}",
        "",
        escaped(sentence(result)) + ".",
        "",
    ]
    if result.latency is not None and result.latency.last is not None:
        last = result.latency.last
        lines += [f"`{picture(last)}` ┊ 1, ┃ {last.limit:.3g}× allowed", ""]
    if todo := advice(result):
        lines += [f"**What to do:** {escaped(todo)}.", ""]
    if result.operators and (named := culprits(result.operators)):
        lines += ["Operators that cost the difference:", "", *(f"* {escaped(line)}" for line in named), ""]
    table = rows(result)
    lines += [f"| {' | '.join(HEADS)} |", "|---|--:|--:|--:|--:|---|"]
    lines += [f"| {' | '.join(escaped(cell.strip()) for cell in row.cells)} |" for row in table]
    noted = [f"{row.signal.strip()}: {row.note}" for row in table if row.note] + list(result.notes)
    if noted:
        lines += ["", f"<details><summary>{len(noted)} notes</summary>", "", *(f"* {escaped(n)}" for n in noted), ""]
        lines += ["</details>"]
    return lines


def escaped(text: str) -> str:
    """Text that Markdown and its HTML leave as it is.

    >>> escaped("a|b <c> *d*")
    'a\\\\|b &lt;c&gt; \\\\*d\\\\*'
    """
    text = text.replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for letter in "\\`*_|[]#":
        text = text.replace(letter, f"\\{letter}")
    return text
