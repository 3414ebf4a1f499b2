"""Text as students read it: Google's own test vectors, cases worked out by hand, and the package `tokenizers` as another's word.

That C++ computes the same is tested in tests/cxx/test_student.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cxx.text_cases import LENGTH, NAMES, a_text, ports, text_model, vocabulary, write
from project import new_project

import edgekd
from edgekd import recipe, tokenizer
from edgekd.errors import UserError
from edgekd.processing import preprocess
from edgekd.signature import Port, Signature
from edgekd.tokenizer import Tokenizer
from edgekd.wordpiece import WordPiece

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# The vocabulary of google-research/bert, tokenization_test.py, with [PAD] behind.
THEIRS = ["[UNK]", "[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un", "runn", "##ing", ",", "[PAD]"]
TABLE = {"kind": "wordpiece", "files": ["vocab.txt"]}


def held(pieces: list[str]) -> dict[str, bytes]:
    return {"vocab.txt": "\n".join(pieces).encode()}


def test_googles_own_vectors() -> None:
    """google-research/bert, tokenization_test.py: the full tokenizer, WordPiece, and the basic one in each of its ways."""
    pieces = WordPiece({piece: n for n, piece in enumerate(THEIRS)})
    assert pieces.tokens("UNwant\u00e9d,running") == [7, 4, 5, 10, 8, 9]
    assert pieces.tokens("") == []
    assert pieces.tokens("unwanted running") == [7, 4, 5, 8, 9]
    assert pieces.tokens("unwantedX running") == [0, 8, 9]
    assert pieces.words("ah\u535a\u63a8zz") == ["ah", "\u535a", "\u63a8", "zz"]
    assert pieces.words(" \tHeLLo!how  \n Are yoU?  ") == ["hello", "!", "how", "are", "you", "?"]
    assert pieces.words("H\u00e9llo") == ["hello"]
    cased = WordPiece({}, lowercase=False, strip_accents=False)
    assert cased.words(" \tHeLLo!how  \n Are yoU?  ") == ["HeLLo", "!", "how", "Are", "yoU", "?"]


def test_words_by_hand() -> None:
    plain = WordPiece({})
    assert plain.words("e\u0301\u0323 \u00c5\u0130I") == ["e", "aii"]  # marks composed or not; İ is I and a dot
    assert plain.words("a\u200bb\x00c\ufffdd \u00ade") == ["abcd", "e"]  # Cf, Cc, U+FFFD
    assert plain.words("a\u2028b\u3000c\u00a0d") == ["a", "b", "c", "d"]
    assert plain.words("$5+2=\u20ac7") == [
        "$",
        "5",
        "+",
        "2",
        "=",
        "\u20ac7",
    ]  # ASCII's symbols are punctuation, € is none
    assert plain.words("\u037e\u0387") == [";", "\u00b7"]  # Greek's own question mark and dot decompose
    assert plain.words("\uac01") == ["\u1100\u1161\u11a8"]  # 각, a syllable of three letters
    assert plain.words("ΣΑΣ ΟΔΟΣ") == ["σασ", "οδοσ"]  # no final sigma
    assert plain.words("👍🏽 \U0001f468\u200d\U0001f469") == ["👍🏽", "\U0001f468\U0001f469"]
    assert WordPiece({}, cjk=False).words("中文字") == ["中文字"]
    assert WordPiece({}, strip_accents=False).words("É\u0130") == ["éi\u0307"]
    assert WordPiece({}, lowercase=False).words("ÉA") == ["EA"]


def test_pieces_are_the_longest() -> None:
    names = [*MARKS, "a", "ab", "abc", "##c", "##cd", "##d", "x"]
    pieces = WordPiece({piece: n for n, piece in enumerate(names)})
    assert pieces.tokens("abcd") == [6, 9]  # abc ##d, not ab ##cd
    assert pieces.tokens("abccd abx") == [6, 8, 1]  # what has no piece makes the whole word unknown
    assert pieces.tokens("a" + "d" * 99) == [4, *[9] * 99]
    assert pieces.tokens("a" + "d" * 100) == [1]  # 101 characters
    assert pieces.tokens("[SEP]") == [1, 1, 1]  # text: no mark


def test_a_text_becomes_the_inputs() -> None:
    """[CLS] unwant ##ed , running [SEP] of 8, and of a pair, cut to 9: the longer text first."""
    made = Tokenizer.of({"tokenizer": TABLE}, held(THEIRS))
    ids, mask, types = made.inputs(ports(8), "unwanted, wa")
    assert ids.dtype == np.int64 and ids.tolist() == [[1, 7, 4, 5, 10, 6, 2, 11]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1, 1, 0]] and types.tolist() == [[0] * 8]
    ids, mask, types = made.inputs(ports(9, "int32"), "unwanted, wa", "running")
    assert ids.dtype == np.int32 and ids.tolist() == [[1, 7, 4, 5, 10, 2, 8, 9, 2]]
    assert types.tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 1]] and mask.all()
    (ids,) = made.inputs(ports("length", names=("input_ids",)), "unwanted, wa")
    assert ids.tolist() == [[1, 7, 4, 5, 10, 6, 2]]  # dynamic: no padding
    (ids,) = made.inputs(ports("length", names=("input_ids",)), "wa " * 600)
    assert ids.shape == (1, 512)
    short = Tokenizer.of({"tokenizer": {**TABLE, "max_length": 4}}, held(THEIRS))
    assert short.inputs(ports(6), "unwanted, wa")[0].tolist() == [[1, 7, 4, 2, 11, 11]]
    assert short.inputs(ports("length"), "unwanted")[0].tolist() == [[1, 7, 4, 2]]
    assert made.inputs(ports(4), "")[0].tolist() == [[1, 2, 11, 11]]
    assert made.inputs(ports(4), b"w\xffa\xe2\x82 \xed\xa0\x80")[0].tolist() == [
        [1, 6, 2, 11]
    ]  # what is no UTF-8 is left out
    assert made.inputs(ports(4), "w\ud800a")[0].tolist() == [[1, 6, 2, 11]]  # half a pair too
    named = Tokenizer.of({"tokenizer": {**TABLE, "ids": "tokens", "mask": "kept"}}, held(THEIRS))
    mask, ids = named.inputs((Port("kept", (1, 4), "int64"), Port("tokens", (1, 4), "int64")), "wa")
    assert (ids.tolist(), mask.tolist()) == ([[1, 6, 2, 11]], [[1, 1, 1, 0]])


def theirs(tokenizers: Any, pieces: list[str], length: int, **switches: bool) -> Any:
    """The package's tokenizer with the same vocabulary and settings, cut and filled to `length`."""
    numbers = {piece: n for n, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocab=numbers, unk_token=MARKS[1], max_input_chars_per_word=100)
    )
    made.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=switches["cjk"],
        strip_accents=switches["strip_accents"],
        lowercase=switches["lowercase"],
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(mark, numbers[mark]) for mark in ("[CLS]", "[SEP]")],
    )
    made.enable_truncation(max_length=length)
    made.enable_padding(length=length, pad_id=numbers["[PAD]"], pad_token=MARKS[0])
    return made


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
def test_it_reads_as_tokenizers_does(lowercase: bool, strip_accents: bool) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    random = np.random.default_rng(int(lowercase) + 2 * int(strip_accents))
    pieces = vocabulary(random)
    switches = {"lowercase": lowercase, "strip_accents": strip_accents, "cjk": bool(lowercase or strip_accents)}
    here = Tokenizer.of({"tokenizer": {**TABLE, **switches}}, held(pieces))
    for index in range(150):
        length = int(random.integers(3, 40))
        text, pair = a_text(random), a_text(random) if random.random() < 0.3 else None
        wanted = theirs(tokenizers, pieces, length, **switches).encode(text, pair)
        found = here.inputs(ports(length), text, pair)
        expected = [[wanted.ids], [wanted.attention_mask], [wanted.type_ids]]
        assert [array.tolist() for array in found] == expected, f"{index}: {text!r} {pair!r}"


def whole(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json as `tokenizers` 0.23 writes it for BERT, uncased."""
    special = {"CLS": 2, "SEP": 3}
    first, last = ({"SpecialToken": {"id": f"[{name}]", "type_id": 0}} for name in special)
    a, b = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    behind = {"SpecialToken": {"id": "[SEP]", "type_id": 1}}
    found = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [{"id": n, "content": mark, "special": True} for n, mark in enumerate(MARKS)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, a, last],
            "pair": [first, a, last, b, behind],
        },
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: n for n, piece in enumerate([*MARKS, "un", "##able", "é"])},
        },
    }
    return {**found, **changes}


def test_a_whole_tokenizer_is_resolved(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"

    def resolved(content: dict[str, Any], **table: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        file.write_text(json.dumps(content))
        named = {"kind": "wordpiece", "files": ["tokenizer.json"], **table}
        before, files = tokenizer.resolve({"tokenizer": named}, {name: tmp_path / name for name in named["files"]})
        return before["tokenizer"], files

    found, files = resolved(whole())
    switches = {"lowercase": True, "strip_accents": True, "cjk": True, "max_length": 9}
    assert found == {"kind": "wordpiece", "files": ["tokenizer.json", "vocab.txt"], **switches}
    assert files["vocab.txt"].decode() == "[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##able\né\n"
    cased = {**whole()["normalizer"], "lowercase": False}
    found, _ = resolved(whole(normalizer=cased), max_length=5)
    assert (found["lowercase"], found["strip_accents"], found["max_length"]) == (
        False,
        False,
        5,
    )  # the recipe's own stays
    model = whole()["model"]
    for wrong, why in (
        (whole(model={**model, "type": "BPE"}), "its model is a BPE, which edgekd does not apply"),
        (whole(model={**model, "continuing_subword_prefix": "@@"}), "its WordPiece has"),
        (whole(model={**model, "vocab": {"a": 1}}), "numbers of its vocabulary are left out"),
        (whole(normalizer={"type": "NFKC"}), "its normalizer is"),
        (whole(pre_tokenizer=None), "its pre_tokenizer is"),
        (whole(post_processor=None), "its post_processor is another than BERT's"),
        (whole(added_tokens=[{"content": "<new>", "special": False}]), "it has added tokens"),
        ({"model": 3}, "cannot be read: KeyError"),
    ):
        with pytest.raises(UserError, match=why):
            resolved(wrong)
    (tmp_path / "vocab.txt").write_text("other\n")
    with pytest.raises(UserError, match="has other pieces than tokenizer.json"):
        resolved(whole(), files=["tokenizer.json", "vocab.txt"])


def test_the_packages_own_file_is_read(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pieces = vocabulary(np.random.default_rng(5))
    their = theirs(tokenizers, pieces, 16, lowercase=True, strip_accents=True, cjk=True)
    their.save(str(tmp_path / "tokenizer.json"))
    named = {"tokenizer": {"kind": "wordpiece", "files": ["tokenizer.json"]}}
    before, files = tokenizer.resolve(named, {"tokenizer.json": tmp_path / "tokenizer.json"})
    text = "Hello, unaffable 東京 world!"
    found = Tokenizer.of(before, files).inputs(ports(16), text)
    assert found[0][0].tolist() == their.encode(text).ids and (found[0] > 4).sum() > 3


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    def of(table: Any, pieces: list[str] = THEIRS) -> Tokenizer:
        return Tokenizer.of({"tokenizer": table}, held(pieces))

    with pytest.raises(UserError, match='applies no tokenizer of the kind "bpe", only "wordpiece"') as caught:
        of({"kind": "bpe", "files": ["merges.txt"]})
    assert caught.value.hint.endswith("merges.txt")
    with pytest.raises(UserError, match=r"vocab\.txt has no \[PAD\]"):
        of(TABLE, THEIRS[:-1])
    with pytest.raises(UserError, match=r"vocab\.txt is not UTF-8"):
        Tokenizer.of({"tokenizer": TABLE}, {"vocab.txt": b"\xff"})
    with pytest.raises(UserError, match='tokenizer has a key "lower" that edgekd does not apply') as caught:
        of({**TABLE, "lower": True})
    assert caught.value.hint == 'did you mean "lowercase"?'
    with pytest.raises(UserError, match=r"preprocessing\.tokenizer: \[\] is not a table"):
        of([])
    with pytest.raises(UserError, match='the student\'s "x" is none of input_ids, attention_mask, token_type_ids'):
        of(TABLE).inputs((Port("x", (1, 8), "int64"),), "a")
    with pytest.raises(UserError, match=r'"input_ids" is float32 \[1, 8\], not int64 or int32'):
        of(TABLE).inputs(ports(8, "float32"), "a")
    with pytest.raises(UserError, match="the student takes text") as caught:
        preprocess(Signature(ports(8), (), {"tokenizer": TABLE}), np.zeros((8, 8), np.uint8))
    assert "student.tokenize(text)" in caught.value.hint
    file = new_project(tmp_path / "mine")
    plain = file.read_text("utf-8")
    (tmp_path / "mine" / "tokenizer.json").write_text(json.dumps(whole(pre_tokenizer=None)))
    file.write_text(f'{plain}\n[preprocessing]\ntokenizer = {{ kind = "wordpiece", files = ["tokenizer.json"] }}\n')
    with pytest.raises(
        UserError, match=r"recipe\.toml:\d+: preprocessing\.tokenizer: tokenizer\.json: its pre_tokenizer"
    ):
        recipe.load(file)


@pytest.mark.parametrize("length", [LENGTH, "length"])
def test_an_opened_bundle_reads_text(length: int | str, tmp_path: Path) -> None:
    made = write(tmp_path, "onnxruntime", length)
    plain = ort.InferenceSession(text_model(length).SerializeToString(), providers=["CPUExecutionProvider"])
    pieces = [line for line in (tmp_path / "vocab.txt").read_text("utf-8").split("\n") if line]
    by_hand = WordPiece({piece: n for n, piece in enumerate(pieces)})
    ids = [by_hand.vocabulary["[CLS]"], *by_hand.tokens("Hello, World!"), by_hand.vocabulary["[SEP]"]]
    more = [0] * (LENGTH - len(ids)) if length == LENGTH else []
    feed = dict(zip(NAMES, ([ids + more], [[1] * len(ids) + more], [[0] * (len(ids) + len(more))]), strict=True))
    (wanted,) = plain.run(None, {name: np.array(value, np.int64) for name, value in feed.items()})
    with edgekd.load(made) as student:
        np.testing.assert_allclose(student.run_text("Hello, World!")[0], wanted, rtol=1e-5, atol=1e-6)
        assert student.run_text("Hello", "World")[0].shape == (1, 5)
        assert len(student.postprocess(student.run_text("Hello"))) == 2


def test_a_recipe_bundles_its_tokenizer(tmp_path: Path) -> None:
    """A student that came as an ONNX file, its tokenizer.json read once: the bundle has vocab.txt and what it says written out."""
    onnx.save(text_model(), tmp_path / "net.onnx")
    random = np.random.default_rng(2)
    arrays = {name: random.integers(0, 7 if name == "input_ids" else 2, (16, LENGTH)) for name in NAMES}
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole(), ensure_ascii=False), "utf-8")
    text = (
        '[student]\nuse = "onnx"\nweights = "net.onnx"\n[data]\nuse = "npz"\npath = "data.npz"\n'
        '[targets]\nbackends = ["onnxruntime"]\nplacement = false\n[measure]\nprocesses = 1\nseconds = 0.1\nwait = 0\n'
        "[preprocessing]\n"
    )
    named = 'tokenizer = { kind = "wordpiece", files = ["tokenizer.json"]'
    (tmp_path / "recipe.toml").write_text(f'{text}{named}, ids = "tokens" }}\n')
    with pytest.raises(
        UserError, match=r'recipe\.toml:15: preprocessing\.tokenizer: the student\'s "input_ids" is none of tokens'
    ):
        edgekd.compile(tmp_path / "recipe.toml", tmp_path / "out", store=tmp_path / "store")
    (tmp_path / "recipe.toml").write_text(f"{text}{named} }}\n")
    edgekd.compile(tmp_path / "recipe.toml", tmp_path / "out", store=tmp_path / "store")
    made = tmp_path / "out" / "bundles" / "host"
    assert json.loads((made / "bundle.json").read_text())["signature"]["preprocessing"]["tokenizer"]["max_length"] == 9
    assert (made / "tokenizer" / "tokenizer.json").is_file()
    with edgekd.load(made) as student:
        ids, mask, _ = student.tokenize("Unable, é")
        assert ids.tolist() == [[2, 4, 5, 1, 1, 3, *[0] * 6]]  # é without its accent is e, which is no piece
        assert mask.sum() == 6
        assert np.isfinite(student.run_text("Unable, é")[0]).all()
