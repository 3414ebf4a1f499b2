"""Candidates of a search built and timed, for relax_tuning.py: in processes of their own, so that what crashes costs one of them.

TVM's own builder starts its processes anew for each round, and each of these imports torch and the tensor instructions of every
GPU that TVM knows before it compiles for a processor without one: half a minute where the machine is busy, which its time limit
counts. Here a process builds many candidates, imports neither, and links what it built; the one that times only opens that.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

from edgekd.compilers.shared_library import linked

__all__ = ["builder", "builders", "only_own_instructions", "runner"]

BUILDING, MEASURING = 120.0, 60.0  # seconds for one candidate
USES = 256  # candidates that a process builds: compilers keep some of the memory that they took
BLOCKS, BLOCK_MS = 5, 20  # a candidate is called for so many blocks of so many milliseconds
PROCESS = "edgekd.compilers.relax_process"
INSTRUCTIONS: Mapping[str, str] = {"x86_64": "x86", "aarch64": "arm_cpu", "riscv64": "riscv_cpu"}
"""Where TVM keeps a processor's tensor instructions, by what Linux calls it (uname -m)."""


def only_own_instructions() -> None:
    """Register the tensor instructions of this processor, so that the search, which wants them all, imports no others."""
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        return
    spec = find_spec(name)
    assert spec is not None
    sys.modules[name] = module_from_spec(spec)  # the package without what its own file imports
    if own := INSTRUCTIONS.get(platform.machine()):
        import_module(f"{name}.{own}")


def builders(processes: int) -> Any:
    """A pool of processes that build; to be shut down."""
    return _own_processes().PopenPoolExecutor(max_workers=processes, timeout=BUILDING, maximum_process_uses=USES)


def _own_processes() -> Any:
    """TVM's module of pools, whose pools start processes of ours from now on: TVM says nowhere else what they run."""
    from tvm.support import popen_pool

    class Worker(popen_pool.PopenWorker):  # type: ignore[misc]  # without types
        _proc: Any

        def _start(self) -> None:
            if self._proc is not None:
                return
            (answers, answering), (asked, asking) = os.pipe(), os.pipe()
            command = [sys.executable, "-P", "-m", PROCESS, str(asked), str(answering)]
            silent = subprocess.DEVNULL
            self._proc = subprocess.Popen(command, pass_fds=(asked, answering), stdout=silent, stderr=silent)
            os.close(asked)
            os.close(answering)
            self._reader, self._writer = os.fdopen(answers, "rb"), os.fdopen(asking, "wb")

    popen_pool.PopenWorker = Worker
    return popen_pool


def builder(pool: Any, compiler: str, folder: Path) -> Any:
    """What the search has its candidates built by: each a library in a folder of its own in `folder`."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms
    from tvm.support.popen_pool import StatusKind

    def told(found: Any) -> Any:
        if found.status == StatusKind.COMPLETE:
            return ms.builder.BuilderResult(found.value, None)
        late = found.status == StatusKind.TIMEOUT
        return ms.builder.BuilderResult(None, f"not built in {BUILDING:g} s" if late else str(found.value))

    @derived_object
    class Builder(ms.builder.PyBuilder):  # type: ignore[misc]  # without types
        def build(self, build_inputs: Sequence[Any]) -> list[Any]:
            asked = [(one.mod, one.target, compiler, str(folder)) for one in build_inputs]
            return [told(found) for found in pool.map_with_error_catching(_built, asked)]

    return Builder()


def _built(asked: tuple[Any, Any, str, str]) -> str:
    """(kernel, target, linker, folder) to the library's path; in a process of `builders`."""
    from tvm.driver import build
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    kernel, target, compiler, folder = asked
    kernel = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(
        kernel
    )  # weights are laid out once, not in each call
    file = Path(tempfile.mkdtemp(dir=folder)) / "kernel.so"
    build(kernel, target=target).export_library(str(file), fcompile=linked(compiler))
    return str(file)


def runner() -> Any:
    """What the search has its candidates timed by, one after another; its `pool` to be shut down."""
    from tvm.s_tir import meta_schedule as ms

    _own_processes()
    return ms.runner.LocalRunner(timeout_sec=MEASURING, f_run_evaluator=_timed)


def _timed(module: Any, device: Any, _: Any, arguments: Sequence[Sequence[Any]]) -> list[float]:
    """Seconds of a call: the mean of the fastest block, since whatever else the machine does only adds."""
    timer = module.time_evaluator(module.entry_name, dev=device, number=1, repeat=BLOCKS, min_repeat_ms=BLOCK_MS)
    return [min(float(seconds) for seconds in timer(*arguments[0]).results)]
