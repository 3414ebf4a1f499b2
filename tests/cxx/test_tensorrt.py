"""TensorRT's C++ session, as far as it goes without a GPU: what CMake says, what compiles, and what opening an engine answers.

The headers of TensorRT and of CUDA are in no package index, so those who have them say where:
EDGEKD_TENSORRT_INCLUDE=<TensorRT's include>:<CUDA's include>.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from cxx.bundles import CMAKE, WARNINGS, changed, needs_compilers, ran, write

pytestmark = [needs_compilers, pytest.mark.slow]

INCLUDES = [Path(one) for one in os.environ.get("EDGEKD_TENSORRT_INCLUDE", "").split(os.pathsep) if one]
needs_headers = pytest.mark.skipif(
    not INCLUDES,
    reason="git clone -b v10.3.0 https://github.com/NVIDIA/TensorRT, get CUDA's toolkit, and say "
    "EDGEKD_TENSORRT_INCLUDE=TensorRT/include:/usr/local/cuda/include",
)
HEADERS = [word for folder in INCLUDES for word in ("-isystem", str(folder))]
OWN = ["-std=c++17", f"-I{CMAKE / 'src'}", f"-I{CMAKE / 'include'}", *HEADERS]


def test_cmake_says_where_tensorrt_is_had(tmp_path: Path) -> None:
    other = changed(write(tmp_path / "bundle", "null"), tmp_path / "other", "engine/engine.json", backend="tensorrt")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(app CXX)\nfind_package(edgekd CONFIG REQUIRED)\n"
        f"edgekd_add_student(x BUNDLE {other})\n"
    )
    options = (f"-Dedgekd_DIR={CMAKE}", "-DEDGEKD_BACKENDS=tensorrt", "-DEDGEKD_TENSORRT_ROOT=/nowhere")
    done = ran("cmake", "-S", tmp_path, "-B", tmp_path / "build", *options)
    said = " ".join(done.stderr.decode().split())
    assert "EDGEKD_TENSORRT_ROOT=/nowhere holds no header NvInferRuntime.h of TensorRT" in said
    assert "sudo apt-get install nvidia-jetpack" in said


@needs_headers
@pytest.mark.parametrize("compiler", [name for name in ("g++", "clang++") if shutil.which(name)])
def test_the_module_compiles_without_a_warning(compiler: str) -> None:
    done = ran(compiler, *OWN, *WARNINGS.split(), "-fsyntax-only", CMAKE / "src" / "module_tensorrt.cpp")
    assert done.stderr == b""


class File(ctypes.Structure):
    _fields_ = (("path", ctypes.c_char_p), ("begin", ctypes.c_void_p), ("end", ctypes.c_void_p))


class Engine(ctypes.Structure):
    """`edgekd::module::Engine` of cmake/src/module.hpp."""

    _fields_ = (
        ("files", ctypes.POINTER(File)), ("file_count", ctypes.c_size_t), ("file", ctypes.c_char_p),
        ("inputs", ctypes.c_void_p), ("input_count", ctypes.c_size_t),
        ("outputs", ctypes.c_void_p), ("output_count", ctypes.c_size_t),
        ("options", ctypes.c_void_p), ("option_count", ctypes.c_size_t), ("threads", ctypes.c_int),
    )  # fmt: skip


class Status(ctypes.Structure):
    _fields_ = (("code", ctypes.c_int), ("message", ctypes.c_char * 1020))


class Interface(ctypes.Structure):
    """`edgekd::module::Interface`."""

    _fields_ = (
        ("interface", ctypes.c_int), ("version", ctypes.c_char_p),
        ("open", ctypes.CFUNCTYPE(Status, ctypes.POINTER(Engine), ctypes.POINTER(ctypes.c_void_p))),
    )  # fmt: skip


def opened(tmp_path: Path, *definitions: str) -> tuple[int, str, str]:
    """The module built and given an engine that is none: code and message, and the version that it was compiled against."""
    module = tmp_path / "libedgekd_tensorrt.so"
    source = CMAKE / "src" / "module_tensorrt.cpp"
    ran("g++", *OWN, "-shared", "-fPIC", *definitions, source, "-o", module, "-ldl")
    library = ctypes.CDLL(str(module))
    library.edgekd_module.restype = ctypes.POINTER(Interface)
    found = library.edgekd_module().contents
    plan = ctypes.create_string_buffer(b"no plan")
    begin = ctypes.addressof(plan)
    file = File(b"model.plan", begin, begin + 7)
    engine = Engine(ctypes.pointer(file), 1, b"model.plan", None, 0, None, 0, None, 0, 1)
    session = ctypes.c_void_p()
    status = found.open(ctypes.byref(engine), ctypes.byref(session))
    assert session.value is None
    return status.code, status.message.decode(), found.version.decode()


@needs_headers
def test_a_missing_library_is_named_with_the_cure(tmp_path: Path) -> None:
    code, message, version = opened(tmp_path, '-DEDGEKD_NVINFER="/nowhere/libnvinfer.so"')
    assert code == 5 and message.startswith("TensorRT cannot be loaded (/nowhere/libnvinfer.so: ")
    assert message.endswith("on a Jetson, sudo apt-get install nvidia-jetpack")
    assert int(version.split(".")[0]) >= 10


@needs_headers
@pytest.mark.skipif(find_spec("tensorrt_rtx_libs") is None, reason="tensorrt_rtx is an extra")
@pytest.mark.skipif(
    Path("/dev/nvidiactl").exists(), reason="there is a GPU: the library of another product is not TensorRT's"
)
def test_a_real_library_starts_and_cuda_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    """TensorRT for RTX's library has TensorRT's entry point: it is loaded and makes a runtime; then CUDA is asked for a stream."""
    spec = find_spec("tensorrt_rtx_libs")
    assert spec and spec.submodule_search_locations
    (library,) = Path(spec.submodule_search_locations[0]).glob("libtensorrt_rtx.so*")
    code, message, _ = opened(tmp_path, f'-DEDGEKD_NVINFER="{library}"')
    if code == 5:  # TensorRT was loaded: what is missing is CUDA's
        assert message.startswith("CUDA's runtime cannot be loaded (libcudart.so.")
    else:
        assert code == 7 and re.match(r"CUDA cannot use a GPU: .*CUDA", message)
