"""(count, seed) -> random hands of the skeleton and what a camera sees of them; shared by tests and bench."""
import math

import torch
from tweedie_pack.controls.hands.pose import quaternion, rotation_vector, seen
from tweedie_pack.controls.hands.skeleton import STATE, joints_of


def compose(first, then):
    """The rotation vector of one rotation vector after another, [N,3]."""
    (a, *u), (b, *v) = quaternion(then).unbind(-1), quaternion(first).unbind(-1)
    u, v = torch.stack(u, -1), torch.stack(v, -1)
    scalar = a * b - (u * v).sum(-1)
    return rotation_vector(torch.cat([scalar[:, None], a[:, None] * v + b[:, None] * u
                                      + torch.linalg.cross(u, v)], -1))


def random_states(count, generator, tilt=0.9, flexion=0.72):
    """[N,32]: palm or back shown, tilted by up to `tilt` radians, any way up; fingers bend together."""
    def uniform(*shape):
        return torch.rand(*shape, generator=generator)
    axis = torch.randn(count, 3, generator=generator)
    tilted = axis / axis.norm(dim=1, keepdim=True) * uniform(count, 1) * tilt
    facing = torch.zeros(count, 3)
    facing[:, 1] = math.pi * (uniform(count) > 0.5)
    upright = torch.zeros(count, 3)
    upright[:, 2] = (2 * uniform(count) - 1) * math.pi
    state = torch.zeros(count, STATE)
    state[:, :3] = compose(compose(facing, tilted), upright)
    fingers = torch.zeros(count, 4, 4)
    common = flexion * uniform(count, 1)
    fingers[..., 0] = (2 * uniform(count, 4) - 1) * 0.2
    fingers[..., 1], fingers[..., 2] = common * uniform(count, 4), 1.3 * common * uniform(count, 4)
    fingers[..., 3] = 0.667 * fingers[..., 2] + 0.05 * torch.randn(count, 4, generator=generator)
    state[:, 6:22] = fingers.flatten(1)
    state[:, 22:25] = (2 * uniform(count, 3) - 1) * 0.25
    state[:, 25:27] = 0.5 * uniform(count, 2)
    state[:, 27:] = 0.04 * torch.randn(count, 5, generator=generator)
    return state


def random_hands(count, seed=0, **ranges):
    """joints [N,21,3] with boxes of side 1, points [N,21,2] of them, and sides [N]."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.where(torch.rand(count, generator=generator) > 0.5, 1, -1)
    joints = joints_of(random_states(count, generator, **ranges), side)
    for _ in range(3):  # perspective changes the box
        points = seen(joints)[0]
        size = (points.amax(1) - points.amin(1)).amax(-1)
        joints = joints / size[:, None, None]
        points = seen(joints)[0]
        middle = (points.amax(1) + points.amin(1)) / 2
        joints = joints - torch.cat([middle, torch.zeros_like(size)[:, None]], 1)[:, None]
    return joints, seen(joints)[0], side
