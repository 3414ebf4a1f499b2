"""Apps for Arm, cross-compiled by the targets' toolchain files and run under qemu-user: the outputs are those of x86.

The null session and ONNX Runtime on both, in float and in int8; machine code by TVM on 64-bit Arm.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from backends.folders import int8_model
from cxx.bundles import CMAKE, ROOT, build, changed, needs_compilers, ran, write

import edgekd
from edgekd.backend import open_backend

pytestmark = [needs_compilers, pytest.mark.slow]


@dataclass(frozen=True)
class Device:
    toolchain: str
    emulator: str
    processor: str
    machine: str
    package: str
    wheel: str
    platform: str
    runtime: str

    @property
    def missing(self) -> bool:
        return not (shutil.which(f"{self.toolchain}-g++") and shutil.which(self.emulator))


HERE = version("onnxruntime")
DEVICES = (
    # Without SME, whose integer products qemu before 8.2.3 gets wrong: docs/emulated-arm.md.
    Device(
        "aarch64-linux-gnu", "qemu-aarch64", "max,sme=off", "AArch64", "g++-aarch64-linux-gnu",
        f"onnxruntime=={HERE}", "manylinux_2_28_aarch64", HERE,
    ),
    # ONNX Runtime has no wheel for it; another project's wheel carries its library, an older one.
    Device(
        "arm-linux-gnueabihf", "qemu-arm", "max", "ARM", "g++-arm-linux-gnueabihf",
        "sherpa-onnx-core==2.0.1", "manylinux_2_35_armv7l", "1.28.2",
    ),
)  # fmt: skip
# What a device's /proc/cpuinfo says. qemu-user shows this machine's own, and the runtimes' cpuinfo library, which looks there for
# the cores of an Arm, ends the process for want of one (seen with ONNX Runtime 1.31.1 and qemu 7.2).
CPUINFO = """processor\t: {core}
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd03
CPU revision\t: 4

"""
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cross")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    return write(folder / "null", "null")


@pytest.fixture(scope="module", params=DEVICES, ids=lambda device: device.toolchain)
def device(request: pytest.FixtureRequest) -> Device:
    device: Device = request.param
    if device.missing:
        pytest.skip(f"needs a cross compiler and an emulator: apt-get install {device.package} qemu-user")
    return device


@pytest.fixture(scope="module")
def programs(device: Device, folder: Path, bundle: Path) -> Path:
    """Test programs, the example classifier and edgekd-bench, built for the device as a user builds them."""
    toolchain = ROOT / "targets" / "toolchains" / f"{device.toolchain}.cmake"
    options = ("--toolchain", str(toolchain), f"-Dedgekd_DIR={CMAKE}", f"-DBUNDLE={bundle}", "-DPROGRAMS=calls")
    out = folder / device.toolchain
    build(ROOT / "tests" / "cxx", out, *options, "-DEDGEKD_BENCH=ON", "-DEDGEKD_ONNXRUNTIME_ROOT=/nowhere",
          targets=("calls", "classifier", "edgekd-bench"))  # fmt: skip
    return out


@pytest.fixture(scope="module")
def root(device: Device, folder: Path) -> Path:
    """What the emulator takes for the device's files, before this machine's: its libraries, and its /proc/cpuinfo."""
    made = folder / f"root-{device.toolchain}"
    (made / "proc").mkdir(parents=True)
    (made / "lib").symlink_to(f"/usr/{device.toolchain}/lib")
    (made / "proc" / "cpuinfo").write_text("".join(CPUINFO.format(core=core) for core in range(os.cpu_count() or 1)))
    return made


@pytest.fixture
def emulated(device: Device, programs: Path, root: Path) -> Run:
    """Run one of the built programs as the device would."""

    def run(program: str, *arguments: str | Path, **more: object) -> subprocess.CompletedProcess[bytes]:
        (path,) = (p for p in programs.rglob(program) if p.is_file())
        return ran(device.emulator, "-cpu", device.processor, "-L", root, path, *arguments, **more)  # type: ignore[arg-type]

    return run


def test_the_programs_are_the_devices(device: Device, programs: Path) -> None:
    header = ran("readelf", "-h", programs / "calls").stdout.decode()
    assert f"Machine:                           {device.machine}" in header


@pytest.mark.parametrize("what", ["metadata", "wrong_calls", "self_test", "damaged"])
def test_calls(what: str, emulated: Run, bundle: Path) -> None:
    assert emulated("calls", what, bundle, "20").returncode == 0


def test_the_classifier_says_what_python_says_here(emulated: Run, bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    x = ((pixels.astype(np.float64) / 255 - 0.5) / 0.25).astype(np.float32)
    with edgekd.load(bundle) as student:
        label = "abcde"[student.run([x[None, None]])[0].argmax()]
    (tmp_path / "image.pgm").write_bytes(b"P5 8 8 255\n" + pixels.tobytes())
    assert emulated("classifier", tmp_path / "image.pgm").stdout.decode().split()[0] == label


def test_the_golden_outputs_of_x86_are_the_devices(emulated: Run, bundle: Path, tmp_path: Path) -> None:
    found = json.loads(emulated("edgekd-bench", "--verify", bundle).stdout)
    assert found["ok"], found["reason"]
    assert found["samples"] == 4
    assert found["top1"] == 1
    assert found["difference"] <= 1e-6  # of sums of doubles, rounded to float: a contraction may move the last bit
    wrong = changed(bundle, tmp_path / "wrong", "bundle.json")
    with np.load(bundle / "golden.npz") as golden:
        np.savez(wrong / "golden.npz", inputs=golden["inputs"], outputs=golden["outputs"] + np.float32(0.01))
    told = json.loads(
        emulated("edgekd-bench", "--verify", changed(wrong, tmp_path / "whole", "bundle.json"), code=1).stdout
    )
    assert told["difference"] == pytest.approx(0.01, rel=1e-3)


@pytest.fixture(scope="module")
def library(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The device's ONNX Runtime, out of a wheel on the package index."""
    return out_of_wheel(device.wheel, device.platform, "libonnxruntime.so", tmp_path_factory.mktemp("wheel"))


def out_of_wheel(wheel: str, platform: str, library: str, folder: Path) -> Path:
    """A library out of a wheel for another processor, where it lies in that."""
    command = [
        sys.executable, "-m", "pip", "download", wheel, "--no-deps", "--only-binary=:all:", f"--platform={platform}",
        f"--python-version={sys.version_info[0]}.{sys.version_info[1]}", "--disable-pip-version-check", "-q", "-d", str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob(f"{wheel.partition('=')[0].replace('-', '_')}-*.whl"))
    if not wheels:
        pytest.skip(f"{wheel} for {platform} cannot be had: {done.stderr.strip().splitlines()[-1:]}")
    with zipfile.ZipFile(wheels[0]) as archive:
        (name,) = (n for n in archive.namelist() if f"/{library}" in n)
        return Path(archive.extract(name, folder))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_onnxruntime_gives_what_it_gives_here(
    precision: str, device: Device, emulated: Run, library: Path, tmp_path: Path
) -> None:
    """In float and in int8 but for the last bits of a float: its integer kernels round alike."""
    model = int8_model() if precision == "int8" else None
    made = write(tmp_path / precision, "onnxruntime", model)
    same = changed(made, tmp_path / "same", "engine/engine.json", versions={"onnxruntime": device.runtime})
    found = json.loads(emulated("edgekd-bench", "--verify", same, EDGEKD_ONNXRUNTIME_ROOT=str(library)).stdout)
    assert found["ok"], found["reason"]
    assert found["runtime"] == device.runtime
    assert found["top1"] == 1
    assert found["difference"] <= 1e-6


@pytest.fixture(scope="module")
def tvm(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TVM's runtime for the device, which finds the other library where the wheels would put it."""
    if command := open_backend("tvm").missing():
        pytest.skip(f"tvm is an extra: {command}")
    if device.machine != "AArch64":
        pytest.skip("TVM's wheels on the package index are for x86-64 and 64-bit Arm")
    folder, platform = tmp_path_factory.mktemp("tvm"), "manylinux_2_28_aarch64"
    out_of_wheel(f"apache-tvm-ffi=={version('apache-tvm-ffi')}", platform, "libtvm_ffi.so", folder)
    return out_of_wheel(f"apache-tvm=={version('apache-tvm')}", platform, "libtvm_runtime.so", folder)


def test_code_by_tvm_gives_what_it_gives_here(emulated: Run, tvm: Path, tmp_path: Path) -> None:
    """The bundle of an engine for this machine, with its code for the device instead: the golden outputs are still those."""
    made = write(tmp_path / "tvm", "tvm")
    target = {"triple": "aarch64-linux", "isa": ["asimd", "asimddp"]}
    with TemporaryDirectory() as folder:
        open_backend("tvm").compile(tmp_path / "tvm" / "program", Path(folder), target, 1)
        shutil.copytree(folder, made / "engine", dirs_exist_ok=True)
    whole = changed(made, tmp_path / "whole", "engine/engine.json")
    found = json.loads(emulated("edgekd-bench", "--verify", whole, EDGEKD_TVM_ROOT=str(tvm)).stdout)
    assert found["ok"], found["reason"]
    assert found["backend"] == "tvm" and found["top1"] == 1
    assert found["difference"] <= 1e-5
