"""(points [B,21,2], sure [B,21], side [B]) -> Fit: the five-finger hands that they suggest, in depth too.

Of a state of `skeleton`, with joints J, the fit is where
    sum_i sure_i rho(|project(J_i) - points_i|) + NOISE^2 (|A (state - rest)|^2 + |beyond limits|^2)
is least, by Levenberg-Marquardt (Marquardt 1963) from several starts, all hands in one batch; rho is Huber's.
Hands are measured by their own boxes, so that nothing depends on the picture's size. Nothing is random.

Points alone don't tell a right hand from a left one: only what joints can't do speaks for an unknown side, in
about three of four drawn hands rightly, and a wrong side turns depth inside out.
"""
from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from .skeleton import HAND, LIMITS, RADII, STATE, THUMB_LIMITS, joints_of, motion

FOCAL = 4.0  # distance of the camera, in boxes of the hand
NEAREST = 1.0  # no joint comes nearer to it
HUBER = 0.04  # of the box: beyond it a point counts as astray
NOISE = 0.015  # of the box: how far points are thought to be off
REST = (0.25, 0.35, 0.23)  # radians at knuckle, middle and end joint
SPREAD, BEND, FOLLOW, ALIKE, THUMB = 0.15, 1.2, 0.2, 0.4, 0.35  # deviations in radians, as in `belief`
LENGTH, LIMIT = 0.1, 0.1  # of logs of digits' lengths, and beyond a limit
STARTS, STEPS = 6, 12
CERTAIN = 0.1  # of the surest joint: those below it don't stretch the box
TILTS = ((0.0, 0.0), (0.6, 0.0), (-0.6, 0.0), (0.0, 0.6), (0.0, -0.6))  # radians about x, then y, of starts
BENDS = (0.1, 0.7, 1.4)  # radians at knuckles, and at middle joints


class Fit(NamedTuple):
    """joints [B,21,3] and radii [B,21] are pixels as seen: x right, y down, z to the viewer, 0 in its middle.

    side [B] is 1 for a right hand, -1 for a left one: the one given, or of an unknown hand the one of lower
    energy, no more than a hint. residual [B] is the mean distance of the sure points as a
    fraction of their box's longer side; energy [B] counts what is against the hand being one, too.
    """

    joints: Tensor
    radii: Tensor
    side: Tensor
    energy: Tensor
    residual: Tensor


def check(points: Tensor, sure: Tensor, side: Tensor) -> None:
    count = len(points)
    if points.shape != (count, 21, 2) or sure.shape != (count, 21) or side.shape != (count,):
        raise ValueError(f"Hand pose: points have shape {list(points.shape)}, sure {list(sure.shape)}, side "
                         f"{list(side.shape)}; give [B,21,2], [B,21] and [B]")
    for name, values in (("points", points), ("sure", sure)):
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"Hand pose: {name} hold NaN or infinity; give numbers, and sure 0 for joints "
                             "that were not found")
    if count and (float(sure.min()) < 0 or not bool(((side >= -1) & (side <= 1)).all())):
        raise ValueError("Hand pose: sure is below 0, or side is none of 1, -1 and 0; give both as they are "
                         "in a Hand")


@lru_cache(maxsize=1)
def belief() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is thought of states, on the CPU: A'A [32,32], that at rest [32], limits low and high [32]."""
    rows, rest = [], torch.zeros(STATE)

    def think(deviation: float, *terms: tuple[int, float]) -> None:
        """That the sum of state[place] * factor is as at rest, give or take a deviation."""
        row = torch.zeros(STATE)
        for place, factor in terms:
            row[place] = factor / deviation
        rows.append(row)

    for finger in range(4):
        abduction, knuckle, middle, end = range(6 + 4 * finger, 10 + 4 * finger)
        rest[knuckle], rest[middle], rest[end] = REST
        rest[25:27] = REST[1] / 2
        think(SPREAD, (abduction, 1))
        think(BEND, (knuckle, 1))
        think(BEND, (middle, 1))
        think(FOLLOW, (end, 1), (middle, -2 / 3))
        if finger < 3:
            think(ALIKE, (knuckle, 1), (knuckle + 4, -1))
            think(ALIKE, (middle, 1), (middle + 4, -1))
    for place in range(22, 25):
        think(THUMB, (place, 1))
    for place in (25, 26):  # the thumb folds with the middle and ring finger
        think(THUMB, (place, 1), (12, -1 / 4), (16, -1 / 4))
    for place in range(27, STATE):
        think(LENGTH, (place, 1))
    low, high = torch.full((STATE,), -math.inf), torch.full((STATE,), math.inf)
    fingers, thumb = torch.tensor(LIMITS)[:, [0, 1, 3, 4]].repeat(1, 4), torch.tensor(THUMB_LIMITS)
    low[6:22], high[6:22] = fingers.deg2rad()
    low[22:27], high[22:27] = thumb.deg2rad()
    stack = torch.stack(rows)
    return stack.T @ stack, rest, low, high


def seen(joints: Tensor) -> tuple[Tensor, Tensor]:
    """Joints [...,3] as a camera in front of the hand sees them [...,2], and their magnification [...]."""
    larger = FOCAL / (FOCAL - joints[..., 2]).clamp_min(NEAREST)
    return joints[..., :2] * larger[..., None], larger


@lru_cache(maxsize=1)
def library() -> tuple[Tensor, Tensor]:
    """States [K,32] of hands bent and seen in different ways, and their points [2,K,21,2]: right, left."""
    states = []
    for facing, (tilt, yaw), knuckle, middle in product((0.0, math.pi), TILTS, BENDS, BENDS):
        state = torch.zeros(STATE)
        half = (facing + yaw) / 2
        q = (math.cos(half) * math.cos(tilt / 2), math.cos(half) * math.sin(tilt / 2),
             math.sin(half) * math.cos(tilt / 2), -math.sin(half) * math.sin(tilt / 2))
        state[:3] = rotation_vector(torch.tensor([q]))[0]
        state[6:22] = torch.tensor([0.0, knuckle, middle, 2 / 3 * middle]).repeat(4)
        states.append(state)
    stack = torch.stack(states)
    sides = torch.ones(len(stack))
    return stack, torch.stack([joints_of(stack, side)[..., :2] for side in (sides, -sides)])


def rotation_vector(q: Tensor) -> Tensor:
    """Unit quaternions [...,4], w first -> rotation vectors [...,3] no longer than pi."""
    q = torch.where(q[..., :1] < 0, -q, q)
    length = q[..., 1:].norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return q[..., 1:] * (2 * torch.atan2(length, q[..., :1]) / length)


def quaternion(vector: Tensor) -> Tensor:
    angle = vector.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return torch.cat([(angle / 2).cos(), vector * ((angle / 2).sin() / angle)], -1)


def begin(points: Tensor, sure: Tensor, side: Tensor) -> Tensor:
    """The STARTS states [N,STARTS,32] of the library that come nearest when moved, turned and scaled."""
    states, views = (part.to(points) for part in library())
    shapes = views[(side < 0).long()]  # [N,K,21,2]
    weight = (sure / sure.sum(1, keepdim=True).clamp_min(1e-6))[:, None, :, None]
    centre, middle = (points[:, None] * weight).sum(2), (shapes * weight).sum(2)
    x, y = (points[:, None] - centre[:, :, None]).expand_as(shapes).unbind(-1)
    a, b = (shapes - middle[:, :, None]).unbind(-1)
    weight = weight[..., 0]
    power = (weight * (a * a + b * b)).sum(-1).clamp_min(1e-6)
    cos, sin = (weight * (a * x + b * y)).sum(-1) / power, (weight * (a * y - b * x)).sum(-1) / power
    error = (weight * (x * x + y * y)).sum(-1) - (cos * cos + sin * sin) * power
    best = error.topk(STARTS, 1, largest=False).indices
    cos, sin = cos.gather(1, best), sin.gather(1, best)
    result = states[best]
    half = torch.atan2(-sin, cos) / 2  # y points down in pictures, so that z turns the other way
    w, i, j, k = quaternion(result[..., :3]).unbind(-1)
    c, s = half.cos(), half.sin()
    turned = torch.stack([c * w - s * k, c * i - s * j, c * j + s * i, c * k + s * w], -1)
    result[..., :3] = rotation_vector(turned)
    a, b = middle.gather(1, best[..., None].expand(-1, -1, 2)).unbind(-1)
    result[..., 3:5] = centre - torch.stack([cos * a - sin * b, sin * a + cos * b], -1)
    result[..., 5] = (cos * cos + sin * sin).sqrt().clamp(0.05, 20).log()
    return result


class Ground(NamedTuple):
    """Where a state [N,32] stands: its energy [N], and the normal equations' matrix and slope."""

    energy: Tensor
    matrix: Tensor
    slope: Tensor


def survey(state: Tensor, points: Tensor, sure: Tensor, side: Tensor) -> Ground:
    square, rest, low, high = (part.to(state) for part in belief())
    joints, moved = motion(state, side)
    view, larger = seen(joints)
    slopes = larger[..., None, None] * (moved[..., :2, :] + view[..., None] / FOCAL * moved[..., 2:, :])
    error = view - points
    distance = error.norm(dim=-1)
    weight = (sure * (HUBER / distance.clamp_min(HUBER)))[..., None]
    beyond = ((state - high).relu() - (low - state).relu()) / LIMIT
    push = (state - rest) @ square
    flat = slopes.flatten(1, 2)
    weighted = (slopes * weight[..., None]).flatten(1, 2)
    matrix = weighted.mT @ flat + NOISE**2 * (square + torch.diag_embed((beyond != 0) / LIMIT**2))
    slope = (weighted.mT @ error.flatten(1)[..., None])[..., 0] + NOISE**2 * (push + beyond / LIMIT)
    rho = torch.where(distance < HUBER, distance.square(), 2 * HUBER * distance - HUBER**2)
    thought = ((state - rest) * push).sum(-1) + beyond.square().sum(-1)
    return Ground((sure * rho).sum(-1) + NOISE**2 * thought, matrix, slope)


def descend(state: Tensor, points: Tensor, sure: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """STEPS damped steps of every state [N,32], none of them upward. Returns states and energies."""
    damping = torch.full_like(state[:, 0], 1e-2)
    ground = survey(state, points, sure, side)
    for _ in range(STEPS):
        diagonal = ground.matrix.diagonal(dim1=1, dim2=2)
        factor, _ = torch.linalg.cholesky_ex(
            ground.matrix + torch.diag_embed(damping[:, None] * (diagonal + 1e-4) + 1e-7))
        tried = state - torch.cholesky_solve(ground.slope[..., None], factor)[..., 0]
        there = survey(tried, points, sure, side)
        lower = there.energy < ground.energy
        state = torch.where(lower[:, None], tried, state)
        ground = Ground(torch.where(lower, there.energy, ground.energy),
                        torch.where(lower[:, None, None], there.matrix, ground.matrix),
                        torch.where(lower[:, None], there.slope, ground.slope))
        damping = torch.where(lower, damping * 0.4, damping * 5).clamp(1e-6, 1e3)
    return state, ground.energy


def measure(points: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
    """Middle [B,2] and longer side [B] of the box around the sure points; at least a millionth of a pixel."""
    kept = (sure > CERTAIN * sure.amax(1, keepdim=True))[..., None] | (sure.amax(1) <= 0)[:, None, None]
    low = points.masked_fill(~kept, math.inf).amin(1)
    high = points.masked_fill(~kept, -math.inf).amax(1)
    return (low + high) / 2, (high - low).amax(-1).clamp_min(1e-6)


def search(points: Tensor, sure: Tensor, side: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points in boxes, [B,21,2] -> each hand's best state [B,32], its side [B] and energy [B]."""
    unknown = (side == 0).nonzero()[:, 0]
    hand = torch.cat([torch.arange(len(points), device=points.device), unknown])
    sides = torch.cat([torch.where(side == 0, 1, side), -torch.ones_like(unknown)]).to(points)
    starts = begin(points[hand], sure[hand], sides)
    lanes = [value.repeat_interleave(STARTS, 0) for value in (points[hand], sure[hand], sides)]
    state, energy = descend(starts.flatten(0, 1), *lanes)
    energy, best = energy.unflatten(0, (-1, STARTS)).min(1)
    pick = torch.arange(len(points), device=points.device)
    twin = pick.clone()
    twin[unknown] = torch.arange(len(points), len(hand), device=points.device)
    pick = torch.where(energy[twin] < energy[pick], twin, pick)
    return state[pick * STARTS + best[pick]], sides[pick], energy[pick]


def fit_hands(points: Tensor, sure: Tensor, side: Tensor) -> Fit:
    """points [B,21,2] in pixels, sure [B,21] (0 = ignore), side [B]: 1 right, -1 left, 0 unknown -> Fit.

    Joints that are not sure end where a hand would have them. Of an unknown side both are tried. Raises
    ValueError for NaN or wrong shapes.
    """
    check(points, sure, side)
    points = points.detach().float()
    sure, side = sure.detach().to(points), side.to(points.device)
    if not len(points):
        return Fit(points.new_zeros(0, 21, 3), points.new_zeros(0, 21), side.long(), *points.new_zeros(2, 0))
    centre, long = measure(points, sure)
    normal = (points - centre[:, None]) / long[:, None, None]
    state, side, energy = search(normal, sure, side)
    joints = joints_of(state, side)
    view, larger = seen(joints)
    apart = (view - normal).norm(dim=-1)
    radii = torch.tensor(RADII).to(points) / HAND * state[:, 5:6].exp() * larger * long[:, None]
    pixels = torch.cat([view * long[:, None, None] + centre[:, None],
                        joints[..., 2:] * long[:, None, None]], -1)
    residual = (apart * sure).sum(1) / sure.sum(1).clamp_min(1e-6)
    return Fit(pixels, radii, side.long(), energy, residual)
