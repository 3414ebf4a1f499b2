"""Checks on a Ray cluster of two machines, here both this one, each with a device of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from check.bundles import made

from edgekd.check.gate import Asked, Result
from edgekd.errors import EdgekdError, UserError
from edgekd.farm import checked
from edgekd.progress import Progress

QUIET = Progress(quiet=True)
