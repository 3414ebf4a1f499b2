"""Settings of `preprocessing` and `postprocessing`, read strictly: whatever is wrong names its key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.errors import UserError, nearest


class Settings:
    """`preprocessing` or `postprocessing`, read strictly: whatever is wrong is a UserError that names the key."""

    def __init__(self, found: Mapping[str, Any], where: str) -> None:
        self.found = {key: value for key, value in found.items() if value is not None}
        self.where = where

    def wrong(self, key: str, wanted: str) -> UserError:
        return UserError(f"{self.where}.{key}: {self.found.get(key)!r} is not {wanted}")

    def within(self, key: str, known: Sequence[str]) -> Settings | None:
        """The table under `key`, which has no other keys than these; None if there is none."""
        value = self.found.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(key, f"a table of {', '.join(known)}")
        inner = Settings(value, f"{self.where}.{key}")
        inner.only(known)
        return inner

    def only(self, known: Sequence[str]) -> None:
        for key in self.found:
            if key not in known:
                raise UserError(f'{self.where} has a key "{key}" that edgekd does not apply', hint=nearest(key, known))

    def numbers(self, key: str, default: float) -> list[float]:
        value = self.found.get(key, default)
        listed = value if isinstance(value, list | tuple) else [value]
        if not listed or not all(_finite(n) for n in listed):
            raise self.wrong(key, "a finite number, or a list of them")
        return [float(n) for n in listed]

    def number(self, key: str, default: float) -> float:
        if not _finite(value := self.found.get(key, default)):
            raise self.wrong(key, "a finite number")
        return float(value)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.found.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise self.wrong(key, "a whole number above 0")
        return value

    def size(self, key: str = "size", *, square: bool) -> tuple[int, ...]:
        """One whole number, or [height, width]. `square`: one alone stands for both."""
        value = self.found.get(key)
        listed = value if isinstance(value, list | tuple) else [value]
        found = [n for n in listed if isinstance(n, int) and not isinstance(n, bool) and 1 <= n < 2**31]
        if len(found) != len(listed) or len(found) not in (1, 2):
            raise self.wrong(key, "a whole number above 0, or [height, width]")
        return tuple(found) if len(found) == 2 or not square else (found[0], found[0])

    def choice(self, key: str, known: Sequence[str]) -> str:
        """One of `known`; the first where nothing is said."""
        value = self.found.get(key, known[0])
        if value not in known:
            raise self.wrong(key, f"one of {', '.join(known)}")
        return str(value)

    def flag(self, key: str) -> bool:
        value = self.found.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
