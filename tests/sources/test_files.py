"""Folders of images and .npz files: what comes out is what preprocessing makes of them, and bad ones are named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.errors import UserError
from tests.sources.given import inputs, saved, write_images, write_npz


def test_pixels_become_inputs_by_the_datas_constants(tmp_path: Path) -> None:
    """255 → (1 − 0.5) / 0.25 = 2; 51 → (0.2 − 0.5) / 0.25 = −1.2."""
    (tmp_path / "images").mkdir()
    page = np.full((12, 12), 51, np.uint8)
    page[0] = 255
    np.save(tmp_path / "images" / "page.npy", page)
    (found,) = inputs("images", tmp_path, path=str(tmp_path / "images"), count=1)
    assert found[0, 0].tolist() == pytest.approx([2.0] * 12)
    assert found[0, 1:].flatten().tolist() == pytest.approx([-1.2] * 132)


def test_the_middle_of_a_wide_image_is_kept(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    wide = np.zeros((24, 72), np.uint8)
    wide[:, 24:48] = 255
    np.save(tmp_path / "images" / "wide.npy", wide)
    (found,) = inputs("images", tmp_path, path=str(tmp_path / "images"), count=1)
    assert float(found[0, :, 2:10].min()) == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize(("kind", "mode"), [("png", "L"), ("png", "RGB"), ("jpg", "RGB")])
def test_image_files_are_read_as_the_students_channels(tmp_path: Path, kind: str, mode: str) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "images" / "deeper").mkdir(parents=True)
    image.new(mode, (30, 20), 255 if mode == "L" else (255, 255, 255)).save(
        tmp_path / "images" / "deeper" / f"white.{kind}"
    )
    (found,) = inputs("images", tmp_path, path=str(tmp_path / "images"), count=1)
    assert torch.allclose(found, torch.full((1, 12, 12), 2.0), atol=1e-5)


def broken_images(folder: Path, **files: Any) -> Path:
    folder.mkdir()
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name.replace("_", ".")).write_bytes(content)
        else:
            np.save(folder / f"{name}.npy", content)
    return folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no image"),
        ({"notes_txt": b"x"}, "holds no image"),
        ({"cut_png": b"\x89PNG\r\n\x1a\n"}, "cut.png is no whole image"),
        ({"empty_npy": b""}, "empty.npy is no array"),
        ({"holes": np.full((12, 12), np.nan)}, "holes.npy has NaN or infinite values"),
        ({"colour": np.zeros((12, 12, 3))}, r"colour.npy is float64 \[12, 12, 3\]"),
    ],
)
def test_bad_folders_are_named(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    if "cut_png" in files:
        pytest.importorskip("PIL.Image")
    with pytest.raises(UserError, match=message):
        inputs("images", tmp_path, path=str(broken_images(tmp_path / "images", **files)))


def test_images_need_to_know_what_preprocessing_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`preprocessing` lacks mean, scale, std"):
        inputs("images", tmp_path, saved(tmp_path, preprocessing={}))
    with pytest.raises(UserError, match="is no folder"):
        inputs("images", tmp_path, path=str(write_npz(tmp_path)))


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    folder = broken_images(tmp_path / "images", one_png=b"x")
    with pytest.raises(UserError, match="reading image files needs Pillow") as error:
        inputs("images", tmp_path, path=str(folder))
    assert error.value.hint.startswith('pip install "edgekd[images]"')


def test_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    values = np.arange(3 * 144, dtype=np.float32).reshape(3, 1, 12, 12)
    found = inputs(
        "npz", tmp_path, path=str(write_npz(tmp_path, a=values, b=values + 1)), options={"array": "b"}, count=3
    )
    assert torch.equal(found, torch.from_numpy(values + 1))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((4, 12, 12), np.float32)}, r'"a" in .*inputs.npz is \[4, 12, 12\]'),
        ({"a": np.zeros((0, 1, 12, 12), np.float32)}, r"is \[0, 1, 12, 12\]"),
        ({"a": np.zeros((4, 1, 12, 12), np.int64)}, "holds int64"),
        ({"a": np.array([None])}, "not a whole .npz file"),
        ({"a": np.zeros(1), "b": np.zeros(1)}, 'holds 2 arrays, none is named ""'),
    ],
)
def test_bad_arrays_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        inputs("npz", tmp_path, path=str(write_npz(tmp_path, **arrays)))


def test_an_input_with_nan_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    values = np.ones((5, 1, 12, 12), np.float32)
    values[3, 0, 2, 2] = np.nan
    with pytest.raises(UserError, match="input 3 has NaN"):
        inputs("npz", tmp_path, path=str(write_npz(tmp_path, a=values)), count=5)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x93NUMPY"])
def test_a_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match="x.npz is not a whole .npz file"):
        inputs("npz", tmp_path, path=str(tmp_path / "x.npz"))


def test_the_seed_draws_from_more_than_enough(tmp_path: Path) -> None:
    place = str(write_images(tmp_path, 6))
    first, second = (inputs("images", tmp_path, path=place, count=2, seed=seed) for seed in (0, 1))
    assert not torch.equal(first, second)
