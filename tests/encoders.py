"""Small encoders, one for each way in which attention is written, with the data that they learn: which word opens a text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from coupled import settled
from torch import nn
from torch.nn.functional import gelu, relu, scaled_dot_product_attention

from edgekd.data import Dataset
from edgekd.pruning.edits import closed, replay
from edgekd.student import Student, save

WORDS, LENGTH, WIDTH, HEADS, HIDDEN, CLASSES = 12, 6, 8, 4, 12, 3
torch.set_num_threads(1)


def tokens(batch: int = 3, seed: int = 0) -> torch.Tensor:
    """[batch, LENGTH], 0 is padding, which only ends a text."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(1, WORDS, (batch, LENGTH), generator=generator)
    found[::2, -2:] = 0
    return found


class Torch(nn.Module):
    """torch's own encoder: `nn.MultiheadAttention`, a padding mask, positions as a parameter."""

    def __init__(self, before: bool = False, layers: int = 2) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(1, LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.0, gelu, batch_first=True, norm_first=before)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.encoder(self.words(x) + self.places, src_key_padding_mask=x == 0)
        return self.head(self.norm(found[:, 0]))


class SelfAttention(nn.Module):
    """Query, key and value by themselves, as in BERT; gives a tuple; remembers its sizes."""

    def __init__(self, width: int, heads: int, all_width: int) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = heads, all_width // heads, all_width
        self.query, self.key, self.value = (nn.Linear(width, all_width) for _ in range(3))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], self.num_attention_heads, self.attention_head_size).transpose(1, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        shares = (q @ k.transpose(-1, -2) / self.attention_head_size**0.5 + mask).softmax(-1)
        return (shares @ v).transpose(1, 2).reshape(*x.shape[:2], self.all_head_size), shares


class Output(nn.Module):
    """A branch's last layer, the sum, and the norm behind it."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(inside, width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
        return self.norm(self.dense(x) + past)


class BertLayer(nn.Module):
    def __init__(self, width: int, heads: int, all_width: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(width, heads, all_width), "output": Output(all_width, width)}
        )
        self.intermediate, self.output = nn.Linear(width, hidden), Output(hidden, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found, shares = self.attention["self"](x, mask)
        x = self.attention["output"](found, x)
        return self.output(gelu(self.intermediate(x)), x), shares


class Bert(nn.Module):
    """BERT's form: two embeddings, norms behind the sums, an additive mask, a pooler, layers that give tuples."""

    def __init__(
        self, width: int = WIDTH, heads: int = HEADS, all_width: int = WIDTH, hidden: int = HIDDEN, layers: int = 2
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width), nn.Embedding(LENGTH, width)
        self.norm = nn.LayerNorm(width)
        self.layer = nn.ModuleList(BertLayer(width, heads, all_width, hidden) for _ in range(layers))
        self.pooler, self.head = nn.Linear(width, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.register_buffer("order", torch.arange(LENGTH), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = (x == 0)[:, None, None, :].float() * -1e4
        x = self.norm(self.words(x) + self.places(self.order))
        for layer in self.layer:
            x = layer(x, mask)[0]
        return self.head(torch.tanh(self.pooler(x[:, 0])))


class Fused(nn.Module):
    """A vision transformer's form: one layer for query, key and value, norms before, a gated feed-forward layer, a table of places."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.register_buffer("places", torch.randn(LENGTH, WIDTH))
        self.norm1, self.norm2, self.last = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.attention = FusedAttention()
        self.gate, self.up, self.down = nn.Linear(WIDTH, 10), nn.Linear(WIDTH, 10), nn.Linear(10, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x) + self.places
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        x = x + self.down(gelu(self.gate(y)) * self.up(y))
        return self.head(self.last(x).mean(1))


class FusedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = HEADS, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Grouped(nn.Module):
    """Grouped-query attention: two heads of keys and values for four of queries; no residual sum anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.n_heads = nn.Embedding(WORDS, WIDTH), HEADS
        self.query, self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)
        self.out, self.inner, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5), nn.Linear(5, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x)
        q, k, v = (layer(x).unflatten(-1, (-1, 2)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        found = scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
        return self.head(relu(self.inner(self.out(found.transpose(1, 2).flatten(2)).mean(1))))


def opened(network: nn.Module) -> nn.Module:
    """Settled, its attention in the form that can be narrowed."""
    network = settled(network)
    replay(network, {"edit": "prune", "kept": {}, "opened": closed(network)})
    return network


@cache
def texts() -> Dataset:
    """A text's class is that of its first word, modulo three."""

    def split(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = tokens(count, seed)
        return found, found[:, 0] % CLASSES

    return Dataset(split(96, 1), split(48, 2), split(48, 3), labels=("a", "b", "c"))


@cache
def _learned(make: Callable[[], nn.Module], seed: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
    inputs, targets = texts().train
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    return network.state_dict()


def taught(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network that knows the classes, in eval mode."""
    network = make()
    network.load_state_dict(_learned(make, seed))
    return network.eval()


def saved(folder: Path, make: Callable[[], nn.Module]) -> Student:
    """A Student's folder, which knows the classes; no edits yet."""
    folder.mkdir(parents=True, exist_ok=True)
    signature = {
        "inputs": [{"name": "ids", "shape": [None, LENGTH], "dtype": "int64"}],
        "outputs": [{"name": "logits", "shape": [None, CLASSES], "dtype": "float32"}],
        "preprocessing": {},
        "labels": ["a", "b", "c"],
    }
    save(folder, taught(make).state_dict(), [], signature, {"factory": "encoders:make"})
    return Student(folder, lambda **_: make())
