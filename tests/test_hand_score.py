"""Scores of hands: what they measure, what leaves them as they are, how they tell drawn hands apart."""
import math
import pathlib
import sys
from random import Random

import pytest
import torch
from tweedie_pack.controls.hands import silhouette as outline
from tweedie_pack.controls.hands.found import Hand
from tweedie_pack.controls.hands.pose import Fit
from tweedie_pack.controls.hands.score import SCORERS, WEIGHTS, Evidence, change, gather, gather_all, score
from tweedie_pack.demo.drawn_hands import noisy_mask

sys.path.append(str(pathlib.Path(__file__).with_name("bench")))

import hand_score as bench


def reach(apart=1.0):
    """A fit of five straight digits, neighbours at the given distance in sums of their radii."""
    joints, radii = torch.zeros(1, 21, 3), torch.full((1, 21), 4.0)
    for digit in range(5):
        joints[0, 4 * digit + 1:4 * digit + 5, 0] = 8 * apart * digit
        joints[0, 4 * digit + 1:4 * digit + 5, 1] = -30.0 - 20 * torch.arange(4)
    return Fit(joints, radii, torch.ones(1), torch.tensor([0.025]), torch.tensor([0.0]))


SURE = torch.ones(21).index_fill(0, torch.arange(9, 13), 0.2)  # but for the middle finger
EXAMPLE = Evidence(Hand((0, 0, 9, 9), 0.7, torch.zeros(21, 2), SURE), reach(), 0.075, 0.12, 4, 0.1)
GOLDEN = {"confidence": 0.7, "plausibility": 0.2 * 0.5, "silhouette": 2**-0.25 * 0.5,
          "tips": 2**-4, "outside": 0.5}


def drawn(kind="regular", pose="open", seed=0):
    return bench.case(Random(seed), kind, pose).drawn


def hand_of(one, **changes):
    return Hand(one.box, 0.9, one.joints, one.visible, one.side, one.mask)._replace(**changes)


def test_every_row_has_its_golden_part_and_a_weight():
    assert score(EXAMPLE).parts == pytest.approx(GOLDEN, abs=1e-6)
    assert set(SCORERS) == set(WEIGHTS) == set(GOLDEN)
    assert all(weight > 0 for weight, _ in WEIGHTS.values())


def test_no_hand_scores_nothing_and_a_missing_part_adds_nothing():
    assert score(None) == (0.0, {})
    assert gather(torch.zeros(3, 8, 8), None) is None
    neutral = score(EXAMPLE._replace(fit=None, changed=0.0))
    assert neutral.total == pytest.approx(score(EXAMPLE._replace(fit=None, changed=None)).total)
    assert set(score(Evidence(Hand((0, 0, 9, 9), math.nan))).parts) == set()


@pytest.mark.parametrize("what", ["extra", "missing", "changed"])
def test_more_area_or_change_never_raises_the_score(what):
    good = Evidence(Hand((0, 0, 9, 9), 0.9), reach(), 0.0, 0.0, 5, 0.0)
    totals = [score(good._replace(**{what: value})).total for value in torch.linspace(0, 3, 40).tolist()]
    assert totals == sorted(totals, reverse=True) and totals[0] > totals[-1] + 0.02
    assert all(0 <= total <= 1 for total in totals)


def test_tips_say_nothing_of_a_hand_that_is_folded_and_looks_it():
    fist = reach()
    fist.joints[0, 8] = fist.joints[0, 5]
    seen = Evidence(Hand((0, 0, 9, 9), 0.9), fist, 0.1, 0.1, 1)
    assert SCORERS["tips"](seen) is None
    assert SCORERS["tips"](seen._replace(extra=1.0)) == SCORERS["tips"](seen._replace(fit=reach())) < 1e-9
    assert SCORERS["tips"](seen._replace(fit=reach(), tips=5)) == 1


def test_a_digit_that_is_not_sure_or_lies_in_another_is_less_plausible():
    plausible = SCORERS["plausibility"]
    whole = EXAMPLE._replace(hand=EXAMPLE.hand._replace(sure=None))
    assert plausible(whole) > 2 * plausible(EXAMPLE)
    assert plausible(whole._replace(fit=reach(1.5))) == pytest.approx(plausible(whole))
    assert plausible(whole._replace(fit=reach(0.4))) < 0.2 * plausible(whole)


def test_areas_are_counted_in_fingers():
    unit = outline.WORK
    rendered = torch.zeros(2 * unit, 2 * unit, dtype=torch.bool)
    rendered[unit:, unit // 2:unit * 3 // 2] = True
    finger = rendered.clone()
    finger[unit - int(0.45 * unit):unit, unit:unit + int(0.09 * unit)] = True
    seen = outline.View((0, 0, 2 * unit, 2 * unit), rendered, torch.ones_like(rendered), (1.0, 1.0))
    extra, missing = outline.measure(finger, seen)
    assert 0.6 < extra < 1.0 and missing == 0  # less what noise may move
    assert outline.measure(rendered, seen._replace(rendered=finger)) == (missing, extra)
    apart = finger.clone()
    apart[:20, :20] = True  # a spot, or somebody else's hand
    assert outline.measure(apart, seen) == (extra, missing)


def test_what_lies_behind_the_wrist_is_no_finger():
    one = drawn()
    arm = one.mask.clone()
    x, y = one.joints[0].int().tolist()
    arm[y:, x - 8:x + 8] = True
    plain, longer = (gather(one.picture, hand_of(one, mask=mask)) for mask in (one.mask, arm))
    assert longer.extra == pytest.approx(plain.extra, abs=0.05)


@pytest.mark.parametrize("kind", ["regular", "missing", "extra"])
def test_neither_size_nor_place_matters(kind):
    one = drawn(kind)
    hand = hand_of(one)
    plain = gather(one.picture, hand)
    large = gather(one.picture.repeat_interleave(3, 1).repeat_interleave(3, 2), hand._replace(
        joints=3 * hand.joints, mask=hand.mask.repeat_interleave(3, 0).repeat_interleave(3, 1)))
    pad = (37, 20, 11, 90)
    moved = gather(torch.nn.functional.pad(one.picture, pad), hand._replace(
        joints=hand.joints + torch.tensor([37.0, 11.0]), mask=torch.nn.functional.pad(hand.mask, pad)))
    for other in (large, moved):
        assert other.extra == pytest.approx(plain.extra, abs=0.05)
        assert other.missing == pytest.approx(plain.missing, abs=0.05)
        assert score(other).total == pytest.approx(score(plain).total, abs=0.05)


def test_noise_of_a_mask_is_no_finger():
    random = Random(3)
    ones = [drawn(seed=seed) for seed in range(12)]
    seen = gather_all([one.picture for one in ones],
                      [hand_of(one, mask=noisy_mask(one.mask, random, 0.5)) for one in ones])
    assert sum(each.extra + each.missing for each in seen) / len(seen) < 0.08


@pytest.mark.parametrize("pose", ["fist", "pointing", "victory"])
def test_folded_fingers_are_not_missing(pose):
    ones = [drawn(pose=pose, seed=seed) for seed in range(6)]
    seen = gather_all([one.picture for one in ones], [hand_of(one) for one in ones])
    assert max(each.missing for each in seen) < 0.25


def test_wrong_hands_score_below_good_ones():
    kinds = ("regular", "missing", "extra")
    good, less, more = (gather(one.picture, hand_of(one)) for one in map(drawn, kinds))
    assert good.extra < 0.1 > good.missing and less.missing > 0.3 and more.extra > 0.3
    assert score(good).total > 0.7 > 0.4 > max(score(less).total, score(more).total)


def test_colours_stand_in_for_a_mask_where_they_tell():
    ones = [bench.case(Random(seed), "extra", "open") for seed in range(24)]
    hands = [hand_of(one.drawn, mask=None) for one in ones]
    seen = gather_all([one.drawn.picture for one in ones], hands)
    told = [(one, each) for one, each in zip(ones, seen, strict=True) if each.extra is not None]
    assert len(told) > 8
    assert sum(each.extra > 0.15 for _, each in told) > 0.8 * len(told)
    camouflage = gather(torch.full((3, 128, 128), 0.6), hands[0])
    assert camouflage.extra is camouflage.missing is None and camouflage.fit is not None
    assert "silhouette" not in score(camouflage).parts
    empty = gather(ones[0].drawn.picture, hands[0]._replace(mask=torch.zeros(128, 128, dtype=torch.bool)))
    assert (empty.extra, empty.missing) == (seen[0].extra, seen[0].missing)


def test_joints_that_are_not_there():
    one = drawn()
    joints = one.joints.clone()
    joints[8] = math.nan
    seen = gather(one.picture, hand_of(one, joints=joints))
    assert seen.fit is not None and bool(torch.isfinite(seen.fit.joints).all())
    assert seen.missing < 0.25
    for few in (hand_of(one, joints=None), hand_of(one, sure=torch.zeros(21)),
                hand_of(one, joints=torch.full((21, 2), math.nan))):
        assert gather(one.picture, few)[1:] == (None,) * 5


def test_a_hand_without_extent_or_out_of_sight_is_not_measured():
    one = drawn()
    for joints in (torch.full((21, 2), 60.0), one.joints + 5000):
        assert gather(one.picture, hand_of(one, joints=joints)).extra is None


def test_pictures_and_masks_are_checked():
    one = drawn()
    for picture in (one.picture * math.nan, one.picture[:1], one.picture[None]):
        with pytest.raises(ValueError, match=r"Hand score: the picture has shape .*; give"):
            gather(picture, hand_of(one))
    with pytest.raises(ValueError, match=r"Hand score: the hand's mask has shape \[9, 9\]"):
        gather(one.picture, hand_of(one, mask=torch.ones(9, 9, dtype=torch.bool)))


def test_change_is_counted_outside_the_mask_only():
    before, core = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(8, 8)
    core[2:6, 2:6] = 1
    inside = torch.where(core > 0, 1 - before, before)
    assert change(inside, before, core) == 0
    assert change(before + 0.1, before, core) == pytest.approx(0.1, abs=1e-6)
    assert change(before, None, core) is change(before, before, torch.ones(8, 8)) is None


def test_tries_gathered_together_are_those_gathered_alone():
    ones = [drawn(kind) for kind in ("regular", "missing", "extra")]
    hands = [*(hand_of(one) for one in ones), None]
    pictures = [*(one.picture for one in ones), ones[0].picture]
    before, core = torch.zeros(3, 128, 128), torch.zeros(128, 128)
    together = gather_all(pictures, hands, before, core)
    for one, picture, hand in zip(together, pictures, hands, strict=True):
        alone = gather(picture, hand, before, core)
        assert score(one).total == pytest.approx(score(alone).total, abs=1e-3)


@pytest.mark.parametrize(("reader", "signal", "group", "least"), [
    ("dreamer", "extra area", "extra", 0.95), ("doubter", "extra area", "extra", 0.95),
    ("doubter", "missing area", "missing finger", 0.85), ("dreamer", "missing area", "missing finger", 0.85),
    ("dreamer", "score", "extra", 0.9), ("dreamer", "score", "missing finger", 0.85),
    ("doubter", "score", "extra", 0.9), ("doubter", "score", "missing thumb", 0.85)])
def test_fingers_too_many_and_too_few_are_told(told, reader, signal, group, least):
    assert told[reader][signal][group] >= least


@pytest.fixture(scope="module")
def told():
    """AUC of 32 good hands against 32 with a finger more and 32 with one less, open, of all sizes."""
    random = Random(11)
    cases = [bench.case(random, kind, "open") for kind in ("regular", "extra", "missing") for _ in range(32)]
    return {reader.__name__: bench.rates(cases, bench.gathered(cases, reader, random))
            for reader in (bench.dreamer, bench.doubter)}


def test_confidence_stands_in_where_fingers_cannot_be_judged():
    box = Hand((10.0, 10.0, 50.0, 50.0))
    scores = [score(Evidence(box._replace(confidence=sure))) for sure in (0.2, 0.5, 0.6, 0.9)]
    assert not any(one.counted for one in scores) and scores[1].total == 0.5
    assert scores[2].total == pytest.approx(0.6, abs=0.01)
    assert scores[0].total < 0.25 and scores[3].total > 0.8
