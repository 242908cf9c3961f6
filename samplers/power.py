"""Clean latents [N,C,*S] -> their power P at RADII, and P at any frequency: that of the weight P/(P+sigma^2).

P is the mean over channels of squared orthonormal DCT coefficients (`dct`), in the units in which the model
sees latents (after `process_in`) and with alpha 1: the sigma beside it is EDM's (Karras et al. 2022). White
noise of variance v has P = v at every radius and size; a photograph's P falls as the radius grows.

POWER was measured by tests/bench/power.py on 34 colour photographs at 512 px and, of these, the 17 that are
large enough at 1024 px (geometric mean of the two), with the encoders of TAESD, TAESDXL, TAESD3 and TAEF1
(Ollin Boer Bohan) in place of the released VAEs. From photograph to photograph P varies twofold at 1/32 and
by 15 to 30 % at 1 (standard deviation); from 512 to 1024 px it rises by 15 to 45 % at 1/32 and falls by 10 to
25 % from 1/4 on. How much these tiny encoders smooth beyond the VAEs that they learnt from is unknown, so P
at 1/2 and 1 may be too low. Wan21 is one clip of 61 frames that the model made (16 latent frames of 40x64,
TAEHV's example), by the transform over time too: rough, and where a clip stands still P grows with its number
of frames. `calibrate` on latents of your own, as long as the clips to be made, is better.
"""
from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .dct import dct, radius

log = logging.getLogger("tweedie")

RADII = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # fractions of Nyquist, octaves
LABELS = ("1/32", "1/16", "1/8", "1/4", "1/2", "1")
PART = re.compile(r"\s{0,9}([0-9/]{1,4})\s{0,9}:\s{0,9}"
                  r"([0-9]{1,25}(?:\.[0-9]{0,25})?(?:[eE][+-]?[0-9]{1,3})?)\s{0,9}")

POWER: dict[str, tuple[float, ...]] = {  # ComfyUI's latent format -> P at RADII
    "SD15": (45.5, 11.4, 2.95, 0.821, 0.355, 0.23),
    "SDXL": (45.0, 11.1, 2.85, 0.828, 0.369, 0.33),
    "SD3": (55.9, 12.8, 2.91, 0.68, 0.179, 0.0702),
    "Flux": (73.0, 16.5, 3.78, 0.858, 0.25, 0.126),
    "Wan21": (1970.0, 397.0, 37.4, 4.06, 0.329, 0.0315),
}
LIKELY = {4: "SD15", 16: "Flux"}  # channels -> the row for a format that has none
EXAMPLE = ", ".join(f"{label}: {power:g}" for label, power in zip(LABELS, POWER["SDXL"], strict=True))


def calibrate(latents: Tensor) -> tuple[float, ...]:
    """P at RADII of clean latents [N,C,H,W] or [N,C,T,H,W] as the model sees them, to 4 digits.

    Coefficients are averaged in rings, one step of the longest side wide, then log P and log r over the
    rings of every octave. P is read off between these means, log-log, so a power law comes out exactly. k = 0
    is left out; where small latents have no octave, the nearest one's value stands. ValueError for another
    rank, NaN or infinity, fewer than 2x2 positions, and no power somewhere.
    """
    latents = check_latents(latents)
    axes = tuple(range(2, latents.ndim))
    power = dct(latents - latents.mean(axes, keepdim=True)).square().double().mean((0, 1))
    at = radius(latents.shape[2:], latents.device).double()
    inside = at <= radius(latents.shape[-2:], latents.device).max()  # beyond, a still clip has nothing
    power, at = power[inside], at[inside]
    ring = (at * max(latents.shape[2:])).round().long()
    filled = ring.bincount() > 0
    filled[0] = False  # k = 0
    power, at = ((ring.bincount(values) / ring.bincount())[filled] for values in (power, at))
    if power.min() <= 1e-12 * latents.square().mean():
        raise ValueError(f"clean latents have no power at {float(at[power.argmin()]):.3g} of Nyquist; "
                         "give encoded pictures, not a flat or blank latent")
    octave = (at / RADII[0]).log2().round()
    means = [[float(each[octave == k].log().mean()) for each in (at, power)] for k in octave.unique()]
    found = np.exp(np.interp(np.log(RADII), *np.array(means).T))
    return check_powers([float(f"{value:.4g}") for value in found])


def check_latents(latents: Tensor) -> Tensor:
    """Return latents as float64 on the CPU, or raise ValueError where `calibrate` can't read them."""
    if latents.ndim not in (4, 5) or 0 in latents.shape:
        raise ValueError(f"clean latents have shape {list(latents.shape)}; give [N,C,H,W] or [N,C,T,H,W]")
    if min(latents.shape[-2:]) < 2:
        raise ValueError(f"clean latents have {latents.shape[-2]}x{latents.shape[-1]} positions; "
                         "give at least 2x2")
    latents = latents.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(latents).all()):
        raise ValueError("clean latents hold NaN or infinity; check the VAE, some overflow in half precision")
    return latents


def find_powers(formats: Sequence[str], channels: int) -> tuple[float, ...]:
    """P at RADII of the first of a latent's format names that POWER holds, else, with a line in the log, of
    the likely one for its channels; ValueError where there is none."""
    for name in formats:
        if name in POWER:
            return POWER[name]
    if channels not in LIKELY:
        raise ValueError(f"time 'deciding' needs the power of clean latents, and that of {formats[0]} "
                         f"({channels} channels) was not measured; measure it with Tweedie Latent Power in "
                         "ComfyUI, or pick another time")
    log.warning("the power of %s's latents was not measured; time 'deciding' takes that of %s", formats[0],
                LIKELY[channels])
    return POWER[LIKELY[channels]]


def power_at(radius: Tensor, powers: Sequence[float]) -> Tensor:
    """P in float32, shaped like `radius` (fractions of Nyquist): log-log between RADII, constant beyond."""
    table = torch.tensor(check_powers(powers), dtype=torch.float32, device=radius.device).log()
    at = radius.float().clamp(RADII[0], RADII[-1]).log2() - math.log2(RADII[0])
    below = at.floor().clamp(0, len(RADII) - 2)
    left = below.long()
    return torch.lerp(table[left], table[left + 1], at - below).exp()


def check_powers(powers: Sequence[float]) -> tuple[float, ...]:
    """Return P at RADII as floats, or raise ValueError unless they are six numbers that float32 can hold."""
    powers = tuple(float(power) for power in powers)
    if len(powers) != len(RADII):
        raise ValueError(f"power has {len(powers)} values; give one for each of {', '.join(LABELS)}")
    for label, power in zip(LABELS, powers, strict=True):
        if not 1e-30 < power < 1e30:
            raise ValueError(f"power at {label} of Nyquist is {power:g}; give a positive finite number")
    return powers


def to_text(powers: Sequence[float]) -> str:
    """P at RADII as "1/32: 12.3, 1/16: 4.5, ...": `from_text` reads the same numbers back."""
    return ", ".join(f"{label}: {power!r}" for label, power in zip(LABELS, check_powers(powers), strict=True))


def from_text(text: str) -> tuple[float, ...]:
    """P at RADII from what `to_text` writes, octaves in any order; ValueError says what else it is."""
    parts = text.split(",", len(LABELS)) if isinstance(text, str) else []
    found = [PART.fullmatch(part) for part in parts]
    values = {match[1]: float(match[2]) for match in found if match}
    if len(parts) != len(LABELS) or set(values) != set(LABELS):
        raise ValueError(f"power text is {ascii(text)[:60]}; write one positive number an octave, "
                         f'as in "{EXAMPLE}"')
    return check_powers([values[label] for label in LABELS])
