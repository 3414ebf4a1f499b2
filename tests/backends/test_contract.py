"""Every file in edgekd/backends/ keeps the contract."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.folders import write_program

from edgekd import bundle, registry, worker
from edgekd.backend import Backend, Signature, load_engine, open_backend
from edgekd.errors import UserError

RUNTIMES = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxslim",
    "openvino",
    "tvm",
    "executorch",
    "ai_edge_litert",
    "litert_torch",
    "jax",
    "ncnn",
    "pnnx",
    "coremltools",
)


#: Whose runtime is torch, or whose Python runtime hands tensors over as torch's: only these import it.
OF_TORCH = ("executorch", "torch")


def usable() -> list[str]:
    """Those that compile here; what compiles on a device has tests of its own."""
    found = {name: open_backend(name) for name in registry.names("backends")}
    return [name for name, backend in found.items() if not (backend.missing() or backend.on_device)]


def runnable() -> list[str]:
    return [name for name in usable() if not open_backend(name).compile_only]


def compiled_by(backend: Backend, program: Path, out: Path) -> dict[str, Any]:
    """Here; in a worker, as the pipeline does, where the compiler has an environment of its own."""
    if backend.environment is None:
        return backend.compile(program, out, {"name": "host"}, 1)
    folders = {"program": str(program), "out": str(out)}
    request = {"backend": backend.name, **folders, "target": {"name": "host"}, "threads": 1}
    return worker.call("compile", request, env=backend.variables())


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """The float program compiled by a backend, once; by `torch` without a compiler, whose own test waits for that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgekd.backends.torch.cpp_compiler", lambda: "")

        @cache
        def compiled(name: str) -> Path:
            folder = tmp_path_factory.mktemp(name)
            (folder / "engine").mkdir()
            compiled_by(open_backend(name), write_program(folder / "program"), folder / "engine")
            return folder / "engine"

        yield compiled


@pytest.mark.parametrize("name", registry.names("backends"))
def test_importing_a_backend_and_asking_what_is_missing_imports_no_runtime(name: str) -> None:
    code = (
        f"import sys; from edgekd.backend import open_backend; b = open_backend({name!r}); b.missing(); b.versions();"
        f"import edgekd.worker, edgekd.tasks, edgekd.latency.race, edgekd.latency.rounds;"
        f"print([m for m in {RUNTIMES!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", registry.names("backends"))
def test_it_is_a_final_backend_named_like_its_file(name: str) -> None:
    backend = open_backend(name)
    assert isinstance(backend, Backend)
    assert backend.name == name
    assert getattr(type(backend), "__final__", False)
    assert backend.grid({"name": "host"}) in ("affine", "symmetric", "none")
    if backend.environment is not None:
        pins = dict(pin.split("==") for pin in backend.environment.pins)
        assert not set(pins) & set(backend.packages.values()), "it is laid over those, and known by their versions"


@pytest.mark.parametrize("name", usable())
def test_compiling_again_gives_the_same_bytes_and_the_same_outputs(
    name: str, engine_of: Callable[[str], Path], tmp_path: Path
) -> None:
    backend, program = open_backend(name), write_program(tmp_path / "program")
    assert backend.unsupported(program, {"name": "host", "precisions": ["float32"]}) == []
    engines = [engine_of(name), tmp_path / "two"]
    engines[1].mkdir()
    facts = compiled_by(backend, program, engines[1])
    assert facts == json.loads((engines[1] / "engine.json").read_text())
    assert {"backend", "file", "versions", "precision", "integer_nodes", "float_nodes", "options", "bytes"} <= set(
        facts
    )
    held = [[p.relative_to(engine) for p in sorted(engine.rglob("*")) if p.is_file()] for engine in engines]
    own = [file for file in held[0] if str(file) not in ("engine.json", "signature.json")]
    assert facts["file"] in {file.parts[0] for file in own}
    assert facts["bytes"] == sum((engines[0] / file).stat().st_size for file in own) > 0
    assert held[0] == held[1]
    for file in held[0]:
        assert (engines[0] / file).read_bytes() == (engines[1] / file).read_bytes(), file
    if backend.compile_only:
        with pytest.raises(UserError, match=re.escape(backend.compile_only)):
            load_engine(engines[0])
        return
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    results = []
    for engine in engines:
        with load_engine(engine) as session:
            assert session.signature == Signature.read(program)
            (y,) = session.run([x])
            assert y.shape == (1, 5)
            assert y.dtype == np.float32
            results.append(y)
            x.setflags(write=False)  # as inputs read from a file without a copy are
            turned = np.asfortranarray(x)
            for _ in range(100):  # a copy that is let go too early is overwritten now and then
                np.testing.assert_array_equal(session.run([x])[0], y)
                np.testing.assert_array_equal(session.run([turned])[0], y)
            session.close()
            session.close()
            with pytest.raises(UserError, match="this session was closed"):
                session.run([x])
    assert np.array_equal(results[0], results[1])


@pytest.mark.parametrize("name", usable())
def test_a_precision_that_the_target_does_not_list_is_unsupported(name: str, tmp_path: Path) -> None:
    program = write_program(tmp_path / "program")
    lines = open_backend(name).unsupported(program, {"name": "tiny-board", "precisions": ["int8"]})
    assert lines[0] == "the program is float32; the target tiny-board takes int8"


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "takes 1 input(s) (x), got 0"),
        ([np.zeros((1, 1, 8, 8), np.float32)] * 2, "got 2"),
        ([np.zeros((1, 1, 8, 9), np.float32)], 'input "x" has shape [1, 1, 8, 9], the engine takes [1, 1, 8, 8]'),
        ([np.zeros((1, 8, 8), np.float32)], "has shape [1, 8, 8]"),
        ([np.zeros((1, 1, 8, 8))], "has dtype float64, the engine takes float32"),
        ([[[[0.0]]]], "is a list, not a numpy array"),
    ],
)
def test_wrong_inputs_are_named(name: str, inputs: list[object], says: str, engine_of: Callable[[str], Path]) -> None:
    with load_engine(engine_of(name)) as session, pytest.raises(UserError) as caught:
        session.run(inputs)  # type: ignore[arg-type]
    assert says in caught.value.message


@pytest.mark.parametrize("name", runnable())
def test_an_engine_works_in_a_bundle(name: str, engine_of: Callable[[str], Path], tmp_path: Path) -> None:
    versions = open_backend(name).versions()
    x = np.zeros((1, 1, 8, 8), np.float32)
    with load_engine(engine_of(name)) as session:
        (y,) = session.run([x])
    bundle.write(tmp_path / "b", engine_of(name), {"name": "n"}, {"inputs": x, "outputs": y}, [], versions)
    listed = {path.partition("/")[2] for path in bundle.read(tmp_path / "b")["files"] if path.startswith("engine/")}
    assert listed == {file.name for file in engine_of(name).iterdir()}
    assert list((tmp_path / "b" / "licences").glob(f"{next(iter(versions))}-*")), "the runtime's licence"
    with bundle.load(tmp_path / "b") as session:
        np.testing.assert_array_equal(session.run([x])[0], y)


@pytest.mark.parametrize("name", runnable())
def test_only_the_runtimes_of_torch_import_torch(name: str, engine_of: Callable[[str], Path]) -> None:
    code = (
        "import sys, numpy; from pathlib import Path; from edgekd.backend import load_engine;"
        "session = load_engine(Path(sys.argv[1])); session.run([numpy.zeros((1, 1, 8, 8), 'float32')]);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, engine_of(name)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == str(name in OF_TORCH)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"backend": "nul"}, 'did you mean "null"?'),
        ({"backend": "../evil"}, "no backend named"),
        ({"backend": None}, "no backend named"),
        ({"file": "../program/model.onnx"}, "not the name of a file in this folder"),
        ({"file": ".."}, "not the name of a file in this folder"),
        ({"file": "gone.json"}, "does not exist"),
        ({"format": 99}, "engine of format 99"),
    ],
)
def test_a_changed_engine_is_refused(change: dict[str, object], says: str, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    facts = open_backend("null").compile(write_program(tmp_path / "program"), engine, {}, 1)
    (engine / "engine.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(UserError, match=".") as caught:
        load_engine(engine)
    assert says in str(caught.value)


def test_broken_json_and_missing_folders_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_engine(tmp_path / "nowhere")
    (tmp_path / "engine.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_engine(tmp_path)
    (tmp_path / "engine.json").write_text("[]")
    with pytest.raises(UserError, match="no JSON object"):
        load_engine(tmp_path)
    (tmp_path / "signature.json").write_text('{"inputs": [{"name": "x"}], "outputs": []}')
    with pytest.raises(UserError, match="not a signature: KeyError"):
        Signature.read(tmp_path)


def test_missing_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend("onnxruntime")
    assert backend.missing() == ""
    monkeypatch.setattr("edgekd.backend.find_spec", lambda name: None)
    monkeypatch.setattr(
        "importlib.metadata.requires",
        lambda name: ['onnx==1.18; extra == "x"', "onnxruntime>=1.22", "onnxruntime-gpu"],
    )
    assert backend.missing() == "pip install 'onnxruntime>=1.22' 'edgekd[x]' onnx==1.18"
    assert backend.missing(to_open=True) == "pip install 'onnxruntime>=1.22'"  # a device compiles nothing


def test_the_lock_of_the_tests_has_the_extras_pins() -> None:
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    locked = (root / "requirements-backends.lock").read_text("utf-8").splitlines()
    wanted = {pin for extra in ("openvino", "executorch") for pin in extras[extra]}
    assert wanted - set(locked) == {"nncf==3.4.0"}, "requirements-backends.lock says why that is left out"


def test_a_dynamic_batch_takes_any_and_noise_follows_dtype(tmp_path: Path) -> None:
    ports = [
        {"name": "ids", "shape": ["batch", 4], "dtype": "int64"},
        {"name": "m", "shape": [None, 4], "dtype": "bool"},
    ]
    (tmp_path / "signature.json").write_text(json.dumps({"inputs": ports, "outputs": []}))
    signature = Signature.read(tmp_path)
    ids, mask = signature.noise(3)
    assert (ids.shape, ids.dtype, mask.shape, mask.dtype) == ((1, 4), np.int64, (1, 4), np.bool_)
    assert set(ids.ravel().tolist()) <= {0, 1}
    assert all(np.array_equal(a, b) for a, b in zip(signature.noise(3), [ids, mask], strict=True))
