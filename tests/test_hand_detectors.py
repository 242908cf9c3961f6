"""Detectors of hands: nothing is found twice, or lost at a tile's edge."""
import math
import pathlib
import subprocess
import sys

import pytest
import torch
from scipy import ndimage
from tweedie_pack.controls.hands.detectors import (
    DETECTORS,
    ORDERS,
    detect,
    is_cut,
    open_detector,
    tiles,
    with_joints,
)
from tweedie_pack.controls.hands.found import Hand
from tweedie_pack.controls.hands.merge import clamp_box, first_of_each, overlaps, suppress
from tweedie_pack.controls.hands.yolo_detector import open_yolo


class Blobs:
    """A detector that sees bright blobs, but none that its input shows smaller than 12 pixels."""

    size, names = 200, ("hand",)

    def __init__(self):
        self.looks = []

    def __call__(self, picture, confidence):
        self.looks.append(tuple(picture.shape[1:]))
        shown = min(self.size / max(picture.shape[1:]), 1)
        pieces, _ = ndimage.label(picture[0].numpy() > 0.5)
        hands = []
        for number, (rows, columns) in enumerate(ndimage.find_objects(pieces), 1):
            box = tuple(map(float, (columns.start, rows.start, columns.stop, rows.stop)))
            if max(box[2] - box[0], box[3] - box[1]) * shown >= 12:
                sure = float(picture[0][rows, columns].max())
                hands.append(Hand(box, sure, torch.tensor([box[:2]] * 21), torch.ones(21),
                                  mask=torch.from_numpy(pieces == number)))
        return hands


def scene(size, *boxes):
    """Bright boxes (x0, y0, x1, y1), each of another brightness, on black."""
    picture = torch.zeros(3, *size)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        picture[:, y0:y1, x0:x1] = 0.9 - 0.05 * number
    return picture


def boxes_of(hands):
    return [hand.box for hand in hands]


def hand(*box, sure=0.9):
    return Hand(tuple(map(float, box)), sure)


def test_overlap_is_shared_area_over_both_and_over_the_smaller():
    one = torch.tensor([[0.0, 0, 10, 10]])
    other = torch.tensor([[5.0, 0, 15, 10], [2, 2, 4, 4], [20, 20, 30, 30]])
    over, inside = overlaps(one, other)
    torch.testing.assert_close(over, torch.tensor([[1 / 3, 0.04, 0]]))
    torch.testing.assert_close(inside, torch.tensor([[0.5, 1, 0]]))


def test_suppression_is_greedy_by_score_within_a_class():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(80, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + 30 * torch.rand(80, 2, generator=generator)], 1)
    scores, classes = torch.rand(80, generator=generator), torch.randint(2, (80,), generator=generator)
    over, kept = overlaps(boxes, boxes)[0], []
    for number in scores.argsort(descending=True).tolist():
        if all(over[number, one] <= 0.3 or classes[number] != classes[one] for one in kept):
            kept.append(number)
    assert suppress(boxes, scores, classes, 0.3).tolist() == kept and 5 < len(kept) < 80


@pytest.mark.parametrize(("other", "count"), [
    ((4, 3, 103, 104), 1),  # the same hand, a little off
    ((0, 0, 70, 60), 1),  # most of it, within
    ((35, 10, 135, 110), 2),  # two hands of one size, crossed
    ((10, 10, 40, 45), 2),  # a far smaller hand before it
    ((100, 0, 200, 100), 2)])  # side by side
def test_boxes_of_one_hand_merge_and_those_of_two_do_not(other, count):
    hands = [hand(0, 0, 100, 100, sure=0.6), hand(*other, sure=0.8)]
    assert sorted(first_of_each(hands)) == ([0, 1] if count == 2 else [1])


def test_small_hands_of_a_large_picture_are_found_once_in_tiles():
    small, large = (420, 500, 460, 542), (40, 60, 400, 460)  # the small one lies on two tiles
    look = Blobs()
    hands = detect(look, scene((700, 1000), large, small))
    assert boxes_of(hands) == [large, small]
    assert [one.mask.shape for one in hands] == [(700, 1000)] * 2
    assert hands[1].mask[500:542, 420:460].all() and hands[1].mask.sum() == 40 * 42
    assert hands[1].joints[0].tolist() == [420, 500]
    assert boxes_of(detect(look, scene((700, 1000), large, small), tile=False)) == [large]


def test_tiles_cover_overlap_and_are_few():
    for size, side in (((700, 1000), 200), ((8192, 8192), 640), ((300, 5000), 640), ((641, 100), 640)):
        windows = tiles(size, side)
        covered = torch.zeros(size, dtype=torch.int32)
        for x0, y0, x1, y1 in windows:
            assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]
            assert max(x1 - x0, y1 - y0) <= max(side, math.ceil(max(size) / 1.8))
            covered[y0:y1, x0:x1] += 1
        assert covered.min() == 1 and len(windows) <= 4
    look = Blobs()
    detect(look, torch.zeros(3, 1500, 1500))
    assert look.looks == [(1500, 1500)] + [(834, 834)] * 4
    look.looks.clear()
    detect(look, torch.zeros(3, 200, 150))
    assert look.looks == [(200, 150)]


def test_a_box_cut_by_a_tile_is_dropped_and_one_cut_by_the_frame_is_kept():
    window, size = (400, 0, 800, 400), (1000, 1000)
    assert is_cut((0, 100, 60, 160), window, size) and is_cut((100, 300, 160, 400), window, size)
    assert not is_cut((100, 0, 160, 60), window, size) and not is_cut((100, 100, 160, 160), window, size)
    edge = (970, 300, 1000, 345)
    assert boxes_of(detect(Blobs(), scene((1000, 1000), edge))) == [edge]
    assert clamp_box((-5, -5, 20, 1200), (1000, 1000)) == (0, 0, 20, 1000)
    assert clamp_box((-9, 3, 0, 9), (1000, 1000)) is None


def test_filters_and_orders():
    boxes = (10, 10, 50, 40), (120, 80, 145, 110), (60, 140, 160, 190)  # certainty falls
    picture = scene((200, 200), *boxes)
    by = {"left to right": [0, 2, 1], "area": [2, 0, 1], "confidence": [0, 1, 2], "centre": [1, 2, 0]}
    assert by.keys() == ORDERS.keys()
    for order, numbers in by.items():
        assert boxes_of(detect(Blobs(), picture, order=order)) == [boxes[number] for number in numbers]
    assert boxes_of(detect(Blobs(), picture, most=2)) == [boxes[0], boxes[1]]
    assert boxes_of(detect(Blobs(), picture, most=1, order="area")) == [boxes[2]]
    assert boxes_of(detect(Blobs(), picture, smallest=0.02, largest=0.04)) == [boxes[0]]
    assert boxes_of(detect(Blobs(), picture, confidence=0.87)) == [boxes[0]]
    assert detect(Blobs(), picture, classes="Han, foot") and detect(Blobs(), torch.zeros(3, 8, 8)) == []


@pytest.mark.parametrize(("picture", "knobs", "said"), [
    (torch.zeros(1, 3, 8, 8), {}, r"the picture is \[1, 3, 8, 8\]"),
    (torch.zeros(3, 8, 8).byte(), {}, "torch.uint8"), (torch.full((3, 8, 8), math.nan), {}, "NaN"),
    (None, {"confidence": 1.5}, "confidence is 1.5"), (None, {"confidence": math.nan}, "confidence is nan"),
    (None, {"smallest": 0.5, "largest": 0.1}, "swap them"), (None, {"most": -1}, "most is -1"),
    (None, {"order": "size"}, "order is 'size'"), (None, {"classes": "foot"}, "knows hand")])
def test_bad_values_are_one_clear_error(picture, knobs, said):
    with pytest.raises(ValueError, match=said):
        detect(Blobs(), torch.zeros(3, 8, 8) if picture is None else picture, **knobs)


def test_a_detector_that_is_missing_says_so(tmp_path):
    assert list(DETECTORS) == ["own", "yolo", "mediapipe"]
    for kind, path, said in (("hog", None, "choose one of own"), ("yolo", None, "no model file"),
                             ("yolo", tmp_path / "none.pt", "no file")):
        with pytest.raises(ValueError, match=said):
            open_detector(kind, path)
    for name in ("a.pt", "a.onnx", "a.safetensors"):
        (tmp_path / name).write_bytes(b"no detector")
        with pytest.raises(ValueError, match="a."):
            open_yolo(tmp_path / name)


def test_joints_are_read_only_where_they_are_missing_and_can_be():
    class Reader:
        def inside(self, picture, boxes):
            return [Hand(box, 0.5, torch.ones(21, 2), torch.ones(21), -1) for box in boxes]
    mask = torch.ones(8, 8, dtype=torch.bool)
    bare = hand(0, 0, 4, 4)._replace(mask=mask, side=1)
    read = hand(2, 2, 6, 6)._replace(joints=torch.zeros(21, 2))
    first, second = with_joints([bare, read], Reader(), torch.zeros(3, 8, 8))
    assert first.joints.sum() == 42 and (first.side, first.confidence) == (1, 0.9) and first.mask is mask
    assert second is read and with_joints([bare, read], Blobs(), torch.zeros(3, 8, 8)) == [bare, read]


def test_detectors_load_no_library_before_they_are_opened():
    code = ("import sys; sys.path.insert(0, 'tests'); import conftest; "
            "import tweedie_pack.controls.hands.detectors, tweedie_pack.controls.hands.given, "
            "tweedie_pack.controls.hands.mediapipe_hands, tweedie_pack.controls.hands.yolo_detector; "
            "bad = {'cv2', 'ultralytics', 'mediapipe', 'onnxruntime', 'scipy'} & set(sys.modules); "
            "sys.exit(', '.join(bad) or 0)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=pathlib.Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
