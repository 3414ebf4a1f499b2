"""edgekd: one recipe takes a teacher and a student to measured engines that an app can link.

Importing this is cheap: neither torch nor a runtime is imported until something is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Dataset", "compile", "load"]

if TYPE_CHECKING:
    from edgekd.api import compile
    from edgekd.bundle import load
    from edgekd.data import Dataset

_HOMES = {"Dataset": "edgekd.data", "compile": "edgekd.api", "load": "edgekd.bundle"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name != _HOMES[name]:
            raise
        raise AttributeError(f"edgekd.{name} is not in edgekd-runtime: pip install edgekd") from None
