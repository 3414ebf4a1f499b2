"""Targets and calibration recipes: data files, checked when they are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekd import reach, target
from edgekd.errors import UserError
from edgekd.target import BACKENDS, data_dir, find_calibration, find_target, names, this_machine

BOARD = 'chip = "X"\ntriple = "aarch64-linux"\nbackends = ["onnxruntime"]\n'
BOARDS = (
    "raspberry-pi-4 raspberry-pi-5 jetson-orin-nano jetson-agx-orin pixel-8 galaxy-s24 iphone-15 stm32n6570-dk rk3588 "
    "banana-pi-f3 x86-64-avx2 x86-64-avx512-vnni"
)


def here(isa: object, more: str = "") -> str:
    """A board that says it is this machine, with these instruction sets."""
    listed = ", ".join(f'"{flag}"' for flag in isa)  # type: ignore[attr-defined]
    return f'chip = "X"\ntriple = "{this_machine()["triple"]}"\nisa = [{listed}]\nbackends = ["onnxruntime"]\n{more}'


def test_the_host_is_detected() -> None:
    host = find_target("host", Path())
    assert host.chip not in ("", "detected") and host.cores >= 1 and "-" in host.triple


def test_every_shipped_file_is_good() -> None:
    assert "host" in names("targets") and "train-512" in names("calibration")
    assert set(BOARDS.split()) < set(names("targets"))
    for name in names("targets"):
        assert set(find_target(name, Path()).backends) <= set(BACKENDS)
    for name in names("calibration"):
        assert find_calibration(name, Path()).count > 0
    assert (data_dir("targets") / "README.md").is_file()


def test_a_users_own_file(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(BOARD)
    board = find_target("board.toml", tmp_path)
    assert (board.name, board.chip, board.channel_multiple, board.memory) == ("board", "X", 1, None)
    (tmp_path / "board.toml").write_text(
        BOARD + 'memory = "8 GB"\n[sources]\n"chip, memory" = "a manual, 2026-11-22"\n'
    )
    board = find_target("board.toml", tmp_path)
    assert board.memory == 8_000_000_000
    assert [board.source_of(fact) for fact in ("chip", "memory", "isa")] == ["a manual, 2026-11-22"] * 2 + [""]


def test_a_known_backend_that_is_not_here_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "BACKENDS", (*BACKENDS, "later"))
    (tmp_path / "board.toml").write_text(BOARD.replace('["onnx', '["later", "onnx'))
    board = find_target("board.toml", tmp_path)
    assert (board.backends, board.usable) == (("later", "onnxruntime"), ("onnxruntime",))
    assert board.remarks()[0] == "board: this edgekd has no backend later"
    assert not any("no backend" in remark for remark in board.remarks(chosen=("onnxruntime",)))


def test_what_is_not_installed_is_passed_over_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "board.toml").write_text(BOARD.replace('["onnx', '["ncnn", "onnx'))
    board, gone = find_target("board.toml", tmp_path), ["ncnn"]
    monkeypatch.setattr("edgekd.backend.find_spec", lambda name: None if name in gone else name)
    assert (board.usable, board.at_hand) == (("ncnn", "onnxruntime"), ("onnxruntime",))
    said = "board: passed over, since not installed: ncnn (pip install 'edgekd[ncnn]' ncnn==1.0.20261020)"
    assert said in board.remarks()
    assert said not in board.remarks(chosen=("ncnn",))
    gone.append("onnxruntime")
    assert board.at_hand == board.usable, "each is tried, and says what it lacks"
    assert not any("passed over" in remark for remark in board.remarks())


@pytest.mark.parametrize(
    ("reach", "why"),
    [
        ('kind = "ssh"\nuser = "pi"', "reached by ssh, and the target names no host"),
        ('kind = "adb"', "reached by adb, and the target names no serial"),
        ('kind = "tvm-rpc"', "reached by tvm-rpc, and the target names no host"),
        ('kind = "none"', "no way to run a program there"),
    ],
)
def test_what_is_not_reached_is_not_measured(tmp_path: Path, reach: str, why: str) -> None:
    (tmp_path / "board.toml").write_text(here([], f"[reach]\n{reach}\n"))
    board = find_target("board.toml", tmp_path)
    assert why in board.unmeasured
    assert "their latency is not measured, and none is chosen" in board.remarks()[-1]


@pytest.mark.parametrize(
    "reach",
    ['kind = "ssh"\nhost = "pi.local"', 'kind = "adb"\nserial = "any"', 'kind = "exec"\ncommand = ["qemu-aarch64"]'],
)
def test_what_is_reached_is_measured_there(tmp_path: Path, reach: str) -> None:
    (tmp_path / "board.toml").write_text(BOARD + f"[reach]\n{reach}\n")
    device = find_target("board.toml", tmp_path)
    assert device.unmeasured == ""
    assert device.remarks()[-1].startswith(
        "board: its engines are compiled and scored here, and measured on the device"
    )
    assert device.times("onnxruntime") and not device.times("openvino"), "nothing says where its runtime is"
    (tmp_path / "board.toml").write_text(BOARD + f'[reach]\n{reach}\nlibrary = {{ openvino = "" }}\n')
    assert find_target("board.toml", tmp_path).times("openvino"), "it is there"
    (tmp_path / "board.toml").write_text(BOARD + f'[reach]\n{reach}\npython = "python3"\n')
    assert find_target("board.toml", tmp_path).times("openvino")


def test_files_of_a_reach_lie_beside_the_target(tmp_path: Path) -> None:
    (tmp_path / "bench").touch()
    (tmp_path / "board.toml").write_text(BOARD + '[reach]\nkind = "ssh"\nhost = "pi"\nrunner = "bench"\n')
    assert find_target("board.toml", tmp_path).reach.runner == str(tmp_path / "bench")  # type: ignore[union-attr]
    (tmp_path / "bench").unlink()
    with pytest.raises(UserError, match=r"board.toml: reach.runner: \S+bench does not exist"):
        find_target("board.toml", tmp_path)


def test_a_timing_cache_lies_beside_the_target(tmp_path: Path) -> None:
    (tmp_path / "orin.cache").touch()
    text = BOARD + 'compute_capabilities = ["8.7"]\ntiming_cache = "orin.cache"\n'
    (tmp_path / "board.toml").write_text(text)
    assert find_target("board.toml", tmp_path).timing_cache == str(tmp_path / "orin.cache")
    (tmp_path / "board.toml").write_text(text.replace("orin", "gone"))
    with pytest.raises(UserError, match=r"board.toml: timing_cache: \S+gone.cache does not exist"):
        find_target("board.toml", tmp_path)
    (tmp_path / "board.toml").write_text(BOARD + 'compute_capabilities = ["sm_87"]\n')
    with pytest.raises(UserError, match=r"compute_capabilities\.0"):
        find_target("board.toml", tmp_path)


def test_libraries_of_a_reach_are_files_or_folders_by_backend(tmp_path: Path) -> None:
    def library(text: str) -> dict[str, str]:
        (tmp_path / "board.toml").write_text(BOARD + f'[reach]\nkind = "ssh"\nhost = "pi"\nlibrary = {text}\n')
        return find_target("board.toml", tmp_path).reach.library  # type: ignore[union-attr]

    (tmp_path / "lib.so").touch()
    (tmp_path / "libs").mkdir()
    assert library('"lib.so"') == {"onnxruntime": str(tmp_path / "lib.so")}
    assert library('{ openvino = "libs", litert = "" }') == {"openvino": str(tmp_path / "libs"), "litert": ""}
    assert library('""') == {}
    with pytest.raises(UserError, match=r"board.toml: reach.library.openvino: \S+gone does not exist"):
        library('{ openvino = "gone" }')
    with pytest.raises(UserError, match='edgekd-bench opens no engines of opnvino; did you mean "openvino"'):
        library('{ opnvino = "libs" }')
    with pytest.raises(UserError, match="reach.ssh.library"):
        library("[1]")


def test_the_runner_has_sessions_that_cmake_knows() -> None:
    """All that it is sent a runtime for; the library has more."""
    listed = re.search(r"set\(EDGEKD_BACKENDS ([\w ]+) CACHE", (data_dir("cmake") / "CMakeLists.txt").read_text())
    assert listed and set(reach.SESSIONS) < set(listed[1].split())


def test_this_machine_is_measured_if_it_is_such_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmeasured(text: str) -> str:
        (tmp_path / "board.toml").write_text(text)
        return find_target("board.toml", tmp_path).unmeasured

    monkeypatch.setattr(target, "_cpu", lambda: ("Some CPU", frozenset({"fma", "avx2", "avx512f", "avx512_vnni"})))
    assert find_target("host", Path()).unmeasured == ""
    assert unmeasured(here([])) == ""
    assert unmeasured(here(["avx2", "fma", "avx512f", "avx512_vnni"])) == ""
    assert unmeasured(here(["avx2", "fma"])) == "this machine has avx512f, avx512_vnni too, which runtimes would use"
    assert unmeasured(here(["avx2", "f16c", "amx_int8"])) == "this machine has no f16c, amx_int8"
    assert unmeasured(BOARD.replace("aarch64", "riscv64")).startswith("the device is riscv64-linux, this machine is ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOARD + "colour = 1\n", "colour"),
        (BOARD.replace('"X"', "3"), "chip"),
        (BOARD.replace("onnxruntime", "onnxruntim"), 'backends: no backend named "onnxruntim".*"onnxruntime"'),
        (BOARD.replace('["onnxruntime"]', "[]"), "backends: .*at least 1"),
        ("chip = ", "not TOML"),
        (BOARD + "channel_multiple = 0\n", "channel_multiple"),
        (BOARD + 'memroy = "8 GB"\n', 'memroy: .*did you mean "memory"'),
        (BOARD + 'name = "other"\n', "name: the file's name is the target's"),
        (BOARD + 'memory = "8 gigs"\n', 'memory: "8 gigs" is not a quantity in B, kB'),
        (BOARD + "memory = 8\n", 'memory: 8 has no unit; write it like "8 GB"'),
        (BOARD + 'precisions = ["int7"]\n', "precisions.0: .*float16"),
        (BOARD + 'toolchain = "aarch64-linux"\n', 'toolchain: no toolchain "aarch64-linux".*"aarch64-linux-gnu"'),
        (BOARD + 'toolchain = "mine.cmake"\n', 'no toolchain "mine.cmake"'),
        (BOARD + '[sources]\n"chip, chp" = "a page"\n', 'sources: no fact named "chp".*"chip"'),
        (BOARD + '[reach]\nkind = "telnet"\n', "reach: .*'telnet'.*'ssh'"),
        (BOARD + '[reach]\nkind = "ssh"\nport = 0\n', "reach.ssh.port"),
        (BOARD + '[reach]\nkind = "adb"\nhost = "x"\n', "reach.adb.host"),
        (BOARD + '[reach]\nkind = "exec"\n', "reach.exec.command"),
        (BOARD + '[reach]\nhost = "x"\n', "reach: .*kind"),
    ],
)
def test_bad_files_name_the_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "board.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        find_target("board.toml", tmp_path)
    assert re.search(message, str(caught.value), re.DOTALL)
    assert str(tmp_path / "board.toml") in caught.value.message


def test_calibration_names_what_exists(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('source = "dta"\ncount = 4\n')
    with pytest.raises(UserError, match='no source named "dta"'):
        find_calibration("mine.toml", tmp_path)
    (tmp_path / "mine.toml").write_text('source = "data"\ncount = 0\n')
    with pytest.raises(UserError, match="count"):
        find_calibration("mine.toml", tmp_path)
