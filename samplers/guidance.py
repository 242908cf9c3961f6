"""(x, cond, uncond [B,C,...], scale, Companions) -> guided estimate of x0: corrections of guidance, in order.

All are stated for estimates of x0 in k-diffusion's form, where the velocity (flow) or the noise (diffusion)
is (x - D) / sigma. Statistics are per sample, over all other axes, whatever the latent's rank.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from ..plugin import Range, read_knobs
from .table import to_edm
from .zero_snr import rescale_cfg

SMALL = math.exp(-9.9)  # e and 1/e at which log-SNR is taken to end, within what `low` and `high` can reach


@dataclass(frozen=True)
class Companions:
    """Neutral as it stands; GROUPS names the knobs of each correction.

    apg: Sadat et al. 2024, with their defaults for SDXL. cfg_zero_star: Fan et al. 2025. rescale: Lin et al.
    2023. interval: Kynkäänniemi et al. 2024, with theirs for EDM2.
    """

    apg: bool = False
    eta: Annotated[float, Range(-10, 10, 0.05, "Share kept of what only saturates; 1 is plain CFG.")] = 0.0
    norm_threshold: Annotated[float, Range(0, 1000, 0.5, "Longest guidance allowed; 0 is no limit.")] = 15.0
    momentum: Annotated[float, Range(-0.95, 0.95, 0.05, "Below 0 pushes away from earlier steps.")] = -0.5
    cfg_zero_star: bool = False
    zero_init: Annotated[float, Range(0, 0.2, 0.01, "Share of the run that stands still; flow only.")] = 0.04
    rescale: Annotated[float, Range(0, 1, 0.05, "phi; 0 is off, 0.7 is usual.")] = 0.0
    interval: bool = False
    low: Annotated[float, Range(-20, 20, 0.1, "log-SNR where guidance begins.")] = -1.0
    high: Annotated[float, Range(-20, 20, 0.1, "log-SNR where guidance ends.")] = 3.3

    @property
    def neutral(self) -> bool:
        return not (self.apg or self.cfg_zero_star or self.rescale or self.interval)

    def checked(self) -> Companions:
        """The same in the right types; ValueError says what is out of range."""
        values = {knob.name: knob.check(getattr(self, knob.name), "Guidance")
                  for knob in read_knobs(Companions)}
        if self.interval and values["low"] >= values["high"]:
            raise ValueError(f"Guidance: low is {self.low:g} and high {self.high:g}; log-SNR rises in a run, "
                             "so low must lie below high")
        return Companions(**values)


GROUPS = {"apg": ("eta", "norm_threshold", "momentum"), "cfg_zero_star": ("zero_init",), "rescale": (),
          "interval": ("low", "high")}


@dataclass
class Memory:
    """What one run remembers: APG's running mean. A new run gets a new one."""

    average: dict[torch.device, Tensor] = field(default_factory=dict)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[B,1,...]"""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


def remember(delta: Tensor, momentum: float, memory: Memory) -> Tensor:
    """APG, algorithm 1: delta + momentum * what this gave before; momentum below 0 pushes back."""
    if momentum == 0:
        return delta
    before = memory.average.get(delta.device)
    if before is not None and before.shape == delta.shape:
        delta = delta + momentum * before
    memory.average[delta.device] = delta
    return delta


def apg(cond: Tensor, delta: Tensor, c: Companions, memory: Memory) -> Tensor:
    """APG (Sadat et al. 2024): momentum, a bound on the norm, and eta on the part parallel to `cond`.

    The guided estimate is cond + (scale - 1) * this. eta 1 without threshold and momentum is plain guidance.
    """
    delta = remember(delta, c.momentum, memory)
    if c.norm_threshold > 0:
        norm = dot(delta, delta).sqrt()
        delta = delta * (c.norm_threshold / norm.clamp_min(1e-12)).clamp_max(1)
    if c.eta == 1:
        return delta
    parallel = dot(delta, cond) / dot(cond, cond).clamp_min(1e-12) * cond
    return delta + (c.eta - 1) * parallel


def project_uncond(x: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
    """CFG-Zero* (Fan et al. 2025): the unconditional velocity times s = <v_c, v_u> / |v_u|^2, as x0."""
    v_cond, v_uncond = x - cond, x - uncond  # velocities times sigma, which cancels in s
    s = dot(v_cond, v_uncond) / dot(v_uncond, v_uncond).clamp_min(1e-12)
    return x - s * v_uncond


def rescale(x: Tensor, sigma: Tensor, guided: Tensor, cond: Tensor, phi: float, flow: bool) -> Tensor:
    """Lin et al. 2023, eq. 15-16, on v of a diffusion model or on the velocity of a flow model."""
    if not flow:
        return rescale_cfg(x, sigma, guided, cond, phi)
    space = tuple(range(1, x.ndim))
    v, v_cond = x - guided, x - cond
    ratio = v_cond.std(space, keepdim=True) / v.std(space, keepdim=True).clamp_min(1e-12)
    return x - v * (phi * ratio + 1 - phi)


def guide(x: Tensor, sigma: Tensor, cond: Tensor, uncond: Tensor, scale: float, c: Companions, memory: Memory,
          flow: bool, progress: Tensor | float = 1.0) -> Tensor:
    """The guided estimate [B,C,...], float32; where `c` is neutral, uncond + (cond - uncond) * scale.

    sigma [B] as the host has it; progress 0..1 counts the steps that are done, for `zero_init`, which holds a
    flow model's x where it is.
    """
    x, cond, uncond = x.float(), cond.float(), uncond.float()
    lead = (-1, *[1] * (x.ndim - 1))
    if c.cfg_zero_star:
        uncond = project_uncond(x, cond, uncond)
    here = scale
    if c.interval:
        log_snr = -2 * to_edm(sigma.float(), flow).clamp(SMALL, 1 / SMALL).log().reshape(lead)
        here = torch.where((log_snr >= c.low) & (log_snr < c.high), scale, 1.0)
    delta = cond - uncond
    guided = cond + (here - 1) * apg(cond, delta, c, memory) if c.apg else uncond + delta * here
    if c.rescale:
        guided = rescale(x, sigma, guided, cond, c.rescale, flow)
    if c.cfg_zero_star and c.zero_init > 0 and flow:
        idle = torch.as_tensor(progress, device=x.device) < c.zero_init
        guided = torch.where(idle, x, guided)
    return guided
