"""What this machine can compile and measure, the exact command that adds what is missing, and `--fix`, which adds some."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd import registry
from edgekd.backend import open_backend
from edgekd.errors import UserError
from edgekd.pipeline.step import package_version
from edgekd.store import default_folder
from edgekd.target import find_target
from edgekd.units import format_bytes

if TYPE_CHECKING:
    from edgekd.progress import Progress

NEEDED = {"torch": "train and quantize", "torchao": "quantize", "torch_pruning": "prune", "onnxscript": "export"}
LITTLE = 2 * 10**9


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, whether it is good, what was found, and the command that cures it."""

    what: str
    good: bool
    found: str
    cure: str = ""


def make_environments(names: Sequence[str], progress: Progress) -> None:
    """Make the environments of these backends; of none named, of all whose other packages are installed.

    Raises UserError for a backend that has no environment, or lacks packages which are the user's to install.
    """
    for name in names or registry.names("backends"):
        backend = open_backend(name)
        if backend.environment is None:
            if names:
                hint = backend.missing() or "it is installed: there is nothing to fix"
                raise UserError(f'the backend "{name}" has no environment of its own', hint=hint)
        elif cure := backend.missing(to_open=True):
            if names:
                raise UserError(f'the backend "{name}" is not installed', hint=f"{cure}; then again")
        else:
            backend.fix(progress)


def examine(names: Sequence[str] = ()) -> list[Check]:
    """Look at the packages, the backends, the machine and the store, or at these backends alone. Imports no runtime.

    Raises UserError for a backend that edgekd does not know.
    """
    if names:
        return [_backend(name) for name in names]
    checks = []
    for module, use in NEEDED.items():
        package = module.replace("_", "-")
        there = find_spec(module) is not None
        found = f"{package_version(package)}: can {use}" if there else f"missing: cannot {use}"
        checks.append(Check(package, there, found, "" if there else f"pip install {package}"))
    return [*checks, *map(_backend, registry.names("backends")), *_machine(), _store()]


def _backend(name: str) -> Check:
    backend = open_backend(name)
    cure = backend.missing()
    versions = ", ".join(f"{k} {v}" for k, v in backend.versions().items())
    kind = "backend, compiles only" if backend.compile_only else "backend"
    if backend.on_device:
        kind = f"backend, compiles on the device, which needs {backend.on_device}"
    return Check(name, not cure, f"{kind}: {'not installed' if cure else versions or 'built in'}", cure)


def _machine() -> list[Check]:
    host = find_target("host", Path())
    fast = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(host.isa)
    text = f"{host.chip}, {host.cores} cores, {', '.join(host.isa) or 'no vector extensions known'}"
    slow = "" if fast else "int8 may be no faster than float here: this CPU has no dot-product instructions"
    checks = [Check("machine", True, text), Check("int8 kernels", bool(fast), ", ".join(sorted(fast)) or "none", slow)]
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.is_file():
        name = governor.read_text().strip()
        cure = "" if name == "performance" else "sudo cpupower frequency-set -g performance"
        checks.append(Check("governor", not cure, name, cure))
    return checks


def _store() -> Check:
    folder = default_folder()
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    cure = "" if free > LITTLE else "edgekd store gc, or --store on another disk"
    return Check("store", not cure, f"{folder}, {format_bytes(free)} free", cure)
