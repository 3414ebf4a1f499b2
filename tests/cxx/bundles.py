"""Small real bundles and how the tests build C++ around them: x [1, 1, 8, 8] to y [1, 5], labels a to e."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from backends.folders import write_program

from edgekd import bundle, digest, worker
from edgekd.backend import load_engine, open_backend

ROOT = Path(__file__).resolve().parent.parent.parent
CMAKE = ROOT / "cmake"
WARNINGS = "-Wall -Wextra -Wconversion -Wpedantic -Werror"
PREPROCESSING = {"scale": 1 / 255, "mean": [0.5], "std": [0.25], "layout": "NCHW", "crop": {"size": [8, 8]}}
SAMPLES = 4

needs_compilers = pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("c++")), reason="needs cmake and g++: apt-get install cmake g++"
)


def write(
    folder: Path,
    backend: str = "onnxruntime",
    model: onnx.ModelProto | None = None,
    around: dict[str, Any] | None = None,
    **facts: Any,
) -> Path:
    """A bundle in `folder / backend`, with the engine's own outputs as golden ones."""
    program, engine = folder / "program", folder / "engine"
    shutil.rmtree(folder, ignore_errors=True)
    write_program(program, model)
    signature = json.loads((program / "signature.json").read_text())
    (program / "signature.json").write_text(json.dumps(signature | {"preprocessing": PREPROCESSING}))
    engine.mkdir()
    if elsewhere := open_backend(backend).variables():  # a compiler in an environment of its own
        request = {"backend": backend, "program": str(program), "out": str(engine), "target": {}, "threads": 1}
        worker.call("compile", request, env=elsewhere)
    else:
        open_backend(backend).compile(program, engine, {}, 1)
    inputs = np.random.default_rng(3).standard_normal((SAMPLES, 1, 8, 8)).astype(np.float32)
    with load_engine(engine) as session:
        outputs = np.concatenate([session.run([x[None]])[0] for x in inputs])
    (folder / "LICENSE").write_text("free")
    promised = {"latency": {"median": 1e-9}, "agreement": {"kl": float("nan")}}
    told = {"name": "tiny", "backend": backend, "edgekd": "0.1.0", "promised": promised}
    tolerance = {"tolerance": {"top1": 1.0, "absolute": 1e-4}}
    golden = {"inputs": inputs, "outputs": outputs}
    packages = open_backend(backend).versions()
    told = {**told, **tolerance, **facts}
    bundle.write(folder / backend, engine, told, golden, [folder / "LICENSE"], packages, around=around)
    return folder / backend


def changed(source: Path, folder: Path, file: str, **facts: Any) -> Path:
    """A copy of a bundle with `facts` in one of its JSON files, its digests true again."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"] = digest.of_folder(folder, frozenset({"bundle.json", "bundle.sig"}))
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def runtime_library() -> Path:
    """ONNX Runtime's library in the wheel of this Python."""
    spec = find_spec("onnxruntime")
    assert spec and spec.submodule_search_locations
    (found,) = (Path(spec.submodule_search_locations[0]) / "capi").glob("libonnxruntime.so*")
    return found


def ran(
    *command: str | Path, code: int = 0, stdin: bytes | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command that must end with `code`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("EDGEKD")}
    done = subprocess.run(
        [str(c) for c in command], input=stdin, capture_output=True, check=False, env={**clean, **environment}
    )
    assert done.returncode == code, f"{' '.join(map(str, command))}\n{done.stdout.decode()}\n{done.stderr.decode()}"
    return done


def build(source: Path, out: Path, *options: str, flags: str = WARNINGS, targets: tuple[str, ...] = ()) -> str:
    """Configure and build a CMake project with this Python as the active one; what CMake said.

    With ccache, what one test module has compiled is not compiled again for another.
    """
    launcher = {f"CMAKE_{one}_COMPILER_LAUNCHER": "ccache" for one in ("C", "CXX") if shutil.which("ccache")}
    said = ran(
        "cmake", "-S", source, "-B", out, f"-DPython3_EXECUTABLE={sys.executable}", f"-DCMAKE_CXX_FLAGS={flags}",
        f"-DCMAKE_C_FLAGS={flags}", "-DCMAKE_BUILD_TYPE=None", *options, **launcher,
    )  # fmt: skip
    jobs = str(os.cpu_count() or 1)
    ran("cmake", "--build", out, "-j", jobs, *(("--target", *targets) if targets else ()))
    return said.stdout.decode() + said.stderr.decode()
