"""The convolutional part of the crowd: plain, depth-wise, residual, U-shaped, one-dimensional, of two inputs, of several outputs."""

from __future__ import annotations

import torch
from crowd_nets import Lambda, Made, basic, conv, head, image, inverted, net, residual
from torch import Tensor, nn


@net("plain convolutional")
def plain_digits() -> Made:
    return nn.Sequential(conv(1, 16), nn.MaxPool2d(2), conv(16, 32), nn.MaxPool2d(2), conv(32, 32), head(32)), image(
        28, 1
    )


@net("plain convolutional")
def plain_64() -> Made:
    body = [conv(3, 32, s=2), conv(32, 48), nn.MaxPool2d(2), conv(48, 96), conv(96, 96), nn.MaxPool2d(2), conv(96, 128)]
    return nn.Sequential(*body, head(128)), image(64)


@net("plain convolutional")
def vgg_32() -> Made:
    body = [
        conv(3, 64),
        conv(64, 64),
        nn.MaxPool2d(2),
        conv(64, 128),
        conv(128, 128),
        nn.MaxPool2d(2),
        conv(128, 256),
        conv(256, 256),
    ]
    return nn.Sequential(*body, nn.MaxPool2d(2), head(256)), image(32)


@net("plain convolutional")
def all_conv_silu() -> Made:
    body = [
        conv(3, 24, s=2, act=nn.SiLU),
        conv(24, 48, s=2, act=nn.SiLU),
        conv(48, 96, s=2, act=nn.SiLU),
        conv(96, 96, act=nn.SiLU),
    ]
    return nn.Sequential(*body, head(96, 20)), image(96)


@net("depth-wise")
def mobilenet_v1() -> Made:
    steps = [(16, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)]
    body = [nn.Sequential(conv(a, a, 3, s, a), conv(a, b, 1)) for a, b, s in steps]
    return nn.Sequential(conv(3, 16, s=2), *body, head(256)), image(96)


@net("depth-wise")
def mobilenet_v2() -> Made:
    steps = [(16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 96, 1), (96, 96, 1)]
    return nn.Sequential(
        conv(3, 16, s=2, act=nn.ReLU6), *(inverted(a, b, s) for a, b, s in steps), conv(96, 320, 1), head(320, 100)
    ), image(96)


@net("depth-wise")
def mobilenet_v3() -> Made:
    steps = [(16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 80, 2), (80, 80, 1)]
    body = [inverted(a, b, s, act=nn.Hardswish, se=True) for a, b, s in steps]
    return nn.Sequential(conv(3, 16, s=2, act=nn.Hardswish), *body, head(80, 50)), image(96)


@net("depth-wise")
def keyword_ds_cnn() -> Made:
    body = [nn.Sequential(conv(64, 64, 3, 1, 64), conv(64, 64, 1)) for _ in range(4)]
    return nn.Sequential(conv(1, 64, 5, 2), *body, head(64, 12)), (torch.randn(1, 1, 49, 10),)


@net("depth-wise")
def shuffle() -> Made:
    def unit(m: nn.Module, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        y = torch.cat([a, m.body(b)], 1)
        return y.reshape(1, 2, -1, *y.shape[2:]).transpose(1, 2).reshape(y.shape)

    def one(c: int) -> nn.Module:
        return Lambda(unit, body=nn.Sequential(conv(c, c, 1), conv(c, c, 3, 1, c, act=None), conv(c, c, 1)))

    return nn.Sequential(
        conv(3, 48, s=2), *[one(24) for _ in range(3)], conv(48, 96, s=2), *[one(48) for _ in range(4)], head(96)
    ), image(64)


@net("residual")
def resnet_8() -> Made:
    return nn.Sequential(conv(3, 16), basic(16, 16), basic(16, 32, 2), basic(32, 64, 2), head(64)), image(32)


@net("residual")
def resnet_14() -> Made:
    body = [basic(24, 24), basic(24, 24), basic(24, 48, 2), basic(48, 48), basic(48, 96, 2), basic(96, 96)]
    return nn.Sequential(conv(3, 24), *body, head(96)), image(48)


@net("residual")
def resnet_18_thin() -> Made:
    steps = [
        (32, 32, 1),
        (32, 32, 1),
        (32, 64, 2),
        (64, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
    ]
    return nn.Sequential(
        conv(3, 32, 7, 2), nn.MaxPool2d(3, 2, 1), *(basic(*one) for one in steps), head(256, 100)
    ), image(96)


@net("residual")
def squeezed() -> Made:
    def fire(a: int, s: int, e: int) -> nn.Module:
        return Lambda(
            lambda m, x: torch.cat([m.one(y := m.s(x)), m.three(y)], 1),
            s=conv(a, s, 1),
            one=conv(s, e, 1),
            three=conv(s, e),
        )

    body = [fire(48, 16, 48), fire(96, 16, 48), nn.MaxPool2d(2), fire(96, 24, 96), fire(192, 24, 96)]
    return nn.Sequential(conv(3, 48, s=2), nn.MaxPool2d(2), *body, head(192, 20)), image(96)


@net("residual")
def dense() -> Made:
    def grow(a: int) -> nn.Module:
        return Lambda(
            lambda m, x: torch.cat([x, m.c(x)], 1),
            c=nn.Sequential(nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, 16, 3, 1, 1)),
        )

    body = (
        [grow(24 + 16 * i) for i in range(4)]
        + [conv(88, 48, 1), nn.AvgPool2d(2)]
        + [grow(48 + 16 * i) for i in range(4)]
    )
    return nn.Sequential(conv(3, 24, s=2), *body, nn.BatchNorm2d(112), nn.ReLU(), head(112)), image(64)


@net("residual")
def convnext() -> Made:
    def block(c: int) -> nn.Module:
        mlp = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
        inner = Lambda(
            lambda m, x: m.mlp(m.dw(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
            dw=nn.Conv2d(c, c, 7, 1, 3, groups=c),
            mlp=mlp,
        )
        return residual(inner)

    return nn.Sequential(
        nn.Conv2d(3, 40, 4, 4), block(40), block(40), nn.Conv2d(40, 80, 2, 2), block(80), block(80), head(80)
    ), image(64)


@net("U-shaped")
def unet() -> Made:
    up = nn.Upsample(scale_factor=2, mode="nearest")

    def run(m: nn.Module, x: Tensor) -> Tensor:
        a = m.a(x)
        b = m.b(m.pool(a))
        c = m.c(m.pool(b))
        d = m.d(torch.cat([m.up(c), b], 1))
        made: Tensor = m.out(m.e(torch.cat([m.up(d), a], 1)))
        return made

    parts = {"a": conv(3, 24), "b": conv(24, 48), "c": conv(48, 96), "d": conv(144, 48), "e": conv(72, 24)}
    return Lambda(run, **parts, pool=nn.MaxPool2d(2), up=up, out=nn.Conv2d(24, 2, 1)), image(64)


@net("U-shaped")
def autoencoder() -> Made:
    down = [conv(1, 16, s=2), conv(16, 32, s=2), conv(32, 64, s=2)]
    up: list[nn.Module] = []
    for a, b in ((64, 32), (32, 16)):
        up += [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*down, *up, nn.ConvTranspose2d(16, 1, 4, 2, 1)), image(64, 1)


@net("U-shaped")
def heatmaps() -> Made:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        made: Tensor = m.out(m.fuse(x + m.up(m.low(x))))
        return made

    low = nn.Sequential(conv(48, 64, s=2), basic(64, 64), conv(64, 48))
    up = nn.Upsample(scale_factor=2, mode="bilinear")
    return Lambda(
        run,
        stem=nn.Sequential(conv(3, 24, s=2), conv(24, 48)),
        low=low,
        up=up,
        fuse=basic(48, 48),
        out=nn.Conv2d(48, 17, 1),
    ), image(64)


@net("one-dimensional")
def raw_audio() -> Made:
    body = [
        conv(1, 48, 81, 4, d=1),
        nn.MaxPool1d(4),
        conv(48, 48, d=1),
        nn.MaxPool1d(4),
        conv(48, 96, d=1),
        nn.MaxPool1d(4),
        conv(96, 192, d=1),
    ]
    return nn.Sequential(*body, head(192, 12, d=1)), (torch.randn(1, 1, 8000),)


@net("one-dimensional")
def heartbeat() -> Made:
    body = [basic(32, 32, d=1), basic(32, 64, 2, d=1), basic(64, 64, d=1), basic(64, 128, 2, d=1)]
    return nn.Sequential(conv(2, 32, 15, 2, d=1), *body, head(128, 5, d=1)), (torch.randn(1, 2, 1024),)


@net("one-dimensional")
def dilated() -> Made:
    def layer(step: int) -> nn.Module:
        return residual(nn.Sequential(nn.Conv1d(64, 64, 3, 1, step, step), nn.ReLU(), nn.Conv1d(64, 64, 1)))

    return nn.Sequential(nn.Conv1d(16, 64, 1), *(layer(2**i) for i in range(6)), nn.Conv1d(64, 4, 1)), (
        torch.randn(1, 16, 256),
    )


@net("two inputs")
def siamese() -> Made:
    tower = nn.Sequential(conv(1, 24, s=2), conv(24, 48, s=2), conv(48, 96, s=2), head(96, 64))
    return Lambda(lambda m, a, b: m.l((m.t(a) - m.t(b)).abs()), t=tower, l=nn.Linear(64, 4)), (
        *image(48, 1),
        *image(48, 1),
    )


@net("two inputs")
def image_and_numbers() -> Made:
    body = nn.Sequential(conv(3, 24, s=2), basic(24, 48, 2), head(48, 32))
    mlp = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32))
    last = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    return Lambda(lambda m, a, b: m.last(torch.cat([m.body(a), m.mlp(b)], 1)), body=body, mlp=mlp, last=last), (
        *image(64),
        torch.randn(1, 20),
    )


@net("several outputs")
def detector() -> Made:
    def run(m: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        fine = m.body(x)
        coarse = m.down(fine)
        return m.box(fine), m.kind(fine), m.box(coarse), m.kind(coarse)

    body = nn.Sequential(conv(3, 16, s=2), inverted(16, 32, 2), inverted(32, 48, 2), inverted(48, 64))
    return Lambda(
        run, body=body, down=inverted(64, 64, 2, 2), box=nn.Conv2d(64, 16, 1), kind=nn.Conv2d(64, 8, 1)
    ), image(96)


@net("several outputs")
def many_tasks() -> Made:
    body = nn.Sequential(conv(3, 32, s=2), basic(32, 64, 2), basic(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    heads = {
        name: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, n))
        for name, n in (("a", 2), ("b", 7), ("c", 1))
    }
    return Lambda(lambda m, x: (m.a(y := m.body(x)), m.b(y), m.c(y)), body=body, **heads), image(64)
