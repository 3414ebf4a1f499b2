"""The bundle: a folder that an app links or loads: one engine, what it takes and gives, and the proof that it is whole.

    bundle.json     format, signature (with preprocessing and labels), engine facts, promised figures, sha256 of every file
    engine/         the engine, as its backend wrote it
    golden.npz      `inputs` [samples, ...] and the `outputs` that the engine gave for them; of several ports `inputs_0` and so on
    licences/       of the model's data, of edgekd and of the runtime

`load` needs numpy and the runtime, not torch. It checks every digest first and runs no code from the bundle. The same in C++
is cmake/src/bundle.cpp.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest
from edgekd.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from edgekd.backend import Session

FORMAT = 1
MANIFEST = "bundle.json"
LICENCE_NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")


def write(
    final: Path,
    engine: Path,
    facts: Mapping[str, Any],
    golden: Mapping[str, np.ndarray],
    licences: Iterable[Path],
    packages: Iterable[str],
) -> None:
    """Make the bundle beside `final` and move it into place whole. `facts` go into bundle.json as they are."""
    import numpy as np

    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        shutil.copytree(engine, scratch / "engine", ignore=shutil.ignore_patterns("entry.json"))
        np.savez(scratch / "golden.npz", **golden)  # type: ignore[arg-type]  # numpy types its keyword arguments as bool
        (scratch / "licences").mkdir()
        for path in licences:
            shutil.copyfile(path, scratch / "licences" / path.name)
        for package in packages:
            _copy_licences(package, scratch / "licences")
        signature = json.loads((engine / "signature.json").read_text("utf-8"))
        manifest = {"format": FORMAT, "signature": signature, **facts, "files": digest.of_folder(scratch)}
        strict = json.loads(json.dumps(manifest), parse_constant=lambda _: None)  # JSON knows neither NaN nor Infinity
        (scratch / MANIFEST).write_text(json.dumps(strict, indent=1, sort_keys=True), "utf-8")
        scratch.chmod(0o755)
        if final.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent)) / "old"
            os.replace(final, old)
            shutil.rmtree(old.parent, ignore_errors=True)
        os.replace(scratch, final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy_licences(package: str, folder: Path) -> None:
    """Licence files of an installed distribution; third-party notices are left where they are installed."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        path = Path(str(file.locate()))
        if file.name.upper().startswith(LICENCE_NAMES) and path.is_file():
            shutil.copyfile(path, folder / f"{package}-{file.name}")


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle whose every file is what it was when written.

    Raises UserError naming the file that is missing, unknown or changed, or the format that this edgekd does not read.
    """
    manifest = read_manifest(folder / MANIFEST)
    check_files(folder, manifest, digest.of_folder(folder, frozenset({MANIFEST})))
    return manifest


def read_manifest(file: Path) -> dict[str, Any]:
    """A bundle.json of this edgekd's format. Raises UserError if it is missing, damaged or of another."""
    folder = file.parent
    try:
        manifest: dict[str, Any] = json.loads(file.read_text("utf-8"))
        dict(manifest["files"])
    except FileNotFoundError:
        hint = "a bundle is a folder that `edgekd compile` writes: out/bundles/host"
        raise UserError(f"{folder}: not a bundle: no {MANIFEST}", hint=hint) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged: {error}", hint="copy or compile the bundle again") from None
    if manifest.get("format") != FORMAT:
        writer = str(manifest.get("edgekd") or "")
        message = f"{folder}: bundle format {manifest.get('format')}{writer and f', written by edgekd {writer}'}"
        hint = f"pip install edgekd=={writer}" if writer else "use the edgekd that wrote it"
        raise UserError(f"{message}; this edgekd reads {FORMAT}", hint=hint)
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Raises UserError naming the file that is missing, unknown or changed. `found`: digest of each file but the manifest."""
    listed = manifest["files"]
    for name in sorted({*listed, *found}):
        if listed.get(name) != found.get(name):
            what = (
                "is missing" if name not in found else "is not of the bundle" if name not in listed else "was changed"
            )
            raise UserError(f"{folder / name} {what}", hint="copy or compile the bundle again")


def golden_names(side: str, ports: Sequence[object]) -> list[str]:
    """What the arrays of golden.npz are called: `inputs`, or of several ports `inputs_0`, `inputs_1`, …; so the outputs."""
    return [side] if len(ports) == 1 else [f"{side}_{index}" for index in range(len(ports))]


def load(folder: str | os.PathLike[str]) -> Session:
    """Open a bundle: `with edgekd.load("out/bundles/host") as student: outputs = student.run([inputs])`.

    Raises UserError if the bundle was changed or its runtime is not installed.
    """
    from edgekd.backend import load_engine

    path = Path(folder)
    read(path)
    return load_engine(path / "engine")
