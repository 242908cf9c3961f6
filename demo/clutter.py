"""(random, size) -> backdrops [3,H,W] that hands may lie on, and the wear of a picture; all in 0..1.

Plain colours, gradients, noise, blurred blobs, the world's shapes, sausages in the colours of skin. All of it
comes from one `random.Random`, so that a seed fixes it.
"""
from __future__ import annotations

import math
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from .world import COLOURS, SHAPES, SKIN, Shape, draw_shape, pixel_grid


def noise(random: Random, *shape: int) -> Tensor:
    """Normal numbers from Python's generator's next seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(random.getrandbits(48)))


def smooth_noise(random: Random, height: int, width: int, cells: int, channels: int = 1) -> Tensor:
    """Normal noise [C,H,W] of about `cells` waves along the picture."""
    coarse = noise(random, 1, channels, cells + 1, cells + 1)
    return functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]


def colour_of(random: Random) -> Tensor:
    """[3,1,1]: a colour of the world, of skin, or any."""
    named = random.choice((*COLOURS.values(), *SKIN))
    return torch.tensor(named if random.random() < 0.5 else [random.random() for _ in "rgb"])[:, None, None]


def blur(picture: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [C,H,W] by `sigma` pixels."""
    reach = max(1, math.ceil(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).tolist()
    padded = functional.pad(picture[None], (reach,) * 4, mode="replicate")[0]
    height, width = picture.shape[1:]
    rows = sum(tap * padded[:, k:k + height] for k, tap in enumerate(taps))
    return sum(tap * rows[:, :, k:k + width] for k, tap in enumerate(taps))


def plain(random: Random, height: int, width: int) -> Tensor:
    return colour_of(random).expand(3, height, width)


def gradient(random: Random, height: int, width: int) -> Tensor:
    angle = random.uniform(0, 2 * math.pi)
    way = pixel_grid(height, width) @ torch.tensor([math.cos(angle), math.sin(angle)])
    share = (way - way.min()) / (way.max() - way.min()).clamp_min(1e-3)
    return torch.lerp(colour_of(random), colour_of(random), share)


def texture(random: Random, height: int, width: int) -> Tensor:
    waves = smooth_noise(random, height, width, random.choice((4, 12, 30)), random.choice((1, 3)))
    return (gradient(random, height, width) + random.uniform(0.03, 0.2) * waves).clamp(0, 1)


def blobs(random: Random, height: int, width: int) -> Tensor:
    """Out of focus: a few colours that run into each other."""
    picture = gradient(random, height, width)
    for _ in range(random.randint(2, 6)):
        field = smooth_noise(random, height, width, random.choice((2, 3, 5)))
        picture = torch.lerp(picture, colour_of(random), (2 * field - 1).sigmoid())
    return picture


def stamp(random: Random, picture: Tensor) -> Tensor:
    """One of the world's shapes, or a sausage in a colour of skin, shaded like a finger, somewhere."""
    _, height, width = picture.shape
    grid, side = pixel_grid(height, width), min(height, width)
    x, y, radius = random.random() * width, random.random() * height, random.uniform(0.06, 0.3) * side
    if random.random() < 0.6:
        shape = Shape(random.choice(list(SHAPES)), random.choice(list(COLOURS)), "", x, y, radius,
                      random.uniform(0, 360))
        coverage, _, _, colour = draw_shape(shape, grid)
        return torch.lerp(picture, colour_of(random) if random.random() < 0.3 else colour, coverage)
    angle, long = random.uniform(0, math.pi), random.uniform(0.0, 4.0) * radius
    along = torch.tensor([math.cos(angle), math.sin(angle)])
    offset = grid - torch.tensor([x, y])
    u = (offset @ along).clamp(-long, long)
    distance = (offset - u[..., None] * along).norm(dim=-1)
    thick = radius * random.uniform(0.2, 0.8)
    light = 0.75 + 0.25 * (1 - (distance / thick).clamp(0, 1) ** 2).sqrt()
    return torch.lerp(picture, torch.tensor(random.choice(SKIN))[:, None, None] * light,
                      (thick - distance + 0.5).clamp(0, 1))


BACKDROPS = (plain, gradient, texture, blobs)


def backdrop(random: Random, height: int, width: int, stamps: int = 5) -> Tensor:
    """[3,H,W] with up to `stamps` shapes and sausages on it; none in half of the pictures."""
    picture = random.choice(BACKDROPS)(random, height, width)
    for _ in range(random.randint(0, stamps) if random.random() < 0.5 else 0):
        picture = stamp(random, picture)
    return picture


def cosines() -> Tensor:
    """The orthonormal cosine transform of 8 samples [8,8]."""
    k = torch.arange(8.0)
    basis = torch.cos(math.pi * k[:, None] * (2 * k + 1) / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis


def squeeze(picture: Tensor, step: float) -> Tensor:
    """What JPEG leaves of [3,H,W]: in blocks of 8 pixels, cosine coefficients rounded to `step` or more."""
    _, height, width = picture.shape
    padded = functional.pad(picture[None], (0, -width % 8, 0, -height % 8), mode="replicate")[0]
    blocks = padded.unfold(1, 8, 8).unfold(2, 8, 8)  # [3,h,w,8,8]
    basis = cosines()
    steps = step * (1 + torch.arange(8.0)[:, None] + torch.arange(8.0))
    kept = basis.T @ ((basis @ blocks @ basis.T / steps).round() * steps) @ basis
    return kept.permute(0, 1, 3, 2, 4).reshape(padded.shape)[:, :height, :width]


def wear(random: Random, picture: Tensor) -> Tensor:
    """Contrast, brightness, blur, grain and JPEG's blocks, each in a part of the pictures."""
    if random.random() < 0.5:
        contrast = random.uniform(0.55, 1.3)
        picture = (picture - 0.5) * contrast + 0.5 + random.uniform(-0.15, 0.15)
    if random.random() < 0.4:
        picture = blur(picture, random.uniform(0.4, 1.4))
    if random.random() < 0.3:
        picture = picture + random.uniform(0.01, 0.05) * noise(random, *picture.shape)
    if random.random() < 0.3:
        picture = squeeze(picture, random.uniform(0.01, 0.05))
    return picture.clamp(0, 1)
