"""Optuna, which proposes what to try next. It is an extra: `pip install 'edgekd[search]'`."""

from __future__ import annotations

from typing import Any

from edgekd.errors import UserError

PACKAGE = "optuna"


def optuna(what: str) -> Any:
    """The package, imported when it is needed. Raises UserError, with the command that adds it, where it is not installed."""
    try:
        import optuna as found
    except ImportError:
        raise UserError(f"{what} needs Optuna, which is not installed", hint="pip install 'edgekd[search]'") from None
    found.logging.set_verbosity(found.logging.ERROR)
    return found
