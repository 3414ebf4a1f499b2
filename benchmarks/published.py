"""What every benchmark here keeps beside its figures, and where: `results/NAME.json` and `results/NAME.md`."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from edgekd.store import write_whole
from edgekd.target import find_target

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    host = find_target("host", Path())
    system = {"system": platform.platform(), "python": platform.python_version()}
    return {"chip": host.chip, "cores": host.cores, **system}


def publish(name: str, found: object, page: str, folder: Path = RESULTS) -> None:
    """Write the figures as data and as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.json", (json.dumps(found, indent=1) + "\n").encode())
    write_whole(folder / f"{name}.md", page.encode())
