"""Every finger gets its cells or the job says why not, and no window ever leaves the picture."""
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tweedie_pack.controls.hands.crop import CLOSEST, FINGER, LIMITS, Limits, cut, cut_mask, finger, plan
from tweedie_pack.controls.hands.found import Hand
from tweedie_pack.controls.hands.windows import STRETCH, meeting

PICTURE = (1024, 1536)
ONE = (600.0, 400.0, 680.0, 500.0)  # 100 pixels long
FAMILIES = st.sampled_from(sorted(LIMITS))


def hand(box=ONE, **what):
    return Hand(tuple(map(float, box)), **what)


def straight(length):
    """21 joints of which the middle finger's way from the wrist is `length` pixels."""
    joints = torch.zeros(21, 2)
    joints[9:13, 1] = torch.tensor([0.5, 0.7, 0.85, 1.0]) * length
    return joints


@st.composite
def scenes(draw):
    """A picture's size, tiny to huge, and hands in it: of a pixel, cut by the frame, meeting."""
    size = draw(st.tuples(*[st.one_of(st.integers(1, 90), st.integers(64, 6000))] * 2))
    boxes = []
    for _ in range(draw(st.integers(1, 4))):
        ends = [sorted(draw(st.tuples(*[st.floats(0, side, width=32)] * 2))) for side in size]
        boxes.append((ends[1][0], ends[0][0], ends[1][1], ends[0][1]))
    return size, [hand(box) for box in boxes]


@settings(max_examples=300, deadline=None)
@given(scenes(), FAMILIES, st.floats(1, 16), st.floats(1, 4))
@example(((1, 1), [hand((0, 0, 1, 1))]), "dit", 6.0, 1.6)
@example(((300, 500), [hand((5, 5, 495, 295))]), "sdxl", 6.0, 1.6)  # fills its picture
@example(((20, 1000), [hand((490, 1, 510, 19))]), "sd1", 6.0, 4.0)
@example(((768, 768), [hand((0, 0, 60, 90)), hand((700, 650, 768, 768))]), "sdxl", 6.0, 1.6)  # at the frame
def test_windows_lie_inside_sizes_are_legal_and_cells_reached_or_explained(scene, family, cells, context):
    (rows, columns), hands = scene
    limits = LIMITS[family]
    jobs = plan(hands, (rows, columns), cells, context, limits)
    assert sorted(index for job in jobs for index in job.hands) == list(range(len(hands)))
    for job in jobs:
        (x0, y0, x1, y1), (h, w) = job.window, job.size
        assert all(type(value) is int for value in (*job.window, *job.size))
        assert 0 <= x0 < x1 <= columns and 0 <= y0 < y1 <= rows
        assert h % limits.multiple == w % limits.multiple == 0
        assert max(h, w) <= limits.high and min(h, w) > 0
        if min(h, w) < limits.low:  # narrower than low is to high: as long as may be
            assert max(h, w) > limits.high - limits.multiple
            assert (max(x1 - x0, y1 - y0) + 1) / min(x1 - x0, y1 - y0) > 0.9 * limits.high / limits.low
        if min(rows, columns) >= 64:
            assert abs(w / h * (y1 - y0) / (x1 - x0) - 1) <= STRETCH + 1e-9
        scale = min(w / (x1 - x0), h / (y1 - y0))
        smallest = min(max(hands[index].long, 1) for index in job.hands)
        assert job.cells == pytest.approx(FINGER * smallest * scale / limits.token)
        assert job.cells >= cells * (1 - 1e-5) or f"{job.cells:.1f} cells a finger instead of" in job.note
        assert min(context, CLOSEST) <= job.context <= context
        assert (job.context < context) == ("context" in job.note)


@settings(max_examples=200, deadline=None)
@given(scenes(), FAMILIES)
def test_a_window_holds_its_hands_unless_the_note_says_otherwise(scene, family):
    size, hands = scene
    for job in plan(hands, size, limits=LIMITS[family]):
        x0, y0, x1, y1 = job.window
        for left, top, right, bottom in (hands[index].box for index in job.hands):
            held = x0 <= left + 1e-5 and y0 <= top + 1e-5 and right - 1e-5 <= x1 and bottom - 1e-5 <= y1
            assert held or "left out" in job.note or min(size) < 64


@pytest.mark.parametrize(("family", "cells", "context", "size", "reached", "used"), [
    ("sdxl", 6, 1.6, 832, 6.175, 1.6),  # T = 808
    ("sdxl", 6, 2.0, 1024, 6.08, 2.0),  # 1011
    ("sdxl", 3, 1.6, 768, 5.7, 1.6),  # 404, and low is 768
    ("sd1", 6, 1.6, 768, 6.0, 1.52),  # 808: the context gives way
    ("sd1", 8, 1.6, 768, 6.756, 1.35),  # then the cells
    ("dit", 6, 1.6, 1536, 6.0, 1.52),  # 1617
    ("dit", 5.7, 1.6, 1536, 5.7, 1.6),  # what the cap leaves of 6 where the context stays
    ("dit", 16, 1.6, 1536, 6.756, 1.35),
    ("dit", 2, 1.2, 768, 3.8, 1.2),  # a closer context than the floor is the user's
])
def test_the_rule_by_hand(family, cells, context, size, reached, used):
    job, = plan([hand()], PICTURE, cells, context, LIMITS[family])
    assert job.size == (size, size)
    assert (job.cells, job.context) == (pytest.approx(reached, rel=1e-3), pytest.approx(used))
    x0, y0, x1, y1 = job.window
    assert x1 - x0 == y1 - y0 == round(100 * used)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((640, 450), abs=0.5)


def test_less_than_asked_is_said():
    assert plan([hand()], PICTURE)[0].note == ""
    job, = plan([hand()], PICTURE, 8, 1.6, LIMITS["sd1"])
    few, = plan([hand()], PICTURE, 6, 1.6, Limits(256, 384, 64, 8))
    assert job.note == ("6.8 cells a finger instead of 8; context 1.35 instead of 1.6; "
                        "the model takes crops of up to 768 pixels")
    assert few.note.startswith("3.4 cells a finger instead of 6, below the 4 that fingers need; ")


def test_hands_whose_masks_could_meet_share_a_crop_directly_or_through_others():
    def at(*lefts):
        return [hand((left, 400, left + 80, 500)) for left in lefts]
    assert [job.hands for job in plan(at(100, 500), PICTURE)] == [(0,), (1,)]
    assert [job.hands for job in plan(at(100, 211), PICTURE)] == [(0,), (1,)]  # windows meet, masks don't
    assert [job.hands for job in plan(at(100, 209), PICTURE)] == [(0, 1)]
    assert [job.hands for job in plan(at(100, 900, 280, 190), PICTURE)] == [(0, 2, 3), (1,)]
    shared, = plan(at(100, 200), PICTURE)
    assert shared.window[0] <= 60 and shared.window[2] >= 320 and shared.window[3] - shared.window[1] >= 160
    small, = plan([hand(), hand((690, 400, 730, 450))], PICTURE)
    assert small.cells == pytest.approx(FINGER * 50 * small.size[0] / (small.window[3] - small.window[1]) / 8,
                                        rel=STRETCH)


def test_groups_do_not_depend_on_the_order_of_hands():
    chain = [(0, 0, 10, 10), (9, 0, 19, 10), (18, 0, 28, 10), (40, 0, 50, 10)]
    assert meeting(chain) == [(0, 1, 2), (3,)]
    assert meeting([chain[index] for index in (0, 2, 3, 1)]) == [(0, 1, 3), (2,)]
    assert meeting([(0, 0, 5, 5), (5, 0, 9, 5)]) == [(0,), (1,)]  # they only touch
    assert meeting([]) == []


def test_a_mask_beyond_the_box_moves_the_window():
    mask = torch.zeros(PICTURE, dtype=torch.bool)
    mask[400:500, 600:760] = True
    job, = plan([hand(mask=mask)], PICTURE)
    assert job.window == (552, 322, 808, 578)  # 1.6 of the mask's 160 pixels; a finger is still the box's
    assert job.size == (1344, 1344) and job.cells == pytest.approx(FINGER * 100 * 1344 / 256 / 8)
    assert plan([hand(mask=~mask & mask)], PICTURE) == plan([hand()], PICTURE)


def test_joints_tell_a_curled_hand_and_a_narrow_box_does_not():
    assert finger(hand()) == pytest.approx(9.5)
    assert finger(hand((600, 400, 630, 500))) == pytest.approx(9.5)
    assert finger(hand(joints=straight(150))) == pytest.approx(0.095 * 150)
    assert finger(hand(joints=straight(60))) == pytest.approx(9.5)
    assert finger(hand(joints=straight(900))) == pytest.approx(19)
    assert finger(hand(joints=straight(150), sure=torch.full((21,), 0.4))) == pytest.approx(9.5)
    fist, = plan([hand(joints=straight(150))], PICTURE, 8)
    assert fist.size == (768, 768) and fist.cells == pytest.approx(8.55)  # 1.5 times fewer pixels are enough


@pytest.mark.parametrize(("what", "words"), [
    ({"cells": 0}, "0 cells a finger in a context of 1.6; give"), ({"cells": math.nan}, "nan cells"),
    ({"context": 0.5}, "context of 0.5; give cells above 0 and a context of at least 1"),
    ({"context": math.inf}, "context of inf"),
])
def test_nonsense_is_refused(what, words):
    with pytest.raises(ValueError, match=words):
        plan([hand()], PICTURE, **what)
    with pytest.raises(ValueError, match="a box is .*nan.*; give its corners"):
        plan([hand((0, math.nan, 1, 1))], PICTURE)


def test_no_hands_no_jobs():
    assert plan([], PICTURE) == []


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bool])
def test_a_crop_of_the_same_size_is_the_picture_bit_for_bit(kind):
    job = plan([hand()], PICTURE)[0]._replace(window=(7, 5, 71, 37), size=(32, 64))
    picture = torch.rand(3, 40, 80, generator=torch.Generator().manual_seed(0))
    picture = (1.2 * picture - 0.1).round(decimals=1).to(kind)
    assert torch.equal(cut(picture, job), picture[:, 5:37, 7:71].float())
    assert torch.equal(cut_mask(picture[0], job), picture[0, 5:37, 7:71].float())


def test_a_crop_lies_where_its_window_does_and_overshoots_nothing():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(80.0), indexing="ij")
    ramp = torch.stack([x / 80, y / 40, (x + y) / 120])
    for size in ((128, 256), (16, 32)):
        job = plan([hand()], PICTURE)[0]._replace(window=(8, 4, 72, 36), size=size)
        centre = [(torch.arange(side) + 0.5) * 32 / size[0] - 0.5 for side in size]  # in pixels of the window
        found, inner = cut(ramp, job), slice(size[0] // 8, -size[0] // 8)
        torch.testing.assert_close(found[0][0, inner], (8 + centre[1][inner]) / 80, atol=1e-5, rtol=0)
        torch.testing.assert_close(found[1][inner, 0], (4 + centre[0][inner]) / 40, atol=1e-5, rtol=0)
        steps = (x > 40).float()
        assert cut(steps[None], job).min() >= 0 and cut(steps[None], job).max() <= 1
        mask = cut_mask(steps > 0.5, job)
        assert mask.min() == 0 and mask.max() == 1 and bool((mask[0].diff() >= 0).all())


@pytest.mark.parametrize(("side", "size"), [(300, 832), (700, 1152), (900, 832)])
def test_a_large_hand_keeps_its_pixels_where_the_model_can(side, size):
    """At context 1.6 its window has 1120 pixels; of 1440 the model can't draw as many."""
    [job] = plan([Hand((1000.0, 1000.0, 1000.0 + side, 1000.0 + side))], (3000, 3000))
    assert job.size == (size, size) and not job.note
