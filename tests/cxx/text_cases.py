"""Random texts for the tokenizer, read by Python and by tests/cxx/text.cpp, and compared; and a small student that takes text."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from backends.folders import write_program
from cxx.bundles import ran
from onnx import TensorProto, helper, numpy_helper

from edgekd import bundle, tokenizer
from edgekd.backend import load_engine, open_backend
from edgekd.errors import UserError
from edgekd.signature import Port

NAMES = ("input_ids", "attention_mask", "token_type_ids")
LENGTH = 12
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789,.!?'-#éßσωабжы中文字日本のかאבגعرबीกข한ᄒ가🙂"
# What texts are drawn from: scripts, accents composed and not, ideographs, emoji, spaces, controls, punctuation.
POOLS = [
    [*"abcdefghijklmnopqrstuvwxyz"],
    [*"ABCDEFGHIJKLMNOPQRSTUVWXYZÀÉÎÕÜÇÑŞĞİIıſẞΑΣΩЖЫЁЙǅ"],
    [*"éèêëñüößåøæœÿāčđŁłşğ", "e\u0301", "o\u0308", "a\u0323\u0302", "\u0301", "\u0344", "\u0387"],
    [*"中文字符日本語東京一丁龥", "\u3400", "\uf900", "\ufa1f", "\U00020000", "\U0002f804", "\u3006", "\u3007"],
    [*"のかがぎパァーー한국어각힣가ᄒ", *"אבגשׁעربسَّ", *"हिन्दीবাংলাதமிழ்ไทยກ", "\u09cb", "\u0b48", "\u0344"],
    ["🙂", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "\u2764\ufe0f", "☺", "\U0001d15f", "\U0001f600"],
    [
        " ",
        "  ",
        "\t",
        "\n",
        "\r",
        "\u00a0",
        "\u2003",
        "\u2028",
        "\u3000",
        "\u200b",
        "\u00ad",
        "\x00",
        "\x07",
        "\x7f",
        "\ufffd",
    ],
    [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", *"«»…—–·¿¡、。「」！？", "[SEP]", "[CLS]", "##", "\u037e", "\u2329"],
    [*"0123456789", "½", "²", "Ⅷ", "①", "٣", "\ue000", "\U000f0000", "\u0378", "\U0001fae8"],
]


def vocabulary(random: np.random.Generator) -> list[str]:
    """Marks, single characters whole and inside, and some hundred longer pieces."""
    letters = list(ALPHABET)
    whole = ["".join(random.choice(letters, random.integers(2, 5))) for _ in range(300)]
    inside = ["##" + "".join(random.choice(letters, random.integers(1, 4))) for _ in range(300)]
    common = ["the", "and", "##ing", "##ed", "##s", "un", "##able", "aff", "hello", "world", "elan", "naive", "cafe"]
    kept = [c for c in letters if random.random() < 0.8]
    return list(dict.fromkeys([*MARKS, *kept, *(f"##{c}" for c in kept), *common, *whole, *inside]))


def a_text(random: np.random.Generator, pools: list[list[str]] = POOLS) -> str:
    """Up to some forty characters, mostly of one or two pools; sometimes nothing, sometimes one very long word."""
    if (dice := random.random()) < 0.04:
        return ""
    if dice < 0.08:
        return "a" * int(random.integers(95, 106)) + " hello"
    weights = random.dirichlet(np.full(len(pools), 0.4))
    drawn = random.choice(len(pools), int(random.integers(1, 40)), p=weights)
    return "".join(pools[i][int(random.integers(len(pools[i])))] for i in drawn)


def broken(random: np.random.Generator, text: str) -> bytes:
    """UTF-8 with some bytes changed, left out or put in."""
    made = bytearray(text.encode() or b"x")
    for _ in range(int(random.integers(1, 5))):
        at = int(random.integers(len(made)))
        change = int(random.integers(3))
        if change == 0:
            made[at] = int(random.choice([0x80, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xF0, 0xF4, 0xF5, 0xFF]))
        elif change == 1 and len(made) > 1:
            del made[at]
        else:
            made.insert(at, int(random.integers(0x80, 0x100)))
    return bytes(made)


@dataclass
class Case:
    text: bytes
    pair: bytes | None = None
    table: dict[str, Any] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()

    @property
    def preprocessing(self) -> dict[str, Any]:
        return {"tokenizer": {"kind": "wordpiece", "files": ["vocab.txt"], **self.table}}

    def to_json(self, index: int) -> dict[str, Any]:
        inputs = [{"name": p.name, "shape": list(p.shape), "dtype": p.dtype} for p in self.ports]
        outputs = [{"name": "y", "shape": [1, 5], "dtype": "float32"}]
        about = {"inputs": inputs, "outputs": outputs, "preprocessing": self.preprocessing}
        pair = None if self.pair is None else f"{index}.pair"
        return {"signature": about, "text": f"{index}.text", "pair": pair, "out": f"{index}.out"}


def ports(length: int | str = LENGTH, dtype: str = "int64", names: tuple[str, ...] = NAMES) -> tuple[Port, ...]:
    return tuple(Port(name, (1, length), dtype) for name in names)


def a_case(random: np.random.Generator) -> Case:
    text, pair = a_text(random).encode(), None
    if random.random() < 0.25:
        text = broken(random, text.decode())
    if random.random() < 0.3:
        pair = a_text(random).encode()
    table: dict[str, Any] = {}
    for key, share in (("lowercase", 0.25), ("strip_accents", 0.25), ("cjk", 0.2)):
        if random.random() < share:
            table[key] = False
    if random.random() < 0.3:
        table["max_length"] = int(random.integers(3, 40))
    length: int | str = "length" if random.random() < 0.4 else int(random.integers(3, 40))
    names = NAMES if random.random() < 0.7 else ("token_type_ids", "input_ids")
    return Case(text, pair, table, ports(length, str(random.choice(["int64", "int32"])), names))


WRONG = [
    Case(b"a", table={"kind": "bpe"}, ports=ports()),
    Case(b"a", table={"files": ["merges.bin"]}, ports=ports()),
    Case(b"a", table={"files": ["vocab.txt", "more.txt"]}, ports=ports()),
    Case(b"a", table={"files": ["lacking.txt"]}, ports=ports()),
    Case(b"a", table={"lower": True}, ports=ports()),
    Case(b"a", table={"lowercase": "yes"}, ports=ports()),
    Case(b"a", table={"max_length": 2}, ports=ports()),
    Case(b"a", table={"ids": 3}, ports=ports()),
    Case(b"a", table={"ids": "tokens"}, ports=ports()),
    Case(b"a", ports=ports(2)),
    Case(b"a", ports=ports(dtype="float32")),
    Case(b"a", ports=ports(names=("attention_mask",))),
    Case(b"a", ports=ports(names=("input_ids", "position_ids"))),
    Case(b"a", ports=(*ports(12, names=("input_ids",)), *ports(13, names=("attention_mask",)))),
    Case(b"a", ports=(Port("input_ids", (2, 8), "int64"),)),
    Case(b"a", ports=(Port("input_ids", (8,), "int64"),)),
]
"""What both refuse; lacking.txt is a vocabulary without [UNK]."""


def read_here(case: Case, held: dict[str, bytes]) -> list[np.ndarray]:
    return tokenizer.Tokenizer.of(case.preprocessing, held).inputs(case.ports, case.text, case.pair)


def both_read(program: Path, folder: Path, count: int) -> dict[str, int]:
    """Read `count` random texts, and what is wrong, in C++ and here; how many there were, all of them equal."""
    random = np.random.default_rng(11)
    held = {"vocab.txt": "\n".join(vocabulary(random)).encode(), "lacking.txt": b"[PAD]\n[CLS]\n[SEP]\n"}
    for name, content in held.items():
        (folder / name).write_bytes(content)
    cases = [a_case(random) for _ in range(count)] + WRONG
    for index, case in enumerate(cases):
        (folder / f"{index}.text").write_bytes(case.text)
        if case.pair is not None:
            (folder / f"{index}.pair").write_bytes(case.pair)
    (folder / "texts.json").write_text(
        json.dumps({"held": list(held), "cases": [case.to_json(i) for i, case in enumerate(cases)]})
    )
    ran(program, folder / "texts.json")
    seen = {"texts": 0, "pairs": 0, "known": 0, "unknown": 0, "refused": 0}
    for index, case in enumerate(cases):
        said = (folder / f"{index}.out").read_text()
        if index >= count:
            with pytest.raises(UserError):
                read_here(case, held)
            assert said.startswith("refused: "), (case, said)
            seen["refused"] += 1
            continue
        wanted = read_here(case, held)
        found = [[int(n) for n in line.split()] for line in said.splitlines()]
        assert found == [array[0].tolist() for array in wanted], (case, said)
        ids = wanted[[port.name for port in case.ports].index("input_ids")]
        seen["texts"] += 1
        seen["pairs"] += case.pair is not None
        seen["known"] += int((ids > 4).sum())
        seen["unknown"] += int((ids == 1).sum())
    return seen


def text_model(length: int | str = LENGTH) -> onnx.ModelProto:
    """input_ids, attention_mask, token_type_ids [1, length] to y [1, 5]: a table of numbers, the mean of those that the mask keeps."""
    random = np.random.default_rng(4)
    held = [
        numpy_helper.from_array(random.normal(0, 1, (1000, 8)).astype(np.float32), "table"),
        numpy_helper.from_array(random.normal(0, 1, (8, 5)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array([2]), "last"),
        numpy_helper.from_array(np.array([1]), "middle"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["kept", "types"], ["weight"]),
        helper.make_node("Unsqueeze", ["weight", "last"], ["weights"]),
        helper.make_node("Mul", ["embedded", "weights"], ["weighted"]),
        helper.make_node("ReduceMean", ["weighted", "middle"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [1, length]) for name in NAMES]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


TEXTS = ["Hello, World!", "the unaffable café", "東京 🙂 naïve", ""]


def write(folder: Path, backend: str = "onnxruntime", length: int | str = LENGTH, **table: Any) -> Path:
    """A bundle in `folder / backend` whose student takes text, its golden outputs those of TEXTS, or for a dynamic length of one."""
    program, engine = folder / "program", folder / "engine"
    shutil.rmtree(folder, ignore_errors=True)
    write_program(program, text_model(length))
    engine.mkdir()
    open_backend(backend).compile(program, engine, {}, 1)
    pieces = "".join(f"{piece}\n" for piece in vocabulary(np.random.default_rng(11)))
    (folder / "vocab.txt").write_text(pieces, "utf-8")
    before = Case(b"", table=table).preprocessing
    reader = tokenizer.Tokenizer.of(before, {"vocab.txt": pieces.encode()})
    texts = TEXTS if isinstance(length, int) else TEXTS[:1]
    with load_engine(engine) as session:
        inputs = [reader.inputs(session.signature.inputs, text) for text in texts]
        outputs = np.concatenate([session.run(one)[0] for one in inputs])
    golden = {f"inputs_{i}": np.concatenate([one[i] for one in inputs]) for i in range(len(NAMES))}
    facts = {"name": "reader", "backend": backend, "tolerance": {"top1": 1.0, "absolute": 1e-4}}
    around = {"preprocessing": before, "postprocessing": {"softmax": True, "top": 2}}
    files = {"tokenizer/vocab.txt": folder / "vocab.txt"}
    told = {**facts, "edgekd": "0.1.0"}
    packages = open_backend(backend).versions()
    bundle.write(
        folder / backend, engine, told, {**golden, "outputs": outputs}, [], packages, around=around, files=files
    )
    return folder / backend
