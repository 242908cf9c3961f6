"""controls/hands/repair.py: never worse, more tries never hurt, nothing outside the mask, alike in batch."""
import itertools
import logging

import pytest
import torch
from tweedie_pack.controls.hands.crop import Limits
from tweedie_pack.controls.hands.found import Hand
from tweedie_pack.controls.hands.prepare import MOST, Settings
from tweedie_pack.controls.hands.repair import Try, batches, choose, repair
from tweedie_pack.controls.hands.sketch import mask_of, sketch
from tweedie_pack.controls.hands.strip import strip

LIMITS = Limits(64, 128, 8, 8)
SETTINGS = Settings(candidates=3, cells_per_finger=1.0)
ONE = (Hand((20.0, 30.0, 60.0, 66.0)),)
TWO = (*ONE, Hand((130.0, 40.0, 172.0, 80.0)))


def noisy(count=1, seed=0, height=120, width=200):
    """Dark pictures: the brighter a hand is, the surer is the detector."""
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 0.3


def find(picture):
    """A detector of one hand, in the middle, that is as sure of it as it is bright."""
    _, h, w = picture.shape
    middle = picture[:, h // 3: 2 * h // 3, w // 3: 2 * w // 3]
    return [Hand((0.2 * w, 0.2 * h, 0.8 * w, 0.8 * h), float(middle.mean()))]


def paint(quality):
    """A sampler that makes hands flat, and as bright as their seed's quality."""
    def draw(crops):
        draw.crops += crops
        return [torch.where(one.mask > 0, quality(one.seed), one.picture) for one in crops]
    draw.crops = []
    return draw


def luck(seed):
    return float(torch.rand((), generator=torch.Generator().manual_seed(seed)))


def test_what_is_worse_is_never_pasted(caplog):
    pictures = noisy(2)
    with caplog.at_level(logging.INFO, "tweedie"):
        done = repair(pictures, [TWO, ONE], paint(lambda seed: 0.0), find, SETTINGS, LIMITS)
    assert torch.equal(done.pictures, pictures) and not done.changed.any()
    assert [record.kept for record in done.records] == [None] * 3
    assert all(one.score < record.before.score for record in done.records for one in record.tries)
    assert "the original stays" in done.report and len(caplog.records) == 3


def test_what_is_better_is_pasted_and_nothing_else_changes():
    pictures = noisy(2)
    done = repair(pictures, [TWO, ONE], paint(lambda seed: 0.9), find, SETTINGS, LIMITS)
    changed = done.changed > 0
    assert all(record.kept == 0 for record in done.records)
    assert changed[0, 48, 40] and changed[0, 60, 150] and changed[1, 48, 40] and not changed[1, 60, 150]
    for before, after, mask in zip(pictures, done.pictures, changed, strict=True):
        assert torch.equal(before[:, ~mask], after[:, ~mask])
        assert not torch.equal(before[:, mask], after[:, mask])


def test_a_try_must_win_by_the_margin():
    pictures = noisy()
    for margin, kept in ((0.0, 0), (1.0, None)):
        [record] = repair(pictures, [ONE], paint(lambda seed: 0.9), find, SETTINGS._replace(margin=margin),
                          LIMITS).records
        assert record.kept == kept
    same = repair(pictures, [ONE], lambda crops: [one.picture for one in crops], find,
                  SETTINGS._replace(margin=0.0), LIMITS)
    assert torch.equal(same.pictures, pictures)  # equal is not better


def test_a_try_that_is_probably_bad_is_not_pasted_however_bad_the_original_is():
    settings = SETTINGS._replace(margin=0.0)
    [record] = repair(noisy(), [ONE], paint(lambda seed: 0.45), find, settings, LIMITS).records
    assert record.kept is None and record.before.score < max(one.score for one in record.tries) < 0.5


def test_more_tries_are_never_worse_and_keep_those_before():
    pictures, reached, seeds = noisy(), [], []
    for count in range(1, 7):
        draw = paint(luck)
        settings = SETTINGS._replace(candidates=count, margin=0.0, least=0.0)
        [record] = repair(pictures, [ONE], draw, find, settings, LIMITS, seed=11).records
        scores = [record.before.score, *(one.score for one in record.tries)]
        reached.append(record.before.score if record.kept is None else record.tries[record.kept].score)
        assert reached[-1] == max(scores)
        seeds.append([one.seed for one in draw.crops])
    assert reached == sorted(reached) and reached[-1] > reached[0]
    assert all(more[:-1] == fewer for fewer, more in itertools.pairwise(seeds))


def test_good_hands_are_not_even_drawn():
    bright = noisy() + 0.6
    draw = paint(lambda seed: 1.0)
    done = repair(bright, [TWO], draw, find, SETTINGS._replace(gate=0.2), LIMITS)
    assert not draw.crops and torch.equal(done.pictures, bright) and "good, not touched" in done.report
    assert "fingers not counted" in done.report


def test_a_good_hand_that_shares_a_crop_is_left_out_of_the_mask():
    pictures = noisy()
    near = (Hand((20.0, 30.0, 60.0, 66.0)), Hand((70.0, 30.0, 110.0, 66.0)))

    def both(picture):
        _, h, w = picture.shape
        return [Hand((left * w, 0.2 * h, (left + 0.4) * w, 0.8 * h), sure)
                for left, sure in ((0.05, 0.0), (0.55, 1.0))]
    draw = paint(lambda seed: 0.9)
    [record] = repair(pictures, [near], draw, both, SETTINGS._replace(gate=0.5), LIMITS).records
    assert record.job.hands == (0, 1) and record.hands == (0,)
    w = draw.crops[0].mask.shape[1]
    assert draw.crops[0].mask[:, : w // 3].max() == 1 and draw.crops[0].mask[:, -w // 4:].max() == 0


def test_no_hands_pass_with_one_line(caplog):
    pictures = noisy()
    with caplog.at_level(logging.INFO, "tweedie"):
        done = repair(pictures, [()], paint(lambda seed: 1.0), find, SETTINGS, LIMITS)
    assert torch.equal(done.pictures, pictures) and done.report == "no hands"
    assert len(caplog.records) == 1 and strip(done.records).shape == (3, 264, 512)


def test_tries_that_are_not_finite_are_dropped(caplog):
    pictures = noisy()
    broken = paint(lambda seed: float("nan") if seed % MOST != 1 else 0.9)
    [record] = repair(pictures, [ONE], broken, find, SETTINGS, LIMITS).records
    assert record.kept == 1 and [one.score for one in record.tries][::2] == [0, 0]
    assert "NaN" in caplog.text


def test_a_failing_sampler_leaves_the_pictures_alone():
    pictures = noisy()
    before = pictures.clone()

    def fail(crops):
        raise RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        repair(pictures, [ONE], fail, find, SETTINGS, LIMITS)
    assert torch.equal(pictures, before)


def test_hands_and_pictures_of_a_batch_come_out_as_alone():
    pictures = noisy(2)
    both = repair(pictures, [TWO, ONE], paint(luck), find, SETTINGS, LIMITS, seed=5)
    for index, hands in enumerate((TWO, ONE)):
        alone = repair(pictures[index:index + 1], [hands], paint(luck), find, SETTINGS, LIMITS, seed=5)
        assert torch.equal(alone.pictures[0], both.pictures[index])


def test_batches_hold_crops_of_one_kind():
    class One:
        def __init__(self, side, depth=None):
            self.picture, self.depth = torch.zeros(3, side, side), depth
    crops = [One(64), One(64), One(128), One(64), One(64, torch.zeros(64, 64))]
    assert batches(crops, 2) == [[0, 1], [3], [2], [4]]


def test_the_strip_shows_a_row_a_crop():
    done = repair(noisy(2), [TWO, ONE], paint(lambda seed: 0.9), find, SETTINGS, LIMITS)
    assert strip(done.records).shape == (3, 3 * 264, 5 * 256)


@pytest.mark.parametrize(("pictures", "hands", "said"), [
    (torch.zeros(1, 1, 8, 8), [()], "colour pictures"), (torch.zeros(3, 8, 8), [()], "colour pictures"),
    (torch.full((1, 3, 8, 8), torch.nan), [()], "finite"),
    (torch.zeros(2, 3, 8, 8), [()], "1 pictures for 2")])
def test_bad_pictures_are_named(pictures, hands, said):
    with pytest.raises(ValueError, match=said):
        repair(pictures, hands, paint(luck), find, SETTINGS, LIMITS)


def test_a_sketch_draws_boxes_masks_and_joints_over_a_picture_that_is_large_enough():
    grey = torch.full((3, 100, 200), 0.5)
    mask = torch.zeros(100, 200, dtype=torch.bool)
    mask[10:20, 150:190] = True
    joints = torch.tensor([40.0, 60.0]) + torch.randn(21, 2, generator=torch.Generator().manual_seed(0)) * 5
    masked = Hand((150.0, 10.0, 190.0, 20.0), mask=mask)
    drawn = sketch(grey, [Hand((20.0, 30.0, 60.0, 90.0), joints=joints), masked])
    assert drawn.shape == (3, 400, 800) and torch.equal(sketch(grey, [])[:, ::4, ::4], grey)
    changed = (drawn != 0.5).any(0)[::4, ::4]
    assert changed[30, 20:60].all() and changed[40:80, 30:50].any() and changed[15, 151:189].all()
    assert not changed[:, 70:140].any()
    assert torch.equal(mask_of([masked], (100, 200)) > 0, mask)


@pytest.mark.parametrize(("right", "kept"), [(70.0, 0), (98.0, None)], ids=["a bit", "a hand"])
def test_only_a_small_bit_may_vanish(right, kept):
    """A stray bit that no try shows again does not stand in the way; a hand that gets lost does."""
    hands = (*ONE, Hand((62.0, 30.0, right, 30.0 + right - 62), 0.0))

    def left(picture):
        [hand] = find(picture)
        _, h, w = picture.shape
        return [hand._replace(box=(0.1 * w, 0.2 * h, 0.45 * w, 0.8 * h))]
    [record] = repair(noisy(), [hands], paint(lambda seed: 0.9), left, SETTINGS, LIMITS).records
    assert record.hands == (0, 1) and record.kept == kept


def test_a_worse_count_of_digits_is_not_pasted():
    nothing = torch.zeros(3, 8, 8)
    before, settings = Try(nothing, 0.1, 1.0), Settings()
    assert choose(before, [Try(nothing, 0.9, 0.06), Try(nothing, 0.7, 1.0)], settings) == 1
    assert choose(before, [Try(nothing, 0.9, 0.06)], settings) is None
    assert choose(before._replace(digits=0.06), [Try(nothing, 0.9, 0.06)], settings) == 0
