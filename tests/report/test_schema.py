"""The schema refuses what is not a report, says which fields vary, and docs/report.md says the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from edgekd.report.schema import Report, without_times
from tests.report.document import MARK, PAGE, parts, tables
from tests.report.sample import INT8, odd, sample


@pytest.mark.parametrize("make", [sample, odd])
def test_a_report_survives_its_file(make: Callable[[], dict[str, Any]]) -> None:
    read = Report.model_validate(make())
    written = json.dumps(read.model_dump(mode="json", by_alias=True))
    assert Report.model_validate_json(written) == read
    assert json.loads(written)["schema"] == 1


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    report = sample()
    change(report)
    return report


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(extra=1), "Extra inputs"),
        (lambda r: r["ledger"][0].update(metric=float("nan")), "finite"),
        (lambda r: r.update(schema=2), "Input should be 1"),
        (lambda r: r["targets"][0].update(chosen="distil"), 'names "distil", which is no candidate'),
        (lambda r: r["targets"][0]["candidates"].append(r["targets"][0]["candidates"][0]), "share a name"),
        (lambda r: r["targets"][0]["candidates"][0].update(verdict="fine"), "verdict"),
        (lambda r: r["targets"][0]["candidates"][0]["latency"].update(median=0), "greater than 0"),
        (lambda r: r["plan"][0].pop("key"), "Field required"),
    ],
)
def test_what_is_not_a_report_is_refused(change: Callable[[dict[str, Any]], object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Report.model_validate(broken(change))


def slower(report: dict[str, Any]) -> dict[str, Any]:
    """The same run on a worse day: every time, and all that follows from times, is another."""
    for target in report["targets"]:
        target["reason"] += " again"
        target["race"].update(rounds=7, busy=0.5, notes=["busy"])
        for one in target["candidates"]:
            one.update(
                reason="another", verdict="kept", cold_start=9.0, compile_seconds=9.0, peak_memory=1, versus_float=None
            )
            one["versus_teacher"] = one["latency"] = None
    for row in report["ledger"]:
        row["latency"] = None
    for step in report["plan"]:
        step.update(seconds=0.0, cached=True)
    report["provenance"]["made"] = "2030-01-01T00:00:00+00:00"
    return report


def test_two_runs_differ_in_times_only() -> None:
    assert without_times(slower(sample())) == without_times(sample())
    assert sample() != slower(sample())


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["ledger"][3].update(metric=0.5),
        lambda r: r["targets"][0]["candidates"][3].update(bytes=1),
        lambda r: r["targets"][0].update(chosen=None, nearest=INT8),
        lambda r: r["targets"][0]["race"].update(processes=4),
        lambda r: r["plan"][1].update(key="0"),
        lambda r: r["provenance"]["digests"].update(data="0"),
        lambda r: r.update(seed=1),
    ],
)
def test_any_other_difference_stays(change: Callable[[dict[str, Any]], object]) -> None:
    assert without_times(broken(change)) != without_times(sample())


def test_no_time_is_left() -> None:
    told = without_times(sample())
    del told["budget"]  # limits, as the recipe gives them
    text = json.dumps(told)
    for name in (
        'latency"',
        "seconds",
        "median",
        "versus",
        "reason",
        "verdict",
        "cached",
        "made",
        "busy",
        "cold_start",
    ):
        assert name not in text, name


def test_every_field_is_described() -> None:
    for model in parts():
        assert model.__doc__
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_the_documented_schema_is_the_schema() -> None:
    written = PAGE.read_text("utf-8").partition(MARK)[2].strip()
    assert written == tables().strip(), "run: python tests/report/document.py"


def test_importing_the_report_imports_neither_torch_nor_jinja() -> None:
    modules = "edgekd.choose, edgekd.ledger, edgekd.report.html, edgekd.report.markdown, edgekd.report.terminal"
    script = f"import sys, {modules}\nprint([m for m in ('torch', 'jinja2', 'rich', 'onnxruntime', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
