"""TensorRT, built on the device itself, which needs it there: a Jetson's JetPack has it; elsewhere pip install tensorrt.

A script that the engine's folder carries (edgekd/devices/build_tensorrt.py) is sent to the target's device with the model, and
builds there. The engine runs on that kind of GPU and that version of TensorRT alone. int8 programs come on the symmetric grid;
half floats where the target lists float16 and the program is float32. The target's `compute_capabilities` pin the GPU, and its
`timing_cache`, by its digest, which kernels are chosen.

    model.plan   the engine, all that an app carries
    build/       what it was built from and with: the script, its request, the model, layers.json and timing.cache
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, final

from edgekd import digest
from edgekd.backend import BUILD, Backend, read_engine, share, write_engine
from edgekd.compilers.tensorrt_onnx import halved, prepared, refused, refused_pairs
from edgekd.devices import build_tensorrt
from edgekd.devices.build_tensorrt import CACHE, LAYERS, MODEL, PLAN, REQUEST
from edgekd.errors import EdgekdError, UserError

if TYPE_CHECKING:
    from edgekd.devices.link import Link, Talk
    from edgekd.target import Target

__all__ = ["TensorRt"]

SCRIPT = Path(build_tensorrt.__file__)
GIVEN_CACHE = "given.cache"
SILENT_SECONDS = 3600.0  # it says nothing while it times kernels; who compiles has a limit of his own
INTEGER = re.compile("int8", re.IGNORECASE)


@final
class TensorRt(Backend):
    """TensorRT: built on the device, and run there by an app or by edgekd-bench."""

    name: ClassVar[str] = "tensorrt"
    packages: ClassVar[Mapping[str, str]] = {"onnx": "onnx", "onnxruntime": "onnxruntime"}
    on_device: ClassVar[str] = (
        "TensorRT 10 or newer (a Jetson: sudo apt-get install nvidia-jetpack; elsewhere: pip install tensorrt)"
    )
    compile_only: ClassVar[str] = "a TensorRT engine opens on its device only: edgekd-bench times its bundle there"

    def grid(self, target: Mapping[str, Any]) -> str:
        return "symmetric"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        """What the program and its pairs tell; TensorRT's own parser is asked on the device."""
        return refused(program, target) or refused_pairs(prepared(program, target))

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Raises EdgekdError, "not built: …", where the device is not reached, has no TensorRT or refuses the model."""
        device, folder = _device(target), out / BUILD
        folder.mkdir()
        (folder / MODEL).write_bytes(prepared(program, target).SerializeToString())
        shutil.copyfile(SCRIPT, folder / SCRIPT.name)
        given = None
        if device.timing_cache:
            shutil.copyfile(device.timing_cache, folder / GIVEN_CACHE)
            given = {"file": GIVEN_CACHE, "sha256": digest.of_file(folder / GIVEN_CACHE)}
        request = {"compute_capabilities": list(device.compute_capabilities), "threads": threads, "timing_cache": given}
        (folder / REQUEST).write_text(json.dumps(request, indent=1), "utf-8")
        done = _built(device, folder)
        (folder / PLAN).rename(out / PLAN)
        layers = json.loads((folder / LAYERS).read_text("utf-8"))
        integer, half = sum(map(_in_integers, layers)), halved(program, target)
        where = (
            f"built on {done['gpu']} (compute capability {done['compute_capability']}) by TensorRT {done['tensorrt']}"
        )
        facts = {
            "backend": self.name,
            "file": PLAN,
            "versions": {**self.versions(), "tensorrt": done["tensorrt"]},
            "threads": threads,
            "integer_nodes": integer,
            "float_nodes": len(layers) - integer,
            "delegated_share": share(integer, len(layers)) if integer else None,
            "note": f"{where}{'; computes in half floats' if half else ''}",
            "options": {
                "compute_capability": done["compute_capability"],
                "half": half,
                "timing_cache": {"given": given["sha256"] if given else "", "made": digest.of_file(folder / CACHE)},
            },
        }
        return write_engine(program, out, facts)

    def load(self, engine: Path) -> NoReturn:
        """Raises UserError, always."""
        _, file = read_engine(engine, self.name)
        raise UserError(f"{file}: {self.compile_only}", hint="link the bundle into an app there: cmake/README.md")


def _device(target: Mapping[str, Any]) -> Target:
    """The target, whose device is reached. Raises EdgekdError where none is, or one that starts no script."""
    from edgekd.reach import Served
    from edgekd.target import Target

    device = Target(**{**target, "memory": None})
    why, hint = device.unmeasured, "write a target of your own with its [reach]: targets/README.md"
    if not why and isinstance(device.reach, Served):
        why, hint = "edgekd devices serve starts edgekd's own runner only", 'reach it by ssh: [reach] kind = "ssh"'
    if why:
        raise EdgekdError(f"not built: {why}", hint=hint)
    return device


def _built(device: Target, folder: Path) -> dict[str, Any]:
    """What the script says of its build there from the folder's files; what it made is in the folder then, as it was there.

    Raises EdgekdError, "not built: …", for whatever went wrong.
    """
    from edgekd.devices.device import who
    from edgekd.devices.link import LinkError

    python = sys.executable if device.reach.kind == "local" else getattr(device.reach, "python", "") or "python3"
    try:
        with _link(device) as link, link.hold(who(), lambda _: None) as lease:
            try:
                link.send(lease.holder, {file.name: file for file in sorted(folder.iterdir())})
                with link.start(lease.holder, [python, SCRIPT.name, "--until-eof"], {}) as talk:
                    done = _answer(talk)
                for name in (PLAN, LAYERS, CACHE):
                    link.get(lease.holder, name, folder / name)
                    if digest.of_file(folder / name) != done["files"].get(name):
                        raise LinkError(f"{link.label}: {name} arrived changed", reason="failed", hint="run it again")
            finally:
                with suppress(LinkError):  # the next one there removes it
                    link.remove_folder(lease.holder)
    except LinkError as error:
        raise EdgekdError(f"not built: {error.message}", hint=error.hint) from None
    return done


def _link(device: Target) -> Link:
    from edgekd.devices.device import connect
    from edgekd.devices.local import LocalLink
    from edgekd.reach import Local

    return LocalLink() if isinstance(device.reach, Local) else connect(device)


def _answer(talk: Talk) -> dict[str, Any]:
    """What the script answers at last. Raises EdgekdError with its reason where it built nothing; LinkError."""
    from edgekd.devices.link import LinkError

    message = talk.receive(SILENT_SECONDS)
    while "doing" in message:
        message = talk.receive(SILENT_SECONDS)
    match message:
        case {"error": {"message": str(said), "hint": str(hint)}}:
            raise EdgekdError(f"not built: {talk.label}: {said}", hint=hint)
        case {"done": {"tensorrt": str(), "gpu": str(), "compute_capability": str(), "files": dict()} as done}:
            return dict(done)
    raise LinkError(f"{talk.label}: garbage from the device: {str(message)[:80]}", reason="garbage")


def _in_integers(layer: Mapping[str, Any]) -> bool:
    """Whether a layer computes on int8; one that converts from it does not."""
    takes = layer["takes"]
    return bool(takes and INTEGER.search(takes[0])) and layer["kind"] != "Reformat"
