"""The order of the tests, and the draws of hypothesis: the same in every run.

Files with slow tests come first, so that no process is left alone with a long one at the end. A property is tried on the same
examples each time, so that a change is judged by what it changed; `pytest --hypothesis-profile=search` draws new ones.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # stable: a file's tests stay together
