"""What a recipe may name, as `edgekd list` tells it."""

import pytest

from edgekd import listing, registry
from edgekd.errors import UserError


def test_losses_are_grouped_by_what_they_want() -> None:
    rows = listing.rows("losses")
    assert [row["name"] for row in rows] == registry.names("losses")
    lines = listing.table(rows).splitlines()
    groups = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    wanted = ("branch", "features", "head", "labels", "logits", "masked", "members", "self")
    assert groups == [f"on {what}:" for what in wanted]
    labels = lines[lines.index("on labels:") + 1 : lines.index("on logits:") - 1]
    assert [line.split()[0] for line in labels] == ["cross_entropy", "self_progressive"]
    assert listing.table(listing.rows("criteria")).splitlines()[0].startswith("bn_scale     Scale")


def test_one_loss_tells_formula_source_and_fields() -> None:
    found = listing.entry("losses", "crd")
    assert "Tian et al. 2020, arXiv 1910.10699" in found["text"]
    temperature = {"name": "temperature", "type": "float", "range": "> 0", "default": "0.07"}
    assert temperature in found["fields"]
    assert [field["name"] for field in found["fields"]][:2] == ["student", "teacher"]  # no ClassVar is a field
    page = listing.page(listing.entry("losses", "taid")).splitlines()
    assert page[0].startswith("taid: A teacher that begins near the student")
    assert "start  0.4       float ≥ 0, < 1" in page
    (losses,) = (line for line in listing.page(listing.entry("stages", "distill")).splitlines() if "required" in line)
    assert losses.startswith("losses")


def test_what_there_is_not_is_said_with_the_nearest() -> None:
    with pytest.raises(UserError, match='no loss named "tiad"\nhint: did you mean "taid"'):
        listing.entry("losses", "tiad")
    with pytest.raises(UserError, match='nothing called "loses" to list\nhint: did you mean "losses"'):
        listing.rows("loses")
    with pytest.raises(UserError, match="only their list can be shown"):
        listing.entry("targets", "host")
