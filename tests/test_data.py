"""Data: checked before any work, and digested by what its factory read."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch

from edgekd.data import Dataset, check, check_targets, digest_of
from edgekd.errors import UserError
from edgekd.factory import Factory
from edgekd.store import Store


def dataset(**changed: tuple[torch.Tensor, torch.Tensor]) -> Dataset:
    pair = (torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 1]))
    return Dataset(**{"train": pair, "validation": pair, "test": pair, **changed})


def test_good_data_passes() -> None:
    data = dataset()
    assert check(data, "net:data") is data
    check_targets(data, 3, "net:data")


NAN = torch.zeros(4, 1, 2, 2)
NAN[2, 0, 1, 1] = float("nan")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((NAN, torch.zeros(4, dtype=torch.long)), 'split "validation": input 2 has NaN'),
        ((torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.long)), 'split "validation" is empty'),
        ((torch.zeros(3, 1, 2, 2), torch.zeros(4, dtype=torch.long)), "3 inputs and 4 targets"),
        ((torch.zeros(4, 1, 3, 3), torch.zeros(4, dtype=torch.long)), r"inputs are \[1, 3, 3\]"),
        ((torch.zeros(4, 1, 2, 2), ["cat", "dog", "cat", "dog"]), "targets are a list"),
    ],
)
def test_bad_splits_are_named(pair: tuple[torch.Tensor, torch.Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(dataset(validation=pair), "net:data")


def test_labels_out_of_range() -> None:
    with pytest.raises(UserError, match="labels from 0 to 2, the student has 2 outputs") as caught:
        check_targets(dataset(), 2, "net:data")
    assert "0 to 1" in caught.value.hint


def test_not_a_dataset() -> None:
    with pytest.raises(UserError, match="returned a dict"):
        check({}, "net:data")


FACTORY = """
from pathlib import Path
CALLS = Path(__file__).parent / "calls"
def data(name="a.txt"):
    with CALLS.open("a") as stream: stream.write("x")
    return (Path(__file__).parent / name).read_text()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recorded.py").write_text(textwrap.dedent(FACTORY))
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    return tmp_path


def test_the_digest_follows_what_was_read(folder: Path) -> None:
    store, factory = Store(folder / "store"), Factory("recorded:data", folder)

    def asked(**arguments: str) -> str:
        return digest_of(factory, arguments, [], store)

    def calls() -> int:
        return len((folder / "calls").read_text())

    first = asked()
    assert asked() == first and calls() == 1
    (folder / "b.txt").write_text("changed, but never read")
    assert asked() == first and calls() == 1
    (folder / "a.txt").write_text("three")
    second = asked()
    assert second != first and calls() == 2  # it might read other files now
    assert asked() == second and calls() == 2
    (folder / "a.txt").write_text("one")
    assert asked() == first
    assert asked(name="b.txt") not in (first, second)


def test_declared_files_count_too(folder: Path) -> None:
    store, factory = Store(folder / "store"), Factory("recorded:data", folder)
    first = digest_of(factory, {}, [folder / "b.txt"], store)
    (folder / "b.txt").write_text("changed")
    assert digest_of(factory, {}, [folder / "b.txt"], store) != first


def test_of_a_folder_every_file_counts(folder: Path) -> None:
    store, factory = Store(folder / "store"), Factory("recorded:data", folder)
    (folder / "more" / "deep").mkdir(parents=True)
    (folder / "more" / "deep" / "c.bin").write_text("one")
    asked = [digest_of(factory, {}, [folder / "more"], store)]
    for name, text in (("deep/c.bin", "two"), ("d.bin", "new")):
        (folder / "more" / name).write_text(text)
        asked.append(digest_of(factory, {}, [folder / "more"], store))
    assert len(set(asked)) == 3


LISTING = """
from pathlib import Path
def data():
    here = Path(__file__).parent
    (here / "log").write_text("a run")
    return [p.read_text() for p in sorted((here / "images").glob("*.txt"))], list(here.iterdir())
"""


def test_what_is_new_in_a_folder_that_was_listed_counts_and_results_beside_the_recipe_do_not(tmp_path: Path) -> None:
    (tmp_path / "listing.py").write_text(LISTING)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.txt").write_text("one")
    store, factory = Store(tmp_path / "store"), Factory("listing:data", tmp_path)
    first = digest_of(factory, {}, [], store)
    (tmp_path / "out").mkdir()
    (tmp_path / "log").write_text("another run")
    assert digest_of(factory, {}, [], store) == first
    (tmp_path / "images" / "b.txt").write_text("two")
    second = digest_of(factory, {}, [], store)
    (tmp_path / "images" / "b.txt").write_text("changed")
    assert len({first, second, digest_of(factory, {}, [], store)}) == 3


def test_editing_the_factory_changes_the_digest(folder: Path) -> None:
    store, factory = Store(folder / "store"), Factory("recorded:data", folder)
    first = digest_of(factory, {}, [], store)
    source = (folder / "recorded.py").read_text()
    (folder / "recorded.py").write_text(source + "\n# a remark\n")
    assert digest_of(factory, {}, [], store) != first
