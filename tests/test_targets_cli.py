"""`edgekd list targets` and `edgekd targets show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import edgekd
from typer.testing import CliRunner

from edgekd.cli import app
from edgekd.errors import UserError
from edgekd.target import names


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False, standalone_mode=False)
    return done.stdout


def test_a_line_each() -> None:
    lines = shown("list", "targets").splitlines()
    assert [line.split()[0] for line in lines] == names("targets")
    (pi,) = (line for line in lines if line.startswith("raspberry-pi-5 "))
    assert pi.split(None, 1)[1].startswith("Broadcom BCM2712: 4 × Cortex-A76; aarch64-linux; 4.00 GB; ssh; onnxruntime")


def test_every_fact_with_its_source() -> None:
    text = shown("targets", "show", "raspberry-pi-4")
    facts = {line.split()[0]: line.split(None, 1)[1] for line in text.splitlines() if line[:1].strip()}
    assert facts["isa"] == "asimd" and facts["memory"] == "1.00 GB"
    assert facts["reach"] == "ssh, port 22"
    assert facts["cooling"] == "vcgencmd measure_temp; vcgencmd get_throttled"
    lines = text.splitlines()
    after = lines[next(i for i, line in enumerate(lines) if line.startswith("memory ")) + 1]
    assert after.strip() == "github.com/raspberrypi/documentation, raspberry-pi/introduction.adoc, 2026-11-22"
    assert "note: raspberry-pi-4: the device is reached by ssh" in text


def test_as_json() -> None:
    found = json.loads(shown("targets", "show", "stm32n6570-dk", "--json"))
    assert (found["memory"], found["reach"], found["isa"]) == (4_200_000, {"kind": "none"}, ["mve"])
    assert found["unmeasured"] == "this edgekd knows no way to run a program there"
    assert json.loads(shown("targets", "show", "host", "--json"))["unmeasured"] == ""


def test_the_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    text = shown("targets", "show", "banana-pi-f3")
    assert "riscv64-linux-gnu-g++ is not here: apt-get install g++-riscv64-linux-gnu" in text
    (tmp_path / "riscv64-linux-gnu-g++").touch(mode=0o755)
    assert "is not here" not in shown("targets", "show", "banana-pi-f3")


def test_an_unknown_name_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match='no target "raspberry-pi-6"') as caught:
        shown("targets", "show", "raspberry-pi-6")
    assert "raspberry-pi-" in caught.value.hint
    assert edgekd("targets", "show", "raspberry-pi-6").returncode == 2
