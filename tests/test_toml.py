"""What edgekd writes as TOML, Python reads back the same."""

from __future__ import annotations

import math
import tomllib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.toml import dumps, inline

PLAIN = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
KEY = st.text('abc -_."é', max_size=4)
VALUE = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(KEY, VALUE, max_size=4))
def test_it_is_read_back_the_same(table: dict[str, object]) -> None:
    assert tomllib.loads(dumps(table)) == table


def test_control_characters_and_infinities_survive() -> None:
    odd = {"text": '\x00\x1f\x7f"\\\n', "most": math.inf, "least": -math.inf}
    assert tomllib.loads(dumps(odd)) == odd
    assert math.isnan(tomllib.loads(f"x = {inline(math.nan)}")["x"])
    with pytest.raises(TypeError, match="a datetime is no plain value"):
        inline(datetime.now(UTC))
