"""Latent mode: (conditioning, regions) -> entries whose masks, at every time of the run, add up to 1.

Each entry is a model call of its own; the host blends what they predict by these masks.
"""
from __future__ import annotations

from itertools import pairwise

from ..controls.regions import MaskSet

LAYOUT = "tweedie_layout"  # in every entry: the regions that it came from


def mask_entries(conditioning: list, masks: MaskSet, texts: tuple[list, ...]) -> list:
    """The base's entries and the regions', for each stretch of the run in which the same regions act.

    An entry's own stretch of the run is kept to; a mask of its own gives way.
    """
    times = sorted({0.0, 1.0, *(time for region in masks.regions for time in (region.start, region.end))})
    entries = []
    for start, end in pairwise(times):
        active = tuple(number for number, region in enumerate(masks.regions)
                       if region.start <= start and region.end >= end and region.weight > 0)
        shares = masks.shares(active)
        for share, prompt in zip(shares[[0, *(1 + number for number in active)]],
                                 [conditioning, *(texts[number] for number in active)], strict=True):
            for text, values in prompt if bool((share > 0).any()) else ():
                first = max(start, values.get("start_percent", 0.0))
                last = min(end, values.get("end_percent", 1.0))
                if first < last:
                    entries.append([text, {**values, LAYOUT: masks, "mask": share[None], "mask_strength": 1.0,
                                           "start_percent": first, "end_percent": last}])
    return entries
