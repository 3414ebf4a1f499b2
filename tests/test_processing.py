"""What stands before and behind an engine, against other implementations and numbers worked out by hand.

That C++ computes the same is tested in tests/cxx/test_student.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends.folders import write_program
from cxx.processing_cases import signature
from hypothesis import given, settings
from hypothesis import strategies as st
from project import edgekd as run
from project import new_project
from scipy import fft

from edgekd import audio, bundle, image, recipe
from edgekd.backend import load_engine, open_backend
from edgekd.errors import UserError
from edgekd.processing import Class, check, postprocess, preprocess

SIZES = st.integers(1, 24)


@given(height=SIZES, width=SIZES, to=st.tuples(SIZES, SIZES), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_resizing_is_pytorchs(height: int, width: int, to: tuple[int, int], seed: int) -> None:
    pixels = np.random.default_rng(seed).uniform(0, 255, (height, width, 2))
    there = torch.from_numpy(pixels.transpose(2, 0, 1)[None])
    smooth = torch.nn.functional.interpolate(there, to, mode="bilinear", align_corners=False, antialias=False)
    found = image.resized(pixels, *to, "bilinear", whole=False)
    np.testing.assert_allclose(found, smooth[0].permute(1, 2, 0).numpy(), rtol=0, atol=1e-9)
    near = torch.nn.functional.interpolate(there.float(), to, mode="nearest-exact")[0].permute(1, 2, 0).numpy()
    assert (image.resized(pixels, *to, "nearest", whole=False).astype(np.float32) == near).all()


def test_bytes_are_rounded_halves_to_even() -> None:
    pixels = np.array([[[10.0], [11.0]], [[12.0], [13.0]]])
    (row,) = image.resized(pixels[:1], 1, 4, "bilinear", whole=True)
    assert row.ravel().tolist() == [10, 10, 11, 11]  # 10, 10.25, 10.75, 11
    assert image.resized(pixels, 1, 1, "bilinear", whole=True).item() == 12  # 11.5
    assert image.resized(pixels[:1], 1, 1, "bilinear", whole=True).item() == 10  # 10.5


def test_crops_and_sizes() -> None:
    pixels = np.arange(5 * 4).reshape(5, 4, 1).astype(float)
    assert image.cropped(pixels, 2, 2).ravel().tolist() == [5, 6, 9, 10]  # the smaller margin is above
    assert image.target_size(300, 200, (100,)) == (150, 100)
    assert image.target_size(3, 2, (7, 9)) == (7, 9)
    with pytest.raises(UserError, match="5 × 4 has no middle of 6 × 4"):
        image.cropped(pixels, 6, 4)


def test_an_image_becomes_the_input() -> None:
    made = signature(
        (1, 3, 1, 2), preprocessing={"scale": 1 / 255, "mean": [0.5, 0.0, 0.25], "std": [0.5], "layout": "NCHW"}
    )
    pixels = np.array([[[0, 51, 255], [255, 102, 0]]], np.uint8)
    found = preprocess(made, pixels)
    assert found.shape == (1, 3, 1, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found.ravel(), [-1, 1, 0.4, 0.8, 1.5, -0.5], rtol=1e-7)
    last = signature((1, 1, 2, 3), "uint8", preprocessing={"layout": "NHWC"})
    assert (preprocess(last, pixels)[0] == pixels).all()
    cut = signature((1, 1, 2, 3), "int8", preprocessing={"layout": "NHWC", "mean": 128})
    assert preprocess(cut, pixels).ravel().tolist() == [-128, -77, 127, 127, -26, -128]


def test_the_examples_own_formula() -> None:
    """fashion.py normalises in float32; the bundle's constants give that to a few units in the last place."""
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    mean, std = 0.2860, 0.3530
    made = signature((1, 1, 28, 28), preprocessing={"scale": 1 / 255, "mean": [mean], "std": [std], "layout": "NCHW"})
    trained = (torch.from_numpy(pixels).float() / 255 - mean) / std
    np.testing.assert_allclose(preprocess(made, pixels)[0, 0], trained.numpy(), rtol=0, atol=1e-6)


def test_frames_and_spectrum_are_scipys() -> None:
    samples = np.random.default_rng(1).standard_normal(900)
    framed = audio.frames(samples, 100, 40, "hann")
    assert framed.shape == (21, 100)  # (900 − 100) / 40 + 1
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(100) / 100)
    np.testing.assert_allclose(framed[3], samples[120:220] * window, rtol=1e-12)
    assert (audio.frames(samples, 100, 40, "none")[3] == samples[120:220]).all()
    wanted = np.abs(fft.rfft(framed, 128)) ** 2
    np.testing.assert_allclose(audio.power(framed, 128), wanted, rtol=1e-9, atol=1e-12)
    with pytest.raises(UserError, match="99 samples are less than one frame of 100"):
        audio.frames(samples[:99], 100, 40, "hann")


def test_mel_filters() -> None:
    """The triangles' corners: 1000 Hz is 1000 mel in HTK's formula, to a hundredth; each frequency between two peaks counts once."""
    weights = audio.filters(10, 512, 16000, 0.0, 8000.0)
    assert weights.shape == (257, 10) and weights.max() <= 1.0
    frequencies = np.arange(257) * 16000 / 512
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 12)
    corners = 700 * (10 ** (mels / 2595) - 1)
    assert 2595 * math.log10(1 + 1000 / 700) == pytest.approx(1000, abs=0.02)
    for b in range(10):
        wanted = np.interp(frequencies, corners[b : b + 3], [0, 1, 0])
        np.testing.assert_allclose(weights[:, b], wanted, atol=1e-9)
    inside = (frequencies > corners[1]) & (frequencies < corners[10])
    np.testing.assert_allclose(weights[inside].sum(1), 1.0, atol=1e-9)


def test_a_tone_is_loudest_in_its_filter() -> None:
    made = signature(
        (1, 98, 20),
        preprocessing={
            "scale": 1 / 32768,
            "framing": {"length": 400, "hop": 160, "window": "hann"},
            "mel": {"rate": 16000, "bins": 20},
            "log": 1e-6,
            "layout": "NTF",
        },
    )
    tone = (20000 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)).astype(np.int16)
    found = preprocess(made, tone)
    assert found.shape == (1, 98, 20)
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 22)[1:-1]
    assert set(found[0].argmax(1)) == {int(np.abs(mels - 1000).argmin())}
    silent = preprocess(made, np.zeros(16000, np.int16))
    np.testing.assert_allclose(silent, math.log(1e-6), rtol=1e-6)


def test_outputs_become_classes() -> None:
    made = signature((1, 3), labels=("cat", "dog", "owl"), postprocessing={"softmax": True, "top": 2})
    logits = np.log(np.array([[0.2, 0.5, 0.3]], np.float32))
    first, second = postprocess(made, logits)
    assert (first.index, first.label, second.label) == (1, "dog", "owl")
    assert (first.score, second.score) == (pytest.approx(0.5), pytest.approx(0.3))
    some = signature((1, 3), postprocessing={"sigmoid": True, "threshold": 0.5})
    assert postprocess(some, np.array([-1.0, 0.0, 2.0])) == [Class(2, "2", pytest.approx(0.880797)), Class(1, "1", 0.5)]
    assert [c.index for c in postprocess(signature((1, 3)), np.array([1.0, 2.0, 2.0]))] == [1, 2, 0]  # ties by index


def test_what_is_wrong_is_said() -> None:
    pixels = np.zeros((8, 8), np.uint8)
    with pytest.raises(UserError, match=r'preprocessing has a key "resise" that edgekd does not apply') as caught:
        preprocess(signature((1, 1, 8, 8), preprocessing={"resise": 8}), pixels)
    assert caught.value.hint == 'did you mean "resize"?'
    with pytest.raises(UserError, match=r"the image became \[1, 8, 8\], the student's \"x\" is \[1, 3, 8, 8\]"):
        preprocess(signature((1, 3, 8, 8)), pixels)
    with pytest.raises(UserError, match=r"preprocessing\.std: \[0\.0\] is not free of zeros"):
        check({"std": [0.0], "mine": "travels too"}, {})
    with pytest.raises(UserError, match=r"the image became \[1, 8, 8\], the student's \"x\" is \[4, 1, 8, 8\]"):
        preprocess(signature((4, 1, 8, 8)), pixels)  # four at a time: not of one image
    with pytest.raises(UserError, match="resize.size makes an image of 9000 × 9000, which is too large"):
        preprocess(signature((1, 1, 8, 8), preprocessing={"resize": {"size": 9000}, "crop": {"size": 8}}), pixels)
    table = {"framing": {"length": 16, "hop": 1}, "mel": {"rate": 8000, "bins": 4096, "fft": 2**20}}
    with pytest.raises(UserError, match="framing, or its mel table, is too large"):
        preprocess(signature((1, 17, 4096), preprocessing=table), np.zeros(32, np.float32))
    with pytest.raises(UserError, match=r"preprocessing\.resize\.from: 0 is not a whole number"):
        check({"resize": {"size": 8, "from": 0}}, {})
    with pytest.raises(UserError, match=r"postprocessing\.top: 0 is not a whole number"):
        check({}, {"top": 0})
    with pytest.raises(UserError, match="files of different names"):
        check({"tokenizer": {"kind": "wordpiece", "files": ["a/vocab.txt", "b/vocab.txt"]}}, {})
    check({"mine": "travels too", "crop": {"size": 8}}, {"softmax": True})


def test_an_opened_bundle_prepares_and_answers(tmp_path: Path) -> None:
    program, engine = write_program(tmp_path / "program"), tmp_path / "engine"
    engine.mkdir()
    open_backend("onnxruntime").compile(program, engine, {}, 1)
    around: dict[str, Any] = {
        "preprocessing": {"resize": {"size": 8}, "scale": 1 / 255, "mean": [0.5], "std": [0.25], "layout": "NCHW"},
        "postprocessing": {"softmax": True, "top": 3},
    }
    x = np.zeros((1, 1, 8, 8), np.float32)
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    files = {"tokenizer/vocab.txt": tmp_path / "vocab.txt"}
    bundle.write(
        tmp_path / "b",
        engine,
        {},
        {"inputs": x, "outputs": np.zeros((1, 5), np.float32)},
        [],
        [],
        around=around,
        files=files,
    )
    assert "tokenizer/vocab.txt" in bundle.read(tmp_path / "b")["files"]
    assert bundle.read(tmp_path / "b")["signature"]["postprocessing"] == around["postprocessing"]
    pixels = np.random.default_rng(5).integers(0, 256, (16, 16), np.uint8)
    with bundle.load(tmp_path / "b") as student, load_engine(engine) as plain:
        found = student.postprocess(student.run([student.preprocess(pixels)]))
        wanted = (
            image.resized(pixels[..., None].astype(float), 8, 8, "bilinear", whole=True)[..., 0] / 255 - 0.5
        ) / 0.25
        (logits,) = plain.run([wanted[None, None].astype(np.float32)])
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
    order = np.argsort(-shares)[:3]
    assert [answer.label for answer in found] == ["abcde"[i] for i in order]
    np.testing.assert_allclose([answer.score for answer in found], shares[order], rtol=1e-5)


def test_a_recipe_names_them(tmp_path: Path) -> None:
    file = new_project(tmp_path / "mine")
    (tmp_path / "mine" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    plain = file.read_text("utf-8")

    def loaded(text: str) -> recipe.Loaded:
        file.write_text(f"{plain}\n{text}\n")
        return recipe.load(file)

    good = loaded("[preprocessing]\nresize = { size = [28, 28] }\n[postprocessing]\nsoftmax = true\ntop = 1")
    assert good.values.preprocessing == {"resize": {"size": [28, 28]}}
    with pytest.raises(UserError, match=r"preprocessing\.rezise: unknown key") as caught:
        loaded("[preprocessing]\nrezise = 8")
    assert caught.value.hint == 'did you mean "resize"?'
    with pytest.raises(UserError, match=r"postprocessing\.softmax: \'yes\' is not true or false"):
        loaded('[postprocessing]\nsoftmax = "yes"')
    with pytest.raises(UserError, match=r"no\.txt does not exist"):
        loaded('[preprocessing]\ntokenizer = { kind = "wordpiece", files = ["no.txt"] }')
    loaded('[preprocessing]\ntokenizer = { kind = "wordpiece", files = ["vocab.txt"] }')
    assert json.loads(run("schema").stdout)["properties"]["postprocessing"]["description"]
