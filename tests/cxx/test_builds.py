"""The C++ library built otherwise: under the sanitizers, shared, by FetchContent, and found by `python -m edgekd --cmake-dir`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from cxx.bundles import CMAKE, ROOT, WARNINGS, build, needs_compilers, ran, write

from edgekd.backend import open_backend

pytestmark = [needs_compilers, pytest.mark.slow]

BACKENDS = "-DEDGEKD_BACKENDS=onnxruntime;openvino;null"
# OpenVINO's thread pool opens libraries in a way that the sanitizers refuse, unless it is told of them.
TOLD = {
    "TBB_ENABLE_SANITIZERS": "1",
    "LSAN_OPTIONS": f"suppressions={ROOT / 'tests' / 'cxx' / 'leaks.supp'}:print_suppressions=0",
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    more = [] if open_backend("openvino").missing() else ["openvino"]
    return [write(folder / "first"), *(write(folder / name, name) for name in ("null", *more))]


def sanitized(folder: Path, sanitizers: str, *options: str) -> Path:
    """The test programs and the library under these sanitizers; any finding ends a program."""
    flags = f"{WARNINGS} -g1 -fsanitize={sanitizers} -fno-sanitize-recover=all"
    build(ROOT / "tests" / "cxx", folder, *options, flags=flags)
    return folder


def test_no_memory_error_no_leak_and_nothing_undefined(bundles: list[Path], tmp_path: Path) -> None:
    found = ran(sys.executable, "-m", "edgekd", "--cmake-dir").stdout.decode().strip()
    assert Path(found) == CMAKE
    built = sanitized(tmp_path, "address,undefined", f"-Dedgekd_DIR={found}", "-DPROGRAMS=readers;calls;fuzz", BACKENDS)
    for bundle in bundles:
        for what in ("metadata", "wrong_calls", "self_test", "damaged"):
            ran(built / "calls", what, bundle, "20", **TOLD)
    said = ran(built / "readers", bundles[0] / "golden.npz").stdout.decode().splitlines()
    for size in (55, 56, 63, 64, 65, 119, 120):
        assert f"sha256 {size} {hashlib.sha256(b'x' * size).hexdigest()}" in said
    with np.load(bundles[0] / "golden.npz") as golden:
        for name, shape in (("inputs", "4 1 8 8"), ("outputs", "4 5")):
            assert f"npz {name} float32 {shape} {hashlib.sha256(golden[name].tobytes()).hexdigest()}" in said
    assert (
        ran(built / "fuzz", "1000", "2", bundles[0] / "golden.npz", bundles[0] / "bundle.json").stdout == b"no crash\n"
    )


def test_no_data_race_where_it_is_fetched_and_shared(bundles: list[Path], tmp_path: Path) -> None:
    options = (
        f"-DEDGEKD_SOURCE={ROOT}",
        f"-DBUNDLE={bundles[0]}",
        "-DBUILD_SHARED_LIBS=ON",
        "-DPROGRAMS=threads",
        BACKENDS,
    )
    built = sanitized(tmp_path, "thread", *options)
    assert list(built.rglob("libedgekd.so*"))
    for bundle in bundles:
        ran(built / "threads", bundle, "50", **TOLD)
    (tmp_path / "image.pgm").write_bytes(b"P5 8 8 255\n" + bytes(range(64)))
    said = ran(built / "fetchcontent" / "classifier", tmp_path / "image.pgm").stdout.decode()
    assert said[0] in "abcde" and said.endswith(" ms\n")
