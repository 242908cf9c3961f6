"""Drawn hands: labels that belong to their pictures, kinds that show what they say, seeds that fix all."""
from random import Random

import pytest
import torch
from tweedie_pack.demo.clutter import BACKDROPS, blur, squeeze, wear
from tweedie_pack.demo.digits import KINDS
from tweedie_pack.demo.drawn_hands import noisy_mask, of_world, random_crowd, random_drawn
from tweedie_pack.demo.hand import POSES
from tweedie_pack.demo.world import one_hand


def check(drawn, height, width):
    assert drawn.picture.shape == (3, height, width) and 0 <= drawn.picture.min() <= drawn.picture.max() <= 1
    assert drawn.mask.shape == (height, width) and drawn.mask.dtype == torch.bool
    assert drawn.joints.shape == (21, 2) and drawn.visible.shape == drawn.z.shape == (21,)
    x0, y0, x1, y1 = drawn.box
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert drawn.mask[int(y0):int(y1), int(x0):int(x1)].sum() == drawn.mask.sum() > 0
    assert drawn.side in (1, -1)


def within(drawn, joint):
    """Whether a joint lies on the mask, give or take a pixel."""
    x, y = drawn.joints[joint].int().tolist()
    return bool(drawn.mask[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2].any())


@pytest.mark.parametrize("kind", KINDS)
def test_labels_belong_to_the_picture(kind):
    random = Random(kind)
    for _ in range(8):
        drawn = random_drawn(random, kind=kind)
        check(drawn, 128, 128)
        assert all(within(drawn, k) for k in range(21) if drawn.visible[k])
        assert drawn.kind == kind and 2 <= drawn.fingers <= 6


@pytest.mark.parametrize("fingers", (4, 5, 6))
def test_digits_are_as_many_as_asked_for(fingers):
    random = Random(fingers)
    for _ in range(8):
        drawn = random_drawn(random, fingers, "open")
        assert drawn.fingers == fingers and drawn.pose == "open"
        digits = drawn.visible[1:].view(5, 4)
        assert int(digits.amin(1).sum()) == int(digits.amax(1).sum()) == min(fingers, 5)


def test_a_missing_finger_is_not_drawn_where_its_tip_would_be():
    random = Random(0)
    shown = [within(drawn, 4 * k + 4) for drawn in (random_drawn(random, 4, "open") for _ in range(20))
             for k in range(5) if not drawn.visible[4 * k + 4]]
    assert len(shown) == 20 and not any(shown)


def test_a_sixth_finger_adds_area():
    def area(fingers):
        random = Random(3)
        return sum(int(random_drawn(random, fingers, "open", size=(90, 90)).mask.sum()) for _ in range(20))
    assert area(4) < area(5) < area(6)


@pytest.mark.parametrize("frame", ((64, 200), (256, 192)))
def test_crowds_of_any_size(frame):
    random = Random(5)
    counts = []
    for _ in range(8):
        picture, hands = random_crowd(random, (1, 4), frame)
        counts.append(len(hands))
        for hand in hands:
            check(hand, *frame)
            assert hand.picture is picture
        assert sum(hand.mask.int() for hand in hands).max() <= 1
    assert min(counts) >= 1 and max(counts) > 1


def test_the_worlds_hands_are_labelled_as_they_are_drawn():
    random = Random(1)
    for _ in range(10):
        scene = one_hand(random)
        drawn = of_world(scene)
        check(drawn, 128, 128)
        assert torch.equal(drawn.joints, scene.subjects[0].joints()[:21, :2]) and drawn.fingers == 5
        assert all(within(drawn, k) for k in range(21))


def test_a_seed_fixes_everything():
    for draw in (random_drawn, lambda random: random_crowd(random)[1][0] if random.random() >= 0 else None):
        one, two, other = draw(Random(11)), draw(Random(11)), draw(Random(12))
        assert torch.equal(one.picture, two.picture) and torch.equal(one.mask, two.mask)
        assert not torch.equal(one.picture, other.picture)


def test_what_can_not_be_drawn_is_refused():
    with pytest.raises(ValueError, match="fingers are 7"):
        random_drawn(Random(0), 7)
    with pytest.raises(ValueError, match="kind is 'claw'"):
        random_drawn(Random(0), kind="claw")
    with pytest.raises(ValueError, match="pose is 'wave'.*open"):
        random_drawn(Random(0), pose="wave")
    assert set(POSES) == {random_drawn(Random(0), pose=pose).pose for pose in POSES}


def overlap(one, two):
    return float((one & two).sum() / (one | two).sum())


def test_masks_get_worse_with_strength():
    random = Random(2)
    masks = dict(enumerate(random_drawn(random, size=(80, 100)).mask for _ in range(10)))
    mean = {strength: sum(overlap(mask, noisy_mask(mask, Random(k), strength)) for k, mask in masks.items())
            / len(masks) for strength in (0.0, 0.3, 0.6, 1.0)}
    assert mean[0.0] == 1 and mean[0.0] > mean[0.3] > mean[0.6] > mean[1.0] > 0.7
    assert not noisy_mask(torch.zeros(8, 8, dtype=torch.bool), random).any()


@pytest.mark.parametrize("paint", BACKDROPS)
def test_backdrops_and_wear_keep_range_and_size(paint):
    random = Random(4)
    picture = paint(random, 45, 70)
    assert picture.shape == (3, 45, 70) and picture.min() >= 0 and picture.max() <= 1
    for _ in range(6):
        worn = wear(random, picture)
        assert worn.shape == (3, 45, 70) and worn.min() >= 0 and worn.max() <= 1


def test_blur_and_squeeze_leave_a_plain_picture_alone():
    plain = torch.full((3, 20, 30), 0.25)
    assert torch.allclose(blur(plain, 1.3), plain, atol=1e-6)
    assert torch.allclose(squeeze(plain, 0.01), plain, atol=0.01)
    edge = torch.zeros(3, 16, 16)
    edge[..., 8:] = 1
    assert 0.3 < blur(edge, 1.0)[0, 8, 7] < 0.5 and squeeze(edge, 1e-4).sub(edge).abs().max() < 1e-3
