"""The report for a terminal."""

from __future__ import annotations
from typing import Any


def summary(report: dict[str, Any]) -> str:
    rows = [f"{r['row']:<16} {r['metric']:.4f}" for r in report["ledger"]]
    return "\n".join([*rows, *(t["reason"] for t in report["targets"])])
