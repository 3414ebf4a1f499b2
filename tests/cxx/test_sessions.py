"""The sessions beside ONNX Runtime's: each backend's bundle in C++ as in Python, two backends in one program, runtimes missing.

Everything is built once, against the source folder; a backend whose compiler or runtime is not here is skipped.
"""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from backends.folders import float_model
from cxx.bundles import CMAKE, ROOT, WARNINGS, build, changed, needs_compilers, ran, write
from devices.boards import by_env

import edgekd
from edgekd import registry
from edgekd.backend import open_backend
from edgekd.devices.device import reached
from edgekd.progress import Progress

pytestmark = [needs_compilers, pytest.mark.slow]

BACKENDS = ("openvino", "executorch", "ncnn", "litert", "tvm")
# What a user is told to do when the runtime is missing: by CMake, and by the program.
CURES = {
    "openvino": "pip install openvino",
    "executorch": "pip install executorch",
    "ncnn": "github.com/Tencent/ncnn",
    "litert": "pip install ai-edge-litert",
    "tvm": "pip install apache-tvm",
}
MODULES = ("executorch", "ncnn")  # whose session is a library of its own


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def app(folder: Path, bundle: Path) -> Path:
    """A user's project that links a bundle."""
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(app CXX)\nfind_package(edgekd CONFIG REQUIRED)\n"
        f"edgekd_add_student(x BUNDLE {bundle})\n"
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sessions")


@pytest.fixture(scope="module")
def first(folder: Path) -> Path:
    return write(folder / "first")


@pytest.fixture(scope="module")
def second(folder: Path) -> Path:
    if command := open_backend("openvino").missing():
        pytest.skip(f"openvino is an extra: {command}")
    return write(folder / "openvino", "openvino")


@pytest.fixture(scope="module")
def built(folder: Path, first: Path, second: Path) -> tuple[Path, str]:
    """Where the programs are, and what CMake said: every session there is, and two students of two backends in one program."""
    headers = ";".join(str(folder_of(name) / "include") for name in ("openvino", "tvm_ffi") if find_spec(name))
    options = (f"-Dedgekd_DIR={CMAKE}", f"-DBUNDLE={first}", f"-DSECOND_BUNDLE={second}", f"-DHEADERS={headers}")
    programs = ("calls", "threads", "overhead", "declarations", "affinity")
    said = build(
        ROOT / "tests" / "cxx", folder / "built", *options, "-DEDGEKD_BENCH=ON", f"-DPROGRAMS={';'.join(programs)}",
        flags=WARNINGS, targets=(*programs, "two_students", "edgekd-bench"),
    )  # fmt: skip
    return folder / "built", said


@pytest.fixture
def programs(built: tuple[Path, str]) -> Path:
    return built[0]


@pytest.fixture(params=BACKENDS)
def bundle(request: pytest.FixtureRequest, folder: Path, built: tuple[Path, str]) -> Path:
    """A bundle of each backend, made once."""
    name: str = request.param
    if name not in registry.names("backends"):
        pytest.skip(f"there is no backend {name}")
    if command := open_backend(name).missing():
        pytest.skip(f"{name} is an extra: {command}")
    if lost := re.search(rf"edgekd: (.*): no {name}$", built[1], re.MULTILINE):
        pytest.skip(lost[1])
    made = folder / name / name
    return made if made.exists() else write(folder / name, name)


def test_each_computes_what_python_computes_and_refuses_what_is_wrong(programs: Path, bundle: Path) -> None:
    """The golden outputs are those of the same engine in Python: equal to the bit, where both run one build of the runtime."""
    bench = next(programs.rglob("edgekd-bench"))
    told = json.loads(ran(bench, "--verify", bundle).stdout)
    assert told["ok"] and told["backend"] == bundle.name and told["samples"] == 4
    assert told["difference"] <= (1e-5 if bundle.name == "ncnn" else 0)
    for what, times in (
        ("metadata", "1"),
        ("wrong_calls", "1"),
        ("self_test", "1"),
        ("damaged", "10"),
        ("reopen", "40"),
    ):
        ran(programs / "calls", what, bundle, times)
    ran(programs / "threads", bundle, "200")


def test_a_device_runs_it_and_counts_its_instructions(programs: Path, bundle: Path, tmp_path: Path) -> None:
    """By edgekd-bench as a device's runner: the golden outputs, and by the processor, or callgrind, instructions."""
    name, runner = bundle.name, next(programs.rglob("edgekd-bench"))
    target = by_env(tmp_path, more=f'runner = "{runner}"\nlibrary = {{ {name} = "" }}')
    assert target.times(name)
    with np.load(bundle / "golden.npz") as golden, reached(target, Progress(quiet=True)) as device:
        found = device.outputs(bundle / "engine", [golden["inputs"]])[0]
        np.testing.assert_allclose(found, golden["outputs"], rtol=0, atol=1e-5 if name == "ncnn" else 0)
        if name != "executorch":
            return  # callgrind takes seconds to start a runtime: one of them shows it
        assert device.profile(bundle / "engine", None, 1) is None, "edgekd-bench has no profiler"
        count, how = device.instructions(bundle / "engine", None, 1)
    if how == "" or which("valgrind"):
        assert count is not None and count > 10_000 and how in ("", "counted by valgrind")
    else:
        assert count is None and "cannot be read" in how and "valgrind" in how


def test_tvm_leaves_its_caller_where_it_was(programs: Path, folder: Path) -> None:
    """By itself it pins its callers to the first cores, and takes half of x86's cores at most, whatever it is asked for."""
    if command := open_backend("tvm").missing():
        pytest.skip(f"tvm is an extra: {command}")
    made = folder / "tvm" / "tvm"
    for threads in ("1", "2"):
        done = ran(programs / "affinity", made if made.exists() else write(folder / "tvm", "tvm"), threads)
        assert done.returncode == 0


@pytest.mark.parametrize(("kind", "threads"), [("serial", 1), ("parallel", 2)])
def test_an_error_inside_tvms_kernel_is_an_error_of_the_call(
    programs: Path, folder: Path, tmp_path: Path, kind: str, threads: int
) -> None:
    """It does not end the app's process, not even from a thread of TVM's pool."""
    if command := open_backend("tvm").missing():
        pytest.skip(f"tvm is an extra: {command}")
    from backends.tvm_kernels import raising

    made = folder / "tvm" / "tvm"
    other = changed(made if made.exists() else write(folder / "tvm", "tvm"), tmp_path / "other", "bundle.json")
    library = other / "engine" / "model.so"
    raising(kind, threads, library)
    facts = {"bytes": library.stat().st_size, "threads": threads, "options": {"threads": threads}}
    raises = changed(other, tmp_path / "raises", "engine/engine.json", **facts)
    assert ran(programs / "calls", "raises", raises).returncode == 0


def test_a_missing_runtime_names_the_command(programs: Path, bundle: Path, tmp_path: Path) -> None:
    name = bundle.name
    variable = f"EDGEKD_{name.upper()}_{'MODULE' if name in MODULES else 'ROOT'}"
    assert ran(programs / "calls", "open", bundle).stdout.startswith(b"0 ")
    told = ran(programs / "calls", "open", bundle, **{variable: "/nowhere"}).stdout.decode()
    assert told.startswith("5 the runtime's library cannot be loaded (/nowhere")
    assert CURES[name] in told
    other = ran(programs / "calls", "open", bundle, **{variable: "libm.so.6"}).stdout.decode()
    assert re.match(r"5 libm\.so\.6 is no .* \(it has no \w+\): ", other)
    assert CURES[name] in other


def test_a_newer_engine_is_refused(programs: Path, second: Path, tmp_path: Path) -> None:
    newer = changed(second, tmp_path / "newer", "engine/engine.json", versions={"openvino": "2099.1.0"})
    told = ran(programs / "calls", "open", newer).stdout.decode()
    assert re.match(
        r"6 the bundle was compiled with openvino 2099\.1\.0; \S+ is 20\S+: pip install openvino==2099\.1\.0", told
    )
    assert ran(programs / "calls", "open", newer, "any").stdout.startswith(b"0 20")
    broken = changed(second, tmp_path / "broken", "engine/engine.json")
    (broken / "engine" / "model.xml").write_bytes(b"not a model")
    whole = changed(broken, tmp_path / "whole", "bundle.json")
    assert ran(programs / "calls", "open", whole).stdout.startswith(b"7 openvino refuses the engine: ")
    options = {"options": {"NO_SUCH_OPTION": "1"}}
    unknown = changed(second, tmp_path / "unknown", "engine/engine.json", **options)
    assert b"NO_SUCH_OPTION" in ran(programs / "calls", "open", unknown).stdout


def test_two_backends_in_one_program(programs: Path, first: Path, second: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    inputs = ((pixels.astype(np.float64) / 255 - 0.5) / 0.25).astype(np.float32)[None, None]
    (tmp_path / "image.pgm").write_bytes(b"P5 8 8 255\n" + pixels.tobytes())
    expected = []
    for path in (first, second):
        with edgekd.load(path) as student:
            expected.append(f"{path.name}: {'abcde'[student.run([inputs])[0].argmax()]}")
    said = ran(programs / "examples" / "two_students", tmp_path / "image.pgm").stdout.decode()
    assert said.splitlines() == expected


def test_openvino_takes_a_dynamic_batch(programs: Path, folder: Path, second: Path) -> None:
    batches = write(folder / "batches", "openvino", float_model("batch"))
    assert ran(programs / "calls", "batches", batches).returncode == 0


def test_edgekd_adds_no_allocation_to_openvinos(programs: Path, second: Path) -> None:
    (library,) = (folder_of("openvino") / "libs").glob("libopenvino_c.so*")
    found = json.loads(ran(programs / "overhead", second, library, "20").stdout)
    assert found["same"]
    assert found["allocations"]["student"] == found["allocations"]["direct"] > 0


def test_declarations_are_the_headers(programs: Path) -> None:
    """Compiling it was the comparison; what it prints is what there were headers for."""
    said = ran(programs / "declarations").stdout.decode().split()
    assert "openvino" in said
    assert ("tvm" in said) == (find_spec("tvm_ffi") is not None)


def test_cmake_warns_where_a_bundle_needs_what_is_missing(bundle: Path, tmp_path: Path) -> None:
    variable = f"-DEDGEKD_{bundle.name.upper()}_ROOT=/nowhere"
    done = ran("cmake", "-S", app(tmp_path, bundle), "-B", tmp_path / "build", f"-Dedgekd_DIR={CMAKE}", variable)
    said = " ".join(done.stderr.decode().split())
    assert f"EDGEKD_{bundle.name.upper()}_ROOT=/nowhere holds no " in said
    assert CURES[bundle.name] in said


def test_a_backend_without_a_session_is_refused_by_cmake(first: Path, tmp_path: Path) -> None:
    other = changed(first, tmp_path / "other", "engine/engine.json", backend="coreml")
    done = ran("cmake", "-S", app(tmp_path, other), "-B", tmp_path / "build", f"-Dedgekd_DIR={CMAKE}", code=1)
    said = " ".join(done.stderr.decode().split())
    known = "onnxruntime, openvino, executorch, litert, ncnn, tensorrt, tvm, null"
    assert f"the bundle's engine is for coreml; this edgekd has C++ sessions for {known}. Compile the recipe" in said
