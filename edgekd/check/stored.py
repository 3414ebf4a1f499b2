"""A baseline of which only report.json is left: what it recorded that does not depend on when it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekd.backend import read_json
from edgekd.errors import UserError, nearest
from edgekd.report.schema import Report

NOTE = (
    "a stored baseline: only deterministic signals gate. Latency, memory and cold start of another day say nothing about "
    "today's; keep the earlier bundle and name its folder as --baseline to gate them"
)


def read(path: Path, target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a manifest and engine.json would say of the engine that the report's run bundled for `target`.

    Raises UserError if it is no report, has no such target, or bundled no engine for it.
    """
    try:
        report = Report.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = f"{path} is not an edgekd report: {where}: {first['msg']}"
        raise UserError(message, hint="--baseline is a bundle, or the report.json beside it") from None
    names = [one.name for one in report.targets]
    if target not in names:
        raise UserError(f"{path} has no target {target}", hint=nearest(target, names))
    engine = report.targets[names.index(target)].bundled
    if engine is None:
        raise UserError(f"{path} bundled no engine for {target}", hint="take a report whose run made a bundle")
    agreement = engine.agreement.model_dump() if engine.agreement else None
    manifest = {
        "promised": {"metric": engine.metric, "agreement": agreement},
        "digests": report.provenance.digests,
    }
    return manifest, engine.model_dump(include={"bytes", "integer_nodes", "float_nodes"})
