"""Instructions counted from outside edgekd-bench, where the processor's own counters cannot be read: by qemu or by valgrind.

edgekd-bench makes the calls of a `count` request in one function of its own, between two marks. valgrind's callgrind counts
inside that function; qemu's user mode counts between the marks by a plugin (qemu_count.c), which is compiled here once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from edgekd import digest
from edgekd.devices.link import Link, LinkError
from edgekd.reach import Exec
from edgekd.store import default_folder
from edgekd.target import Target

CALLS = 10  # of an engine, which runs a hundred times slower then
FUNCTION = "edgekd_bench_calls"  # cmake/src/serve.cpp
PLUGIN = Path(__file__).with_name("qemu_count.c")
NEW_QEMU = 9  # its plugins say a newer version of the interface


@final
@dataclass(frozen=True)
class Counter:
    """What counts: words before the runner's command, or variables; `result` is the file that holds the count then."""

    name: str
    result: str
    pattern: str
    before: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    calls: int = CALLS

    def read(self, link: Link, folder: str, scratch: str) -> tuple[float, str]:
        """Instructions of one call, and who counted them, from what it left in the work folder. Raises LinkError."""
        file = Path(scratch) / "counted"
        link.get(folder, self.result, file)
        found = re.search(self.pattern, file.read_text("utf-8", "replace"), re.MULTILINE)
        if found is None or int(found[1]) == 0:
            raise LinkError(f"{link.label}: {self.name} counted nothing", reason="garbage")
        return int(found[1]) / self.calls, f"counted by {self.name}"


def counter(target: Target, out: str) -> Counter:
    """What can count on the target's device, into the file `out`, which is new; whether it is there shows when it is started.

    Raises LinkError (failed) where qemu's plugin cannot be compiled here.
    """
    words = target.reach.command if isinstance(target.reach, Exec) else ()
    if not (words and Path(words[0]).name.startswith("qemu-")):
        options = (f"--callgrind-out-file={out}", f"--toggle-collect={FUNCTION}", f"--dump-after={FUNCTION}")
        before = ("valgrind", "--tool=callgrind", "--collect-atstart=no", *options)
        return Counter("valgrind", f"{out}.1", r"^summary: (\d+)", before)
    there = "lib/qemu_count.so"
    named = {"QEMU_PLUGIN": f"file=./{there},out={out}"}
    return Counter("qemu", out, r"^(\d+)$", environment=named, files={there: plugin(words[0])})


def plugin(qemu: str) -> Path:
    """The plugin for this qemu, compiled once. Raises LinkError (failed)."""
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\d+)", said)
    interface = 2 if version and int(version[1]) >= NEW_QEMU else 1
    kept = default_folder() / "bench" / digest.of_json([digest.of_file(PLUGIN), interface]) / "qemu_count.so"
    if kept.is_file():
        return kept
    compiler = shutil.which("cc") or shutil.which("c++")
    if compiler is None:
        raise LinkError("qemu counts by a plugin, which needs a C compiler here", reason="failed")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        made = Path(scratch) / kept.name
        command = [
            compiler,
            "-x",
            "c",
            "-shared",
            "-fPIC",
            "-O2",
            f"-DINTERFACE={interface}",
            str(PLUGIN),
            "-o",
            str(made),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LinkError(f"qemu's plugin cannot be compiled: {done.stderr.strip()[-300:]}", reason="failed")
        os.replace(made, kept)
    return kept
