"""`report.html`: one file that needs nothing else. Inline style and SVG, no script, nothing fetched; its own policy forbids it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.ledger import losses
from edgekd.report import bars, distribution, foretold, scatter, track, tried, words
from edgekd.report.figures import Search
from edgekd.report.headline import headline
from edgekd.report.schema import Candidate, Report, Sensitivity, TargetReport
from edgekd.units import format_joules

WIDE, NARROW = 880, 350
"""Each picture is laid out twice, in pixels, so that its text is the page's text on a desk and on a phone."""


def render(
    report: Mapping[str, Any], samples: Mapping[str, Sequence[float]], previews: Mapping[str, bytes] | None = None
) -> str:
    """The page. `samples` holds raw seconds by candidate name, or by "target/candidate" where there are several targets;
    `previews` the pictures that the report names, as PNG.

    Raises pydantic.ValidationError if `report` is not what the schema says.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    read = Report.model_validate(report)
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["firm"] = lambda text: text.replace("–", "\N{WORD JOINER}–\N{WORD JOINER}")
    page = environment.get_template("report.html.j2").render(
        report=read,
        words=words,
        foretold=foretold,
        facts=facts,
        metric=words.short(read.metric.name),
        headlines=[headline(read, target) for target in read.targets],
        rows=_rows(read),
        pictures={target.name: _pictures(read, target, samples) for target in read.targets},
        bars={shown.version: _bars(shown) for shown in read.sensitivity},
        searches=[{"shown": shown, **_searched(shown)} for shown in read.search],
        budget=budget(read),
        previews={name: b64encode(picture).decode() for name, picture in (previews or {}).items()},
        longest=max((step.seconds for step in read.plan), default=0.0) or 1.0,
        ran=[step for step in read.plan if not step.cached],
    )
    return "\n".join(line.rstrip() for line in page.splitlines() if line.strip()) + "\n"


def budget(report: Report) -> list[str]:
    """The limits in words; empty if there are none."""
    name, limits, said = report.metric.name, report.budget, []
    if limits.metric_drop is not None:
        said.append(
            f"{words.short(name)} at most {words.amount(limits.metric_drop, name)} below {report.metric.reference}"
        )
    if limits.latency_p90 is not None:
        said.append(f"latency p90 at most {words.tick(limits.latency_p90)}")
    if limits.size is not None:
        said.append(f"size at most {words.size(limits.size)}")
    if limits.memory is not None:
        said.append(f"memory at most {words.size(limits.memory)}")
    if limits.cold_start is not None:
        said.append(f"cold start at most {words.tick(limits.cold_start)}")
    if limits.sqnr is not None:
        said.append(f"SQNR at least {limits.sqnr:g} dB")
    return said


def _rows(report: Report) -> list[dict[str, Any]]:
    """The ledger's rows with their pictures and, after the reference, their changes."""
    from markupsafe import Markup

    samples = report.splits.test if report.metric.name in words.SHARES else 0
    return [
        {
            "row": row,
            "change": words.change(-change.lost, report.metric.name) if change else words.NONE,
            "noise": _noise(change.within_noise if change else None),
            "lost_most": report.first_loss is not None and row.row == report.first_loss.row,
            "track": Markup(track.draw(report, row, change)),  # noqa: S704  built by svg.element, which escapes
        }
        for row, change in zip(report.ledger, losses(report.ledger, report.metric.reference, samples), strict=True)
    ]


def _noise(within: bool | None) -> str:
    return "" if within is None else "within noise" if within else "beyond noise"


def _pictures(report: Report, target: TargetReport, samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    from markupsafe import Markup

    mine = distribution.of_target(samples, target.name, alone=len(report.targets) == 1)
    limit = report.budget.latency_p90
    crowded = len(scatter.drawn(target)) > 8
    drawn = {
        "scatter": scatter.draw(report, target, WIDE, 520 if crowded else 420),
        "scatter_narrow": scatter.draw(report, target, NARROW, 480 if crowded else 400),
        "spread": distribution.draw(target, mine, limit, WIDE),
        "spread_narrow": distribution.draw(target, mine, limit, NARROW),
    }
    return {name: Markup(text) for name, text in drawn.items()}  # noqa: S704  built by svg.element, which escapes


def _searched(shown: Search) -> dict[str, Any]:
    from markupsafe import Markup

    drawn = {"wide": tried.draw(shown, WIDE), "narrow": tried.draw(shown, NARROW)}
    return {name: Markup(text) for name, text in drawn.items()}  # noqa: S704  built by svg.element, which escapes


def _bars(shown: Sensitivity) -> dict[str, Any]:
    from markupsafe import Markup

    drawn = {"wide": bars.draw(shown, WIDE), "narrow": bars.draw(shown, NARROW)}
    return {name: Markup(text) for name, text in drawn.items()}  # noqa: S704  built by svg.element, which escapes


def facts(one: Candidate, metric: str) -> list[str]:
    """What else is known of a candidate, beside the table's columns."""
    said = []
    if one.metric_validation is not None:
        said.append(f"validation {words.short(metric)} {words.score(one.metric_validation, metric)}")
    if one.integer_nodes is not None and one.float_nodes is not None and one.integer:
        said.append(f"{one.integer_nodes} integer and {one.float_nodes} float nodes")
    if one.delegated_share is not None:
        where = "in integers" if one.integer else "on the delegate"
        said.append(f"{one.delegated_share:.0%} of the nodes with weights {where}")
    if one.note:
        said.append(one.note)
    if one.parity is not None:
        steps = f"{one.parity.steps:.3g} step{'' if one.parity.steps == 1 else 's'}"
        said.append(f"as {words.program(one)} {words.share(one.parity.top1)}, within {steps}")
    if one.compile_seconds is not None:
        said.append(f"compiled in {words.seconds(one.compile_seconds)}")
    if one.cold_start is not None:
        said.append(f"cold start {words.seconds(one.cold_start)}")
    if one.peak_memory is not None:
        said.append(f"peak memory {words.size(one.peak_memory)}")
    if one.energy is not None:
        said.append(f"{format_joules(one.energy)} a call")
    return said
