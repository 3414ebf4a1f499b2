"""The errors that edgekd raises on purpose. Each says what, where and how to fix it.

    EdgekdError             something edgekd could not do               exit 1
    ├── UserError           the user's mistake: recipe, data, file      exit 2
    │   └── RefusedError    a tool cannot take it; the rest goes on     exit 2
    ├── StoreError          the store could not be read or written      exit 1
    └── WorkerError         a backend's worker process failed           exit 1   (edgekd/worker.py)

Printed as `error: …` and, where there is one, a blank line and `hint: …`.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class EdgekdError(Exception):
    """`message` says what went wrong and where; `hint`, if any, what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UserError(EdgekdError):
    """Something the user wrote or brought is wrong; nothing was started."""

    exit_code = 2


class RefusedError(UserError):
    """A tool cannot take what it was given. Engines that do not need it are made nevertheless, and the report says why."""


class DeclinedError(EdgekdError):
    """There is nothing to make: what was measured spoke against it. No failure, and the report says why."""


class StoreError(EdgekdError):
    """The store's folder cannot be read or written, or an entry is not what its digest says."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known name, or all of them if none is near.

    >>> nearest("magnitud", ["magnitude", "taylor"])
    'did you mean "magnitude"?'
    >>> nearest("x", ["magnitude", "taylor"])
    'known: magnitude, taylor'
    """
    choices = sorted(known)
    close = get_close_matches(name, choices, n=1)
    return f'did you mean "{close[0]}"?' if close else f"known: {', '.join(choices) or 'none'}"
