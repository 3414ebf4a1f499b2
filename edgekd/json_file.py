"""Facts kept as one JSON object in a file, as programs, engines and reports keep theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import UserError

__all__ = ["read_json", "write_json"]


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`. Raises UserError if it is missing, not JSON or not an object."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds no JSON object")
    return found


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Sorted keys and a final newline, so that equal facts are equal bytes."""
    file.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", "utf-8")
