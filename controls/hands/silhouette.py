"""(fitted five-finger hand, its mask or its colours) -> fingers' areas too many and too few.

A model with 21 joints draws five fingers whatever it sees, so that its joints can't count them; the hand's
outline can. The fitted hand is rendered, and what the mask has beyond it, or it beyond the mask, is measured
in fingers. All is done at one scale, `WORK` pixels for a hand from wrist to fingertip, so that neither the
picture's size nor the hand's place matters. What lies behind the wrist is no finger and is left out.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor
from torch.nn import functional

from .render import silhouette
from .tips import count_tips

WORK = 160  # pixels from the wrist to the tip of the middle finger, were it straight
MARGIN = 0.35  # of that length, around the joints: where further fingers may be
FINGER = 0.09 * 0.45  # a finger's width times its length, of the hand's length squared
ERODED, DILATED = 0.012, 0.034  # of the hand's length: what noise moves an edge by
PALM = 0.06  # of the hand's length: deeper inside than any finger is wide
RING = 0.12  # of the hand's length: farther out than the noise of joints
BINS = 16  # of each colour channel
TOLD_APART = 0.9  # least difference between the mean shares of skin in the palm and in the ring
UNSEEN = 1e-4  # share of each that a colour has at least
MIDDLE = (0, 9, 10, 11, 12)
KNUCKLES = (5, 9, 13, 17)


class View(NamedTuple):
    """A hand with its surroundings at the working scale: rendered and front are bool [h,w], wrist is (x, y).

    window: x0, y0, x1, y1 in whole pixels of the picture, within it.
    """

    window: tuple[int, int, int, int]
    rendered: Tensor
    front: Tensor
    wrist: tuple[float, float]

    def cut(self, plane: Tensor) -> Tensor:
        """What a plane [C,H,W] of the picture's size holds here, [C,h,w] float."""
        x0, y0, x1, y1 = self.window
        return functional.interpolate(plane[None, :, y0:y1, x0:x1].float(), self.rendered.shape,
                                      mode="bilinear", antialias=True)[0]


def length(joints: Tensor) -> float:
    """From the wrist along the middle finger to its tip, in the unit of joints [21,3]."""
    return float(joints[list(MIDDLE)].diff(dim=0).norm(dim=-1).sum())


def in_front(joints: Tensor, size: tuple[int, int]) -> Tensor:
    """bool [h,w]: which pixels lie on the fingers' side of the wrist; all where the palm is seen end on."""
    wrist, axis = joints[0, :2], joints[list(KNUCKLES), :2].mean(0) - joints[0, :2]
    if float(axis.norm()) < 0.1 * length(joints):
        return torch.ones(size, dtype=torch.bool)
    rows, columns = (torch.arange(count) + 0.5 for count in size)
    return (columns - wrist[0]) * axis[0] + (rows[:, None] - wrist[1]) * axis[1] > 0


def view(joints: Tensor, radii: Tensor, size: tuple[int, int]) -> View | None:
    """Around the fitted joints [21,3] with radii [21], in pixels of a picture of `size`; None if there is
    nothing to see: the hand lies outside, or has no length.
    """
    long = length(joints)
    if not long > 1e-3:
        return None
    low = (joints[:, :2].amin(0) - MARGIN * long).floor()
    high = (joints[:, :2].amax(0) + MARGIN * long).ceil()
    x0, y0 = (max(int(value), 0) for value in low)
    x1, y1 = (min(int(value), most) for value, most in zip(high, reversed(size), strict=True))
    if x0 >= x1 or y0 >= y1:
        return None
    scale = WORK / long
    shape = (max(round((y1 - y0) * scale), 1), max(round((x1 - x0) * scale), 1))
    placed = torch.cat([(joints[:, :2] - torch.tensor([x0, y0])) * scale, joints[:, 2:] * scale], -1)
    return View((x0, y0, x1, y1), silhouette(placed, radii * scale, shape), in_front(placed, shape),
                tuple(placed[0, :2].tolist()))


def outside(mask: Tensor) -> Tensor:
    """Distance [h,w] of each pixel to the mask, 0 within it, in lengths of the hand; infinite without one."""
    if not bool(mask.any()):
        return torch.full(mask.shape, torch.inf)
    return torch.from_numpy(distance_transform_edt(~mask.numpy())).float() / WORK


def joined(mask: Tensor, seeds: Tensor) -> Tensor:
    """The parts of a mask [h,w] that touch the seeds [h,w]: not another hand, nor a spot."""
    parts, _ = label(mask.numpy())
    kept = np.unique(parts[(mask & seeds).numpy()])
    return torch.from_numpy(np.isin(parts, kept[kept > 0]))


def own_part(mask: Tensor, seen: View) -> Tensor:
    """What of a mask [h,w] is this hand's, from the wrist on."""
    return joined(mask & seen.front, seen.rendered)


def digits(mask: Tensor, seen: View) -> int:
    """How many stand out of a mask [h,w]."""
    return count_tips(own_part(mask, seen), seen.wrist, WORK)


def measure(mask: Tensor, seen: View) -> tuple[float, float]:
    """(extra, missing) in fingers' areas: mask [h,w] beyond the rendered hand, and it beyond the mask."""
    mask = own_part(mask, seen)
    rendered = seen.rendered & seen.front
    areas = [(outside(~one) > ERODED) & (outside(other) > DILATED)
             for one, other in ((mask, rendered), (rendered, mask))]
    return tuple(float(area.sum()) / (FINGER * WORK**2) for area in areas)


def histogram(colours: Tensor) -> Tensor:
    """Smoothed shares [BINS,BINS,BINS] of colours [N,3] in 0..1."""
    bins = (colours * BINS).long().clamp(0, BINS - 1) @ torch.tensor([BINS * BINS, BINS, 1])
    counts = torch.bincount(bins, minlength=BINS**3).float().view(1, 1, BINS, BINS, BINS)
    for _ in range(2):
        counts = functional.avg_pool3d(functional.pad(counts, (1,) * 6, mode="replicate"), 3, 1)
    return counts[0, 0] / counts.sum()


def colour_mask(picture: Tensor, seen: View) -> Tensor | None:
    """Mask [h,w] of what has the palm's colours rather than the surroundings', in a cut [3,h,w], 0..1.

    Histograms of the rendered hand's palm and of a ring around it give each pixel its share of skin. None
    if there is no palm or no ring, or if their shares differ by less than `TOLD_APART`.
    """
    palm = (outside(~seen.rendered) > PALM) & seen.front
    ring = (outside(seen.rendered) > RING) & seen.front
    if int(palm.sum()) < 50 or int(ring.sum()) < 50:
        return None
    bins = (picture * BINS).long().clamp(0, BINS - 1)
    skin, ground = (histogram(picture[:, part].T) for part in (palm, ring))
    share = ((skin + UNSEEN) / (skin + ground + 2 * UNSEEN))[bins[0], bins[1], bins[2]]
    if float(share[palm].mean() - share[ring].mean()) < TOLD_APART:
        return None
    smooth = functional.avg_pool2d(share[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    return joined(smooth > 0.5, palm)
