"""The calibration set as a step: checked, previewed, kept, made once; what is odd about it is said."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from project import new_project

from edgekd.api import prepare
from edgekd.errors import UserError
from edgekd.pipeline import calibration
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import run
from edgekd.report import preview
from edgekd.target import Calibration, find_calibration
from tests.sources.given import PIXELS, given, saved, write_images, write_npz


def made(folder: Path, values: np.ndarray, count: int = 4) -> dict[str, object]:
    """Calibrate on these values [n, 1, 12, 12] through an .npz file."""
    path = str(write_npz(folder, inputs=values.astype(np.float32)))
    (folder / "out").mkdir()
    asked = Calibration(name="mine", source="npz", count=count, path=path)
    return calibration.make(folder / "out", asked, saved(folder, preprocessing=PIXELS), given(folder))


def test_the_set_is_kept_with_its_facts_and_a_picture(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 1, 12, 12))
    facts = made(tmp_path, values, count=6)
    kept = calibration.read(tmp_path / "out")
    assert torch.equal(kept, torch.from_numpy(values.astype(np.float32)))
    assert (facts["source"], facts["count"], facts["synthetic"], facts["shape"]) == ("npz", 6, False, [1, 12, 12])
    assert facts["notes"] == [] and facts["previewed"]
    assert (tmp_path / "out" / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_constants_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='source "npz": every value of its 3 inputs is 0.5: no range can be drawn'):
        made(tmp_path, np.full((3, 1, 12, 12), 0.5))


def test_one_image_and_blank_images_are_said(tmp_path: Path) -> None:
    ramp = np.arange(144.0).reshape(1, 1, 12, 12)
    assert made(tmp_path / "one", ramp)["notes"] == [
        "4 inputs were asked for, there are 1",
        "a single input: ranges are those of this one alone",
    ]
    blank = np.concatenate([ramp, np.zeros((3, 1, 12, 12))])
    assert made(tmp_path / "blank", blank)["notes"] == ["3 of 4 inputs hold one value only"]


def test_a_source_that_gives_another_shape_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.sources.gaussian import Gaussian

    for values, said in [
        (torch.zeros(2, 3), r"gives torch.float32 \[2, 3\]"),
        (torch.full((2, 1, 12, 12), torch.nan), "NaN"),
    ]:
        monkeypatch.setattr(Gaussian, "inputs", lambda *_, found=values: found)
        asked = Calibration(name="mine", source="gaussian", count=2)
        with pytest.raises(UserError, match=said):
            calibration.make(tmp_path, asked, saved(tmp_path), given(tmp_path))


def test_what_the_key_depends_on(tmp_path: Path) -> None:
    """Name, notes and observer do not; count, options and what the path holds do, wherever it lies."""
    base = {"name": "a", "source": "images", "count": 4, "path": str(write_images(tmp_path / "x", 3))}

    def key(**changes: object) -> dict[str, str]:
        return calibration.digests_of(Calibration.model_validate({**base, **changes}))

    assert key() == key(name="b", notes="other", observer="mse") == key(path=str(write_images(tmp_path / "y", 3)))
    assert key() != key(count=5) and key() != key(path=str(write_images(tmp_path / "z", 4)))
    assert key() != key(source="npz", options={"array": "a"})


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[options]\nstep = 3", "options.step: source", "steps"),
        ('path = "nowhere"', "nowhere does not exist", "relative to the calibration recipe"),
        ('obsever = "mse"', "obsever", "observer"),
        ("seed = -1", "seed", "README"),
        ("[options]\nsteps = [1]", "options.steps", "README"),
    ],
)
def test_a_calibration_recipe_is_checked_when_it_is_read(tmp_path: Path, text: str, message: str, hint: str) -> None:
    (tmp_path / "mine.toml").write_text(f'source = "bn_statistics"\ncount = 4\n{text}\n')
    with pytest.raises(UserError, match=message) as error:
        find_calibration("mine.toml", tmp_path)
    assert "mine.toml" in error.value.message and hint in error.value.hint


def test_a_value_out_of_range_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('source = "bn_statistics"\ncount = 4\n[options]\nlr = 0.0\n')
    with pytest.raises(UserError, match='the source "bn_statistics": lr: Input should be greater than 0'):
        calibration.source_of(find_calibration("mine.toml", tmp_path))


def pixels(png: bytes) -> np.ndarray:
    """Decode what `preview.png` writes: one IDAT chunk, no filter."""
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    start = png.index(b"IDAT")
    size = int.from_bytes(png[start - 4 : start], "big")
    rows = np.frombuffer(zlib.decompress(png[start + 4 : start + 4 + size]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, -1)


def test_a_picture_shows_pixels_again() -> None:
    """−2 is black, 2 white; two tiles of 12 with a gap of 2 in white."""
    tiles = np.stack([np.full((1, 12, 12), -2.0), np.full((1, 12, 12), 0.0)])
    page = pixels(preview.grid(tiles, PIXELS) or b"")
    assert page.shape == (12, 26, 1)
    assert set(page[:, :12].flatten()) == {0} and set(page[:, 12:14].flatten()) == {255} and page[0, 14, 0] == 128


def test_pictures_are_small_and_only_of_images() -> None:
    draw = np.random.default_rng(0)
    large = preview.grid(draw.normal(size=(64, 3, 224, 224)), {}) or b""
    assert pixels(large).shape[1] <= 260 and len(large) < 250_000
    assert preview.grid(draw.normal(size=(4, 2, 8, 8)), {}) is None
    assert preview.grid(draw.normal(size=(4, 8)), {}) is None
    pillow = pytest.importorskip("PIL.Image")
    import io

    assert pillow.open(io.BytesIO(large)).mode == "RGB"


SET = 'source = "bn_statistics"\ncount = 8\nobserver = "minmax"\n[options]\nsteps = 2\n'


def planned(folder: Path, text: str) -> Plan:
    """The plan of a new project that only quantizes, calibrated as `text` says."""
    recipe = new_project(folder) if not folder.exists() else folder / "recipe.toml"
    head = recipe.read_text("utf-8").partition("[[stage]]")[0]
    recipe.write_text(head + '[[stage]]\nuse = "quantize"\ncalibration = "mine.toml"\n', "utf-8")
    (folder / "mine.toml").write_text(text)
    return prepare(recipe, store=folder.parent / "store", quiet=True)


def test_the_set_is_a_step_that_other_recipes_find_again(tmp_path: Path) -> None:
    plan = planned(tmp_path / "kept_set", SET)
    assert list(plan.steps)[:4] == ["teacher", "student", "calibration for quantize", "quantize"]
    assert plan.steps["quantize"].reads[:2] == ("student", "calibration for quantize")
    assert plan.steps["calibration for quantize"].reads == ("student", "calibration"), "a zero-shot set reads no data"
    for name in ("teacher", "student", "calibration for quantize"):
        step = plan.steps[name]
        plan.entries[name] = plan.store.make(step.key, step.label, step.make)
    entry = plan.entries["calibration for quantize"]
    assert calibration.read(entry.path).shape == (8, 1, 16, 16)
    assert entry.facts["synthetic"] and not any((plan.store.folder / "work").iterdir())

    keys = {name: step.key for name, step in plan.steps.items()}
    again = planned(tmp_path / "kept_set", SET.replace("minmax", "mse")).steps
    assert again["calibration for quantize"].key == keys["calibration for quantize"]
    assert again["quantize"].key != keys["quantize"]
    longer = planned(tmp_path / "kept_set", SET.replace("steps = 2", "steps = 3")).steps
    assert longer["calibration for quantize"].key != keys["calibration for quantize"]
    assert longer["student"].key == keys["student"]


def test_what_is_wrong_with_it_is_said_before_any_work(tmp_path: Path) -> None:
    plan = planned(tmp_path / "wrong_set", SET.replace("steps = 2", "steps = 0"))
    with pytest.raises(UserError, match='stage.0: the source "bn_statistics": steps: Input should be greater'):
        run(plan)
    plan = planned(tmp_path / "wrong_set", 'source = "images"\ncount = 8\n')
    with pytest.raises(UserError, match='source "images" needs a `path`'):
        run(plan)
    recipe = plan.recipe.path
    recipe.write_text(re.sub(r"\[teacher\].*?(?=\[data\])", "", recipe.read_text("utf-8"), flags=re.DOTALL), "utf-8")
    plan = planned(tmp_path / "wrong_set", 'source = "teacher"\ncount = 8\n')
    with pytest.raises(UserError, match='source "teacher" asks the teacher, the recipe has none'):
        run(plan)
    assert not any((plan.store.folder / "entries").iterdir())
