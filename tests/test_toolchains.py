"""The CMake toolchain files: each found by a target's name for it, and each configures a project where its compiler is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekd.target import data_dir, find_target, names, toolchain_file

FILES = sorted((data_dir("targets") / "toolchains").glob("*.cmake"))
PROCESSORS = {
    "aarch64-linux-gnu": "aarch64",
    "arm-linux-gnueabihf": "armv7l",
    "arm-none-eabi": "arm",
    "riscv64-linux-gnu": "riscv64",
}
PROJECT = """
cmake_minimum_required(VERSION 3.20)
project(probe CXX)
add_library(probe STATIC probe.cpp)
message(STATUS "for ${CMAKE_SYSTEM_NAME} ${CMAKE_SYSTEM_PROCESSOR}, cross ${CMAKE_CROSSCOMPILING}")
"""


def test_each_is_known_and_names_its_package() -> None:
    assert [file.stem for file in FILES] == sorted(PROCESSORS)
    for file in FILES:
        first = file.read_text("utf-8").splitlines()[0]
        assert re.search(r"Debian's package g(cc|\+\+)-[\w-]+\.$", first), file.name


def test_targets_name_the_package_of_their_toolchain() -> None:
    crossed = [found for name in names("targets") if (found := find_target(name, Path())).toolchain]
    assert len(crossed) >= 6
    for found in crossed:
        file = toolchain_file(found.toolchain, Path())
        assert file.read_text("utf-8").splitlines()[0].endswith(f" {found.package}."), found.name


def test_a_path_beside_the_target(tmp_path: Path) -> None:
    (tmp_path / "mine.cmake").write_text("set(CMAKE_SYSTEM_NAME Linux)\n")
    board = 'chip = "X"\ntriple = "x-linux"\nbackends = ["onnxruntime"]\ntoolchain = "mine.cmake"\n'
    (tmp_path / "board.toml").write_text(board)
    assert find_target("board.toml", tmp_path).toolchain == "mine.cmake"
    assert toolchain_file("mine.cmake", tmp_path) == tmp_path / "mine.cmake"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_configures_and_compiles(file: Path, tmp_path: Path) -> None:
    compiler = f"{file.stem}-g++"
    for needed in ("cmake", compiler):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    (tmp_path / "probe.cpp").write_text("int probe() { return 42; }\n")

    def cmake(*arguments: str | Path) -> str:
        done = subprocess.run(
            ["cmake", *map(str, arguments)], capture_output=True, text=True, check=False, env=dict(os.environ)
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = cmake("-S", tmp_path, "-B", tmp_path / "build", "--toolchain", file)
    system = "Generic" if file.stem == "arm-none-eabi" else "Linux"
    assert f"for {system} {PROCESSORS[file.stem]}, cross TRUE" in said
    cmake("--build", tmp_path / "build")
    assert (tmp_path / "build" / "libprobe.a").stat().st_size > 0
