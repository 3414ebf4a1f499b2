"""The C++ library built otherwise: under the sanitizers, shared, by FetchContent, and found by `python -m edgekd --cmake-dir`."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from cxx import corpus, text_cases
from cxx.bundles import CMAKE, ROOT, WARNINGS, build, needs_compilers, ran, write
from cxx.processing_cases import both_agree
from cxx.text_cases import both_read

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


def fuzzed(said: str) -> list[int]:
    """How many bundles tested themselves, how often raw data were prepared, how many texts were read."""
    told = re.fullmatch(
        r"no crash, (\d+) bundles tested themselves, (\d+) times raw data were prepared, (\d+) texts were read\n", said
    )
    assert told, said
    return [int(one) for one in told.groups()]


def sanitized(folder: Path, sanitizers: str, *options: str) -> Path:
    """The test programs and the library under these sanitizers; any finding ends a program."""
    flags = f"{WARNINGS} -g1 -fsanitize={sanitizers} -fno-sanitize-recover=all"
    build(ROOT / "tests" / "cxx", folder, *options, flags=flags)
    return folder


def signatures() -> tuple[list[str], list[bool]]:
    """Random messages as `cryptography` signs them, whole and changed, and whether they pass there."""
    ed25519 = pytest.importorskip(
        "cryptography.hazmat.primitives.asymmetric.ed25519", reason='pip install "edgekd[sign]"'
    )
    from cryptography.exceptions import InvalidSignature

    random = np.random.default_rng(9)
    lines, passes = [], []
    for size in (0, 1, 31, 64, 111, 112, 500, 5000):
        private = ed25519.Ed25519PrivateKey.from_private_bytes(random.bytes(32))
        message = random.bytes(size)
        for change in (None, 0, 31, 40, 63):
            signature = bytearray(private.sign(message))
            if change is not None:
                signature[change] ^= 1 << int(random.integers(8))
            try:
                private.public_key().verify(bytes(signature), message)
                passes.append(True)
            except InvalidSignature:
                passes.append(False)
            lines.append(f"{private.public_key().public_bytes_raw().hex()} {message.hex()}- {signature.hex()}")
    assert sum(passes) == 8
    return lines, passes


def test_no_memory_error_no_leak_and_nothing_undefined(bundles: list[Path], tmp_path: Path) -> None:
    found = ran(sys.executable, "-m", "edgekd", "--cmake-dir").stdout.decode().strip()
    assert Path(found) == CMAKE
    programs = "-DPROGRAMS=readers;calls;fuzz;processing;text"
    built = sanitized(tmp_path, "address,undefined", f"-Dedgekd_DIR={found}", programs, BACKENDS)
    for bundle in bundles:
        for what in ("metadata", "wrong_calls", "self_test", "damaged"):
            ran(built / "calls", what, bundle, "20", **TOLD)
    lines, passes = signatures()
    (tmp_path / "signatures").write_text("\n".join(lines))
    said = ran(built / "readers", bundles[0] / "golden.npz", tmp_path / "signatures").stdout.decode().splitlines()
    assert [line for line in said if line.startswith("signed")] == [f"signed {int(one)}" for one in passes]
    for size in (55, 56, 63, 64, 65, 119, 120):
        assert f"sha256 {size} {hashlib.sha256(b'x' * size).hexdigest()}" in said
    for size in (0, 111, 112, 127, 128, 129, 1000):
        assert f"sha512 {size} {hashlib.sha512(b'x' * size).hexdigest()}" in said
    assert both_agree(built / "processing", tmp_path, 40)["refused"] > 30
    assert both_read(built / "text", tmp_path, 100)["pairs"] > 15
    ran(built / "calls", "reads", text_cases.write(tmp_path / "texts", "null"))
    with np.load(bundles[0] / "golden.npz") as golden:
        for name, shape in (("inputs", "4 1 8 8"), ("outputs", "4 5")):
            assert f"npz {name} float32 {shape} {hashlib.sha256(golden[name].tobytes()).hexdigest()}" in said
    corpus.write(tmp_path / "seeds")
    plain = tmp_path / "seeds" / "bundle-plain"
    said_of = ran(
        built / "fuzz", "1000", "2", bundles[0] / "golden.npz", bundles[0] / "bundle.json", plain
    ).stdout.decode()
    assert fuzzed(said_of)[0] > 0
    _, prepared, read = fuzzed(
        ran(built / "fuzz", "150", "3", *sorted((tmp_path / "seeds").glob("around-*"))).stdout.decode()
    )
    assert prepared > 100 and read > 50


def test_no_data_race_where_it_is_fetched_and_shared(bundles: list[Path], tmp_path: Path) -> None:
    options = (
        f"-DEDGEKD_SOURCE={ROOT}",
        f"-DBUNDLE={bundles[0]}",
        "-DBUILD_SHARED_LIBS=ON",
        "-DPROGRAMS=threads;calls",
        BACKENDS,
    )
    built = sanitized(tmp_path, "thread", *options)
    assert list(built.rglob("libedgekd.so*"))
    for bundle in bundles:
        ran(built / "threads", bundle, "50", **TOLD)
    ran(built / "calls", "reads", text_cases.write(tmp_path / "texts", "null"))  # four threads read the first text
    (tmp_path / "image.pgm").write_bytes(b"P5 8 8 255\n" + bytes(range(64)))
    said = ran(built / "fetchcontent" / "classifier", tmp_path / "image.pgm").stdout.decode()
    assert said[0] in "abcde" and said.endswith(" ms\n")


def fuzzer() -> str:
    """clang++, if it has libFuzzer."""
    clang = shutil.which("clang++") or ""
    library = ran(clang, f"-print-file-name=libclang_rt.fuzzer-{platform.machine()}.a").stdout if clang else b""
    return clang if Path(library.decode().strip()).is_file() else ""


@pytest.mark.skipif(not fuzzer(), reason="needs libFuzzer: apt-get install clang libclang-rt-14-dev")
def test_the_fuzzer_finds_nothing_in_a_few_thousand_runs(tmp_path: Path) -> None:
    """The ten minutes of the published claim are `tests/cxx/corpus.py`'s command; here it is seen to build and to reach far."""
    corpus.write(tmp_path / "seeds")
    flags = "-g1 -O1 -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all"
    options = (
        BACKENDS,
        "-DCMAKE_CXX_COMPILER=clang++",
        "-DCMAKE_C_COMPILER=clang",
        "-DEDGEKD_FUZZ=ON",
        "-DPROGRAMS=fuzz",
    )
    build(ROOT / "tests" / "cxx", tmp_path / "build", f"-Dedgekd_DIR={CMAKE}", *options, flags=flags, targets=("fuzz",))
    arguments = ("-runs=3000", "-seed=1", "-max_len=4096", "-timeout=60", f"-artifact_prefix={tmp_path}/")
    said = ran(tmp_path / "build" / "fuzz", *arguments, tmp_path / "seeds").stderr.decode()
    assert "Done 3000 runs" in said
