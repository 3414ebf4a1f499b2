"""What the network is shown, and strided convolutions that swing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.synthesis.swing import shifted, swinging
from edgekd.synthesis.views import Views, cropped, flipped, low_pass


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 5)])
def test_the_low_pass_filter_is_numpys(size: tuple[int, int]) -> None:
    """A centred spectrum times exp(−D² / 2·cutoff²), by numpy's full complex transform."""
    images = torch.randn(2, 3, *size, generator=draw())
    spectrum = np.fft.fftshift(np.fft.fft2(images.numpy()), axes=(2, 3))
    y, x = np.ogrid[: size[0], : size[1]]
    distance = (y - size[0] // 2) ** 2 + (x - size[1] // 2) ** 2
    expected = np.fft.ifft2(np.fft.ifftshift(spectrum * np.exp(-distance / (2 * 1.5**2)), axes=(2, 3)))
    assert np.abs(expected.imag).max() < 1e-6
    assert low_pass(images, 1.5).numpy() == pytest.approx(expected.real, abs=1e-5)


def test_a_constant_passes_and_a_checkerboard_does_not() -> None:
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).view(1, 1, 8, 8)
    assert torch.allclose(low_pass(torch.full((1, 1, 8, 8), 3.0), 1.0), torch.tensor(3.0))
    assert float(low_pass(board, 1.0).abs().max()) < 1e-6


def test_flips_are_mirror_images_of_some() -> None:
    images = torch.randn(40, 1, 2, 3, generator=draw())
    found = flipped(images, draw(1))
    mirrored = [torch.equal(f, x.flip(2)) for f, x in zip(found, images, strict=True)]
    same = [torch.equal(f, x) for f, x in zip(found, images, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True)) and 5 < sum(mirrored) < 35


def test_crops_keep_the_size_and_show_a_part() -> None:
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(64, 1, 16, 16)
    whole, parts = cropped(ramp, 1.0, draw()), cropped(ramp, 0.2, draw())
    assert parts.shape == ramp.shape
    assert float((whole[:, :, :, 15] - whole[:, :, :, 0]).min()) > 12
    assert float((parts[:, :, :, 15] - parts[:, :, :, 0]).min()) < 9


def test_a_shift_sees_all_and_keeps_the_middle() -> None:
    views, image = Views(shift=1), torch.arange(16.0).view(1, 1, 4, 4)
    assert views.final(image).flatten().tolist() == [5, 6, 9, 10]
    corners = {float(views.of(image, 0.0, draw(seed))[0, 0, 0, 0]) for seed in range(40)}
    assert corners == {0, 1, 2, 4, 5, 6, 8, 9, 10}


def test_a_moved_image_is_reflected_at_its_edges() -> None:
    image = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]).view(1, 1, 3, 3)
    assert torch.equal(shifted(image, 0, 0, (1, 1)), image)
    assert shifted(image, 1, 0, (1, 1)).view(3, 3).tolist() == [[4, 5, 6], [7, 8, 9], [4, 5, 6]]
    assert shifted(image, 0, -1, (1, 1)).view(3, 3).tolist() == [[2, 1, 2], [5, 4, 5], [8, 7, 8]]


def test_swing_moves_strided_convolutions_only() -> None:
    strided = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), strided)
    x = torch.randn(1, 1, 9, 9, generator=draw())
    features = network[0](x)
    places = {(i, j): strided(shifted(features, i, j, (1, 1))) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert torch.equal(places[0, 0], network(x))
    met = set()
    with swinging(network, draw(3)):
        for _ in range(60):
            output = network(x)
            met |= {place for place, expected in places.items() if torch.equal(output, expected)}
    assert met == set(places)
    assert torch.equal(network(x), places[0, 0]), "outside of the block it stands still"


def test_a_stride_wider_than_the_map_does_not_fail() -> None:
    network = nn.Conv2d(1, 1, 1, stride=4)
    with swinging(network, draw()):
        assert network(torch.ones(1, 1, 2, 1)).shape == (1, 1, 1, 1)
