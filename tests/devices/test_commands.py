"""compile, check and measure on a device that is reached: the same statistics, and a report that says where."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from backends.folders import float_model
from check.bundles import made
from devices.boards import board, by_env, left
from project import edgekd, new_project

from edgekd import api
from edgekd.check import suite
from edgekd.check.gate import Asked, check
from edgekd.check.verdict import Rule
from edgekd.devices.link import LinkError
from edgekd.errors import UserError
from edgekd.latency import instructions
from edgekd.measure import race_bundles
from edgekd.progress import Progress
from edgekd.store import Store
from edgekd.target import find_device, this_machine

QUIET = Progress(quiet=True)


def test_a_recipe_is_measured_on_its_target(tmp_path: Path) -> None:
    recipe = new_project(tmp_path / "quarters_there")
    text = recipe.read_text()
    kept = text[: text.index("[teacher]")] + text[text.index("[data]") : text.index("[[stage]]")]
    by_env(recipe.parent)
    targets = '[targets]\nnames = ["board.toml"]\nbackends = ["onnxruntime"]\n'
    measure = "[measure]\nseconds = 0.2\nprocesses = 2\nwait = 0\n"
    recipe.write_text(f'{kept}{targets}{measure}[budget]\nlatency_p90 = "1 s"\n')
    report = api.compile(recipe, recipe.parent / "out", store=recipe.parent / "store", quiet=True)
    (board,) = report["targets"]
    (engine,) = board["candidates"]
    assert board["chosen"] == "student on onnxruntime" and engine["latency"]["median"] > 0
    assert engine["metric"] == report["ledger"][0]["metric"]
    measured, scored = board["race"]["notes"][-2:]
    assert measured.startswith("measured on board (env) by edgekd ") and "Python" in measured
    assert scored == "scores are those of the engines run here"
    raw = json.loads((recipe.parent / "out" / board["samples_file"]).read_text())
    assert raw["device"]["label"] == "board (env)" and len(raw["device"]["processes"]) == 2
    assert not list((recipe.parent / "store" / "work").glob("*/process-*.json")), "what was kept on the way is gone"
    again = api.compile(recipe, recipe.parent / "out", store=recipe.parent / "store", quiet=True)
    assert [s["cached"] for s in again["plan"] if s["step"].startswith("race")] == [True]


def test_a_device_that_does_not_answer_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = new_project(tmp_path / "quarters_away")
    (recipe.parent / "token").write_text("0" * 64)
    (recipe.parent / "token").chmod(0o600)
    board(recipe.parent, 'kind = "served"\nport = 1\ntoken_file = "token"')
    made: list[str] = []
    monkeypatch.setattr(Store, "make", lambda self, key, label, *_: made.append(label))
    asked = [recipe, recipe.parent / "out"]
    with pytest.raises(
        LinkError, match=r"the device of the target board does not answer: .*no connection to"
    ) as caught:
        api.compile(*asked, store=recipe.parent / "store", targets=["board.toml"])
    assert "edgekd devices serve" in caught.value.hint and made == []
    by_env(recipe.parent, more='runner = "token"')
    monkeypatch.setattr("edgekd.devices.exec.shutil.which", lambda _: None)
    with pytest.raises(UserError, match="env is not here"):
        api.compile(*asked, store=recipe.parent / "store", targets=["board.toml"])
    assert made == []


def test_a_check_on_a_device(tmp_path: Path) -> None:
    old, new = made(tmp_path / "old"), made(tmp_path / "new", seconds=1.15e-3)
    target = by_env(tmp_path)
    found = check(Asked(new, old, rule=Rule(0.05, 20e-6), device=target), QUIET)
    assert found.verdict == "regressed" and found.operators is None
    assert found.latency is not None and found.latency.race is not None and found.latency.race.device is not None
    assert found.latency.looks[-1].ratio.point == pytest.approx(1.15)
    gates = {gate.name: gate for gate in found.gates}
    assert gates["parity"].state == gates["agreement"].state == "pass"
    assert gates["cold_start"].baseline == 1e-3
    assert gates["instructions"].note == "not counted: a simulated device has none"
    assert found.to_json()["device"] == "board" and left(target) == []


def test_a_regression_on_a_device_is_counted_and_explained(tmp_path: Path) -> None:
    """Real engines, one three times as wide as the other: structure only, whatever this machine does meanwhile."""
    narrow = made(tmp_path / "narrow", "onnxruntime", float_model(width=8))
    wide = made(tmp_path / "wide", "onnxruntime", float_model(width=24))
    allowed = dict.fromkeys(("cold_start", "peak_memory"), math.nan)  # they would be measured twenty times
    asked = Asked(wide, narrow, rule=Rule(0.05, 0.0), allowed=allowed, max_seconds=0.1, device=by_env(tmp_path))
    found = check(asked, QUIET)
    assert found.latency is not None and found.latency.race is not None and found.latency.race.device is not None
    (gate,) = (gate for gate in found.gates if gate.name == "instructions")
    if why := instructions.unavailable():
        assert (gate.state, gate.note) == ("unknown", f"not counted: {why}")
    else:
        assert gate.state == "regressed"
    if found.latency_verdict == "regressed":
        assert found.operators is not None and any(one.name.startswith("Conv ") for one in found.operators)


def test_bundles_are_measured_on_a_device(tmp_path: Path) -> None:
    bundles = [made(tmp_path / "old"), made(tmp_path / "new", seconds=2e-3)]
    asked: dict[str, Any] = {"seconds": 0.1, "processes": 1, "threads": 1, "seed": 0, "quiet": True}
    found = race_bundles(bundles, **asked, device=by_env(tmp_path))
    assert [found["latency"][str(b)]["median"] for b in bundles] == [1e-3, 2e-3]
    assert found["device"]["label"] == "board (env)" and found["device"]["resumed"] == 0


def test_a_suite_names_devices_of_its_own(tmp_path: Path) -> None:
    by_env(tmp_path)
    made(tmp_path / "old")
    text = '[[check]]\nname = "digits"\nbundle = "old/bundle"\nbaseline = "old/bundle"\ndevice = "board.toml"\n'
    (tmp_path / "suite.toml").write_text(text)
    (one,) = suite.read(tmp_path / "suite.toml")
    assert one.device is not None and one.device.name == "board"
    (tmp_path / "suite.toml").write_text(text.replace("board.toml", "raspberry-pi-5"))
    with pytest.raises(UserError, match="raspberry-pi-5: .*the target names no host") as caught:
        suite.read(tmp_path / "suite.toml")
    assert "[reach]" in caught.value.hint
    with pytest.raises(UserError, match=r"nowhere\.toml"):
        find_device("nowhere.toml", tmp_path)


def test_a_device_that_cannot_be_reached_is_inconclusive(tmp_path: Path) -> None:
    """Exit code 3, and what to do: never 1, which says that a regression was seen."""
    bundle = made(tmp_path / "old")
    (tmp_path / "pi.toml").write_text(
        f'chip = "X"\ntriple = "{this_machine()["triple"]}"\nbackends = ["onnxruntime"]\n'
        '[reach]\nkind = "adb"\nserial = "any"\npython = "python3"\n'
    )
    where = {"ANDROID_ADB_SERVER_PORT": "1", "PATH": str(tmp_path)}
    done = edgekd("check", bundle, "--baseline", bundle, "--device", tmp_path / "pi.toml", **where)
    assert done.returncode == 3, done.stderr
    assert "inconclusive: pi (adb any): adb's server does not answer on port 1" in done.stderr
    assert "apt-get install adb" in done.stderr
