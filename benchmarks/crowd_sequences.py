"""The other part of the crowd: recurrent, attention encoders of several kinds, mixers, perceptrons, graphs."""

from __future__ import annotations

from itertools import pairwise

import torch
from crowd_nets import (
    Attention,
    Lambda,
    Made,
    conv,
    encoder,
    ids,
    image,
    linear_attention,
    net,
    patches,
    pooled,
    residual,
)
from torch import Tensor, nn


def last_state(width: int, classes: int) -> nn.Module:
    return Lambda(lambda m, x: m.l(x[0][:, -1]), l=nn.Linear(width, classes))


@net("recurrent")
def lstm() -> Made:
    return nn.Sequential(nn.LSTM(40, 128, batch_first=True), last_state(128, 12)), (torch.randn(1, 50, 40),)


@net("recurrent")
def gru_keyword() -> Made:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        made: Tensor = m.last(m.gru(m.c(x).flatten(1, 2).transpose(1, 2)))
        return made

    return Lambda(run, c=conv(1, 16, s=2), gru=nn.GRU(320, 96, batch_first=True), last=last_state(96, 12)), (
        torch.randn(1, 1, 40, 98),
    )


@net("recurrent")
def two_way_tagger() -> Made:
    body = nn.LSTM(64, 64, 2, batch_first=True, bidirectional=True)
    return Lambda(lambda m, x: m.l(m.body(m.e(x))[0]), e=nn.Embedding(2000, 64), body=body, l=nn.Linear(128, 9)), ids(
        32, 2000
    )


@net("recurrent")
def denoiser() -> Made:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        y, _ = m.gru(torch.relu(m.a(x)))
        gains: Tensor = torch.sigmoid(m.b(y))
        return gains

    return Lambda(run, a=nn.Linear(257, 128), gru=nn.GRU(128, 128, batch_first=True), b=nn.Linear(128, 257)), (
        torch.randn(1, 20, 257),
    )


@net("attention")
def bert_tiny() -> Made:
    return nn.Sequential(nn.Embedding(3000, 128), encoder(128, 2, 2), pooled(128, 4)), ids(64, 3000)


@net("attention")
def bert_mini() -> Made:
    return nn.Sequential(nn.Embedding(2000, 192), encoder(192, 4, 4), pooled(192, 8)), ids(64, 2000)


@net("attention")
def vision_transformer() -> Made:
    return nn.Sequential(patches(4, 96), encoder(96, 3, 4, pre=True), nn.LayerNorm(96), pooled(96)), image(32)


@net("attention")
def relu_encoder() -> Made:
    return nn.Sequential(nn.Linear(26, 160), encoder(160, 4, 3, 2, act=nn.ReLU), nn.Linear(160, 30)), (
        torch.randn(1, 96, 26),
    )


@net("attention")
def linear_encoder() -> Made:
    def layer(c: int) -> list[nn.Module]:
        mixing = Lambda(linear_attention, q=nn.Linear(c, c), k=nn.Linear(c, c), v=nn.Linear(c, c), o=nn.Linear(c, c))
        mlp = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.ReLU(), nn.Linear(4 * c, c))
        return [residual(nn.Sequential(nn.LayerNorm(c), mixing)), residual(mlp)]

    return nn.Sequential(nn.Linear(16, 96), *layer(96), *layer(96), pooled(96, 6)), (torch.randn(1, 128, 16),)


@net("attention")
def conformer() -> Made:
    def block(c: int) -> nn.Module:
        mlp = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.SiLU(), nn.Linear(4 * c, c))
        local = nn.Sequential(
            nn.Conv1d(c, 2 * c, 1),
            nn.GLU(1),
            nn.Conv1d(c, c, 15, 1, 7, groups=c),
            nn.BatchNorm1d(c),
            nn.SiLU(),
            nn.Conv1d(c, c, 1),
        )
        across = Lambda(lambda m, x: m.local(x.transpose(1, 2)).transpose(1, 2), local=local)
        return nn.Sequential(
            residual(mlp), residual(nn.Sequential(nn.LayerNorm(c), Attention(c, 4))), residual(across), nn.LayerNorm(c)
        )

    return nn.Sequential(nn.Linear(80, 96), block(96), block(96), nn.Linear(96, 40)), (torch.randn(1, 80, 80),)


@net("attention")
def convolution_and_attention() -> Made:
    stem = nn.Sequential(conv(3, 32, s=2), conv(32, 64, s=2), conv(64, 96, s=2))
    tokens = Lambda(lambda m, x: m.c(x).flatten(2).transpose(1, 2), c=stem)
    return nn.Sequential(tokens, encoder(96, 4, 2, 2, pre=True), pooled(96, 20)), image(64)


@net("attention, two inputs")
def perceiver() -> Made:
    def run(m: nn.Module, x: Tensor, queries: Tensor) -> Tensor:
        q = m.q(queries)
        q = q + m.cross(q, m.k(x))
        made: Tensor = m.last(m.body(q))
        return made

    parts = {"q": nn.Linear(32, 128), "k": nn.Linear(24, 128), "cross": Attention(128, 4)}
    return Lambda(run, **parts, body=encoder(128, 4, 2, 2), last=pooled(128)), (
        torch.randn(1, 256, 24),
        torch.randn(1, 16, 32),
    )


@net("mixer")
def mlp_mixer() -> Made:
    def layer(tokens: int, c: int) -> list[nn.Module]:
        across = nn.Sequential(nn.Linear(tokens, 128), nn.GELU(), nn.Linear(128, tokens))
        mixing = Lambda(lambda m, x: m.a(m.n(x).transpose(1, 2)).transpose(1, 2), a=across, n=nn.LayerNorm(c))
        mlp = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
        return [residual(mixing), residual(mlp)]

    body = [part for _ in range(4) for part in layer(64, 96)]
    return nn.Sequential(patches(4, 96), *body, nn.LayerNorm(96), pooled(96)), image(32)


@net("mixer")
def gated_mlp() -> Made:
    def gate(m: nn.Module, x: Tensor) -> Tensor:
        a, b = m.up(m.n(x)).chunk(2, -1)
        made: Tensor = x + m.down(a * m.across(m.inner(b).transpose(1, 2)).transpose(1, 2))
        return made

    def layer(tokens: int, c: int) -> nn.Module:
        parts = {
            "n": nn.LayerNorm(c),
            "up": nn.Sequential(nn.Linear(c, 4 * c), nn.GELU()),
            "inner": nn.LayerNorm(2 * c),
        }
        return Lambda(gate, **parts, across=nn.Linear(tokens, tokens), down=nn.Linear(2 * c, c))

    return nn.Sequential(nn.Linear(40, 96), *(layer(64, 96) for _ in range(3)), pooled(96, 12)), (
        torch.randn(1, 64, 40),
    )


@net("mixer")
def conv_mixer() -> Made:
    layers = [
        part for _ in range(4) for part in (residual(conv(96, 96, 7, 1, 96, nn.GELU)), conv(96, 96, 1, act=nn.GELU))
    ]
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))
    return nn.Sequential(conv(3, 96, 7, 4, act=nn.GELU), *layers, pool), image(64)


@net("perceptron")
def tabular() -> Made:
    return nn.Sequential(
        nn.Linear(128, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    ), (torch.randn(1, 128),)


@net("perceptron")
def anomaly() -> Made:
    sizes = [640, 128, 128, 128, 8, 128, 128, 128, 640]
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), (torch.randn(1, 640),)


@net("perceptron")
def field() -> Made:
    return nn.Sequential(
        nn.Linear(63, 128),
        nn.ReLU(),
        *[nn.Sequential(nn.Linear(128, 128), nn.ReLU()) for _ in range(4)],
        nn.Linear(128, 4),
    ), (torch.randn(256, 63),)


@net("graph, two inputs")
def graph() -> Made:
    def run(m: nn.Module, x: Tensor, adjacency: Tensor) -> Tensor:
        for layer in (m.a, m.b, m.c):
            x = torch.relu(adjacency @ layer(x))
        made: Tensor = m.last(x)
        return made

    layers = {"a": nn.Linear(32, 128), "b": nn.Linear(128, 128), "c": nn.Linear(128, 128)}
    return Lambda(run, **layers, last=pooled(128, 5)), (torch.randn(1, 100, 32), torch.rand(1, 100, 100) / 50)


@net("recommendation, two inputs")
def wide_and_deep() -> Made:
    def run(m: nn.Module, numbers: Tensor, kinds: Tensor) -> Tensor:
        made: Tensor = m.deep(torch.cat([numbers, m.table(kinds).flatten(1)], 1)) + m.wide(numbers)
        return made

    deep = nn.Sequential(nn.Linear(13 + 26 * 16, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 2))
    return Lambda(run, table=nn.Embedding(5000, 16), deep=deep, wide=nn.Linear(13, 2)), (
        torch.randn(1, 13),
        *ids(26, 5000),
    )
