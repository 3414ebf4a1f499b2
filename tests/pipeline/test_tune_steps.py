"""Kernels that a recipe asks to be searched: a step of their own, a database that outlives a kill, pinned, and used without a search.

By a simulated device with a backend that counts what it measured; tests/backends/test_tvm.py searches a real kernel, and here a whole
student is searched where that is asked for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from project import new_project
from safetensors.torch import save_file

from edgekd import api, registry
from edgekd.backend import open_backend
from edgekd.compilers.relax_tuning import RECORDS
from edgekd.errors import UserError

FASHION = Path(__file__).parents[2] / "examples" / "fashion"
SEARCHED = '''
"""A simulated device whose kernels are searched: a trial is a line; the file `die` beside it ends the process after two."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar, final

from edgekd.backend import Backend, Signature, open_backend, read_engine, read_json, write_engine
from edgekd.backends.null import NullSession, VirtualClock, Noise
from edgekd.tuner import Tuner

__all__ = ["Searched"]
FILES = ("database_workload.json", "database_tuning_record.json", "tuning.json")


@final
class Searched(Tuner, Backend):
    """Simulated, and searched."""

    name: ClassVar = "searched"
    packages: ClassVar = {"numpy": "numpy"}

    def grid(self, target):
        return "affine"

    def unsupported(self, program, target):
        return []

    def compile(self, program, out, target, threads):
        facts = open_backend("null").compile(program, out, {}, threads)
        folder = target.get("tuning")
        lines = (Path(folder) / FILES[1]).read_text().splitlines() if folder else []
        return write_engine(program, out, {**facts, "backend": self.name, "note": f"{len(lines)} trials"})

    def load(self, engine):
        _, file = read_engine(engine, self.name)
        rule = read_json(file)
        clock = VirtualClock(rule["seconds"], Noise(**rule["noise"]), rule["seed"])
        return NullSession(Signature.read(engine), clock, rule["seed"], rule["step"])

    def tune(self, program, target, threads, trials, work, out, tell):
        records = work / FILES[1]
        done = len(records.read_text().splitlines()) if records.is_file() else 0
        (work / FILES[0]).write_text('["kernel"]\\n')
        die = Path(__file__).with_name("die")
        for number in range(done, trials):
            with records.open("a") as file:
                file.write(f'[0,["{number}"]]\\n')
            tell({"done": number + 1, "total": trials})
            if die.is_file() and number == 1:
                die.unlink()
                os._exit(9)
        (work / FILES[2]).write_text('{"trials": %d, "seconds": 1.5}' % max(done, trials))
        for name in FILES:
            shutil.copyfile(work / name, out / name)
        return {"measured_now": max(0, trials - done)}
'''


@pytest.fixture
def recipe(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A student as it is, only compiled, by that backend."""
    monkeypatch.setattr(registry, "_plugins", {})
    (tmp_path / "searched.py").write_text(SEARCHED)
    registry.add_plugin(f"backends={tmp_path / 'searched.py'}")
    recipe = new_project(tmp_path / f"quarters_{request.node.name[5:25]}")
    text = recipe.read_text()
    kept = text[: text.index("[teacher]")] + text[text.index("[data]") : text.index("[[stage]]")]
    recipe.write_text(
        f'{kept}[targets]\nnames = ["host"]\nbackends = ["searched"]\n[measure]\nseconds = 0.01\nwait = 0\n'
    )
    return recipe


STEP = "tune student on searched for host"


def made(recipe: Path, *overrides: str) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The report, its only candidate, and where it was written."""
    out = recipe.parent / "out"
    report = api.compile(recipe, out, overrides=overrides, store=recipe.parent / "store")
    return report, report["targets"][0]["candidates"][0], out


def steps(report: dict[str, Any]) -> dict[str, bool]:
    return {step["step"]: step["cached"] for step in report["plan"]}


def test_a_search_is_a_step_that_outlives_a_kill_is_pinned_and_can_be_handed_on(recipe: Path) -> None:
    report, engine, out = made(recipe)
    assert engine["note"] == "0 trials", "nothing is tuned unless asked"
    assert STEP not in steps(report) and not (out / "tuning").exists()

    (recipe.parent.parent / "die").touch()
    report, engine, _ = made(recipe, "targets.tune=5")
    assert engine["verdict"] == "failed" and "the worker ended with exit code 9" in engine["reason"]
    (work,) = (recipe.parent / "store" / "work").glob("tuning-*")
    assert (work / RECORDS).read_text() == '[0,["0"]]\n[0,["1"]]\n'

    report, engine, _ = made(recipe, "targets.tune=5")
    assert engine["note"] == "5 trials" and steps(report)[STEP] is False
    database = out / "tuning" / "host"
    records = [json.loads(line) for line in (database / RECORDS).read_text().splitlines()]
    assert records == [[0, [str(number)]] for number in range(5)], (
        "the two from before the kill were not measured again"
    )
    assert json.loads((database / "tuning.json").read_text()) == {"trials": 5, "seconds": 1.5}
    lock = json.loads((out / "edgekd.lock").read_text())
    assert len(lock["digests"][STEP]) == 64 and STEP in lock["keys"]

    report, engine, _ = made(recipe, "targets.tune=7")
    assert engine["note"] == "7 trials" and steps(report)["export student"] is True
    assert json.loads((out / "edgekd.lock").read_text())["digests"][STEP] != lock["digests"][STEP]

    (out / "tuning" / "host").rename(recipe.parent / "tuned")
    report, engine, _ = made(recipe, 'targets.tuning="tuned"')
    assert engine["note"] == "7 trials" and STEP not in steps(report), "used without a search"
    before = json.loads((out / "edgekd.lock").read_text())["digests"]["tuning"]
    with (recipe.parent / "tuned" / RECORDS).open("a") as file:
        file.write('[0,["given"]]\n')
    _, engine, _ = made(recipe, 'targets.tuning="tuned"')
    assert engine["note"] == "8 trials", "another database makes another engine"
    assert json.loads((out / "edgekd.lock").read_text())["digests"]["tuning"] != before

    _, engine, out = made(recipe, 'targets.tuning="tuned"', "targets.tune=9")
    assert engine["note"] == "9 trials"
    numbers = [json.loads(line)[1][0] for line in (out / "tuning" / "host" / RECORDS).read_text().splitlines()]
    assert numbers == [*map(str, range(7)), "given", "8"], "it goes on from what is given, not from the other search"


def test_what_cannot_be_tuned_is_said(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"targets\.tuning: .*nowhere holds no tuning database"):
        made(recipe, 'targets.tuning="nowhere"')
    overrides = ["targets.tune=3", 'targets.names=["raspberry-pi-5"]']
    plan = api.prepare(recipe, overrides=overrides, store=recipe.parent / "store", quiet=True)
    assert not [name for name in plan.steps if name.startswith("tune ")]


@pytest.mark.slow
@pytest.mark.skipif("EDGEKD_TEST_TUNING" not in os.environ, reason="a minute: EDGEKD_TEST_TUNING=1 runs it")
def test_tvm_searches_real_kernels_and_its_database_needs_no_search(recipe: Path) -> None:
    """A dozen trials of a whole student: found by measuring, pinned, handed on; the engine computes what the untuned one does."""
    if command := open_backend("tvm").missing():
        pytest.skip(f"tvm is an extra: {command}")
    step, tvm = "tune student on tvm for host", 'targets.backends=["tvm"]'
    _, untuned, _ = made(recipe, tvm)
    assert untuned["note"].startswith("untuned: ")
    report, tuned, out = made(recipe, tvm, "targets.tune=12")
    found = re.fullmatch(r"(\d+) of (\d+) kernels tuned, (\d+) trials in \d+ s", tuned["note"])
    assert found and 0 < int(found[1]) <= int(found[2]) and int(found[3]) >= 12, tuned["note"]
    assert steps(report)[step] is False and tuned["verdict"] != "failed"
    assert tuned["metric_validation"] == untuned["metric_validation"], "schedules change the time, not the score"
    database = out / "tuning" / "host"
    records = (database / RECORDS).read_text().splitlines()
    assert len(records) == int(found[1])
    pinned = json.loads((out / "edgekd.lock").read_text())["digests"]
    assert len(pinned[step]) == 64

    database.rename(recipe.parent / "tuned")
    report, again, out = made(recipe, tvm, 'targets.tuning="tuned"')
    assert again["note"] == tuned["note"] and step not in steps(report)
    assert len(json.loads((out / "edgekd.lock").read_text())["digests"]["tuning"]) == 64


@pytest.mark.slow
def test_the_examples_database_has_all_kernels_of_the_examples_student(tmp_path: Path) -> None:
    if command := open_backend("tvm").missing():
        pytest.skip(f"tvm is an extra: {command}")
    copied = shutil.copytree(FASHION, tmp_path / "fashion", ignore=shutil.ignore_patterns("*.toml", "teacher*"))
    spec = importlib.util.spec_from_file_location("the_examples", FASHION / "fashion.py")
    assert spec and spec.loader
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    weights = module.student(24).state_dict()
    torch.manual_seed(0)  # a net that was never trained has no biases, and so other kernels
    drawn = {name: torch.rand_like(v) + 0.5 for name, v in weights.items() if v.is_floating_point()}
    save_file({**weights, **drawn}, str(copied / "trained.safetensors"))
    recipe = copied / "float.toml"
    recipe.write_text(
        'seed = 0\n[student]\nfactory = "fashion:student"\nweights = "trained.safetensors"\nwidth = 24\n[data]\nfactory = "fashion:data"\n'
        '[targets]\nnames = ["host"]\nbackends = ["tvm"]\ntuning = "tuning"\n'
        "[measure]\nseconds = 0.05\nprocesses = 1\nwait = 0\n"
    )
    _, engine, _ = made(recipe)
    found = re.fullmatch(r"(\d+) of (\d+) kernels tuned, \d+ trials in \d+ s", engine["note"])
    assert found and 0 < int(found[1]) == int(found[2]), engine["note"]
