"""The runner that is sent to a device: edgekd-bench, built once with the target's toolchain, or a Python that is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd import digest
from edgekd.errors import UserError
from edgekd.reach import Served, Shelled, TvmRpc
from edgekd.store import default_folder
from edgekd.target import SESSIONS, Target, data_dir, this_machine
from edgekd.worker import thread_env

NAME = "edgekd-bench"
RUNNER = ("-P", "-m", "edgekd.devices.runner")  # of a Python there
BUILD = "Release"
LIBRARY = "lib/libonnxruntime.so"
# What is linked in runs on boards whose C++ library is another; ONNX Runtime's own library needs the device's all the same.
LINKED = "-static-libstdc++ -static-libgcc"


@dataclass(frozen=True)
class Deployed:
    """A runner as a device is given it: its command there, and the files that it needs (path there: file here)."""

    command: tuple[str, ...]
    files: Mapping[str, Path]
    environment: Mapping[str, str]

    @property
    def programs(self) -> tuple[str, ...]:
        return tuple(path for path in self.files if path == NAME)


def runner_of(target: Target, threads: int = 1) -> Deployed:
    """The runner for a target. Raises UserError where it cannot be built, with what to install or write."""
    reach = target.reach
    if isinstance(reach, Served):
        return Deployed(("python3", *RUNNER), {}, thread_env(threads))
    if isinstance(reach, TvmRpc):
        from edgekd.devices import tvm_rpc

        return tvm_rpc.runner(reach)
    assert isinstance(reach, Shelled)
    if reach.python:
        return Deployed((reach.python, *RUNNER), {}, thread_env(threads))
    files = {NAME: Path(reach.runner) if reach.runner else built(target)}
    if not reach.library:
        return Deployed((f"./{NAME}", "--serve"), files, {})
    files[LIBRARY] = Path(reach.library)
    return Deployed((f"./{NAME}", "--serve"), files, {"EDGEKD_ONNXRUNTIME_ROOT": f"./{LIBRARY}"})


def built(target: Target) -> Path:
    """edgekd-bench for a target, built by CMake and kept in the store's folder under what it was built from."""
    compiler, options = _compiler(target)
    sources = digest.of_folder(data_dir("cmake"))
    toolchain = digest.of_file(target.toolchain_path) if target.toolchain else ""
    key = digest.of_json([sources, toolchain, compiler, BUILD, LINKED])
    kept = default_folder() / "bench" / key / NAME
    if kept.is_file():
        return kept
    for program, package in (("cmake", "cmake"), (compiler, target.package or "g++")):
        if shutil.which(program) is None:
            message = f"{target.name}: its runner cannot be built: {program} is not here"
            hint = f"apt-get install {package}; or name a built one: [reach] runner; or a Python there: [reach] python"
            raise UserError(message, hint=hint)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        out = Path(folder)
        source = [
            "cmake",
            "-S",
            str(data_dir("cmake")),
            "-B",
            str(out),
            f"-DCMAKE_BUILD_TYPE={BUILD}",
            "-DEDGEKD_INSTALL=OFF",
            f"-DEDGEKD_BACKENDS={';'.join(SESSIONS)}",
        ]
        _ran([*source, *options, f"-DCMAKE_EXE_LINKER_FLAGS={LINKED}"], target)
        _ran(["cmake", "--build", str(out), "--target", NAME, "--parallel"], target)
        os.replace(out / NAME, kept)
    return kept


def _compiler(target: Target) -> tuple[str, list[str]]:
    """The C++ compiler's name and CMake's options for it."""
    if target.toolchain:
        named = "" if target.toolchain.endswith(".cmake") else f"{target.toolchain}-g++"
        return named or "c++", [f"-DCMAKE_TOOLCHAIN_FILE={target.toolchain_path}"]
    here = this_machine()["triple"]
    if target.triple != here:
        message = f"{target.name}: its runner cannot be built: the target names no toolchain for {target.triple}"
        raise UserError(message, hint="write toolchain, [reach] runner (a built edgekd-bench) or [reach] python")
    return "c++", []


def _ran(command: list[str], target: Target) -> None:
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines()[-12:]
        lines = "\n".join(f"  | {line[:300]}" for line in said)
        raise UserError(f"{target.name}: its runner cannot be built:\n{lines}", hint="name a built one: [reach] runner")
