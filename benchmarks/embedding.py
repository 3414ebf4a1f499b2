"""What embedding costs: a call through edgekd against the runtime's own C API, size, first build, and a cold start in Python.

    .venv/bin/python benchmarks/embedding.py BUNDLE... [--rounds 20000] [--processes 5]

Writes results/embedding.json and results/embedding.md. The first BUNDLE is an onnxruntime one: out/bundles/host after
`make demo`; further ones may be of openvino, too. Each process calls both in turns, and which goes first changes every time;
the overhead is the median of the paired differences within a process, then the median over processes. About a minute on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from published import RESULTS, machine, publish

from edgekd.units import format_bytes, format_seconds

HERE = Path(__file__).parent
ROOT = HERE.parent
# Where the wheel of each runtime that tests/cxx/direct.hpp calls has its library.
LIBRARIES = {"onnxruntime": "capi/libonnxruntime.so*", "openvino": "libs/libopenvino_c.so*"}
MOST_SECONDS, MOST_SHARE, MOST_BYTES, MOST_BUILD, MOST_COLD = 2e-6, 0.01, 300_000, 60.0, 0.4
COLD = (
    "import sys, edgekd; student = edgekd.load(sys.argv[1]); student.run(student.signature.noise(0)); student.close()"
)
COLD_STARTS = 21
APP = """cmake_minimum_required(VERSION 3.20)
project(app CXX)
find_package(edgekd CONFIG REQUIRED)
edgekd_add_student(classes BUNDLE {bundle} EMBED)
add_executable(app {source})
target_link_libraries(app PRIVATE edgekd::classes)
"""


def ran(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def built(source: Path, out: Path, *options: str) -> float:
    """Seconds to configure and build."""
    started = time.perf_counter()
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    ran("cmake", "-S", source, "-B", out, "-DCMAKE_BUILD_TYPE=Release", python, *options)
    ran("cmake", "--build", out, "-j", str(os.cpu_count() or 1))
    return time.perf_counter() - started


def five_lines(folder: Path, bundle: Path) -> tuple[float, int]:
    """The app of five CMake lines in an empty folder: seconds to build it, bytes of the program less those of the bundle."""
    app = folder / "app"
    app.mkdir()
    for file in ("classifier.cpp", "pgm.hpp"):
        shutil.copy(ROOT / "examples" / "cpp" / file, app)
    (app / "CMakeLists.txt").write_text(APP.format(bundle=bundle.resolve(), source="classifier.cpp"))
    where = ran(sys.executable, "-m", "edgekd", "--cmake-dir").strip()
    seconds = built(app, app / "build", f"-Dedgekd_DIR={where}")
    ran("strip", app / "build" / "app")
    embedded = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return seconds, (app / "build" / "app").stat().st_size - embedded


def overhead(program: Path, bundle: Path, rounds: int, processes: int) -> dict[str, Any]:
    """Direct median, median of paired differences (student less direct), and allocations a call."""
    backend = json.loads((bundle / "engine" / "engine.json").read_text())["backend"]
    spec = find_spec(backend)
    assert spec and spec.submodule_search_locations
    (library,) = Path(spec.submodule_search_locations[0]).glob(LIBRARIES[backend])
    runs = [json.loads(ran(program, bundle, library, str(rounds))) for _ in range(processes)]
    paired = [statistics.median(s - d for s, d in zip(r["student"], r["direct"], strict=True)) for r in runs]
    return {
        "backend": backend,
        "direct": statistics.median(statistics.median(r["direct"]) for r in runs),
        "overhead": statistics.median(paired),
        "overhead_by_process": paired,
        "allocations": runs[0]["allocations"],
        "same_outputs": all(r["same"] for r in runs),
    }


def cold_start(bundle: Path) -> list[float]:
    """Seconds that a new Python takes to open the bundle, run it once and end; its files are in the page cache."""
    took = []
    for _ in range(COLD_STARTS + 1):
        started = time.perf_counter()
        ran(sys.executable, "-c", COLD, bundle)
        took.append(time.perf_counter() - started)
    return took[1:]


def rows(found: dict[str, Any]) -> list[str]:
    """What a call of one runtime costs beside its own."""
    allowed, counts, name = max(MOST_SECONDS, MOST_SHARE * found["direct"]), found["allocations"], found["backend"]
    over = f"`Student::run` over {name}'s own C API ({format_seconds(found['direct'])} a call)"
    return [
        f"| {over} | ≤ {format_seconds(allowed)} | {1e6 * found['overhead']:.2f} µs |",
        f"| {name}: allocations a call that are edgekd's | 0 | {counts['student'] - counts['direct']} |",
        f"| {name}: outputs equal to the bit | yes | {'yes' if found['same_outputs'] else 'NO'} |",
    ]


def table(found: dict[str, Any]) -> str:
    cold, machine = statistics.median(found["cold_start"]), found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines = [
        "# Embedding, measured",
        "",
        (
            f"{machine['chip']}, {machine['cores']} cores, {machine['system']}; {versions}. {found['processes']} processes of "
            f"{found['rounds']} rounds."
        ),
        "",
        "| figure | bar | measured |",
        "|---|---|---|",
        *(row for runtime in found["runtimes"] for row in rows(runtime)),
        f"| the classifier, stripped, without bundle and runtime | ≤ {format_bytes(MOST_BYTES)} | {format_bytes(found['bytes'])} |",
        f"| five CMake lines in an empty folder: configure and build | ≤ {MOST_BUILD:.0f} s | {found['build']:.1f} s |",
        f"| a new Python opens the bundle and runs it once, median of {COLD_STARTS} | ≤ {MOST_COLD} s | {cold:.3f} s |",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    options.add_argument("--rounds", type=int, default=20_000)
    options.add_argument("--processes", type=int, default=5)
    options.add_argument("--out", type=Path, default=RESULTS)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        seconds, size = five_lines(folder, args.bundles[0])
        tests = folder / "tests"
        built(ROOT / "tests" / "cxx", tests, f"-Dedgekd_DIR={ROOT / 'cmake'}", "-DPROGRAMS=overhead")
        runtimes = [overhead(tests / "overhead", bundle, args.rounds, args.processes) for bundle in args.bundles]
    found: dict[str, Any] = {
        "runtimes": runtimes,
        "rounds": args.rounds,
        "processes": args.processes,
        "bytes": size,
        "build": seconds,
        "cold_start": cold_start(args.bundles[0]),
    }
    found["machine"] = machine()
    found["versions"] = {name: version(name) for name in ("numpy", *(r["backend"] for r in found["runtimes"]))}
    publish("embedding", found, table(found), args.out)
    print(table(found))


if __name__ == "__main__":
    main()
