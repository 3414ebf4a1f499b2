"""edgekd installed in each way that it can be, and run from `/`, without network.

Every install goes into a virtual environment of its own, which borrows the packages of this one by a `.pth` file: its own
site-packages come first, so the edgekd that runs is the one just installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import numpy as np
import pytest
from cxx.bundles import write

import edgekd

ROOT = Path(__file__).resolve().parent.parent
BORROWED = Path(numpy.__file__).parent.parent
PIP = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
DATA = ("targets", "calibration")
FOUND = """
import json, sys
from importlib.metadata import version
import edgekd
from edgekd.target import data_dir, find_calibration, find_target, names
from pathlib import Path
print(json.dumps({
    "version": [edgekd.__version__, version("edgekd")],
    "home": str(Path(edgekd.__file__).parent),
    "data": {kind: [str(data_dir(kind)), names(kind)] for kind in ("targets", "calibration")},
    "host": find_target("host", Path()).name,
    "torch": "torch" in sys.modules,
    "template": [p.name for p in (Path(edgekd.__file__).parent / "report").glob("*.j2")],
}))
"""

pytestmark = pytest.mark.slow


def ran(*command: str | Path, cwd: Path = Path("/")) -> str:
    """stdout of a command that must succeed, run where nothing of the checkout can be imported by accident."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "EDGEKD"))}
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False, env=clean)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    ran(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, object]]]:
    """Install what is named into a new environment; (its folder, what edgekd says of itself there)."""

    def install(*what: str | Path) -> tuple[Path, dict[str, object]]:
        home = tmp_path / "env"
        venv.create(home, symlinks=True)
        python = home / "bin" / "python"
        own = Path(ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (own / "borrowed.pth").write_text(f"{BORROWED}\n")
        ran(python, "-m", "pip", "install", *PIP, *what)
        found: dict[str, object] = json.loads(ran(python, "-c", FOUND))
        assert found["version"] == [edgekd.__version__] * 2
        assert not found["torch"]
        assert "Usage: edgekd" in ran(home / "bin" / "edgekd", "--help")
        assert ran(home / "bin" / "edgekd", "--version") == f"edgekd {edgekd.__version__}\n"
        listed = json.loads(ran(home / "bin" / "edgekd", "list", "targets", "--json"))
        assert "host" in [row["name"] for row in listed]
        return home, found

    return install


def holds_the_checkouts_data(found: dict[str, object], place: Path) -> None:
    """Whether edgekd finds its data under `place`, and all that the checkout has."""
    data = found["data"]
    assert isinstance(data, dict)
    for kind in DATA:
        folder, names = data[kind]
        assert Path(folder).is_relative_to(place)
        assert names == sorted(p.stem for p in (ROOT / kind).glob("*.toml"))


def test_pip_install_from_any_folder(installed: Callable[..., tuple[Path, dict[str, object]]]) -> None:
    home, found = installed(ROOT)
    assert Path(str(found["home"])).is_relative_to(home)
    holds_the_checkouts_data(found, home)
    assert found["template"] == [p.name for p in (ROOT / "edgekd" / "report").glob("*.j2")]


def test_an_editable_install_reads_the_checkout(installed: Callable[..., tuple[Path, dict[str, object]]]) -> None:
    _, found = installed("-e", ROOT)
    assert found["home"] == str(ROOT / "edgekd")
    holds_the_checkouts_data(found, ROOT)


def test_a_wheel_from_the_sdist(sdist: Path, installed: Callable[..., tuple[Path, dict[str, object]]]) -> None:
    home, found = installed(sdist)
    assert Path(str(found["home"])).is_relative_to(home)
    holds_the_checkouts_data(found, home)


def test_the_sdist_builds_the_wheel_that_the_checkout_builds(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (p for p in tmp_path.iterdir() if p.is_dir())
    contents = []
    for source in (ROOT, unpacked):
        out = tmp_path / f"wheel of {source.name}"
        ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=source)
        (wheel,) = out.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")})
    assert contents[0] == contents[1]
    names = set(contents[0])
    package = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "edgekd").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    shared = {
        f"edgekd/share/{p.relative_to(ROOT).as_posix()}"
        for kind in (*DATA, "cmake")
        for p in (ROOT / kind).rglob("*")
        if p.is_file()
    }
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == package | shared
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in about}


def test_the_sdist_holds_sources_only(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        files = {Path(*Path(name).parts[1:]).as_posix(): archive.getmember(name).size for name in archive.getnames()}
    for needed in (
        "LICENSE",
        "NOTICE",
        "README.md",
        "Makefile",
        "pyproject.toml",
        "requirements.lock",
        "requirements-backends.lock",
        "tests/test_packaging.py",
    ):
        assert needed in files
    for name in files:
        assert not name.startswith((".venv", "out/", ".git/", "shared/", ".mypy_cache")), name
        assert not name.endswith((".pyc", ".checkpoint", ".part")), name
    assert sum(files.values()) < 14e6


ON_THE_DEVICE = """
import importlib, importlib.util, json, pkgutil, sys
from pathlib import Path
import edgekd, numpy as np
with edgekd.load(sys.argv[1]) as student:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    answers = student.postprocess(student.run([student.preprocess(pixels)]))
foreign = sorted({m.partition(".")[0] for m in sys.modules} - set(sys.stdlib_module_names) - {"__main__"})
from edgekd.verify import verify
checked = verify(Path(sys.argv[1]))
for module in pkgutil.walk_packages(edgekd.__path__, "edgekd."):
    importlib.import_module(module.name)
try:
    edgekd.compile
except AttributeError as error:
    said = str(error)
print(json.dumps({"labels": [a.label for a in answers], "foreign": foreign, "ok": checked.ok, "said": said,
    "home": edgekd.__file__, "torch": importlib.util.find_spec("torch") is not None}))
"""


def test_the_runtime_wheel_opens_a_bundle_with_numpy_and_the_runtime_alone(tmp_path: Path) -> None:
    around = {
        "preprocessing": {"resize": {"size": 8}, "scale": 1 / 255, "mean": [0.5], "std": [0.25]},
        "postprocessing": {"softmax": True, "top": 2},
    }
    made = write(tmp_path / "bundle", around=around)
    ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT / "packaging" / "runtime")
    (wheel,) = tmp_path.glob("edgekd_runtime-*.whl")
    home = tmp_path / "device"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    own = Path(ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for path in (*BORROWED.glob("numpy*"), *BORROWED.glob("onnxruntime*")):
        (own / path.name).symlink_to(path)
    ran(sys.executable, "-m", "pip", "install", *PIP, "--target", own, wheel)
    found = json.loads(ran(python, "-c", ON_THE_DEVICE, made))
    assert found["foreign"] == ["edgekd", "numpy", "onnxruntime"] and not found["torch"]
    assert Path(found["home"]).is_relative_to(home) and found["ok"]
    assert found["said"] == "edgekd.compile is not in edgekd-runtime: pip install edgekd"
    with edgekd.load(made) as student:
        pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        assert found["labels"] == [a.label for a in student.postprocess(student.run([student.preprocess(pixels)]))]
