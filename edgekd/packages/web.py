"""A web page: the bundle in a browser by ONNX Runtime Web, tested against its golden outputs when it is opened.

The runtime's files come from a folder (npm's `onnxruntime-web`, or its `dist`), or npm fetches the pinned version. Only the
WebAssembly build is taken, for one thread: it needs no special headers of the server. npm's package carries no licence of its
own: edgekd/packages/web/onnxruntime/LICENSE is its project's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import ClassVar, final

from edgekd.errors import UserError
from edgekd.package import Package, Source

__all__ = ["Web"]

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
FETCH_SECONDS = 300


@final
class Web(Package):
    """ONNX Runtime Web, WebAssembly, one thread."""

    name: ClassVar[str] = "web"
    backends: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def fill(self, source: Source, out: Path, runtime: Path | None) -> list[str]:
        with tempfile.TemporaryDirectory() as scratch:
            root = _given(runtime) if runtime else _fetched(Path(scratch))
            version = str(json.loads((root / "package.json").read_text("utf-8"))["version"])
            (port, *more) = source.manifest["signature"]["inputs"]
            before = source.manifest["signature"].get("preprocessing") or {}
            image = not more and len(port["shape"]) == 4 and not {"framing", "tokenizer"} & before.keys()
            self.copy(out, source=source, version=version, image=image)
            for path in [*(root / "dist" / name for name in FILES), *root.glob("LICENSE*"), *root.glob("ThirdParty*")]:
                shutil.copyfile(path, out / "onnxruntime" / path.name)
        shutil.copytree(source.folder, out / "bundle")
        notes = ["to open it: python -m http.server 8000 inside it, then http://localhost:8000"]
        if source.compiled_with and source.compiled_with.split(".")[:2] != version.split(".")[:2]:
            notes.append(
                f"compiled with ONNX Runtime {source.compiled_with}, the page has {version}: its self-test tells whether that matters"
            )
        return notes


def _given(folder: Path) -> Path:
    """The package's root. Raises UserError naming the file that is not there."""
    root = folder.parent if folder.name == "dist" else folder
    for needed in ("package.json", *(f"dist/{name}" for name in FILES)):
        if not (root / needed).is_file():
            hint = f"npm pack {PACKAGE}@{VERSION} and unpack it: --runtime package"
            raise UserError(f"{folder}: no {needed}: not npm's {PACKAGE}", hint=hint)
    return root


def _fetched(scratch: Path) -> Path:
    """The pinned package by npm, which checks its digest; unpacked, no script of it run."""
    hint = f"npm pack {PACKAGE}@{VERSION} where there is network, unpack it, and name the folder: --runtime package"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"{PACKAGE} {VERSION} is fetched by npm, which is not installed", hint=f"install npm; or {hint}"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--ignore-scripts", "--prefer-offline"]
    try:
        done = subprocess.run(
            command,
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
            timeout=FETCH_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"npm did not fetch {PACKAGE} {VERSION} in {FETCH_SECONDS} s", hint=hint) from None
    found = list(scratch.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(f"npm cannot fetch {PACKAGE} {VERSION}: {last}", hint=hint)
    needed = {"package/package.json", *(f"package/dist/{name}" for name in FILES)}
    with tarfile.open(found[0]) as archive:
        archive.extractall(scratch, [one for one in archive if one.name in needed], filter="data")
    return _given(scratch / "package")
