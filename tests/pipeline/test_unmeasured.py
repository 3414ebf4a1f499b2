"""A target that this machine is not: engines are compiled and scored here, and no latency is made up."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from project import new_project
from rich.console import Console

from edgekd import api, bundle, registry, target
from edgekd.errors import UserError
from edgekd.report import headline, html, markdown, terminal
from edgekd.report.schema import Report


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student as it is, without a teacher or stages: only compiled, for a board."""
    recipe = new_project(tmp_path_factory.mktemp("unmeasured") / "quarters_here")
    text = recipe.read_text()
    kept = text[: text.index("[teacher]")] + text[text.index("[data]") : text.index("[[stage]]")]
    targets = '[targets]\nnames = ["raspberry-pi-5"]\nbackends = ["onnxruntime"]\n'
    recipe.write_text(f'{kept}{targets}[budget]\nlatency_p90 = "1 s"\nsize = "1 MB"\n')
    return recipe


@pytest.fixture(scope="module")
def done(recipe: Path) -> tuple[dict[str, Any], list[str]]:
    """The report, and the lines that were said on stderr."""
    with redirect_stderr(io.StringIO()) as said:
        report = api.compile(recipe, recipe.parent / "out", store=recipe.parent / "store", quiet=False)
    return report, said.getvalue().splitlines()


def test_it_is_said_before_any_work(done: tuple[dict[str, Any], list[str]]) -> None:
    _, lines = done
    assert lines[0].startswith("  note: raspberry-pi-5: the device is reached by ssh")
    assert any("compile student on onnxruntime" in line for line in lines[1:])


def test_compiled_and_scored_but_not_timed(done: tuple[dict[str, Any], list[str]]) -> None:
    report, _ = done
    (board,) = report["targets"]
    (engine,) = board["candidates"]
    assert (board["chosen"], board["race"], board["samples_file"]) == (None, None, None)
    assert (engine["latency"], engine["cold_start"], engine["peak_memory"]) == (None, None, None)
    assert engine["metric"] == report["ledger"][0]["metric"] and engine["bytes"] > 0
    assert engine["verdict"] == "rejected" and engine["reason"].startswith("its latency was not measured")
    assert board["reason"] == (
        "No engine is chosen, since latency was not measured: the device is reached by ssh, and the target names no host. "
        "Nearest: student on onnxruntime, the smallest that keeps size ≤ 1.00 MB."
    )
    steps = [step["step"] for step in report["plan"]]
    assert "evaluate student on onnxruntime for raspberry-pi-5" in steps
    assert not [step for step in steps if step.startswith("race")]


def test_every_form_of_the_report_says_so(done: tuple[dict[str, Any], list[str]]) -> None:
    read = Report.model_validate(done[0])
    assert headline.headline(read, read.targets[0]).failing == "no engine was measured"
    assert "raspberry-pi-5: no engine was measured; nearest: **student on onnxruntime**" in markdown.render(done[0])
    assert "No engine was measured" in html.render(done[0], {})
    console = Console(width=100, file=io.StringIO())
    console.print(terminal.summary(done[0]))
    assert "raspberry-pi-5: student on onnxruntime (nearest; no engine was measured)" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_bundle_of_the_nearest_proves_itself(done: tuple[dict[str, Any], list[str]], recipe: Path) -> None:
    folder = recipe.parent / "out" / "bundles" / "raspberry-pi-5"
    manifest = bundle.read(folder)
    assert manifest["keeps_budget"] is False and manifest["promised"]["latency"] is None
    with np.load(folder / "golden.npz") as golden, bundle.load(folder) as session:
        assert len(golden["inputs"]) == len(golden["outputs"]) == 8
        for x, y in zip(golden["inputs"], golden["outputs"], strict=True):
            (found,) = session.run([x[None]])
            assert np.allclose(found[0], y, atol=manifest["tolerance"]["absolute"])


def test_what_only_its_device_opens_comes_as_a_bundle(
    done: tuple[dict[str, Any], list[str]], recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its golden outputs are its program's, which it is held to where it runs."""
    monkeypatch.setattr(registry, "_plugins", {})
    registry.add_plugin(f"backends={Path(__file__).with_name('far.py')}")
    out = recipe.parent / "far"
    report = api.compile(recipe, out, backends=["far"], store=recipe.parent / "store")
    (board,) = report["targets"]
    (built,) = board["candidates"]
    assert (built["verdict"], built["latency"], built["metric"]) == ("built", None, None)
    assert built["reason"] == "built, not measured: a far engine opens on its device only"
    assert (board["chosen"], board["nearest"], board["race"]) == (None, None, None)
    folder = out / "built" / "raspberry-pi-5" / "student-far"
    manifest = bundle.read(folder)
    assert {"engine/model.onnx", "engine/build/script.py", "golden.npz", "edgekd.lock"} <= set(manifest["files"])
    assert manifest["keeps_budget"] is False and manifest["promised"]["latency"] is None
    assert built["bytes"] == (folder / "engine" / "model.onnx").stat().st_size, "the script is no part of the engine"
    with pytest.raises(UserError, match="opens on its device only"):
        bundle.load(folder)
    session = ort.InferenceSession(folder / "engine" / "model.onnx")
    with np.load(folder / "golden.npz") as golden:
        assert len(golden["inputs"]) == 8
        for x, y in zip(golden["inputs"], golden["outputs"], strict=True):
            (found,) = session.run(None, {session.get_inputs()[0].name: x[None]})
            assert np.allclose(found[0], y, atol=1e-4)
        span = float(golden["outputs"].max() - golden["outputs"].min())
    assert manifest["tolerance"] == {"top1": 0.875, "absolute": pytest.approx(0.1 * span)}


def test_no_backend_left_is_refused_before_any_work(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "BACKENDS", ("later",))
    board = 'chip = "X"\ntriple = "aarch64-ios"\nbackends = ["later"]\n[reach]\nkind = "none"\n'
    (recipe.parent / "phone.toml").write_text(board)
    sets = ['targets.names=["phone.toml"]']
    with pytest.raises(UserError, match=r'targets.names: this edgekd has no backend of "phone.toml": later'):
        api.prepare(recipe, overrides=[*sets, "targets.backends=[]"], store=recipe.parent / "store")
    named = api.prepare(recipe, overrides=sets, store=recipe.parent / "store")
    assert [candidate.name for candidate in named.candidates] == ["student on onnxruntime"]


def test_a_recipes_own_list_stays_strict(recipe: Path) -> None:
    with pytest.raises(UserError, match='targets.backends: no backend named "onnxruntim"') as caught:
        api.prepare(recipe, overrides=['targets.backends=["onnxruntim"]'], store=recipe.parent / "store")
    assert '"onnxruntime"' in caught.value.hint
