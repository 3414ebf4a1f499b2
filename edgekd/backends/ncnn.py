"""ncnn on the CPU, by way of pnnx: float programs only, in f32, or in half floats where a target lists them.

ncnn has int8 kernels, but the tools that make their scales are not in the packages on the index, and pnnx turns a quantized
program into layers that ncnn lacks: int8 programs are refused. The engine is the two files that ncnn reads, model.param
(text) and model.bin (weights); they run on whatever processor ncnn was built for.

ncnn knows no batch: pnnx takes away the first dimension, which therefore is 1, and the session puts it back.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from edgekd.backend import (
    Array,
    Backend,
    Session,
    Signature,
    lent,
    read_engine,
    read_json,
    write_engine,
)
from edgekd.errors import EdgekdError, UserError
from edgekd.refusals import fixed_shapes, refused_precision

__all__ = ["Ncnn"]

FILE, WEIGHTS = "model.param", "model.bin"
NO_INT8 = (
    "the program is int8; the packages ncnn and pnnx hold no tool that quantizes, and pnnx has no rule for its pairs"
)
# Of ncnn's options, those that decide what it computes; the switches of half floats are all on or all off.
HALF = ("use_fp16_storage", "use_fp16_packed", "use_fp16_arithmetic")
ALWAYS = {"use_vulkan_compute": False, "use_bf16_storage": False, "use_int8_inference": False}
OPTIONS = frozenset({"num_threads", *HALF, *ALWAYS})
# Kinds of layers that multiply and add, as model.param names them.
WEIGHTED = re.compile(
    r"(Convolution|Deconvolution)(DepthWise)?(1D|3D)?|InnerProduct|Gemm|MatMul|RNN|LSTM|GRU|MultiHeadAttention|SDPA"
)


class NcnnSession(Session):
    """One network. Inputs are lent without a copy where memory allows it; outputs are copied out of the extractor.

    An input that a layer reads which works in place is copied: ncnn ends the process where that layer is given borrowed memory.
    """

    def __init__(self, signature: Signature, net: Any, blobs: Mapping[str, Sequence[str]]) -> None:
        super().__init__(signature)
        from ncnn import Mat

        self._net, self._mat, self._inputs, self._outputs = net, Mat, blobs["inputs"], blobs["outputs"]
        readers = {blob.name: blob.consumer for blob in net.blobs()}
        layers = net.layers()
        self._written = [readers[name] >= 0 and layers[readers[name]].support_inplace for name in self._inputs]

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        extractor = self._net.create_extractor()
        given = [lent(value[0]) for value in inputs]  # alive until the last output is out
        for name, value, written in zip(self._inputs, given, self._written, strict=True):
            mat = self._mat(value)
            extractor.input(name, mat.clone() if written else mat)
        found: list[Array] = []
        for name, port in zip(self._outputs, self.signature.outputs, strict=True):
            code, mat = extractor.extract(name)
            value = np.array(mat)
            if code != 0 or value.size != np.prod(port.concrete(1)):
                raise EdgekdError(f'ncnn gives {value.shape} for the output "{port.name}" of shape {list(port.shape)}')
            found.append(value.reshape(port.concrete(1)))
        return found

    def release(self) -> None:
        self._net = None


@final
class Ncnn(Backend):
    """ncnn, CPU, in f32 or half floats."""

    name: ClassVar[str] = "ncnn"
    packages: ClassVar[Mapping[str, str]] = {"ncnn": "ncnn", "pnnx": "pnnx", "onnx": "onnx"}
    opens_with: ClassVar[tuple[str, ...]] = ("ncnn",)

    def grid(self, target: Mapping[str, Any]) -> str:
        return "affine"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        """What the program tells, or else each layer that pnnx wrote and ncnn does not have."""
        quantized = read_json(program / "program.json").get("precision") == "int8"
        lines = [*refused_precision(program, target), *([NO_INT8] if quantized else [])]
        lines += [*fixed_shapes(program), *_refused_ports(program)]
        if lines:
            return lines
        from ncnn import layer_to_index

        try:
            with _converted(program, half=False) as (param, _):
                layers = [line.split()[:2] for line in param.read_text("utf-8").splitlines()[2:]]
        except EdgekdError as error:
            return [f"the whole graph: {error.message}"]
        return [f"node {name} ({kind}): ncnn has no such layer" for kind, name in layers if layer_to_index(kind) < 0]

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Half floats where `target` lists float16. Raises EdgekdError if pnnx or ncnn refuses the program."""
        signature = Signature.read(program)
        half = "float16" in (target.get("precisions") or ())
        blobs = _blobs(program, signature)
        with _converted(program, half) as files:
            for made, name in zip(files, (FILE, WEIGHTS), strict=True):
                shutil.copyfile(made, out / name)
        kinds = Counter(line.split()[0] for line in (out / FILE).read_text("utf-8").splitlines()[2:])
        facts = {
            "backend": self.name,
            "file": FILE,
            "versions": self.versions(),
            "threads": threads,
            "integer_nodes": 0,
            "float_nodes": sum(n for kind, n in kinds.items() if WEIGHTED.fullmatch(kind)),
            "delegated_share": None,
            "kernels": dict(sorted(kinds.items())),
            "note": "weights and values are half floats" if half else "",
            "blobs": blobs,
            "options": {"num_threads": threads, **dict.fromkeys(HALF, half), **ALWAYS},
        }
        with _opened(out, signature, facts) as session:
            session.run(signature.noise(0))
        return write_engine(program, out, facts)

    def load(self, engine: Path) -> NcnnSession:
        facts, _ = read_engine(engine, self.name)
        return _opened(engine, Signature.read(engine), facts)


def _refused_ports(program: Path) -> list[str]:
    """A line for each input or output that has no first dimension of 1 to take away, or is not of floats."""
    signature = Signature.read(program)
    sides = (("input", signature.inputs), ("output", signature.outputs))
    ports = [(side, port) for side, found in sides for port in found]
    lines = [
        f'{side} "{port.name}" has the shape {list(port.shape)}; ncnn takes one sample, [1, …] of 2 to 5 dimensions'
        for side, port in ports
        if not 2 <= len(port.shape) <= 5 or (isinstance(port.shape[0], int) and port.shape[0] != 1)
    ]
    return lines + [
        f'{side} "{port.name}" is {port.dtype}; ncnn is given and gives float32 here'
        for side, port in ports
        if port.dtype != "float32"
    ]


def _blobs(program: Path, signature: Signature) -> dict[str, list[str]]:
    """What pnnx calls the signature's ports: in0, in1, … and out0, … in the model's order."""
    import onnx

    graph = onnx.load(program / "model.onnx", load_external_data=False).graph
    found = {}
    for side, prefix, values, ports in (
        ("inputs", "in", graph.input, signature.inputs),
        ("outputs", "out", graph.output, signature.outputs),
    ):
        known, wanted = [value.name for value in values], [port.name for port in ports]
        if sorted(known) != sorted(wanted):
            raise EdgekdError(f"the model's {side} are {sorted(known)}, signature.json says {wanted}")
        found[side] = [f"{prefix}{known.index(name)}" for name in wanted]
    return found


@contextmanager
def _converted(program: Path, half: bool) -> Iterator[tuple[Path, Path]]:
    """The two files that pnnx makes of model.onnx, in a folder that goes away. The tool is a program of its own.

    Raises EdgekdError with what it said if it makes none.
    """
    import onnx

    from edgekd.quant.rebase import strip

    found = find_spec("pnnx")
    assert found is not None and found.origin is not None  # a worker asks what is missing before it compiles
    with tempfile.TemporaryDirectory(prefix="edgekd-pnnx-") as scratch:
        folder = Path(scratch)
        onnx.save(strip(onnx.load(program / "model.onnx")), folder / "model.onnx")
        tool = Path(found.origin).parent / "pnnx"
        ran = subprocess.run([tool, "model.onnx", f"fp16={int(half)}"], cwd=folder, capture_output=True, check=False)
        files = folder / "model.ncnn.param", folder / "model.ncnn.bin"
        if ran.returncode != 0 or not all(file.is_file() for file in files):
            said = (ran.stderr or ran.stdout).decode("utf-8", "replace").strip().splitlines()[-3:]
            raise EdgekdError(f"pnnx cannot convert the model (exit code {ran.returncode}): {' '.join(said)}")
        yield files


def _opened(engine: Path, signature: Signature, facts: Mapping[str, Any]) -> NcnnSession:
    """Raises UserError for options or blobs that are none, EdgekdError if ncnn cannot read the two files."""
    from ncnn import Net

    options, blobs = dict(facts["options"]), facts["blobs"]
    if not set(options) <= OPTIONS:
        raise UserError(f"{engine / 'engine.json'}: no options of ncnn: {', '.join(sorted(set(options) - OPTIONS))}")
    net = Net()
    for name, value in options.items():
        setattr(net.opt, name, value)
    for file, read in ((FILE, net.load_param), (WEIGHTS, net.load_model)):
        if read(str(engine / file)) != 0:
            raise EdgekdError(f"{engine / file}: ncnn refuses the file")
    for side, known in (("inputs", net.input_names()), ("outputs", net.output_names())):
        if lost := sorted(set(blobs[side]) - set(known)):
            raise EdgekdError(
                f"{engine / FILE}: the network has no {side} {', '.join(lost)}; it has {', '.join(known)}"
            )
    return NcnnSession(signature, net, blobs)
