"""The C++ and C library as an app uses it: installed, found by CMake, linked, run; and every wrong way to use it.

Everything is built once, without optimisation: the library with edgekd-bench, installed; then the examples and test
programs against what was installed, as a user's project is.
"""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from backends.folders import float_model
from cxx import text_cases, unicode_tables
from cxx.bundles import CMAKE, ROOT, build, changed, needs_compilers, ran, runtime_library, write
from cxx.processing_cases import both_agree
from cxx.text_cases import both_read
from devices.boards import by_env
from devices.promises import answers_nonsense, races, refuses_a_changed_bundle

import edgekd
from edgekd import signing, wordpiece
from edgekd.latency.energy import meter

pytestmark = [needs_compilers, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cxx")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    return write(folder / "first")


@pytest.fixture(scope="module")
def null_bundle(folder: Path) -> Path:
    return write(folder / "second", "null")


@pytest.fixture(scope="module")
def prefix(folder: Path) -> Path:
    """Where edgekd is installed."""
    build(
        CMAKE, folder / "library", f"-DCMAKE_INSTALL_PREFIX={folder / 'prefix'}", "-DEDGEKD_BACKENDS=onnxruntime;null"
    )
    ran("cmake", "--install", folder / "library")
    return folder / "prefix"


@pytest.fixture(scope="module")
def programs(folder: Path, prefix: Path, bundle: Path, null_bundle: Path) -> Path:
    """Where the built programs are."""
    options = (f"-DCMAKE_PREFIX_PATH={prefix}", f"-DBUNDLE={bundle}", f"-DSECOND_BUNDLE={null_bundle}")
    build(ROOT / "tests" / "cxx", folder / "programs", "-DPROGRAMS=calls;threads;overhead;processing;text", *options)
    return folder / "programs"


@pytest.fixture
def bench(prefix: Path) -> Path:
    return prefix / "bin" / "edgekd-bench"


def images(bundle: Path) -> tuple[np.ndarray, list[str]]:
    """Four images of bytes, and the class of each as Python finds it."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    inputs = ((pixels.astype(np.float64) / 255 - 0.5) / 0.25).astype(np.float32)
    with edgekd.load(bundle) as student:
        return pixels, ["abcde"[student.run([x[None, None]])[0].argmax()] for x in inputs]


def pgm(path: Path, pixels: np.ndarray) -> Path:
    path.write_bytes(b"P5 8 8 255\n" + pixels.tobytes())
    return path


def test_the_classifier_says_what_python_says(programs: Path, bundle: Path, tmp_path: Path) -> None:
    for pixels, label in zip(*images(bundle), strict=True):
        said = ran(programs / "examples" / "classifier", pgm(tmp_path / "image.pgm", pixels)).stdout.decode()
        assert re.fullmatch(rf"{label}  \d+\.\d{{3}} ms\n", said)
    (tmp_path / "text.pgm").write_text("P2 8 8 255\n")
    done = ran(programs / "examples" / "classifier", tmp_path / "text.pgm", code=2)
    assert b"not a PGM image of 64 pixels" in done.stderr


def test_it_is_embedded(programs: Path, bundle: Path, tmp_path: Path) -> None:
    """The classifier runs where the bundle's folder is gone."""
    away = tmp_path / "away"
    image = pgm(tmp_path / "image.pgm", images(bundle)[0][0])
    before = ran(programs / "examples" / "classifier", image).stdout.split()[0]
    shutil.move(bundle, away)
    try:
        assert ran(programs / "examples" / "classifier", image).stdout.split()[0] == before
    finally:
        shutil.move(away, bundle)
    model = (bundle / "engine" / "model.onnx").read_bytes()
    assert model in (programs / "examples" / "classifier").read_bytes()


def test_the_live_loop_classifies_every_frame(programs: Path, bundle: Path) -> None:
    pixels, labels = images(bundle)
    frames = np.concatenate([pixels] * 5).tobytes() + b"half a frame"
    said = ran(programs / "examples" / "live", stdin=frames).stdout.decode().splitlines()
    assert said == [f"{i} {label}" for i, label in enumerate(labels * 5)]


def test_two_backends_in_one_program(programs: Path, bundle: Path, null_bundle: Path, tmp_path: Path) -> None:
    pixels, labels = images(bundle)
    _, null_labels = images(null_bundle)
    for image, first, second in zip(pixels, labels, null_labels, strict=True):
        said = ran(programs / "examples" / "two_students", pgm(tmp_path / "image.pgm", image)).stdout.decode()
        assert said.splitlines() == [f"onnxruntime: {first}", f"null: {second}"]


def test_the_c_program(programs: Path, bundle: Path) -> None:
    said = ran(programs / "examples" / "plain").stdout.decode().splitlines()
    assert said[0] == "tiny on null 1: x float32[64] -> y float32[5], 5 labels"
    assert re.match(r"4 golden samples: largest difference \S+, median \S+ s", said[1])
    done = ran(programs / "examples" / "plain", bundle, code=1)
    assert b"error 5: the bundle's engine is for onnxruntime; this program links null" in done.stderr


@pytest.mark.parametrize("what", ["metadata", "wrong_calls", "self_test", "damaged"])
@pytest.mark.parametrize("backend", ["onnxruntime", "null"])
def test_calls(what: str, backend: str, programs: Path, bundle: Path, null_bundle: Path) -> None:
    assert ran(programs / "calls", what, bundle if backend == "onnxruntime" else null_bundle).returncode == 0


@pytest.mark.parametrize("backend", ["onnxruntime", "null"])
def test_two_threads_take_turns(backend: str, programs: Path, bundle: Path, null_bundle: Path) -> None:
    assert ran(programs / "threads", bundle if backend == "onnxruntime" else null_bundle, "2000").returncode == 0


def test_a_thousand_open_and_close(programs: Path, bundle: Path) -> None:
    assert ran(programs / "calls", "reopen", bundle, "1000").returncode == 0


@pytest.mark.parametrize("backend", ["onnxruntime", "null"])
def test_a_dynamic_batch(backend: str, programs: Path, folder: Path) -> None:
    assert ran(programs / "calls", "batches", write(folder / "batches", backend, float_model("batch"))).returncode == 0


def test_python_and_cpp_prepare_and_answer_alike(programs: Path, tmp_path: Path) -> None:
    seen = both_agree(programs / "processing", tmp_path, 150)
    assert seen["integers"] > 40 and seen["floats"] > 200 and seen["answers"] > 400 and seen["refused"] > 30


def test_python_and_cpp_read_texts_alike(programs: Path, tmp_path: Path) -> None:
    """Random texts of many scripts, with accents, emoji, and bytes that are no UTF-8; and every character there is."""
    seen = both_read(programs / "text", tmp_path, 500)
    assert seen["texts"] == 500 and seen["pairs"] > 100 and seen["known"] > 1500 and seen["unknown"] > 500, seen
    assert seen["refused"] == len(text_cases.WRONG)


def test_the_tables_are_unicodes(programs: Path, tmp_path: Path) -> None:
    header = unicode_tables.FILE.read_text("utf-8")
    assert len(header) < 60_000
    if f"Unicode {unicodedata.unidata_version}." not in header:
        pytest.skip(f"the tables are of another version than this Python's Unicode {unicodedata.unidata_version}")
    ran(programs / "text", "tables", tmp_path / "tables")
    found = (tmp_path / "tables").read_bytes().split(b"\xff")
    for number, character in enumerate(map(chr, range(0x110000))):
        if 0x40000 <= number < 0xE0000:  # nothing is assigned there
            continue
        wanted = f"{wordpiece.kind(character)}{wordpiece.without_marks(character)}\0{character.lower()}"
        assert found[number] == wanted.encode("utf-8", "surrogatepass"), f"U+{number:04X}"
    assert unicode_tables.text() == header


@pytest.mark.parametrize("backend", ["onnxruntime", "null"])
def test_an_app_reads_text(backend: str, programs: Path, folder: Path) -> None:
    made = text_cases.write(folder / "texts", backend)
    said = dict(line.split(" ", 1) for line in ran(programs / "calls", "reads", made).stdout.decode().splitlines())
    found = {key: [float(n) for n in values.split()] for key, values in said.items()}
    with edgekd.load(made) as student:
        inputs = student.tokenize("Hello, World!", "the unaffable café")
        assert [found[key] for key in ("ids", "mask", "types")] == [array[0].tolist() for array in inputs]
        np.testing.assert_allclose(found["one"], student.run_text("Hello, World!")[0][0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["two"], student.run(inputs)[0][0], rtol=1e-5, atol=1e-5)


def test_an_app_that_reads_no_text_holds_none_of_it(programs: Path) -> None:
    word = b"the vocabulary has no "
    assert word in (programs / "calls").read_bytes()
    assert word not in (programs / "examples" / "classifier").read_bytes()


def test_an_app_prepares_and_answers(programs: Path, folder: Path) -> None:
    around = {
        "preprocessing": {"resize": {"size": 8}, "crop": {"size": 8}, "scale": 1 / 255, "mean": 0.5, "std": [0.25]},
        "postprocessing": {"softmax": True, "top": 2},
    }
    assert ran(programs / "calls", "processes", write(folder / "around", "null", around=around)).returncode == 0


def test_a_signed_bundle_opens_with_its_key_only(
    programs: Path, prefix: Path, null_bundle: Path, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography", reason='pip install "edgekd[sign]"')
    signed, other = shutil.copytree(null_bundle, tmp_path / "signed"), tmp_path / "other"
    for key in (tmp_path / "key", other):
        signing.new_key(key)
    signing.sign(signed, tmp_path / "key")
    ran(programs / "calls", "signed", signed, tmp_path / "key.pub", tmp_path / "other.pub")
    said = {}
    for key in ("key", "other"):  # embedded with the key of whom the app trusts
        (tmp_path / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.20)\nproject(app C CXX)\nfind_package(edgekd CONFIG REQUIRED)\n"
            f"edgekd_add_student(second BUNDLE signed EMBED PUBLIC_KEY {key}.pub)\n"
            f"add_executable(plain {ROOT / 'examples' / 'cpp' / 'plain.c'})\n"
            "set_target_properties(plain PROPERTIES LINKER_LANGUAGE CXX)\n"
            "target_link_libraries(plain PRIVATE edgekd::second)\n"
        )
        build(tmp_path, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
        done = ran(tmp_path / "build" / "plain", code=int(key == "other"))
        said[key] = (done.stdout + done.stderr).decode()
    assert said["key"].startswith("tiny on null 1: ")
    assert said["other"].startswith("error 11: the linked bundle second: the signature, of key ")


def test_edgekd_allocates_nothing_per_call(programs: Path, bundle: Path, null_bundle: Path) -> None:
    """As many allocations as ONNX Runtime's own call makes, its outputs to the bit; none at all on the null runtime."""
    found = json.loads(ran(programs / "overhead", bundle, runtime_library(), "20").stdout)
    assert found["same"]
    assert found["allocations"]["student"] == found["allocations"]["direct"] > 0
    assert len(found["direct"]) == len(found["student"]) == 20
    assert json.loads(ran(programs / "overhead", null_bundle, "", "1").stdout) == {"allocations": {"student": 0}}


def test_bench_times_and_verifies(bench: Path, bundle: Path, null_bundle: Path) -> None:
    lines = (
        ran(bench, "--rounds", "3", "--calls", "7", "--warmup", "1", bundle, null_bundle).stdout.decode().splitlines()
    )
    rows = [json.loads(line) for line in lines]
    assert [row["bundle"] for row in rows if "round" in row].count(str(bundle)) == 3
    assert all(len(row["seconds"]) == 7 and min(row["seconds"]) > 0 for row in rows if "round" in row)
    assert {(row["backend"], row["calls"]) for row in rows if "median" in row} == {("onnxruntime", 21), ("null", 21)}
    told = {(row["metered"], row["joules"] is None) for row in rows if "median" in row}
    assert told == {(meter().of, not meter().of)}
    checked = json.loads(ran(bench, "--verify", bundle).stdout)
    assert checked["ok"] and checked["samples"] == 4 and checked["top1"] == 1 and checked["promised"] == 1e-9
    slow = json.loads(ran(bench, "--verify", "--slowdown", "2", bundle, code=1).stdout)
    assert not slow["ok"] and slow["reason"].startswith("too slow: median ")
    assert b"usage: edgekd-bench" in ran(bench, "--calls", "none", bundle, code=2).stderr
    assert b"not a bundle: no bundle.json" in ran(bench, bundle.parent, code=2).stderr


def test_bench_is_the_runner_on_a_device(bench: Path, tmp_path: Path) -> None:
    target = by_env(tmp_path, more=f'runner = "{bench}"')
    said = races(target, tmp_path)
    assert said["runner"] == f"edgekd-bench {edgekd.__version__}" and said["resumed"] == 0
    done = answers_nonsense([str(bench), "--serve"], tmp_path)
    assert done["protocol"] == 1 and "null" in done["backends"]
    assert "engine/model.onnx was changed" in refuses_a_changed_bundle(target, tmp_path)


def test_outputs_that_are_not_golden_are_told(bench: Path, bundle: Path, tmp_path: Path) -> None:
    with np.load(bundle / "golden.npz") as stored:
        golden = dict(stored)
    wrong = changed(bundle, tmp_path / "wrong", "bundle.json")
    np.savez(wrong / "golden.npz", inputs=golden["inputs"], outputs=golden["outputs"] + np.float32(0.01))
    done = json.loads(ran(bench, "--verify", changed(wrong, tmp_path / "whole", "bundle.json"), code=1).stdout)
    assert (
        "the outputs are not the golden ones: top-1 agreement 1 of at least 1, largest difference 0.01"
        in done["reason"]
    )
    assert done["difference"] == pytest.approx(0.01, rel=1e-3)


def test_a_newer_format_says_which_edgekd(bench: Path, bundle: Path, tmp_path: Path) -> None:
    newer = changed(bundle, tmp_path / "newer", "bundle.json", format=2, edgekd="9.9.9")
    said = ran(bench, newer, code=2).stderr.decode()
    assert "bundle format 2, written by edgekd 9.9.9; this library reads format 1" in said
    assert "pip install edgekd==9.9.9" in said


def test_a_runtime_that_is_missing_or_another(programs: Path, bundle: Path, tmp_path: Path) -> None:
    def told(made: Path = bundle, *more: str, **environment: str) -> str:
        return ran(programs / "calls", "open", made, *more, **environment).stdout.decode()

    assert told().startswith("0 1.")
    assert told(EDGEKD_ONNXRUNTIME_ROOT=str(runtime_library())) == told()
    assert told(EDGEKD_ONNXRUNTIME_ROOT=str(runtime_library().parent.parent)) == told()
    missing = told(EDGEKD_ONNXRUNTIME_ROOT="/nowhere")
    assert missing.startswith("5 the runtime's library cannot be loaded (/nowhere")
    assert "pip install onnxruntime==" in missing
    other = told(EDGEKD_ONNXRUNTIME_ROOT="libm.so.6")
    assert other.startswith("5 libm.so.6 is no ONNX Runtime of version 1.5 or newer: pip install onnxruntime==")
    newer = changed(bundle, tmp_path / "newer", "engine/engine.json", versions={"onnxruntime": "99.2.0"})
    assert re.match(
        r"6 the bundle was compiled with onnxruntime 99\.2\.0; \S+ is 1\.\S+: pip install onnxruntime==99\.2\.0",
        told(newer),
    )
    assert told(newer, "any") == told()
    bare = {
        "intra_op_num_threads": 2,
        "inter_op_num_threads": 1,
        "enable_cpu_mem_arena": False,
        "enable_mem_pattern": False,
    }
    plain = changed(bundle, tmp_path / "plain", "engine/engine.json", options=bare | {"entries": {}})
    assert told(plain) == told()
    unknown = changed(bundle, tmp_path / "unknown", "engine/engine.json", options=bare | {"entries": {"": "1"}})
    assert told(unknown).startswith("7 onnxruntime refuses an option: ")
    many = changed(
        bundle, tmp_path / "many", "engine/engine.json", options=bare | {"entries": {}, "intra_op_num_threads": 2**40}
    )
    assert told(many).startswith("3 engine.json: intra_op_num_threads of 1099511627776; ")
    broken = changed(bundle, tmp_path / "broken", "engine/engine.json")
    (broken / "engine" / "model.onnx").write_bytes(b"not a model")
    assert told(changed(broken, tmp_path / "whole", "bundle.json")).startswith("7 onnxruntime refuses the engine: ")


def test_the_readmes_lines(prefix: Path, bundle: Path, tmp_path: Path) -> None:
    """cmake/README.md, as a new user would type it; only the tensors are those of the test's bundle."""
    page = (CMAKE / "README.md").read_text("utf-8")
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    (tmp_path / "CMakeLists.txt").write_text(blocks["cmake"])
    (tmp_path / "main.cpp").write_text(blocks["cpp"].replace("784", "64").replace("10>", "5>"))
    shutil.copytree(bundle, tmp_path / "bundles" / "host")
    build(tmp_path, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert ran(tmp_path / "build" / "app").stdout == b""


def test_cmake_says_what_is_wrong(prefix: Path, bundle: Path, tmp_path: Path) -> None:
    def configured(call: str, code: int = 1) -> str:
        (tmp_path / "CMakeLists.txt").write_text(
            f"cmake_minimum_required(VERSION 3.20)\nproject(app CXX)\nfind_package(edgekd 0.1 CONFIG REQUIRED)\n{call}\n"
        )
        arguments = ("-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
        done = ran("cmake", *arguments, "-DEDGEKD_ONNXRUNTIME_ROOT=/nowhere", code=code)
        return " ".join(done.stderr.decode().split())

    assert "is not a bundle: it has no bundle.json" in configured("edgekd_add_student(x BUNDLE nowhere)")
    other = changed(bundle, tmp_path / "other", "engine/engine.json", backend="tvm")
    assert "the bundle's engine is for tvm; this edgekd has C++ sessions for onnxruntime, null" in configured(
        f"edgekd_add_student(x BUNDLE {other})"
    )
    assert "EDGEKD_ONNXRUNTIME_ROOT=/nowhere holds no libonnxruntime" in configured(
        f"edgekd_add_student(x BUNDLE {bundle})", code=0
    )
    assert configured("find_package(edgekd 0.2 CONFIG)", code=0).count("compatible with requested version") == 1


def test_the_version_is_the_packages() -> None:
    assert f"set(EDGEKD_VERSION {edgekd.__version__})" in (CMAKE / "edgekdVersion.cmake").read_text()
