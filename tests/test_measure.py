"""`edgekd measure` as it is typed: what its table shows, and what is wrong is said before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from check.bundles import made
from project import here

from edgekd import measure
from edgekd.latency.race import race


def test_two_bundles_are_raced_on_the_threads_that_they_were_compiled_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(measure, "race", lambda *engines, **how: asked.append(how["threads"]) or race(*engines, **how))
    monkeypatch.delenv("COLUMNS", raising=False)
    names = [str(made(tmp_path / name, threads=2, seconds=time)) for name, time in (("one", 1e-3), ("two", 2e-3))]
    ran = here("measure", *names, "--seconds", "0.05", "--processes", "1", "--quiet")
    assert (ran.returncode, asked) == (0, [2]), ran.stderr
    heads, first, second, energy = ran.stdout.splitlines()
    assert " ".join(heads.split()) == "bundle median 95% interval p90 p99 calls ratio to the first", "and no energy"
    assert first.split()[:3] == [names[0], "1.00", "ms"] and second.split()[:3] == [names[1], "2.00", "ms"]
    assert second.endswith("2.000 (2.000–2.000)") and energy == "energy: a simulated device uses none"


def test_mistakes_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = made(tmp_path / "out").rename(tmp_path / "host")
    (tmp_path / "out" / "bundles").mkdir()
    bundle = bundle.rename(tmp_path / "out" / "bundles" / "host")
    for wrong in (tmp_path / "out", tmp_path / "out" / "bundles" / "hots"):
        said = here("measure", wrong)
        assert said.returncode == 2 and f"not a bundle: no bundle.json\n\nhint: there is {bundle}\n" in said.stderr
    said = here("measure", tmp_path / "nowhere")
    assert said.returncode == 2 and "hint: `edgekd compile` writes bundles" in said.stderr
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    said = here("measure", bundle, "--threads", "5")
    assert said.returncode == 2 and "--threads 5: this machine has 4 cores" in said.stderr
