"""(hands, picture's size) -> what they look like: laid over the picture, as mask, as depth and pose maps."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .found import Box, Hand
from .pose import fit_hands
from .render import depth_map, pose_map, surface
from .score import points_of
from .windows import widen

SHORTEST = 384  # side of a sketch: joints are drawn in a fixed size
COLOURS = ((1.0, 0.8, 0.1), (0.2, 0.9, 0.4), (0.3, 0.6, 1.0), (1.0, 0.35, 0.6), (0.8, 0.5, 1.0))


def enlarge(picture: Tensor, times: int) -> Tensor:
    """[...,H,W] with every pixel so many times across and down."""
    return picture.repeat_interleave(times, -1).repeat_interleave(times, -2)


def frame(picture: Tensor, box: Box, colour: tuple[float, float, float]) -> None:
    """Draw a box's border, 1/300 of the picture wide, in place."""
    _, height, width = picture.shape
    x0, y0, x1, y1 = (round(value) for value in box)
    thick = max(1, round(max(height, width) / 300))
    ink = torch.tensor(colour).to(picture)[:, None, None]
    for side in (slice(y0, y0 + thick), slice(max(y1 - thick, 0), y1)):
        picture[:, side, x0:x1] = ink
    for side in (slice(x0, x0 + thick), slice(max(x1 - thick, 0), x1)):
        picture[:, y0:y1, side] = ink


def sketch(picture: Tensor, hands: Sequence[Hand]) -> Tensor:
    """Masks tinted, skeletons, boxes; colours go by number. Small pictures come out enlarged."""
    times = max(1, -(-SHORTEST // min(picture.shape[1:])))
    out = enlarge(picture, times)
    for number, small in enumerate(hands):
        hand = small._replace(
            box=tuple(value * times for value in small.box),
            joints=None if small.joints is None else small.joints * times,
            mask=None if small.mask is None else enlarge(small.mask, times))
        colour = COLOURS[number % len(COLOURS)]
        if hand.mask is not None:
            tint = torch.tensor(colour).to(out)[:, None, None]
            out = torch.where(hand.mask, 0.65 * out + 0.35 * tint, out)
        if hand.joints is not None:
            bones = pose_map(hand.joints, hand.sure, tuple(out.shape[1:]))
            out = torch.where(bones.amax(0) > 0, bones, out)
        frame(out, hand.box, colour)
    return out


def mask_of(hands: Sequence[Hand], size: tuple[int, int]) -> Tensor:
    """[H,W] of 0 and 1: the hands' masks, boxes where there are none."""
    out = torch.zeros(size)
    for hand in hands:
        if hand.mask is not None:
            out[hand.mask] = 1
        else:
            x0, y0, x1, y1 = widen(hand.box, 0, size)
            out[y0:y1, x0:x1] = 1
    return out


def draw_maps(hands: Sequence[Hand], size: tuple[int, int], scene: Tensor | None) -> tuple[Tensor, Tensor]:
    """Depth and pose [3,H,W] in 0..1 of the hands that have joints; depth is set into the scene's [H,W]."""
    jointed = [hand for hand in hands if hand.joints is not None]
    if not jointed:
        return (torch.zeros(size) if scene is None else scene).expand(3, *size), torch.zeros(3, *size)
    fits = fit_hands(*points_of(jointed), torch.tensor([hand.side for hand in jointed]))
    near = [surface(*pair, size) for pair in zip(fits.joints, fits.radii, strict=True)]
    poses = [pose_map(hand.joints, hand.sure, size) for hand in jointed]
    return depth_map(torch.stack(near).amax(0), scene).expand(3, *size), torch.stack(poses).amax(0)
