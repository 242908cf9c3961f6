"""A fitted hand lies on its points, has its depth the right way round, and is finite whatever comes in."""
import itertools
import time

import pytest
import torch
from random_hands import random_hands, random_states
from tweedie_pack.controls.hands.pose import fit_hands
from tweedie_pack.controls.hands.skeleton import BONES, FINGERS, STATE, joints_of, motion
from tweedie_pack.demo import hand as drawn

SIZE, PLACE = 300.0, 400.0  # pixels of the hand's box, and where it is


def noisy(points, noise, seed=3):
    return points + noise * torch.randn(points.shape, generator=torch.Generator().manual_seed(seed))


def fit(points, side, sure=None):
    """A Fit of points in boxes of side 1, and its joints in them [N,21,3]."""
    sure = torch.ones(len(points), 21) if sure is None else sure
    result = fit_hands(points * SIZE + PLACE, sure, side)
    return result, (result.joints - torch.tensor([PLACE, PLACE, 0.0])) / SIZE


def miss(joints, points):
    return (joints[..., :2] - points).norm(dim=-1)


def right_order(true, fitted):
    """Share of pairs of joints, apart in depth by 6 % of the hand, of which the right one is nearer."""
    one, other = (joints[:, :, None, 2] - joints[:, None, :, 2] for joints in (true, fitted))
    apart = one.abs() > 0.06
    return float(((one * other > 0) & apart).sum() / apart.sum())


def demo_hands():
    """Joints [N,21,3] in boxes of side 1 and sides of the demo's hands; its side 1 is a left hand's shape."""
    joints, sides = [], []
    for pose, tilt, turn, side in itertools.product(drawn.POSES, (-22, 22), (-22, 0, 22), (1, -1)):
        turned = drawn.rotation(15.0 * len(joints), tilt, turn)
        joints.append(drawn.place(drawn.template(pose, bend=5.0)[:21], (0.0, 0.0), 1.0, side, turned))
        sides.append(-side)
    joints = torch.stack(joints)
    low, high = joints[..., :2].amin(1), joints[..., :2].amax(1)
    middle = torch.cat([(low + high) / 2, torch.zeros(len(joints), 1)], 1)
    return (joints - middle[:, None]) / (high - low).amax(1)[:, None, None], torch.tensor(sides)


def test_the_skeleton_is_a_right_hand_and_its_mirror_a_left_one():
    right, left = joints_of(torch.zeros(2, STATE), torch.tensor([1, -1]))
    tips = right[[4, 8, 12, 16, 20]]
    assert bool((tips[:-1, 0] > tips[1:, 0]).all())  # palm to the viewer, fingers up: the thumb at the right
    assert bool((right[0, 1] > right[1:, 1]).all()) and bool((right[:, 2] >= 0).all())
    torch.testing.assert_close(left, right * torch.tensor([-1.0, 1.0, 1.0]))
    assert len(FINGERS) == 5 and len(BONES) == 20
    assert float(right[0, 1] - right[12, 1]) == pytest.approx(1, abs=0.01)


def test_fingers_bend_to_the_palm():
    state = torch.zeros(1, STATE)
    state[:, [7, 8, 9, 11, 12, 13]] = 0.5
    bent = joints_of(state, torch.ones(1))[0]
    assert bool((bent[[6, 7, 8, 10, 11, 12], 2] > 0.05).all()) and float(bent[16:, 2].abs().max()) < 1e-6


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_derivative_is_that_of_the_joints(scale):
    generator = torch.Generator().manual_seed(0)
    states = scale * torch.randn(3, STATE, generator=generator).double()
    side = torch.tensor([1, -1, 1])
    joints, moved = motion(states, side)
    torch.testing.assert_close(joints, joints_of(states, side))
    expected = torch.autograd.functional.jacobian(lambda state: joints_of(state, side), states)
    expected = torch.stack([expected[i, :, :, i] for i in range(3)])
    torch.testing.assert_close(moved, expected, atol=2e-6, rtol=0)


def test_bones_keep_their_lengths():
    states = random_states(8, torch.Generator().manual_seed(0))
    states[:, 27:] = 0
    joints = joints_of(states, torch.ones(8))
    ends = torch.tensor(BONES)
    lengths = (joints[:, ends[:, 0]] - joints[:, ends[:, 1]]).norm(dim=-1)
    torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths))


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02])
@pytest.mark.parametrize("hands", ["of the skeleton", "well bent", "of the demo"])
def test_a_fit_lies_within_the_noise_and_has_its_depth_in_order(hands, noise):
    if hands == "of the demo":
        true, side = demo_hands()
        points = true[..., :2]
    else:
        true, points, side = random_hands(48, 1, flexion=0.72 if hands == "of the skeleton" else 1.4)
    result, joints = fit(noisy(points, noise), side)
    shift = noise * (torch.pi / 2) ** 0.5  # the mean length of noise in two dimensions
    own = 0.003 if hands != "of the demo" else 0.011  # bones and limits of its own
    assert float(miss(joints, points).mean()) <= max(1.3 * shift, shift + own)
    assert float(result.residual.mean()) <= max(1.3 * shift, shift + own)
    assert right_order(true, joints) >= 0.83
    assert torch.equal(result.side, side)


def test_the_wrong_side_turns_depth_inside_out():
    true, points, side = random_hands(48, 1)
    assert right_order(true, fit(noisy(points, 0.01), -side)[1]) < 0.4


def test_of_an_unknown_side_the_lower_energy_wins():
    _, points, side = random_hands(16, 4)
    points = noisy(points, 0.01)
    right, left = (fit(points, torch.full((16,), s))[0] for s in (1, -1))
    unknown = fit(points, torch.zeros(16, dtype=torch.long))[0]
    assert torch.equal(unknown.side, torch.where(left.energy < right.energy, -1, 1))
    torch.testing.assert_close(unknown.energy, torch.minimum(left.energy, right.energy), atol=1e-5, rtol=1e-3)
    mixed = fit(points, torch.where(torch.arange(16) % 2 == 0, side, 0))[0]
    assert torch.equal(mixed.side[::2], side[::2]) and torch.equal(mixed.side[1::2], unknown.side[1::2])


def test_a_hidden_finger_ends_where_a_hand_would_have_it():
    """Its garbage points are ignored; what is told of it comes from its neighbours."""
    _, points, side = random_hands(32, 5)
    astray = []
    for digit in range(5):
        sure = torch.ones(32, 21)
        sure[:, 4 * digit + 1:4 * digit + 5] = 0
        given = noisy(points, 0.01)
        given[:, 4 * digit + 1:4 * digit + 5] = 7.0
        astray.append(miss(fit(given, side, sure)[1], points)[:, 4 * digit + 4])
    assert float(torch.stack(astray).median()) < 0.12
    assert float(torch.stack(astray)[1:].median(1).values.max()) < 0.12


def test_one_point_far_astray_does_not_bend_the_rest():
    _, points, side = random_hands(16, 6)
    given = points.clone()
    given[:, 12] += torch.tensor([0.3, -0.2]) * given[:, 12].sign()
    joints = fit(given, side)[1]
    others = torch.arange(21) < 9
    assert float(miss(joints, points)[:, others].mean()) < 0.02


def test_it_means_the_same_at_every_size_and_in_every_batch():
    _, points, side = random_hands(6, 7)
    sure = torch.ones(6, 21)
    whole = fit_hands(points * 256 + 100, sure, side)
    larger = fit_hands(points * 1024 + 400, sure, side)
    torch.testing.assert_close(larger.joints / 4, whole.joints, atol=0.05, rtol=0)
    torch.testing.assert_close(larger.radii / 4, whole.radii, atol=0.02, rtol=0)
    single = fit_hands(points[2:3] * 256 + 100, sure[:1], side[2:3])
    torch.testing.assert_close(single.joints[0], whole.joints[2], atol=0.05, rtol=0)


@pytest.mark.parametrize("side", [1, 0])
@pytest.mark.parametrize("points", [torch.zeros(21, 2), torch.full((21, 2), 50.0), torch.rand(21, 2) * 1e6,
                                    torch.eye(21)[:, :2], torch.linspace(0, 9, 42).view(21, 2)],
                         ids=["zero", "equal", "noise", "two points", "a line"])
def test_senseless_points_give_something_finite(points, side):
    for sure in (torch.ones(1, 21), torch.zeros(1, 21), torch.eye(21)[:1]):
        for part in fit_hands(points[None], sure, torch.tensor([side])):
            assert bool(torch.isfinite(part.float()).all())


def test_no_hands_are_no_hands():
    empty = fit_hands(torch.zeros(0, 21, 2), torch.zeros(0, 21), torch.zeros(0))
    assert empty.joints.shape == (0, 21, 3) and empty.energy.shape == (0,)


@pytest.mark.parametrize(("points", "sure", "side", "words"), [
    (torch.full((1, 21, 2), torch.nan), torch.ones(1, 21), torch.ones(1), "points hold NaN or inf.*; give"),
    (torch.ones(1, 21, 2), torch.full((1, 21), torch.inf), torch.ones(1), "sure hold NaN or infinity; give"),
    (torch.ones(21, 2), torch.ones(21), torch.ones(1), r"points have shape \[21, 2\].*; give \[B,21,2\]"),
    (torch.ones(1, 20, 2), torch.ones(1, 20), torch.ones(1), "; give"),
    (torch.ones(1, 21, 2), torch.ones(1, 21), torch.ones(2), "; give"),
    (torch.ones(1, 21, 2), -torch.ones(1, 21), torch.ones(1), "sure is below 0.*; give"),
    (torch.ones(1, 21, 2), torch.ones(1, 21), torch.full((1,), 2), "none of 1, -1 and 0; give"),
])
def test_what_is_wrong_is_told(points, sure, side, words):
    with pytest.raises(ValueError, match=words):
        fit_hands(points, sure, side)


def test_one_hand_takes_less_than_a_tenth_of_a_second():
    _, points, side = random_hands(1, 8)
    fit(points, side)
    begun = time.process_time()
    for _ in range(3):
        fit(points, side)
    assert (time.process_time() - begun) / 3 < 0.1
