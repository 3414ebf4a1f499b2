"""`edgekd compile`, whole and for real: a teacher and a student in, a measured bundle out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project import BRIEF, edgekd, new_project

import edgekd as package
from edgekd import bundle
from edgekd.report.schema import Report, without_times
from edgekd.store import Store

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Done:
    recipe: Path
    store: Path
    out: Path
    report: Mapping[str, Any]

    def compile(self, *more: str | Path) -> Mapping[str, Any]:
        done = edgekd("compile", self.recipe, "--store", self.store, "--out", self.out, "--json", *BRIEF, *more)
        assert done.returncode == 0, done.stderr
        found: Mapping[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("compile")
    recipe = new_project(folder / "quarters")
    first = Done(recipe, folder / "store", folder / "out", {})
    return Done(recipe, folder / "store", folder / "out", first.compile())


def hits(report: Mapping[str, Any]) -> dict[str, bool]:
    return {step["step"]: step["cached"] for step in report["plan"]}


def test_the_ledger_has_every_row(done: Done) -> None:
    rows = [row["row"] for row in done.report["ledger"]]
    assert rows == ["teacher", "float student", "distilled", "pruned", "fake-quantized", "exported", "compiled"]
    report = Report.model_validate(done.report)
    distilled, pruned = report.ledger[2], report.ledger[3]
    assert distilled.parameters is not None and pruned.parameters is not None
    assert pruned.parameters < distilled.parameters
    assert all(row.agreement for row in report.ledger[1:])
    assert report.splits.test == 256
    assert not any(step.cached for step in report.plan)


def test_the_sensitivity_of_each_layer_is_in_the_report(done: Done) -> None:
    (shown,) = done.report["sensitivity"]
    assert (shown["version"], shown["measure"], shown["samples"]) == ("quantize", "KL", 64)
    assert len(shown["layers"]) >= 3
    assert all(row["loss"] >= 0 and row["bits"] == 8 for row in shown["layers"])


def test_each_engine_is_compared_with_its_program_tensor_by_tensor(done: Done) -> None:
    """In torch's names; the integers of the quantized program come out of the engine as they are, but for ties."""
    done.compile("--debug", "parity")
    found = {one["engine"]: one for one in json.loads((done.out / "parity.json").read_text())}
    assert len(found) == 4
    for one in found.values():
        assert (one["first"], one["reason"]) == (None, "")
        assert one["tensors"][-1]["tensor"] == "output"
    integers = found["quantize on onnxruntime"]["tensors"]
    assert integers[0]["tensor"] == "quantize_per_tensor" and len(integers) >= 6
    assert max(row["steps"] for row in integers) <= 1.01


def test_each_engine_gives_its_programs_answers(done: Done) -> None:
    for candidate in done.report["targets"][0]["candidates"]:
        assert candidate["parity"]["top1"] >= 0.99, candidate["name"]
        assert candidate["latency"]["count"] > 100
    quantized = next(c for c in done.report["targets"][0]["candidates"] if c["precision"] == "int8")
    assert quantized["integer_nodes"] > 0
    assert quantized["versus_float"] is not None
    assert quantized["delegated_share"] == 1.0 and quantized["compile_seconds"] > 0


def test_what_comes_out(done: Done) -> None:
    for name in ("report.json", "report.md", "report.html", "edgekd.lock", "samples-host.json"):
        assert (done.out / name).stat().st_size > 100
    lock = json.loads((done.out / "edgekd.lock").read_text())
    assert lock["seed"] == 0 and lock["keys"]["distill"] and lock["versions"]["torch"]
    manifest = bundle.read(done.out / "bundles" / "host")
    assert manifest["signature"]["labels"] == ["upper left", "upper right", "lower left", "lower right"]


def test_the_bundle_gives_its_golden_outputs_again(done: Done) -> None:
    folder = done.out / "bundles" / "host"
    with np.load(folder / "golden.npz") as golden, package.load(folder) as session:
        for x, y in zip(golden["inputs"], golden["outputs"], strict=True):
            np.testing.assert_allclose(session.run([x[None]])[0][0], y, rtol=0, atol=1e-5)


def test_again_everything_is_cached_and_torch_is_not_imported(done: Done) -> None:
    code = (
        "import sys; from edgekd import api; r = api.compile(sys.argv[1], sys.argv[2], store=sys.argv[3], "
        f"overrides={BRIEF[1::2]});"
        "print(all(s['cached'] for s in r['plan']), 'torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, done.recipe, done.out, done.store], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["True", "False", "False"]


def test_a_cold_run_with_the_same_seed_finds_the_same(done: Done, tmp_path: Path) -> None:
    again = Done(done.recipe, tmp_path / "store", tmp_path / "out", {}).compile()
    first, second = without_times(done.report), without_times(again)
    for report in (first, second):
        for target in report["targets"]:  # which engine is fastest is what was measured, briefly here
            target["chosen"] = target["nearest"] = None
    assert first == second


def test_another_ratio_keeps_the_distilled_student(done: Done) -> None:
    rows = json.loads(
        edgekd("plan", done.recipe, "--store", done.store, "--json", *BRIEF, "--set", "prune.ratio=0.5").stdout
    )
    cached = {row["step"]: row["cached"] for row in rows}
    assert cached["distill"] and cached["judge distill"] and cached["compile distill on onnxruntime for host"]
    assert not cached["prune"] and not cached["quantize"] and not cached["race on host"]
    assert all(len(row["reads"]) == len({*row["reads"]}) for row in rows), "each is named once"


def test_a_width_without_kernels_is_judged_and_never_compiled(done: Done, tmp_path: Path) -> None:
    """W4A4: rows and a candidate that say so, no engine, no latency; the bundle is a float engine."""
    bits = ["--set", "quantize.weights=4", "--set", "quantize.activations=4"]
    found = done.compile(*bits, "--out", tmp_path / "out")
    last = found["ledger"][-1]
    assert (last["row"], last["runs_in"], last["latency"]) == ("simulated", "torch", None)
    assert last["note"] == "simulated in torch: no runtime here has kernels for W4A4"
    assert not [step for step in found["plan"] if step["step"].startswith(("export quantize", "compile quantize"))]
    target = found["targets"][0]
    (simulated,) = (c for c in target["candidates"] if c["verdict"] == "simulated")
    assert (simulated["name"], simulated["precision"], simulated["latency"]) == ("quantize in torch", "W4A4", None)
    assert simulated["metric"] == last["metric"]
    assert (target["chosen"] or target["nearest"]).startswith(("prune on", "distill on"))
    assert "simulated" in (tmp_path / "out" / "report.md").read_text()
    assert 'class="pill simulated"' in (tmp_path / "out" / "report.html").read_text()


def test_editing_a_loss_invalidates_what_used_it(done: Done, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    source = Path(package.__file__).parent.joinpath("losses", "kl.py").read_text()
    mine.write_text(source)
    sets = [*BRIEF, "--plugin", f"losses={mine}", "--set", 'prune.losses=[{ use = "mine", temperature = 4.0 }]']

    def plan() -> dict[str, str]:
        found = json.loads(edgekd("plan", done.recipe, "--store", done.store, "--json", *sets).stdout)
        return {row["step"]: row["key"] for row in found}

    before = plan()
    mine.write_text(source + "\n# changed\n")
    after = plan()
    changed = {name for name in before if before[name] != after[name]}
    assert "prune" in changed and "quantize" in changed and "race on host" in changed
    assert not changed & {"teacher", "student", "distill", "judge distill", "export distill"}


def test_a_damaged_entry_is_noticed_and_rebuilt(done: Done) -> None:
    key = next(step["key"] for step in done.report["plan"] if step["step"] == "export distill")
    model = Store(done.store).path(key) / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    cached = hits(done.compile())
    assert [name for name, hit in cached.items() if not hit] == ["export distill"]
    assert model.read_bytes() == whole


CRASHES = """
\"\"\"A backend that crashes as native code does.\"\"\"
import os, signal
from edgekd.backend import Backend
__all__ = ["Crash"]
class Crash(Backend):
    name, packages = "crash", {}
    def grid(self, target): return "affine"
    def unsupported(self, program, target): return []
    def compile(self, program, out, target, threads): os.kill(os.getpid(), signal.SIGSEGV)
    def load(self, engine): raise AssertionError
"""


ABSENT = CRASHES.replace("Crash", "Absent").replace('"crash", {}', '"absent", {"not_there": "not-there"}')
SLOW = (
    CRASHES.replace("Crash", "Slow")
    .replace('"crash"', '"slow"')
    .replace(
        "os.kill(os.getpid(), signal.SIGSEGV)", "time.sleep(60 * ('int8' in (program / 'program.json').read_text()))"
    )
)
SLOW = SLOW.replace("import os, signal", "import time")
# Runs alone, and crashes as soon as it is opened beside others.
RACER = (Path(package.__file__).parent / "backends" / "null.py").read_text().replace('= "null"', '= "racer"')
RACER = RACER.replace(
    "        _, file = read_engine(engine, self.name)\n",
    "        import os, signal, sys\n\n        if 'edgekd.latency.rounds' in sys.modules:\n"
    "            os.kill(os.getpid(), signal.SIGSEGV)\n        _, file = read_engine(engine, self.name)\n",
)


def test_backends_that_fail_leave_a_reason_and_a_finished_report(done: Done, tmp_path: Path) -> None:
    """One crashes compiling, one is not installed, one takes too long, one crashes in the race; the fifth is chosen."""
    plugins: list[str] = []
    for name, text in {"crash": CRASHES, "absent": ABSENT, "slow": SLOW, "racer": RACER}.items():
        (tmp_path / f"{name}.py").write_text(text)
        plugins += ["--plugin", f"backends={tmp_path / name}.py", "--backend", name]
    report = done.compile(*plugins, "--backend", "onnxruntime", "--compile-timeout", "15")
    candidates = {c["name"]: c for c in report["targets"][0]["candidates"]}
    for name, said in {
        "crash": "signal 11 (SIGSEGV) while compiling",
        "absent": 'the backend "absent" is not installed: pip install not-there',
        "slow": "timeout: no result after",
        "racer": "signal 11 (SIGSEGV) while opening quantize on racer",
    }.items():
        failed = candidates[f"quantize on {name}"]
        assert failed["verdict"] == "failed" and said in failed["reason"], failed
    assert candidates["quantize on onnxruntime"]["latency"] is not None
    assert report["targets"][0]["chosen"] == done.report["targets"][0]["chosen"]
    assert all(step["cached"] for step in report["plan"] if "racer" not in step["step"])
    text = (done.out / "report.md").read_text()
    assert "pip install not-there" in text and "100.00%" in text


def test_measure_and_report(done: Done, tmp_path: Path) -> None:
    ran = edgekd("measure", done.out / "bundles" / "host", "--seconds", "0.2", "--processes", "2", "--json")
    assert ran.returncode == 0, ran.stderr
    (latency,) = json.loads(ran.stdout)["latency"].values()
    assert 0 < latency["low"] <= latency["median"] <= latency["high"] < 1
    shown = edgekd("report", done.out)
    assert shown.returncode == 0 and "distilled" in shown.stdout
    nothing = edgekd("report", tmp_path)
    assert nothing.returncode == 2 and "does not exist" in nothing.stderr
