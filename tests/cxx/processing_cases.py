"""Random settings and raw data for preprocess and postprocess, run by Python and by tests/cxx/processing.cpp, and compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cxx.bundles import ran

from edgekd import image
from edgekd.errors import UserError
from edgekd.processing import postprocess, preprocess
from edgekd.signature import Port, Signature


@dataclass
class Case:
    signature: Signature
    raw: np.ndarray
    do: str = "preprocess"

    def to_json(self, index: int) -> dict[str, Any]:
        found = self.signature
        ports = {
            side: [{"name": p.name, "shape": list(p.shape), "dtype": p.dtype} for p in getattr(found, side)]
            for side in ("inputs", "outputs")
        }
        around = {"preprocessing": found.preprocessing, "postprocessing": found.postprocessing}
        about = {**ports, **around, "labels": list(found.labels)}
        where = {
            "raw": f"{index}.raw",
            "out": f"{index}.out",
            "shape": list(self.raw.shape),
            "dtype": self.raw.dtype.name,
        }
        return {"signature": about, "do": self.do, **where}


def signature(shape: tuple[int, ...], dtype: str = "float32", labels: tuple[str, ...] = (), **around: Any) -> Signature:
    return Signature((Port("x", shape, dtype),), (Port("y", (1, 4), "float32"),), labels=labels, **around)


def an_image(random: np.random.Generator) -> Case:
    """An image of up to 40 × 40, with each setting or without it."""
    height, width, channels = (int(n) for n in random.integers([1, 1, 1], [40, 40, 5]))
    raw = random.integers(0, 256, (height, width, channels), np.uint8)
    if random.random() < 0.4:
        raw = (random.standard_normal(raw.shape) * 100).astype(np.float32)
    settings: dict[str, Any] = {}
    if random.random() < 0.7:
        size: Any = int(random.integers(1, 50)) if random.random() < 0.5 else random.integers(1, 50, 2).tolist()
        settings["resize"] = {"size": size, "method": str(random.choice(image.METHODS))}
        sizes = tuple(size) if isinstance(size, list) else (size,)
        height, width = (max(n, 1) for n in image.target_size(height, width, sizes))
    if random.random() < 0.5:
        height, width = int(random.integers(1, height + 1)), int(random.integers(1, width + 1))
        settings["crop"] = {"size": [height, width]}
    if random.random() < 0.7:
        settings["scale"] = float(random.uniform(0.001, 1.5))
    for key, low in (("mean", -3.0), ("std", 0.05)):
        if random.random() < 0.6:
            settings[key] = random.uniform(low, 3.0, 1 if random.random() < 0.5 else channels).tolist()
    first = random.random() < 0.5
    settings["layout"] = "NCHW" if first else "NHWC"
    shape = (1, channels, height, width) if first else (1, height, width, channels)
    dtype = str(random.choice(["float32", "float32", "float64", "uint8", "int8"]))
    return Case(signature(shape, dtype, preprocessing=settings), raw)


def a_sound(random: np.random.Generator) -> Case:
    """Some hundred samples, framed, with a mel spectrum or without."""
    length, hop = int(random.integers(2, 70)), int(random.integers(1, 40))
    count = length + int(random.integers(0, 400))
    raw = random.integers(-(2**15), 2**15, count).astype(np.int16)
    if random.random() < 0.5:
        raw = random.standard_normal(count).astype(np.float32)
    settings: dict[str, Any] = {
        "framing": {"length": length, "hop": hop, "window": str(random.choice(["hann", "none"]))}
    }
    settings["scale"] = 1 / 32768 if raw.dtype == np.int16 else 1.0
    columns = length
    if random.random() < 0.8:
        columns = int(random.integers(1, 20))
        settings["mel"] = {
            "rate": 16000,
            "bins": columns,
            "fft": 128,
            "low": 20.0,
            "high": float(random.uniform(100, 8000)),
        }
        settings["log"] = 1e-6
    if random.random() < 0.5:
        settings["mean"], settings["std"] = random.uniform(-3, 3, columns).tolist(), [float(random.uniform(0.1, 3))]
    frames, turned = (count - length) // hop + 1, random.random() < 0.5
    settings["layout"] = "NFT" if turned else "NTF"
    shape = (1, 1, *((columns, frames) if turned else (frames, columns)))
    return Case(signature(shape, preprocessing=settings), raw)


def an_output(random: np.random.Generator) -> Case:
    classes = int(random.integers(1, 30))
    raw = (random.standard_normal((1, classes)) * random.choice([0.1, 3.0, 60.0])).astype(np.float32)
    if random.random() < 0.3:
        raw = np.round(raw)  # ties
    settings: dict[str, Any] = {}
    if random.random() < 0.8:
        settings[str(random.choice(["softmax", "sigmoid"]))] = True
    if random.random() < 0.5:
        settings["top"] = int(random.integers(1, 8))
    if random.random() < 0.5:
        settings["threshold"] = float(random.uniform(0, 0.6))
    labels = tuple(f"c{i}" for i in range(classes)) if random.random() < 0.7 else ()
    return Case(signature((1, 4), labels=labels, postprocessing=settings), raw, "postprocess")


WRONG: list[dict[str, Any]] = [
    {"resise": {"size": 8}},
    {"resize": {"size": 0}},
    {"resize": {"size": [8, 8, 8]}},
    {"resize": {"size": 8, "method": "cubic"}},
    {"resize": 8},
    {"resize": {"size": 9}},
    {"resize": {"size": [70000, 70000]}, "crop": {"size": 8}},
    {"crop": {"size": 9}},
    {"crop": {"size": 7}},
    {"scale": "1"},
    {"mean": [0.5, 0.5]},
    {"mean": []},
    {"std": [0.0]},
    {"layout": "CHWN"},
    {"framing": {"length": 8}},
    {"framing": {"length": 0, "hop": 1}},
    {"framing": {"length": 4, "hop": 1, "window": "blackman"}},
    {"framing": {"length": 4, "hop": 1}, "mel": {"bins": 2}},
    {"framing": {"length": 4, "hop": 1}, "mel": {"bins": 65536, "rate": 8000, "fft": 1048576}},
    {"framing": {"length": 4, "hop": 1}, "mel": {"bins": 2, "rate": 8000, "fft": 6}},
    {"framing": {"length": 4, "hop": 1}, "mel": {"bins": 2, "rate": 8000, "low": 5000}},
    {"tokenizer": {"kind": "wordpiece", "files": ["vocab.txt"]}},
]


def wrong_ones() -> list[Case]:
    """What both must refuse: settings, and raw data that do not fit."""
    pixels, samples = np.zeros((8, 8), np.uint8), np.zeros(16, np.float32)
    found = [Case(signature((1, 1, 8, 8), preprocessing=s), samples if "framing" in s else pixels) for s in WRONG]
    good = signature((1, 1, 8, 8))
    found += [Case(good, raw) for raw in (pixels[:7], pixels.astype(np.int16), pixels[None, :, :, None], samples)]
    found += [Case(signature((1, 1, 8, 8), "int64"), pixels), Case(signature((1, 64)), pixels)]
    found += [Case(signature((4, 1, 8, 8)), pixels)]
    answers = np.array([[0.5, np.nan, 0.25, 0.0]], np.float32)
    found += [Case(signature((1, 4)), answers, "postprocess")]
    logits = np.zeros((1, 4), np.float32)
    found += [Case(signature((1, 4), labels=("a",)), logits, "postprocess")]
    wrong = ({"softmax": 1}, {"softmax": True, "sigmoid": True}, {"top": 0}, {"threshold": "x"}, {"soft": True})
    return found + [Case(signature((1, 4), postprocessing=one), logits, "postprocess") for one in wrong]


def apart(a: np.ndarray, b: np.ndarray) -> int:
    """How many floats lie between a and b, at most; of integers, their largest difference."""
    if not np.issubdtype(a.dtype, np.floating):
        return int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max())
    whole = np.int32 if a.dtype == np.float32 else np.int64
    ordered = [np.where(x < 0, np.iinfo(whole).min - x, x).astype(object) for x in (a.view(whole), b.view(whole))]
    return max(abs(int(x) - int(y)) for x, y in zip(ordered[0].ravel(), ordered[1].ravel(), strict=True))


def both_agree(program: Path, folder: Path, count: int) -> dict[str, int]:
    """Run `count` random cases of each kind in C++ and here; how many there were of each, all of them equal."""
    random = np.random.default_rng(7)
    cases = [make(random) for make in (an_image, a_sound, an_output) for _ in range(count)] + wrong_ones()
    for index, case in enumerate(cases):
        (folder / f"{index}.raw").write_bytes(case.raw.tobytes())
    (folder / "cases.json").write_text(json.dumps([case.to_json(i) for i, case in enumerate(cases)]))
    ran(program, folder / "cases.json")
    seen = {"integers": 0, "floats": 0, "answers": 0, "refused": 0}
    for index, case in enumerate(cases):
        found = (folder / f"{index}.out").read_bytes()
        where = f"case {index}: {case}: {found[:200]!r}"
        if index >= len(cases) - len(wrong_ones()):
            with pytest.raises(UserError):
                (preprocess if case.do == "preprocess" else postprocess)(case.signature, case.raw)
            assert found.startswith(b"refused: "), where
            seen["refused"] += 1
        elif case.do == "postprocess":
            lines = [line.split() for line in found.decode().splitlines()]
            wanted = postprocess(case.signature, case.raw)
            assert [int(line[0]) for line in lines] == [answer.index for answer in wanted], where
            labels = [answer.label if case.signature.labels else "-" for answer in wanted]
            assert [line[2] for line in lines] == labels, where
            scores = np.array([int(line[1]) for line in lines], np.uint32).view(np.float32)
            assert not lines or apart(scores, np.array([a.score for a in wanted], np.float32)) <= 1, where
            seen["answers"] += len(lines)
        else:
            input_ = preprocess(case.signature, case.raw)
            assert len(found) == input_.nbytes, where
            floats = np.issubdtype(input_.dtype, np.floating)
            limit = 1 if floats and input_.dtype == np.float32 else 0 if not floats else 8
            assert apart(np.frombuffer(found, input_.dtype).reshape(input_.shape), input_) <= limit, where
            seen["floats" if floats else "integers"] += 1
    return seen
