"""A rendered hand is what balls along its bones would draw, at every size, and sits in its scene."""
import time

import pytest
import torch
from random_hands import random_hands
from tweedie_pack.controls.hands.pose import Fit, fit_hands
from tweedie_pack.controls.hands.render import (
    PALM,
    WEB,
    box,
    cone,
    depth_map,
    into_crop,
    pose_map,
    silhouette,
    surface,
)
from tweedie_pack.controls.hands.skeleton import BONES


def hands(count=4, size=64, seed=2):
    """A Fit of random hands in the middle of a square picture."""
    _, points, side = random_hands(count, seed, flexion=1.2)
    return fit_hands(points * 0.75 * size + size / 2, torch.ones(count, 21), side)


def balls(joints, radii, along=800, across=160):
    """Very many balls [N,4] on the way between the joints of each part."""
    ends = torch.cat([joints, radii[:, None]], 1).double()
    u = torch.linspace(0, 1, along + 1).double()[:, None]
    yield from (ends[a] + u * (ends[b] - ends[a]) for a, b in BONES + WEB)
    v = torch.linspace(0, 1, across + 1).double()
    weights = torch.stack(torch.meshgrid(v, v, indexing="ij"), -1).flatten(0, 1)
    weights = weights[weights.sum(1) <= 1 + 1e-9]
    yield from (ends[a] + weights @ (ends[[b, c]] - ends[a]) for a, b, c in PALM)


def brute(joints, radii, size):
    y, x = torch.meshgrid(*(torch.arange(side).double() + 0.5 for side in size), indexing="ij")
    z = torch.full(size, -torch.inf).double()
    for part in balls(joints, radii):
        for some in part.split(256):
            dx, dy, dz, radius = (value[:, None, None] for value in some.unbind(1))
            inside = radius**2 - (x - dx) ** 2 - (y - dy) ** 2
            z = z.maximum(torch.where(inside > 0, dz + inside.clamp_min(0).sqrt(), -torch.inf).amax(0))
    return z


def test_depth_is_that_of_a_brute_force_render():
    for joints, radii in zip(*hands(2, 28)[:2], strict=True):
        mine, theirs = surface(joints, radii, (28, 28)), brute(joints, radii, (28, 28)).float()
        assert torch.equal(mine > -torch.inf, theirs > -torch.inf)
        torch.testing.assert_close(depth_map(mine), depth_map(theirs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("b", [[16, 16, 40, 3], [17, 16, 30, 9], [16.5, 16, -20, 2], [26, 20, 5, 4],
                               [16, 16, 0, 5]])
def test_a_cone_that_points_anywhere_is_exact(b):
    """Even at the viewer, where its length in the picture is less than its radii differ."""
    a, b = [16.0, 16.0, 0.0, 6.0], [float(value) for value in b]
    y, x = torch.meshgrid(*(torch.arange(32) + 0.5 for _ in range(2)), indexing="ij")
    best = torch.full((32, 32), -torch.inf).double()
    for u in torch.linspace(0, 1, 4001).double().tolist():
        cx, cy, cz, radius = (start + u * (end - start) for start, end in zip(a, b, strict=True))
        inside = radius**2 - (x.double() - cx) ** 2 - (y.double() - cy) ** 2
        best = best.maximum(torch.where(inside > 0, cz + inside.clamp_min(0).sqrt(), -torch.inf))
    mine = cone(a, b, box((0, 0), (32, 32), best)).double()
    both = (mine > -torch.inf) & (best > -torch.inf)
    assert int(((mine > -torch.inf) != (best > -torch.inf)).sum()) <= 2
    assert float((mine - best)[both].abs().max()) < 5e-3


def test_maps_agree_at_every_size():
    fit = hands(3, 96)
    for joints, radii in zip(fit.joints, fit.radii, strict=True):
        once, thrice = surface(joints, radii, (96, 96)), surface(3 * joints, 3 * radii, (288, 288))
        torch.testing.assert_close(thrice[1::3, 1::3] / 3, once, atol=2e-3, rtol=0)  # the same centres
        mean = (thrice > -torch.inf).float().unflatten(0, (96, 3)).unflatten(2, (96, 3)).mean((1, 3))
        assert float((mean - (once > -torch.inf).float()).abs().mean()) < 0.02


def test_the_palm_has_no_hole():
    for joints, radii in zip(*hands(8, 128, seed=9)[:2], strict=True):
        inside = silhouette(joints, radii, (128, 128))
        for corners in PALM:
            x, y = joints[list(corners), :2].mean(0).int().tolist()
            assert bool(inside[y, x])


def test_near_is_white_and_the_rest_black():
    joints, radii = hands(1).joints[0], hands(1).radii[0]
    z = surface(joints, radii, (64, 64))
    depth = depth_map(z)
    inside = silhouette(joints, radii, (64, 64))
    assert torch.equal(depth == 0, ~inside) and float(depth[inside].min()) == pytest.approx(0.2)
    assert float(depth.max()) == pytest.approx(1) and depth.argmax() == z.argmax()
    order = z[inside].argsort()
    assert bool((depth[inside][order].diff() >= 0).all())


def test_a_hand_sits_in_its_scene():
    z = surface(hands(1).joints[0], hands(1).radii[0], (64, 64))
    inside = z > -torch.inf
    scene = torch.linspace(0.1, 0.3, 64)[:, None].expand(64, 64).clone()
    height = (z - z[inside].min()) / (z[inside].max() - z[inside].min())
    scene[inside] = 0.5 + 0.2 * height[inside]
    torch.testing.assert_close(depth_map(z, scene), scene, atol=1e-5, rtol=0)  # it was right already
    blurred = scene.clone()
    blurred[inside] = scene[inside].mean()  # an estimator that saw no hand's relief
    placed = depth_map(z, blurred)
    assert torch.equal(placed[~inside], scene[~inside])
    assert float(placed[inside].median()) == pytest.approx(float(blurred[inside].median()), abs=0.03)
    assert float(placed[inside].max() - placed[inside].min()) == pytest.approx(0.05, abs=1e-4)


def test_depth_stays_in_its_range_and_keeps_its_order():
    z = surface(hands(1).joints[0], hands(1).radii[0], (64, 64))
    for level in (0.0, 1.0):
        placed = depth_map(z, torch.full((64, 64), level))
        assert float(placed.min()) >= 0 and float(placed.max()) <= 1
        assert len(placed[z > -torch.inf].unique()) > 100


def test_no_hand_leaves_the_scene_as_it_is():
    nothing = surface(hands(1).joints[0] + 1e4, hands(1).radii[0], (16, 24))
    assert nothing.shape == (16, 24) and not bool((nothing > -torch.inf).any())
    assert torch.equal(depth_map(nothing), torch.zeros(16, 24))
    scene = torch.rand(16, 24)
    assert torch.equal(depth_map(nothing, scene), scene)
    with pytest.raises(ValueError, match=r"background has shape \[8, 8\].*; give both"):
        depth_map(nothing, torch.zeros(8, 8))


def test_pose_maps_are_controlnets():
    cv2 = pytest.importorskip("cv2")
    from colorsys import hsv_to_rgb

    import numpy as np
    joints = hands(3, 256).joints[..., :2]
    for places in joints:
        mine = (pose_map(places, None, (256, 256)) * 255).round().byte()
        theirs = np.zeros((256, 256, 3), np.uint8)
        whole = [tuple(map(int, place)) for place in places.tolist()]
        for number, (a, b) in enumerate(BONES):
            colour = [255 * value for value in hsv_to_rgb(number / 20, 1, 1)]
            cv2.line(theirs, whole[a], whole[b], colour, thickness=2)
        for place in whole:
            cv2.circle(theirs, place, 4, (0, 0, 255), thickness=-1)
        theirs = torch.from_numpy(theirs).permute(2, 0, 1)
        drawn, expected = mine.any(0), theirs.any(0)
        assert float((drawn & expected).sum() / (drawn | expected).sum()) > 0.9
        near = (mine.int() - theirs.int()).abs().amax(0) <= 1  # halves are rounded either way
        assert float((near & expected).sum() / expected.sum()) > 0.85
        assert int(near[5:-5, 5:-5].logical_not().sum()) < 0.2 * int(expected.sum())


def test_joints_that_were_not_found_are_not_drawn():
    places = torch.stack([torch.arange(21) * 10.0 + 12, torch.full((21,), 20.0)], 1)
    sure = torch.ones(21)
    sure[1:5] = 0
    picture = pose_map(places, sure, (40, 240))
    assert picture.shape == (3, 40, 240) and picture[:, 20, 12].tolist() == [0, 0, 1]
    assert not bool((picture[:, 20, 22] - torch.tensor([0.0, 0.0, 1.0])).abs().sum() == 0)
    nothing = pose_map(places, torch.zeros(21), (40, 240))
    assert not bool(nothing.any())
    assert torch.equal(pose_map(places - 1e4, None, (40, 240)), nothing)  # outside
    assert bool(pose_map(torch.full((21, 2), 0.5), None, (8, 8)).any())  # all in one place


def test_a_crop_shows_the_same_hand():
    fit = hands(2, 64)
    crop = into_crop(fit, (8, 16, 56, 64), (96, 96))
    assert isinstance(crop, Fit)
    torch.testing.assert_close(crop.joints, (fit.joints - torch.tensor([8.0, 16.0, 0.0])) * 2)
    torch.testing.assert_close(crop.radii, fit.radii * 2)
    whole = surface(fit.joints[0] * 2, fit.radii[0] * 2, (128, 128))[32:, 16:112]
    torch.testing.assert_close(surface(crop.joints[0], crop.radii[0], (96, 96)), whole, atol=1e-3, rtol=0)
    wide = into_crop(fit, (0, 0, 64, 64), (64, 128))
    torch.testing.assert_close(wide.joints[..., 0], 2 * fit.joints[..., 0])
    torch.testing.assert_close(wide.joints[..., 1], fit.joints[..., 1])


def test_a_hand_is_quickly_drawn():
    fit = hands(4, 512)
    surface(fit.joints[0], fit.radii[0], (512, 512))
    begun = time.process_time()
    for joints, radii in zip(fit.joints, fit.radii, strict=True):
        surface(joints, radii, (512, 512))
    assert (time.process_time() - begun) / 4 < 0.05  # half of it where nothing else runs
