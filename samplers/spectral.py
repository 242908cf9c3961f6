"""(delta = cond - uncond [B,C,*S], Recipe, sigma) -> what to add to it: gains per frequency, time and place.

Classifier-free guidance (Ho & Salimans 2022) pushes all frequencies alike. Weighting them apart is FDG's idea
(Sadat et al. 2025) and FreSca's (Huang et al. 2025); bands by DCT, deciding moments, maps and kept energy are
ours. Frequencies are fractions of Nyquist, so that a knob means the same at every size of picture.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from ..plugin import Range, Registry
from .dct import dct, inverse_dct, radius
from .power import power_at
from .table import HORIZON, read_span, sigma_at, to_edm

BANDS = Registry("radius")  # fraction of Nyquist, any shape -> gain in the same shape; 1 changes nothing

Gain = Annotated[float, Range(0, 5, 0.05, "1 leaves this band as it is.")]
Time = Literal["constant", "ramp", "window", "deciding"]
LOWEST = 1 / 32  # below it a picture has but a few coefficients
QUIETEST = 0.03  # e at which a run counts as over: Stable Diffusion's last sigma


def octaves(radius: Tensor, origin: float) -> Tensor:
    return torch.log2(radius.clamp_min(LOWEST) / origin)


def rise(radius: Tensor, cutoff: float) -> Tensor:
    """0 below the cutoff, 1 above it, smooth over one octave around it."""
    z = (octaves(radius, cutoff) + 0.5).clamp(0, 1)
    return z * z * (3 - 2 * z)


@BANDS.add("two_band", "Two bands")
def two_band(radius: Tensor, low: Gain = 1.0, high: Gain = 1.0,
             cutoff: Annotated[float, Range(0.02, 1, 0.01, "Fraction of Nyquist.")] = 0.25) -> Tensor:
    """One gain below the cutoff, one above it: layout and colour against edges and limbs."""
    return low + (high - low) * rise(radius, cutoff)


@BANDS.add("three_band", "Three bands")
def three_band(radius: Tensor, low: Gain = 1.0, mid: Gain = 1.0, high: Gain = 1.0,
               low_cutoff: Annotated[float, Range(0.02, 1, 0.01, "Fraction of Nyquist.")] = 0.12,
               high_cutoff: Annotated[float, Range(0.02, 1, 0.01, "Fraction of Nyquist.")] = 0.45) -> Tensor:
    """Three gains; the band in the middle holds limbs and fingers of figures that fill the picture."""
    if low_cutoff > high_cutoff:
        raise ValueError(f"Three bands: low_cutoff is {low_cutoff:g}, above high_cutoff {high_cutoff:g}; "
                         "swap them")
    return low + (mid - low) * rise(radius, low_cutoff) + (high - mid) * rise(radius, high_cutoff)


@BANDS.add("equalizer", "Equalizer")
def equalizer(radius: Tensor, at_1_16: Gain = 1.0, at_1_8: Gain = 1.0, at_1_4: Gain = 1.0,
              at_1_2: Gain = 1.0, at_1: Gain = 1.0) -> Tensor:
    """Five gains an octave apart, from 1/16 of Nyquist to Nyquist; between them the curve is smooth."""
    gains = (at_1_16, at_1_8, at_1_4, at_1_2, at_1)
    place = octaves(radius, 1 / 16)  # 0 at the first, 4 at the last
    curve = torch.full_like(radius, gains[0])
    for number, (one, following) in enumerate(pairwise(gains)):
        z = (place - number).clamp(0, 1)
        curve = curve + (following - one) * z * z * (3 - 2 * z)
    return curve


@BANDS.add("tilt", "Tilt")
def tilt(radius: Tensor,
         slope: Annotated[float, Range(-2, 2, 0.05, "Doublings an octave; below 0 favours layout.")] = 0.0,
         pivot: Annotated[float, Range(0.02, 1, 0.01, "Fraction of Nyquist where the gain is 1.")] = 0.25,
         ) -> Tensor:
    """Gain (radius / pivot)^slope, held within 1/5 and 5."""
    return torch.exp2(slope * octaves(radius, pivot)).clamp(0.2, 5)


@BANDS.add("notch", "Notch")
def notch(radius: Tensor, gain: Gain = 1.0,
          centre: Annotated[float, Range(0.02, 1, 0.01, "Fraction of Nyquist.")] = 0.25,
          width: Annotated[float, Range(0.1, 4, 0.1, "Octaves, of a bell's standard deviation.")] = 0.5,
          ) -> Tensor:
    """One bell-shaped band gets the gain, the rest is left as it is."""
    return 1 + (gain - 1) * torch.exp(-0.5 * (octaves(radius, centre) / width) ** 2)


class Window(NamedTuple):
    """Where weights act in a model's run: start >= e >= end, with e = sigma/alpha.

    high, low: where log-SNR begins and ends to mean something in the model's table, for ramp and window.
    """

    flow: bool = False
    start: float = math.inf
    end: float = 0.0
    high: float = HORIZON
    low: float = QUIETEST

    @classmethod
    def of(cls, table: Tensor, start_percent: float = 0.0, end_percent: float = 1.0) -> Window:
        """Percents 0..1 of the model's time, as in ComfyUI; table: its sigmas, ascending [T]."""
        if not 0 <= start_percent < end_percent <= 1:
            raise ValueError(f"Spectral guidance: start_percent is {start_percent:g} and end_percent "
                             f"{end_percent:g}; start must lie below end, both from 0 to 1")
        span = read_span(table)
        sigmas = [sigma_at(table, percent) for percent in (start_percent, end_percent)]
        start, end = to_edm(torch.tensor(sigmas, dtype=torch.float64), span.flow).tolist()
        return cls(span.flow, start, end, min(start, span.high), max(end, span.low, QUIETEST))


def gate(time: Time, e: Tensor, window: Window) -> Tensor:
    """How far weights act at e, 0..1 in its shape; what `deciding` adds for each frequency is not in it.

    ramp: from 1 at the start to 0 at the end, along log-SNR. window: a raised cosine between the two.
    """
    inside = ((e <= window.start) & (e >= window.end)).float()
    if time not in ("ramp", "window"):
        return inside
    width = max(math.log(window.high) - math.log(window.low), 1e-6)
    gone = ((math.log(window.high) - e.clamp_min(1e-6).log()) / width).clamp(0, 1)
    return inside * (1 - gone if time == "ramp" else (math.pi * gone).sin().square())


def deciding(e: Tensor, power: Tensor) -> Tensor:
    """4 W (1 - W) with W = P / (P + e^2): 1 where a frequency of power P is being decided, 0 far from it.

    W is Wiener's weight, the share of a coefficient's estimate that comes from what is seen (e [B,1,..]).
    """
    ratio = e.square() / power
    return 4 / (2 + ratio + 1 / ratio.clamp_min(1e-12))  # 4 W (1 - W) = 4 r / (1 + r)^2


Field = Callable[[tuple[int, ...], torch.device], Tensor | None]


def tabulate(gain: Callable[[Tensor], Tensor], keep_energy: bool) -> Field:
    """(space, device) -> gain - 1 at every coefficient [*space]; None where it would change nothing.

    Computed once for each size and device. Equal gains everywhere are a plain factor, which kept energy
    takes back.
    """
    @lru_cache(maxsize=16)
    def excess(space: tuple[int, ...], device: torch.device) -> Tensor | None:
        values = gain(radius(space, torch.device("cpu"))).float()
        if not bool(torch.isfinite(values).all()) or float(values.min()) < 0:
            raise ValueError(f"Spectral guidance: gains go from {float(values.min()):g} to "
                             f"{float(values.max()):g}; give finite gains of at least 0")
        equal = float(values.min()) == float(values.max())
        if equal and (keep_energy or float(values.flatten()[0]) == 1):
            return None
        return (values - 1).to(device)
    return excess


@lru_cache(maxsize=16)
def power_field(powers: tuple[float, ...], space: tuple[int, ...], device: torch.device) -> Tensor:
    return power_at(radius(space, torch.device("cpu")), powers).to(device)


Map = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # see structure.MAPS


@dataclass(frozen=True)
class Recipe:
    """excess: of `tabulate`. structure: (delta, guided, uncond, seed) -> what to add to weight 1 [B,1,*S].

    strength scales all that differs from plain guidance; powers: P at power.RADII, for `deciding`.
    """

    excess: Field
    time: Time = "constant"
    structure: Map | None = None
    strength: float = 1.0
    keep_energy: bool = True
    powers: tuple[float, ...] | None = None


def energy(a: Tensor, b: Tensor, regions: Tensor | None) -> Tensor:
    """<a, b> of each sample and region [R,B,1,..]; regions [R,1|B,1,*S]."""
    product = (a * b).unsqueeze(0) if regions is None else (a * b) * regions
    return product.sum(tuple(range(2, product.ndim)), keepdim=True)


def keep(plain: Tensor, changed: Tensor, regions: Tensor | None) -> Tensor:
    """`changed` scaled so that <plain, changed> = <plain, plain>, in every region; all are [B,C,*S].

    Guidance w then moves the picture as far along the plain direction as it would have done unweighted.
    Where nothing of that direction is left, it stays plain.
    """
    before, after = energy(plain, plain, regions), energy(plain, changed, regions)
    usable = after > 1e-4 * before
    ratio = torch.where(usable, before / torch.where(usable, after, 1), 1)
    shift = torch.where(usable, (ratio - 1) * changed, plain - changed)
    return changed + (shift[0] if regions is None else (shift * regions).sum(0))


def partition(masks: Sequence[Tensor], space: tuple[int, ...]) -> Tensor:
    """Masks [1|B,*S] of any strength, and what none covers, as shares that add up to 1: [R + 1,1|B,1,*S]."""
    batch = max(len(mask) for mask in masks)
    stack = torch.stack([mask.float().clamp_min(0).expand(batch, *space) for mask in masks])
    rest = (1 - stack.sum(0)).clamp_min(0)
    stack = torch.cat([stack, rest[None]])
    return (stack / stack.sum(0).clamp_min(1e-6)).unsqueeze(2)


def reweight(delta: Tensor, recipe: Recipe, window: Window, sigma: Tensor, guided: Tensor, uncond: Tensor,
             seed: int = 0, regions: Tensor | None = None) -> Tensor:
    """What to add to delta = cond - uncond [B,C,*S], float32: exactly 0 where the recipe changes nothing.

    First the bands, then the map, then energy. S is rows and columns, for video time, rows and columns. sigma
    [B] is the host's. Maps read structure from `guided`, the plain guided estimate of x0, and draw at random
    by `seed`. regions [R,1|B,1,*S] add up to 1 (see `partition`).
    """
    if delta.ndim not in (4, 5):
        raise ValueError(f"Spectral guidance: got a latent of shape {list(delta.shape)}; it needs rows and "
                         "columns, [B,C,H,W] or [B,C,T,H,W]")
    changed = plain = delta.float()
    space = tuple(delta.shape[2:])
    excess = recipe.excess(space, delta.device)
    if recipe.strength == 0 or (excess is None and recipe.structure is None):
        return torch.zeros_like(plain)
    e = to_edm(sigma.to(delta.device, torch.float32), window.flow).reshape(-1, *[1] * (delta.ndim - 1))
    act = recipe.strength * gate(recipe.time, e, window)
    if excess is not None:
        lift = excess * act
        if recipe.time == "deciding":
            lift = lift * deciding(e, power_field(recipe.powers, space, delta.device))
        changed = plain + inverse_dct(dct(plain) * lift.clamp_min(-1))  # no gain falls below 0
    if recipe.structure is not None:
        changed = changed + act * recipe.structure(plain, guided.float(), uncond.float(), seed) * changed
    return (keep(plain, changed, regions) if recipe.keep_energy else changed) - plain
