"""What long work says of itself where there is no terminal."""

from __future__ import annotations

import re

import pytest

from edgekd import progress
from edgekd.progress import Echo, Progress


def test_without_a_terminal_a_long_task_says_how_far_it_is_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress().task("puzzle: blocks", total=8) as task:
        for _ in range(8):
            now[0] += 25.0  # seconds: a line with the third and the sixth
            task.advance(1, "block 1: thinner")
    *said, last = capsys.readouterr().err.splitlines()
    assert said == [f"  puzzle: blocks                      {share}  block 1: thinner" for share in ("38%", "75%")]
    assert re.fullmatch(r"  puzzle: blocks +\d\S* [µm]?s  block 1: thinner", last)


def test_what_another_process_tells_is_said_alike(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SAY_SECONDS", 0.0)
    monkeypatch.setattr(progress, "TELL_SECONDS", 0.0)
    with Echo(Progress()) as echo, Progress(tell=echo).task("distill", total=4) as task:
        task.advance(1, "loss 0.5")
    assert capsys.readouterr().err.splitlines()[0].split() == ["distill", "25%", "loss", "0.5"]
    with Progress(quiet=True).task("distill", total=4) as task:
        task.advance(1)
    assert capsys.readouterr().err == ""
