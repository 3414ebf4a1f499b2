"""Packages of a backend's own, for those that cannot live beside the others: one folder, laid over what is installed.

    FOLDER/litert_torch-3f2a…/   the packages, and environment.json: what they are, and over what they were laid

The user's own installation is not touched. A worker whose search path begins with the folder sees these packages first and
the installed ones behind them, so what both need (torch) is on the disk once. FOLDER is $EDGEKD_ENVIRONMENTS, else in the
user's data folder. An environment appears by one rename, after everything in it was installed and imported.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd import digest
from edgekd.errors import EdgekdError, UserError
from edgekd.json_file import read_json, write_json
from edgekd.units import format_bytes

if TYPE_CHECKING:
    from edgekd.progress import Progress, Task

__all__ = ["Environment", "default_folder", "wanted"]

MARKER = "environment.json"
TAIL_LINES = 12
PIP = (
    *("install", "--no-deps", "--only-binary=:all:", "--no-compile", "--no-input", "--disable-pip-version-check"),
    *("--progress-bar=off", "--retries=2", "--no-warn-conflicts"),
)


def default_folder() -> Path:
    """`$EDGEKD_ENVIRONMENTS`, else in the user's data folder."""
    import platformdirs

    given = os.environ.get("EDGEKD_ENVIRONMENTS")
    return Path(given) if given else Path(platformdirs.user_data_dir("edgekd", appauthor=False)) / "environments"


@dataclass(frozen=True)
class Environment:
    """What a backend compiles with and nothing else should see.

    `module` is what must import in it; `pins` are all the distributions that it adds, "name==version", those that they need
    in turn included (pip resolves nothing); `size` is what they take on the disk, in bytes. `beneath`, where a method asks
    for it, are the versions of the installed distributions that it stands on: over others it must be made again.
    """

    module: str
    pins: tuple[str, ...]
    size: int

    def folder(self, beneath: Mapping[str, str]) -> Path:
        """Where it is, or would be."""
        return default_folder() / f"{self.module}-{digest.of_json(self._facts(beneath))[:12]}"

    def made(self, beneath: Mapping[str, str]) -> bool:
        """Whether it is there, whole. Imports none of its packages."""
        try:
            return read_json(self.folder(beneath) / MARKER) == self._facts(beneath)
        except UserError:
            return False

    def versions(self, beneath: Mapping[str, str]) -> dict[str, str]:
        """Versions of what it holds by distribution; none while it is not made."""
        return dict(pin.split("==") for pin in self.pins) if self.made(beneath) else {}

    def variables(self, beneath: Mapping[str, str]) -> dict[str, str]:
        """Environment variables with which a worker sees these packages first."""
        return _searching(self.folder(beneath))

    def make(self, beneath: Mapping[str, str], progress: Progress) -> Path:
        """Install it, unless it is there, and give its folder.

        Raises UserError where the folder cannot be written, is too small or this Python has no pip, EdgekdError with pip's
        last lines where it fails, or with Python's where the packages do not import. What was begun is gone then.
        """
        final = self.folder(beneath)
        with _locked(final):
            if self.made(beneath):
                return final
            for left in final.parent.glob(f".{final.name}-*"):  # of one that was killed
                shutil.rmtree(left, ignore_errors=True)
            _check(final.parent, 2 * self.size)
            scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
            try:
                (scratch / "tmp").mkdir()
                said = f"{len(self.pins)} packages, about {format_bytes(self.size)}, into {final.parent}"
                progress.say(f"installing {self.module}: {said}")
                with progress.task(f"install {self.module}", len(self.pins)) as task:
                    self._install(scratch, task)
                self._try(scratch / "new")
                write_json(scratch / "new" / MARKER, self._facts(beneath))
                os.sync()
                if final.exists():  # damaged
                    os.replace(final, scratch / "old")
                os.replace(scratch / "new", final)
            except OSError as error:
                message = f"cannot write {error.filename or final.parent}: {error.strerror}"
                raise EdgekdError(message, hint=_hint(self.size)) from None
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return final

    def _facts(self, beneath: Mapping[str, str]) -> dict[str, object]:
        python = f"{platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]}"
        machine = f"{platform.machine()}-{platform.system().lower()}"
        return {"pins": list(self.pins), "beneath": dict(beneath), "python": python, "machine": machine}

    def _install(self, scratch: Path, task: Task) -> None:
        command = [sys.executable, "-P", "-m", "pip", *PIP, "--target", str(scratch / "new"), *self.pins]
        variables = {**os.environ, "TMPDIR": str(scratch / "tmp")}  # what it unpacks is on the disk that was asked for
        last: deque[str] = deque(maxlen=TAIL_LINES)
        pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables, text=True)
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                last.append(line.rstrip())
                if line.startswith("Collecting "):
                    task.advance(1, line.split()[1])
            code = pip.wait()
        finally:
            pip.kill()
            pip.wait()
            pip.stdout.close()
        if code != 0:
            raise EdgekdError(f"pip ended with exit code {code}:\n{_quoted(last)}", hint=_hint(self.size))

    def _try(self, folder: Path) -> None:
        command = [sys.executable, "-P", "-c", f"import {self.module}"]
        variables = {**os.environ, **_searching(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", env=variables, check=False)
        if ran.returncode != 0:
            last = _quoted(ran.stderr.splitlines()[-TAIL_LINES:])
            raise EdgekdError(f"what was installed does not import (import {self.module}):\n{last}")


def _searching(folder: Path) -> dict[str, str]:
    """Python's search path with `folder` in front of what the user's says."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    """One process makes an environment, another waits for it. Raises UserError where nothing can be written."""
    from filelock import FileLock

    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(final.parent / f".{final.name}.lock")
        lock.acquire()
    except OSError as error:
        hint = "name another folder: EDGEKD_ENVIRONMENTS=…"
        raise UserError(f"{final.parent} cannot be written: {error.strerror}", hint=hint) from None
    try:
        yield
    finally:
        lock.release()


def _check(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        message = f"{folder}: {format_bytes(free)} free, {format_bytes(needed)} are needed while it is installed"
        raise UserError(message, hint="free some, or name a folder on another disk: EDGEKD_ENVIRONMENTS=…")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # setuptools watches who looks for pip
        pip = find_spec("pip")
    if pip is None:
        raise UserError(f"{sys.executable} has no pip", hint=f"{sys.executable} -m ensurepip")


def _hint(size: int) -> str:
    return f"it needs the package index and {format_bytes(2 * size)} of disk (EDGEKD_ENVIRONMENTS names another); then again"


def _quoted(lines: Sequence[str] | deque[str]) -> str:
    return "\n".join(f"  | {line[:300]}" for line in lines)


def wanted(package: str) -> list[str]:
    """What to install for `package`, quoted for a shell: the smallest extra of edgekd that has it, and the versions asked for."""
    try:
        split = [line.partition(";") for line in metadata.requires("edgekd") or []]
    except metadata.PackageNotFoundError:
        return [package]
    specs = [(spec.replace(" ", ""), re.search(r"extra *== *[\"']([\w-]+)", marker)) for spec, _, marker in split]
    found = [(spec, extra) for spec, extra in specs if re.split(r"[<>=!~\[]", spec)[0] == package]
    if not found:
        return [package]
    sizes = Counter(extra[1] for _, extra in specs if extra)
    spec, extra = min(found, key=lambda one: sizes[one[1][1]] if one[1] else 0)
    return [*([shlex.quote(f"edgekd[{extra[1]}]")] if extra else []), shlex.quote(spec)]
