"""BLENDS: (residuals [K] of [B,C,H,W] or [B,N,C], weights [K]) -> one residual of that shape.

A residual is what a control adds to a layer of the model, its weight already in it. Every host adds them up,
so two controls that say the same push twice as far as either was trained to; each policy here limits that
another way. They decide place by place, from norms over the channels in float32. One control alone, and
controls that act at different places, pass every policy bit for bit.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Annotated

import torch
from torch import Tensor

from ..plugin import Range, Registry

TINY = 1e-30  # of squared norms: far below what half precision can hold
RELATED, REDUNDANT = 0.25, 0.5  # mean cosine from which controls count as saying the same, in part and wholly

BLENDS = Registry("residuals", "weights")


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner product of each place in float32: [B,1,H,W] or [B,N,1]."""
    return (first.float() * second.float()).sum(-1 if first.ndim == 3 else 1, keepdim=True)


def add(residuals: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, residuals)


def energies(residuals: Sequence[Tensor]) -> list[Tensor]:
    return [dot(residual, residual) for residual in residuals]


def mix(residuals: Sequence[Tensor], gains: Sequence[Tensor]) -> Tensor:
    return add([residual * gain.to(residual.dtype) for residual, gain in zip(residuals, gains, strict=True)])


def limit(total: Tensor, energy: Tensor) -> Tensor:
    """The total, at each place with no more than this energy."""
    return total * (energy / dot(total, total).clamp_min(TINY)).sqrt().clamp(max=1).to(total.dtype)


@BLENDS.add("sum", "Sum")
def total(residuals: Sequence[Tensor], weights: Sequence[Tensor | float]) -> Tensor:
    """Adds all up, as every host does."""
    return add(residuals)


@BLENDS.add("cap", "Cap")
def cap(residuals: Sequence[Tensor], weights: Sequence[Tensor | float], tau: Annotated[float, Range(
        1, 4, 0.05, "What controls that agree may reach, in norms of the strongest.")] = 1.0) -> Tensor:
    """Keeps the norm of one control where all say the same, and the sum where they say different things.

    Where the controls' mean cosine c is at most 1/4, as that of unrelated residuals is, nothing changes; from
    1/2 on the sum is scaled to at most tau times the largest norm; between the limits go over linearly.
    """
    apart = energies(residuals)
    whole, most = add(apart), tau**2 * reduce(torch.maximum, apart)
    crossed = (add([energy.sqrt() for energy in apart]).square() - whole).clamp_min(TINY)
    summed = add(residuals)
    energy = dot(summed, summed)
    share = (((energy - whole) / crossed - RELATED) / (REDUNDANT - RELATED)).clamp(0, 1)
    allowed = torch.lerp(torch.maximum(energy, most), most, share)
    return summed * (allowed / energy.clamp_min(TINY)).sqrt().clamp(max=1).to(summed.dtype)


@BLENDS.add("rms", "Root mean square")
def rms(residuals: Sequence[Tensor], weights: Sequence[Tensor | float]) -> Tensor:
    """The sum, at no place with more energy than the controls have apart."""
    return limit(add(residuals), add(energies(residuals)))


@BLENDS.add("gate", "Gate")
def gate(residuals: Sequence[Tensor], weights: Sequence[Tensor | float], temperature: Annotated[float, Range(
        0.05, 10, 0.05, "Low: the strongest alone. High: all alike.")] = 0.5) -> Tensor:
    """At each place a mean in which the stronger control has more to say: softmax of log norms."""
    logs = torch.stack(torch.broadcast_tensors(*energies(residuals))).log() / (2 * temperature)
    return mix(residuals, torch.softmax(logs, 0).nan_to_num(0.0).unbind(0))


@BLENDS.add("project", "Project")
def project(residuals: Sequence[Tensor], weights: Sequence[Tensor | float]) -> Tensor:
    """In order of priority, each without what contradicts those before it (PCGrad, Yu et al. 2020)."""
    kept: list[Tensor] = []
    for residual in residuals:
        for other in kept:
            against = dot(residual, other).clamp(max=0) / dot(other, other).clamp_min(TINY)
            residual = residual - (against * other.float()).to(residual.dtype)
        kept.append(residual)
    return add(kept)


@BLENDS.add("average", "Average")
def average(residuals: Sequence[Tensor], weights: Sequence[Tensor | float]) -> Tensor:
    """The mean by weights, of those that act at a place."""
    shares = [(energy > 0).float() * weight
              for energy, weight in zip(energies(residuals), weights, strict=True)]
    whole = add(shares).clamp_min(TINY)
    return mix(residuals, [share / whole for share in shares])


@BLENDS.add("strongest", "Strongest")
def strongest(residuals: Sequence[Tensor], weights: Sequence[Tensor | float]) -> Tensor:
    """At each place the one control with the largest norm; the mean of equals."""
    apart = energies(residuals)
    most = reduce(torch.maximum, apart)
    chosen = [(energy == most).float() for energy in apart]
    count = add(chosen)
    return mix(residuals, [one / count for one in chosen])
