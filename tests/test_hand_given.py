"""Hands that a host brings: pieces of a mask, boxes, OpenPose's keypoints; and whatever else it may bring."""
import math

import numpy as np
import pytest
import torch
from tweedie_pack.controls.hands.given import from_boxes, from_mask, from_pose_keypoints

SIZE = (200, 300)
STRIPES = (torch.arange(120) % 5 < 4).float()


def skeleton(scale=1.0, shift=(0.0, 0.0)):
    """63 numbers of a hand 40 by 80 pixels large."""
    points = [(10 + 2 * number % 40, 20 + 4 * number, 0.8) for number in range(21)]
    return [value for x, y, sure in points for value in (x * scale + shift[0], y * scale + shift[1], sure)]


def frame(people, width=300, height=200):
    return {"canvas_width": width, "canvas_height": height, "people": people}


def test_each_piece_of_a_mask_is_a_hand_and_specks_are_none():
    mask = torch.zeros(1, *SIZE)
    mask[0, 10:40, 20:60] = 1
    mask[0, 40:50, 60:70] = 0.6  # meets the first at a corner
    mask[0, 100:160, 200:300] = 0.9
    mask[0, 190:192, 5:9] = 1
    mask[0, 60:90, 100:150] = 0.4
    hands = from_mask(mask)
    assert [hand.box for hand in hands] == [(20, 10, 70, 50), (200, 100, 300, 160)]
    assert torch.equal(hands[1].mask, (mask[0] > 0.5) & (torch.arange(300) > 100))
    assert hands[0].mask.sum() == 30 * 40 + 100 and hands[0].joints is None and from_mask(mask * 0.4) == []


@pytest.mark.parametrize(("mask", "said"), [
    (torch.zeros(3, 8, 8), "shape"), (torch.full((8, 8), math.nan), "NaN"), (torch.zeros(0, 8), "shape"),
    (torch.outer(STRIPES, STRIPES), "576 pieces")])
def test_a_mask_that_is_none_is_one_clear_error(mask, said):
    with pytest.raises(ValueError, match=f"Hand mask: .*{said}"):
        from_mask(mask)


@pytest.mark.parametrize("boxes", [
    {"x": 10, "y": 20, "width": 30, "height": 40}, [{"x": 10, "y": 20, "width": 30.0, "height": 40}],
    [[{"x": 10, "y": 20, "width": 30, "height": 40}]], [(10, 20, 40, 60)], [[10, 20, 40, 60]],
    torch.tensor([[10.0, 20, 40, 60]]), np.array([[10, 20, 40, 60]])])
def test_boxes_come_in_many_forms(boxes):
    hand, = from_boxes(boxes, SIZE)
    assert hand.box == (10, 20, 40, 60) and hand.confidence == 1 and hand.mask is None


def test_boxes_keep_score_and_label_are_cut_and_belong_to_a_picture():
    box = {"x": -10, "y": 150, "width": 400, "height": 100, "score": 0.7, "label": "left hand"}
    hand, = from_boxes([box], SIZE)
    assert hand.box == (0, 150, 300, 200) and (hand.confidence, hand.label) == (0.7, "left hand")
    frames = [[], [box], [box, box]]
    assert [len(from_boxes(frames, SIZE, number)) for number in range(3)] == [0, 1, 2]
    assert len(from_boxes([[box]], SIZE, 7)) == 1 and from_boxes([], SIZE) == []
    with pytest.raises(ValueError, match="3 frames, and none for picture 4"):
        from_boxes(frames, SIZE, 3)


@pytest.mark.parametrize("boxes", [
    None, "abcd", 7, ["abcd"], [None], [[1, 2, 3]], [{"x": 1}], [{"x": "1", "y": 2, "width": 3, "height": 4}],
    [{"x": math.nan, "y": 2, "width": 3, "height": 4}], [{"x": True, "y": 2, "width": 3, "height": 4}],
    [(0, 0, math.inf, 5)], [{"x": 5, "y": 5, "width": 0, "height": 4}], [(50, 50, 10, 60)],
    [{"x": 500, "y": 5, "width": 10, "height": 4}], [(1, 2, 3, 4)] * 101, [[[[1]]]], torch.zeros(2, 3),
    [{"x": 10 ** 400, "y": 0, "width": 1, "height": 1}]])
def test_boxes_that_are_none_are_one_clear_error(boxes):
    with pytest.raises(ValueError, match="^Hand boxes: .*; give "):
        from_boxes(boxes, SIZE)


@pytest.mark.parametrize(("person", "canvas"), [
    (skeleton(), (300, 200)), (skeleton(2), (600, 400)), (np.array(skeleton()), (300, 200)),
    ([value / (1 if number % 3 == 2 else (300, 200)[number % 3]) for number, value in enumerate(skeleton())],
     (300, 200))])
def test_keypoints_are_pixels_of_the_canvas_or_shares_of_it(person, canvas):
    person = {"pose_keypoints_2d": [], "hand_left_keypoints_2d": person, "hand_right_keypoints_2d": None}
    hand, = from_pose_keypoints([frame([person], *canvas)], SIZE)
    expected = torch.tensor(skeleton()).reshape(21, 3)
    torch.testing.assert_close(hand.joints, expected[:, :2])
    assert hand.side == -1 and hand.label == "hand" and hand.confidence == pytest.approx(0.8)
    low, high = expected[:, :2].amin(0), expected[:, :2].amax(0)
    assert hand.box == pytest.approx((*(low - 8).tolist(), *(high + 8).tolist()))


def test_joints_that_were_not_seen_are_marked_and_hands_of_none_left_out():
    partly = torch.tensor(skeleton()).reshape(21, 3)
    partly[5:9, :2], partly[12, 2] = 0, 0
    few = torch.zeros(21, 3)
    few[:3] = 50
    people = [{"hand_right_keypoints_2d": partly.flatten().tolist(), "hand_left_keypoints_2d": [0] * 63},
              {"hand_right_keypoints_2d": few.flatten().tolist(), "hand_left_keypoints_2d": []},
              {"hand_right_keypoints_2d": skeleton(1, (900, 900))}, {}]
    hand, = from_pose_keypoints(frame(people), SIZE)
    assert hand.side == 1 and hand.sure.nonzero().flatten().tolist() == [*range(5), 9, 10, 11, *range(13, 21)]
    inside = (hand.joints >= torch.tensor(hand.box[:2])) & (hand.joints <= torch.tensor(hand.box[2:]))
    assert inside.all() and from_pose_keypoints([frame([])], SIZE) == []
    two = [frame([]), frame(people[:1])]
    assert [len(from_pose_keypoints(two, SIZE, number)) for number in (0, 1)] == [0, 1]


@pytest.mark.parametrize("keypoints", [
    None, [], "pose", 3, [None], [[]], [{}], [{"people": None}], [{"people": [3]}], [frame([{}] * 101)],
    [frame([{"hand_left_keypoints_2d": [1.0] * 62}])], [frame([{"hand_left_keypoints_2d": "x" * 63}])],
    [frame([{"hand_left_keypoints_2d": [math.nan] * 63}])], [frame([{"hand_left_keypoints_2d": 5}])],
    [frame([{"hand_left_keypoints_2d": {"a": 1}}])], [frame([{"hand_left_keypoints_2d": [[1] * 3] * 63}])],
    *[[frame([{"hand_left_keypoints_2d": skeleton()}], width)] for width in (None, 0, "300")],
    [frame([{"hand_left_keypoints_2d": [1e300] * 63}])]])
def test_keypoints_that_are_none_are_one_clear_error(keypoints):
    with pytest.raises(ValueError, match="^Pose keypoints: .*; give "):
        from_pose_keypoints(keypoints, SIZE)
