"""Whole checks of simulated engines, whose truth is known, in real processes; and one of real engines."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from backends.folders import float_model
from check.bundles import FACTS, made
from filelock import FileLock
from project import command, edgekd
from report.sample import sample

from edgekd.check import operators
from edgekd.check.gate import Asked, check
from edgekd.check.lock import device
from edgekd.check.pair import open_side
from edgekd.check.verdict import Rule
from edgekd.progress import Progress

NOISE = {"spread": 0.03, "slow_processes": 0.5, "slow_factor": 1.02}


def test_a_suite_tells_the_same_as_text_json_xml_and_markdown(tmp_path: Path) -> None:
    """Three checks: the same engine (pass), 15% slower and larger (regressed), too noisy for its time (inconclusive)."""
    made(tmp_path / "old", noise=NOISE)
    made(tmp_path / "same", noise=NOISE, step=1e-6)
    made(tmp_path / "slow", seconds=1.15e-3, noise=NOISE, seed=1)
    wild = {"spread": 0.1, "slow_processes": 0.5, "slow_factor": 1.6}
    made(tmp_path / "wild", noise=wild)
    checks = [("same", "old", 90), ("slow", "old", 90), ("wild", "wild", 0.1)]
    (tmp_path / "suite.toml").write_text(
        "\n".join(
            f'[[check]]\nname = "{a} | <b>"\nbundle = "{a}/bundle"\nbaseline = "{b}/bundle"\nmax_seconds = {s}'
            for a, b, s in checks
        )
    )
    files = ["--junit", tmp_path / "deep" / "check.xml", "--markdown", tmp_path / "check.md"]
    done = edgekd("check", tmp_path / "suite.toml", "--json", *files, EDGEKD_STORE=str(tmp_path / "store"))
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    same, slow, wild_one = found["checks"]
    assert [one["verdict"] for one in found["checks"]] == ["pass", "regressed", "inconclusive"]
    assert (found["verdict"], found["exit"]) == ("regressed", 1)
    assert same["latency"]["looks"][-1]["ratio"]["point"] == pytest.approx(1.0, abs=0.02)
    assert slow["latency"]["looks"][-1]["ratio"]["point"] == pytest.approx(1.15, abs=0.02)
    assert slow["latency"]["looks"][-1]["ratio"]["low"] > 1.05
    assert slow["latency"]["p"] <= 0.025 / 3
    assert set(slow["latency"]["race"]["engines"]) == {"baseline", "baseline again", "candidate", "candidate again"}
    gates = {gate["name"]: gate for gate in slow["gates"]}
    assert gates["agreement"]["state"] == "regressed", "another seed is another network"
    assert gates["parity"]["state"] == gates["metric"]["state"] == gates["bytes"]["state"] == "pass"
    assert gates["instructions"]["note"] == "not counted: a simulated device has none"
    assert "too noisy" in wild_one["latency"]["reason"] and "--max-seconds" in wild_one["latency"]["advice"]
    assert wild_one["latency"]["looks"][-1]["processes"] == 3
    assert "1 of 3: same" in done.stderr
    suites = ElementTree.parse(tmp_path / "deep" / "check.xml").getroot()  # noqa: S314
    assert [one.get("name") for one in suites] == [f"{a} | <b>" for a, _, _ in checks]
    latency = [next(case for case in one if case.get("name") == "latency") for one in suites]
    assert [[child.tag for child in case] for case in latency] == [[], ["failure"], ["error"]]
    assert [one.get("failures") for one in suites] == ["0", "2", "0"]
    page = (tmp_path / "check.md").read_text()
    assert "| same \\| &lt;b&gt; | ✅ pass |" in page
    assert "### ❌ slow \\| &lt;b&gt;: regressed" in page
    assert page.count("●") == 6 and "**What to do:**" in page
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_second_check_waits_for_the_device(tmp_path: Path) -> None:
    one = made(tmp_path / "one")
    lock = FileLock(tmp_path / "store" / "locks" / "device-local.lock")
    Path(lock.lock_file).parent.mkdir(parents=True)
    environment = {**os.environ, "EDGEKD_STORE": str(tmp_path / "store"), "COLUMNS": "100"}
    with lock:
        running = subprocess.Popen(
            command("check", one, "--baseline", one),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert running.stderr is not None
        assert "another check measures on this device" in running.stderr.readline()
        assert running.poll() is None
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 0
    assert "pass: 1.000× the baseline's latency (1.000 to 1.000): within the 1.05× allowed" in out
    assert "control (A/A)" in out and "note: the two bundles hold the same files" in out


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.errors import UserError

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot lock the device") as caught, device("local", lambda _: None):
        pass
    assert "EDGEKD_STORE" in caught.value.hint


def test_a_clock_that_goes_backwards_is_inconclusive(tmp_path: Path) -> None:
    one = made(tmp_path / "one")
    broken = made(tmp_path / "broken", noise={"backwards": 1.0})
    done = edgekd("check", broken, "-b", one, "--json", "--quiet", EDGEKD_STORE=str(tmp_path / "store"))
    assert done.returncode == 3, done.stderr
    (found,) = json.loads(done.stdout)["checks"]
    assert found["verdict"] == "inconclusive"
    assert "the clock went backwards" in found["latency"]["reason"]
    assert done.stderr == ""


def test_a_clock_that_stumbles_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    one = made(tmp_path / "one", noise={"backwards": 0.002})
    found = check(Asked(one, one, max_seconds=0.1), Progress(quiet=True))
    assert found.verdict == "pass"
    assert found.latency is not None and found.latency.last is not None
    assert found.latency.last.ratio.point == 1.0


def test_usage_errors_have_exit_code_2_and_measure_nothing(tmp_path: Path) -> None:
    one = made(tmp_path / "one")
    for arguments, said in (
        ([one], "nothing to compare with"),
        ([one, "-b", one, "--tolerance", "0%"], "--tolerance"),
        ([one, "-b", one, "--max-seconds", "0"], "--max-seconds 0"),
    ):
        done = edgekd("check", *arguments)
        assert done.returncode == 2
        assert said in done.stderr and "hint:" in done.stderr
        assert done.stdout == ""


def test_help_shows_examples_and_exit_codes() -> None:
    page = edgekd("check", "--help").stdout
    assert "edgekd check out/bundles/host --baseline main/bundles/host" in page
    for code in ("0  pass", "1  regressed", "2  usage error", "3  inconclusive"):
        assert code in page


def stored(folder: Path, **changes: Any) -> Path:
    """A report.json whose bundled engine has the facts of the simulated bundles, less the changes."""
    report = sample()
    target = report["targets"][0]
    engine = next(c for c in target["candidates"] if c["name"] == (target["chosen"] or target["nearest"]))
    engine |= {"metric": 0.94, "bytes": 250, "integer_nodes": 0, "float_nodes": 1, **changes}
    engine["agreement"] = {"top1": 0.97, "kl": 0.1}
    report["provenance"]["digests"] = FACTS["digests"]
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report))
    return folder / "report.json"


def test_a_stored_baseline_gates_only_what_is_deterministic(tmp_path: Path) -> None:
    one = made(tmp_path / "one")
    size = json.loads((one / "engine" / "engine.json").read_text())["bytes"]
    found = check(Asked(one, stored(tmp_path / "a", bytes=size)), Progress(quiet=True))
    assert found.verdict == "pass" and found.latency is None
    assert [g.name for g in found.gates if g.state == "pass"] == ["metric", "teacher", "bytes", "delegated", "parity"]
    assert "only deterministic signals gate" in found.notes[0]
    worse = edgekd("check", one, "-b", stored(tmp_path / "b", bytes=size // 2), COLUMNS="120")
    assert worse.returncode == 1
    assert "beyond what is allowed: bytes" in worse.stdout and "only deterministic signals gate" in worse.stdout
    (tmp_path / "c.json").write_text("{}")
    done = edgekd("check", one, "-b", tmp_path / "c.json")
    assert done.returncode == 2 and "is not an edgekd report" in done.stderr


def test_real_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Structure only: what real engines take on a machine that runs tests says nothing."""
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    narrow = made(tmp_path / "narrow", "onnxruntime", float_model(width=8))
    wide = made(tmp_path / "wide", "onnxruntime", float_model(width=24))
    found = check(Asked(wide, narrow, rule=Rule(0.05, 0.0), max_seconds=0.1), Progress(quiet=True))
    assert found.latency is not None and found.latency.last is not None
    assert found.latency.last.processes == 3
    assert found.verdict == "regressed", "three times as large, whatever it takes"
    gates = {gate.name: gate for gate in found.gates}
    assert gates["bytes"].state == "regressed" and gates["parity"].state == "pass"
    assert gates["agreement"].candidate is not None
    assert gates["cold_start"].baseline is not None and gates["peak_memory"].candidate is not None
    assert gates["reformats"].state != "unknown"
    assert gates["instructions"].state != "unknown" or gates["instructions"].note
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8), np.float32))
    profile = operators.profiles(open_side(wide, None), open_side(narrow, None), tmp_path / "x.npy", [])
    assert profile is not None
    convolutions = [one for one in profile if one.name.startswith("Conv")]
    assert sum(one.candidate_nodes for one in convolutions) == sum(one.baseline_nodes for one in convolutions) == 2
    assert all(one.candidate >= 0 for one in profile) and any("→" in one.name for one in convolutions)
    assert operators.profiles(open_side(narrow, None), open_side(made(tmp_path / "n"), None), None, []) is None
