"""Seeds for the fuzzer of the bundle reader: the files of small bundles, and whole ones in the form that fuzz.cpp takes.

    python tests/cxx/corpus.py FOLDER

writes them; then, with clang, in tests/cxx:

    CXX=clang++ CC=clang cmake -B build -DEDGEKD_FUZZ=ON -DPROGRAMS=fuzz -Dedgekd_DIR=$(python -m edgekd --cmake-dir) \\
        -DCMAKE_CXX_FLAGS="-g -O1 -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all"
    cmake --build build --target fuzz && build/fuzz -max_total_time=600 -max_len=4096 FOLDER
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

CUT = b"\n%%\n"
ENGINE = {
    "backend": "null",
    "file": "device.json",
    "options": {"threads": 1},
    "versions": {"null": "1"},
    "precision": "float32",
}
KEY = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n"

DTYPES = (
    "float32",
    "float64",
    "float16",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
)


def port(name: str, *shape: int | str | None, dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": dtype}


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy types its keyword arguments as bool
    return stream.getvalue()


def zeros(samples: int, *ports: dict[str, Any], side: str) -> dict[str, np.ndarray]:
    """Golden arrays of zeros for one side; a dynamic size is 2."""
    names = [side] if len(ports) == 1 else [f"{side}_{i}" for i in range(len(ports))]
    shapes = [[size if isinstance(size, int) else 2 for size in one["shape"][1:]] for one in ports]
    return {
        name: np.zeros((samples, *shape), one["dtype"]) for name, shape, one in zip(names, shapes, ports, strict=True)
    }


def around_cases() -> list[tuple[str, dict[str, Any], bytes]]:
    """(name, signature, raw data) of students with something before and behind the engine."""
    tokens = ("input_ids", "attention_mask", "token_type_ids")
    image = {
        "resize": {"size": [4, 4]},
        "crop": {"size": 2},
        "scale": 0.5,
        "mean": [1, 2],
        "std": 0.5,
        "layout": "NHWC",
    }
    mel = {"rate": 8000, "bins": 3, "fft": 8, "low": 20, "high": 4000}
    sound = {"framing": {"length": 6, "hop": 3, "window": "hann"}, "mel": mel, "log": 1e-6, "mean": -1}
    text = {"tokenizer": {"kind": "wordpiece", "files": ["vocab.txt"], "max_length": 6}}
    pixels, samples = bytes([3, 2, *range(24)]), np.arange(24, dtype=np.int16).tobytes()
    words = "Unable, é e\u0301 中s \U0001f642 [SEP]".encode() + b"\xff\xe2\x82"
    behind = {"softmax": True, "threshold": 0.1, "top": 2}
    return [
        (
            name,
            {"inputs": inputs, "outputs": [port("y", 1, 4)], "preprocessing": before, "postprocessing": behind},
            content,
        )
        for name, inputs, before, content in (
            ("image", [port("x", 1, 2, 2, 2)], image, pixels),
            (
                "nearest",
                [port("x", 1, 1, 3, 5, dtype="int8")],
                {"resize": {"size": [3, 5], "method": "nearest"}},
                pixels[:14],
            ),
            ("sound", [port("x", 1, 7, 3)], sound, samples),
            ("text", [port(n, 1, 8, dtype="int64") for n in tokens], text, words),
            ("dynamic", [port(n, 1, "length", dtype="int32") for n in tokens], text, words),
            ("signed", [port("x", 1, 2)], {}, b"1234"),
            ("key", [port("x", 1, 2)], {}, b"1234"),
        )
    ]


def seeds() -> dict[str, bytes]:
    """File names and contents."""
    preprocessing = {
        "scale": 1 / 255,
        "mean": [0.5],
        "std": [0.25],
        "layout": "NCHW",
        "crop": {"size": 8},
        "flip": True,
    }
    cases = {
        "plain": ([port("x", 1, 2, 3)], [port("y", 1, 4)]),
        "several": (
            [port("a", 1, 2), port("b", 1, 3, dtype="int64")],
            [port("y", 1, 2), port("z", 1, 1, dtype="float64")],
        ),
        "dynamic": ([port("x", "batch", "width", None)], [port("y", "batch", 2)]),
        "scalar": ([port("x", 1, dtype="uint8")], [port("y", 1)]),
    }
    found: dict[str, bytes] = {}
    for name, (inputs, outputs) in cases.items():
        signature = {
            "inputs": inputs,
            "outputs": outputs,
            "labels": ["é", "\U0001f642", 'a"\\'],
            "preprocessing": preprocessing,
        }
        golden = npz(**zeros(3, *inputs, side="inputs"), **zeros(3, *outputs, side="outputs"))
        device = json.dumps({"seed": 7, "step": 0.5})
        parts = [json.dumps(signature), json.dumps(ENGINE), device]
        found[f"bundle-{name}"] = CUT.join([*(part.encode() for part in parts), golden])
        manifest = {
            "format": 1,
            "files": {"golden.npz": "00"},
            "signature": signature,
            "name": name,
            "tolerance": {"top1": 1.0},
        }
        found[f"manifest-{name}"] = json.dumps(manifest, ensure_ascii=name == "plain").encode()
        found[f"golden-{name}"] = golden
    for name, signature, content in around_cases():
        inputs, outputs = signature["inputs"], signature["outputs"]
        golden = npz(**zeros(1, *inputs, side="inputs"), **zeros(1, *outputs, side="outputs"))
        parts = [json.dumps(signature), json.dumps(ENGINE), json.dumps({"seed": 7, "step": 0})]
        vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##able\né\n中\n##s\n,".encode()
        sealed = json.dumps({"format": 1, "algorithm": "Ed25519", "key": "0" * 16, "signature": "0" * 128})
        sealed = KEY if name == "key" else sealed if name == "signed" else ""
        found[f"around-{name}"] = CUT.join([*(p.encode() for p in parts), golden, sealed.encode(), vocabulary, content])
    found["golden-dtypes"] = npz(**{dtype: np.zeros((2, 1), dtype) for dtype in DTYPES})
    found["json-numbers"] = b'[0, -1, 2.5e-3, 1E+2, true, false, null, "\\u00e9\\ud83d\\ude42\\n", [[[{"": {}}]]]]'
    found["newer"] = b'{"format": 2, "edgekd": "9.9.9", "files": {}}'
    return found


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in seeds().items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
