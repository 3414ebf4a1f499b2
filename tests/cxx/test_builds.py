"""The C++ library built otherwise: under the sanitizers, shared, by FetchContent, and found by `python -m edgekd --cmake-dir`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cxx.bundles import CMAKE, ROOT, build, needs_compilers, ran, write

pytestmark = [needs_compilers, pytest.mark.slow]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [write(folder / "first"), write(folder / "second", "null")]


def sanitized(folder: Path, sanitizers: str, *programs: str) -> Path:
    """The test programs, with the library that they are built with, under these sanitizers; any finding ends a program."""
    found = ran(sys.executable, "-m", "edgekd", "--cmake-dir").stdout.decode().strip()
    assert Path(found) == CMAKE
    build(
        ROOT / "tests" / "cxx", folder, f"-Dedgekd_DIR={found}", f"-DPROGRAMS={';'.join(programs)}",
        flags=f"-g1 -fsanitize={sanitizers} -fno-sanitize-recover=all",
    )  # fmt: skip
    return folder


def test_no_memory_error_no_leak_and_nothing_undefined(bundles: list[Path], tmp_path: Path) -> None:
    built = sanitized(tmp_path, "address,undefined", "readers", "calls", "fuzz")
    for bundle in bundles:
        for what in ("metadata", "wrong_calls", "self_test", "damaged"):
            ran(built / "calls", what, bundle, "20")
    ran(built / "readers", bundles[0] / "golden.npz")
    assert (
        ran(built / "fuzz", "1000", "2", bundles[0] / "golden.npz", bundles[0] / "bundle.json").stdout == b"no crash\n"
    )


def test_no_data_race(bundles: list[Path], tmp_path: Path) -> None:
    built = sanitized(tmp_path, "thread", "threads")
    for bundle in bundles:
        ran(built / "threads", bundle, "50")


def test_fetched_and_shared(bundles: list[Path], tmp_path: Path) -> None:
    options = (f"-DEDGEKD_SOURCE={ROOT}", f"-DBUNDLE={bundles[0]}", "-DBUILD_SHARED_LIBS=ON")
    build(ROOT / "examples" / "cpp" / "fetchcontent", tmp_path / "built", *options)
    (tmp_path / "image.pgm").write_bytes(b"P5 8 8 255\n" + bytes(range(64)))
    said = ran(tmp_path / "built" / "classifier", tmp_path / "image.pgm").stdout.decode()
    assert said[0] in "abcde" and said.endswith(" ms\n")
    assert list(tmp_path.rglob("libedgekd.so*"))
