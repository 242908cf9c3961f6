"""controls/hands/tips.py: how many digits stand out of an outline."""
from random import Random

import pytest
import torch
from tweedie_pack.controls.hands.tips import count_tips
from tweedie_pack.demo.drawn_hands import noisy_mask, random_drawn

WRIST = (50.0, 95.0)


def comb(*heights):
    """A fan from the wrist to 16 pixels a tooth at row 60 of 100 x 100, with teeth of these heights on it."""
    mask = torch.zeros(100, 100, dtype=torch.bool)
    half, left = 8 * len(heights), 50 - 8 * len(heights)
    for row in range(60, 96):
        reach = 4 + round((half - 4) * (95 - row) / 35)
        mask[row, 50 - reach:50 + reach] = True
    for number, height in enumerate(heights):
        mask[60 - height:60, left + 16 * number + 3:left + 16 * number + 13] = True
    return mask


@pytest.mark.parametrize("heights", [(50,), (50, 50), (40, 50, 45), (30, 40, 50, 40), (30, 40, 50, 40, 30)])
def test_teeth_are_counted(heights):
    assert count_tips(comb(*heights), WRIST, 100.0) == len(heights)


def test_stubs_and_specks_are_not():
    assert count_tips(comb(50, 3, 50), WRIST, 100.0) == 2
    speck = comb(50, 50)
    speck[5:9, 92:96] = True
    assert count_tips(speck, WRIST, 100.0) == 2
    assert count_tips(torch.zeros(20, 20, dtype=torch.bool), WRIST, 100.0) == 0
    assert count_tips(torch.ones(1, 1, dtype=torch.bool), (0.5, 0.5), 100.0) in (0, 1)


@pytest.mark.parametrize("times", [2, 4])
def test_the_pictures_size_does_not_matter(times):
    large = comb(40, 50, 45).repeat_interleave(times, 0).repeat_interleave(times, 1)
    assert count_tips(large, (50.0 * times, 95.0 * times), 100.0 * times) == 3


@pytest.mark.parametrize("fingers", [4, 5])
def test_fingers_of_open_hands_are_counted_under_noise(fingers):
    """Of 24 drawn hands with noisy masks at most a sixth is miscounted."""
    right = 0
    for seed in range(24):
        random = Random(1000 * fingers + seed)
        drawn = random_drawn(random, fingers=fingers, pose="open")
        long = float(drawn.joints[[0, 9, 10, 11, 12]].diff(dim=0).norm(dim=1).sum())
        mask = noisy_mask(drawn.mask, random, 0.3)
        right += count_tips(mask, tuple(drawn.joints[0].tolist()), long) == fingers
    assert right >= 20
