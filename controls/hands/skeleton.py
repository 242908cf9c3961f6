"""(state [B,32], side [B]) -> joints [B,21,3] of a hand: five digits of fixed bones, bent within limits.

Joints are numbered as in MediaPipe and OpenPose: 0 wrist, then four a digit from the thumb on. x points
right, y down, z to the viewer; lengths are in hands, from joint 0 to the tip of a straight middle finger. In
state 0 a right hand (side 1) shows the viewer its palm, fingers up, and so has its thumb at the right.

The 32 numbers: rotation vector (3), place x and y, log of the size, abduction and flexion of the knuckle,
middle and end joint of four fingers from the index on (16, radians), the thumb's abduction, flexion, twist,
middle and end joint (5), and logs of the five digits' lengths.

Bones: metacarpals by computed tomography, 67.7, 66.1, 58.0 and 52.3 mm; the thumb and all phalanges, with the
flesh of the tips, after Buryanov & Kotiuk 2010, "Proportions of hand segments". They add up to more than the
fingers of Chatzioglou et al. 2024, counted from the palm's edge. Joint 0 lies in the carpus.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

FINGERS = ("thumb", "index", "middle", "ring", "little")  # digit f owns joints 4f+1 to 4f+4
BONES = tuple((0 if k == 1 else 4 * f + k - 1, 4 * f + k) for f in range(5) for k in range(1, 5))
STATE = 32
CARPUS = 14.0  # mm from joint 0 to the metacarpals
METACARPALS = (67.7, 66.1, 58.0, 52.3)
LENGTHS = ((46.2, 31.6, 27.3), (39.8, 22.4, 19.7), (44.6, 26.3, 21.4), (41.4, 25.7, 21.3), (32.7, 18.1, 19.7))
FAN = (14.0, 2.0, -10.5, -22.0)  # degrees of metacarpals from the hand's axis towards the thumb
THUMB_BASE = (17.0, 16.0, 4.0)  # mm, of a right hand
THUMB_AWAY, THUMB_LIFT, THUMB_TWIST = 44.0, 10.0, 65.0  # degrees: from the axis, to the viewer, about itself
RADII = (14.0, 13.0, 10.5, 9.0, 7.5, 11.5, 9.2, 8.0, 6.6, 11.8, 9.5, 8.2, 6.8,
         11.5, 9.1, 7.8, 6.6, 10.5, 8.0, 7.0, 6.0)  # mm
LIMITS = ((-20, -30, 0, -5, -10), (20, 95, 0, 110, 85))  # degrees; the third is the twist that fingers lack
THUMB_LIMITS = ((-35, -45, -40, -10, -20), (35, 45, 40, 70, 85))

HAND = CARPUS + METACARPALS[1] + sum(LENGTHS[2])
MIDDLE = 0.5  # of a hand, from joint 0: what turns and grows stays there
SPARE = STATE  # a column of zeros, for the twist that fingers lack
COLUMNS = ((22, 23, 24, 25, 26, 27),  # where in a state each digit has its five angles, and its length
           *((6 + 4 * f, 7 + 4 * f, SPARE, 8 + 4 * f, 9 + 4 * f, 28 + f) for f in range(4)))
PIVOTS = (0, 0, 1, 1, 2)  # the joint of a digit about which each of its angles turns


def turn(axis: int, angle: Tensor) -> Tensor:
    """Rotations [..., 3, 3] about x, y or z by angles in radians."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = ((one, zero, zero, zero, cos, -sin, zero, sin, cos),
            (cos, zero, sin, zero, one, zero, -sin, zero, cos),
            (cos, -sin, zero, sin, cos, zero, zero, zero, one))[axis]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def cross_matrix(vector: Tensor) -> Tensor:
    """[..., 3] -> the matrix [..., 3, 3] of its cross product."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def rotate(vector: Tensor) -> tuple[Tensor, Tensor]:
    """A rotation vector w [B,3] -> the rotation R [B,3,3], and L [B,3,3] with R(w + dw) = exp(L dw) R(w)."""
    square = vector.square().sum(-1)[:, None, None] + 1e-12
    angle = square.sqrt()
    small = angle < 1e-2
    safe = torch.where(small, torch.ones_like(angle), angle)
    first = torch.where(small, 1 - square / 6, safe.sin() / safe)
    second = torch.where(small, 0.5 - square / 24, (1 - safe.cos()) / safe.square())
    third = torch.where(small, 1 / 6 - square / 120, (1 - first) / safe.square())
    cross, one = cross_matrix(vector), torch.eye(3).to(vector)
    return one + first * cross + second * cross @ cross, one + second * cross + third * cross @ cross


def template(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First joints [5,3] of the digits, their frames [5,3,3] (y along, flexion about x) and bones [5,3]."""
    angles = [math.radians(-angle) for angle in FAN]  # the right hand's thumb is at the right, at +x
    starts = [THUMB_BASE, *(((CARPUS + bone) * -math.sin(angle), (CARPUS + bone) * math.cos(angle), 0.0)
                          for bone, angle in zip(METACARPALS, angles, strict=True))]
    frames = turn(2, torch.tensor([math.radians(-THUMB_AWAY), *angles]))
    frames[0] = frames[0] @ turn(0, torch.tensor(math.radians(THUMB_LIFT)))
    return torch.tensor(starts).to(like) / HAND, frames.to(like), torch.tensor(LENGTHS).to(like) / HAND


def bend(params: Tensor) -> tuple[Tensor, Tensor]:
    """Joints [B,5,4,3] of the digits before the hand is placed, and the axes [B,5,5,3] of their angles."""
    spared = torch.cat([params, torch.zeros_like(params[:, :1])], -1)
    table = torch.tensor(COLUMNS, device=params.device)
    angles, logs = spared[:, table].split((5, 1), -1)
    starts, frames, bones = template(params)
    twist = torch.zeros_like(angles[0, :, 2])
    twist[0] = math.radians(-THUMB_TWIST)
    first = frames @ turn(2, angles[..., 0])
    flexed = first @ turn(0, angles[..., 1])
    turned = flexed @ turn(1, angles[..., 2] + twist)
    second = turned @ turn(0, angles[..., 3])
    third = second @ turn(0, angles[..., 4])
    along = torch.stack([frame[..., 1] for frame in (flexed, second, third)], -2)
    ends = starts[:, None] + (along * (bones * logs.exp())[..., None]).cumsum(-2)
    axes = torch.stack([frames[..., 2].expand_as(first[..., 0]), first[..., 0], flexed[..., 1],
                        turned[..., 0], turned[..., 0]], -2)
    return torch.cat([starts[:, None].expand_as(ends[..., :1, :]), ends], -2), axes


def placing(params: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix [B,3,3] from hands at rest to placed ones, and L [B,3,3] of `rotate`."""
    rotation, left = rotate(params[:, :3])
    mirror = torch.ones_like(params[:, :3])
    mirror[:, 0] = side.to(params)
    return params[:, 5, None, None].exp() * rotation * mirror[:, None], left


def put(matrix: Tensor, joints: Tensor, params: Tensor) -> Tensor:
    """Wrist and digits [B,5,4,3] at rest -> joints [B,21,3] about the hand's middle, y still up."""
    local = torch.cat([torch.zeros_like(joints[:, 0, :1]), joints.flatten(1, 2)], 1)
    middle = torch.tensor((0.0, MIDDLE, 0.0)).to(params)
    return (local - middle) @ matrix.mT


def joints_of(params: Tensor, side: Tensor) -> Tensor:
    """States [B,32] and sides [B] (1 right, -1 left) -> joints [B,21,3]; differentiable."""
    matrix, _ = placing(params, side)
    x, y, z = put(matrix, bend(params)[0], params).unbind(-1)
    return torch.stack([x + params[:, 3:4], params[:, 4:5] - y, z], -1)


def motion(params: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """joints_of(params, side), and its derivative [B,21,3,32]: axis x lever for every angle."""
    matrix, left = placing(params, side)
    joints, axes = bend(params)
    lever = joints[:, :, :, None] - joints[:, :, None, PIVOTS]  # [B, digit, joint, angle, 3]
    beyond = torch.arange(4, device=params.device)[:, None] > torch.tensor(PIVOTS, device=params.device)
    swing = torch.linalg.cross(axes[:, :, None].expand_as(lever), lever) * beyond[..., None]
    local = torch.cat([swing, (joints - joints[:, :, :1])[:, :, :, None]], 3)  # and the log of the length
    local = local @ matrix[:, None, None].mT
    placed = put(matrix, joints, params)
    result = placed.new_zeros(len(params), 21, STATE + 1, 3)
    result[:, :, :3] = torch.linalg.cross(left.mT[:, None].expand(-1, 21, 3, 3),
                                          placed[:, :, None].expand(-1, -1, 3, 3))
    result[:, :, 5] = placed
    for digit, columns in enumerate(COLUMNS):
        result[:, 4 * digit + 1:4 * digit + 5, columns] = local[:, digit]
    flip = placed.new_tensor((1.0, -1.0, 1.0))
    result = result * flip
    result[:, :, 3, 0] = result[:, :, 4, 1] = 1
    place = torch.cat([params[:, 3:5], torch.zeros_like(params[:, :1])], -1)
    return placed * flip + place[:, None], result[:, :, :STATE].mT
