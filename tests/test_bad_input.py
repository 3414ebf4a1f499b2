"""The user's mistakes: each ends at once in one error that says what, where and how to fix it, with exit code 2."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from project import edgekd, here, new_project
from safetensors.torch import save_file

from edgekd.errors import UserError
from edgekd.pipeline.roots import Roots
from edgekd.recipe import load


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return new_project(tmp_path / "net")


def edit(recipe: Path, old: str, new: str, file: str = "net.py") -> None:
    path = recipe.parent / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def refused(recipe: Path, tmp_path: Path, *more: str | Path) -> str:
    done = here("compile", recipe, "--store", tmp_path / "store", "--out", tmp_path / "out", "--quiet", *more)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "bundles").exists()
    return done.stderr


def weights(recipe: Path, tensors: dict[str, torch.Tensor] | None, content: bytes | None = None) -> None:
    path = recipe.parent / "teacher.safetensors"
    if tensors is not None:
        save_file(tensors, path)
    whole = path.read_bytes() if path.exists() else b""
    path.write_bytes(content if content is not None else whole)
    edit(recipe, '# weights = "teacher.safetensors"', 'weights = "teacher.safetensors"', "recipe.toml")


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"not safetensors at all"])
def test_weights_that_are_empty_or_cut_short(recipe: Path, tmp_path: Path, content: bytes) -> None:
    weights(recipe, None, content)
    text = refused(recipe, tmp_path)
    assert "teacher.safetensors" in text and "hint:" in text


def test_weights_of_another_shape(recipe: Path, tmp_path: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("net", recipe.parent / "net.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    weights(recipe, module.network(24).state_dict())
    text = refused(recipe, tmp_path)
    assert '"0.weight" is [24, 1, 3, 3], the network has [48, 1, 3, 3]' in text


NAN = 'images[0] = float("nan")\n        return images, targets'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return images, targets", NAN, 'split "train": input 0 has NaN'),
        (
            "return edgekd.Dataset(split(1024), split(256), split(256)",
            "return edgekd.Dataset(split(1024), split(0), split(256)",
            "is empty",
        ),
        ("return images, targets", "return images, targets + 1", "labels from 1 to 4, the student has 4 outputs"),
        ("return images, targets", "return images, [str(t) for t in targets]", "targets are a list"),
        ("return network(48)", "return nn.Sequential(network(48), nn.Linear(4, 7))", "[batch, 7]"),
        ("return network(width)", "return nn.Sequential(network(width), Branch())", "cannot be traced"),
        ("import edgekd\n", "import edgekd\n1 / 0\n", "net.py:7: ZeroDivisionError"),
        ("return network(48)", "return 48", "returned a int"),
        ("return network(width)", "raise ValueError('no such width')", "net.py:"),
    ],
)
def test_factories_that_are_wrong(recipe: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    edit(recipe, old, new)
    branch = "\n\nclass Branch(nn.Module):\n    def forward(self, x):\n        if x.sum() > 0:\n            return x\n        return -x\n"
    with (recipe.parent / "net.py").open("a") as stream:
        stream.write(branch)
    text = refused(recipe, tmp_path)
    assert message in text
    if "Branch" in new:
        assert "net.py:" in text and 'module "1"' in text


FORMS = """

class Form(nn.Module):
    def forward(self, x):
        return {form}
"""


@pytest.mark.parametrize(
    ("new", "form", "message"),
    [
        ("return nn.Sequential(network(width), Form())", "(x, x)", "gives a tuple"),
        ("return nn.Sequential(network(width), Form())", '{"logits": x}', "gives a dict"),
        ("return network(width).double()", "x", 'the weight "0.weight" is float64'),
        (
            "return nn.Sequential(nn.Conv3d(1, 4, 3), Form())",
            "x.mean((2, 3, 4))",
            "cannot run on inputs [2, 1, 16, 16]",
        ),
    ],
)
def test_students_of_another_form(
    recipe: Path, tmp_path: Path, new: str, form: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    edit(recipe, "return network(width)", new)
    with (recipe.parent / "net.py").open("a") as stream:
        stream.write(FORMS.replace("{form}", form))
    try:
        with pytest.raises(UserError, match=".") as caught:
            Roots(load(recipe)).make_student(tmp_path, None)
    finally:
        sys.modules.pop("net", None)
    assert message in caught.value.message and '"net:student"' in caught.value.message


def test_an_output_folder_that_cannot_be_written(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = edgekd("compile", recipe, "--store", tmp_path / "store", "--out", tmp_path / "file" / "out")
    assert done.returncode == 2 and "cannot write into" in done.stderr and "--out" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/sys/kernel").is_dir(), reason="root may write everywhere")
def test_a_read_only_output_folder(recipe: Path, tmp_path: Path) -> None:
    done = edgekd("compile", recipe, "--store", tmp_path / "store", "--out", "/proc/sys/kernel/out")
    assert done.returncode == 2 and "cannot write into /proc/sys/kernel/out" in done.stderr


def test_an_unknown_target_and_a_ratio_above_one(recipe: Path, tmp_path: Path) -> None:
    text = refused(recipe, tmp_path, "--set", 'targets.names=["hots"]')
    assert 'no target "hots"' in text and "host" in text
    text = refused(recipe, tmp_path, "--set", "prune.ratio=1.5")
    assert "recipe.toml" in text and "ratio" in text


def test_an_unknown_command_or_list(tmp_path: Path) -> None:
    assert here("compil").returncode == 2
    done = here("list", "loses")
    assert done.returncode == 2 and "losses" in done.stderr


@pytest.mark.parametrize(
    ("returned", "message"),
    [("float('nan')", 'metric "net:score" is nan'), ("'good'", 'metric "net:score" returned a str')],
)
def test_a_metric_that_gives_no_number(recipe: Path, tmp_path: Path, returned: str, message: str) -> None:
    with (recipe.parent / "net.py").open("a") as stream:
        stream.write(f"\n\ndef score(logits, labels):\n    return {returned}\n")
    assert message in refused(recipe, tmp_path, "--set", "data.metric=net:score")


@pytest.mark.parametrize(
    "override",
    [
        "seed.x=1",
        "student.factory.x=1",
        "stage.epochs=2",
        "targets.names=[]",
        "seed=-1",
        "seed=true",
        "measure.seconds=inf",
    ],
)
def test_overrides_that_make_no_sense(recipe: Path, tmp_path: Path, override: str) -> None:
    done = here("plan", recipe, "--store", tmp_path / "store", "--set", override)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_a_misspelt_argument_of_an_onnx_teacher(recipe: Path, tmp_path: Path) -> None:
    (recipe.parent / "t.onnx").write_bytes(b"not read before the recipe is right")
    teacher = 'use = "onnx"\nweights = "t.onnx"\nprobabilites = true\n'
    edit(recipe, 'factory = "net:teacher"', teacher, "recipe.toml")
    text = refused(recipe, tmp_path)
    assert "teacher.probabilites: unknown key" in text and "probabilities" in text
    edit(recipe, "probabilites = true", "", "recipe.toml")
    assert f"{recipe.parent / 't.onnx'} is not a whole ONNX file" in refused(recipe, tmp_path)


def test_a_report_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    done = here("report", tmp_path)
    assert done.returncode == 2 and "is not an edgekd report" in done.stderr and "Traceback" not in done.stderr


def test_a_report_that_is_not_there(tmp_path: Path) -> None:
    done = here("report", tmp_path / "nowhere")
    assert done.returncode == 2 and "does not exist" in done.stderr and "hint: name a folder" in done.stderr


def test_nothing_named_to_list() -> None:
    done = here("list")
    assert done.returncode == 2 and "hint: " in done.stderr and "losses" in done.stderr and "calibration" in done.stderr


def test_a_project_that_exists_is_said_to_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_project(tmp_path / "mynet")
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m edgekd` does with the working folder
    done = here("new", tmp_path / "mynet")
    assert done.returncode == 2 and "mynet exists" in done.stderr


@pytest.mark.parametrize("name", ["torch", "class", "9net", "edgekd"])
def test_names_that_no_module_can_have(tmp_path: Path, name: str) -> None:
    done = here("new", tmp_path / name)
    assert done.returncode == 2 and "hint: " in done.stderr
    assert not (tmp_path / name).exists()


def test_what_the_users_code_prints_is_not_data(recipe: Path, tmp_path: Path) -> None:
    edit(recipe, "    generator = ", '    print("loading")\n    generator = ')
    done = edgekd("plan", recipe, "--store", tmp_path / "store", "--json")
    assert isinstance(json.loads(done.stdout), list)
    assert done.stderr.count("loading") == 1
