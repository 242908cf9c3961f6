"""(random) -> pictures of hands with 4, 5 and 6 fingers, well made or not, and what is true of them.

`random_drawn` draws one hand, `random_crowd` any number in any picture, `of_world` labels the world's own.
Limits: capsules on 21 joints, palms towards the viewer (tilted by at most 40 degrees), orthographic; no
nails, creases, rings or held things; hands hardly touch each other; a finger is missing or doubled whole. A
finger folded in front of the palm can hardly be counted by anybody, so digits are lost and doubled among the
raised ones where there are any. Nothing here was compared with photographs.
"""
from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .clutter import backdrop, blur, colour_of, noise, smooth_noise, wear
from .digits import KINDS, Body, body, digits_of, limbs
from .hand import BONES, POSES, RADII, rotation
from .world import COLOURS, SIZE, SKIN, Scene, draw, pixel_grid

OF_COUNT = {5: "regular", 4: "missing", 6: "extra"}


class Drawn(NamedTuple):
    """picture [3,H,W] in 0..1 and one hand in it; pixels, x right, y down, z to the viewer.

    joints [21,2], z and visible [21]: visible is 0 for all four joints of a digit that is not there (they lie
    where it would be) and for joints outside the picture; a folded or covered joint counts as visible. mask
    [H,W] bool and box end at the wrist, where the forearm begins, and hold extra digits. `fingers` counts the
    digits drawn, the thumb and folded ones too. side is 1 for a right hand, -1 for a left one.
    """

    picture: Tensor
    mask: Tensor
    joints: Tensor
    visible: Tensor
    z: Tensor
    side: int
    box: tuple[float, float, float, float]
    fingers: int
    pose: str
    kind: str


class Placed(NamedTuple):
    """A hand before it is painted; `skin` [3,1,1] is its colour, `sleeve` the forearm's.

    side is `hand.place`'s: 1 has the thumb at the left of its palm, and so is a left hand.
    """

    body: Body
    side: int
    fingers: int
    pose: str
    kind: str
    skin: Tensor
    sleeve: Tensor


def curls_of(random: Random, pose: str | None) -> tuple[str, list[float]]:
    """A pose's name and how far each digit is folded, 0..1; without one half are poses, half are any."""
    if pose is None and random.random() < 0.5:
        return "any", [random.choice((random.uniform(0, 0.25), random.uniform(0, 0.25), random.uniform(0, 1),
                                      random.uniform(0.8, 1))) for _ in range(5)]
    pose = pose or random.choice(list(POSES))
    if pose not in POSES:
        raise ValueError(f"Drawn hands: pose is {pose!r}; take one of {', '.join(POSES)}, or None for any")
    wide = 0.12
    return pose, [random.uniform(0, wide) if up else 1 - random.uniform(0, wide) for up in POSES[pose]]


def random_placed(random: Random, kind: str, pose: str | None, size: float, centre: tuple[float, float],
                  angle: float, view: tuple[float, float]) -> Placed:
    pose, curls = curls_of(random, pose)
    digits = digits_of(random, curls)
    fingers = KINDS[kind](random, digits)
    turned = rotation(angle, random.uniform(-view[0], view[0]), random.uniform(-view[1], view[1]))
    side = random.choice((1, -1))
    made = body(digits, size, centre, side, turned, random.choice((0.55, random.uniform(0.15, 2.0))))
    glove = random.random() < 0.25
    colour = torch.tensor(random.choice(list(COLOURS.values()) if glove else SKIN))[:, None, None]
    colour = (colour + 0.06 * noise(random, 3, 1, 1)).clamp(0, 1)
    sleeve = colour_of(random) if random.random() < 0.3 else colour
    return Placed(made, side, fingers, pose, kind, colour, sleeve)


def shade(depth: Tensor, random: Random) -> Tensor:
    """Light [H,W] on a surface of finite depth in pixels: from one side, and dark where a digit ends."""
    dx, dy = torch.zeros_like(depth), torch.zeros_like(depth)
    dx[:, 1:-1], dy[1:-1] = (depth[:, 2:] - depth[:, :-2]) / 2, (depth[2:] - depth[:-2]) / 2
    slope = (dx**2 + dy**2).sqrt()
    way, strength = random.uniform(-2.8, 1.2), random.uniform(0.1, 0.3)  # mostly from above
    lit = 1 + 0.7 * (dx * math.cos(way) + dy * math.sin(way))
    light = (1 - strength + strength * lit / (1 + slope**2).sqrt()).clamp(0.5, 1)
    return light * (1 - random.uniform(0.2, 0.5) * ((slope - 1.2) / 1.5).clamp(0, 1))


def paint(random: Random, picture: Tensor, one: Placed) -> tuple[Tensor, Tensor]:
    """The picture [3,H,W] with the hand on it, and the hand's mask [H,W] bool, drawn within its own box."""
    _, height, width = picture.shape
    points, radii = one.body.points, one.body.radii
    reach = float(radii.max()) + 2
    (left, top), (right, bottom) = points[:, :2].amin(0).tolist(), points[:, :2].amax(0).tolist()
    rows = slice(max(int(top - reach), 0), max(int(bottom + reach) + 1, 0))
    columns = slice(max(int(left - reach), 0), max(int(right + reach) + 1, 0))
    mask = torch.zeros(height, width, dtype=torch.bool)
    grid = pixel_grid(height, width)[rows, columns]
    if not grid.numel():
        return picture, mask
    distance, depth = limbs(points, radii, one.body.hand, grid)
    arm, beneath = limbs(points, radii, one.body.arm, grid)
    mask[rows, columns] = distance < 0
    both = depth.maximum(beneath)
    seen = both > -math.inf
    level = torch.where(seen, both, both[seen].min() if seen.any() else both.new_tensor(0.0))
    colour = torch.where(distance < arm.clamp_min(0), one.skin, one.sleeve) * shade(level, random)
    cover = (0.5 - distance.minimum(arm)).clamp(0, 1)
    picture = picture.clone()
    picture[:, rows, columns] = torch.lerp(picture[:, rows, columns], colour.clamp(0, 1), cover)
    return picture, mask


def edges_of(mask: Tensor) -> tuple[float, float, float, float]:
    """The box of a mask's pixels; ValueError for an empty one."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        raise ValueError("Drawn hands: the hand lies outside the picture; place it within")
    return float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1


def label(picture: Tensor, mask: Tensor, one: Placed) -> Drawn:
    _, height, width = picture.shape
    joints, z = one.body.points[:21, :2], one.body.points[:21, 2]
    inside = ((joints >= 0) & (joints <= torch.tensor([width, height]))).all(1)
    visible = (one.body.there & inside).float()
    return Drawn(picture, mask, joints, visible, z, -one.side, edges_of(mask), one.fingers, one.pose,
                 one.kind)


def random_drawn(random: Random, fingers: int = 5, pose: str | None = None, kind: str | None = None,
                 size: tuple[float, float] = (50, 106), angle: float = 15,
                 view: tuple[float, float] = (18, 22), frame: tuple[int, int] = (SIZE, SIZE), stamps: int = 0,
                 worn: bool = False) -> Drawn:
    """One hand near the middle of a picture of `frame` (height, width).

    fingers: 4, 5 or 6; or a `kind` of KINDS instead. pose: one of POSES, or None for any. size: pixels from
    the wrist to the tip of the middle finger, at least and at most. angle: degrees in the picture, at most;
    view: degrees of tilt and turn, at most. stamps: shapes on the backdrop, at most; worn: blur, contrast.
    """
    if kind is None and fingers not in OF_COUNT:
        raise ValueError(f"Drawn hands: fingers are {fingers}; draw 4, 5 or 6, or give a kind")
    kind = kind or OF_COUNT[fingers]
    if kind not in KINDS:
        raise ValueError(f"Drawn hands: kind is {kind!r}; take one of {', '.join(KINDS)}")
    height, width = frame
    long, room = random.uniform(*size), 0.04 * min(frame)
    centre = (width / 2 + random.uniform(-room, room), height / 2 + random.uniform(-room, room))
    one = random_placed(random, kind, pose, long, centre, random.uniform(-angle, angle), view)
    picture, mask = paint(random, backdrop(random, height, width, stamps), one)
    return label(wear(random, picture) if worn else picture, mask, one)


def free_place(random: Random, taken: list[tuple[float, float, float]], size: float,
               frame: tuple[int, int]) -> tuple[float, float] | None:
    """Where a hand of that size hardly covers others (x, y, size), up to a fifth of it cut by the frame."""
    height, width = frame
    margin = 0.3 * size
    for _ in range(12):
        x, y = (random.uniform(margin, max(margin, length - margin)) for length in (width, height))
        if all(math.dist((x, y), one[:2]) > 0.5 * (size + one[2]) for one in taken):
            return x, y
    return None


def random_crowd(random: Random, hands: tuple[int, int] = (0, 3), frame: tuple[int, int] = (SIZE, SIZE),
                 size: tuple[float, float] = (22, 110), angle: float = 180,
                 view: tuple[float, float] = (40, 40)) -> tuple[Tensor, list[Drawn]]:
    """A picture [3,H,W] of clutter with some hands of any kind on it, sizes spread evenly by ratio."""
    height, width = frame
    picture, taken, placed = backdrop(random, height, width), [], []
    for _ in range(random.randint(*hands)):
        long = math.exp(random.uniform(math.log(size[0]), math.log(size[1])))
        where = free_place(random, taken, long, frame)
        if where:
            taken.append((*where, long))
            kind = "regular" if random.random() < 0.5 else random.choice(list(KINDS))
            placed.append(random_placed(random, kind, None, long, where, random.uniform(-angle, angle), view))
    masks: list[Tensor] = []
    for one in placed:
        picture, mask = paint(random, picture, one)
        masks = [*(earlier & ~mask for earlier in masks), mask]
    picture = wear(random, picture)
    return picture, [label(picture, mask, one) for one, mask in zip(placed, masks, strict=True) if mask.any()]


def of_world(scene: Scene) -> Drawn:
    """The labels of a scene of `world.one_hand`; its mask ends at the wrist like all others."""
    [hand] = scene.subjects
    points = hand.joints()
    radii = hand.size * torch.tensor([*RADII, 0.0])
    whole = Body(points, radii, torch.ones(21, dtype=torch.bool), BONES[:-1], [])
    picture = draw(scene).image
    mask = limbs(points, radii, whole.hand, pixel_grid())[0] < 0
    one = Placed(whole, hand.side, 5, hand.pose, "regular", picture, picture)
    return label(picture, mask, one)


def noisy_mask(mask: Tensor, random: Random, strength: float = 0.5) -> Tensor:
    """A detector's version of a mask [H,W] bool: its edge wanders, parts go and come; 0 changes nothing.

    At strength 1 the edge is off by about 3 % of the mask's longer side, and moved by up to 2 %.
    """
    if strength == 0 or not mask.any():
        return mask
    height, width = mask.shape
    x0, y0, x1, y1 = edges_of(mask)
    unit = 0.03 * strength * max(x1 - x0, y1 - y0)
    grid = pixel_grid(height, width)
    waves = smooth_noise(random, height, width, max(4, int(max(height, width) / (6 * unit + 2))), 2)
    moved = grid + 0.8 * unit * waves.permute(1, 2, 0) + 0.66 * unit * noise(random, 2).clamp(-1, 1)
    scale = torch.tensor([2 / width, 2 / height])
    moved = (moved * scale - 1)[None]
    soft = functional.grid_sample(mask.float()[None, None], moved, align_corners=False)[0]
    soft = blur(soft, max(0.3, 0.5 * unit))[0] > random.uniform(0.35, 0.65)
    for _ in range(random.randint(0, 3)):
        at = random.choice(mask.nonzero().tolist())
        disc = (grid - torch.tensor([at[1], at[0]])).norm(dim=-1) < unit * random.uniform(0.5, 1.5)
        soft = soft & ~disc if random.random() < 0.6 else soft | disc
    return soft
