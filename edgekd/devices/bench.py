"""The runner that is sent to a device: edgekd-bench, built once with the target's toolchain, or a Python that is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import digest
from edgekd.backend import open_backend
from edgekd.errors import UserError
from edgekd.reach import ALWAYS, SESSIONS, Served, Shelled, TvmRpc
from edgekd.store import default_folder
from edgekd.target import Target, data_dir, this_machine
from edgekd.worker import thread_env

NAME = "edgekd-bench"
BUILDING = ".building-"
RUNNER = ("-P", "-m", "edgekd.devices.runner")  # of a Python there
BUILD = "Release"
MODULES = ("executorch", "ncnn")  # sessions that are built against their runtime's headers: cmake/src/module_*.cpp
# What is linked in runs on boards whose C++ library is another; a runtime's own library needs the device's all the same.
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
    folder = None if reach.runner else built(target)
    files = {NAME: Path(reach.runner) if folder is None else folder / NAME}
    environment: dict[str, str] = {}
    searched = []
    for backend, place in reach.library.items():
        variable, there = _variable(backend), f"lib/{backend}"
        if folder is not None and backend in MODULES:
            files |= {f"{there}/{_module(backend)}": folder / _module(backend), **_shared(place, there)}
            environment[variable] = f"./{there}"
            searched.append(f"./{there}")
        elif place and (root := Path(place)).is_dir():
            files |= {f"{there}/{path.relative_to(root).as_posix()}": path for path in _files(root)}
            environment[variable] = f"./{there}"
        elif place:
            files[f"{there}/{Path(place).name}"] = Path(place)
            environment[variable] = f"./{there}/{Path(place).name}"
    if searched:
        environment["LD_LIBRARY_PATH"] = ":".join(searched)
    return Deployed((f"./{NAME}", "--serve"), files, environment)


def built(target: Target) -> Path:
    """A folder with edgekd-bench for a target and the modules that it loads, built by CMake.

    It has the sessions that the target says a runtime for, and is kept in the store's folder under what it was built from.
    """
    from filelock import FileLock

    reach = target.reach
    assert isinstance(reach, Shelled)
    compiler, options = _compiler(target)
    sessions = [name for name in SESSIONS if name in ALWAYS or name in reach.library]
    modules = [name for name in sessions if name in MODULES]
    toolchain = (
        digest.of_file(target.toolchain_path) if target.toolchain else sys.prefix
    )  # where native runtimes are found
    runtimes = {name: _stamp(name, reach.library[name]) for name in modules}
    sources = digest.of_folder(data_dir("cmake"))
    key = digest.of_json([sources, toolchain, compiler, BUILD, LINKED, sessions, runtimes])
    kept = default_folder() / "bench" / key
    if (kept / NAME).is_file():
        return kept
    for program, package in (("cmake", "cmake"), (compiler, target.package or "g++")):
        if shutil.which(program) is None:
            message = f"{target.name}: its runner cannot be built: {program} is not here"
            hint = f"apt-get install {package}; or name a built one: [reach] runner; or a Python there: [reach] python"
            raise UserError(message, hint=hint)
    options += [f"-DEDGEKD_{name.upper()}_ROOT={place}" for name in modules if (place := reach.library[name])]
    source = [
        "cmake",
        "-S",
        str(data_dir("cmake")),
        f"-DCMAKE_BUILD_TYPE={BUILD}",
        "-DEDGEKD_INSTALL=OFF",
        f"-DEDGEKD_BACKENDS={';'.join(sessions)}",
        f"-DPython3_EXECUTABLE={sys.executable}",
    ]
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.parent / "lock"):
            if (kept / NAME).is_file():  # another process made it meanwhile
                return kept
            for left in kept.parent.glob(f"{BUILDING}*"):  # by builds that were killed
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=BUILDING, dir=kept.parent) as scratch:
                out, made = Path(scratch) / "build", Path(scratch) / "made"
                _ran([*source, *options, "-B", str(out), f"-DCMAKE_EXE_LINKER_FLAGS={LINKED}"], target)
                _ran(["cmake", "--build", str(out), "--target", NAME, "--parallel"], target)
                made.mkdir()
                os.replace(out / NAME, made / NAME)
                for name in modules:
                    if not (out / "edgekd" / _module(name)).is_file():
                        raise _lacking(name, target)
                    os.replace(out / "edgekd" / _module(name), made / _module(name))
                os.replace(made, kept)
    except OSError as error:
        message = f"{target.name}: its runner cannot be kept in {kept.parent}: {error.strerror or error}"
        raise UserError(message, hint="free space, or name another folder: EDGEKD_STORE=FOLDER") from None
    return kept


def _variable(backend: str) -> str:
    return f"EDGEKD_{backend.upper()}_{'MODULE' if backend in MODULES else 'ROOT'}"


def _module(backend: str) -> str:
    return f"libedgekd_{backend}.so"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _shared(place: str, there: str) -> dict[str, Path]:
    """The shared libraries in a runtime's folder, which its module finds beside itself on the device."""
    found = _files(Path(place)) if place else []
    return {f"{there}/{path.name}": path for path in found if ".so" in path.suffixes}


def _stamp(backend: str, place: str) -> Any:
    """What a module is built against: the packages here, or the files of the folder that the target names."""
    if not place:
        return open_backend(backend).versions()
    held = [(path, path.stat()) for path in _files(Path(place))]
    return [[str(path), about.st_size, about.st_mtime_ns] for path, about in held]


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


def _lacking(backend: str, target: Target) -> UserError:
    place = getattr(target.reach, "library", {}).get(backend)
    message = (
        f"{target.name}: its runner cannot be built for {backend}: {place or 'this machine'} holds no C++ library of it"
    )
    return UserError(
        message, hint=f'name the folder with its headers and libraries: [reach] library = {{{backend} = "…"}}'
    )
