"""controls/hands/template.py: which fits are believed, and the open hand that stands in for the others."""
from random import Random

import pytest
import torch
from tweedie_pack.controls.hands.found import Hand
from tweedie_pack.controls.hands.pose import fit_hands
from tweedie_pack.controls.hands.prepare import fits_of
from tweedie_pack.controls.hands.template import open_hand, trusted
from tweedie_pack.demo.drawn_hands import random_drawn


def drawn(seed, **kind):
    one = random_drawn(Random(seed), **kind)
    return Hand(one.box, joints=one.joints, side=one.side, mask=one.mask)


def fit(hand):
    return fit_hands(hand.joints[None], torch.ones(1, 21), torch.tensor([hand.side]))


@pytest.mark.parametrize("seed", range(4))
def test_an_open_hand_takes_place_size_and_turn_from_the_hand(seed):
    hand = drawn(seed, fingers=5, pose="open", angle=180)
    one = open_hand(hand, hand.side)
    tips = one.joints[0, :, :2]
    assert int(one.side[0]) == hand.side and float(one.residual[0]) < 0.02
    assert float((tips - hand.joints).norm(dim=1).mean()) < 0.15 * hand.long
    left, top, right, bottom = hand.box
    assert abs(float(tips.amax(0).sub(tips.amin(0)).max()) - hand.long) < 0.2 * hand.long
    assert left - 5 < float(tips[:, 0].mean()) < right + 5 and top - 5 < float(tips[:, 1].mean()) < bottom + 5


def test_a_fit_is_believed_where_it_covers_the_mask():
    hand = drawn(1, fingers=5, pose="open")
    assert trusted(fit(hand), hand) and trusted(fit(hand), hand._replace(mask=None))
    elsewhere = hand._replace(mask=hand.mask.roll(40, 1))
    assert not trusted(fit(hand), elsewhere)


def test_what_is_not_believed_gets_open_hands_to_take_turns_with():
    hand = drawn(1, fingers=5, pose="open")
    assert len(fits_of(hand)) == 1 and len(fits_of(hand._replace(side=0))) == 2
    folded = hand._replace(joints=hand.joints.mean(0) + 0.2 * (hand.joints - hand.joints.mean(0)))
    fits = fits_of(folded)
    assert len(fits) == 2 and [int(one.side[0]) for one in fits] == [hand.side] * 2
    assert [int(one.side[0]) for one in fits_of(folded._replace(side=0))] == [1, -1, 1, -1]
    assert fits_of(hand._replace(joints=None)) == ()


def test_joints_that_are_nan_do_not_stop_a_fit():
    hand = drawn(1, fingers=5, pose="open")
    joints = hand.joints.clone()
    joints[8] = torch.nan
    assert all(bool(torch.isfinite(one.joints).all()) for one in fits_of(hand._replace(joints=joints)))
