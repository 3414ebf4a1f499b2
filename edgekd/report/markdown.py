"""The report as Markdown."""

from __future__ import annotations
from typing import Any


def render(report: dict[str, Any]) -> str:
    return "\n".join(f"{r['row']} {r['metric']}" for r in report["ledger"])
