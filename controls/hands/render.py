"""A fitted hand's joints and radii in pixels -> its surface, depth and pose maps for ControlNets.

The hand is made of balls: all those on the way between two joints, and between three in the palm. Its surface
is exact at every pixel's centre, so that maps of all sizes agree; each part is drawn in its own box only.
Depth maps have near = white, as depth estimators do; pose maps are OpenPose's hands.
"""
from __future__ import annotations

import math
from colorsys import hsv_to_rgb
from typing import NamedTuple

import torch
from torch import Tensor

from .pose import Fit
from .skeleton import BONES

WEB = ((5, 9), (9, 13), (13, 17), (1, 5), (2, 5))
PALM = ((0, 5, 9), (0, 9, 13), (0, 13, 17), (0, 1, 5), (1, 2, 5))
FARTHEST = 0.2  # depth of the hand's farthest point on black
RELIEF = (0.05, 0.4)  # how much of a scene's depth a hand may span
LINE, END, JOINT = 1.5, 1, 4  # pixels beside a bone, around its ends, and around a joint


class Part(NamedTuple):
    """A box of the picture: its place, and its pixels' centres x [w] and y [h,1]."""

    place: tuple[slice, slice]
    x: Tensor
    y: Tensor


def box(low: tuple[float, float], high: tuple[float, float], canvas: Tensor) -> Part | None:
    """The part of a canvas [...,h,w] between two corners; None if it lies outside."""
    (x0, x1), (y0, y1) = ((max(math.floor(a), 0), min(math.ceil(b), side))
                          for a, b, side in zip(low, high, canvas.shape[:-3:-1], strict=True))
    if x0 >= x1 or y0 >= y1:
        return None
    x, y = (torch.arange(*ends, dtype=torch.float32, device=canvas.device) for ends in ((x0, x1), (y0, y1)))
    return Part((slice(y0, y1), slice(x0, x1)), x + 0.5, y[:, None] + 0.5)


def cone(a: list[float], b: list[float], part: Part) -> Tensor:
    """Surface [h,w] of all balls (x, y, z, radius) on the way from a to b; the highest has a closed form.

    z(u) + sqrt(h(u)) is greatest where its slope is 0, with h(u) = K - alpha (u - m)^2. Only a cone that
    points at the viewer can be higher at its ends.
    """
    dx, dy, dz, dr = (end - start for start, end in zip(a, b, strict=True))
    x, y, radius = part.x - a[0], part.y - a[1], a[3]
    alpha = dx * dx + dy * dy - dr * dr
    pointing = alpha < 1e-4 * (dx * dx + dy * dy + dz * dz)
    if pointing:
        alpha = min(alpha, -1e-4 * (dx * dx + dy * dy + dz * dz) - 1e-9)
    middle = (radius * dr + x * dx) / alpha + y * (dy / alpha)
    room = (radius * radius - x * x) - y * y + alpha * middle.square()
    both = alpha * (alpha + dz * dz)
    lean = math.copysign(dz, dz * alpha) * (room / both).clamp_min(0).sqrt() if both else 0 * room

    def height(u: Tensor) -> Tensor:
        inside = (radius + dr * u).square() - (x - dx * u).square() - (y - dy * u).square()
        return torch.where(inside > 0, a[2] + dz * u + inside.clamp_min(0).sqrt(), -math.inf)
    best = height((middle + lean).clamp(0, 1))
    if pointing:
        best = best.maximum(height(torch.zeros_like(room))).maximum(height(torch.ones_like(room)))
    return best


def facet(corners: Tensor, part: Part) -> Tensor | None:
    """The plane [h,w] that rests on three balls [3,4] before the viewer, -inf beyond where it touches them.

    None if one ball hides it, or if it is seen edge on.
    """
    edges, fall = corners[1:, :3] - corners[0, :3], corners[0, 3] - corners[1:, 3]  # normal . edge = fall
    across = torch.linalg.cross(edges[0], edges[1])
    area = float(across.square().sum())
    if area < 1e-9:
        return None
    beside = torch.linalg.cross(torch.stack([edges[1], across]), torch.stack([across, edges[0]]))
    lean = (fall @ beside) / area
    rest = 1 - float(lean.square().sum())
    if rest <= 0:
        return None
    normal = lean + across * math.copysign(math.sqrt(rest / area), float(across[2]))
    touch = corners[:, :3] + corners[:, 3:] * normal
    x0, y0, z0 = touch[0].tolist()
    (ax, ay, az), (bx, by, bz) = (touch[1:] - touch[0]).tolist()
    double = ax * by - ay * bx
    if abs(double) < 1e-9 or float(normal[2]) <= 1e-6:
        return None
    x, y = (part.x - x0) / double, (part.y - y0) / double
    u, v = x * by - y * bx, y * ax - x * ay
    return torch.where((u >= 0) & (v >= 0) & (u + v <= 1), z0 + az * u + bz * v, -math.inf)


def surface(joints: Tensor, radii: Tensor, size: tuple[int, int]) -> Tensor:
    """joints [21,3] and radii [21] in pixels -> z [h,w] of the hand's surface, -inf where it is not."""
    z = torch.full(size, -math.inf, device=joints.device)
    balls = torch.cat([joints, radii[:, None]], 1).detach().double().cpu()
    low, high, plain = balls[:, :2] - balls[:, 3:], balls[:, :2] + balls[:, 3:], balls.tolist()
    for members in BONES + WEB + PALM:
        ends = list(members)
        part = box(low[ends].amin(0).tolist(), high[ends].amax(0).tolist(), z)
        if part is None:
            continue
        drawn = facet(balls[ends], part) if len(ends) == 3 else cone(*(plain[end] for end in ends), part)
        if drawn is not None:
            z[part.place] = z[part.place].maximum(drawn)
    return z


def silhouette(joints: Tensor, radii: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the hand is, bool [h,w]."""
    return surface(joints, radii, size) > -math.inf


def depth_map(z: Tensor, background: Tensor | None = None) -> Tensor:
    """A surface z [h,w] -> depth [h,w] in 0..1, near = 1: the hand from 0.2 to 1 on black, or in its scene.

    `background` [h,w] is the scene's own depth, near = 1: the hand is scaled and shifted to what it has where
    the hand is now, keeps some relief in any case, and only it changes unless it would leave 0..1.
    """
    inside = z > -math.inf
    if background is not None and background.shape != z.shape:
        raise ValueError(f"Depth map: the background has shape {list(background.shape)}, the hand "
                         f"{list(z.shape)}; give both in the crop's size")
    if not bool(inside.any()):
        return torch.zeros_like(z) if background is None else background.to(z)
    heights = z[inside]
    span = (heights.max() - heights.min()).clamp_min(1e-6)
    heights = (heights - heights.min()) / span
    if background is None:
        depth = torch.zeros_like(z)
        depth[inside] = FARTHEST + (1 - FARTHEST) * heights
        return depth
    depth = background.to(z).clone()
    before = depth[inside]
    spread = heights - heights.mean()
    scale = ((spread * before).sum() / spread.square().sum().clamp_min(1e-6)).clamp(*RELIEF)
    depth[inside] = scale * heights + (before - scale * heights).median()
    low, high = depth.min().clamp(max=0), depth.max().clamp(min=1)
    return (depth - low) / (high - low)


def stroke(canvas: Tensor, a: list[float], b: list[float], radius: float, colour: Tensor) -> None:
    """Colour in [C,h,w] what is near the line from a to b, and what is within a radius of its ends."""
    reach = radius + 2
    part = box((min(a[0], b[0]) - reach, min(a[1], b[1]) - reach),
               (max(a[0], b[0]) + reach, max(a[1], b[1]) + reach), canvas)
    if part is None:
        return
    dx, dy = b[0] - a[0], b[1] - a[1]
    x, y = part.x - 0.5 - a[0], part.y - 0.5 - a[1]
    along, aside, square = x * dx + y * dy, y * dx - x * dy, dx * dx + dy * dy
    lit = (along >= 0) & (along <= square) & (aside.square() < LINE**2 * square)
    for px, py in ((0.0, 0.0), (dx, dy)):
        lit = lit | ((x - px).square() + (y - py).square() <= radius**2)
    below = canvas[(slice(None), *part.place)]
    canvas[(slice(None), *part.place)] = torch.where(lit, colour[:, None, None], below)


def pose_map(joints: Tensor, sure: Tensor | None, size: tuple[int, int]) -> Tensor:
    """joints [21,2] in pixels -> the picture [3,h,w] that OpenPose ControlNets know.

    Joints of sure 0 are left out. Bones are as thick, and joints' discs as large, whatever the size: draw at
    the size of use.
    """
    canvas = torch.zeros(3, *size, device=joints.device)
    places = joints[:, :2].detach().float().trunc().tolist()
    drawn = [True] * 21 if sure is None else (sure > 0).tolist()
    for number, (a, b) in enumerate(BONES):
        if drawn[a] and drawn[b]:
            colour = torch.tensor(hsv_to_rgb(number / len(BONES), 1, 1)).mul(255).round() / 255
            stroke(canvas, places[a], places[b], END, colour.to(canvas))
    for joint in range(21):
        if drawn[joint]:
            stroke(canvas, places[joint], places[joint], JOINT, canvas.new_tensor((0, 0, 1)))
    return canvas


def into_crop(fit: Fit, window: tuple[float, float, float, float], size: tuple[int, int]) -> Fit:
    """The same hands in the pixels of a crop [h,w] that shows the window x0, y0, x1, y1 of their picture."""
    x0, y0, x1, y1 = window
    across, down = size[1] / (x1 - x0), size[0] / (y1 - y0)
    deep = math.sqrt(across * down)
    joints = (fit.joints - fit.joints.new_tensor([x0, y0, 0.0])) * fit.joints.new_tensor([across, down, deep])
    return fit._replace(joints=joints, radii=fit.radii * deep)
