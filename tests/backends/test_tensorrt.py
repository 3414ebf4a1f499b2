"""TensorRT as far as it goes without one: what is sent to a device and said there, up to the library that is missing.

`tensorrt_transcript.txt` holds every command that a real link runs for one build, and what the script on the device answers. Where the
device's half is a stand-in, it answers as the script would, and computes nothing.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import json
import re
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from backends.folders import float_model, int8_model, symmetric_model, unoptimised, write_program
from devices.boards import board, by_env, left
from devices.sshd import needs_sshd, serving
from onnx import helper
from project import new_project
from quant import test_onnx_tables as onnx_tables
from quant import test_tables as torch_tables

from edgekd import api, digest, doctor, listing
from edgekd.backend import open_backend, own_files, read_json
from edgekd.compilers.tensorrt_onnx import prepared, refused_pairs
from edgekd.devices import build_tensorrt
from edgekd.devices.exec import ExecLink
from edgekd.devices.link import Talk
from edgekd.devices.shell import LEASE
from edgekd.errors import EdgekdError, UserError
from edgekd.pipeline.engine_steps import add_compile
from edgekd.quant.onnx_ptq import quantize
from edgekd.target import Target, find_target

BACKEND = open_backend("tensorrt")
TRANSCRIPT = Path(__file__).parent / "tensorrt_transcript.txt"
ORIN = {"compute_capabilities": '["8.7"]', "precisions": '["float32", "int8"]'}
absent = pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is here: there is more to test")


def facts(target: Target) -> dict[str, Any]:
    return target.model_dump(mode="json")


def compiled(tmp_path: Path, target: Target, model: Any = None) -> dict[str, Any]:
    program = write_program(tmp_path / "program", model or symmetric_model(), "int8", grid="symmetric")
    assert BACKEND.unsupported(program, facts(target)) == []
    (tmp_path / "engine").mkdir()
    return BACKEND.compile(program, tmp_path / "engine", facts(target), 2)


def test_who_asks_is_told_what_the_device_needs() -> None:
    assert BACKEND.missing() == "", "nothing is to be installed here"
    (check,) = [one for one in doctor.examine() if one.what == "tensorrt"]
    assert check.good and "compiles on the device, which needs TensorRT 10 or newer" in check.found
    assert "nvidia-jetpack" in check.found and "pip install tensorrt" in check.found
    (row,) = [row for row in listing.rows("backends") if row["name"] == "tensorrt"]
    assert "JetPack has it" in row["summary"] and "pip install tensorrt" in row["summary"]
    for name in ("jetson-orin-nano", "jetson-agx-orin"):
        jetson = find_target(name, Path())
        assert jetson.usable[0] == "tensorrt" and jetson.compute_capabilities == ("8.7",)


def test_pairs_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    affine = write_program(tmp_path / "affine", int8_model(), "int8", grid="affine")
    assert BACKEND.unsupported(affine, {}) == ["quantized on the grid affine; this backend takes symmetric"]
    model = int8_model()
    model.graph.node[0].name = "first"
    lines = BACKEND.unsupported(write_program(tmp_path / "said", model, "int8", grid="symmetric"), {})
    assert lines[0] == "node first (QuantizeLinear): its zero point is not 0; TensorRT takes symmetric integers"
    assert len(lines) == 10, "both of each of the five activations, and of no weight"
    rtx = open_backend("tensorrt_rtx")
    if not rtx.missing():  # the same parser, of another product
        assert rtx.unsupported(tmp_path / "said", {})


def test_a_file_quantized_by_onnx_runtime_has_its_biases_turned_into_floats(tmp_path: Path) -> None:
    """Its quantizer writes them in int32: the floats that those stand for compute the same."""
    random = np.random.default_rng(0)
    images = random.standard_normal((4, 1, 8, 8)).astype(np.float32)
    model = quantize(float_model(), {"x": images}, "symmetric")
    assert any("its integers are int32; TensorRT takes int8, and biases as floats" in x for x in refused_pairs(model))
    program = write_program(tmp_path / "program", model, "int8", grid="symmetric")
    made = prepared(program, {})
    assert BACKEND.unsupported(program, {}) == []
    onnx.checker.check_model(made)
    assert not [t.name for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT32]
    assert np.allclose(unoptimised(made, images[:1]), unoptimised(model, images[:1]), atol=1e-6)
    rtx = open_backend("tensorrt_rtx")
    assert rtx.missing() or rtx.unsupported(program, {}) == [], "the same parser, of another product, takes it"


def test_rows_that_are_looked_up_as_integers_are_dequantized_before(tmp_path: Path) -> None:
    """Its builder takes an integer constant before a DequantizeLinear only."""
    held, x = onnx_tables.table(), onnx_tables.tokens(1)[0]
    made = onnx_tables.model(held, [helper.make_node("Gather", ["t", "j"], ["z"], "twice")], ["y", "z"])
    made.graph.input.append(helper.make_tensor_value_info("j", onnx.TensorProto.INT64, [1, onnx_tables.LENGTH]))
    samples = onnx_tables.tokens(8)[:, 0]
    program = write_program(
        tmp_path, quantize(made, {"i": samples, "j": samples}, "symmetric"), "int8", grid="symmetric"
    )
    before, after = onnx.load(program / "model.onnx"), prepared(program, {"name": "card"})
    onnx.checker.check_model(after, full_check=True)
    kinds = [node.op_type for node in after.graph.node]
    assert kinds.count("Gather") == 4  # of integers and of scales
    (table,) = [node for node in after.graph.node if node.input[0] == "t_integers"]
    assert table.op_type == "DequantizeLinear"
    assert refused_pairs(after) == []
    outputs = [
        onnxruntime.InferenceSession(one.SerializeToString()).run(None, {"i": x, "j": x[:, ::-1].copy()})
        for one in (before, after)
    ]
    for one, other in zip(*outputs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_rows_of_which_torch_has_looked_the_scales_up_are_dequantized_before(tmp_path: Path) -> None:
    """Of places, whose order is constant, the exporter makes a constant of the scales and leaves the integers to be looked up."""
    program = torch_tables.written(torch_tables.Normed().eval(), "symmetric", tmp_path)
    before, after = onnx.load(program / "model.onnx"), prepared(program, {"name": "card"})
    held = {tensor.name for tensor in before.graph.initializer}
    assert any(node.op_type == "Gather" and held.issuperset(node.input) for node in before.graph.node)
    integers = {t.name for t in after.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    assert {node.op_type for node in after.graph.node if not integers.isdisjoint(node.input)} <= {
        "DequantizeLinear",
        "QuantizeLinear",
    }
    x = {"tokens": torch_tables.tokens(1).numpy()}
    one, other = (onnxruntime.InferenceSession(m.SerializeToString()).run(None, x)[0] for m in (before, after))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_branch_may_read_what_no_node_outside_reads(tmp_path: Path) -> None:
    def branch(name: str, kind: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, ["h"], [name])], name, [], [out])

    ports = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])]
    ports.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    nodes = [helper.make_node("Relu", ["x"], ["h"])]
    nodes.append(helper.make_node("If", ["c"], ["y"], then_branch=branch("a", "Neg"), else_branch=branch("b", "Abs")))
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    model = helper.make_model(
        helper.make_graph(nodes, "g", ports, [out]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    made = prepared(write_program(tmp_path, model, "int8", grid="symmetric"), {"name": "card"})
    assert [node.op_type for node in made.graph.node] == ["Relu", "If"]


@pytest.mark.parametrize(
    ("reach", "why"),
    [
        ('kind = "ssh"', "the device is reached by ssh, and the target names no host"),
        ('kind = "none"', "this edgekd knows no way to run a program there"),
        ('kind = "served"\nport = 4141', "edgekd devices serve starts edgekd's own runner only"),
        ('kind = "exec"\ncommand = ["env"]\npython = "no-such-python"', "the program ended with exit code 127"),
    ],
)
def test_what_is_not_reached_is_not_built(tmp_path: Path, reach: str, why: str) -> None:
    with pytest.raises(EdgekdError) as caught:
        compiled(tmp_path, board(tmp_path, f"{reach}\nfolder = '{tmp_path / 'there'}'" if "exec" in reach else reach))
    assert caught.value.message.startswith("not built: ") and why in caught.value.message


@absent
def test_the_commands_of_a_build_up_to_the_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a real link to a real Python, which has no TensorRT. To record it anew, write `found` into the file."""
    said: list[str] = []
    argv, receive = ExecLink.argv, Talk.receive

    def recorded(self: ExecLink, script: str) -> list[str]:
        said.append(f"$ {script}")
        return argv(self, script)

    def heard(self: Talk, timeout: float) -> dict[str, Any]:
        message = receive(self, timeout)
        said.append(f"< {json.dumps(message)}")
        return message

    monkeypatch.setattr(ExecLink, "argv", recorded)
    monkeypatch.setattr(Talk, "receive", heard)
    (tmp_path / "orin").mkdir()
    (tmp_path / "orin" / "orin.cache").write_bytes(b"what kernels took")
    target = by_env(tmp_path / "orin", "orin", timing_cache='"orin.cache"', **ORIN)
    with pytest.raises(EdgekdError) as caught:
        compiled(tmp_path, target)
    assert caught.value.message == (
        f"not built: orin (env): {sys.executable} has no TensorRT: No module named 'tensorrt'"
    )
    assert caught.value.hint == build_tensorrt.INSTALL
    assert left(target) == [], "what was sent is removed"
    build = tmp_path / "engine" / "build"
    found, wanted = normal("\n".join(said), tmp_path, build), TRANSCRIPT.read_text("utf-8")
    assert found == wanted, "\n".join(difflib.unified_diff(wanted.splitlines(), found.splitlines(), lineterm=""))


def normal(said: str, folder: Path, build: Path) -> str:
    """Without what differs from machine to machine and from run to run: paths, digests, who measures."""
    said = said.replace(LEASE.strip(), "(LEASE of edgekd/devices/shell.py)").replace(sys.executable, "PYTHON")
    said = said.replace(str(folder / "orin" / "there"), "ROOT")
    for file in build.iterdir():
        said = said.replace(digest.of_file(file), f"sha256({file.name})")
    said = re.sub(r"for name in (.*); do", lambda m: f"for name in {' '.join(sorted(m[1].split()))}; do", said)
    host = re.escape(re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()).strip("-")[:40] or "host")
    said = re.sub(rf"{host}-\d+\.[0-9a-f]{{12}}", "HOLDER", said)
    return re.sub(r"[ \t]+\n", "\n", said) + "\n"


@absent
def test_this_machine_is_a_device_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    with pytest.raises(EdgekdError, match=f"not built: this machine: {re.escape(sys.executable)} has no TensorRT"):
        compiled(tmp_path, board(tmp_path, 'kind = "local"', **ORIN), float_model())


@absent
@needs_sshd
def test_over_a_real_ssh_too(tmp_path: Path) -> None:
    with serving(tmp_path / "server") as server:
        more = f'folder = "{tmp_path / "there"}"\npython = "{sys.executable}"'
        target = board(tmp_path, server.reach(more), "orin", **ORIN)
        with pytest.raises(EdgekdError) as caught:
            compiled(tmp_path, target)
    label = f"orin ({server.user}@127.0.0.1:{server.port})"
    assert caught.value.message.startswith(f"not built: {label}: {sys.executable} has no TensorRT: ")
    assert not list((tmp_path / "there" / "work").iterdir())
    assert len(list((tmp_path / "there" / "files").iterdir())) == 3, "the model, the request and the script"


STAND_IN = """
import hashlib, json, pathlib
assert json.loads(pathlib.Path("build.json").read_text())["threads"] == 2
made = {"model.plan": b"plan", "layers.json": json.dumps(LAYERS).encode(), "timing.cache": b"cache"}
for name, data in made.items():
    pathlib.Path(name).write_bytes(data)
files = {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}
print(json.dumps({"doing": "building"}))
print(json.dumps(ANSWER))
"""
# Of NVIDIA's own example of what the inspector tells: developer.nvidia.com/blog/exploring-tensorrt-engines-with-trex
EIGHT, FULL = "Thirty-two wide channel vectorized row major Int8 format", "Row major linear FP32 format"
TOLD = {
    "Layers": [
        {"Name": "in", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": FULL}], "Outputs": [{"Format/Datatype": EIGHT}]},
        {"Name": "c1", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": EIGHT}], "Outputs": [{"Format/Datatype": EIGHT}]},
        {"Name": "c2", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Int8"}], "Outputs": [{"Format/Datatype": "Float"}]},
        "only a name",
    ],
    "Bindings": ["x", "y"],
}  # fmt: skip
DONE = '{"done": {"tensorrt": "10.3.0", "gpu": "Orin", "compute_capability": "8.7", "seconds": 1, "files": files}}'


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a script that answers this in the place of the one that builds."""

    def put(answer: str) -> None:
        script = tmp_path / "build_tensorrt.py"
        layers = repr(build_tensorrt.rows(TOLD))
        script.write_text(STAND_IN.replace("LAYERS", layers).replace("ANSWER", answer))
        monkeypatch.setattr(importlib.import_module("edgekd.backends.tensorrt"), "SCRIPT", script)

    return put


def test_what_a_device_built_is_fetched_and_told(tmp_path: Path, stand_in: Any) -> None:
    """The device's half is a stand-in."""
    stand_in(DONE)
    told = compiled(tmp_path, by_env(tmp_path / "orin", "orin", **ORIN))
    engine = tmp_path / "engine"
    assert told == read_json(engine / "engine.json")
    assert [file.name for file in own_files(engine)] == ["model.plan"] and told["bytes"] == 4
    beside = sorted(file.name for file in (engine / "build").iterdir())
    assert beside == ["build.json", "build_tensorrt.py", "layers.json", "model.onnx", "timing.cache"]
    assert (told["integer_nodes"], told["float_nodes"], told["delegated_share"]) == (2, 2, 0.5)
    assert told["versions"]["tensorrt"] == "10.3.0" and told["grid"] == "symmetric"
    assert told["note"] == "built on Orin (compute capability 8.7) by TensorRT 10.3.0"
    made = hashlib.sha256(b"cache").hexdigest()
    assert told["options"]["timing_cache"] == {"given": "", "made": made}
    with pytest.raises(UserError, match="opens on its device only"):
        BACKEND.load(engine)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (DONE.replace("files}", '{**files, "model.plan": "0" * 64}}'), "orin (env): model.plan arrived changed"),
        ('{"done": {"gpu": "Orin"}}', "garbage from the device"),
        ('{"error": {"message": "no NVIDIA GPU here", "hint": "a"}}', "not built: orin (env): no NVIDIA GPU here"),
        ("[1]", "garbage from the device: '[1]'"),
    ],
)
def test_what_a_device_may_say_wrong(tmp_path: Path, stand_in: Any, answer: str, says: str) -> None:
    stand_in(answer)
    target = by_env(tmp_path / "orin", "orin", **ORIN)
    with pytest.raises(EdgekdError) as caught:
        compiled(tmp_path, target)
    assert caught.value.message.startswith("not built: ") and says in caught.value.message
    assert left(target) == []


def test_the_script_needs_python_3_8_and_nothing_else() -> None:
    tree = ast.parse(Path(build_tensorrt.__file__).read_text("utf-8"), feature_version=(3, 8))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= set(sys.stdlib_module_names)


def test_the_script_refuses_another_gpu_and_another_cache(tmp_path: Path) -> None:
    build_tensorrt.pinned("8.7", ["8.6", "8.7"])
    build_tensorrt.pinned("8.7", [])
    with pytest.raises(build_tensorrt.BuildError, match=r"compute capability 8\.9, the target 8\.6 or 8\.7"):
        build_tensorrt.pinned("8.9", ["8.6", "8.7"])
    (tmp_path / "given.cache").write_bytes(b"took")
    given = {"file": "given.cache", "sha256": hashlib.sha256(b"took").hexdigest()}
    assert build_tensorrt.given_cache({"timing_cache": given}, tmp_path) == b"took"
    with pytest.raises(build_tensorrt.BuildError, match="not the one that was pinned"):
        build_tensorrt.given_cache({"timing_cache": {**given, "sha256": "0" * 64}}, tmp_path)
    assert build_tensorrt.given_cache({"timing_cache": None}, tmp_path) == b""


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_the_script_says_that_there_is_no_gpu() -> None:
    with pytest.raises(
        build_tensorrt.BuildError, match=r"no NVIDIA GPU here: (libcuda|the CUDA driver's cuInit fails)"
    ):
        build_tensorrt.gpu()


def test_the_script_ends_with_its_input() -> None:
    code = "import time; from edgekd.devices import build_tensorrt as b; b.end_with_input(); time.sleep(60); print('slept')"
    ran = subprocess.run([sys.executable, "-c", code], input=b"", capture_output=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout) == (1, b"")


needs_rtx = pytest.mark.skipif(bool(open_backend("tensorrt_rtx").missing()), reason="tensorrt_rtx is an extra")


@needs_rtx
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_the_scripts_calls_are_those_of_the_real_api() -> None:
    """TensorRT for RTX has the same Python API: the network is parsed, configured and built by the script's own functions."""
    trt = importlib.import_module("tensorrt_rtx")
    logger = build_tensorrt.quiet_logger(trt)
    model = symmetric_model().SerializeToString()
    (builder, network, _parser), lines = build_tensorrt.parsed(trt, logger, model)
    assert lines == [] and network.num_layers > 10
    config, _ = build_tensorrt.configured(trt, builder, b"")
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1  # what RTX asks for where there is no card
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None and len(bytes(plan)) > 1000, logger.said()
    with pytest.raises(build_tensorrt.BuildError):
        build_tensorrt.layers_of(trt, logger, bytes(plan))


@needs_rtx
@absent
def test_the_script_refuses_a_version_that_is_too_old(tmp_path: Path) -> None:
    """RTX under TensorRT's name: its version is 1.7."""
    (tmp_path / "tensorrt.py").write_text("from tensorrt_rtx import *\nfrom tensorrt_rtx import __version__\n")
    (tmp_path / "build.json").write_text('{"compute_capabilities": []}')
    command = [sys.executable, build_tensorrt.__file__]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    *_, last = map(json.loads, ran.stdout.splitlines())
    assert re.fullmatch(r"TensorRT 1\.[\d.]+ is here; 10\.0 or newer is needed", last["error"]["message"])


def test_its_key_knows_the_device_and_the_cache(tmp_path: Path) -> None:
    """What is built on another device, or with another timing cache, is another result; a race or a score there is none."""
    recipe = new_project(tmp_path / "quarters_orin")
    (recipe.parent / "orin.cache").write_bytes(b"one")
    target = by_env(recipe.parent, "orin", timing_cache='"orin.cache"', backends='["tensorrt"]', **ORIN)
    named = ['targets.names=["orin.toml"]']
    plan = api.prepare(recipe, overrides=named, backends=["tensorrt"], store=tmp_path / "store", quiet=True)
    candidate = plan.candidates[-1]
    compiled, golden = (plan.steps[f"{verb} quantize on tensorrt for orin"] for verb in ("compile", "golden"))
    assert compiled.reads[0] == "export quantize" and compiled.key != golden.key
    assert not [name for name in plan.steps if name.startswith(("evaluate", "race"))]
    keys = [compiled.key]
    (recipe.parent / "orin.cache").write_bytes(b"two")
    elsewhere = target.model_copy(update={"reach": target.reach.model_copy(update={"folder": "/elsewhere"})})
    for changed in (target, elsewhere):
        add_compile(plan, replace(candidate, target=changed))
        keys.append(plan.steps[candidate.step("compile")].key)
    assert len(set(keys)) == 3
