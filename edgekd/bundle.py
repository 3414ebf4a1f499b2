"""The bundle: a folder that an app links or loads: one engine, what it takes and gives, and the proof that it is whole.

    bundle.json     format, signature (with what stands before and behind it, and labels), engine facts, promised figures,
                    sha256 of every file but bundle.sig
    engine/         the engine, as its backend wrote it
    golden.npz      `inputs` [samples, ...] and the `outputs` that the engine gave for them; of several ports `inputs_0` and so on
    licences/       of the model's data, of edgekd and of the runtime
    sbom.cdx.json   what it is made of (edgekd/sbom.py)
    edgekd.lock     what makes it again; where a recipe made it
    tokenizer/      the files of a tokenizer, where there is one (edgekd/tokenizer.py)
    bundle.sig      who made it, where it was signed (edgekd/signing.py)

`load` needs numpy and the runtime, not torch. It checks every digest first and runs no code from the bundle. The same in C++
is cmake/src/bundle.cpp.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest, signing
from edgekd.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from edgekd.backend import Session

FORMAT = 1
MANIFEST = "bundle.json"
BESIDE = frozenset({MANIFEST, signing.FILE})
"""What the manifest does not list: itself, and the signature over it."""
LICENCE_NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")


def write(
    final: Path,
    engine: Path,
    facts: Mapping[str, Any],
    golden: Mapping[str, np.ndarray],
    licences: Iterable[Path],
    packages: Iterable[str],
    *,
    around: Mapping[str, Any] | None = None,
    files: Mapping[str, Path] | None = None,
) -> None:
    """Make the bundle beside `final` and move it into place whole. `facts` go into bundle.json as they are.

    `around`: preprocessing and postprocessing in place of those in the engine's signature. `files`: further ones, by their
    path in the bundle.
    """
    import numpy as np

    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        shutil.copytree(engine, scratch / "engine", ignore=shutil.ignore_patterns("entry.json"))
        signature = json.loads((engine / "signature.json").read_text("utf-8")) | dict(around or {})
        if around:
            (scratch / "engine" / "signature.json").write_text(json.dumps(signature, indent=1), "utf-8")
        np.savez(scratch / "golden.npz", **golden)  # type: ignore[arg-type]  # numpy types its keyword arguments as bool
        (scratch / "licences").mkdir()
        own, packages = list(licences), list(packages)
        for path in own:
            shutil.copyfile(path, scratch / "licences" / path.name)
        for package in packages:
            _copy_licences(package, scratch / "licences")
        for name, source in (files or {}).items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, scratch / name)
        _write_bill(scratch, str(facts.get("name", "")), packages, [path.name for path in own])
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


def _write_bill(folder: Path, name: str, packages: Sequence[str], licences: Sequence[str]) -> None:
    from edgekd import sbom

    bill = sbom.text(name, packages, digest.of_folder(folder), licences)
    (folder / sbom.FILE).write_text(bill, "utf-8")


def _copy_licences(package: str, folder: Path) -> None:
    """Licence files of an installed distribution; third-party notices are left where they are installed."""
    from importlib import metadata

    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        path = Path(str(file.locate()))
        if file.name.upper().startswith(LICENCE_NAMES) and path.is_file():
            shutil.copyfile(path, folder / f"{package}-{file.name}")


def read(folder: Path, public_key: Path | None = None) -> dict[str, Any]:
    """The manifest of a bundle whose every file is what it was when written and, with a key, when that key's owner signed it.

    Raises UserError naming the file that is missing, unknown or changed, the format that this edgekd does not read, or what
    is wrong with the signature.
    """
    manifest = read_manifest(folder / MANIFEST, public_key)
    check_files(folder, manifest, digest.of_folder(folder, BESIDE))
    return manifest


def read_manifest(file: Path, public_key: Path | None = None) -> dict[str, Any]:
    """A bundle.json of this edgekd's format. Raises UserError if it is missing, damaged, of another, or not signed by that key."""
    folder = file.parent
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        beside = sorted(folder.glob(f"bundles/*/{MANIFEST}")) or sorted(folder.parent.glob(f"*/{MANIFEST}"))
        hint = f"there is {beside[0].parent}" if beside else "`edgekd compile` writes bundles: out/bundles/host"
        raise UserError(f"{folder}: not a bundle: no {MANIFEST}", hint=hint) from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    if public_key is not None:
        signing.check(folder, text, public_key)
    try:
        manifest: dict[str, Any] = json.loads(text)
        if not isinstance(manifest["files"], dict):
            raise ValueError("files is no table")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}", hint="copy or compile the bundle again") from None
    if manifest.get("format") != FORMAT:
        writer = str(manifest.get("edgekd") or "")
        message = f"{folder}: bundle format {manifest.get('format')}{writer and f', written by edgekd {writer}'}"
        hint = f"pip install edgekd=={writer}" if writer else "use the edgekd that wrote it"
        raise UserError(f"{message}; this edgekd reads {FORMAT}", hint=hint)
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Raises UserError naming the file that is missing, unknown or changed. `found`: digest of each file but those of BESIDE."""
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


def load(folder: str | os.PathLike[str], *, public_key: str | os.PathLike[str] | None = None) -> Session:
    """Open a bundle: `with edgekd.load("out/bundles/host") as student: outputs = student.run([inputs])`.

    `public_key`: the file of the key that must have signed it. Raises UserError if the bundle was changed or not signed by
    that, or its runtime is not installed. Threads may share a student: their calls take turns. To run in parallel, open it
    once a thread.
    """
    from edgekd.backend import load_engine

    path = Path(folder)
    manifest = read(path, None if public_key is None else Path(public_key))
    session = load_engine(path / "engine")
    if (session.signature.preprocessing.get("tokenizer") or {}).get("kind") == "wordpiece":
        from edgekd import tokenizer

        try:
            prefix = f"{tokenizer.FOLDER}/"
            held = {
                name.removeprefix(prefix): (path / name).read_bytes()
                for name in manifest["files"]
                if name.startswith(prefix)
            }
            session.tokenizer = tokenizer.Tokenizer.of(session.signature.preprocessing, held)
        except BaseException:
            session.close()
            raise
    return session
