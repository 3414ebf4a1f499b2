"""Targets and calibration recipes: data files, checked when they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.errors import UserError
from edgekd.target import data_dir, find_calibration, find_target, names

BOARD = 'chip = "X"\ntriple = "aarch64-linux"\nbackends = ["onnxruntime"]\nsource = "a manual, 2026"\n'


def test_the_host_is_detected() -> None:
    host = find_target("host", Path())
    assert host.chip not in ("", "detected") and host.cores >= 1 and "-" in host.triple


def test_every_shipped_file_is_good() -> None:
    assert "host" in names("targets") and "train-512" in names("calibration")
    for name in names("targets"):
        assert find_target(name, Path()).source
    for name in names("calibration"):
        assert find_calibration(name, Path()).count > 0
    assert (data_dir("targets") / "README.md").is_file()


def test_a_users_own_file(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(BOARD)
    board = find_target("board.toml", tmp_path)
    assert (board.name, board.chip, board.channel_multiple) == ("board", "X", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOARD + "colour = 1\n", "colour"),
        (BOARD.replace('"X"', "3"), "chip"),
        (BOARD.replace("onnxruntime", "onnxruntim"), 'no backends named "onnxruntim"'),
        ("chip = ", "not TOML"),
        (BOARD + "channel_multiple = 0\n", "channel_multiple"),
    ],
)
def test_bad_files_name_the_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "board.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        find_target("board.toml", tmp_path)


def test_calibration_names_what_exists(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('source = "dta"\ncount = 4\n')
    with pytest.raises(UserError, match='no sources named "dta"'):
        find_calibration("mine.toml", tmp_path)
    (tmp_path / "mine.toml").write_text('source = "data"\ncount = 0\n')
    with pytest.raises(UserError, match="count"):
        find_calibration("mine.toml", tmp_path)
