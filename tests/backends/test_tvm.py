"""TVM: float and int8 as the program, batch norms folded, what it cannot take named, other processors' code, kernels tuned."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from backends.folders import float_model, int8_model, unoptimised, write_program
from onnx import TensorProto, helper, numpy_helper

from edgekd import worker
from edgekd.backend import load_engine, open_backend
from edgekd.compilers.llvm_target import described, foreign, holds, linker, refused_system
from edgekd.compilers.relax_tuning import ABOUT, RECORDS, WORKLOADS, mend, merged
from edgekd.errors import EdgekdError, UserError
from edgekd.target import this_machine

BACKEND = open_backend("tvm")
KERNEL = Path(__file__).parent.parent / "cxx" / "kernel.c"
needs_tvm = pytest.mark.skipif(
    bool(BACKEND.missing() or refused_system({})), reason=f"tvm is an extra: {BACKEND.missing() or refused_system({})}"
)
X = np.random.default_rng(0).standard_normal((200, 1, 1, 8, 8)).astype(np.float32)


def compiled(out: Path, program: Path, target: dict[str, Any] | None = None, threads: int = 1) -> dict[str, Any]:
    out.mkdir()
    return BACKEND.compile(program, out, {"name": "board", **(target or {})}, threads)


def outputs(engine: Path, inputs: Sequence[np.ndarray] = X) -> np.ndarray:
    with load_engine(engine) as session:
        return np.concatenate([session.run([one])[0] for one in inputs])


def program_of(
    folder: Path, nodes: list[onnx.NodeProto], shape: list[int], held: Sequence[onnx.TensorProto] = ()
) -> Path:
    """A program of float nodes from inputs a, b, … to outputs y, z, … of one shape, as far as the nodes read and write these."""
    read, written = (
        {name for node in nodes for name in names(node)} for names in (lambda n: n.input, lambda n: n.output)
    )
    sides = [sorted(names & set(letters)) for names, letters in ((read, "abx"), (written, "yz"))]
    values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in names] for names in sides]
    graph = helper.make_graph(nodes, "g", *values, list(held))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("example", 1)]
    return write_program(folder, helper.make_model(graph, opset_imports=opsets, ir_version=10))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("programs")
    models = {"float32": float_model(), "int8": int8_model()}
    return {kind: write_program(folder / kind, model, kind) for kind, model in models.items()}


@needs_tvm
def test_float_equals_the_program(programs: dict[str, Path], tmp_path: Path) -> None:
    program, engine = programs["float32"], tmp_path / "engine"
    assert BACKEND.unsupported(program, {}) == []
    facts = compiled(engine, program)
    assert (facts["float_nodes"], facts["integer_nodes"], facts["delegated_share"]) == (3, 0, None)
    assert facts["tuning"] == {"trials": 0, "seconds": 0.0, "tuned": 0, "kernels": sum(facts["kernels"].values())}
    assert facts["note"].startswith("untuned: ")
    assert facts["llvm"]["mcpu"] not in ("generic", "native", "x86-64", "")
    assert sorted(p.name for p in engine.iterdir()) == ["engine.json", "model.so", "signature.json"]
    wanted = np.concatenate([unoptimised(float_model(), one) for one in X])
    np.testing.assert_allclose(outputs(engine), wanted, atol=1e-5)


@needs_tvm
def test_int8_rounds_as_the_program_and_says_that_it_computes_in_float(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    facts = compiled(tmp_path / "engine", programs["int8"])
    assert (facts["integer_nodes"], facts["delegated_share"], facts["grid"]) == (0, 0, "affine")
    wanted = np.concatenate([unoptimised(int8_model(), one) for one in X])
    found = outputs(tmp_path / "engine")
    assert np.mean(found.argmax(1) == wanted.argmax(1)) >= 0.995
    (weight,) = (numpy_helper.to_array(one) for one in float_model().graph.initializer if one.name == "w3")
    assert np.mean(np.abs(found - wanted) > 1e-4) <= 0.05, (
        "a mean of 64 values on a grid often lies between two steps of the next: a float's last bit decides"
    )
    step = 0.02 * np.abs(weight).sum(axis=1) + 1e-4  # of each value that the last layer reads
    assert np.all(np.abs(found - wanted) <= step)


@needs_tvm
def test_ties_go_to_the_even_neighbour(tmp_path: Path) -> None:
    """By ONNX's definition; TVM's own kernel rounds 0.5 to 1 and 2.5 to 3. Ends of the grid are kept to."""
    held = [numpy_helper.from_array(np.array(v, t), n) for n, v, t in (("s", 1, np.float32), ("o", 0, np.int8))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "o"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "o"], ["y"]),
    ]
    compiled(tmp_path / "engine", program_of(tmp_path / "p", nodes, [1, 8], held))
    x = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 300, -300]], np.float32)
    np.testing.assert_array_equal(outputs(tmp_path / "engine", [x]), [[0, 2, 2, -0.0, -2, 0, 127, -128]])


@needs_tvm
def test_batch_norms_are_gone_before_it_compiles(tmp_path: Path) -> None:
    """Behind a convolution with a bias, and one behind nothing that it could be folded into."""
    random = np.random.default_rng(5)
    shapes = {"w": (3, 3, 1, 1), "c": (3,), **{f"{kind}{i}": (3,) for kind in "gdmv" for i in (1, 2)}}
    held = [
        numpy_helper.from_array(random.uniform(0.5, 1.5, shape).astype(np.float32), n) for n, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("BatchNormalization", ["x", "g1", "d1", "m1", "v1"], ["n"]),
        helper.make_node("Conv", ["n", "w", "c"], ["k"]),
        helper.make_node("BatchNormalization", ["k", "g2", "d2", "m2", "v2"], ["y"]),
    ]
    program = program_of(tmp_path / "p", nodes, [1, 3, 4, 4], held)
    facts = compiled(tmp_path / "engine", program)
    assert not [name for name in facts["kernels"] if "sqrt" in name or "batch_norm" in name]
    (convolution,) = (name for name in facts["kernels"] if "conv2d" in name)
    assert "divide" not in convolution and "subtract" not in convolution, convolution
    x = random.standard_normal((1, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(
        outputs(tmp_path / "engine", [x]), unoptimised(onnx.load(program / "model.onnx"), x), atol=1e-5
    )


@needs_tvm
def test_ports_are_in_the_signatures_order(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sub", ["a", "b"], ["y"]), helper.make_node("Mul", ["a", "b"], ["z"])]
    program = program_of(tmp_path / "p", nodes, [1, 7])
    signature = json.loads((program / "signature.json").read_text())
    for side in ("inputs", "outputs"):
        signature[side].reverse()
    (program / "signature.json").write_text(json.dumps(signature))
    compiled(tmp_path / "engine", program)
    a, b = (np.random.default_rng(seed).standard_normal((1, 7)).astype(np.float32) for seed in (1, 2))
    with load_engine(tmp_path / "engine") as session:
        product, difference = session.run([b, a])
        kept = product.copy()
        session.run([a, a])
    np.testing.assert_array_equal(product, kept, "what it gave is not overwritten by the next call")
    np.testing.assert_allclose(product, a * b, rtol=1e-6)
    np.testing.assert_allclose(difference, a - b, rtol=1e-6)


@needs_tvm
def test_what_it_cannot_take_is_named_before_compiling(tmp_path: Path) -> None:
    one = program_of(tmp_path / "one", [helper.make_node("Celu", ["x"], ["y"], name="n1")], [1, 3])
    assert BACKEND.unsupported(one, {}) == ["node n1 (ai.onnx Celu): TVM's importer has no rule for this operator"]
    other = program_of(
        tmp_path / "other", [helper.make_node("Relu", ["x"], ["y"], name="n2", domain="example")], [1, 3]
    )
    (line,) = BACKEND.unsupported(other, {})
    assert line == "node n2 (example Relu): TVM's importer knows no operators of example"
    (line,) = BACKEND.unsupported(write_program(tmp_path / "dynamic", float_model("batch")), {})
    assert line.startswith('input "x" has the dynamic shape')
    (line,) = BACKEND.unsupported(one, {"triple": "thumbv8.1m.main-none"})
    assert (
        line
        == "the target is thumbv8.1m.main-none, without an operating system: its virtual machine needs an operating system"
    )


@needs_tvm
def test_a_damaged_engine_is_refused(programs: dict[str, Path], tmp_path: Path) -> None:
    compiled(tmp_path / "engine", programs["float32"])
    library, about = tmp_path / "engine" / "model.so", tmp_path / "engine" / "engine.json"
    facts = json.loads(about.read_text())
    library.write_bytes(library.read_bytes()[:4000])
    with pytest.raises(UserError, match=rf"model\.so has 4000 bytes, engine\.json says {facts['bytes']}"):
        load_engine(tmp_path / "engine")
    (tmp_path / "other.c").write_text("int nothing;\n")
    subprocess.run([linker({}), "-shared", "-o", library, "-x", "c", tmp_path / "other.c"], check=True)
    for held in (library.read_bytes(), b"not a library"):
        library.unlink()
        library.write_bytes(held)
        about.write_text(json.dumps({**facts, "bytes": len(held)}))
        with pytest.raises(EdgekdError, match=r"model\.so: tvm refuses the engine: .+"):
            load_engine(tmp_path / "engine")


@needs_tvm
def test_threads_are_what_the_engine_says(programs: dict[str, Path], tmp_path: Path) -> None:
    facts = compiled(tmp_path / "engine", programs["float32"], threads=2)
    assert (facts["options"], facts["llvm"]["num-cores"]) == ({"threads": 2}, 2)
    x, found = tmp_path / "x.npy", [tmp_path / "y.npy"]
    np.save(x, X[:3, 0])
    request = {"engine": str(tmp_path / "engine"), "inputs": [str(x)], "outputs": [str(found[0])]}
    worker.call("evaluate", request, env=worker.thread_env(2))
    np.testing.assert_allclose(np.load(found[0]), outputs(tmp_path / "engine", X[:3]), atol=1e-6)


# The target's isa, what readelf calls its processor, a feature that code is made for, and what runs its programs here.
BOARDS = {
    "aarch64-linux": (["asimd", "asimddp"], "AArch64", "+neon", "qemu-aarch64 -L /usr/aarch64-linux-gnu"),
    "armv7l-linux": (["neon"], "ARM", "+vfp3d16", "qemu-arm -L /usr/arm-linux-gnueabihf"),
    "riscv64-linux": (
        ["v", "b"],
        "RISC-V",
        "+v",
        "qemu-riscv64 -cpu rv64,v=true,vext_spec=v1.0 -L /usr/riscv64-linux-gnu",
    ),
}


@needs_tvm
@pytest.mark.parametrize("triple", BOARDS)
def test_code_for_another_processor(triple: str, tmp_path: Path) -> None:
    """The engine's kernel, a convolution with all behind it, computes under an emulator what ONNX Runtime does here.

    Its virtual machine, of which the package index has builds for some processors only, is in tests/cxx/test_cross.py.
    """
    isa, machine, feature, emulator = BOARDS[triple]
    board = {"triple": triple, "isa": isa}
    if lines := refused_system(board):
        pytest.skip(lines[0])
    random = np.random.default_rng(6)
    values = {
        name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in {"w": (4, 3, 3, 3), "c": 4}.items()
    }
    nodes = [helper.make_node("Conv", ["x", "w", "c"], ["k"], pads=[1] * 4), helper.make_node("Relu", ["k"], ["y"])]
    x, held = (
        random.standard_normal((1, 3, 6, 6)).astype(np.float32),
        [numpy_helper.from_array(v, n) for n, v in values.items()],
    )
    graph = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 6, 6])] for n, c in (("x", 3), ("y", 4))]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *graph, held), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    program, engine = write_program(tmp_path / "program", model), tmp_path / "engine"
    assert BACKEND.unsupported(program, board) == []
    assert feature in compiled(engine, program, board)["llvm"]["mattr"]
    assert BACKEND.foreign(board) == f"its code is for {triple}, this machine is {this_machine()['triple']}"
    with pytest.raises(EdgekdError, match=r"model\.so: tvm refuses the engine: "):
        load_engine(engine)
    assert f"Machine:                           {machine}\n" in said("readelf", "-h", engine / "model.so").decode()
    if shutil.which(emulator.split()[0]) is None:
        pytest.skip(f"needs {emulator.split()[0]}: apt-get install qemu-user")
    (symbol,) = re.findall(r" T (__tvm_ffi_\w*conv2d\w*)", said("nm", "-D", engine / "model.so").decode())
    said(linker(board), "-O1", "-rdynamic", "-o", tmp_path / "kernel", "-x", "c", KERNEL, "-ldl")
    shapes = ("1x6x6x3", "4x3x3x3", "1x1x1x4", "1x6x6x4")  # channels last
    given = b"".join(one.tobytes() for one in (x.transpose(0, 2, 3, 1), values["w"].transpose(0, 2, 3, 1), values["c"]))
    found = said(*emulator.split(), tmp_path / "kernel", engine / "model.so", symbol, *shapes, given=given)
    images = np.frombuffer(found, np.float32).reshape(1, 6, 6, 4).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images, unoptimised(model, x), atol=1e-6)


def said(*command: str | Path, given: bytes = b"") -> bytes:
    """What a command that must succeed wrote."""
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_what_a_target_is_told_as(monkeypatch: pytest.MonkeyPatch) -> None:
    """By rule, without TVM: features that the target lists and code is made for, the least processor of its kind."""
    pi = {"triple": "aarch64-linux", "isa": ["asimd", "asimddp", "asimdhp", "fphp"]}
    assert described(pi, 4) == {
        "kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "generic",
        "mattr": ["+neon", "+dotprod", "+fullfp16"], "num-cores": 4,
    }  # fmt: skip
    board = described({"triple": "riscv64-linux", "isa": ["v", "b"]}, 1)
    assert (board["mabi"], board["mattr"][-4:]) == ("lp64d", ["+v", "+zba", "+zbb", "+zbs"])
    assert described({"triple": "armv7l-linux", "isa": ["neon"]}, 1)["mfloat-abi"] == "hard"
    assert holds(pi) == {}
    monkeypatch.setattr(
        "edgekd.compilers.llvm_target.this_machine", lambda: {"chip": "A", "triple": "x86_64-linux", "isa": ("avx2",)}
    )
    monkeypatch.setattr("edgekd.compilers.llvm_target.cpu_flags", lambda: frozenset({"avx2", "sse2"}))
    assert foreign({"triple": "x86_64-linux", "isa": ["avx2"]}) == ""
    assert (
        foreign({"triple": "x86_64-linux", "isa": ["avx2", "fma"]}) == "its code may use fma, which this machine lacks"
    )
    assert foreign(pi) == "its code is for aarch64-linux, this machine is x86_64-linux"
    assert holds({}) == {"chip": "A", "flags": ["avx2", "sse2"]} == holds({"triple": "x86_64-linux", "isa": ["avx2"]})
    wide = {"triple": "x86_64-linux", "isa": ["avx2", "avx512_vnni"]}
    assert holds(wide) == {}
    assert described(wide, 1)["mattr"] == ["+avx2", "+avx512vnni"]


def test_a_missing_linker_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.compilers.llvm_target.shutil.which", lambda name: None)
    assert refused_system({"triple": "riscv64-linux"}) == [
        "no C++ compiler that links for riscv64-linux: apt-get install g++-riscv64-linux-gnu"
    ]
    assert refused_system({"triple": "aarch64-android"})[0].startswith(
        "the target is aarch64-android; this backend links for "
    )


def test_what_is_missing_names_the_extra_and_its_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.backend.find_spec", lambda name: None if name == "tvm" else name)
    assert BACKEND.missing() == "pip install 'edgekd[tvm]' apache-tvm==0.27.0.post1"


def test_a_line_that_a_kill_cut_off_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / RECORDS).write_text('[0,["a"]]\n[0,["b"]]\n[1,["c')
    (tmp_path / WORKLOADS).write_text('["k0"]\n')
    mend(tmp_path)
    assert (tmp_path / RECORDS).read_text() == '[0,["a"]]\n[0,["b"]]\n'
    assert (tmp_path / WORKLOADS).read_text() == '["k0"]\n'
    (tmp_path / RECORDS).write_text('[0,["a')
    mend(tmp_path)
    assert (tmp_path / RECORDS).read_text() == ""


def test_databases_are_merged_by_kernel(tmp_path: Path) -> None:
    for name, kernels, records in (
        ("one", ["k0", "k1"], [[0, ["a"]], [1, ["b"]]]),
        ("two", ["k1", "k2"], [[0, ["b"]], [1, ["c"]]]),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / WORKLOADS).write_text("".join(f'["{kernel}"]\n' for kernel in kernels))
        (tmp_path / name / RECORDS).write_text("".join(f"{json.dumps(record)}\n" for record in records))
        (tmp_path / name / ABOUT).write_text(json.dumps({"trials": len(name), "seconds": len(name) + 0.5}))
    (tmp_path / "all").mkdir()
    merged({name: tmp_path / name for name in ("one", "two")}, tmp_path / "all")
    assert (tmp_path / "all" / WORKLOADS).read_text() == '["k0"]\n["k1"]\n["k2"]\n'
    found = [json.loads(line) for line in (tmp_path / "all" / RECORDS).read_text().splitlines()]
    assert found == [[0, ["a"]], [1, ["b"]], [2, ["c"]]]
    assert json.loads((tmp_path / "all" / ABOUT).read_text()) == {"trials": 3, "seconds": 3.5}


@needs_tvm
def test_a_database_is_used_without_a_search(programs: dict[str, Path], tmp_path: Path) -> None:
    """Of schedules written by hand: both convolutions with their loops reordered, one unrolled."""
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms
    from tvm.target import Target

    from edgekd.compilers.relax_module import fused, imported
    from edgekd.compilers.relax_tuning import _database

    target = Target(described({}, 1))
    module = fused(imported(onnx.load(programs["float32"] / "model.onnx")), target, channels_last=True)
    folder = tmp_path / "database"
    folder.mkdir()
    database, written = _database(folder), 0
    for task in ms.relax_integration.extract_tasks(module, target):
        if "conv2d" in task.task_name:
            schedule, kernel = Schedule(task.dispatched[0]), database.commit_workload(task.dispatched[0])
            loops = schedule.get_loops(schedule.get_sblock("conv2d_nhwc"))
            schedule.reorder(*loops[4:7], loops[3])
            schedule.unroll(loops[6])
            about = ms.arg_info.ArgInfo.from_prim_func(task.dispatched[0]["main"])
            database.commit_tuning_record(ms.database.TuningRecord(schedule.trace, kernel, [1e-4], target, about))
            written += 1
    (folder / ABOUT).write_text('{"trials": 7, "seconds": 2.5}')
    facts = compiled(tmp_path / "engine", programs["float32"], {"tuning": str(folder)})
    assert written == 2
    assert facts["tuning"] == {"trials": 7, "seconds": 2.5, "tuned": 2, "kernels": sum(facts["kernels"].values())}
    assert facts["note"].startswith("2 of ") and facts["note"].endswith(" kernels tuned, 7 trials in 2 s")
    wanted = np.concatenate([unoptimised(float_model(), one) for one in X])
    np.testing.assert_allclose(outputs(tmp_path / "engine"), wanted, atol=1e-5)
    (folder / RECORDS).write_text("not a record\n")
    with pytest.raises(EdgekdError, match="cannot use this tuning database"):
        compiled(tmp_path / "worse", programs["float32"], {"tuning": str(folder)})
    with pytest.raises(UserError, match=r"is no tuning database: it has no database_workload\.json"):
        compiled(tmp_path / "none", programs["float32"], {"tuning": str(tmp_path)})


@needs_tvm
def test_images_between_convolutions_have_their_channels_last(tmp_path: Path) -> None:
    """Those of a float program: dense, strided, in groups, pooled, added, concatenated. A transpose is at either end, nowhere else."""
    random = np.random.default_rng(7)
    shapes = {"w1": (8, 3, 3, 3), "c1": (8,), "w2": (8, 1, 3, 3), "w3": (8, 4, 1, 1), "w4": (3, 16, 2, 2)}
    held = [numpy_helper.from_array(random.normal(0, 0.4, shape).astype(np.float32), n) for n, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "c1"], ["k1"], pads=[1] * 4),
        helper.make_node("Relu", ["k1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["k2"], pads=[1] * 4, group=8),
        helper.make_node("MaxPool", ["k2"], ["m"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Add", ["m", "r1"], ["s"]),
        helper.make_node("Conv", ["s", "w3"], ["k3"], group=2),
        helper.make_node("Concat", ["k3", "s"], ["j"], axis=1),
        helper.make_node("ConvTranspose", ["j", "w4t"], ["u"], strides=[2, 2]),
        helper.make_node("Conv", ["u", "w4"], ["y"], strides=[2, 2]),
    ]
    held.append(numpy_helper.from_array(random.normal(0, 0.4, (16, 16, 2, 2)).astype(np.float32), "w4t"))
    program = program_of(tmp_path / "p", nodes, [1, 3, 6, 6], held)
    facts = compiled(tmp_path / "engine", program)
    x = random.standard_normal((1, 3, 6, 6)).astype(np.float32)
    wanted = unoptimised(onnx.load(program / "model.onnx"), x)
    np.testing.assert_allclose(outputs(tmp_path / "engine", [x]), wanted, atol=1e-5)
    transposed = sum(count for name, count in facts["kernels"].items() if "transpose" in name and "conv" not in name)
    assert transposed <= 4, (
        "before and behind the transposed convolution, which TVM has in one layout only, and at both ends"
    )


@needs_tvm
@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_an_error_inside_a_kernel_is_an_error_of_the_call(kind: str, programs: dict[str, Path], tmp_path: Path) -> None:
    from backends.tvm_kernels import raising

    compiled(tmp_path / "engine", programs["float32"], threads=2)
    library, about = tmp_path / "engine" / "model.so", tmp_path / "engine" / "engine.json"
    raising(kind, 2, library)
    about.write_text(json.dumps({**json.loads(about.read_text()), "bytes": library.stat().st_size}))
    x = np.zeros((1, 1, 8, 8), np.float32)
    with load_engine(tmp_path / "engine") as session:
        for first in (1, 2, 1):
            x[0, 0, 0, 0] = first
            if first == 2:
                with pytest.raises(EdgekdError, match="tvm cannot run the engine: .*raised on purpose"):
                    session.run([x])
            else:
                np.testing.assert_array_equal(session.run([x])[0], x[0, :, 0, :5])


@needs_tvm
def test_a_search_measures_kernels_and_goes_on_from_what_it_measured(tmp_path: Path) -> None:
    """Four trials of one kernel; asked again, after a kill, none. The engine that has the best of them computes the same."""
    weight = np.random.default_rng(2).standard_normal((8, 8)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    program = program_of(tmp_path / "p", nodes, [8, 8], [numpy_helper.from_array(weight, "w")])
    work, told = tmp_path / "work", []
    work.mkdir()

    def tuned(trials: int, name: str) -> dict[str, Any]:
        told.clear()
        (tmp_path / name).mkdir()
        return BACKEND.tune(program, {}, 1, trials, work, tmp_path / name, told.append)

    facts = tuned(4, "first")
    assert facts["kernels"] == 1 and facts["trials"] == 4 and facts["seconds"] > 0
    assert told == [{"done": 0, "total": 4}, {"done": 4, "total": 4}]
    records = (work / RECORDS).read_text().splitlines()
    seconds = [json.loads(record)[1][1] for record in records]
    assert len(records) == 4 and all(0 < one < 1 for times in seconds for one in times), "each was timed"
    with (work / RECORDS).open("a") as file:
        file.write(records[0][:40])  # as a kill leaves it
    again = tuned(4, "again")
    assert told == [{"done": 4, "total": 4}]
    assert (again["trials"], again["kernels"]) == (facts["trials"], 1)
    assert (work / RECORDS).read_text().splitlines() == records
    for file in (WORKLOADS, RECORDS):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    (best,) = (tmp_path / "first" / RECORDS).read_text().splitlines()
    assert json.loads(best)[1][1] == min(seconds)
    engine = compiled(tmp_path / "engine", program, {"tuning": str(tmp_path / "first")})
    assert engine["tuning"]["tuned"] == 1 and engine["note"].startswith("1 of 1 kernels tuned, 4 trials in ")
    x = np.random.default_rng(3).standard_normal((8, 8)).astype(np.float32)
    np.testing.assert_allclose(outputs(tmp_path / "engine", [x]), np.maximum(x @ weight, 0), atol=1e-5)


@needs_tvm
def test_a_search_in_which_nothing_could_be_built_says_why(tmp_path: Path) -> None:
    program = program_of(tmp_path / "p", [helper.make_node("Exp", ["x"], ["y"])], [64])
    folders = {"work": str(tmp_path / "work"), "out": str(tmp_path / "out")}
    for folder in folders.values():
        Path(folder).mkdir()
    request = {"backend": "tvm", "program": str(program), "target": {}, "threads": 1, "trials": 1, **folders}
    with pytest.raises(EdgekdError, match=r"none of 1 trials could be measured: .*false cannot link the engine"):
        worker.call("tune", request, env={**worker.thread_env(1), "CXX": "false"})
