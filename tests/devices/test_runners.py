"""Both runners by the one protocol: edgekd-bench built for this machine and for a 64-bit Arm under qemu, and Python's.

Times under qemu mean nothing; what is held there is that the outputs are x86's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.folders import int8_model
from cxx.bundles import needs_compilers
from devices.boards import X, board, by_env, left, real, simulated
from devices.promises import answers_nonsense, races, refuses_a_changed_bundle

from edgekd.backend import load_engine
from edgekd.devices import bench
from edgekd.devices.bench import runner_of
from edgekd.devices.client import Client
from edgekd.devices.device import Device, reached, told
from edgekd.devices.link import LinkError
from edgekd.devices.local import LocalLink
from edgekd.errors import UserError
from edgekd.latency import instructions
from edgekd.latency.clock import ClockError
from edgekd.latency.race import race
from edgekd.progress import Progress

QUIET = Progress(quiet=True)
QEMU, SYSROOT = "qemu-aarch64", Path("/usr/aarch64-linux-gnu")
needs_qemu = pytest.mark.skipif(
    not (shutil.which(QEMU) and shutil.which("aarch64-linux-gnu-g++") and shutil.which("cmake")),
    reason="needs qemu and a cross compiler: apt-get install qemu-user g++-aarch64-linux-gnu cmake",
)
CORTEX_A72 = "".join(
    f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
    for core in range(4)
)
WHEEL = ("onnxruntime==1.31.1", "manylinux_2_28_aarch64")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of this module's own: what is built is kept there."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_STORE", str(folder))
        patch.setattr(bench, "BUILD", "None")  # not optimised: it is built sooner
        yield folder


@pytest.fixture(scope="module")
def arm_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime for aarch64, out of PyPI's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    package, platform = WHEEL
    asked = [
        "--platform",
        platform,
        "--only-binary=:all:",
        "--no-deps",
        "--python-version",
        "3.11",
        "--dest",
        str(folder),
    ]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *asked, package]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"{package} for aarch64 cannot be had: {done.stderr.decode().strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as held:
        (name,) = [name for name in held.namelist() if "/libonnxruntime.so" in name]
        return Path(held.extract(name, folder))


def test_real_engines_race_on_a_device(tmp_path: Path) -> None:
    told = races(by_env(tmp_path), tmp_path)
    assert "Python" in told["runner"]


def test_requests_that_make_no_sense(tmp_path: Path) -> None:
    done = answers_nonsense([sys.executable, "-P", "-m", "edgekd.devices.runner"], tmp_path)
    assert done["protocol"] == 1 and "null" in done["backends"]


def test_a_bundle_that_was_changed_on_the_way_is_not_opened(tmp_path: Path) -> None:
    assert "engine/model.onnx was changed" in refuses_a_changed_bundle(by_env(tmp_path), tmp_path)


@pytest.mark.slow
@needs_compilers
@needs_qemu
def test_qemu_computes_what_x86_does(store: Path, arm_library: Path, tmp_path: Path) -> None:
    """edgekd-bench cross-compiled by the target's toolchain, ONNX Runtime's own aarch64 library, both engines' outputs."""
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    (root / "lib").symlink_to(SYSROOT / "lib")
    (root / "proc" / "cpuinfo").write_text(CORTEX_A72)  # this machine's would be x86's, and crash ONNX Runtime
    (root / "sys" / "class" / "thermal" / "thermal_zone0").mkdir(parents=True)
    (root / "sys" / "class" / "thermal" / "thermal_zone0" / "temp").write_text("51250\n")
    for core in range(16):
        scaling = root / "sys" / "devices" / "system" / "cpu" / f"cpu{core}" / "cpufreq"
        scaling.mkdir(parents=True)
        (scaling / "scaling_cur_freq").write_text("1500000\n")
        (scaling / "scaling_governor").write_text("ondemand\n")
    reach = (
        f'kind = "exec"\ncommand = ["{QEMU}", "-cpu", "cortex-a72", "-L", "{root}"]\nfolder = "{tmp_path / "there"}"\n'
    )
    cross = {"triple": '"aarch64-linux"', "toolchain": '"aarch64-linux-gnu"', "package": '"g++-aarch64-linux-gnu"'}
    library = f'library = {{ onnxruntime = "{arm_library}", litert = "" }}'
    target = board(tmp_path, f"{reach}{library}", "arm", isa='["asimd"]', **cross)
    runner = runner_of(target)
    assert runner.files["edgekd-bench"].read_bytes()[18:20] == b"\xb7\x00", "an ELF file for aarch64"
    assert b"onnxruntime,litert,null" in runner.files["edgekd-bench"].read_bytes(), "sessions of what the target names"
    engines = {"float": real(tmp_path, "float"), "int8": real(tmp_path, "int8", model=int8_model(), precision="int8")}
    with reached(target, QUIET) as device:
        for name, folder in engines.items():
            there = device.outputs(folder, [X])[0]
            with load_engine(folder) as session:
                here = np.concatenate([session.run([x[None]])[0] for x in X])
            step = np.ptp(here) / 255
            np.testing.assert_allclose(there, here, rtol=0, atol=1e-5 if name == "float" else step)
            assert (there.argmax(1) == here.argmax(1)).all()
        found = race({"float": engines["float"]}, processes=1, seconds=0.05, wait=0.0, cold_starts=0, device=device)
        once, again = (device.instructions(engines["float"], None, 1) for _ in range(2))
    assert once[1] == "counted by qemu" and once[0] is not None and once[0] > 10_000
    assert again[0] == pytest.approx(once[0], rel=0.005), "what the gate tells apart"
    assert found.device is not None and found.device["machine"]["triple"] == "aarch64-linux"
    about = told(found.device)
    assert (about["celsius"], about["mhz"], about["governors"]) == ([51.25, 51.25], [1500, 1500], ["ondemand"])
    assert (found.runners["float"].samples > 0).all()
    for key, value, said in (
        ("triple", "riscv64-linux", "is aarch64-linux, the target arm is riscv64"),
        ("isa", ("asimd", "i8mm"), "has no i8mm, which the target arm has"),
    ):
        with reached(target.model_copy(update={key: value}), QUIET) as device, pytest.raises(UserError, match=said):
            device.outputs(engines["float"], [X])


def test_what_is_sent_of_a_runtime(tmp_path: Path) -> None:
    """A library as it is, a folder with all that is in it; the session of a C++ runtime is in a module, here a built one."""
    for name in (
        "bench",
        "libs/libopenvino_c.so.2641",
        "libs/plugins/cpu.so",
        "libLiteRt.so",
        "libedgekd_executorch.so",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    library = 'openvino = "libs", litert = "libLiteRt.so", tvm = "", executorch = "libedgekd_executorch.so"'
    runner = runner_of(by_env(tmp_path, more=f'runner = "bench"\nlibrary = {{ {library} }}'))
    assert {path: file.read_text() for path, file in runner.files.items()} == {
        "edgekd-bench": "bench",
        "lib/openvino/libopenvino_c.so.2641": "libs/libopenvino_c.so.2641",
        "lib/openvino/plugins/cpu.so": "libs/plugins/cpu.so",
        "lib/litert/libLiteRt.so": "libLiteRt.so",
        "lib/executorch/libedgekd_executorch.so": "libedgekd_executorch.so",
    }
    assert runner.environment == {
        "EDGEKD_OPENVINO_ROOT": "./lib/openvino",
        "EDGEKD_LITERT_ROOT": "./lib/litert/libLiteRt.so",
        "EDGEKD_EXECUTORCH_MODULE": "./lib/executorch/libedgekd_executorch.so",
    }
    assert runner.programs == ("edgekd-bench",)


def test_what_a_device_with_python_counts_and_profiles(tmp_path: Path) -> None:
    engine, why = real(tmp_path), instructions.unavailable()
    with reached(by_env(tmp_path), QUIET) as device:
        count, how = device.instructions(engine, None, 1)
        rows = device.profile(engine, None, 4)
    assert (count is None, how) == (True, why) if why else (count is not None and count > 10_000)
    assert rows is not None and sum(row["nodes"] for row in rows if row["operator"].startswith("Conv ")) == 2
    assert all(row["seconds"] >= 0 for row in rows)


def test_a_clock_that_goes_backwards(tmp_path: Path) -> None:
    """Now and then: the round is measured again. Always: nothing is believed."""
    asked: dict[str, Any] = {"processes": 1, "wait": 0.0, "cold_starts": 0}
    with reached(by_env(tmp_path), QUIET) as device:
        seldom = simulated(tmp_path, "seldom", 0.001, noise={"backwards": 0.002})
        found = race({"a": seldom}, seconds=0.3, block=0.02, **asked, device=device)
        assert (found.runners["a"].samples == 0.001).all() and found.runners["a"].samples.shape[2] == 20
        always = simulated(tmp_path, "always", 0.001, noise={"backwards": 1.0})
        with pytest.raises(ClockError, match="its clock went backwards in 4 blocks in a row"):
            race({"a": always}, seconds=0.1, **asked, device=device)


@pytest.mark.parametrize(
    ("answers", "reason", "said"),
    [
        (["nonsense"], "garbage", "garbage from the device: 'nonsense'"),
        (['{"done": {"protocol": 1'], "garbage", "half a line"),
        (["{}"], "garbage", "garbage from the device"),
        (['{"done": 5}'], "garbage", "garbage"),
        (['{"block": {"index": 0, "ns": [1], "conditions": []}}'], "garbage", "garbage"),
        (['{"done": {"protocol": 1}}', '{"done": {}}'], "garbage", "garbage"),
        (['{"done": {"protocol": 1}}', '{"done": {"share": "much"}}'], "garbage", "garbage"),
        (['{"done": {"protocol": 1}}', '{"done": {"share": 1e999, "per_cpu": []}}'], "garbage", "garbage"),
        (['{"done": {"protocol": 1, "machine": []}}'], "garbage", "garbage"),
        (['{"done": {"protocol": 1, "backends": ["tvm"]}}'], "user", "opens engines of tvm, not of null"),
        (['{"done": {"protocol": 1}}'], "exited", "ended with exit code 0 before it answered"),
        ([], "exited", "ended with exit code 0 before it answered"),
        (["sleep"], "timeout", "no answer after"),
        (['{"error": {"kind": "failed", "message": "on fire"}}'], "failed", "on fire"),
        (['{"done": {"protocol": 99}}'], "user", "a runner of protocol 99, this edgekd speaks 1"),
    ],
)
def test_a_device_that_answers_nonsense(answers: list[str], reason: str, said: str, tmp_path: Path) -> None:
    lines = [f"printf '%s' '{a}'" if a.count("{") > a.count("}") else f"echo '{a}'" for a in answers]
    script = "\n".join(
        "exec sleep 60" if a == "sleep" else f"read x; {line}" for a, line in zip(answers, lines, strict=True)
    )
    (tmp_path / "bench").write_text(f"#!/bin/sh\n{script}\n")
    target = by_env(tmp_path, more=f'runner = "{tmp_path / "bench"}"')
    engine = simulated(tmp_path, "a", 0.001)
    with reached(target, QUIET) as device, pytest.raises((LinkError, UserError), match=said) as caught:
        race({"a": engine}, processes=1, wait=0.0, timeout=1.0, device=device)
    assert getattr(caught.value, "reason", "user") == reason
    assert left(target) == []


CALM = '{"celsius": null, "mhz": [], "governor": ""}'


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ([(0, "[5]", CALM), (1, "[5]", CALM)], "garbage from the device: block 1 after 1 of 1"),
        ([(1, "[5]", CALM)], "block 1 after 0 of 1"),
        ([(0, "[5, 6]", CALM)], "block 0 after 0 of 1"),
        ([(0, "[true]", CALM)], "garbage"),
        ([(0, "[1e2]", CALM)], "garbage"),
        ([(0, "[5]", CALM.replace("null", '"hot"'))], "garbage"),
        ([(0, "[5]", CALM.replace("[]", "[NaN]"))], "garbage"),
        ([], "0 of 1 blocks were answered"),
    ],
)
def test_blocks_that_were_not_asked_for(blocks: list[tuple[int, str, str]], said: str, tmp_path: Path) -> None:
    lines = [
        f'{{"block": {{"index": {index}, "ns": {taken}, "conditions": [{CALM}, {after}]}}}}'
        for index, taken, after in blocks
    ]
    answers = ['{"done": {"protocol": 1}}', *lines, '{"done": {"others": 0}}']
    (tmp_path / "answers").write_text("".join(f"{line}\n" for line in answers))
    link = LocalLink(tmp_path / "there")
    link.send("one", {"answers": tmp_path / "answers"})
    with link.start("one", ["sh", "-c", "cat answers; cat > /dev/null"], {}) as talk:
        client = Client(talk, 10.0)
        with pytest.raises(LinkError, match=said) as caught:
            client.time([("a", 1, 1)], 0, lambda _: None)
    assert caught.value.reason == "garbage"


def test_a_runner_that_cannot_be_built_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    with pytest.raises(UserError, match="names no toolchain for riscv64-linux") as caught:
        runner_of(by_env(tmp_path, more="", triple='"riscv64-linux"'))
    assert "[reach] runner" in caught.value.hint
    cross = {"triple": '"aarch64-linux"', "toolchain": '"aarch64-linux-gnu"', "package": '"g++-aarch64-linux-gnu"'}
    target = by_env(tmp_path, more="", **cross)
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "file"))
    if shutil.which("cmake") and shutil.which("aarch64-linux-gnu-g++"):
        with pytest.raises(UserError, match="its runner cannot be kept in ") as caught:
            runner_of(target)
        assert "EDGEKD_STORE" in caught.value.hint
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="is not here") as caught:
        runner_of(target)
    assert "apt-get install" in caught.value.hint


@needs_compilers
def test_what_a_killed_build_left_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next build, which here ends as soon as CMake reads its toolchain."""
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    (tmp_path / "broken.cmake").write_text('message(FATAL_ERROR "broken on purpose")\n')
    left = tmp_path / "store" / "bench" / ".building-killed" / "build"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    with pytest.raises(UserError, match="broken on purpose"):
        runner_of(by_env(tmp_path, more="", toolchain='"broken.cmake"'))
    assert [path.name for path in (tmp_path / "store" / "bench").iterdir()] == ["lock"]


def test_the_lease_is_given_back_when_something_fails(tmp_path: Path) -> None:
    target = by_env(tmp_path)

    def fail(_: Device) -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError), reached(target, QUIET) as device:
        fail(device)
    assert [p.name for p in (tmp_path / "there" / "lease").iterdir()] == ["free"]


def test_sizes_of_batches(tmp_path: Path) -> None:
    """A fixed batch of 4 takes 6 samples in two calls, the last one filled up; a dynamic one is 1."""
    from backends.folders import float_model

    with reached(by_env(tmp_path), QUIET) as device:
        for name, batch in (("four", 4), ("any", "n"), ("one", 1)):
            engine = real(tmp_path, name, model=float_model(batch))
            found = device.outputs(engine, [X])[0]
            assert found.shape == (6, 5)
            with load_engine(engine) as session:
                size = batch if isinstance(batch, int) else 1
                padded = np.concatenate([X, X[-1:], X[-1:]])
                here = np.concatenate([session.run([padded[i : i + size]])[0] for i in range(0, 6, size)])[:6]
            np.testing.assert_allclose(found, here, rtol=0, atol=1e-6)
