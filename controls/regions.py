"""(regions) -> who owns how much of each token: shares [1+R,N], the base first, adding up to 1 everywhere."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .masks import check_mask, feather, fit, shrink

BARE = 1e-3  # share of the picture that may lie open where there is no base


class Region(NamedTuple):
    """mask [H,W] 0..1. weight: against other regions where they overlap. base_ratio: the base's share inside.

    start, end: percent of the run, 0..1, as ComfyUI counts. cfg: guidance scale inside; None for the run's.
    """

    mask: Tensor
    weight: float = 1.0
    base_ratio: float = 0.0
    start: float = 0.0
    end: float = 1.0
    cfg: float | None = None


def check_region(region: Region, name: str) -> Region:
    """The region with a checked mask; ValueError says what is wrong with it."""
    for label, value, high in (("weight", region.weight, 1e6), ("base_ratio", region.base_ratio, 1),
                               ("start_percent", region.start, 1), ("end_percent", region.end, 1)):
        if not 0 <= value <= high:
            raise ValueError(f"{name}: {label} is {value}; give a number from 0 to {high:g}")
    if region.start > region.end:
        raise ValueError(f"{name}: start_percent {region.start:g} lies after end_percent {region.end:g}; "
                         "swap them")
    return region._replace(mask=check_mask(region.mask, name))


def normalise(masks: Tensor, weights: Tensor, base_ratios: Tensor) -> Tensor:
    """Masks [R,H,W], weights and base ratios [R] -> shares [1+R,H,W] that add up to 1.

    A place is covered up to 1 by its masks' sum; the rest is the base's. What is covered is divided by weight
    times mask, and of each region's part the base takes `base_ratio`.
    """
    weighted = masks * weights[:, None, None]
    covered = (masks * (weights > 0)[:, None, None]).sum(0).clamp(max=1)
    shares = weighted / weighted.sum(0).clamp_min(1e-12) * covered * (1 - base_ratios)[:, None, None]
    return torch.cat([(1 - shares.sum(0)).clamp(0, 1)[None], shares])


@dataclass(frozen=True)
class MaskSet:
    """The regions of one picture on one canvas; shares are made once for each set of regions that act.

    Errors: ValueError for regions of no area, and, where `base` is false, for a place that no region covers.
    """

    regions: tuple[Region, ...]
    base: bool = True
    cache: dict = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        if not self.regions:
            raise ValueError("Regions: there is no region; give at least one")
        for number, region in enumerate(self.regions, 1):
            if not bool((region.mask > 0).any()):
                raise ValueError(f"Region {number}: its mask is empty; paint something, or take it away")
        open_share = float(self.shares(tuple(range(len(self.regions))))[0].mean())
        if not self.base and open_share > BARE:
            raise ValueError(f"Regions: masks leave {open_share:.0%} of the picture uncovered; "
                             "add a base prompt, or a region that fills the rest")

    def shares(self, active: tuple[int, ...]) -> Tensor:
        """Full-resolution shares [1+R,H,W] while only these regions act; the others own nothing."""
        if active not in self.cache:
            masks, on = torch.stack([region.mask for region in self.regions]), torch.zeros(len(self.regions))
            on[list(active)] = 1
            weights = torch.tensor([region.weight for region in self.regions])
            ratios = torch.tensor([region.base_ratio for region in self.regions])
            self.cache[active] = normalise(masks * on[:, None, None], weights, ratios)
        return self.cache[active]

    def on(self, grid: tuple[int, int], full: tuple[int, int], active: tuple[int, ...],
           device: torch.device) -> Tensor:
        """Shares [1+R,h,w] on the token grid of a latent with `full` rows and columns.

        Kept for each grid in the CPU's memory: this outlives a run, what a run needs on a device must not.
        """
        key = grid, full, active
        if key not in self.cache:
            self.cache[key] = shrink(self.shares(active), grid, full)
        return self.cache[key].to(device)

    def active(self, sigma: float, spans: Sequence[tuple[float, float]]) -> tuple[int, ...]:
        """Which regions act at this sigma; spans are each region's sigmas where it starts and ends."""
        return tuple(number for number, (start, end) in enumerate(spans)
                     if end < sigma <= start and self.regions[number].weight > 0)

    def scales(self, shares: Tensor, scale: float) -> Tensor:
        """Guidance scale of each place, shares [1+R,*S] -> [*S]; `scale` where a region has no own."""
        own = [scale, *(scale if region.cfg is None else region.cfg for region in self.regions)]
        return torch.tensordot(shares.new_tensor(own), shares, 1)


def gather(regions: Sequence[Region], size: tuple[int, int], soft: Sequence[float] = (),
           base: bool = True) -> MaskSet:
    """Regions with masks of any size, put on one canvas of H, W pixels; `soft` is each one's feather."""
    soft = soft or [0.0] * len(regions)
    ready = []
    for number, (region, fraction) in enumerate(zip(regions, soft, strict=True), 1):
        region = check_region(region, f"Region {number}")
        ready.append(region._replace(mask=feather(fit(region.mask, size), fraction)))
    return MaskSet(tuple(ready), base)
