"""The report as Markdown and in a terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from edgekd.report import markdown, terminal
from edgekd.report.headline import headline
from edgekd.report.schema import Report
from tests.report.sample import INT8, odd, sample


def shown(report: dict[str, Any], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(terminal.summary(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_the_headline_compares_with_the_teacher_and_with_float() -> None:
    """By hand: 1.93 ms / 131 µs = 14.7; 1490 / 66.9 = 22.3; 1 / 0.612 = 1.634; 197 / 66.9 = 2.945; 2605 - 2588 of 2800."""
    read = Report.model_validate(sample())
    found = headline(read, read.targets[0])
    assert found.keeps
    assert found.sentence == (
        "14.7× faster and 22.3× smaller than the teacher; 1.63× faster and 2.94× smaller than the same student in float; "
        'accuracy 92.43%, 0.61 points below "distilled".'
    )


def test_a_headline_without_an_engine() -> None:
    report = sample()
    report["targets"][0].update(chosen=None, nearest=None)
    read = Report.model_validate(report)
    assert headline(read, read.targets[0]).engine is None
    assert "There is no engine to bundle." in markdown.render(report)
    assert "no engine" in shown(report)


def test_markdown_holds_the_whole_report() -> None:
    text = markdown.render(sample())
    assert text.startswith("# fashion: edgekd report\n\n## host: **quantize on onnxruntime**\n")
    row = "| fake-quantized | torch | 92.39% | −0.39 | 95.80% | 0.0410 | 47.9 k | 6.82 M | – | – |  |"
    assert row in text.splitlines()
    for said in (
        "its share of the allowed 1.00 point",
        "1.12× slower (1.09–1.15)",
        "QLinearConv",
        "seed: 0",
        "torch 2.13.0",
        "| **width = 16, depth = 2** | chosen | −0.0241 | 390 µs | float32 on onnxruntime | 31.2 k | 2 | 92.10% |  |",
        "2 sets of losses tried within 60 epochs; validation chose. The recipe with what was found is found.toml.",
        "latency of 0.5x (410 µs): predicted 400 µs, measured 392 µs (−2.0%), the whole student 820 µs.",
        "size of 200 kB (200 kB): predicted 190 kB, measured 191 kB (+0.5%)",
        "off by 1.1% in the median, 4.3% at most.",
        "- Met on float32 on onnxruntime; 2 plans were measured.",
    ):
        assert said in text


def test_every_markdown_table_is_whole() -> None:
    for report in (sample(), odd()):
        for block in markdown.render(report).split("\n\n"):
            if block.startswith("|"):
                widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
                assert len(widths) == 1, block


def test_markdown_escapes_what_users_wrote() -> None:
    text = markdown.render(odd())
    assert "<script>" not in text
    assert "<b>" not in text
    assert r"&lt;script>alert(\"x\")".replace('\\"', '"') in text
    assert r"\| \*b\* \`c\`" in text


@pytest.mark.parametrize("make", [sample, odd])
def test_the_summary_fits_80_columns(make: Any) -> None:
    lines = shown(make()).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_the_summary_has_the_ledger_and_the_verdict() -> None:
    text = shown(sample())
    assert re.search(r"compiled +92\.43% +\+0\.04 +95\.80% +47\.9 k +66\.9 kB +131 µs", text)
    flat = " ".join(text.split())
    assert f"host: {INT8} 14.7× faster and 22.3× smaller" in flat
    assert "beyond noise" in flat


def test_the_summary_says_where_no_engine_keeps_the_budget() -> None:
    assert f"host: {INT8} (nearest; no engine keeps the budget)" in shown(odd())
    assert "<b>66.9 kB</b>" in shown(odd()), "markup of users is text"
