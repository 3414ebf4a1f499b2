"""A recipe's values as TOML, so that what a search found is a recipe like any other."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any


def dumps(table: Mapping[str, Any]) -> str:
    """Text that tomllib reads back the same: plain keys first, then `[sections]` and `[[lists of tables]]`, the rest inline.

    >>> print(dumps({"seed": 0, "student": {"width": 8}, "stage": [{"use": "distill", "losses": [{"use": "kl"}]}]}), end="")
    seed = 0
    <BLANKLINE>
    [student]
    width = 8
    <BLANKLINE>
    [[stage]]
    use = "distill"
    losses = [{ use = "kl" }]
    """
    sections = {k: v for k, v in table.items() if isinstance(v, Mapping) or _is_list_of_tables(v)}
    blocks = [_lines({k: v for k, v in table.items() if k not in sections})]
    for name, value in sections.items():
        if isinstance(value, Mapping):
            blocks.append([f"[{_key(name)}]", *_lines(value)])
        else:
            blocks += [[f"[[{_key(name)}]]", *_lines(one)] for one in value]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def inline(value: Any) -> str:
    """One value on one line. Raises TypeError for one that TOML has no form for here.

    >>> inline([{"use": "kl", "temperature": 4.0}, True, "a\\n"])
    '[{ use = "kl", temperature = 4.0 }, true, "a\\\\n"]'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(k)} = {inline(v)}' for k, v in value.items())} }}" if value else "{}"
    raise TypeError(f"a {type(value).__name__} is no plain value")


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {inline(value)}" for key, value in table.items()]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else inline(key)
