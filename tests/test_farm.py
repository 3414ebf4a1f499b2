"""Checks on a Ray cluster of two machines, here both this one, each with a device of its own."""

from __future__ import annotations

from edgekd.progress import Progress

QUIET = Progress(quiet=True)
