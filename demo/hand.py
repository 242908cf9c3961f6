"""(pose, size, angle, tilt, side) -> joints [21,3] of a hand in pixels, and the depth of its capsules.

Palms face the viewer; side 1 has the thumb at the left, as a left hand has, and -1 is its mirror image.

Joints are numbered as in MediaPipe and OpenPose: 0 wrist, then four per digit from the thumb to the little
finger. Lengths are fractions of the hand's size, which is a little more than from the wrist to the tip of the
middle finger. Metacarpals have the ratios of computed tomography, 67.7, 66.1, 58.0 and 52.3 mm; fingers those
of 63.9, 70.7, 65.5 and 53.3 mm beyond the palm's edge (Chatzioglou et al. 2024), which lies past the knuckle,
so that bones counted from there are longer; phalanges stand as about 2.2 : 1.3 : 1.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

FINGERS = ("thumb", "index", "middle", "ring", "little")
POSES = {  # raised: thumb, index, middle, ring, little
    "open": (1, 1, 1, 1, 1),
    "fist": (0, 0, 0, 0, 0),
    "pointing": (0, 1, 0, 0, 0),
    "victory": (0, 1, 1, 0, 0),
}
FAN = (14.0, 2.0, -10.0, -21.0)  # degrees of the metacarpals from the axis of the hand, towards the thumb
METACARPALS = (0.40, 0.39, 0.355, 0.325)
PHALANGES = ((0.235, 0.135, 0.105), (0.255, 0.150, 0.112), (0.237, 0.142, 0.110), (0.190, 0.108, 0.098))
THUMB = (0.25, 0.19, 0.15)
CURL = (82.0, 105.0, 60.0)  # degrees by which each joint of a folded finger bends towards the palm
RADII = (0.080, 0.075, 0.062, 0.052, 0.042,  0.066, 0.053, 0.046, 0.038,  0.068, 0.055, 0.047, 0.039,
         0.066, 0.052, 0.045, 0.038,  0.060, 0.046, 0.040, 0.034)
BONES = (
    *((0 if k == 1 else 4 * f + k - 1, 4 * f + k) for f in range(5) for k in range(1, 5)),
    (5, 9), (9, 13), (13, 17), (1, 5), (2, 5), (2, 9), (0, 21))  # the web of the palm; 21 ends the forearm


def chain(start: Tensor, angles: list[float], lifts: list[float], lengths: tuple[float, ...]) -> list[Tensor]:
    """Joints after `start` [3]: each bone points `angle` degrees off the axis and `lift` to the viewer."""
    joints = []
    for angle, lift, length in zip(angles, lifts, lengths, strict=True):
        a, b = math.radians(angle), math.radians(lift)
        step = torch.tensor([-math.sin(a) * math.cos(b), math.cos(a) * math.cos(b), math.sin(b)])
        start = start + length * step
        joints.append(start)
    return joints


def template(pose: str, spread: float = 1.0, bend: float = 0.0) -> Tensor:
    """Joints [22,3] of a left hand, palm to the viewer, fingers along +y, of length 1; 21 is the forearm.

    `spread` scales the fan of raised fingers, `bend` in degrees flexes their joints.
    """
    raised = POSES[pose]
    joints = [torch.zeros(3)]
    base = torch.tensor([-0.09, 0.09, 0.02])
    if raised[0]:
        angles, lifts = [44 * spread, 36 * spread, 32 * spread], [10.0, 10.0, 10.0 + bend]
    else:
        angles, lifts = [30.0, -12.0, -62.0], [25.0, 28.0, 12.0]
    joints += [base, *chain(base, angles, lifts, THUMB)]
    for up, fan, metacarpal, bones in zip(raised[1:], FAN, METACARPALS, PHALANGES, strict=True):
        [knuckle] = chain(joints[0], [fan], [0.0], (metacarpal,))
        joints.append(knuckle)
        if up:
            joints += chain(knuckle, [fan * spread * 1.25] * 3, [bend, 2 * bend, 3 * bend], bones)
        else:
            curl = [sum(CURL[:k + 1]) for k in range(3)]
            joints += chain(knuckle, [0.3 * fan] * 3, curl, bones)
    return torch.stack([*joints, torch.tensor([0.0, -0.55, 0.0])])


def rotation(angle: float, tilt: float, turn: float) -> Tensor:
    """[3,3]: turn about the hand's axis, tilt towards the viewer, then rotate in the picture; degrees."""
    (ca, sa), (ct, st), (cu, su) = ((math.cos(math.radians(v)), math.sin(math.radians(v)))
                                    for v in (angle, tilt, turn))
    return (torch.tensor([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]])
            @ torch.tensor([[1.0, 0, 0], [0, ct, -st], [0, st, ct]])
            @ torch.tensor([[cu, 0, su], [0, 1.0, 0], [-su, 0, cu]]))


def place(joints: Tensor, centre: tuple[float, float], size: float, side: int, turned: Tensor) -> Tensor:
    """Joints in pixels, x right, y down, z to the viewer; the middle of the hand comes to `centre`."""
    mirrored = (joints - torch.tensor([0.0, 0.45, 0.0])) * torch.tensor([float(side), 1.0, 1.0])
    pixels = size * mirrored @ turned.T
    return pixels * torch.tensor([1.0, -1.0, 1.0]) + torch.tensor([*centre, 0.0])


def capsules(joints: Tensor, size: float, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the silhouette [H,W] (negative inside, right up to 2 pixels outside) and depth [H,W].

    `grid` [H,W,2] holds the pixels' centres, x first; depth is in pixels, -inf outside. A capsule's radius
    runs linearly from joint to joint, and each is drawn in its own box only.
    """
    height, width, _ = grid.shape
    distance, depth = torch.full((height, width), 1e3), torch.full((height, width), -math.inf)
    radii = size * torch.tensor([*RADII, 0.95 * RADII[0]])
    for a, b in BONES:
        ends = joints[[a, b]]
        reach = float(radii[[a, b]].max()) + 2
        (left, top), (right, bottom) = ends[:, :2].amin(0).tolist(), ends[:, :2].amax(0).tolist()
        rows = slice(max(int(top - reach), 0), max(int(bottom + reach) + 1, 0))
        columns = slice(max(int(left - reach), 0), max(int(right + reach) + 1, 0))
        along = ends[1] - ends[0]
        relative = grid[rows, columns] - ends[0, :2]
        u = (relative @ along[:2] / (along[:2] @ along[:2]).clamp_min(1e-6)).clamp(0, 1)
        radius = radii[a] + (radii[b] - radii[a]) * u
        square = (relative - u[..., None] * along[:2]).square().sum(-1)
        near = ends[0, 2] + u * along[2] + (radius**2 - square).clamp_min(0).sqrt()
        depth[rows, columns] = depth[rows, columns].maximum(near.masked_fill(square > radius**2, -math.inf))
        distance[rows, columns] = distance[rows, columns].minimum(square.sqrt() - radius)
    return distance, depth
