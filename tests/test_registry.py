"""Registries: names are files, and what is wrong with a value is said with its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd import registry
from edgekd.errors import UserError

PLUGIN = '''
"""Half of what another would be."""
from dataclasses import dataclass
__all__ = ["Mine"]
@dataclass(frozen=True)
class Mine:
    share: float = 0.5
    wants = "logits"
    def __call__(self, student, teacher):
        return self.share * ((student - teacher) ** 2).mean()
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "_plugins", {})
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path / "mine.py"


def test_names_are_files() -> None:
    assert {"cross_entropy", "kl", "hint", "attention_map"} <= set(registry.names("losses"))
    assert registry.file_of("losses", "kl").name == "kl.py"
    assert dict(registry.summaries("sources"))["gaussian"].startswith("Standard normal noise")


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UserError, match='no loss named "kk"'):
        registry.file_of("losses", "kk")
    with pytest.raises(UserError) as caught:
        registry.file_of("losses", "cross_entropi")
    assert caught.value.hint == 'did you mean "cross_entropy"?'
    with pytest.raises(UserError):
        registry.file_of("losses", "__init__")


def test_values_are_checked() -> None:
    assert registry.build("losses", "kl", {"temperature": 2}).temperature == 2.0
    with pytest.raises(UserError, match='the loss "kl" has no field "temprature"') as caught:
        registry.build("losses", "kl", {"temprature": 2.0})
    assert "temperature" in caught.value.hint
    with pytest.raises(UserError, match="temperature"):
        registry.build("losses", "kl", {"temperature": "hot"})
    with pytest.raises(UserError, match="temperature"):
        registry.build("losses", "kl", {"temperature": -1.0})


def test_a_plugin_is_found_like_a_file_of_the_tree(plugin: Path) -> None:
    registry.add_plugin(f"losses={plugin}")
    assert "mine" in registry.names("losses")
    assert registry.file_of("losses", "mine") == plugin
    assert registry.build("losses", "mine", {"share": 0.25}).share == 0.25
    assert registry.plugin_specs() == [f"losses={plugin}"]


def test_a_summary_is_the_first_line_of_what_the_file_says_of_itself(plugin: Path) -> None:
    registry.add_plugin(f"losses={plugin}")
    for text, said in (
        (PLUGIN, "Half of what another would be."),
        (
            '#!/usr/bin/env python\n# ours\n"""\n  Second line first.\n\n  More.\n"""\nthis is no Python (',
            "Second line first.",
        ),
        ("x = 1\n'no docstring'\n", ""),
        ("", ""),
    ):
        plugin.write_text(text)
        assert dict(registry.summaries("losses"))["mine"] == said


def test_a_plugin_that_is_wrong(plugin: Path) -> None:
    with pytest.raises(UserError, match="FOLDER=PATH"):
        registry.add_plugin("mine.py")
    with pytest.raises(UserError, match="does not exist"):
        registry.add_plugin("losses=./nowhere.py")
    plugin.write_text("1 / 0\n")
    registry.add_plugin(f"losses={plugin}")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        registry.find("losses", "mine")
    plugin.with_name("other.py").write_text("x = 1\n")
    registry.add_plugin(f"losses={plugin.with_name('other.py')}")
    with pytest.raises(UserError, match="__all__"):
        registry.find("losses", "other")


def test_constants_and_fields_are_read_without_importing(plugin: Path) -> None:
    plugin.write_text("1 / 0\n" + PLUGIN.replace('wants = "logits"', 'wants = "log" + "its"\n    also = ("labels",)'))
    registry.add_plugin(f"losses={plugin}")
    assert registry.constant("losses", "mine", "also") == ("labels",)
    assert registry.constant("losses", "mine", "wants") is None  # not a literal
    assert registry.constant("losses", "mine", "nothing") is None
    assert registry.describe("losses", "mine")["fields"] == [
        {"name": "share", "type": "float", "range": "", "default": "0.5"}
    ]
    assert registry.parameters("teachers", "onnx") == ["probabilities"]


def test_what_a_recipe_may_set_is_read_without_importing() -> None:
    assert registry.fields_of("sources", "npz") == ["array"]
    assert registry.fields_of("sources", "gaussian") == []
    assert registry.flag("sources", "gaussian", "synthetic") and not registry.flag("sources", "data", "synthetic")
    assert registry.flag("sources", "npz", "reads_path") and not registry.flag("sources", "npz", "synthetic")


def test_fields_of_a_file_that_is_not_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn.py").write_text("class Torn(\n")
    monkeypatch.setattr(registry, "_plugins", {"sources": {"torn": tmp_path / "torn.py"}})
    with pytest.raises(UserError, match=r"torn.py:1: "):
        registry.fields_of("sources", "torn")
