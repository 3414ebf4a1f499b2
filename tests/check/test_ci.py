"""The CI examples: what their shell parts do, run in a shell with the real command; and that the YAML passes settings on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from check.bundles import made

CI = Path(__file__).resolve().parents[2] / "examples" / "ci"
ROOT = CI.parents[1]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH with `edgekd` in it, as an installation has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "edgekd"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m edgekd "$@"\n')
    script.chmod(0o755)
    return folder


def ran(line: str, tools: Path, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A line of a job's script, run as runners do: bash -e."""
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "EDGEKD_STORE": str(folder / "store"),
        **settings,
    }
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", line],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def action() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CI / "action.yml").read_text())
    return found


def test_the_actions_step_gates_and_tells(tmp_path: Path, tools: Path) -> None:
    """A candidate twice as slow, with spaces in its path, and a signal that an option turns off."""
    (step,) = action()["runs"]["steps"]
    one = made(tmp_path / "my bundles" / "one")
    two = made(tmp_path / "my bundles" / "two", seconds=2e-3)
    files = {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    settings = {
        "GITHUB_ACTION_PATH": str(CI),
        "EDGEKD_BUNDLE": str(two),
        "EDGEKD_BASELINE": str(one),
        "EDGEKD_OPTIONS": "--max-seconds 0.1 --allow cold_start=off",
        **files,
    }
    done = ran(step["run"], tools, tmp_path, **settings)
    assert done.returncode == 1, done.stderr
    assert Path(files["GITHUB_OUTPUT"]).read_text() == "verdict=regressed\n"
    summary = Path(files["GITHUB_STEP_SUMMARY"]).read_text()
    assert summary == (tmp_path / "edgekd-check" / "check.md").read_text() and "❌" in summary
    found = json.loads((tmp_path / "edgekd-check" / "check.json").read_text())
    assert found["verdict"] == "regressed"
    assert {"name": "cold_start", "state": "off"}.items() <= found["checks"][0]["gates"][-2].items()
    assert (tmp_path / "edgekd-check" / "check.xml").is_file()


def test_gitlabs_script_can_let_an_inconclusive_check_go_on(tmp_path: Path, tools: Path) -> None:
    (job,) = yaml.safe_load((CI / "gitlab.yml").read_text()).values()
    (line,) = job["script"]
    broken = made(tmp_path / "broken", noise={"backwards": 1.0})
    settings = {**job["variables"], "EDGEKD_CI": str(CI), "EDGEKD_BUNDLE": str(broken), "EDGEKD_BASELINE": str(broken)}
    done = ran(line, tools, tmp_path, **settings)
    assert done.returncode == 3 and "edgekd check: inconclusive" in done.stderr
    done = ran(line, tools, tmp_path, **{**settings, "EDGEKD_INCONCLUSIVE": "warn"})
    assert done.returncode == 0 and "the job goes on" in done.stderr
    assert job["artifacts"]["reports"]["junit"] == "$EDGEKD_OUT/check.xml"


def test_usage_errors_leave_no_stale_result(tmp_path: Path, tools: Path) -> None:
    out = tmp_path / "edgekd-check"
    out.mkdir()
    (out / "check.md").write_text("old")
    done = ran(f"{CI}/check.sh", tools, tmp_path, EDGEKD_BUNDLE="nowhere", EDGEKD_BASELINE="nowhere")
    assert done.returncode == 2 and "not a bundle" in done.stderr and "edgekd check: error" in done.stderr
    assert not (out / "check.md").exists()
    assert ran(f"{CI}/check.sh", tools, tmp_path).returncode == 2


def test_every_setting_of_the_action_reaches_the_script_and_none_its_shell() -> None:
    (step,) = action()["runs"]["steps"]
    script = (CI / "check.sh").read_text()
    assert "${{" not in step["run"], "an input in the script's text could be run"
    passed = {re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", value)[1]: name for name, value in step["env"].items()}  # type: ignore[index]
    assert set(passed) == set(action()["inputs"])
    for name in passed.values():
        assert f"${{{name}" in script or f"${name}" in script
