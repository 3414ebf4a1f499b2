"""`preprocessing.tokenizer`: whose files travel in the bundle's folder tokenizer/, and how a text becomes a student's inputs.

    kind           "wordpiece", which edgekd applies; files of any other kind travel too, and the app applies them
    files          ["vocab.txt"], a piece a line; or ["tokenizer.json"], of which `resolve` makes vocab.txt and what is below
    lowercase, strip_accents, cjk    true; edgekd/wordpiece.py
    max_length     most numbers of a text, marks included; the input's own length, or 512 where that is dynamic
    ids, mask, types                 what the inputs are called: "input_ids", "attention_mask", "token_type_ids"

Inputs are [1, length], int64 or int32. A fixed length is filled up with [PAD], type 0, mask 0; a dynamic one is the text's own.
cmake/src/tokenizer.cpp gives the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import wordpiece
from edgekd.errors import UserError
from edgekd.settings import Settings
from edgekd.signature import Array, Port, Signature
from edgekd.wordpiece import WordPiece

KIND = "wordpiece"
NAMES = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
SWITCHES = ("lowercase", "strip_accents", "cjk")
KEYS = ("kind", "files", *SWITCHES, "max_length", *NAMES)
FOLDER, VOCABULARY, WHOLE = "tokenizer", "vocab.txt", "tokenizer.json"
DYNAMIC = 512  # numbers at most, where neither the input nor max_length says: the positions that BERT has


def settings_of(preprocessing: Mapping[str, Any]) -> Settings | None:
    """The table, checked as far as it can be without its files; None if there is none. Raises UserError naming the key."""
    table = preprocessing.get("tokenizer")
    if table is None:
        return None
    if not isinstance(table, Mapping):
        raise UserError(f"preprocessing.tokenizer: {table!r} is not a table", hint=f"keys: {', '.join(KEYS)}")
    found = Settings(table, "preprocessing.tokenizer")
    files, kind = found.found.get("files"), found.found.get("kind")
    plain = isinstance(files, list | tuple) and all(isinstance(name, str) and name for name in files)
    if not plain or not files or not isinstance(kind, str):
        raise found.wrong("files", f'a list of files, as in {{"kind": "{KIND}", "files": ["{VOCABULARY}"]}}')
    if len({Path(name).name for name in files}) < len(files):
        raise found.wrong("files", "a list of files of different names: they travel in one folder")
    if kind == KIND:
        found.only(KEYS)
        for key in SWITCHES:
            found.flag(key)
        if found.whole("max_length", DYNAMIC) < 3:
            raise found.wrong("max_length", "3 or more: [CLS], [SEP] and something between")
        for key, name in NAMES.items():
            if not isinstance(found.found.get(key, name), str):
                raise found.wrong(key, "the name of an input")
    return found


def files_of(preprocessing: Mapping[str, Any]) -> list[str]:
    """The files that it names. Raises UserError as `settings_of`."""
    found = settings_of(preprocessing)
    return list(found.found["files"]) if found else []


def resolve(preprocessing: Mapping[str, Any], file: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(preprocessing as a bundle has it, what the folder tokenizer/ holds by name), of settings as a recipe has them.

    `file`: where each of the files is. A tokenizer.json is read here, once: its pieces become vocab.txt, its settings are
    written out where the recipe says nothing else. Raises UserError for one that does what edgekd does not.
    """
    found = settings_of(preprocessing)
    if found is None:
        return dict(preprocessing), {}
    held = {Path(name).name: _bytes(file[name]) for name in found.found["files"]}
    settings = dict(found.found)
    if settings["kind"] == KIND and WHOLE in held:
        own, pieces = _whole(held[WHOLE])
        held.setdefault(VOCABULARY, "".join(f"{piece}\n" for piece in pieces).encode())
        if _pieces(VOCABULARY, held[VOCABULARY]) != pieces:
            raise found.wrong(
                "files", f"of one tokenizer: {VOCABULARY} has other pieces than {WHOLE}; name one of them"
            )
        settings = {**own, **settings}
    if settings["kind"] == KIND:
        Tokenizer.of({"tokenizer": settings | {"files": list(held)}}, held)  # whether it can be read
    return {**preprocessing, "tokenizer": settings | {"files": list(held)}}, held


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None


def _pieces(name: str, content: bytes) -> list[str]:
    """The lines of a vocabulary."""
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8: {error}") from None
    return [line.removesuffix("\r") for line in lines[: -1 if lines[-1] == "" else None]]


def _whole(content: bytes) -> tuple[dict[str, Any], list[str]]:
    """(settings, pieces by number) of a tokenizer.json, as the package `tokenizers` writes it."""

    def must(fits: bool, what: str) -> None:
        if not fits:
            hint = (
                "a BertNormalizer that cleans, a BertPreTokenizer, WordPiece with ## and [UNK], [CLS] text [SEP] around"
            )
            raise UserError(f"{WHOLE}: {what}, which edgekd does not apply", hint=f"applied: {hint}")

    try:
        found: dict[str, Any] = json.loads(content)
        model, normal, before = found["model"], found["normalizer"] or {}, found["pre_tokenizer"] or {}
        around = found["post_processor"] or {}
        must(model.get("type", "WordPiece") == "WordPiece", f"its model is a {model.get('type')}")
        inside = (model["continuing_subword_prefix"], model["unk_token"], model["max_input_chars_per_word"])
        must(inside == (wordpiece.INSIDE, wordpiece.UNKNOWN, wordpiece.LONGEST), f"its WordPiece has {inside}")
        must(normal.get("type") == "BertNormalizer" and normal["clean_text"] is True, f"its normalizer is {normal}")
        must(before.get("type") == "BertPreTokenizer", f"its pre_tokenizer is {before}")
        must(_marks(around), "its post_processor is another than BERT's")
        numbers: dict[str, int] = model["vocab"]
        pieces = sorted(numbers, key=numbers.__getitem__)
        must([numbers[piece] for piece in pieces] == list(range(len(pieces))), "numbers of its vocabulary are left out")
        must(
            not any("\n" in piece or piece.endswith("\r") for piece in pieces), "a piece of its vocabulary ends a line"
        )
        extra = [one["content"] for one in found.get("added_tokens") or () if not one.get("special")]
        must(not set(extra) - numbers.keys(), f"it has added tokens: {extra[:3]}")
        lower = bool(normal["lowercase"])
        accents = normal.get("strip_accents")
        own: dict[str, Any] = {
            "lowercase": lower,
            "strip_accents": lower if accents is None else bool(accents),
            "cjk": bool(normal["handle_chinese_chars"]),
        }
        if cut := found.get("truncation"):
            own["max_length"] = int(cut["max_length"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{WHOLE} cannot be read: {type(error).__name__}: {error}") from None
    return own, pieces


def _marks(around: Mapping[str, Any]) -> bool:
    """Whether it puts [CLS] before, [SEP] behind, and the second text's type is 1."""
    if around.get("type") == "BertProcessing":
        return (around["cls"][0], around["sep"][0]) == (wordpiece.FIRST, wordpiece.LAST)
    one = [(wordpiece.FIRST, 0), ("A", 0), (wordpiece.LAST, 0)]
    wanted = {"single": one, "pair": [*one, ("B", 1), (wordpiece.LAST, 1)]}
    return around.get("type") == "TemplateProcessing" and all(
        [(part["id"], part["type_id"]) for step in around[key] for part in step.values()] == parts
        for key, parts in wanted.items()
    )


def fits(preprocessing: Mapping[str, Any], signature: Signature, file: Callable[[str], Path]) -> None:
    """Raises UserError where a text does not become this student's inputs, or a file cannot be read. `file`: by its name."""
    files = {name: file(name) for name in files_of(preprocessing)}
    resolved, held = resolve(preprocessing, files)
    if files and resolved["tokenizer"]["kind"] == KIND:
        Tokenizer.of(resolved, held).check(signature.inputs)


def _text(given: str | bytes) -> str:
    return given.decode("utf-8", "replace") if isinstance(given, bytes) else given


@dataclass(frozen=True)
class Tokenizer:
    """A text to the inputs of a student. `names`: what each of ids, mask and types is called."""

    pieces: WordPiece
    names: Mapping[str, str]
    most: int | None

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], held: Mapping[str, bytes]) -> Tokenizer:
        """Of a bundle's preprocessing and the content of its folder tokenizer/. Raises UserError for what edgekd does not apply."""
        found = settings_of(preprocessing)
        if found is None:
            raise UserError("the student takes no text: its preprocessing names no tokenizer")
        kind, files = found.found["kind"], found.found["files"]
        if kind != KIND:
            hint = f"the bundle carries what yours needs: {', '.join(files)}"
            raise UserError(f'edgekd applies no tokenizer of the kind "{kind}", only "{KIND}"', hint=hint)
        named = [name for name in files if name.endswith(".txt")]
        if len(named) != 1 or named[0] not in held:
            raise found.wrong("files", f"with one vocabulary, a piece a line: {VOCABULARY}")
        numbers = {piece: n for n, piece in enumerate(_pieces(named[0], held[named[0]]))}
        for mark in (wordpiece.UNKNOWN, wordpiece.FIRST, wordpiece.LAST, wordpiece.PADDING):
            if mark not in numbers:
                raise UserError(f"{named[0]} has no {mark}", hint="a vocabulary of BERT's, one piece a line")
        switches = {key: bool(found.found.get(key, True)) for key in SWITCHES}
        names = {key: str(found.found.get(key, name)) for key, name in NAMES.items()}
        return cls(WordPiece(numbers, **switches), names, found.found.get("max_length"))

    def check(self, ports: Sequence[Port]) -> int | None:
        """The length of the inputs; None where it is dynamic. Raises UserError for inputs that no text becomes."""
        wanted = list(self.names.values())
        sizes: set[int | None] = set()
        for port in ports:
            if port.name not in wanted:
                hint = "preprocessing.tokenizer names them: ids, mask, types"
                raise UserError(f'the student\'s "{port.name}" is none of {", ".join(wanted)}', hint=hint)
            if len(port.shape) != 2 or port.concrete(1)[0] != 1 or port.dtype not in ("int64", "int32"):
                shown = f"{port.dtype} {list(port.shape)}"
                raise UserError(f'the student\'s "{port.name}" is {shown}, not int64 or int32 [1, length]')
            sizes.add(port.shape[1] if isinstance(port.shape[1], int) else None)
        if self.names["ids"] not in [port.name for port in ports] or len(sizes) != 1:
            what = "differ in length" if len(sizes) > 1 else f'have no "{self.names["ids"]}"'
            raise UserError(f"the student's inputs {what}")
        (size,) = sizes
        if size is not None and size < 3:
            raise UserError(f"the student's inputs of {size} have no room for a text between [CLS] and [SEP]")
        return size

    def inputs(self, ports: Sequence[Port], text: str | bytes, pair: str | bytes | None = None) -> list[Array]:
        """What the student takes for a text, or for two: [1, length] of each port. What is not UTF-8 in bytes is left out."""
        size = self.check(ports)
        room = size or self.most or DYNAMIC
        ids, types = self.pieces.encode(
            _text(text), None if pair is None else _text(pair), min(room, self.most or room)
        )
        more = (size or len(ids)) - len(ids)
        padding = self.pieces.vocabulary[wordpiece.PADDING]
        made = {
            "ids": [*ids, *[padding] * more],
            "mask": [1] * len(ids) + [0] * more,
            "types": [*types, *[0] * more],
        }
        by_name = {self.names[key]: values for key, values in made.items()}
        return [np.array([by_name[port.name]], port.dtype) for port in ports]
