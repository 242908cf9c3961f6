"""MAPS: (delta, guided, uncond [B,C,*S], seed) -> what to add to guidance's weight 1 at each cell [B,1,*S].

A map is 0 where guidance stays as it is and `amount` times 0..2 elsewhere; spectral.keep takes back the
energy that it adds, so maps move guidance from place to place. The maps are ours; see resistance.py.
"""
from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from ..plugin import Range, Registry
from .resistance import at_nodes, channel_spread, conduct, leverage, spread, square_steps

MAPS = Registry("delta", "guided", "uncond", "seed")

Amount = Annotated[float, Range(0, 20, 0.5, "How much more guidance than elsewhere; 0 changes nothing.")]
Contrast = Annotated[float, Range(0.02, 5, 0.02, "Below 1, only very alike neighbours count as joined.")]
JOINT = 0.01  # gain in conductance, of at most 1, below which nothing was joined: rounding is no joint
Probes = Annotated[int, Range(4, 64, 4, "More are slower and less noisy.")]


def blur(x: Tensor, passes: int) -> Tensor:
    """Means over 3 cells along each axis of S in [B,C,*S], edges repeated, `passes` times."""
    rank = x.ndim - 2
    pool = functional.avg_pool2d if rank == 2 else functional.avg_pool3d
    for _ in range(passes):
        x = pool(functional.pad(x, (1, 1) * rank, mode="replicate"), 3, 1)
    return x


@MAPS.add("off", "Off")
def off(delta: Tensor, guided: Tensor, uncond: Tensor, seed: int) -> Tensor:
    """The same weight everywhere."""
    return torch.zeros_like(delta[:, :1])


@MAPS.add("coherence", "Coherence")
def coherence(delta: Tensor, guided: Tensor, uncond: Tensor, seed: int, amount: Amount = 8.0,
              reach: Annotated[int, Range(1, 8, 1, "Passes of a blur over 3 cells.")] = 3) -> Tensor:
    """More where guidance pushes neighbours the same way: |blur(delta)| / blur(|delta|). Cheap."""
    together = blur(delta, reach).square().sum(1, keepdim=True).sqrt()
    apart = blur(delta.square().sum(1, keepdim=True).sqrt(), reach)
    return 2 * amount * (together / apart.clamp_min(1e-12)).clamp(0, 1)


@MAPS.add("structure", "Structure")
def structure(delta: Tensor, guided: Tensor, uncond: Tensor, seed: int, amount: Amount = 8.0,
              contrast: Contrast = 0.3, probes: Probes = 16) -> Tensor:
    """More where guidance joins what was apart, and the joint is a bridge: leverage x gain in conductance."""
    scale = channel_spread(guided)
    steps = square_steps(guided / scale)
    tau2 = spread(steps, contrast)
    joined, before = conduct(steps, tau2), conduct(square_steps(uncond / scale), tau2)
    gain = [(now - then).clamp_min(0) * held for now, then, held in
            zip(joined, before, leverage(joined, probes, seed), strict=True)]
    cells = at_nodes(gain, [torch.ones_like(edge) for edge in gain]).unsqueeze(1)
    most = cells.amax(tuple(range(1, cells.ndim)), keepdim=True)
    return 2 * amount * cells / most.clamp_min(JOINT)


@MAPS.add("leverage", "Leverage")
def bridges(delta: Tensor, guided: Tensor, uncond: Tensor, seed: int, amount: Amount = 8.0,
            contrast: Contrast = 0.3, probes: Probes = 16) -> Tensor:
    """More on all that is thin, texture included. Alone it did not beat plain guidance; for experiments."""
    steps = square_steps(guided / channel_spread(guided))
    conductances = conduct(steps, spread(steps, contrast))
    cells = at_nodes(leverage(conductances, probes, seed), conductances).unsqueeze(1)
    return amount * ((cells - 0.5) / 0.25).clamp(0, 2)
