"""(picture [3,128,128] in 0..1) -> what it shows of the world: background, brightness, shapes, fingers.

Made for pictures that a model drew: a little blurred, off in colour, imperfect in shape. Nothing here is
learnt, and nothing but `judge` knows what was asked for.
"""
from __future__ import annotations

import math
from functools import cache, partial
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from .world import COLOURS, PLACES, SHAPES, SIZE, Scene, Shape, draw, one_hand, one_shape, two_shapes

NAMES = tuple(COLOURS)
PALETTE = np.array(list(COLOURS.values()), np.float32)  # [8,3]
APART = min(float(np.linalg.norm(a - b)) for i, a in enumerate(PALETTE) for b in PALETTE[:i])
SMALLEST = SIZE * SIZE // 100  # pixels; a smaller region is a stain
# Shapes are compared at CANVAS^2 points, up to REACH * sqrt(area) from the centre, every STEP degrees.
CANVAS, REACH, STEP = 48, 1.0, 6
# Hands: shades of one colour, pixels of the enlarged silhouette's longer side, pixels of blur undone before.
SHADES, HAND, BLUR = (0.6, 1.1), 160, 2.0
# Hands, in radii of the palm: where fingers start, the least that one stands out, a forearm's least reach.
PALM, FINGER, FOREARM = 1.2, 0.65, 1.6


class Seen(NamedTuple):
    """Names of a region's colour, shape and place, its centre and area in pixels, its IoU with the shape."""

    colour: str
    shape: str
    place: str
    x: float
    y: float
    area: float
    fit: float


class Reading(NamedTuple):
    """`brightness` is the mean over pixels and channels, 0..1; `subjects` come largest first."""

    background: str
    brightness: float
    subjects: tuple[Seen, ...]


def pixels(image: Tensor) -> np.ndarray:
    """[S,S,3] of a picture [3,S,S]; ValueError for another shape or dtype, values outside 0..1, NaN."""
    tensor = isinstance(image, Tensor)
    if not (tensor and image.is_floating_point() and image.shape == (3, SIZE, SIZE)):
        got = f"{image.dtype} {list(image.shape)}" if tensor else type(image).__name__
        raise ValueError(f"Reader: needs one float picture [3,{SIZE},{SIZE}], got {got}; convert it first.")
    values = image.detach().float().cpu()
    low, high = float(values.min()), float(values.max())
    if not (low > -1e-3 and high < 1 + 1e-3):  # refuses NaN too
        raise ValueError(f"Reader: needs values in 0..1, got {low:.3g} to {high:.3g}; clamp them first.")
    return values.permute(1, 2, 0).contiguous().numpy()


def ground(picture: np.ndarray) -> np.ndarray:
    """Colour [3] of the background: the median of the border, most of which nothing covers."""
    sides = picture[:2], picture[-2:], picture[:, :2].swapaxes(0, 1), picture[:, -2:].swapaxes(0, 1)
    return np.median(np.concatenate(sides, 1).reshape(-1, 3), 0)


def nearest(colours: np.ndarray) -> np.ndarray:
    """Indices [...] of the palette's colours nearest to `colours` [...,3]."""
    return (np.square(PALETTE).sum(1) - 2 * colours @ PALETTE.T).argmin(-1)


def uniform(kinds: np.ndarray) -> np.ndarray:
    """[S,S]: pixels whose 5 x 5 neighbours are all of one kind: none is an edge's mixed colour."""
    return ndimage.minimum_filter(kinds, 5) == ndimage.maximum_filter(kinds, 5)


def regions(picture: np.ndarray, back: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(mask [S,S], colour [3]) of each connected region unlike the background, parted where colours touch."""
    unlike = np.linalg.norm(picture - back, axis=-1) > APART / 2
    kinds = np.where(unlike, nearest(picture), len(NAMES)).astype(np.uint8)
    pure = unlike & uniform(kinds)
    labels = ndimage.label(unlike)[0]
    large = np.flatnonzero(np.bincount(labels.flat)[1:] >= SMALLEST) + 1
    found = []
    for whole in (labels == index for index in large):
        colours = np.flatnonzero(np.bincount(kinds[whole & pure], minlength=len(NAMES)) > SMALLEST / 4)
        parts = [(whole, whole & pure)]
        if len(colours) > 1:
            hearts = whole & pure & np.isin(kinds, colours)
            rows, columns = ndimage.distance_transform_edt(~hearts, return_indices=True)[1]
            parts = [(whole & (kinds[rows, columns] == k), hearts & (kinds == k)) for k in colours]
        found += [(mask, np.median(picture[heart if heart.any() else mask], 0)) for mask, heart in parts]
    return [(mask, colour) for mask, colour in found if mask.sum() >= SMALLEST]


def cover(picture: np.ndarray, back: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """[S,S] in 0..1: how far each pixel is on the way from the background's colour to the subject's."""
    way = colour - back
    return ((picture - back) @ way / (way @ way)).clip(0, 1)


@cache
def canvas() -> Tensor:
    """Points [C,C,2] around a subject's centre, x first, in units of the root of its area."""
    steps = ((torch.arange(CANVAS) + 0.5) * 2 / CANVAS - 1) * REACH
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], -1)


@cache
def templates() -> Tensor:
    """Every shape at every angle [shapes,angles,C*C], around its centre of mass and with an area of 1."""
    x, y = (canvas() * 1.5 / REACH).unbind(-1)
    turned = []
    for distance in SHAPES.values():
        inside = (distance(x, y) < 0).float()
        unit = math.sqrt(float(inside.mean()) * 9)
        middle = float((inside * y).sum() / inside.sum())  # shapes are even in x
        for angle in range(0, 360, STEP):
            c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            u, v = (canvas() * unit @ torch.tensor([[c, -s], [s, c]])).unbind(-1)
            turned.append((0.5 - distance(u, v + middle) * CANVAS / (2 * REACH * unit)).clamp(0, 1))
    return torch.stack(turned).reshape(len(SHAPES), 360 // STEP, -1)


def name_shape(mask: np.ndarray, x: float, y: float) -> tuple[str, float]:
    """The name of the shape that overlaps a soft mask [S,S] around (x, y) best, at any angle; their IoU."""
    at = (canvas() * math.sqrt(float(mask.sum())) + torch.tensor([x, y])) * 2 / SIZE - 1
    seen = functional.grid_sample(torch.from_numpy(mask)[None, None], at[None], align_corners=False).flatten()
    shared = templates() @ seen
    overlap = (shared / (templates().square().sum(-1) + seen @ seen - shared)).amax(1)
    return list(SHAPES)[int(overlap.argmax())], float(overlap.max())


def look(picture: np.ndarray, back: np.ndarray, region: np.ndarray, colour: np.ndarray) -> Seen:
    """Measures a region [S,S] of a colour [3], its edge's pixels counted as far as they are covered."""
    mask = np.where(region, cover(picture, back, colour), 0).astype(np.float32)
    area = float(mask.sum())
    steps = np.arange(SIZE) + 0.5
    x, y = float(mask.sum(0) @ steps / area), float(mask.sum(1) @ steps / area)
    shape, fit = name_shape(mask, x, y)
    place = min(PLACES, key=lambda name: math.dist(PLACES[name], (x / SIZE, y / SIZE)))
    return Seen(NAMES[nearest(colour)], shape, place, x, y, area, fit)


def read(image: Tensor) -> Reading:
    """What a picture [3,128,128] in 0..1 shows, taken for shapes; ValueError for another input."""
    picture = pixels(image)
    back = ground(picture)
    seen = [look(picture, back, *region) for region in regions(picture, back)]
    return Reading(NAMES[nearest(back)], float(picture.mean()), tuple(sorted(seen, key=lambda s: -s.area)))


def silhouette(picture: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The largest region with its folds and shadows: mask [H,W], enlarged to `HAND` pixels; colour [3].

    A pixel is inside if a shade of the colour is nearer than the background is.
    """
    unlike = np.linalg.norm(picture - back, axis=-1)
    labels = ndimage.label(unlike > APART / 2)[0]
    sizes = np.bincount(labels.flat)[1:]
    if sizes.max(initial=0) < SMALLEST:
        return None
    region = labels == 1 + sizes.argmax()
    heart = region & uniform(region)
    colour = np.median(picture[heart if heart.any() else region], 0)
    shade = (picture @ colour / (colour @ colour).clip(1e-6)).clip(*SHADES)
    amiss = np.linalg.norm(picture - shade[..., None] * colour, axis=-1)
    soft = unlike / (unlike + amiss).clip(1e-6)
    sharp = np.where(region, 3 * soft - 2 * ndimage.gaussian_filter(soft, BLUR), 0)  # gaps of fingers reopen
    [box] = ndimage.find_objects(region.astype(np.uint8))
    part = torch.from_numpy(sharp[box].astype(np.float32))[None, None]
    fine = functional.interpolate(part, scale_factor=HAND / max(part.shape), mode="bilinear")[0, 0]
    return ndimage.binary_fill_holes(np.pad(fine.numpy(), 1) > 0.5), colour


def tips(away: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of all that stands out from a hand by `FINGER`; `away` [H,W] is how far the palm is.

    A circle around the palm shrinks, and what lies outside falls into pieces, one for each tip. Where two
    meet, the nearer tip ends; it counts if it was `FINGER` farther out.
    """
    growing: list[tuple[int, int]] = []  # the farthest first
    found = []
    for level in np.arange(away.max(), PALM, -0.1):
        labels, count = ndimage.label(away >= level, np.ones((3, 3)))
        farthest = {labels[tip]: tip for tip in reversed(growing)}
        found += [tip for tip in growing if farthest[labels[tip]] != tip and away[tip] - level >= FINGER]
        new = [ndimage.maximum_position(away, labels, k) for k in range(1, count + 1) if k not in farthest]
        growing = [tip for tip in growing if farthest[labels[tip]] == tip] + new
    return found + [tip for tip in growing if away[tip] - PALM >= FINGER]


def raised(solid: np.ndarray) -> int:
    """Tips beside or above the palm, the largest disc inside a mask [H,W]; -1 without a forearm below it."""
    inside = ndimage.distance_transform_edt(solid)
    palm = np.unravel_index(inside.argmax(), solid.shape)
    down, right = (np.indices(solid.shape) - np.reshape(palm, (2, 1, 1))) / inside[palm].clip(1)
    away = np.where(solid, np.hypot(right, down), 0)
    below = down > abs(right)
    return sum(not below[tip] for tip in tips(away)) if away[below].max(initial=0) > FOREARM else -1


def read_hand(picture: np.ndarray, back: np.ndarray) -> tuple[int, str]:
    """(raised fingers, name of the colour) of the largest region; (-1, "") in an empty picture."""
    found = silhouette(picture, back)
    return (raised(found[0]), NAMES[nearest(found[1])]) if found else (-1, "")


def count_fingers(image: Tensor) -> int:
    """Raised fingers, any number, of the hand in a picture [3,128,128] in 0..1; -1 if there is no forearm.

    Holds for hands of 50 pixels and more from wrist to fingertip. ValueError for another input.
    """
    picture = pixels(image)
    return read_hand(picture, ground(picture))[0]


def judge_shapes(asked: tuple[Shape, ...], seen: tuple[Seen, ...]) -> dict[str, bool]:
    """Each asked shape against the seen one nearest to its place; anything else there makes `place` wrong."""
    right = {"colour": bool(seen), "shape": bool(seen), "place": len(seen) == len(asked)}
    for subject in asked if seen else ():
        middle = [SIZE * share for share in PLACES[subject.place]]
        match = min(seen, key=lambda one, middle=middle: math.dist((one.x, one.y), middle))
        right = {key: value and getattr(match, key) == getattr(subject, key) for key, value in right.items()}
    return right


def judge(scene: Scene, image: Tensor) -> dict[str, bool]:
    """Does a picture [3,128,128] in 0..1 show what was asked? ValueError for another input.

    background; of shapes colour, shape and place, each right for all of them, and nothing but them;
    of a hand fingers, and colour if it wears a glove.
    """
    picture = pixels(image)
    back = ground(picture)
    right = {"background": NAMES[nearest(back)] == scene.background}
    first = scene.subjects[0]
    if isinstance(first, Shape):
        return right | judge_shapes(scene.subjects, read(image).subjects)
    fingers, colour = read_hand(picture, back)
    right["fingers"] = fingers == first.fingers
    return right | ({"colour": colour == first.glove} if first.glove else {})


def error_rates(count: int, seed: int) -> dict[str, tuple[float, int]]:
    """On clean pictures of `count` scenes a kind: "kind, key" -> (share judged wrong, of how many)."""
    random = Random(seed)
    kinds = {"one shape": one_shape, "two shapes": two_shapes,
             "large hand": partial(one_hand, small=False), "small hand": partial(one_hand, small=True)}
    right: dict[str, list[bool]] = {}
    for kind, draft in kinds.items():
        for scene in (draft(random) for _ in range(count)):
            for key, value in judge(scene, draw(scene).image).items():
                right.setdefault(f"{kind}, {key}", []).append(value)
    return {key: (values.count(False) / len(values), len(values)) for key, values in right.items()}
