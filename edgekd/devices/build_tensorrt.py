"""Builds a TensorRT engine on the machine that runs it, with TensorRT and Python 3.8 or newer alone: no edgekd is needed there.

edgekd sends it to a device, and a bundle carries it in `engine/build`. By hand, in a folder with model.onnx and build.json:

    python3 build_tensorrt.py

    build.json      {"compute_capabilities": ["8.7"], "threads": 4, "timing_cache": {"file", "sha256"} or null}
    model.plan      the engine, for this GPU and this version of TensorRT
    layers.json     [{"name", "kind", "takes", "gives"}]: its layers, with the formats of the tensors that they read and write
    timing.cache    what each kernel took here; a later build that is given it chooses the same kernels

The network is strongly typed: each operator computes in the type that the model says, and integers where the model has pairs.
Each line on stdout is JSON: {"doing": …}, then {"done": …} or {"error": {"message", "hint"}}; what else is said goes to stderr.
With `--until-eof` it ends with its input: who started it over a link is gone then.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL, REQUEST = "model.onnx", "build.json"
PLAN, LAYERS, CACHE = "model.plan", "layers.json", "timing.cache"
OLDEST = (10, 0)  # strongly typed networks, and parsers that name the node
INSTALL = "on a Jetson: sudo apt-get install nvidia-jetpack (for /usr/bin/python3); elsewhere: pip install tensorrt"
CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
NAME_BYTES = 256


class BuildError(Exception):
    """Why no engine was built, and how to mend it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def tensorrt() -> Any:
    """TensorRT's Python package. Raises BuildError where there is none, or one that is too old."""
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise BuildError(f"{sys.executable} has no TensorRT: {error}", INSTALL) from None
    version = str(trt.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise BuildError(f"TensorRT {version} is here; 10.0 or newer is needed", "JetPack 6.1 has TensorRT 10.3")
    return trt


def gpu() -> tuple[str, str]:
    """The first GPU's name and compute capability, as the CUDA driver tells them: ("Orin", "8.7").

    Raises BuildError without a driver or a GPU. Source: CUDA driver API, cuDeviceGetAttribute.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BuildError(f"no NVIDIA GPU here: {error}", "TensorRT builds on the GPU that runs the engine") from None

    def ask(function: str, *arguments: Any) -> None:
        if code := getattr(driver, function)(*arguments):
            raise BuildError(f"no NVIDIA GPU here: the CUDA driver's {function} fails with code {code}")

    device, number, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(NAME_BYTES)
    ask("cuInit", 0)
    ask("cuDeviceGet", ctypes.byref(device), 0)
    ask("cuDeviceGetName", name, NAME_BYTES, device)
    parts = []
    for attribute in CAPABILITY:
        ask("cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
        parts.append(str(number.value))
    return name.value.decode("utf-8", "replace"), ".".join(parts)


def pinned(found: str, wanted: list[str]) -> None:
    """Raises BuildError for a GPU whose compute capability is none of those wanted, if any is."""
    if wanted and found not in wanted:
        said = f"this GPU has compute capability {found}, the target {' or '.join(wanted)}"
        raise BuildError(said, "reach another device, or mend the target's compute_capabilities")


def given_cache(request: dict[str, Any], folder: Path) -> bytes:
    """The timing cache to build with; empty without one. Raises BuildError if it is not the one that was pinned."""
    given = request.get("timing_cache")
    if not given:
        return b""
    held = (folder / str(given["file"])).read_bytes()
    if hashlib.sha256(held).hexdigest() != given["sha256"]:
        raise BuildError(f"the timing cache {given['file']} is not the one that was pinned", "send it again")
    return held


def quiet_logger(trt: Any) -> Any:
    """A logger that keeps TensorRT's errors, for the message of a failure, and passes warnings on to stderr."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.lines.append(" ".join(message.split()))
            elif severity == trt.ILogger.WARNING:
                print(message, file=sys.stderr)

        def said(self) -> str:
            return "; ".join(self.lines[-3:]) or "it gives no reason"

    return Logger()


def parsed(trt: Any, logger: Any, model: bytes) -> tuple[tuple[Any, Any, Any], list[str]]:
    """(builder, network, parser), which must live as long as the network; and a line for each thing that the parser refuses.

    Raises BuildError where TensorRT does not start.
    """
    try:
        builder = trt.Builder(logger)
    except Exception as error:  # it raises a TypeError where CUDA does not start
        raise BuildError(f"TensorRT cannot start: {logger.said() if logger.lines else error}") from None
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # from TensorRT 11 on every network is
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if parser.parse(model):
        return (builder, network, parser), []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [f"node {e.node_name() or e.node()} ({e.node_operator()}): {e.desc()}" for e in errors]
    return (builder, network, parser), lines or [logger.said()]


def configured(trt: Any, builder: Any, cache: bytes) -> tuple[Any, Any]:
    """(config, its timing cache, which must live as long). Raises BuildError for a cache of another GPU or version."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector tells names alone
    timing = config.create_timing_cache(cache)
    if timing is None or not config.set_timing_cache(timing, False):
        hint = "leave timing_cache out of the target, build, and pin what this GPU gives: engine/build/timing.cache"
        raise BuildError("the timing cache is of another GPU or of another TensorRT", hint)
    return config, timing


def layers_of(trt: Any, logger: Any, plan: bytes) -> list[dict[str, Any]]:
    """What the engine's inspector tells of its layers. Raises BuildError if the engine cannot be opened."""
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError(f"TensorRT does not open what it built: {logger.said()}")
    inspector = engine.create_engine_inspector()
    return rows(json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON)))


def rows(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The inspector's JSON as a row a layer: {"name", "kind", "takes", "gives"}; of one without details, its name."""

    def formats(layer: dict[str, Any], side: str) -> list[str]:
        return [str(tensor.get("Format/Datatype", "")) for tensor in layer.get(side) or ()]

    found = []
    for layer in told.get("Layers") or ():
        one = layer if isinstance(layer, dict) else {"Name": str(layer)}
        row = {"name": one.get("Name", ""), "kind": one.get("LayerType", "")}
        found.append({**row, "takes": formats(one, "Inputs"), "gives": formats(one, "Outputs")})
    return found


def build(trt: Any, request: dict[str, Any], folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Build model.onnx of the folder. Writes the three files there, each whole, and tells their digests."""
    logger, cache = quiet_logger(trt), given_cache(request, folder)
    tell("parsing")
    (builder, network, _parser), lines = parsed(trt, logger, (folder / MODEL).read_bytes())
    if lines:
        raise BuildError(f"TensorRT cannot parse the model: {'; '.join(lines[:3])}")
    config, timing = configured(trt, builder, cache)
    builder.max_threads = int(request.get("threads") or 1)
    tell("building")
    started = time.monotonic()
    made = builder.build_serialized_network(network, config)
    if made is None:
        raise BuildError(f"TensorRT builds no engine: {logger.said()}")
    seconds, plan = time.monotonic() - started, bytes(made)
    tell("looking at its layers")
    layers = json.dumps(layers_of(trt, logger, plan), indent=1).encode()
    files = {PLAN: plan, LAYERS: layers, CACHE: bytes(timing.serialize())}
    return {"seconds": seconds, "files": {name: write_whole(folder / name, data) for name, data in files.items()}}


def write_whole(file: Path, data: bytes) -> str:
    """Write a file whole or not at all; its sha256."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(str(scratch), str(file))
    finally:
        if scratch.exists():
            scratch.unlink()
    return hashlib.sha256(data).hexdigest()


def run(folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """What was built, on which GPU, by which TensorRT."""
    request = json.loads((folder / REQUEST).read_text("utf-8"))
    tell("looking for TensorRT and a GPU")
    trt = tensorrt()
    name, capability = gpu()
    pinned(capability, request["compute_capabilities"])
    about = {"tensorrt": str(trt.__version__), "gpu": name, "compute_capability": capability}
    return {**about, **build(trt, request, folder, tell)}


def end_with_input() -> None:
    """End this process, whatever it builds, once nobody holds the other end of its input."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(kind: str, value: Any) -> None:
        channel.write(json.dumps({kind: value}) + "\n")
        channel.flush()

    if "--until-eof" in sys.argv[1:]:
        end_with_input()
    try:
        answer("done", run(Path.cwd(), lambda doing: answer("doing", doing)))
    except BuildError as error:
        answer("error", {"message": str(error), "hint": error.hint})
    except OSError as error:
        answer("error", {"message": f"cannot read or write {error.filename}: {error.strerror}", "hint": ""})
    sys.stderr.flush()
    os._exit(0)  # CUDA's own exit handlers have crashed


if __name__ == "__main__":
    main()
