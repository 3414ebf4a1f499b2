"""What cannot be compared is refused before anything is measured, with a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from backends.folders import float_model
from check.bundles import made

from edgekd.check.gate import Asked, baseline_of, check
from edgekd.check.pair import comparable, find_bundle, open_side
from edgekd.check.suite import read, read_rule, run
from edgekd.check.verdict import Rule
from edgekd.errors import UserError
from edgekd.progress import Progress


def refused(candidate: Path, baseline: Path, target: str | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        check(Asked(candidate, baseline, target=target), Progress(quiet=True))
    return caught.value


def rewritten(bundle: Path, change: Any) -> Path:
    """The bundle with another manifest: its files are still what the manifest says."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    change(manifest)
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    return bundle


def test_bundles_that_do_not_compare(tmp_path: Path) -> None:
    one = made(tmp_path / "one")
    batch = made(tmp_path / "batch", model=float_model(batch=2), golden=False)
    assert "inputs differ" in refused(one, batch).message
    assert "float32 [2, 1, 8, 8]" in refused(one, batch).message
    board = made(tmp_path / "board", target="kiosk")
    error = refused(one, board)
    assert "targets differ" in error.message and "kiosk" in error.message and "bundles/host" in error.hint
    error = refused(one, board, "host")
    assert "is for the target kiosk, not host" in error.message and error.hint == "--target kiosk"
    two = made(tmp_path / "two", threads=2)
    assert "1 thread(s)" in refused(one, two).message
    real = made(tmp_path / "real", "onnxruntime")
    assert "no common backend: null and onnxruntime" in refused(one, real).message


def test_damaged_bundles_and_missing_runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = made(tmp_path / "one"), made(tmp_path / "two")
    engine = two / "engine" / "device.json"
    engine.write_bytes(engine.read_bytes().replace(b"0.001", b"0.002"))
    assert "device.json was changed" in refused(one, two).message
    assert "not a bundle" in refused(one, tmp_path / "nowhere").message
    real = made(tmp_path / "real", "onnxruntime")
    monkeypatch.setattr("edgekd.backend.find_spec", lambda name: None)
    error = refused(real, real)
    assert "no backend here opens" in error.message and "onnxruntime is not installed" in error.message
    assert "pip install" in error.hint
    monkeypatch.undo()
    side = open_side(one, None)
    object.__setattr__(side, "facts", {**side.facts, "backend": "nul"})
    with pytest.raises(UserError, match="compiled by nul") as caught:
        comparable(side, side)
    assert caught.value.hint == 'did you mean "null"?'


def compiled(out: Path, *targets: str) -> Path:
    """A folder as `edgekd compile` writes it, with a bundle for each target."""
    (out / "bundles").mkdir(parents=True)
    for name in targets:
        made(out.parent / f"{out.name}-{name}", target=name).rename(out / "bundles" / name)
    return out


def test_the_folder_of_a_compile_holds_bundles_by_target(tmp_path: Path) -> None:
    compiled(tmp_path / "out", "host", "kiosk")
    assert find_bundle(tmp_path / "out", "kiosk") == tmp_path / "out" / "bundles" / "kiosk"
    with pytest.raises(UserError, match="2 bundles: host, kiosk") as caught:
        find_bundle(tmp_path / "out", None)
    assert "--target" in caught.value.hint
    with pytest.raises(UserError, match="no bundle for kisok") as caught:
        find_bundle(tmp_path / "out", "kisok")
    assert caught.value.hint == 'did you mean "kiosk"?'


def test_a_suite_finds_the_candidates_target_among_the_baselines_bundles(tmp_path: Path) -> None:
    candidate = made(tmp_path / "new", target="kiosk")
    old, lacking = compiled(tmp_path / "old", "host", "kiosk"), compiled(tmp_path / "lacking", "host", "board")
    asked = Asked(candidate, old)
    assert baseline_of(asked, open_side(candidate, None)).folder == old / "bundles" / "kiosk"
    measured: list[Asked] = []
    run([asked], Progress(quiet=True), lambda checks, _: measured.extend(checks) or [])
    assert [(one.candidate, one.baseline) for one in measured] == [(candidate, old)]
    with pytest.raises(UserError, match="lacking/bundles holds no bundle for kiosk"):
        run([asked, Asked(candidate, lacking)], Progress(quiet=True), lambda checks, _: pytest.fail("measured"))


def test_remarks_on_what_differs_but_compares(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one"), made(tmp_path / "two", seconds=2e-3)
    rewritten(two, lambda manifest: manifest["target"].update(chip="another"))
    remarks = comparable(open_side(one, None), open_side(two, "host"))
    assert remarks == ["compiled on another chip: another → chip; both are measured on this machine"]
    assert comparable(open_side(one, None), open_side(one, None)) == ["the two bundles hold the same files"]


@pytest.mark.parametrize(
    "rule",
    [Rule(0.0), Rule(-0.05), Rule(float("nan")), Rule(0.05, -1.0), Rule(0.05, float("inf"))],
)
def test_a_rule_that_means_nothing(rule: Rule, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--tolerance|--floor"):
        Asked(tmp_path, tmp_path, rule=rule)


def test_rules_are_read() -> None:
    assert read_rule("3%", "0.1 ms") == Rule(0.03, 1e-4)
    assert read_rule("0.03", "0") == Rule(0.03, 0.0)
    for floor in ("20", "-1us", "fast"):
        with pytest.raises(UserError, match="--floor"):
            read_rule("5%", floor)
    for tolerance in ("0", "0%", "-5%"):
        with pytest.raises(UserError, match="--tolerance"):
            read_rule(tolerance, "20us")


def test_suites_are_read(tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(
        'tolerance = "4%"\n[allow]\nbytes = "2%"\nmetric = "off"\n'
        '[[check]]\nname = "digits"\nbundle = "new"\nbaseline = "old"\ntargets = ["host", "kiosk"]\n'
        '[[check]]\nbundle = "other"\nbaseline = "old/report.json"\ntolerance = "9%"\nfloor = "0"\n'
        '[check.allow]\nbytes = "7%"\n'
    )
    found = read(suite)
    assert [one.name for one in found] == ["digits on host", "digits on kiosk", "other"]
    assert [one.target for one in found] == ["host", "kiosk", None]
    assert [one.rule.tolerance for one in found] == [0.04, 0.04, 0.09]
    assert [one.rule.floor for one in found] == pytest.approx([20e-6, 20e-6, 0.0])
    assert [one.allowed["bytes"] for one in found] == [0.02, 0.02, 0.07]
    assert found[0].candidate == tmp_path / "new"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "not TOML"),
        ('tolerance = "5%"', "no checks"),
        ("check = 3", "no checks"),
        ('toleranc = "5%"\n[[check]]\nbundle = "a"\nbaseline = "b"', 'unknown key "toleranc"'),
        ('[[check]]\nbundle = "a"', "check 1: baseline is missing"),
        ('[[check]]\nbundle = "a"\nbaseline = "b"\ntargets = "host"', "targets is not a list"),
        ('[[check]]\nbundle = "a"\nbaseline = "b"\ntolerance = "-1%"', "check 1: --tolerance"),
        ('[[check]]\nbundle = "a"\nbaseline = "b"\nmax_seconds = "long"', "max_seconds and seed are numbers"),
        ('[[check]]\nbundle = "a"\nbaseline = "b"\n[check.allow]\nbyte = "1%"', 'no signal called "byte"'),
        ('[[check]]\nbundle = "a"\nbaseline = "b"\n[[check]]\nbundle = "a"\nbaseline = "c"', "two checks are called a"),
    ],
)
def test_suites_that_say_nothing_useful(text: str, message: str, tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(text)
    with pytest.raises(UserError) as caught:
        read(suite)
    assert message in caught.value.message
    assert str(suite) in caught.value.message
